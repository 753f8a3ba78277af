"""A round as a strategy had it, and its step in parts, each of which is a client's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from flwr.serverapp.strategy import Strategy

from fedneg.core.parameters import Vector, weights_of
from fedneg.forgettable.moments import depends_on_state
from fedneg.forgettable.replies import Reply
from fedneg.forgettable.weighing import Replies
from fedneg.ledger.ledger import Blocks


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
    kept : Replies
        Their arrays, copied where the strategy may empty them.
    before : Blocks, shape (d,)
        The global parameters that the clients started from.
    step : Blocks, shape (d,)
        What the strategy added to them, float64.
    """

    number: int
    replies: Sequence[Reply]
    kept: Replies
    before: Blocks
    step: Blocks


@dataclass(frozen=True)
class Attributed:
    """A round's step in parts.

    Attributes
    ----------
    parts : mapping of int to Blocks
        By the ledger's rows: what of the aggregate, or of the server's momentum, is
        whose.
    weights : dict of int to float
        How much of the aggregate was whose: the mean over all parameters.
    gain : float or Vector, shape (d,)
        What the server multiplied it with.
    depends : frozenset of str
        What of the step hung on all clients together, for people.
    """

    parts: Mapping[int, Blocks]
    weights: dict[int, float]
    gain: float | Vector
    depends: frozenset[str] = field(default_factory=frozenset)


def nobodys(strategy: Strategy, replies: Sequence[Reply]) -> Attributed:
    """Return a step of which no part is anybody's, and who took part by examples."""
    shares = weights_of([reply.weight for reply in replies]) if replies else []
    found = dict[int, float]()
    for reply, share in zip(replies, shares, strict=True):
        found[reply.row] = found.get(reply.row, 0.0) + share
    return Attributed({}, found, 1.0, frozenset(depends_on_state(strategy)))
