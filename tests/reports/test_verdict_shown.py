"""A verdict as people see it: in the report, on the terminal and in a sweep."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from builders.findings import EARLIER, judged_run, measured, verdict
from builders.run_results import make_run, render, said
from fedneg.reports.compare.sweep import collect_sweep, write_sweep
from fedneg.reports.conclusions import describe_conclusions
from fedneg.reports.console import show_summary
from fedneg.reports.run.costs import describe_speed_up
from fedneg.reports.verdict_tests import deciding_tests
from fedneg.reports.verdict_text import (
    control_warnings,
    describe_controls,
    describe_finding,
    describe_outcome,
)


def shown(
    results: dict[str, Any],
    *,
    colour: bool = False,
    terminal: bool = False,
    width: int = 100,
) -> str:
    """Return what the terminal shows at the end of a run."""
    stream = io.StringIO()
    system = "standard" if colour else None
    console = Console(
        file=stream,
        width=width,
        force_terminal=colour or terminal,
        color_system=system,
    )
    cost = {"reused_retraining": False} | results["cost"]
    show_summary(results | {"cost": cost}, "report.html", console)
    return stream.getvalue()


TOLD = {"outcome": "inconclusive", "finding": "is a retrained model"}
BARE = {"outcome": "not forgotten", "model": None, "controls": None}
TOO_FEW = {"outs": 3, "ins": 1, "chance": 2.0, "alpha": 0.01}
# What the judge is given, and the outcome, the look and words of what is said.
CASES: dict[str, tuple[dict[str, Any], str, str, list[str]]] = {
    "forgotten": (
        {"seed": 1},
        "forgotten",
        "good",
        ["% of it can still be seen (between", "; accuracy lost 0.010."],
    ),
    "traces": (
        {"share": 0.6},
        "not forgotten (traces left)",
        "bad",
        ["What this client taught: ", "% of it can still be seen (between "],
    ),
    "overshot": (
        {"share": -1.2},
        "not forgotten (overshot)",
        "bad",
        ["more than all of it was taken away, by ", "somebody was taken out"],
    ),
    "open": (
        TOO_FEW,
        "inconclusive",
        "open",
        ["how much of it can still be seen is open (", "3 models without it resolve "],
    ),
    "too few": (
        {"outs": 2, "ins": 1},
        "inconclusive",
        "open",
        [
            "What else this client taught cannot be told",
            "at least 4 retrainings, and there were 3; try",
        ],
    ),
    "none": (
        {"outs": 0, "ins": 0},
        "inconclusive",
        "open",
        ["o model was retrained to compare with", "reference=true"],
    ),
    "the trick": (
        {"marker": 700},
        "not forgotten (traces left)",
        "bad",
        ["70 % after, 0.3 % in models that", "more often than chance explains"],
    ),
    "canaries": (
        {"pairs": (97, 100)},
        "not forgotten (traces left)",
        "bad",
        ["the planted one in 97: epsilon is at least 2.5."],
    ),
    "no canaries": (
        {"pairs": (52, 100)},
        "forgotten",
        "good",
        ["the planted one in 52, as by chance."],
    ),
    "fewer canaries": (
        {"pairs": (35, 100)},
        "inconclusive",
        "open",
        ["the planted one in 35: fewer than chance would have, and too few to acquit."],
    ),
    "never there": (
        {"absent": (4,)},
        "inconclusive",
        "open",
        ["Client 4 took part in no round: nothing of it is in the model, and there "],
    ),
    "one of two": (
        {"clients": (1, 3), "share": {1: 0.0, 3: 0.9}},
        "not forgotten (traces left)",
        "bad",
        ["models that never saw these clients", "What client 3, the worst of 2, "],
    ),
    "two of two": (
        {"clients": (1, 3), "share": {1: -1.4, 3: 0.1}},
        "not forgotten (overshot)",
        "bad",
        ["What client 1, the worst of 2, taught: more than all"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_every_finding_is_a_plain_sentence_everywhere(
    tmp_path: Path, case: str
) -> None:
    given, outcome, look, words = CASES[case]
    found = verdict(**given)
    run = judged_run(found)
    assert describe_outcome(found) == outcome
    sentences = " ".join(describe_finding(run[0]))
    text = said(tmp_path, run)
    lines = shown(run[0]).splitlines()
    (line,) = [line for line in lines if line.startswith("verdict (recovered)")]
    assert line.startswith(f"verdict (recovered): {outcome}. ")
    assert f"Verdict on the recovered model: {outcome} " in text
    for part in words:
        for place in (sentences, text, line):
            assert part in place
    assert "nothing measured here found the client" in text
    assert "arXiv:2408.00929" in text
    assert lines[-1] == "report: report.html"
    page = (tmp_path / "report.html").read_text()
    assert f'<div class="verdict {look}"' in page
    assert page.index('class="verdict ') < page.index('class="cards"')
    assert page.index('class="cards"') < page.index("Evidence for the verdict")


def by_hand(**changes: Any) -> dict[str, Any]:
    """Return results with a verdict of round numbers."""
    one = {"rho": 0.03, "low": -0.2, "high": 0.26, "n_in": 2, "n_out": 5}
    rates = {"judged": (2, 1000), "references": (10, 5000)}
    found: dict[str, Any] = {
        "outcome": "forgotten",
        "finding": "forgotten",
        "model": "recovered",
        "influence": {"4": one},
        "marker": {k: {"hits": h, "count": n} for k, (h, n) in rates.items()},
        "p_values": {"influence 4": 0.7, "marker": 1.0},
        "alpha": 0.05,
        "margins": [-1.0, 0.5],
        "models": {"original": {"marker": {"judged": {"hits": 980, "count": 1000}}}},
        "quality_lost": 0.05,
        "retrainings": 5,
    }
    return {"forget": [4], "verdict": found | changes}


def test_the_sentences_are_those_promised() -> None:
    first, second = describe_finding(by_hand())
    assert first.startswith("The planted trick worked on 98 % of images before, 0.2 %")
    assert first.endswith(" after, 0.2 % in models that never saw this client.")
    assert second.startswith("What this client taught: 3 % of it can still be seen (")
    assert second.endswith("(between \N{MINUS SIGN}20 and 26 %); accuracy lost 0.050.")


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        (0.05, "; accuracy lost 0.050."),
        (-0.0125, "; accuracy won 0.013."),
        (0.0004, "; no accuracy lost."),
        (None, "26 %)."),
        (float("nan"), "26 %)."),
    ],
)
def test_what_was_lost_ends_the_sentence(lost: float | None, words: str) -> None:
    assert describe_finding(by_hand(quality_lost=lost))[-1].endswith(words)


@pytest.mark.parametrize(
    ("needed", "words"),
    [
        (5, "try verdict.retrainings=6."),
        (7, "=8."),
        (20, "=25."),
        (None, "; were it 50 % indeed, 200 would not tell either."),
    ],
)
def test_what_cannot_be_told_has_its_resolution(needed: int | None, words: str) -> None:
    """Half of -0.7 to 1.7 is 1.2: so much of what was taught, 120 %."""
    one = {"rho": 0.5, "low": -0.7, "high": 1.7, "n_in": 1, "n_out": 5}
    results = by_hand(
        outcome="inconclusive",
        finding="cannot tell",
        influence={"4": one},
        models_needed=needed,
    )
    sentences = describe_finding(results)
    assert "is open (50 %, between \N{MINUS SIGN}70 and 170 %); acc" in sentences[1]
    assert sentences[2].startswith("5 models without it resolve 120 % of it")
    assert sentences[2].endswith(words)


def test_where_another_test_has_decided_no_way_on_is_told() -> None:
    """Nobody has looked for one: that 200 would not tell is not known."""
    one = {"rho": 0.5, "low": -0.7, "high": 1.7, "n_in": 1, "n_out": 5}
    results = by_hand(
        outcome="not forgotten",
        finding="traces left",
        influence={"4": one},
        p_values={"influence 4": 0.3, "canaries 4": 0.001},
        models_needed=None,
    )
    sentences = describe_finding(results)
    assert "5 models without it resolve 120 % of it." in sentences
    assert not any("would not tell" in one for one in sentences)


def test_ordinary_examples_are_told_by_themselves(tmp_path: Path) -> None:
    """Whose trick is gone may be seen in the others all the same."""
    rest = {"rho": 0.8, "low": 0.6, "high": 1.0, "n_in": 2, "n_out": 5}
    one = {"rho": 0.1, "low": -0.1, "high": 0.3, "n_in": 2, "n_out": 5, "rest": rest}
    results = by_hand(
        outcome="not forgotten",
        finding="traces left",
        influence={"4": one},
        p_values={"influence 4": 0.3, "influence 4, ordinary examples": 0.001},
    )
    sentence = describe_finding(results)[1]
    assert sentence.startswith("What the ordinary examples of this client taught: 80 %")
    names = [(one.name, one.decision) for one in deciding_tests(results)[:2]]
    assert names == [
        ("residual influence, the ordinary examples of client 4", "traces left"),
        ("residual influence, client 4", "within the margins"),
    ]
    run = judged_run(results["verdict"])
    assert "The ordinary examples of client 4: recovered 80 %" in render(tmp_path, run)


def test_what_nearly_all_lies_in_a_trick_acquits_nobody() -> None:
    one = {"rho": 0.0, "low": -0.1, "high": 0.1, "n_in": 2, "n_out": 5}
    results = by_hand(
        outcome="inconclusive",
        finding="cannot tell",
        influence={"4": one | {"is_partial": True}},
    )
    sentences = describe_finding(results)
    assert "can be told; accuracy lost 0.050." in sentences[1]
    assert len(sentences) == 2
    assert [t.decision for t in deciding_tests(results)] == [
        *("cannot tell", "nothing found"),
    ]


@pytest.mark.parametrize(
    ("rho", "words"),
    [
        (
            0.08,
            "8 % of it can still be seen (between 1 and 16 %): no finding, and too",
        ),
        (-0.08, "it seems that more than all of it was taken away ("),
    ],
)
def test_what_would_be_a_finding_alone_is_told(rho: float, words: str) -> None:
    """Its interval is within the margins and leaves 0 out: that acquits nobody."""
    one = {"rho": rho, "low": 0.01, "high": 0.16, "n_in": 2, "n_out": 7}
    results = by_hand(
        outcome="inconclusive",
        finding="cannot tell",
        influence={"4": one | {"p_value": 0.03}},
        p_values={"influence 4": 0.09, "marker": 1.0},
        models_needed=8,
    )
    trick, taught, more = describe_finding(results)
    assert words in taught
    assert taught.endswith(": no finding, and too much to acquit; accuracy lost 0.050.")
    assert more.endswith("try verdict.retrainings=10.")
    assert "alone" not in trick
    assert [t.decision for t in deciding_tests(results)] == [
        *("too much to acquit", "nothing found"),
    ]


@pytest.mark.parametrize(
    ("place", "words", "decision"),
    [
        ((0.07, -0.04, 0.16), "7 % of it can still be seen (", "too much to acquit"),
        ((-0.02, -0.2, 0.1), "none of it can be seen any more (", "too much to acquit"),
        # Beyond the margins it is open first of all.
        (
            (-0.3, -1.2, 0.6),
            "how much of it can still be seen is open (",
            "cannot tell",
        ),
        ((0.55, -0.28, 1.39), "how much of it can still be seen is", "cannot tell"),
    ],
)
def test_what_other_scores_say_against_a_model_is_told(
    place: tuple[float, float, float], words: str, decision: str
) -> None:
    """And what more models would resolve, where the interval is too wide as well."""
    rho, low, high = place
    one = {"rho": rho, "low": low, "high": high, "n_in": 2, "n_out": 7, "p_value": 0.6}
    results = by_hand(
        outcome="inconclusive",
        finding="cannot tell",
        influence={"4": one},
        objections={"influence 4": "undamped scores"},
        models_needed=20 if decision == "cannot tell" else None,
    )
    _, taught, *more = describe_finding(results)
    assert words in taught
    said = "undamped scores speak against the model"
    assert said in taught
    assert (f"{said}: no finding, and too much" in taught) == (not more)
    assert bool(more) == (decision == "cannot tell")
    assert all(sentence.endswith("try verdict.retrainings=25.") for sentence in more)
    assert [t.decision for t in deciding_tests(results)] == [
        *(decision, "nothing found")
    ]


def test_what_is_too_much_by_itself_is_told_first() -> None:
    one = {"rho": -0.3, "low": -0.5, "high": 0.1, "n_in": 2, "n_out": 7}
    results = by_hand(
        outcome="inconclusive",
        finding="cannot tell",
        influence={"4": one | {"p_value": 0.03}},
        objections={"influence 4": "undamped scores"},
    )
    words = "it seems that more than all of it was taken away ("
    assert words in describe_finding(results)[1]


@pytest.mark.parametrize(
    ("clients", "words"),
    [
        ((4,), "A model that was trained with client 4 knows its examples worse than"),
        ((4, 7), "Models that were trained with clients 4 and 7 know their examples"),
    ],
)
def test_models_with_the_client_that_failed_are_told(
    clients: tuple[int, ...], words: str
) -> None:
    results = by_hand(
        outcome="inconclusive",
        finding="cannot tell",
        influence={str(k): None for k in (*clients, 9)},
        objections={f"influence {k}": "models with it failed" for k in clients},
        models_needed=None,
    )
    results["forget"] = [*clients, 9]
    _, taught, why, rest = describe_finding(results)
    assert "cannot be told" in taught
    assert why.startswith(words)
    assert "by no more than chance" in rest


def test_a_trick_or_canaries_may_be_a_finding_alone() -> None:
    rates = {"judged": (20, 1000), "references": (50, 5000)}
    marker: dict[str, Any] = {k: {"hits": h, "count": n} for k, (h, n) in rates.items()}
    results = by_hand(
        marker=marker | {"p_value": 0.02},
        canaries={"4": {"won": 60, "count": 100, "p_value": 0.03}},
        p_values={"influence 4": 1.0, "marker": 0.06, "canaries 4": 0.06},
    )
    trick, _, canaries = describe_finding(results)
    for sentence in (trick, canaries):
        assert sentence.endswith("no finding, and too much to acquit.")
    assert [t.decision for t in deciding_tests(results)][1:] == [
        "too much to acquit"
    ] * 2


def test_a_retrained_model_is_told_to_be_one(tmp_path: Path) -> None:
    text = said(tmp_path, judged_run(verdict() | TOLD))
    assert "inconclusive It is a retrained model, bit for bit: what seems to" in text


def test_quality_and_trick_are_named_as_the_task_and_the_attack_do(
    tmp_path: Path,
) -> None:
    run = judged_run(verdict(), quality_name="R2", task="own:task")
    run[0]["attack"]["name"] = "label_flip"
    text = said(tmp_path, run)
    assert "flipped labels were answered on 98 % of inputs" in text
    assert "; R2 lost 0.010." in text
    assert "; R2 lost 0.010." in shown(run[0])


@pytest.mark.parametrize("width", [43, 50, 63, 80, 86])
def test_percent_stays_with_its_number_where_a_terminal_is_narrow(width: int) -> None:
    """Somewhere in these widths a line ends at 98, which is no share of anything."""
    results = judged_run(verdict())[0]
    text = shown(results, terminal=True, width=width)
    lines = text[text.index("verdict (") :].splitlines()
    assert all(len(line) <= width for line in lines)
    assert not any(line.startswith("%") for line in lines)
    assert "98 % of" in shown(results)


def test_outcomes_differ_in_more_than_colour(tmp_path: Path) -> None:
    shapes = set()
    for outcome in ("forgotten", "not forgotten", "inconclusive"):
        results, history, clients = make_run()
        results["verdict"] = BARE | {"influence": {}, "outcome": outcome}
        page = render(tmp_path, (results, history.iloc[:0], clients.iloc[:0]))
        start = page.index("<svg", page.index('<div class="verdict '))
        shapes.add(page[start : page.index("</svg>", start)])
    assert len(shapes) == 3


def test_terminal_colours_outcomes_apart() -> None:
    codes = [
        shown(judged_run(verdict(**CASES[case][0]))[0], colour=True).split(
            "verdict (recovered): "
        )[1][:7]
        for case in ("traces", "forgotten", "open")
    ]
    assert codes == ["\x1b[1;31m", "\x1b[1;32m", "\x1b[1;33m"]


def test_tests_that_decide_stand_in_one_table_with_their_p(tmp_path: Path) -> None:
    given = {"clients": (1, 3), "share": {1: 0.0, 3: 0.9}, "pairs": (52, 100)}
    found = verdict(**given)
    results = judged_run(found)[0]
    names = [one.name for one in deciding_tests(results)]
    assert names == [
        *("residual influence, client 3", "residual influence, client 1"),
        *("planted trick", "canaries, client 1", "canaries, client 3"),
    ]
    text = said(tmp_path, judged_run(found))
    p_value = found["p_values"]["influence 3"]
    assert p_value < 0.05
    assert f"client 3 \N{MULTIPLICATION X} traces left {p_value:.4f} " in text
    assert "planted trick \N{WHITE CIRCLE} nothing found 1.0000 0.2 %; models" in text
    assert "A p below 0.05 is a finding; it is adjusted for all of the" in text
    assert "models: 2 with it, 7 without it" in text
    assert "52 of 100 pairs won" in text


def test_a_p_value_is_never_written_as_none(tmp_path: Path) -> None:
    found = verdict() | {"p_values": {"influence 4": 0.2, "marker": 1e-9}}
    text = said(tmp_path, judged_run(found))
    assert "traces left under 0.0001 0.2 %" in text


@pytest.mark.parametrize(
    ("given", "terms"),
    [
        ({}, ["Residual influence (rho)", "Margins", "Retrained models"]),
        ({"pairs": (97, 100)}, ["Epsilon Of differential privacy"]),
    ],
)
def test_terms_are_explained_where_they_stand(
    tmp_path: Path, given: dict[str, Any], terms: list[str]
) -> None:
    text = said(tmp_path, judged_run(verdict(**given)))
    section = text[text.index("Evidence for the") : text.index("What the numbers say")]
    for term in terms:
        assert term in section
    assert ("Epsilon" in section) == ("pairs" in given)


def test_the_judge_is_shown_on_every_model(tmp_path: Path) -> None:
    """Of each: its influence, the outcome, and whether a control came out right."""
    found = verdict(0.6, chance=0.4)
    text = said(tmp_path, judged_run(found))
    rows = text[text.index("The same judge on every model") :]
    assert re.search(
        r"original \d+ % \(\d+ to \d+\) . not forgotten not forgotten yes", rows
    )
    assert re.search(r"recovered judged \d+ % .{12,30} not forgotten .{3}", rows)
    assert re.search(r"retrained \S+ % .{9,20} . forgotten forgotten yes", rows)
    assert "As expected of the controls" in text


def test_no_gap_is_told_twice(tmp_path: Path) -> None:
    """Lost accuracy is the verdict's, against all retrained models."""
    run = judged_run(verdict())
    text = said(tmp_path, run)
    assert "gap_to_retrain" not in text
    assert "level with it" not in text
    assert "(gap " not in text
    assert "gap_to_retrain, recovered" in said(tmp_path, make_run())


