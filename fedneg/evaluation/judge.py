"""Has a model forgotten? Tests that were fixed before anything was measured.

Of every leaving client, its residual influence (influence.py) and its canaries; of the
model, the planted marker (exact.py). Together they err in at most alpha of the cases in
which there is nothing to find, whatever hangs on what (Holm). What acquits is not that
nothing was found, but that the influence's whole interval lies within margins that were
set before: a model of which nothing can be told is never 'forgotten'.

Verification is fragile (Zhang et al., arXiv:2408.00929; Thudi et al.,
arXiv:2110.11891): 'forgotten' means that these tests, with this power, did not find the
client.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import fisher_exact
from scipy.stats import t as student

from fedneg.core.formats import name_clients
from fedneg.evaluation.decision import FORGOTTEN, NOT_FORGOTTEN
from fedneg.evaluation.exact import Pairs, Rate, holm, pairs_of, rate_of
from fedneg.evaluation.influence import MIN_OUT, Influence, influences
from fedneg.evaluation.verdict import INCONCLUSIVE, TOOK_NO_PART
from fedneg.tasks.confidence import confidence_of_losses

Losses = NDArray[np.float64]
# What is found; the outcome follows from it (`OUTCOMES`).
GONE, TRACES, OVERSHOT = "forgotten", "traces left", "overshot"
MARKER_ONLY, CANNOT_TELL = "marker gone, the rest unmeasured", "cannot tell"
OUTCOMES = {
    GONE: FORGOTTEN,
    TRACES: NOT_FORGOTTEN,
    OVERSHOT: NOT_FORGOTTEN,
    MARKER_ONLY: INCONCLUSIVE,
    CANNOT_TELL: INCONCLUSIVE,
    TOOK_NO_PART: INCONCLUSIVE,
}
# Of rho: less than half of what the client taught, and no more than as much below 0.
MARGINS = (-1.0, 0.5)
# How many models without the client a way on is looked for.
MOST_MODELS = 200


@dataclass(frozen=True, eq=False)
class Seen:
    """What was seen of a model.

    Attributes
    ----------
    losses : mapping of int to float64 array, shape (N,)
        By leaving client: the loss of each of its N training examples, in one order
        for all models, at least 0. Of a cross-entropy in nats.
    quality : float, optional
        In [0, 1], higher is better.
    marker : tuple of int, optional
        How often a planted trick worked, and of how many times.
    canaries : mapping of int to (array, array)
        By leaving client: the losses of planted canaries and of their held-out twins,
        each of shape (P,).
    """

    losses: Mapping[int, Losses] = field(default_factory=dict)
    quality: float | None = None
    marker: tuple[int, int] | None = None
    canaries: Mapping[int, tuple[Losses, Losses]] = field(default_factory=dict)


@dataclass(frozen=True)
class Marker:
    """How often a planted trick works, beside models that never saw it.

    `p_value`: one-sided, of 'no oftener than in these, nor than in the worst of them'.
    """

    judged: Rate
    references: Rate
    p_value: float


@dataclass(frozen=True)
class Finding:
    """What was found of a model.

    Attributes
    ----------
    outcome : str
        forgotten, not forgotten or inconclusive.
    finding : str
        A key of `OUTCOMES`.
    influence : dict of int to Influence or None
        By leaving client; None where nothing can be said of it.
    marker : Marker or None
    canaries : dict of int to Pairs
    p_values : dict of str to float
        Adjusted (Holm), by test.
    quality_lost : float or None
        Of the references' mean quality.
    margins : tuple of float
        Of rho.
    alpha : float
    """

    outcome: str
    finding: str
    influence: dict[int, Influence | None]
    marker: Marker | None
    canaries: dict[int, Pairs]
    p_values: dict[str, float]
    quality_lost: float | None
    margins: tuple[float, float]
    alpha: float

    @property
    def epsilon(self) -> float | None:
        """The largest lower bound of epsilon that canaries show; None without any."""
        return max((p.epsilon for p in self.canaries.values()), default=None)

    @property
    def models_needed(self) -> int | None:
        """How many models without the clients would tell; None: not so many.

        If each client's influence stays what it was found to be, and the models as far
        apart: then its interval is within the margins, or does not hold 0.
        """
        measured = [found for found in self.influence.values() if found is not None]
        needed = [models_to_tell(found, self.margins) for found in measured]
        known = [count for count in needed if count is not None]
        return max(known) if known and len(known) == len(needed) else None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        found = asdict(self)
        found |= {"epsilon": self.epsilon, "margins": list(self.margins)}
        for name in ("influence", "canaries"):
            found[name] = {str(k): one for k, one in found[name].items()}
        return found

    def __str__(self) -> str:
        """Return it as a sentence."""
        text = f"{self.outcome}: {self._found()}"
        lost = self.quality_lost
        if lost is None:
            return text
        return f"{text}; quality {'lost' if lost >= 0 else 'won'} {abs(lost):.3f}"

    def _found(self) -> str:
        worst = self._worst()
        if worst is None or self.finding in (TOOK_NO_PART, MARKER_ONLY):
            return self.finding
        client_id, found = worst
        said = "" if self.finding == self.outcome else f"{self.finding}; "
        said += (
            f"{found.rho:.2f} of what {name_clients([client_id])} taught is seen "
            f"({found.low:.2f} to {found.high:.2f})"
        )
        if self.finding != CANNOT_TELL:
            return said
        needed = self.models_needed
        way = "" if needed is None else f", about {needed} would tell"
        return f"{said} with {found.n_out} models without it{way}"

    def _worst(self) -> tuple[int, Influence] | None:
        """Return whose interval is farthest out of the margins."""
        low, high = self.margins
        seen = {k: found for k, found in self.influence.items() if found is not None}
        if not seen:
            return None
        return max(
            seen.items(), key=lambda one: max(low - one[1].low, one[1].high - high)
        )


def judge(
    model: Seen,
    *,
    trained_with: Sequence[Seen] = (),
    trained_without: Sequence[Seen] = (),
    absent: Collection[int] = (),
    alpha: float = 0.05,
    margins: tuple[float, float] = MARGINS,
) -> Finding:
    """Return what a model still holds of clients that were to be forgotten.

    Anybody's model, made by any method: only losses and counts are looked at.

    Parameters
    ----------
    model : Seen
        The one that is judged; the leaving clients are those of its losses, canaries
        and of `absent`.
    trained_with : sequence of Seen
        Of models that were trained with the clients, by other seeds: at least one for
        residual influence. They only buy power. One that lacks a client's losses is
        none of that client's.
    trained_without : sequence of Seen
        Of models that were trained without the clients: fresh initial parameters, other
        seeds, and as many rounds as the judged one had, repair included. At least two;
        validity rests on them.
    absent : collection of int
        Leaving clients that took part in no round.
    alpha : float
        In so many cases at most a model that was trained without the clients is said to
        have traces, or to have overshot.
    margins : tuple of float
        Within which the interval of every rho must lie for 'forgotten', below and above
        0; set before anything is measured.

    Raises
    ------
    ValueError
        If losses are negative or not finite, their numbers differ between models, or
        alpha or margins are none.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be in (0, 1), got {alpha!r}")
    if not margins[0] < 0 < margins[1]:
        raise ValueError(f"margins must be below and above 0, got {margins!r}")
    clients = sorted({*model.losses, *model.canaries} - set(absent))
    influence = {
        k: _influence(k, model, trained_with, trained_without, alpha)
        for k in sorted({*model.losses} - set(absent))
    }
    marker = _marker(model, trained_without, alpha)
    canaries = {
        k: _pairs(*model.canaries[k], alpha) for k in clients if k in model.canaries
    }
    tests = {f"influence {k}": i.p_value for k, i in influence.items() if i is not None}
    tests |= {f"canaries {k}": pairs.p_value for k, pairs in canaries.items()}
    if marker is not None:
        tests["marker"] = marker.p_value
    p_values = holm(tests)
    found = {name for name, p_value in p_values.items() if p_value < alpha}
    below = {
        f"influence {k}" for k, i in influence.items() if i is not None and i.rho < 0
    }
    if not clients and absent:
        finding = TOOK_NO_PART
    elif found - below:
        finding = TRACES
    elif found:
        finding = OVERSHOT
    elif influence and all(
        i is not None and margins[0] <= i.low and i.high <= margins[1]
        for i in influence.values()
    ):
        finding = GONE
    elif marker is not None and not any(influence.values()):
        finding = MARKER_ONLY
    else:
        finding = CANNOT_TELL
    return Finding(
        OUTCOMES[finding],
        finding,
        influence,
        marker,
        canaries,
        p_values,
        _lost(model, trained_without),
        margins,
        alpha,
    )


