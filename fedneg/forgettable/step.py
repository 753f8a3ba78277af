"""Whose the server's step is: each client's part of it, or a refusal.

A step is tried against what could have made it: the server's optimiser
(`fedneg.forgettable.moments`) on updates that are weighed by one rule after the other
(`fedneg.forgettable.weighing`), and last with whatever weights come closest. The first
that makes this very step says whose it is. If none does, the strategy is refused: there
is no list of strategies that are not.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from fedneg.core.errors import FedNegError
from fedneg.core.parameters import Vector
from fedneg.forgettable.moments import Server, depends_on_moments, momentum_of
from fedneg.forgettable.names import Names
from fedneg.forgettable.refusals import NotLinearError, refusal
from fedneg.forgettable.replies import Reply
from fedneg.forgettable.weighing import CHOSEN, Replies, Weighing, fixed, rules
from fedneg.ledger.ledger import BLOCK, Ledger

# How far a step may be from what is said to have made it: a share of the step, and what
# rounding leaves of the parameters themselves, in units of their type's epsilon. First
# all are tried with the smaller share.
OF_STEP, OF_EPSILON = (1e-5, 1e-3), 8.0
# Weights are looked for only where there are so many more parameters than replies: with
# fewer, some would always be found.
MORE = 8


@dataclass(frozen=True)
class Round:
    """A round as the strategy had it.

    Attributes
    ----------
    number : int
        For people.
    replies : sequence of Reply
        By node, in the order in which the strategy got them; rows are the ledger's, and
        those of new clients come after the ones that are there.
    before : Vector, shape (d,)
        The global parameters that the clients started from.
    step : float64 array, shape (d,)
        What the strategy added to them.
    """

    number: int
    replies: Sequence[Reply]
    contents: Replies
    before: Vector
    step: NDArray[np.float64]


@dataclass(frozen=True)
class Attributed:
    """A round's step in parts.

    Attributes
    ----------
    parts : dict of int to Vector
        By the ledger's rows: what of the aggregate, or of the server's momentum, is
        whose.
    weights : dict of int to float
        How much of the aggregate was whose: the mean over all parameters.
    gain : float or Vector, shape (d,)
        What the server multiplied it with.
    depends : frozenset of str
        What of the step hung on all clients together, for people.
    """

    parts: dict[int, Vector]
    weights: dict[int, float]
    gain: float | Vector
    depends: frozenset[str] = field(default_factory=frozenset)


def attribute(
    strategy: Strategy, ledger: Ledger, names: Names, found: Round
) -> Attributed:
    """Return each client's part of a step.

    The ledger is only looked at: what is refused has changed nothing in it. The
    updates of the replies are overwritten.

    Raises
    ------
    FedNegError
        If a number is not finite.
    NotLinearError
        If nothing that is known here makes this step.
    """
    size = float(np.linalg.norm(found.step))
    sent = (reply.update for reply in found.replies)
    if not (np.isfinite(size) and all(np.isfinite(one).all() for one in sent)):
        raise FedNegError(
            f"round {found.number} ended in numbers that are not finite: the model "
            "diverged, or a client sent such"
        )
    if not found.replies:
        raise NotLinearError(refusal(strategy, "its replies hold no client's model"))
    server = Server.of(strategy, names)
    tried = list[tuple[float, float, float | Vector, Weighing]]()
    carried = _carried(ledger)
    for share in OF_STEP:
        for off, bound, gain, weighing in tried or _tries(
            strategy, names, server, found, carried, tried
        ):
            if off <= share * size + bound:
                return _parts(strategy, names, server, found, gain, weighing)
    best = min(off for off, *_ in tried)
    by = f"{best / size:.2g}" if size else "inf"
    raise NotLinearError(
        refusal(
            strategy,
            f"its step in round {found.number} is off by {by} of the nearest weighted "
            "sum of its clients' updates",
        )
    )


def _tries(
    strategy: Strategy,
    names: Names,
    server: Server,
    found: Round,
    carried: NDArray[np.float64] | None,
    tried: list[tuple[float, float, float | Vector, Weighing]],
) -> Iterator[tuple[float, float, float | Vector, Weighing]]:
    """Yield how far each weighing is from the step, and keep it."""
    scale = np.maximum(np.abs(server.gain) * server.share, 1)
    sizes = np.linalg.norm(scale * found.before), np.linalg.norm(scale * found.step)
    bound = OF_EPSILON * names.epsilon * float(sum(sizes))
    for weighing in _weighings(strategy, server, found, carried):
        moved = server.share * _aggregate(names, found, weighing)
        if carried is not None:
            moved += carried
        moved *= server.gain
        gain = server.gain
        if isinstance(gain, np.ndarray):
            length = float(moved @ moved)
            factor = float(found.step @ moved) / length if length else 1.0
            moved *= factor
            gain = gain * np.float32(factor)
        moved -= found.step
        tried.append((float(np.linalg.norm(moved)), bound, gain, weighing))
        yield tried[-1]


def _weighings(
    strategy: Strategy,
    server: Server,
    found: Round,
    carried: NDArray[np.float64] | None,
) -> Iterator[Weighing]:
    yield from rules(strategy, found.contents)
    if not isinstance(server.gain, np.ndarray) and server.gain:
        aggregate = found.step / server.gain
        if carried is not None:
            aggregate -= carried
        weights = _fitted(found, aggregate / server.share)
        if weights is not None:
            yield fixed(weights, CHOSEN)


def _fitted(found: Round, aggregate: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return the weights of updates that come closest to an aggregate, if any can say.

    Of those whose updates are alike, each keeps its share by examples.
    """
    replies, count = found.replies, len(found.replies)
    if aggregate.size < count + MORE:
        return None
    products, shares = np.zeros((count, count)), np.zeros(count)
    for start in range(0, aggregate.size, BLOCK):
        block = slice(start, start + BLOCK)
        updates = np.stack([r.update[block] for r in replies]).astype(np.float64)
        products += updates @ updates.T
        shares += updates @ aggregate[block]
    first = np.array([reply.weight for reply in replies])
    first = first / first.sum() if first.sum() else np.full(count, 1 / count)
    inverse = np.linalg.pinv(products, rcond=1e-12, hermitian=True)
    weights: NDArray[np.float64] = first + inverse @ (shares - products @ first)
    return weights


