"""The floor: how far apart retrained models are by their seeds alone.

A gap to a retrained model says something only if it is larger than the gaps between
retrained models, which differ in nothing but their seeds. With n of them there are
n (n - 1) / 2 pairs; the floor of a metric is the 95th percentile of the pairs' gaps, or
their maximum below 20 pairs (n at most 6), where a 95th percentile is one anyway.

It is shown, and decides nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

import numpy as np

T = TypeVar("T")
QUANTILE = 0.95
MIN_PAIRS_FOR_QUANTILE = 20


@dataclass(frozen=True)
class Floor:
    """The gap that seeds alone explain, from `models` retrainings.

    `rule` is 'p95' or, with few pairs, 'max'.
    """

    gap: float
    models: int
    rule: str


def absolute_gap(first: float, second: float) -> float:
    """Return |first - second|, the gap of metrics that are single numbers."""
    return abs(first - second)


def floor_of(models: Sequence[T], gap: Callable[[T, T], float]) -> Floor | None:
    """Return the floor of a metric over retrained models; None with fewer than 2.

    Parameters
    ----------
    models : sequence of n
        Whatever `gap` takes: numbers, or class probabilities.
    gap : callable
        Symmetric and not negative: `absolute_gap` of numbers, or a divergence.

    Raises
    ------
    ValueError
        If a gap is negative or not finite.
    """
    gaps = [gap(a, b) for a, b in combinations(models, 2)]
    if not gaps:
        return None
    if not np.isfinite(gaps).all() or min(gaps) < 0:
        raise ValueError(f"gaps must be finite and not negative, got {gaps}")
    if len(gaps) < MIN_PAIRS_FOR_QUANTILE:
        return Floor(max(gaps), len(models), "max")
    return Floor(float(np.quantile(gaps, QUANTILE)), len(models), "p95")
