"""What was measured of a model for the verdict, and the case that it decides on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median

from fedneg.core.verdict_settings import VerdictSettings
from fedneg.evaluation.divergence import MAX_JS
from fedneg.evaluation.floor import absolute_gap, floor_of
from fedneg.evaluation.membership import Interval
from fedneg.evaluation.relearn import RelearnTime


def _check(name: str, value: float | None, top: float = 1.0) -> None:
    """Raise ValueError unless a number is between 0 and `top`; NaN is not."""
    if value is None or not 0 <= value <= top:
        raise ValueError(f"{name} must be from 0 to {top!r}, got {value!r}")


@dataclass(frozen=True)
class Measurements:
    """The numbers of one model; None or no entry for what was not measured.

    Parameters
    ----------
    name : str
        Only to be written down; nothing is decided by it.
    digest : str
        A digest of the parameters: which models are the same one.
    test_accuracy, attack_success, as_trained_accuracy : float
        Fractions. Attack success on the server's test images; accuracy as trained on
        the forgotten clients' own examples with the labels that they trained.
    attack_base : float
        What attack success would be without the trigger: the share of the same images,
        as they are, that the model answers as the attacker hopes. A fraction.
    membership_auc, lira_auc, canary_auc : Interval
        With a bootstrap interval.
    relearn : RelearnTime
        On the forgotten clients' own examples.
    js_divergence, disagreement : mapping
        From the digest of another model to the mean divergence in nats and to the
        share of differing predictions, on the same images. To every retrained model,
        and to the original.

    Raises
    ------
    ValueError
        If a value is not finite or out of its range: whoever computed it has a defect,
        and no user made a mistake.
    """

    name: str
    digest: str
    test_accuracy: float
    attack_success: float | None = None
    as_trained_accuracy: float | None = None
    attack_base: float | None = None
    membership_auc: Interval | None = None
    lira_auc: Interval | None = None
    canary_auc: Interval | None = None
    relearn: RelearnTime | None = None
    js_divergence: Mapping[str, float] = field(default_factory=dict)
    disagreement: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (
            *("test_accuracy", "attack_success", "as_trained_accuracy"),
            "attack_base",
        ):
            value = getattr(self, name)
            if value is not None or name == "test_accuracy":
                _check(name, value)
        for name in ("membership_auc", "lira_auc", "canary_auc"):
            interval = getattr(self, name)
            if interval is not None:
                for end in ("value", "low", "high"):
                    _check(name, getattr(interval, end))
        for name, top in (("js_divergence", MAX_JS), ("disagreement", 1.0)):
            for value in getattr(self, name).values():
                _check(name, value, top)


@dataclass(frozen=True)
class Utility:
    """Test accuracy beside retrained models: reported, no sign of forgetting.

    `gap` is the model's accuracy minus the median of theirs; `kept` whether it is no
    lower than `threshold`. None without a floor.
    """

    value: float
    gap: float | None
    threshold: float | None
    kept: bool | None


class Case:
    """A model to judge, the original, and the retrained models beside it.

    Parameters
    ----------
    judged, original : Measurements
    retrained : sequence of Measurements
        With different seeds. `references` are those of them that are not the judged
        model: nothing is its own proof. One that comes twice counts once.
    settings : VerdictSettings
    """

    def __init__(
        self,
        judged: Measurements,
        *,
        original: Measurements,
        retrained: Sequence[Measurements],
        settings: VerdictSettings,
    ) -> None:
        self.judged, self.original, self.settings = judged, original, settings
        distinct = {m.digest: m for m in retrained}
        self.references = tuple(
            m for key, m in distinct.items() if key != judged.digest
        )

    def too_few(self, retrainings: int) -> str:
        """Return why there is no floor."""
        least = self.settings.min_retrainings
        models = "model" if retrainings == 1 else "models"
        return f"{retrainings} other retrained {models} measured, {least} needed"

    @property
    def damaged(self) -> bool:
        """Whether it is less accurate than retrained models *and* than the original.

        A poisoned original may be the less accurate one: it is damaged by what it
        remembers, and so is a model that did nothing.
        """
        gap, threshold = self.utility.gap, self.utility.threshold
        if gap is None or threshold is None:
            return False
        lost = self.judged.test_accuracy - gap - self.original.test_accuracy
        return gap < threshold - max(0.0, lost)

    @cached_property
    def utility(self) -> Utility:
        """The judged model's test accuracy beside retrained models'."""
        accuracy = self.judged.test_accuracy
        others = [m.test_accuracy for m in self.references]
        floor = floor_of(others, absolute_gap)
        if floor is None or floor.models < self.settings.min_retrainings:
            return Utility(accuracy, None, None, None)
        threshold = -(floor.gap + self.settings.utility_margin)
        gap = accuracy - median(others)
        return Utility(accuracy, gap, threshold, gap >= threshold)
