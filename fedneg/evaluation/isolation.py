"""Whether what a purge leaves still gives a forgotten contribution back, by arithmetic.

The seed gives the initial parameters w_0 to anybody, and a checkpoint holds the global
parameters w and the rows C_j of those who stay. What is left of them,

    D = w - w_0 - sum of C_j,

is what a method changed beyond zeroing the row C of who left (the ledger's
`correction`). If a method subtracts C and nothing else, D is rounding. If it subtracts
half of it, D is the other half, for whoever can subtract; if it does nothing, D is C.

What is measured is the cosine between C and its least-squares fit by everything that is
left: D, w_0, w, the C_j, momentum rows, a bank's sums. Where a method treats parts of
the model on their own (a neuron, an array), D is scaled part by part as fits best,
since the parts may hold other shares of C. The fit knows C, and whoever looks for it
does not: it is what they can get at most by sums of multiples, and no bound on other
means.

Clients with like data have like contributions: the C_j alone have a cosine too, as they
would after training without the client, and it is nobody's fault. What counts is how
much of C beyond the C_j is told by D: the share of it that D fits (`Left.beyond`).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fedneg.core.parameters import Vector
from fedneg.ledger.ledger import Ledger

Floats = NDArray[np.floating]

# A change beyond rounding leaves a part from this cosine on with what the others do not
# tell: a tenth of its squared length. Chance gives some 1 / sqrt(d).
TELLING = 0.3
# And rounding itself from this one on: a contribution as small as that is not lost.
ISOLATING = 0.9
# float32 has it at most so many units in the last place beside what was computed.
ROUNDING = 2
# In a fit: so many rows of single clients at most, and so many numbers in all.
MOST_ROWS = 64
MOST_NUMBERS = 1 << 24


@dataclass(frozen=True)
class Left:
    """How near arithmetic on what is left comes to a contribution, as cosines.

    Attributes
    ----------
    cosine : float
        Of the fit by everything.
    of_others : float
        Of the fit by what others contributed, and the seed.
    beyond : float
        Between what the others do not tell of it, and the fit of that.
    isolable : bool
        Whether what the method changed gives it back, or a part of it.
    """

    cosine: float
    of_others: float
    beyond: float
    isolable: bool


def fitted(target: Floats, columns: Iterable[Floats]) -> NDArray[np.float64]:
    """Return the sum of multiples of the columns that is nearest to a vector."""
    lengths = [(np.asarray(c, np.float64), np.linalg.norm(c)) for c in columns]
    kept = [column / length for column, length in lengths if length > 0]
    if not kept:
        return np.zeros(target.size)
    matrix = np.stack(kept, axis=1)
    wanted = np.asarray(target, np.float64)
    found: NDArray[np.float64] = (
        matrix @ np.linalg.lstsq(matrix, wanted, rcond=1e-10)[0]
    )
    return found


def cosine(one: Floats, other: Floats) -> float:
    """Return the absolute cosine of the angle between two vectors; 0 if one is 0."""
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return abs(float(one @ other)) / lengths if lengths else 0.0


def isolation(
    contribution: Floats,
    change: Floats,
    others: Sequence[Floats],
    *,
    size: Floats,
    parts: NDArray[np.intp] | None = None,
) -> Left:
    """Return how near to a contribution what is left of it comes.

    Parameters
    ----------
    contribution : shape (d,)
        C of the module docstring.
    change : shape (d,)
        D. With it and `others`, w is known.
    others : sequence of shape (d,)
        What else is left; w_0 and the sum of all C_j first.
    size : shape (d,)
        The largest numbers that D was computed from: they say what rounding is.
    parts : int array, shape (d,), optional
        The part of the model, 0, 1, .., that each parameter is in; None: all in one.
    """
    if not contribution.any():
        return Left(0.0, 0.0, 0.0, isolable=False)
    told = cosine(contribution, fitted(contribution, others))
    beyond = np.abs(change) > ROUNDING * np.spacing(np.abs(size).astype(np.float32))
    if not beyond.any():
        found = cosine(contribution, change)
        return Left(max(found, told), told, found, isolable=found >= ISOLATING)
    left = np.where(beyond, change, 0).astype(np.float64)
    scaled = _scaled(contribution, left, others[:2], parts)
    total = cosine(contribution, fitted(contribution, [scaled, left, *others]))
    # Of orthogonal projections, one within the other.
    share = (total**2 - told**2) / (1 - told**2) if told < 1 else 0.0
    more = math.sqrt(max(0.0, share))
    return Left(total, told, more, isolable=more >= TELLING)


def _scaled(
    contribution: Floats,
    left: NDArray[np.float64],
    known: Sequence[Floats],
    parts: NDArray[np.intp] | None,
) -> NDArray[np.float64]:
    """Return what is left, in each part as near to the contribution as it comes."""
    found = np.zeros_like(left)
    if parts is None:
        parts = np.zeros(left.size, np.intp)
    order = np.argsort(parts, kind="stable")
    edges = np.flatnonzero(np.diff(parts[order])) + 1
    for start, stop in pairwise([0, *edges.tolist(), left.size]):
        part = order[start:stop]
        if left[part].any():
            # What has few numbers would be fitted by anything.
            columns = [left, *known] if part.size >= 16 else [left]
            found[part] = fitted(contribution[part], [c[part] for c in columns])
    return found


def left_of(
    contributions: Sequence[Floats],
    ledger: Ledger,
    *,
    seed: Vector,
    before: Vector,
    after: Vector,
    starts_over: bool,
    parts: NDArray[np.intp] | None = None,
) -> list[Left]:
    """Return `isolation` of each contribution, right after they were forgotten.

    Parameters
    ----------
    contributions : sequence of shape (d,)
        As they were.
    ledger : Ledger
        After it, with what the method changed still in `correction`.
    seed : Vector
        The initial parameters that the seed gives.
    before, after : Vector
        The global parameters before and after forgetting; of statistics after them
        nothing is read.
    starts_over : bool
        Whether the ledger began anew: then what it began with is what was changed.
    """
    clients = ledger.clients
    singles = np.unique(
        np.linspace(0, clients - 1, min(clients, MOST_ROWS)).astype(int)
    )
    step = -(-seed.size * (len(singles) + 8) // MOST_NUMBERS)
    some = slice(None, None, step)
    change = ledger.correction[some].astype(np.float64)
    if starts_over:
        change += ledger.initial[some].astype(np.float64) - seed[some]
    others = np.zeros_like(change)
    for row in ledger.contributions:
        others += row[some]
    rest: list[Floats] = [seed[some], others]
    rest += [ledger.contributions[k, some] for k in singles]
    if ledger.buffers is not None:
        rest.append(np.sum([row[some] for row in ledger.buffers], axis=0))
    rest += [total[some] for total in ledger.bank.totals()]
    ledger.release()
    before, after = before[: seed.size], after[: seed.size]
    size = np.maximum(np.abs(before[some]), np.abs(after[some]))
    return [
        isolation(
            c[some],
            change,
            rest,
            size=np.maximum(size, np.abs(c[some])),
            parts=None if parts is None else parts[some],
        )
        for c in contributions
    ]
