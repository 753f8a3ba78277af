"""The report's verdict: its banner, the lines behind it, and what was measured.

Nothing is decided here: outcomes are those of `fedneg.evaluation.verdict`, as they
stand in results.json.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from markupsafe import Markup

from fedneg.core.formats import MISSING, number, plain, rate, signed
from fedneg.evaluation.decision import FORGOTTEN, NOT_FORGOTTEN
from fedneg.reports.conclusions import count
from fedneg.reports.html.figures import MODELS
from fedneg.reports.html.page import Page, badge, name_with_note, prose
from fedneg.reports.verdict_text import (
    EXPECTED,
    UNITS,
    control_warnings,
    describe_allowed,
    describe_controls,
    describe_reason,
    describe_value,
    evidence_of,
    name_evidence,
    verdict_of,
)

_KINDS = {FORGOTTEN: "good", NOT_FORGOTTEN: "bad"}  # any other is open
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


def _badge(outcome: object) -> Markup:
    """Return an outcome or a line's decision with the look that it has everywhere."""
    return badge(_KINDS.get(str(outcome), "open"), str(outcome or MISSING))


def add_banner(page: Page, results: Mapping[str, Any]) -> None:
    """Add what was found, why, and how far that goes; and failed controls as notes."""
    verdict = verdict_of(results)
    if verdict is None:
        return
    warnings = control_warnings(verdict)
    for warning in warnings:
        page.notice(warning)
    outcome = str(verdict["outcome"])
    clients = "clients" if len(results["forget"]) > 1 else "client"
    means = "means" if outcome == FORGOTTEN else "would only mean"
    limit = (
        f"\N{LEFT SINGLE QUOTATION MARK}Forgotten\N{RIGHT SINGLE QUOTATION MARK} "
        f"{means} that nothing measured here found the {clients}, not that nothing "
        "could (Zhang et al., arXiv:2408.00929)."
    )
    reason = describe_reason(results)
    said = [f"Because: {reason}."] if reason else []
    if warnings:
        said.append("But a control failed: do not rely on this. See the note above.")
    page.verdict(
        _KINDS.get(outcome, "open"),
        f"Verdict on the {verdict.get('model') or 'judged'} model",
        outcome,
        [*said, limit],
    )


def add_evidence(page: Page, results: Mapping[str, Any]) -> None:
    """Add the section of a verdict: its lines, the controls, and every measurement."""
    verdict = verdict_of(results)
    if verdict is None:
        return
    page.section("Evidence for the verdict")
    pieces = evidence_of(verdict)
    if pieces:
        page.table(
            pd.DataFrame(
                {
                    "evidence": [
                        name_with_note(
                            name_evidence(e), UNITS.get(str(e.get("name")), "")
                        )
                        for e in pieces
                    ],
                    "value": [describe_value(e) for e in pieces],
                    "allowed": [describe_allowed(e) for e in pieces],
                    "decision": [_badge(e.get("decision")) for e in pieces],
                    "why": [prose(str(e.get("why") or MISSING)) for e in pieces],
                },
                dtype=object,
            ),
            caption="Lines of evidence: one that says \N{LEFT SINGLE QUOTATION MARK}"
            "not forgotten\N{RIGHT SINGLE QUOTATION MARK} decides",
            formats={"value": str},
            headers={"allowed": "threshold"},
        )
    _add_controls(page, verdict)
    utility = _describe_utility(verdict)
    if utility:
        page.text(utility)
    add_measured(page, results)


def _add_controls(page: Page, verdict: Mapping[str, Any]) -> None:
    """Add what the same judge says of models whose answer is known."""
    controls = verdict.get("controls") or {}
    known = [name for name in EXPECTED if controls.get(name)]
    if not known:
        return
    as_expected = [
        "yes"
        if controls[name] == EXPECTED[name]
        else "NO"
        if controls[name] in _KINDS
        else "no power"
        for name in known
    ]
    frame = {
        "control": [f"{name} model" for name in known],
        "expected": [EXPECTED[name] for name in known],
        "outcome": [_badge(controls[name]) for name in known],
        "as expected": as_expected,
    }
    page.table(
        pd.DataFrame(frame, dtype=object),
        caption="Controls: the same judge on models whose answer is known",
    )
    page.text(describe_controls(verdict))


def _describe_utility(verdict: Mapping[str, Any]) -> str:
    """Return whether the model is still good, which is no sign of forgetting."""
    utility = verdict.get("utility") or {}
    value, gap = number(utility.get("value")), number(utility.get("gap"))
    least, kept = number(utility.get("threshold")), utility.get("kept")
    if value is None or gap is None or least is None or kept is None:
        return ""
    return (
        f"The judged model's test accuracy is {rate(value)}, {signed(gap)} from "
        f"retrained models (at least {signed(least)} counts as kept): utility is "
        f"{'kept' if kept else 'not kept'}. That has no part in the verdict."
    )


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
