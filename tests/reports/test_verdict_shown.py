"""A verdict as people see it: in the report, on the terminal and in a sweep."""

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from builders.run_results import make_run, render, said
from builders.verdicts import judged_run, measured, verdict
from fedneg.evaluation.rules import RULES as JUDGED
from fedneg.reports.compare.sweep import collect_sweep, write_sweep
from fedneg.reports.conclusions import describe_conclusions
from fedneg.reports.console import show_summary
from fedneg.reports.run.costs import describe_speed_up
from fedneg.reports.verdict_text import (
    control_warnings,
    describe_allowed,
    describe_controls,
    describe_evidence,
    describe_reason,
)


def shown(results: dict[str, Any], *, colour: bool = False) -> str:
    """Return what the terminal shows at the end of a run."""
    stream = io.StringIO()
    system = "standard" if colour else None
    console = Console(
        file=stream, width=100, force_terminal=colour, color_system=system
    )
    cost = {"reused_retraining": False} | results["cost"]
    show_summary(results | {"cost": cost}, "report.html", console)
    return stream.getvalue()


CASES = [
    (verdict(0.98), "not forgotten", "bad", "(+0.97, allowed 0.02)"),
    (verdict(0.02), "forgotten", "good", "within the gaps of retrained models (+0.01,"),
    (verdict(0.98, original=0.02), "inconclusive", "open", "no line of evidence had "),
    (verdict(0.98, retrainings=1), "inconclusive", "open", "only 1 retrained model to"),
]
IDS = ["not forgotten", "forgotten", "no power", "too few"]


@pytest.mark.parametrize(("found", "outcome", "look", "why"), CASES, ids=IDS)
def test_banner_says_outcome_reason_and_limit(
    tmp_path: Path, found: dict[str, Any], outcome: str, look: str, why: str
) -> None:
    assert found["outcome"] == outcome
    text = said(tmp_path, judged_run(found))
    assert f"Verdict on the recovered model: {outcome} Because: " in text
    assert why in text
    assert "nothing measured here found the client, not that nothing could" in text
    assert "arXiv:2408.00929" in text
    page = (tmp_path / "report.html").read_text()
    assert f'<div class="verdict {look}"' in page
    assert page.index('class="verdict ') < page.index('class="cards"')
    assert page.index('class="cards"') < page.index("Evidence for the verdict")


def test_outcomes_differ_in_more_than_colour(tmp_path: Path) -> None:
    shapes = set()
    for found, *_ in CASES[:3]:
        page = render(tmp_path, judged_run(found))
        start = page.index("<svg", page.index('<div class="verdict '))
        shapes.add(page[start : page.index("</svg>", start)])
    assert len(shapes) == 3


@pytest.mark.parametrize(("found", "outcome", "look", "why"), CASES, ids=IDS)
def test_terminal_says_the_verdict_in_one_line(
    found: dict[str, Any], outcome: str, look: str, why: str
) -> None:
    lines = shown(judged_run(found)[0]).splitlines()
    (line,) = [line for line in lines if line.startswith("verdict")]
    assert line.startswith(f"verdict (recovered): {outcome}: ")
    assert why in line
    assert lines[-1] == "report: report.html"


def test_terminal_line_is_the_one_promised() -> None:
    """0.98 - 0.01 = 0.97; the retrained models agree, so the margin of 0.02 is all."""
    assert (
        "verdict (recovered): not forgotten: attack success 0.98 above retrained "
        "models (+0.97, allowed 0.02)\n"
    ) in shown(judged_run(verdict(0.98))[0])


def test_terminal_colours_outcomes_apart() -> None:
    codes = [
        shown(judged_run(found)[0], colour=True).split("verdict (recovered): ")[1][:7]
        for found, *_ in CASES[:3]
    ]
    assert codes == ["\x1b[1;31m", "\x1b[1;32m", "\x1b[1;33m"]


def wrong_controls() -> dict[str, Any]:
    """Return a verdict whose controls both came out the wrong way."""
    controls = {"original": "forgotten", "retrained": "not forgotten"}
    return verdict(0.02) | {"controls": controls}


