"""The paper's two research questions, answered from our measurements.

Every word that judges is chosen by the numbers beside it.
"""

import pandas as pd

from fedneg.reports.paper.published import PAPER_REMOVED
from fedneg.reports.paper.state import PaperMeasurements

LOW = 0.05  # attack success from here down counts as gone
QUESTIONS = (
    "To what extent does subtracting local model parameters serve to reduce the "
    "influence of the associated training data?",
    "What impact does federated unlearning have on the performance of models?",
)


def influence_answer(found: PaperMeasurements) -> list[str]:
    """Answer research question 1 from the backdoor federation, in three sentences.

    To what extent does subtracting local model parameters reduce the influence of the
    associated training data?
    """
    scan = found.scan[found.scan["federation"] == "backdoor"]
    update = scan[scan["form"] == "update"].set_index("scale")
    parameters = scan[scan["form"] == "parameters"].set_index("scale")
    before = float(update.loc[0.0, "attack_success_rate"])
    after = float(update.loc[1.0, "attack_success_rate"])
    weight = _nearest_index(parameters, 1 / (found.scan["client_id"].max() + 1))
    by_weight = float(parameters.loc[weight, "attack_success_rate"])
    standard = (
        ""
        if found.retrained_attack_success is None
        else f" (retrained without it: {found.retrained_attack_success:.3f})"
    )
    first = (
        f"Subtracting the attacker's accumulated updates with scale 1 "
        f"{_change(before, after, 'attack success')}{standard}, "
        f"{_removes(before, after)} its influence."
    )
    second = (
        f"Subtracting its last parameters with a scale of {weight:g}, about its own "
        f"weight, {_change(before, by_weight, 'attack success')}, "
        f"{_removes(before, by_weight)} its influence."
    )
    gone = parameters[parameters["attack_success_rate"] <= LOW]
    if gone.empty:
        third = (
            "No scale of the parameters form up to 1 brings attack success as low as "
            f"{LOW:.2f}."
        )
    else:
        scale = float(gone.index.min())
        accuracy = float(parameters.loc[scale, "accuracy"])
        third = (
            f"The parameters form needs a scale of {scale:g} to bring attack success "
            f"down to {float(parameters.loc[scale, 'attack_success_rate']):.3f}, and "
            f"the accuracy is then {accuracy:.3f} against "
            f"{float(update.loc[1.0, 'accuracy']):.3f} with the update form."
        )
    return [first, second, third]


def performance_answer(found: PaperMeasurements) -> list[str]:
    """Answer research question 2 from Table 1, in three sentences.

    What impact does federated unlearning have on the performance of models?
    """
    table = found.table1[found.table1["partition"] == "all"].set_index("form")
    removed = [c for c in table.columns if str(c).startswith("removed_")]
    before = float(table.loc["update", "federated_model"])

    def span(form: str) -> tuple[float, float]:
        values = [float(table.loc[form, c]) for c in removed]
        return min(values), max(values)

    low, high = span("update")
    low_p, high_p = span("parameters")
    low_n, high_n = span("parameters_nearest")
    first = (
        f"Removing one client by its accumulated updates takes the accuracy on all "
        f"test partitions from {before:.3f} to between {low:.3f} and {high:.3f}, "
        f"and by its last parameters with its own weight to between {low_p:.3f} and "
        f"{high_p:.3f}."
    )
    above = [f for f in ("update", "parameters") if span(f)[0] > 0.9]
    second = (
        "The paper's bound of 0.90 holds for "
        + {
            0: "neither form",
            1: f"the {above[0] if above else ''} form only",
            2: "both forms",
        }[len(above)]
    )
    if found.nearest["gap"].notna().all():
        second += (
            f"; with the scales that come nearest to its Table 1 "
            f"({found.nearest['scale'].min():g} to {found.nearest['scale'].max():g}) "
            f"the accuracy is {low_n:.3f} to {high_n:.3f}, where the paper's own "
            f"figures go down to {min(map(min, PAPER_REMOVED)):.2f}"
        )
    end = found.retraining[found.retraining["epoch"] == found.retraining["epoch"].max()]
    start = found.retraining[found.retraining["epoch"] == 0]
    whole = float(found.federated["accuracy"].iloc[-1])
    update_start = start[start["form"] == "update"]["accuracy"].mean()
    update_end = end[end["form"] == "update"]["accuracy"].mean()
    third = (
        "After the update form, training on the removed client's own data for "
        f"{int(end['epoch'].max())} epochs "
        f"{_change(update_start, update_end, 'mean test accuracy')}, "
        f"{'still below' if update_end < whole - 0.002 else 'not below'} the "
        f"federated model's {whole:.3f} before any removal."
    )
    return [first, second + ".", third]


def _nearest_index(table: pd.DataFrame, value: float) -> float:
    return float(min(table.index, key=lambda scale: abs(float(scale) - value)))


def _change(before: float, after: float, what: str) -> str:
    if abs(after - before) < 0.002:
        return f"leaves {what} at {after:.3f}"
    verb = "lowers" if after < before else "raises"
    return f"{verb} {what} from {before:.3f} to {after:.3f}"


def _removes(before: float, after: float) -> str:
    """Say how much of an attack is gone, in words that the numbers choose."""
    left = after / before if before else 1.0
    if left <= 0.05:
        return "which removes nearly all of"
    if left <= 0.5:
        return "which removes most of"
    if left <= 0.9:
        return "which removes a part of"
    return "which hardly removes"
