"""The lines of evidence: what one number of a model says beside retrained models'.

A line decides in three steps, and abstains where it cannot take one: is there a floor
(retrained models that were measured), has the line *power* (it would catch the original
model, which knows everything), and on which side of the threshold is the judged model.
The power is a matter of the original and the retrained models alone; what is judged has
no say in it.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from statistics import median

from fedneg.evaluation.decision import (
    ABSTAINS,
    FORGOTTEN,
    NOT_FORGOTTEN,
    Evidence,
)
from fedneg.evaluation.floor import absolute_gap, floor_of
from fedneg.evaluation.measurements import Case, Measurements
from fedneg.evaluation.membership import Interval
from fedneg.evaluation.relearn import unit_of


def _abstain(
    case: Case,
    name: str,
    why: str,
    *,
    value: float | None = None,
    threshold: float | None = None,
) -> Evidence:
    """Return a line that says nothing, and why."""
    return Evidence(name, case.judged.name, value, threshold, ABSTAINS, why)


def _gap_rule(
    case: Case,
    name: str,
    metric: Callable[[Measurements], float | None],
    *,
    margin: float,
) -> Evidence:
    """Return the line of a rate that is high while the client is remembered.

    The value is the signed gap to the median of the retrained models.
    """
    judged, original = metric(case.judged), metric(case.original)
    retrained = [v for v in map(metric, case.references) if v is not None]
    if judged is None or original is None or not retrained:
        return _abstain(case, name, "not measured")
    middle = median(retrained)
    gap = judged - middle
    floor = floor_of(retrained, absolute_gap)
    if floor is None or floor.models < case.settings.min_retrainings:
        return _abstain(case, name, case.too_few(len(retrained)), value=gap)
    threshold = floor.gap + margin
    if original - middle <= case.settings.power * threshold:
        why = f"no power: the original's gap is {original - middle:.4g}"
        return _abstain(case, name, why, value=gap, threshold=threshold)
    known = gap > threshold
    why = "above retrained models" if known else "within the gaps of retrained models"
    decision = NOT_FORGOTTEN if known else FORGOTTEN
    return Evidence(name, case.judged.name, gap, threshold, decision, why)


def attack_rule(case: Case) -> Evidence:
    """Return what attack success on test images says.

    A model that errs on a share x more of the test images than retrained models may hit
    the attacker's answer on up to x of them by that alone: damage, not memory. So may
    one that gives this answer without the trigger as often: the constant one is right
    about every triggered image, and knows nothing.
    """
    margin = case.settings.attack_margin
    found = _gap_rule(
        case, "attack_success_gap", lambda m: m.attack_success, margin=margin
    )
    if found.decision != NOT_FORGOTTEN or found.value is None:
        return found
    if case.judged.attack_base is not None:
        bases = [m.attack_base or 0.0 for m in case.references]
        base = case.judged.attack_base - median(bases)
        if found.threshold is not None and found.value - base <= found.threshold:
            why = f"answered so without the trigger too, by {base:.4g} more"
            return replace(found, decision=ABSTAINS, why=why)
    lost = median(m.test_accuracy for m in case.references) - case.judged.test_accuracy
    if found.value > lost:
        return found
    why = f"explained by a loss of {lost:.4g} in test accuracy"
    return replace(found, decision=ABSTAINS, why=why)


def as_trained_rule(case: Case) -> Evidence:
    """Return what accuracy on the labels that the client trained says (label flips).

    Far below any retrained model it shows damage, which is no sign of forgetting.
    """
    margin = case.settings.as_trained_margin
    found = _gap_rule(
        case, "as_trained_accuracy_gap", lambda m: m.as_trained_accuracy, margin=margin
    )
    if found.decision != FORGOTTEN or found.value is None or found.threshold is None:
        return found
    if found.value >= -found.threshold:
        return found
    why = "below retrained models: damage is no forgetting"
    return replace(found, decision=ABSTAINS, why=why)


def _auc_rule(
    case: Case,
    name: str,
    metric: Callable[[Measurements], Interval | None],
    *,
    margin: float,
) -> Evidence:
    """Return the line of an AUC, which may leave the retrained models' either way.

    Far below them the examples stand out as well: the attacker turns the score around.
    """
    judged, original = metric(case.judged), metric(case.original)
    retrained = [v.value for v in map(metric, case.references) if v is not None]
    if judged is None or original is None or not retrained:
        return _abstain(case, name, "not measured")
    floor = floor_of(retrained, absolute_gap)
    if floor is None or floor.models < case.settings.min_retrainings:
        why = case.too_few(len(retrained))
        return _abstain(case, name, why, value=judged.value)
    allowed = floor.gap + margin
    high, low = median(retrained) + allowed, median(retrained) - allowed
    if original.low <= max(0.5, high):
        why = (
            f"no power: the original's AUC is {original.value:.4g}, {original.low:.4g}"
        )
        why += " at the lower end of its interval"
        return _abstain(case, name, why, value=judged.value, threshold=high)
    found = Evidence(
        name, case.judged.name, judged.value, high, FORGOTTEN, "as in retrained models"
    )
    if judged.value > high:
        return replace(found, decision=NOT_FORGOTTEN, why="above retrained models")
    if judged.value < low:
        why = "below retrained models: the examples stand out the other way"
        return replace(found, threshold=low, decision=NOT_FORGOTTEN, why=why)
    return found


def membership_rule(case: Case) -> Evidence:
    """Return what membership of the forget set against unseen data says."""
    margin = case.settings.membership_margin
    return _auc_rule(case, "membership_auc", lambda m: m.membership_auc, margin=margin)


def lira_rule(case: Case) -> Evidence:
    """Return what membership says where each example's difficulty is known (LiRA)."""
    margin = case.settings.lira_margin
    return _auc_rule(case, "lira_auc", lambda m: m.lira_auc, margin=margin)