def test_wrong_controls_are_a_warning_everywhere(tmp_path: Path) -> None:
    found = wrong_controls()
    text = said(tmp_path, judged_run(found))
    page = (tmp_path / "report.html").read_text()
    warnings = control_warnings(found)
    assert len(warnings) == 2
    assert "calls the original model, which was trained with the" in warnings[0]
    assert "calls the retrained model, which never saw the" in warnings[1]
    for warning in warnings:
        assert f"Please note {warning}" in text
        assert page.index(warning) < page.index('class="verdict ')
        assert f"warning: {warning}\n" in shown(judged_run(found)[0])
    assert "But a control failed" in text
    assert "original model not forgotten \N{CHECK MARK} forgotten NO" in text


def test_right_controls_are_no_warning(tmp_path: Path) -> None:
    run = judged_run(verdict(0.98))
    text = said(tmp_path, run)
    assert "control failed" not in text
    assert "warning" not in shown(run[0])
    assert "As expected of the controls" in text
    assert "original model not forgotten \N{MULTIPLICATION X} not forgotten yes" in text


@pytest.mark.parametrize(
    ("controls", "claim"),
    [
        ({"original": "inconclusive", "retrained": "inconclusive"}, "Both controls"),
        (
            {"original": "inconclusive", "retrained": "forgotten"},
            "even in the original",
        ),
        ({"original": "not forgotten", "retrained": "inconclusive"}, "the retrained"),
        ({"original": "inconclusive", "retrained": None}, "had no power here"),
    ],
)
def test_inconclusive_controls_say_that_the_test_had_no_power(
    tmp_path: Path, controls: dict[str, str], claim: str
) -> None:
    found = verdict(0.98) | {"controls": controls}
    sentence = describe_controls(found)
    assert claim in sentence
    assert "had no power here" in sentence
    assert control_warnings(found) == []
    text = said(tmp_path, judged_run(found))
    assert sentence in text
    assert "inconclusive no power" in text


def test_table_holds_every_line_of_a_real_verdict(tmp_path: Path) -> None:
    found = verdict(0.98)
    assert len(found["evidence"]) == len(JUDGED)
    text = said(tmp_path, judged_run(found))
    assert "attack success gap to retrained models +0.9700 at most 0.0200" in text
    assert text.count("\N{WHITE CIRCLE} abstains not measured") == len(JUDGED) - 1


@pytest.mark.parametrize(
    ("line", "allowed"),
    [
        (("attack_success_gap", 0.5, 0.02, "not forgotten"), "at most 0.02"),
        (("relearn_ratio", 3.0, 0.85, "forgotten"), "at least 0.85"),
        (("relearn_ratio", 0.1, 0.85, "not forgotten"), "at least 0.85"),
        (("membership_auc", 0.7, 0.55, "not forgotten"), "at most 0.55"),
        (("membership_auc", 0.5, 0.55, "forgotten"), "at most 0.55"),
        (("membership_auc", 0.3, 0.45, "not forgotten"), "at least 0.45"),
        (("js_divergence", 0.3, None, "abstains"), "\N{EN DASH}"),
    ],
)
def test_threshold_says_on_which_side_it_lies(line: Any, allowed: str) -> None:
    keys = ("name", "value", "threshold", "decision")
    assert describe_allowed(dict(zip(keys, line, strict=True)), 2) == allowed


def test_numbers_that_differ_are_not_written_alike() -> None:
    line = {"name": "js_divergence", "value": 0.0112, "threshold": 0.0107, "why": "x"}
    assert describe_evidence(line) == "JS divergence x (0.0112, allowed 0.0107)"


def line(name: str, decision: str, why: str) -> dict[str, Any]:
    """Return a line of evidence without numbers."""
    values = {"name": name, "model": "recovered", "value": None, "threshold": None}
    return values | {"decision": decision, "why": why}


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([], "nothing was measured that could tell"),
        (
            [line("canary_auc", "abstains", "not measured")],
            "nothing was measured that could tell",
        ),
        (
            [
                line("js_divergence", "forgotten", "as near as retrained models are"),
                line("attack_success_gap", "abstains", "no power: 0.1"),
            ],
            "JS divergence proves nothing alone",
        ),
        (
            [line("attack_success_gap", "abstains", "explained by a loss of 0.3")],
            "attack success explained by a loss of 0.3",
        ),
    ],
)
def test_inconclusive_verdict_says_why(lines: Any, reason: str) -> None:
    found = {"outcome": "inconclusive", "model": "recovered", "evidence": lines}
    assert describe_reason({"verdict": found}) == reason


