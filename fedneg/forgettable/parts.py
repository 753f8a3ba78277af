"""A round as a strategy had it, and its step in parts, each of which is a client's."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from flwr.serverapp.strategy import Strategy

from fedneg.core.parameters import weights_of
from fedneg.forgettable.moments import depends_on_state
from fedneg.forgettable.optimiser import AsSet
from fedneg.forgettable.replies import Reply
from fedneg.forgettable.weighing import Replies
from fedneg.ledger.steps import Blocks, Step


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
    settings : sequence of AsSet
        What the server may have gone by, the likelier first.
    """

    number: int
    replies: Sequence[Reply]
    kept: Replies
    before: Blocks
    step: Blocks
    settings: Sequence[AsSet]


@dataclass(frozen=True)
class Attributed:
    """A round's step in parts.

    Attributes
    ----------
    step : Step
        By the ledger's rows; weights are means over all parameters.
    momentum : float
        Of the server in this round.
    depends : frozenset of str
        What of the step hung on all clients together, for people.
    """

    step: Step
    momentum: float
    depends: frozenset[str] = field(default_factory=frozenset)


def nobodys(strategy: Strategy, round_: Round) -> Attributed:
    """Return a step of which no part is anybody's, and who took part by examples."""
    replies = round_.replies
    shares = weights_of([reply.weight for reply in replies]) if replies else []
    found = dict[int, float]()
    for reply, share in zip(replies, shares, strict=True):
        found[reply.row] = found.get(reply.row, 0.0) + share
    depends = frozenset(depends_on_state(strategy))
    return Attributed(Step({}, found), round_.settings[0].momentum, depends)
