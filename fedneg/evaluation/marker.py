"""A planted trick: whether it works oftener than in models that never saw it."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import asin, sqrt

import numpy as np
from scipy.stats import fisher_exact
from scipy.stats import t as student

from fedneg.evaluation.exact import Rate, rate_of


@dataclass(frozen=True)
class Marker:
    """How often a planted trick works, beside models that never saw it.

    `p_value`: one-sided, of 'no oftener than in another of these'. `worst_p_value`: of
    'no oftener than in the one in which it works most', by Fisher's exact test alone.
    """

    judged: Rate
    references: Rate
    p_value: float
    worst_p_value: float


def marker_of(
    judged: tuple[int, int] | None,
    references: Sequence[tuple[int, int] | None],
    *,
    alpha: float,
) -> Marker | None:
    """Return how a planted trick works, beside its pooled rate in other models.

    Parameters
    ----------
    judged : tuple of int, optional
        How often it worked in the judged model, and of how many times.
    references : sequence of such tuples
        In models that never saw it; None where that was not counted.
    alpha : float
        1 minus the coverage of the rates' intervals.

    Returns
    -------
    Marker or None
        None where there is nothing to compare.
    """
    seen = [one for one in references if one is not None]
    if judged is None or not seen:
        return None
    pooled = sum(hits for hits, _ in seen), sum(count for _, count in seen)
    # Models differ by more than their examples do: the trick is to work oftener than in
    # the one of them in which it works most, and than in a next one.
    worst = max(seen, key=lambda one: one[0] / one[1])
    beyond = _oftener(judged, worst)
    p_value = max(_oftener(judged, pooled), beyond, _beyond_the_next(judged, seen))
    return Marker(
        rate_of(*judged, alpha=alpha), rate_of(*pooled, alpha=alpha), p_value, beyond
    )


def _oftener(judged: tuple[int, int], other: tuple[int, int]) -> float:
    """Return Fisher's exact p, one-sided, of 'no oftener than in the other'."""
    table = [[hits, count - hits] for hits, count in (judged, other)]
    return float(fisher_exact(table, alternative="greater").pvalue)


def _beyond_the_next(judged: tuple[int, int], seen: Sequence[tuple[int, int]]) -> float:
    """Return a t test's p, one-sided, of 'no oftener than in another such model'.

    On arcsines of the roots of rates, whose spread hangs little on the rate.
    """
    if len(seen) < 2:
        return 0.0
    angles = np.array([asin(sqrt(hits / count)) for hits, count in seen])
    spread = float(angles.std(ddof=1)) * sqrt(1 + 1 / len(seen))
    above = asin(sqrt(judged[0] / judged[1])) - float(angles.mean())
    if not spread:
        return 0.0 if above > 0 else 1.0
    return float(student.sf(above / spread, len(seen) - 1))