def test_forgotten_never_rests_on_a_line_that_proves_nothing_alone() -> None:
    lines = [
        line("js_divergence", "forgotten", "as near"),
        line("canary_auc", "forgotten", "as in retrained models"),
    ]
    found = {"outcome": "forgotten", "model": "recovered", "evidence": lines}
    assert describe_reason({"verdict": found}) == "canary AUC as in retrained models"


def test_further_lines_are_only_named_on_the_terminal() -> None:
    names = ("attack_success_gap", "membership_auc", "canary_auc")
    lines = [line(name, "not forgotten", "above") for name in names]
    found = {"outcome": "not forgotten", "model": "recovered", "evidence": lines}
    told = describe_reason({"verdict": found}, most=1)
    assert told == "attack success above; also membership AUC, canary AUC"


@pytest.mark.parametrize("keys", [{}, {"verdict": None, "evidence": {}, "floor": None}])
def test_results_without_a_verdict_are_shown_as_before(
    tmp_path: Path, keys: dict[str, Any]
) -> None:
    run = make_run()
    before = render(tmp_path, run)
    run[0].update(keys)
    assert render(tmp_path, run) == before
    for word in ("Verdict", "Evidence for the", "What was measured", "client-epochs"):
        assert word not in before
    assert "verdict" not in shown(run[0])


def test_what_was_measured_is_listed_with_the_floor_last(tmp_path: Path) -> None:
    """Disagreement is 1 - 0.96; the floor stands in the same columns."""
    text = said(tmp_path, judged_run(verdict(0.98), **measured()))
    rows = text[text.index("What was measured of each model") :]
    row = (
        "original 0.700 [0.650, 0.750] 0.0625 0.990 [0.970, 1.000] 4.25 (chance 1.375)"
    )
    assert f"{row} over 200 0.0123 0.0400 8.5 2.25" in rows
    floor = (
        "floor of 3 retrained models \N{EN DASH} \N{EN DASH} \N{EN DASH} \N{EN DASH}"
    )
    assert f"{floor} \N{EN DASH} 0.0107 0.0410" in rows
    assert rows.index(row) < rows.index(floor)
    assert "LiRA" not in rows[: rows.index(floor)], "a column of dashes is left out"


def test_measurements_without_a_verdict_are_kept_in_the_background(
    tmp_path: Path,
) -> None:
    text = said(tmp_path, judged_run(None, **measured()))
    assert text.index("Background") < text.index("What was measured of each model")


def test_forgetting_is_priced_beside_retraining(tmp_path: Path) -> None:
    text = said(tmp_path, judged_run(verdict(0.98), **measured()))
    assert "rounds with clients 2 10" in text
    assert "client-epochs 6 24" in text
    assert "sent by clients 1.0 KiB 1.0 KiB" in text
    assert "who had to be online clients 0, 2 and 3 clients 0, 2 and 3" in text
    assert "kept by the server for it 5.0 KiB \N{EN DASH}" in text
    assert "took 6 client-epochs, retraining 24: 4 times as many." in text


def test_forgetting_on_the_server_alone_needs_nobody_online(tmp_path: Path) -> None:
    keys = measured()
    keys["cost"] |= {"retraining": None, "speed_up": None}
    keys["cost"]["forgetting"] |= {"online": [], "seconds": None}
    text = said(tmp_path, judged_run(verdict(0.98), **keys))
    assert "who had to be online nobody" in text
    assert "beside retraining" not in text