def _blocks(names: Names) -> Iterator[tuple[slice, np.dtype[np.floating]]]:
    """Yield blocks of the parameters, each of one type."""
    start = 0
    for name in names.parameters:
        stop = start + int(np.prod(names.shapes[name]))
        for first in range(start, stop, BLOCK):
            yield slice(first, min(first + BLOCK, stop)), names.dtypes[name]
        start = stop


def _weighed(
    names: Names, found: Round, weighing: Weighing
) -> Iterator[tuple[slice, NDArray[np.floating], NDArray[np.float64]]]:
    """Yield blocks with the weights and updates there of all replies."""
    for block, dtype in _blocks(names):
        updates = np.stack([reply.update[block] for reply in found.replies])
        values = found.before[block] + updates
        weights = weighing.of(values.astype(dtype, copy=False))
        yield block, weights, updates.astype(np.float64)


def _aggregate(names: Names, found: Round, weighing: Weighing) -> NDArray[np.float64]:
    """Return the weighted sum of updates."""
    total = np.empty(found.before.size)
    for block, weights, updates in _weighed(names, found, weighing):
        total[block] = (weights * updates).sum(axis=0)
    return total


def _carried(ledger: Ledger) -> NDArray[np.float64] | None:
    """Return what the momentum brings from the rounds before."""
    if ledger.buffers is None:
        return None
    return ledger.momentum * momentum_of(ledger)


def _parts(
    strategy: Strategy,
    names: Names,
    server: Server,
    found: Round,
    gain: float | Vector,
    weighing: Weighing,
) -> Attributed:
    """Return the parts by client, in place of the updates of its nodes."""
    means = np.zeros(len(found.replies))
    for block, weights, updates in _weighed(names, found, weighing):
        wide = np.broadcast_to(weights, updates.shape)
        means += wide.sum(axis=1) / found.before.size
        for reply, part in zip(
            found.replies, server.share * wide * updates, strict=True
        ):
            reply.update[block] = part
    parts, shares = dict[int, Vector](), dict[int, float]()
    for reply, mean in zip(found.replies, means, strict=True):
        if reply.row in parts:  # another node of the same client
            parts[reply.row] += reply.update
        else:
            parts[reply.row] = reply.update
        shares[reply.row] = shares.get(reply.row, 0.0) + float(mean)
    depends = {*depends_on_moments(strategy), weighing.depends} - {""}
    return Attributed(parts, shares, gain, frozenset(depends))