def wrong_controls() -> dict[str, Any]:
    """Return a verdict whose controls both came out the wrong way."""
    controls = {"original": "forgotten", "retrained": "not forgotten"}
    return verdict() | {"controls": controls}


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
    assert "\N{CHECK MARK} forgotten not forgotten NO" in text


def test_right_controls_are_no_warning(tmp_path: Path) -> None:
    run = judged_run(verdict(0.6, chance=0.4))
    text = said(tmp_path, run)
    assert "control failed" not in text
    assert "warning" not in shown(run[0])
    assert "As expected of the controls" in text
    found = "\N{MULTIPLICATION X} not forgotten not forgotten yes"
    assert f"{found} residual influence, client 4" in text


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
    found = verdict(0.6) | {"controls": controls}
    sentence = describe_controls(found)
    assert claim in sentence
    assert "had no power here" in sentence
    assert control_warnings(found) == []
    text = said(tmp_path, judged_run(found))
    assert sentence in text
    assert re.search("inconclusive (not )?forgotten no power", text)


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
    text = said(tmp_path, judged_run(verdict(0.6), **measured()))
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
    text = said(tmp_path, judged_run(verdict(0.6), **measured()))
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
    text = said(tmp_path, judged_run(verdict(0.6), **keys))
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


def nulled(value: Any, null: Any = None) -> Any:
    """Return the same shape with null for every number."""
    if isinstance(value, dict):
        return {key: nulled(inner, null) for key, inner in value.items()}
    if isinstance(value, list):
        return [nulled(inner, null) for inner in value]
    return null if isinstance(value, int | float) else value


