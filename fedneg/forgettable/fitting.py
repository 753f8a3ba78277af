"""Weights that are looked for: those with which updates come closest to a step.

For strategies that weigh by no rule that is known here (Krum, QFedAvg, clipping). Only
where the updates tell them: else other weights would make the same step, and nothing
says whose it is.
"""

from collections.abc import Callable, Iterator, Mapping
from math import prod

import numpy as np
from numpy.typing import NDArray

from fedneg.core.parameters import weights_of
from fedneg.forgettable.names import Names
from fedneg.forgettable.parts import Round
from fedneg.forgettable.views import dot
from fedneg.ledger.ledger import BLOCK

# Weights are looked for only where there are so many more parameters than replies: with
# fewer, some would always be found.
MORE = 8
# And only where rounding leaves so little doubt of what a client's part of a step is,
# as a share of the step. Else other weights make the same one.
DOUBT = 1e-3
# Updates whose difference is so much shorter than they are the same update.
SAME = 1e-10


def fitted(
    names: Names,
    found: Round,
    aggregate: Callable[[slice], NDArray[np.float64]],
    allowed: Mapping[str, float],
    doubts: list[str],
) -> NDArray[np.float64] | None:
    """Return the weights of updates that come closest to an aggregate, if any can say.

    Of those whose updates are the same, each keeps its share by examples. Arrays count
    by how exactly they tell it. None where other weights do as well: it is said why.
    """
    replies, count = found.replies, len(found.replies)
    if found.before.size < count + MORE:
        return None
    products, shares, length = np.zeros((count, count)), np.zeros(count), 0.0
    exact = {
        n: prod(names.shapes[n]) ** 0.5 / most for n, most in allowed.items() if most
    }
    largest = max(exact.values(), default=1.0)
    for block, name in arrays_of(names):
        by = exact.get(name, 0.0) / largest
        updates = by * np.stack([r.update[block] for r in replies]).astype(np.float64)
        products += updates @ updates.T
        step = by * aggregate(block)
        shares += updates @ step
        length += dot(step, step)
    # As much as the step itself is rounded by is no doubt of who made it.
    rounded = (found.before.size / length) ** 0.5 if length else 0.0
    if _doubt(products, length) > max(DOUBT * largest, rounded):
        doubts.append(
            f"round {found.number} does not tell what each of its {count} clients "
            "weighed: their updates lie in too few directions"
        )
        return None
    first = shares_of(found)[:, 0]
    inverse = np.linalg.pinv(products, rcond=1e-12, hermitian=True)
    weights: NDArray[np.float64] = first + inverse @ (shares - products @ first)
    return weights


def _doubt(products: NDArray[np.float64], length: float) -> float:
    """Return how far a client's part of a step may be off, as a share of the step.

    Of an error of 1 in each number, which fitted weights pass on: along the directions
    in which updates differ little most. Those of one direction alone do not differ.

    Parameters
    ----------
    products : array, shape (N, N)
        Of the updates with each other.
    length : float
        The step's, squared.
    """
    sizes = np.diag(products)
    apart = sizes[:, None] + sizes[None, :] - 2 * products
    kept: list[int] = []
    for k in np.flatnonzero(sizes > 0):
        if all(apart[k, j] > SAME * (sizes[k] + sizes[j]) for j in kept):
            kept.append(int(k))
    if not kept or not length:
        return 0.0
    values, directions = np.linalg.eigh(products[np.ix_(kept, kept)])
    # Less than what is rounded in the products themselves is nothing.
    values = np.maximum(values, len(kept) * np.finfo(float).eps * values[-1])
    of_weights = np.sqrt((directions**2 / values).sum(axis=1))
    return float((of_weights * np.sqrt(sizes[kept])).max() / length**0.5)


def arrays_of(names: Names, inside: slice | None = None) -> Iterator[tuple[slice, str]]:
    """Yield blocks of the parameters, or of some, each of one array, with its name."""
    low, high = (
        (0, names.layout.size) if inside is None else (inside.start, inside.stop)
    )
    start = 0
    for name in names.parameters:
        stop = start + prod(names.shapes[name])
        for first in range(max(start, low), min(stop, high), BLOCK):
            yield slice(first, min(first + BLOCK, stop, high)), name
        start = stop


def shares_of(found: Round) -> NDArray[np.float64]:
    """Return what replies weigh by their examples, as a column."""
    return np.asarray(weights_of([r.weight for r in found.replies]))[:, None]
