"""A round's replies, and whether the server's step is what the ledger makes of them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fedneg.core.errors import FedNegError
from fedneg.core.parameters import Vector, weights_of
from fedneg.ledger.ledger import Ledger

# How far the inner strategy's step may be from the ledger's: a share of the step, and
# what rounding leaves of the parameters themselves, in units of their type's epsilon.
OF_STEP, OF_EPSILON = 1e-3, 8.0


class NotLinearError(FedNegError):
    """The step of a strategy is no weighted sum of its clients' updates."""


@dataclass(frozen=True)
class Reply:
    """What a client sent: parameters, what else its arrays hold, and what it weighs."""

    parameters: Vector
    rest: Vector
    weight: float

    def with_another(self, other: "Reply", *, means: int) -> "Reply":
        """Return this and the reply of another node of the same client, as one.

        It weighs as both. The first `means` numbers of the rest are averaged as the
        parameters are; of the others, which are counters, the larger ones stay.
        """
        weight = self.weight + other.weight
        share = other.weight / weight if weight else 0.5
        parameters, rest = (
            (a + share * (b.astype(np.float64) - a)).astype(np.float32)
            for a, b in (
                (self.parameters, other.parameters),
                (self.rest, other.rest),
            )
        )
        rest[means:] = np.maximum(self.rest[means:], other.rest[means:])
        return Reply(parameters, rest, weight)


def check_step(
    strategy: str,
    ledger: Ledger,
    replies: Mapping[int, Reply],
    *,
    before: Vector,
    after: Vector,
    epsilon: float,
    number: int,
) -> None:
    """Raise unless a strategy's step is what the ledger would make of the replies.

    The ledger is only looked at: what is refused has changed nothing in it.

    Parameters
    ----------
    strategy : str
        Its name, for people.
    replies : mapping
        By the ledger's rows; those of new clients come after the ones that are there.
    before, after : Vector, shape (d,)
        The global parameters.
    epsilon : float
        What rounding leaves of a parameter.
    number : int
        Of the round, for people.

    Raises
    ------
    FedNegError
        If a number is not finite.
    NotLinearError
        If the step is another one.
    """
    expected = np.zeros(before.size)
    order = sorted(replies)
    weights = weights_of([replies[row].weight for row in order])
    for row, weight in zip(order, weights, strict=True):
        expected += weight * (replies[row].parameters.astype(np.float64) - before)
    if ledger.buffers is not None:
        for buffer in ledger.buffers:
            expected += ledger.momentum * buffer.astype(np.float64)
    expected *= ledger.learning_rate
    if not (np.isfinite(expected).all() and np.isfinite(after).all()):
        raise FedNegError(
            f"round {number} ended in numbers that are not finite: the model diverged, "
            "or a client sent such"
        )
    off = float(np.linalg.norm(after - before - expected))
    step = float(np.linalg.norm(expected))
    rounding = OF_EPSILON * epsilon * float(np.linalg.norm(after))
    if off > OF_STEP * step + rounding:
        share = off / step if step else float("inf")
        raise NotLinearError(
            f"{strategy} cannot be made forgettable: its step in round {number} is off "
            f"by {share:.2g} of the weighted sum of its clients' updates. Take FedAvg, "
            "FedProx or FedAvgM, or retrain without the client"
        )
