"""What was measured of each model beside the tests: descriptive, it decides nothing."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from fedneg.core.formats import MISSING, number, plain, rate
from fedneg.reports.conclusions import count
from fedneg.reports.html.figures import MODELS
from fedneg.reports.html.page import Page, name_with_note

_MEASURED = {
    "membership_auc": "membership AUC",
    "membership_tpr_at_fpr_1": "TPR at 1\N{NO-BREAK SPACE}% FPR",
    "lira_auc": "LiRA AUC",
    "lira_tpr_at_fpr_1": "LiRA TPR at 1\N{NO-BREAK SPACE}% FPR",
    "canary_auc": "canary AUC",
    "canary_exposure": "canary exposure (bits)",
    "relearn_batches": "batches to relearn",
    "js_to_retrained": "JS to retrained (nats)",
    "disagreement": "disagreement with retrained",
    "distance_to_retrained": "distance to retrained",
    "distance_to_original": "distance to original",
    "test_accuracy": "test accuracy",
    "attack_success_rate": "attack success",
}


def add_measured(page: Page, results: Mapping[str, Any]) -> None:
    """Add what was measured of each model, closed at first, if anything was."""
    evidence = results.get("evidence") or {}
    names = [name for name in MODELS if evidence.get(name)]
    if not names:
        return
    rows = [
        {"model": name} | _measured_of(evidence[name], results["models"].get(name))
        for name in names
    ]
    floor = results.get("floor") or {}
    if floor:
        models = floor.get("models")
        note = "" if models is None else f"of {count(models, 'retrained model')}"
        row: dict[str, object] = {"model": name_with_note("floor", note)}
        row |= {
            "js_to_retrained": _small(floor.get("js")),
            "disagreement": rate(floor.get("disagreement")),
            "test_accuracy": rate(floor.get("test_accuracy")),
            "attack_success_rate": rate(floor.get("attack_success_rate")),
        }
        rows.append(row)
    columns = [c for c in _MEASURED if any(r.get(c, MISSING) != MISSING for r in rows)]
    frame = pd.DataFrame(rows, columns=["model", *columns], dtype=object)
    page.details(
        "What was measured of each model",
        frame.fillna(MISSING),
        formats=dict.fromkeys(columns, str),
        headers=_MEASURED,
        caption="Intervals hold 95 % of bootstrap draws. The floor is the largest gap "
        "between retrained models that differ in nothing but their seeds."
        if floor
        else "Intervals hold 95 % of bootstrap draws.",
    )


def _measured_of(
    found: Mapping[str, Any], metrics: Mapping[str, Any] | None
) -> dict[str, object]:
    agreement = number(found.get("agreement_with_retrained"))
    exposure, chance = found.get("canary_exposure"), found.get("canary_exposure_chance")
    cells: dict[str, object] = {
        name: _interval(found.get(name))
        for name in ("membership_auc", "lira_auc", "canary_auc")
    }
    for name in ("membership_tpr_at_fpr_1", "lira_tpr_at_fpr_1"):
        cells[name] = rate(found.get(name))
    cells["canary_exposure"] = plain(exposure)
    if number(exposure) is not None and number(chance) is not None:
        cells["canary_exposure"] = f"{plain(exposure)} (chance {plain(chance)})"
    batches = found.get("relearn_batches")
    cap = batches is not None and found.get("relearn_reached") is False
    cells["relearn_batches"] = f"over {batches}" if cap else plain(batches)
    if found.get("relearn_unit") == "epochs":
        cells["relearn_batches"] = f"{cells['relearn_batches']} epochs"
    cells["js_to_retrained"] = _small(found.get("js_to_retrained"))
    cells["disagreement"] = rate(None if agreement is None else 1 - agreement)
    for name in ("distance_to_retrained", "distance_to_original"):
        cells[name] = _small(found.get(name))
    for name in ("test_accuracy", "attack_success_rate"):
        cells[name] = rate((metrics or {}).get(name))
    return cells


def _small(value: object) -> str:
    """Return a distance with four significant digits, a dash for null."""
    found = number(value)
    return MISSING if found is None else f"{found:.4g}"


def _interval(value: Mapping[str, Any] | None) -> str:
    """Return a value with its interval, a dash for null."""
    middle, low, high = (number((value or {}).get(k)) for k in ("value", "low", "high"))
    if middle is None:
        return MISSING
    if low is None or high is None:
        return f"{middle:.3f}"
    return f"{middle:.3f} [{low:.3f}, {high:.3f}]"