def models_to_tell(found: Influence, margins: tuple[float, float]) -> int | None:
    """Return how many models without the client would tell; None: over `MOST_MODELS`.

    Parameters
    ----------
    found : Influence
    margins : tuple of float
        As of `judge`.
    """
    # Its interval is to be within the margins, or to leave 0 out.
    enough = max(abs(found.rho), min(found.rho - margins[0], margins[1] - found.rho))
    for count in range(MIN_OUT, MOST_MODELS + 1):
        wide = student.ppf(1 - found.alpha / 2, count - 1) * np.sqrt(1 + 1 / count)
        if wide * found.sd <= enough:
            return count
    return None


def _influence(
    client_id: int,
    model: Seen,
    trained_with: Sequence[Seen],
    trained_without: Sequence[Seen],
    alpha: float,
) -> Influence | None:
    """Return a client's influence; None where models are missing or all alike."""
    ins, outs = (
        [_scores(m.losses[client_id]) for m in models if client_id in m.losses]
        for models in (trained_with, trained_without)
    )
    if not ins or len(outs) < MIN_OUT:
        return None
    found = influences(
        [_scores(model.losses[client_id])],
        with_client=ins,
        without_client=outs,
        alpha=alpha,
    )
    return None if found is None else found[0]


def _scores(losses: Losses) -> Losses:
    values = np.asarray(losses, np.float64)
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise ValueError("losses must be finite and at least 0")
    return confidence_of_losses(values)


