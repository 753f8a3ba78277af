"""The figure of an attack on single examples, where a run has a bank."""

import math
from pathlib import Path
from typing import Any

import pytest

from builders.findings import judged_run, verdict
from builders.run_results import render
from fedneg.reports.run.curves import MAX_PANELS, draw_curves

CURVE = {"auc": 0.61, "false_positives": [0.01, 0.1], "true_positives": [0.07, 0.2]}


def evidence(*clients: int) -> dict[str, Any]:
    """Return two models' entries."""
    curves = {str(k): CURVE for k in clients}
    return {"original": {"bank_attack": curves}, "retrained": {"bank_attack": curves}}


def test_every_client_has_a_panel_and_every_model_its_number() -> None:
    picture = draw_curves(evidence(3, 12))
    assert picture is not None
    for client in (3, 12):
        said = f"Client {client}: original AUC 0.61; retrained AUC 0.61."
        assert said in picture.alt
    # Each panel's lines and markers are in both sizes.
    assert {name: b"client 12" in picture.svg[name] for name in picture.svg} == {
        "wide": True,
        "narrow": True,
    }


def test_of_many_clients_some_are_drawn() -> None:
    picture = draw_curves(evidence(*range(9)))
    assert picture is not None
    assert picture.alt.count("Client ") == MAX_PANELS


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"bank_attack": None},
        {"bank_attack": {"3": None}},
        {"bank_attack": {"3": {**CURVE, "true_positives": [0.1]}}},
        {"bank_attack": {"3": {**CURVE, "auc": math.nan}}},
        {"bank_attack": {"three": CURVE}},
    ],
)
def test_what_is_no_curve_is_left_out(entry: dict[str, Any]) -> None:
    assert draw_curves({"original": entry}) is None


def test_report_has_it_and_says_that_it_decides_nothing(tmp_path: Path) -> None:
    before = render(tmp_path, judged_run(verdict(0.0), evidence={}))
    after = render(tmp_path, judged_run(verdict(0.0), evidence=evidence(4)))
    assert "bank_attack" not in before
    assert "Shown, and decides nothing." in after
    assert "original AUC 0.61" in after