def canary_rule(case: Case) -> Evidence:
    """Return what planted canaries against held-out ones say."""
    margin = case.settings.canary_margin
    return _auc_rule(case, "canary_auc", lambda m: m.canary_auc, margin=margin)


def _distance_rule(
    case: Case,
    name: str,
    distances: Callable[[Measurements], Mapping[str, float]],
    *,
    margin: float,
) -> Evidence:
    """Return the line of a distance between answers; it never proves forgetting alone.

    A model may be far from retrained ones because it remembers, or for any other
    reason; so only one that is as near to the original as retrained models are to each
    other has not forgotten.
    """

    def apart(first: Measurements, second: Measurements) -> float:
        if first.digest == second.digest:
            return 0.0
        found = distances(first).get(second.digest)
        return distances(second)[first.digest] if found is None else found

    if len(case.references) < case.settings.min_retrainings:
        return _abstain(case, name, case.too_few(len(case.references)))
    try:
        floor = floor_of(case.references, apart)
        value = median(apart(case.judged, m) for m in case.references)
        originals = median(apart(case.original, m) for m in case.references)
        to_original = apart(case.judged, case.original)
    except KeyError:
        return _abstain(case, name, "not measured")
    threshold = (floor.gap if floor else 0.0) + margin
    found = _abstain(case, name, "", value=value, threshold=threshold)
    if originals <= case.settings.power * threshold:
        return replace(found, why=f"no power: the original is at {originals:.4g}")
    if value <= threshold:
        return replace(
            found, decision=FORGOTTEN, why="as near as retrained models are; no proof"
        )
    if to_original <= threshold:
        why = f"as good as the original itself, {to_original:.4g} from it"
        return replace(found, decision=NOT_FORGOTTEN, why=why)
    return replace(found, why="far from retrained models and from the original")


def js_rule(case: Case) -> Evidence:
    """Return what the Jensen-Shannon divergence of the answers says."""
    margin = case.settings.js_margin
    return _distance_rule(
        case, "js_divergence", lambda m: m.js_divergence, margin=margin
    )


def disagreement_rule(case: Case) -> Evidence:
    """Return what the share of differing predictions says (1 - agreement)."""
    margin = case.settings.disagreement_margin
    return _distance_rule(case, "disagreement", lambda m: m.disagreement, margin=margin)


def _relearned(case: Case, found: Evidence, sooner: bool, *, capped: bool) -> Evidence:
    """Return what a powered line of relearning says.

    Sooner is memory, and as late as retrained models is forgetting (never alone), but
    only of models in a like state: an untrained network has nothing to overcome and
    learns random labels sooner than a retrained one; ruined weights learn anything
    late.
    """
    if case.damaged:
        return replace(found, why="a damaged model's relearning says nothing")
    if sooner:
        return replace(
            found, decision=NOT_FORGOTTEN, why="sooner than retrained models"
        )
    if capped:
        return replace(
            found, why="retrained models met the cap, so the ratio is a bound"
        )
    if not case.utility.kept:
        return replace(found, why="less accurate than retrained models: late anyway")
    return replace(found, decision=FORGOTTEN, why="as late as retrained models")


def relearn_rule(case: Case) -> Evidence:
    """Return what relearning says: the time as a ratio to retrained models'.

    Without power it abstains, as where the retrained models are too quick.
    """
    name = "relearn_ratio"
    judged = case.judged.relearn
    times = [m.relearn for m in case.references if m.relearn is not None]
    if judged is None or case.original.relearn is None or not times:
        return _abstain(case, name, "not measured")
    unit = unit_of([judged, *times])
    if unit is None:
        return _abstain(case, name, "some models were relearned in epochs, not batches")
    floor = floor_of([float(t.batches) for t in times], absolute_gap)
    if floor is None or floor.models < case.settings.min_retrainings:
        return _abstain(case, name, case.too_few(len(times)))
    middle = median(t.batches for t in times)
    if middle < case.settings.min_relearn_batches:
        why = f"no power: retrained models need {middle:g} {unit}"
        return _abstain(case, name, why)
    ratio = judged.batches / middle
    # Who was found able at one look may have been so ever since the one before.
    unseen = 0 if unit == "epochs" else case.settings.relearn_every - 1
    threshold = 1 - (floor.gap + unseen) / middle - case.settings.relearn_margin
    found = _abstain(case, name, "", value=ratio, threshold=threshold)
    if case.original.relearn.batches / middle * case.settings.power >= threshold:
        return replace(found, why="no power: the original is no faster")
    capped = not all(t.reached for t in times)
    return _relearned(case, found, ratio < threshold, capped=capped)


RULES: tuple[Callable[[Case], Evidence], ...] = (
    *(attack_rule, as_trained_rule, membership_rule, lira_rule, canary_rule),
    *(relearn_rule, js_rule, disagreement_rule),
)
