"""Flower's results of several starts as those of one training, counted on."""

from collections.abc import Callable
from typing import Any

from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp.strategy import Result

Evaluate = Callable[[int, ArrayRecord], MetricRecord | None]
METRICS = (
    "train_metrics_clientapp",
    "evaluate_metrics_clientapp",
    "evaluate_metrics_serverapp",
)


def add(whole: Result, part: Result, *, before: int) -> None:
    """Add what rounds after the first `before` of a training came to."""
    for name in METRICS:
        found: dict[int, Any] = getattr(part, name)
        getattr(whole, name).update({before + n: value for n, value in found.items()})


def counted_on(
    evaluate: Evaluate | None, whole: Result, *, before: int
) -> Evaluate | None:
    """Return the user's function, told of rounds as the training counts them.

    What it said of a model before is said again, and not asked twice.
    """
    if evaluate is None:
        return None
    known = whole.evaluate_metrics_serverapp

    def counted(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        number = before + server_round
        return known[number] if number in known else evaluate(number, arrays)

    return counted
