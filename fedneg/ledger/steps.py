"""A server's step as a ledger takes it: whose which part of it is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray

from fedneg.core.parameters import Vector


class Blocks(Protocol):
    """A vector, or what is read as one: a slice of it at a time."""

    @property
    def size(self) -> int:
        """How many numbers it has."""

    def __getitem__(self, block: slice, /) -> NDArray[Any]:
        """Return some of them."""


@dataclass(frozen=True)
class Step:
    """A round's step, of which each client's part is known, and no one weight is.

    Weights may differ from parameter to parameter, or the step may be scaled
    differently in each.

    Attributes
    ----------
    parts : mapping of client id to vector
        What each client added to the aggregate, or to the server's momentum: its
        weighted update. Read a slice at a time, of one client after the other.
    weights : mapping of client id to float
        How much of the aggregate was whose, for `Ledger.participation`.
    gain : float or Vector, shape (d,)
        What the server multiplied the aggregate, or its momentum, with.
    local : mapping of client id to Vector
        Local parameters after training, where last local models are kept.
    norms : mapping of client id to tuple of float
        What to write down of how long the updates were (`Participation`).
    """

    parts: Mapping[int, Blocks]
    weights: Mapping[int, float]
    gain: float | Vector = 1.0
    local: Mapping[int, Vector] = field(default_factory=dict)
    norms: Mapping[int, tuple[float, ...]] = field(default_factory=dict)
