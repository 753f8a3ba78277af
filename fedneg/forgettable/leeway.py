"""How far a step may be from what is said to have made it: what rounding leaves of it.

In each number of an array, with epsilon of the array's type and n replies that weigh
w_k (in type and order of the strategy's own sum, each of whose 2 n operations is off by
at most half an epsilon of what the models, not their updates, have there),

    sum        (n + 8) / 2 * epsilon * sum of |w_k| |local_k|
    rows       epsilon of float32 * (sum of |w_k update_k| and all rows of momentum)
    momentum   both, and what of them t rounds carry on: * (1 - momentum^t) /
               (1 - momentum)
    step       gain * that, and 4 epsilon of |parameter| and |step|

The norm of these bounds, array by array, is what the array's step may be off by. So a
small array does not hide behind a large one, nor a fine type behind a coarse one; and
where parameters are a thousand and their steps a thousandth, nobody can say more.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedneg.core.parameters import Vector

# Of a strategy's own beside its sum: moments, roots, rates, clipping.
OPERATIONS = 8
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Magnitudes:
    """How large, in some numbers of one array, what a step is made of is.

    Attributes
    ----------
    sent : array
        Of the models, as they weigh.
    updates : array
        Of the updates, as they weigh.
    rows : array or float
        Of what is carried on, row by row.
    left : array
        Of parameters and step.
    """

    sent: Numbers
    updates: Numbers
    rows: Numbers | float
    left: Numbers


def in_momentum(
    size: Magnitudes,
    dtype: np.dtype[np.floating],
    *,
    replies: int,
    share: float,
    momentum: float,
    rounds: int,
) -> Numbers:
    """Return how far what a gain is multiplied with may be off, number by number."""
    coarse, fine = np.finfo(dtype), np.finfo(np.float32)
    in_sum = (replies + OPERATIONS) / 2 * float(coarse.eps) * size.sent
    in_sum += replies * float(coarse.smallest_subnormal)
    in_rows = float(fine.eps) * (share * size.updates + size.rows)
    in_rows += float(coarse.eps) * size.rows
    carried = float(min(rounds, 100))  # of a momentum that never fades, so many
    if momentum < 1:
        carried = (1 - momentum**rounds) / (1 - momentum)
    return np.asarray((share * in_sum + in_rows) * carried)


def in_step(size: Magnitudes, dtype: np.dtype[np.floating]) -> Numbers:
    """Return how far a step may be off beside that, number by number."""
    # Parts are float32, whatever the array is; of the parameters they hold nothing.
    epsilon = float(np.finfo(dtype).eps)
    return OPERATIONS / 2 * epsilon * size.left


def in_parts(step: Numbers) -> Numbers:
    """Return how far parts of float32 may be from a step, number by number."""
    return OPERATIONS / 2 * float(np.finfo(np.float32).eps) * np.abs(step)


def ratio(off: float, allowed: float) -> float:
    """Return how much of what is allowed an error is; above 1 it is no rounding."""
    if not off:
        return 0.0
    return off / allowed if allowed else float("inf")


def gain_at(gain: float | Vector, block: slice) -> Vector | float:
    """Return a gain in some numbers."""
    return gain[block] if isinstance(gain, np.ndarray) else gain
