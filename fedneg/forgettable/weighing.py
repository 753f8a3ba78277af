"""How much of each reply is in an aggregate: the rules by which strategies weigh.

A `Weighing` says, for a block of parameters, what each reply weighs in each of them. In
most the weights of all replies sum to 1 in every parameter; whatever they sum to, the
step is a sum of parts, and each part is somebody's.

Which rule a strategy follows is not looked up: `fedneg.forgettable.step` tries one
after the other on the step itself. Those that need to know a number (how many are
trimmed) take it from the strategy, by the name that Flower gives it.

References
----------
Yin et al., Byzantine-robust distributed learning, ICML 2018. arXiv:1803.01498
El Mhamdi, Guerraoui and Rouault, The hidden vulnerability of distributed learning in
Byzantium, ICML 2018 (Bulyan, section 4). arXiv:1802.07927
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from fedneg.core.parameters import weights_of
from fedneg.forgettable.inner import layers

# What of a step no subtraction undoes: without the forgotten, another would have
# counted in their place, or more.
IN_THE_MIDDLE = "whose update counted in each parameter, which hung on the others"
CHOSEN = "what each update weighed, as far as that hung on the others"

Values = NDArray[np.floating]
Weights = NDArray[np.floating]


@dataclass(frozen=True)
class Weighing:
    """A rule, for one round.

    Attributes
    ----------
    of : callable
        From the values (n, size) that n replies have in some parameters, of the
        parameters' own type, to weights (n, size), or (n, 1) where all are alike.
    depends : str
        What of it hung on all clients together, for people; empty: nothing.
    column : array (n, 1), optional
        What `of` returns, where that hangs on no values.
    """

    of: Callable[[Values], Weights]
    depends: str = ""
    column: Weights | None = None


def fixed(weights: Sequence[float] | Weights, depends: str = "") -> Weighing:
    """Return the rule that each reply has one weight, whatever its values."""
    column = np.asarray(weights, np.float64)[:, None]
    return Weighing(lambda _: column, depends, column)


def by_examples(examples: Sequence[float]) -> Weighing:
    """Return the rule of FedAvg."""
    return fixed(weights_of(list(examples)))


def trimmed(cut: int) -> Weighing:
    """Return the rule of the mean without the `cut` lowest and highest, by coordinate.

    Of those that are equal where it is cut, all share what is left. The median is what
    remains if all but one or two are cut.
    """

    def of(values: Values) -> Weights:
        count = len(values)
        low, high = cut, count - cut
        order = np.argsort(values, axis=0, kind="stable")
        ordered = np.take_along_axis(values, order, axis=0)
        inside = np.zeros((count, 1))
        inside[low:high] = 1 / (high - low)
        weights = np.zeros(values.shape)
        np.put_along_axis(
            weights, order, np.broadcast_to(inside, values.shape).copy(), axis=0
        )
        if cut:
            for edge in (ordered[low], ordered[high - 1]):
                equal = values == edge
                shared = (weights * equal).sum(axis=0) / equal.sum(axis=0)
                np.copyto(weights, np.broadcast_to(shared, equal.shape), where=equal)
        return weights

    return Weighing(of, IN_THE_MIDDLE)


def median_of(count: int) -> Weighing:
    """Return the rule of the median, by coordinate, of so many replies."""
    return trimmed((count - 1) // 2)


def in_the_middle(strategy: Strategy | None, count: int) -> Weighing:
    """Return the rule of a strategy that trims as it says, or else to the median."""
    beta = None if strategy is None else getattr(layers(strategy)[-1], "beta", None)
    if isinstance(beta, int | float) and 0 <= beta < 0.5:
        return trimmed(int(beta * count))
    return median_of(count)


def closest_to_median(chosen: Sequence[int], closest: int) -> Weighing:
    """Return Bulyan's second step: of the chosen, the mean of those near the median.

    As Flower computes it, to the last comparison.
    """
    rows = np.asarray(chosen)

    def of(values: Values) -> Weights:
        some = values[rows]
        distances = np.abs(some - np.median(some, axis=0))
        places = np.argpartition(distances, closest - 1, axis=0)[:closest]
        weights = np.zeros(values.shape)
        np.put_along_axis(weights, rows[places], 1 / closest, axis=0)
        return weights

    return Weighing(of, IN_THE_MIDDLE)


@dataclass(frozen=True)
class Replies:
    """A round's replies, read before the strategy had them: some strategies empty them.

    Attributes
    ----------
    examples : sequence of float
        What each is to be weighed by.
    contents : sequence of RecordDict
        Whole ones, for a strategy whose rule wants them; else none.
    """

    examples: Sequence[float]
    contents: Sequence[RecordDict]


def copies(strategy: Strategy, replies: Sequence[Message]) -> list[RecordDict]:
    """Return the contents of replies where `rules` needs them; numbers are shared."""
    if not hasattr(layers(strategy)[-1], "selection_rule"):
        return []
    return [
        RecordDict(
            {
                name: ArrayRecord(dict(record))
                if isinstance(record, ArrayRecord)
                else record
                for name, record in reply.content.items()
            }
        )
        for reply in replies
    ]


def rules(strategy: Strategy, replies: Replies) -> Iterator[Weighing]:
    """Yield the rules that a strategy may have followed, the simplest first."""
    count = len(replies.examples)
    yield by_examples(replies.examples)
    inner: Any = layers(strategy)[-1]
    yield in_the_middle(strategy, count)
    if hasattr(inner, "beta"):
        yield median_of(count)
    if hasattr(inner, "selection_rule") and hasattr(inner, "num_malicious_nodes"):
        bad = inner.num_malicious_nodes
        if count >= 4 * bad + 3:
            found = inner.selection_rule(list(replies.contents), bad, count - 2 * bad)
            places = {id(one): place for place, one in enumerate(replies.contents)}
            chosen = [places[id(one)] for one in found if id(one) in places]
            if len(chosen) == count - 2 * bad:
                yield closest_to_median(chosen, count - 4 * bad)