@pytest.mark.parametrize("null", [None, float("nan"), float("inf"), "x"])
def test_absurd_numbers_become_fewer_words(tmp_path: Path, null: Any) -> None:
    keys = nulled(measured())
    found = nulled(verdict(pairs=(97, 100)), null) | {"later": [{"rounds_after": null}]}
    run = judged_run(found, evidence=keys["evidence"], floor=keys["floor"])
    run[0]["cost"] |= {k: keys["cost"][k] for k in ("forgetting", "speed_up")}
    run[0]["cost"]["forgetting"]["online"] = None
    text = said(tmp_path, run)
    assert "Verdict on the recovered model: not forgotten" in text
    assert "What this client taught cannot be told" not in text
    assert "taught cannot be told. Models trained with it" in text
    for word in ("None", "nan", "inf "):
        assert word not in text.replace("influence", "").replace("finding", "")
    assert "verdict (recovered): not forgotten" in shown(run[0])


@pytest.mark.parametrize(
    "found",
    [
        BARE | {"evidence": None, "utility": None},
        BARE | {"influence": None},
        BARE | {"influence": {"4": None}, "marker": None, "canaries": None},
        BARE | {"influence": {"x": 3, "4": 7}, "margins": [1], "models": {"a": 1}},
        BARE | {"influence": {}, "later": None, "p_values": None, "models": None},
    ],
)
def test_what_is_missing_is_not_told(tmp_path: Path, found: dict[str, Any]) -> None:
    run = make_run()
    run[0].update({"verdict": found, "evidence": None, "floor": None})
    text = said(tmp_path, run)
    assert "Verdict on the judged model: not forgotten" in text
    assert "verdict (?): not forgotten" in shown(run[0])


