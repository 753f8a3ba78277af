"""What nodes sent in a round, as the ledger wants it: updates by node and client."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from flwr.app import ArrayRecord, Message
from flwr.serverapp.strategy import Strategy

from fedneg.core.errors import FedNegError
from fedneg.core.parameters import Shapes, Vector
from fedneg.forgettable.believed import as_the_model_has_it, failed
from fedneg.forgettable.inner import layers
from fedneg.forgettable.names import Names
from fedneg.forgettable.views import Difference, is_finite, view_of, whole
from fedneg.ledger.steps import Blocks

# What else a strategy may weigh replies by.
EXAMPLES = "num-examples"


@dataclass
class Reply:
    """What a node sent, or all nodes of a client together.

    Attributes
    ----------
    client_id : int
    row : int
        In the ledger; those of new clients come after the ones that are there.
    update : Blocks, shape (d,)
        Local minus global, subtracted in the arrays' own precision; a vector, or read
        from the message.
    statistics : Vector
        Statistics, and counters after them.
    weight : float
        What the reply is to be weighed by.
    """

    client_id: int
    row: int
    update: Blocks
    statistics: Vector
    weight: float

    def with_another(self, other: "Reply") -> "Reply":
        """Return this and the reply of another node of the same client, as one.

        It weighs as both, and is their mean.
        """
        weight = self.weight + other.weight
        share = other.weight / weight if weight else 0.5
        pairs = (
            (whole(self.update), whole(other.update)),
            (self.statistics, other.statistics),
        )
        update, rest = (
            (a + share * (b.astype(np.float64) - a)).astype(np.float32)
            for a, b in pairs
        )
        return Reply(self.client_id, self.row, update, rest, weight)

    def norms(self, shapes: Shapes) -> tuple[float, ...]:
        """Return how long the update is in each of the parameters' arrays."""
        found, start = [], 0
        for shape in shapes:
            stop = start + prod(shape)
            found.append(float(np.linalg.norm(self.update[start:stop])))
            start = stop
        return tuple(found)


@dataclass(frozen=True)
class ReadRound:
    """What nodes sent in a round.

    Attributes
    ----------
    messages : list of Message
        All of them, for the strategy; a failure in the place of what cannot be.
    replies : list of (Reply, Message)
        Those of them that hold a model, in the same order.
    rounded : list of str
        Whose arrays were rounded, for people.
    """

    messages: list[Message]
    replies: list[tuple[Reply, Message]]
    rounded: list[str]


def read_replies(
    messages: Sequence[Message],
    strategy: Strategy,
    names: Names,
    *,
    before: ArrayRecord,
    client_of: Callable[[int], int],
    rows: Mapping[int, int],
) -> ReadRound:
    """Return what each node sent, in the order given; what has no model is left out.

    Their arrays are as the model's are, in the messages too.

    Parameters
    ----------
    before : ArrayRecord
        What the nodes started from.
    client_of : callable
        From the id of a node to that of its client.
    rows : mapping of int to int
        By client id, of those who have one in the ledger.

    Raises
    ------
    FedNegError
        If no client sent what can be, and none ever has: that is the app's mistake. It
        names one of them.
    """
    key = _key_of(strategy)
    some = any(m.content.array_records for m in messages if not m.has_error())
    found, all_rounded = list[tuple[Reply, Message]](), list[str]()
    wrong = list[tuple[Message, str]]()
    for message in messages:
        if message.has_error():
            continue
        if not some:
            continue  # the inner strategy says what it thinks of that
        try:
            record = next(iter(message.content.array_records), None)
            if record is None:
                raise FedNegError("its reply has no arrays")
            sent = message.content.array_records[record]
            arrays, rounded = as_the_model_has_it(sent, names, before)
            one = Reply(
                client_of(message.metadata.src_node_id),
                -1,
                _update(names, arrays, before),
                names.rest(names.views(arrays)),
                _weight_in(message, key),
            )
        except FedNegError as error:
            wrong.append((message, str(error)))
            continue
        message.content[record] = arrays
        found.append((one, message))
        all_rounded += [f"client {one.client_id}: {rounded}"] if rounded else []
    if not any(one.weight for one, _ in found):
        reason = f"{key or EXAMPLES} is 0, as everybody's is"
        wrong += [(message, reason) for _, message in found]
        found.clear()
    new = sorted({one.client_id for one, _ in found} - set(rows))
    places = dict(rows) | {k: len(rows) + place for place, k in enumerate(new)}
    for one, _ in found:
        one.row = places[one.client_id]
    instead = {
        id(message): failed(
            message,
            client_of(message.metadata.src_node_id),
            why,
            is_last_hope=not places,
        )
        for message, why in wrong
    }
    return ReadRound([instead.get(id(m), m) for m in messages], found, all_rounded)


def _update(names: Names, arrays: ArrayRecord, before: ArrayRecord) -> Difference:
    """Return local minus global; FedNegError, which names an array, if not finite."""
    update = names.difference(arrays, before, np.float32)
    with np.errstate(all="ignore"):
        if not is_finite(update):
            for name in names.parameters:
                if not np.isfinite(view_of(arrays[name])).all():
                    raise FedNegError(f"array {name} has a number that is not finite")
            raise FedNegError("the update is beyond what a float32 holds")
    return update


def read_measured(
    messages: Sequence[Message],
    strategy: Strategy,
    *,
    client_of: Callable[[int], int],
) -> list[Message]:
    """Return what nodes measured; a failure in the place of what cannot be weighed.

    Raises
    ------
    FedNegError
        If there are replies, and nothing to weigh any of them by; it names a client.
    """
    key = _key_of(strategy)
    if key is None:
        return list(messages)
    wrong, is_lost = dict[int, str](), True
    for place, message in enumerate(messages):
        if message.has_error():
            continue
        try:
            _weight_in(message, key)
            is_lost = False
        except FedNegError as error:
            wrong[place] = str(error)
    return [
        failed(
            message,
            client_of(message.metadata.src_node_id),
            wrong[place],
            is_last_hope=is_lost,
        )
        if place in wrong
        else message
        for place, message in enumerate(messages)
    ]


def _key_of(strategy: Strategy) -> str | None:
    """Return the metric by which a strategy weighs replies; None if it has no such."""
    for one in layers(strategy):
        if hasattr(one, "weighted_by_key"):
            return str(one.weighted_by_key)
    return None


def _weight_in(message: Message, key: str | None) -> float:
    """Return what a reply is weighed by; all alike, where nobody has to say it."""
    records = list(message.content.metric_records.values())
    metrics = records[0] if records else {}
    if key is None:
        return _weight(EXAMPLES, metrics[EXAMPLES]) if EXAMPLES in metrics else 1.0
    if key not in metrics:
        raise FedNegError(
            f"its reply has no metric {key!r}, by which the strategy weighs replies"
        )
    return _weight(key, metrics[key])


def _weight(key: str, value: object) -> float:
    """Return what a reply is to be weighed by."""
    if not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise FedNegError(f"{key} must be a number from 0, got {value!r}")
    return float(value)


def by_client(replies: Sequence[Reply]) -> dict[int, Reply]:
    """Return one reply for each client, by rows."""
    found = dict[int, Reply]()
    for reply in replies:
        known = found.get(reply.row)
        found[reply.row] = reply if known is None else known.with_another(reply)
    return found