@pytest.mark.parametrize(
    ("values", "claim"),
    [
        (
            (0.9, 6.0, 24.0, 4.0),
            "took 6 client-epochs, retraining 24: 4 times as many.",
        ),
        ((0.9, 24.0, 6.0, 0.25), "forgetting was the dearer one, 4 times."),
        ((0.9, 0.0, 24.0, None), "took 0 client-epochs, retraining 24."),
        ((0.9, None, 24.0, None), "To a test accuracy of 0.9000 forgetting never came"),
        ((0.9, 6.0, None, None), "retraining never came"),
        ((None, None, None, None), ""),
    ],
)
def test_speed_up_is_told_in_words(values: Any, claim: str) -> None:
    keys = ("accuracy", "method", "reference", "ratio")
    found = " ".join(describe_speed_up(dict(zip(keys, values, strict=True))))
    assert claim in found
    assert bool(found) == bool(claim)


def nulled(value: Any) -> Any:
    """Return the same shape with null for every number."""
    if isinstance(value, dict):
        return {key: nulled(inner) for key, inner in value.items()}
    return None if isinstance(value, int | float) else value


def test_null_metrics_become_dashes(tmp_path: Path) -> None:
    keys = nulled(measured())
    found = verdict(0.98)
    found |= {"utility": nulled(found["utility"])}
    found["evidence"] = [nulled(e) for e in found["evidence"]]
    run = judged_run(found, evidence=keys["evidence"], floor=keys["floor"])
    run[0]["cost"] |= {k: keys["cost"][k] for k in ("forgetting", "speed_up")}
    text = said(tmp_path, run)
    assert "Because: attack success 0.98 above retrained models." in text
    assert "None" not in text
    assert "nan" not in text.lower()
    bare = {"outcome": "not forgotten", "model": None, "evidence": None}
    bare |= {"controls": None, "utility": None}
    text = said(tmp_path, judged_run(bare, evidence=None, floor=None))
    assert "Verdict on the judged model: not forgotten" in text
    assert "verdict (?): not forgotten\n" in shown(judged_run(bare)[0])


def test_hostile_strings_stay_text(tmp_path: Path) -> None:
    bad = "</b><script>alert(1)</script>\x1b[2J[red]"
    found = verdict(0.98) | {"outcome": bad, "model": bad}
    found["evidence"] = [line(bad, bad, bad), line("canary_auc", "abstains", bad)]
    found["controls"] = {"original": bad, "retrained": bad}
    page = render(tmp_path, judged_run(found))
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 8
    printed = shown(judged_run(found)[0])
    assert "\x1b" not in printed
    assert "[red]" in printed


def test_same_inputs_give_same_bytes(tmp_path: Path) -> None:
    pages = [
        render(tmp_path / name, judged_run(verdict(0.98), **measured()))
        for name in ("one", "two")
    ]
    assert pages[0] == pages[1]


def test_conclusions_of_another_model_leave_the_verdict_alone() -> None:
    """No sentence may deny what the banner says of the model that was judged."""
    results = judged_run(verdict(0.02))[0]
    results["models"]["unlearned"]["test_accuracy"] = 0.11
    found = " ".join(describe_conclusions(results))
    claim = "this fall is no sign of forgetting; the verdict is on the recovered model."
    assert claim in found
    results["models"]["unlearned"] = dict(results["models"]["original"])
    results["verdict"]["model"] = "unlearned"
    found = " ".join(describe_conclusions(results))
    assert "no trace of forgetting by themselves; the verdict rests on" in found


def test_sweep_has_a_column_of_outcomes(tmp_path: Path) -> None:
    for job, found in enumerate((verdict(0.98), verdict(0.02), None)):
        folder = tmp_path / str(job)
        folder.mkdir()
        text = json.dumps(judged_run(found)[0])
        (folder / "results.json").write_text(text)
    outcomes = collect_sweep(tmp_path)["outcome"]
    assert outcomes.tolist()[:2] == ["not forgotten", "forgotten"]
    assert pd.isna(outcomes[2])
    table, page = write_sweep(tmp_path)
    assert pd.read_csv(table)["outcome"].isna().tolist() == [False, False, True]
    assert ">outcome</th>" in page.read_text()
    assert "<td>not forgotten</td>" in page.read_text()


def test_sweep_page_without_verdicts_has_no_column_for_them(tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "results.json").write_text(json.dumps(make_run()[0]))
    table, page = write_sweep(tmp_path)
    assert "outcome" in pd.read_csv(table)
    assert ">outcome</th>" not in page.read_text()