def test_hostile_strings_stay_text(tmp_path: Path) -> None:
    bad = "</b><script>alert(1)</script>\x1b[2J[red]"
    found = verdict(0.6) | {"outcome": bad, "model": bad, "finding": bad}
    found["controls"] = {"original": bad, "retrained": bad}
    page = render(tmp_path, judged_run(found))
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 4
    printed = shown(judged_run(found)[0])
    assert "\x1b" not in printed
    assert "[red]" in printed


def test_a_verdict_of_the_earlier_judge_says_that_it_is_one(tmp_path: Path) -> None:
    run = make_run()
    run[0]["verdict"] = EARLIER
    text = said(tmp_path, run)
    assert "Verdict on the recovered model: not forgotten " in text
    assert "This is a verdict of the earlier judge, which held gaps against" in text
    assert "original \N{MULTIPLICATION X} not forgotten not forgotten yes" in text
    assert "adjusted p" not in text
    assert "gap_to_retrain, recovered" in text
    assert "a verdict of the earlier judge" in shown(run[0])


def test_same_inputs_give_same_bytes(tmp_path: Path) -> None:
    pages = [
        render(tmp_path / name, judged_run(verdict(0.6), **measured()))
        for name in ("one", "two")
    ]
    assert pages[0] == pages[1]


def test_conclusions_of_another_model_leave_the_verdict_alone() -> None:
    """No sentence may deny what the banner says of the model that was judged."""
    results = judged_run(verdict())[0]
    results["models"]["unlearned"]["test_accuracy"] = 0.11
    found = " ".join(describe_conclusions(results))
    claim = "this fall is no sign of forgetting; the verdict is on the recovered model."
    assert claim in found
    results["models"]["unlearned"] = dict(results["models"]["original"])
    results["verdict"]["model"] = "unlearned"
    found = " ".join(describe_conclusions(results))
    assert (
        "no trace of forgetting by themselves; the verdict rests on its own tests"
        in found
    )


def test_sweep_has_a_column_of_outcomes(tmp_path: Path) -> None:
    for job, found in enumerate((verdict(0.6), verdict(), None)):
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