def _marker(model: Seen, references: Sequence[Seen], alpha: float) -> Marker | None:
    """Return how a planted trick works, beside its pooled rate in the references."""
    seen = [one.marker for one in references if one.marker is not None]
    if model.marker is None or not seen:
        return None
    pooled = sum(hits for hits, _ in seen), sum(count for _, count in seen)
    # Models differ by more than their examples do: the trick is to work oftener than in
    # the one of them in which it works most, too.
    worst = max(seen, key=lambda one: one[0] / one[1])
    p_value = max(_oftener(model.marker, other) for other in (pooled, worst))
    return Marker(
        rate_of(*model.marker, alpha=alpha), rate_of(*pooled, alpha=alpha), p_value
    )


def _oftener(judged: tuple[int, int], other: tuple[int, int]) -> float:
    """Return Fisher's exact p, one-sided, of 'no oftener than in the other'."""
    table = [[hits, count - hits] for hits, count in (judged, other)]
    return float(fisher_exact(table, alternative="greater").pvalue)


def _pairs(planted: Losses, held_out: Losses, alpha: float) -> Pairs:
    """Return what canaries show; of a pair with equal losses nothing can be said."""
    won = int((np.asarray(planted) < np.asarray(held_out)).sum())
    lost = int((np.asarray(planted) > np.asarray(held_out)).sum())
    return pairs_of(won, won + lost, alpha=alpha)


def _lost(model: Seen, references: Sequence[Seen]) -> float | None:
    """Return by how much the model is worse than the references' mean."""
    seen = [one.quality for one in references if one.quality is not None]
    return None if model.quality is None or not seen else fmean(seen) - model.quality
