"""Exact tests of counts: a marker's rate, pairs of canaries, several tests at once.

No approximation, and no allowance for anything: what is counted are examples, whose
answers are independent given the model.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from scipy.stats import beta, binomtest


@dataclass(frozen=True)
class Rate:
    """A share of `count` examples, with its exact two-sided interval."""

    hits: int
    count: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share itself."""
        return self.hits / self.count


def rate_of(hits: int, count: int, *, alpha: float = 0.05) -> Rate:
    """Return a share with its Clopper-Pearson interval.

    Parameters
    ----------
    hits, count : int
        0 <= hits <= count, count at least 1.
    alpha : float
        1 minus the interval's coverage, which is at least that.

    Raises
    ------
    ValueError
        If they are not so.

    References
    ----------
    Clopper and Pearson, Biometrika 26, 1934.
    """
    _check(hits, count)
    low = beta.ppf(alpha / 2, hits, count - hits + 1) if hits else 0.0
    high = beta.ppf(1 - alpha / 2, hits + 1, count - hits) if hits < count else 1.0
    return Rate(hits, count, float(low), float(high))


def above_p_value(hits: int, count: int, rate: float) -> float:
    """Return how likely at least so many hits are, were their rate no more than `rate`.

    Parameters
    ----------
    hits, count : int
        As of `rate_of`.
    rate : float
        In [0, 1].
    """
    _check(hits, count)
    return float(binomtest(hits, count, rate, alternative="greater").pvalue)


@dataclass(frozen=True)
class Pairs:
    """What planted canaries against held-out ones show.

    Attributes
    ----------
    won, count : int
        Pairs whose planted canary has the lower loss; pairs that differ at all.
    p_value : float
        One-sided, of 'none was trained on': then every pair is won with 1/2, exactly.
    epsilon : float
        The training is not epsilon-differentially private for a smaller epsilon, with
        confidence 1 - alpha; 0 where nothing is shown.
    alpha : float
    """

    won: int
    count: int
    p_value: float
    epsilon: float
    alpha: float


def pairs_of(won: int, count: int, *, alpha: float = 0.05) -> Pairs:
    """Return what so many won pairs of canaries show, without any retraining.

    The canaries of a pair are drawn alike, and a coin decides which one is planted: of
    a model that has seen neither the two are exchangeable. Under epsilon-differential
    privacy a pair is won with at most e^epsilon / (1 + e^epsilon).

    Raises
    ------
    ValueError
        If not 0 <= won <= count. Without a pair p is 1.

    Notes
    -----
    Neighbours of that privacy differ by one example that is another; where one has an
    example more, half of it is shown.

    References
    ----------
    Steinke, Nasr and Jagielski, 'Privacy Auditing with One (1) Training Run',
    arXiv:2305.08846, with a guess for every pair.
    """
    if not count:
        return Pairs(0, 0, 1.0, 0.0, alpha)
    p_value = above_p_value(won, count, 0.5)
    low = float(beta.ppf(alpha, won, count - won + 1)) if won else 0.0
    epsilon = math.log(low / (1 - low)) if low > 0.5 else 0.0
    return Pairs(won, count, p_value, epsilon, alpha)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values adjusted so that one below alpha errs in at most alpha of cases.

    Of all of them together, whatever hangs on what.

    References
    ----------
    Holm, 'A Simple Sequentially Rejective Multiple Test Procedure', Scandinavian
    Journal of Statistics 6, 1979.
    """
    order = sorted(p_values, key=lambda name: p_values[name])
    found, largest = dict[str, float](), 0.0
    for place, name in enumerate(order):
        largest = max(largest, (len(order) - place) * p_values[name])
        found[name] = min(1.0, largest)
    return {name: found[name] for name in p_values}


def _check(hits: int, count: int) -> None:
    if not 0 <= hits <= count or count < 1:
        raise ValueError(
            f"hits must be 0 to the number of examples, got {hits} of {count}"
        )
