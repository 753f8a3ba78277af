"""How well a client's examples can be told from unseen ones by a model's answers.

Scores go in, higher meaning 'rather a member'; the ROC curve's area, the advantage and
the true-positive rate at a small false-positive rate come out, with bootstrap
intervals. The loss-threshold attack (Yeom et al., arXiv:1709.01604, Adversary 2) needs
nothing but losses; `fedneg.evaluation.lira` gives stronger scores where shadow models
are at hand.

Members and non-members must come from one distribution: scores of a client's training
images against those of *that* client's unseen images. Otherwise the attack measures how
the client differs from others, in a model that never saw it too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# 500 of them place the ends of a 95 % interval within about a tenth of its width.
RESAMPLES = 500
# Products such as 0.01 * 300 miss their whole number by rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class MembershipInput:
    """Membership scores of examples that were trained on, and of examples unseen.

    Parameters
    ----------
    member_scores, nonmember_scores : arrays, shapes (M,) and (N,)
        Higher means 'rather a member'. M and N are at least 1; all are finite. Kept as
        read-only float64 copies.

    Raises
    ------
    ValueError
        If a shape is not one-dimensional, an array is empty, or a score is not finite.
    """

    member_scores: Floats
    nonmember_scores: Floats

    def __post_init__(self) -> None:
        for name in ("member_scores", "nonmember_scores"):
            scores = np.array(getattr(self, name), dtype=np.float64)
            if scores.ndim != 1 or not scores.size:
                raise ValueError(
                    f"{name} must have shape (n,) with n at least 1, got {scores.shape}"
                )
            if not np.isfinite(scores).all():
                bad = scores[~np.isfinite(scores)][0]
                raise ValueError(f"{name} must be finite, got {bad}")
            scores.setflags(write=False)
            object.__setattr__(self, name, scores)

    @classmethod
    def from_losses(cls, member_losses: Floats, nonmember_losses: Floats) -> Self:
        """Return the loss-threshold attack: score = -loss (losses in nats).

        References
        ----------
        Yeom et al., arXiv:1709.01604, Adversary 2: the lower the loss, the likelier a
        member. Differs from the paper: every threshold is tried, not the mean training
        loss alone.
        """
        return cls(-np.asarray(member_losses), -np.asarray(nonmember_losses))


@dataclass(frozen=True, eq=False)
class Roc:
    """The ROC curve of all thresholds, from (0, 0) to (1, 1).

    `true_positives` and `false_positives` are counts, shape (T,): examples whose score
    is at or above each threshold, thresholds falling.
    """

    true_positives: NDArray[np.int64]
    false_positives: NDArray[np.int64]

    @property
    def tpr(self) -> Floats:
        """The share of members at or above each threshold."""
        found: Floats = self.true_positives / self.true_positives[-1]
        return found

    @property
    def fpr(self) -> Floats:
        """The share of non-members at or above each threshold."""
        found: Floats = self.false_positives / self.false_positives[-1]
        return found

    @property
    def auc(self) -> float:
        """P(member's score > non-member's), ties counting a half; 0.5 is no power."""
        # A sum of many small areas may end a rounding above 1.
        return min(float(np.trapezoid(self.tpr, self.fpr)), 1.0)

    @property
    def advantage(self) -> float:
        """max(TPR - FPR) over all thresholds, in [0, 1].

        Yeom et al., arXiv:1709.01604, definition 4. A maximum over thresholds that were
        not fixed beforehand: above 0 by chance too, about 0.63 sqrt(1/M + 1/N) on
        average.
        """
        return float((self.tpr - self.fpr).max())

    def tpr_at(self, fpr: float) -> float | None:
        """Return the highest TPR with at most `fpr` false positives, or None.

        None with fewer than 1/fpr non-members: then no threshold has a false-positive
        rate above 0 and at most `fpr`, and the number would speak of luck. Nothing is
        interpolated: the threshold is one that an attacker can set.

        References
        ----------
        Carlini et al., arXiv:2112.03570: an attack is as good as its few sure hits.
        """
        if not 0 < fpr < 1:
            raise ValueError(f"fpr must be greater than 0 and less than 1, got {fpr}")
        allowed = fpr * float(self.false_positives[-1]) + _ROUNDING
        if allowed < 1:
            return None
        return float(self.tpr[self.false_positives <= allowed].max())


def _places(given: MembershipInput) -> tuple[NDArray[np.intp], NDArray[np.intp], int]:
    """Return each member's and non-member's place among the falling scores."""
    pooled = np.concatenate([given.member_scores, given.nonmember_scores])
    # Equal scores share a place: no threshold comes between them.
    distinct, place = np.unique(-pooled, return_inverse=True)
    split = given.member_scores.size
    return place[:split], place[split:], distinct.size


def _roc(members: NDArray[np.intp], others: NDArray[np.intp], places: int) -> Roc:
    """Return the curve of scores that are given by their places."""
    counts = [
        np.concatenate([[0], np.cumsum(np.bincount(p, minlength=places))])
        for p in (members, others)
    ]
    return Roc(counts[0], counts[1])


def roc(given: MembershipInput) -> Roc:
    """Return the ROC curve of an attack."""
    return _roc(*_places(given))


@dataclass(frozen=True)
class Interval:
    """A value with the ends of its confidence interval."""

    value: float
    low: float
    high: float

    def __post_init__(self) -> None:
        # The value itself may lie outside: percentiles of a biased statistic.
        if not self.low <= self.high:
            raise ValueError(f"low must be at most high, got {self.low}, {self.high}")


def bootstrap(
    given: MembershipInput,
    statistic: Callable[[Roc], float],
    generator: np.random.Generator,
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
) -> Interval:
    """Return a statistic of the ROC curve with a percentile bootstrap interval.

    Parameters
    ----------
    given : MembershipInput
    statistic : callable
        E.g. ``lambda curve: curve.auc``.
    generator : numpy.random.Generator
        From `fedneg.core.seeding.rng`. M members and N non-members are drawn with
        replacement, each among their own: the sizes are no part of the chance.
    confidence : float
        In (0, 1).
    resamples : int
        At least 1.

    Raises
    ------
    ValueError
        If `confidence` or `resamples` is out of range.

    References
    ----------
    Efron and Tibshirani, 'An Introduction to the Bootstrap', 1993, section 13.3. It is
    the chance of the examples alone: other seeds of the training are the floor's.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    members, others, places = _places(given)
    found = []
    for _ in range(resamples):
        drawn = [p[generator.integers(p.size, size=p.size)] for p in (members, others)]
        found.append(statistic(_roc(drawn[0], drawn[1], places)))
    tail = (1 - confidence) / 2
    low, high = np.quantile(found, [tail, 1 - tail])
    value = statistic(_roc(members, others, places))
    return Interval(value, float(low), float(high))
