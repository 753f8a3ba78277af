"""The run report, on hand-made results: what it says, and what it must never do."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from markupsafe import Markup
from matplotlib.figure import Figure

from builders.run_results import NOTICE, TEST, make_run, render, said
from fedneg.core.files import write_bytes
from fedneg.core.formats import (
    human_bytes,
    human_seconds,
    human_value,
    number,
    percent,
    plain,
    rate,
    signed,
)
from fedneg.reports.conclusions import (
    describe_conclusions,
    describe_poison,
    describe_request,
)
from fedneg.reports.html.figures import LIGHT, Picture, draw_picture
from fedneg.reports.html.page import Card, Page, link
from fedneg.reports.run.figures import accuracy_over_rounds, client_accuracy
from fedneg.reports.run.report import write_report


@pytest.fixture(scope="module")
def default_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of the run that `make_run` gives by default."""
    return write_report(tmp_path_factory.mktemp("default"), *make_run())


def test_page_shows_every_model_its_metrics_and_its_gap(tmp_path: Path) -> None:
    """0.9021 - 0.9380 = -0.0359 and 0.9297 - 0.9380 = -0.0083."""
    text = said(tmp_path, make_run())
    assert "unlearned 0.9021 0.3100 0.8821 0.5000 0.9121 0.0612" in text
    assert "gap_to_retrain, unlearned \N{MINUS SIGN}0.0359" in text
    assert "gap_to_retrain, recovered \N{MINUS SIGN}0.0083" in text
    for model in TEST:
        assert f"{model} {page_sentence(model)}" in text


def page_sentence(model: str) -> str:
    """Return the start of the sentence that explains a model."""
    starts = {"original": "Trained with every", "unlearned": "Right after"}
    starts |= {"recovered": "After the repair", "retrained": "From the same initial"}
    return starts[model]


def test_page_shows_costs_with_units(tmp_path: Path) -> None:
    text = said(tmp_path, make_run())
    for part in ("1 min 15 s", "250 ms", "3.0 MiB", "5.0 MiB", "4.0 KiB"):
        assert part in text
    assert "Time to forget and repair 4.2 s retraining took 17.9 s" in text
    assert "resumed" not in text
    assert "not repeated" not in text


def test_time_to_forget_leaves_out_a_repair_that_never_was(tmp_path: Path) -> None:
    run = make_run(models=("original", "unlearned"))
    run[0]["cost"]["recover_seconds"] = 99.0
    assert "Time to forget 250 ms" in said(tmp_path, run)


def test_page_tells_of_reused_and_resumed_training(tmp_path: Path) -> None:
    run = make_run()
    run[0]["cost"] |= {"reused_training": True, "resumed_from_round": 6}
    text = said(tmp_path, run)
    assert "taken from an earlier run" in text
    assert "resumed after round 6" in text


def test_notice_stands_before_every_number(default_page: Path) -> None:
    text = default_page.read_text()
    assert text.index(NOTICE) < text.index('class="cards"')
    assert 'class="notice" role="note"' in text


def test_failures_are_listed_only_when_there_are_any(tmp_path: Path) -> None:
    run = make_run()
    assert "Failures" not in said(tmp_path, run)
    failure = {"server_round": 3, "phase": "train", "client_id": 2}
    run[0]["failures"] = [failure | {"reason": "timed out after 60 s"}]
    assert "3 train 2 timed out after 60 s" in said(tmp_path, run)


def test_configuration_is_written_as_overrides(default_page: Path) -> None:
    text = default_page.read_text()
    assert "client.learning_rate=0.05" in text
    assert text.index("<details><summary>Configuration") < text.index("client.learn")


@pytest.mark.parametrize(
    ("change", "claim"),
    [
        (
            {},
            "Forget client 4 of 5, poisoned by backdoor, after 10 rounds of training ",
        ),
        ({}, "subtracting what the server had stored of it; then 2 rounds with the "),
        ({"forget": [1, 4]}, "Forget clients 1 and 4 of 5 (4 poisoned by backdoor)"),
        ({"retrain": "none"}, "; no repair afterwards."),
        ({"retrain": "scratch"}, "; then training from scratch without"),
        ({"retrain_rounds": 1}, "; then 1 round with the other clients."),
        ({"strategy": "do_nothing"}, "by changing nothing (a control)"),
        ({"strategy": "brand_new"}, "with the strategy brand_new"),
        ({"forget": []}, "Train only: 10 rounds of training with 5 clients, nothing"),
        ({"attack": {"name": "none", "clients": [4]}}, "Forget client 4 of 5 after"),
    ],
)
def test_request_is_told_in_plain_words(change: dict[str, Any], claim: str) -> None:
    assert claim in describe_request(make_run()[0] | change)


@pytest.mark.parametrize(
    ("attack", "claims"),
    [
        ({"name": "backdoor"}, ["by backdoor, towards class 3, in a fraction of 0.5"]),
        ({"name": "label_flip"}, ["Poisoned: client 4, by label flip, in a fraction"]),
        (
            {"name": "model_replacement", "boost": 2.5},
            ["by model replacement, towards class 3", "sent 2.5 times as long"],
        ),
        (
            {"name": "sybils", "shared": "label_flip", "clients": [2, 4]},
            ["clients 2 and 4, by sybils, in", "images of client 2, poisoned by label"],
        ),
        (
            {"name": "sybils", "shared": "backdoor", "clients": [2, 4]},
            ["by sybils, towards class 3", "client 2, poisoned by backdoor."],
        ),
        (
            {"name": "canaries", "canaries": 70},
            ["Poisoned: client 4, each by 70 images of random dots with random labels"],
        ),
    ],
)
def test_poison_is_told_in_plain_words(
    attack: dict[str, Any], claims: list[str]
) -> None:
    settings = {"clients": [4], "fraction": 0.5, "target": 3} | attack
    found = " ".join(describe_poison({"attack": settings}))
    for claim in claims:
        assert claim in found


@pytest.mark.parametrize(
    ("attack", "claim"),
    [
        ({"name": "model_replacement", "boost": 5.0}, "triggered test inputs"),
        ({"name": "sybils", "shared": "backdoor"}, "triggered test inputs"),
        ({"name": "sybils", "shared": "label_flip"}, "which the flipped labels"),
    ],
)
def test_the_page_says_what_attack_success_is(
    tmp_path: Path, attack: dict[str, Any], claim: str
) -> None:
    results, history, clients = make_run()
    results["attack"] |= attack
    assert claim in write_report(tmp_path, results, history, clients).read_text()


def test_conclusions_follow_the_numbers() -> None:
    """The same template must not say the same of a fall, a rise and a collapse."""
    results = make_run()[0]
    found = " ".join(describe_conclusions(results))
    assert "test accuracy fell slightly from 0.9412 to 0.9021" in found
    assert "recovered is below it (gap \N{MINUS SIGN}0.0083)" in found
    assert "Attack success fell from 0.8731 to 0.0612; recovered is 0.0634" in found
    assert "retrained reaches 0.0101" in found
    assert "collapsed" not in found
    results["models"]["unlearned"]["test_accuracy"] = 0.11
    found = " ".join(describe_conclusions(results))
    assert "test accuracy collapsed from 0.9412 to 0.1100" in found
    assert "test accuracy rose from 0.1100 to 0.9297" in found
    assert "this fall is no sign of forgetting" in found
    results["models"]["unlearned"]["attack_success_rate"] = 0.95
    found = " ".join(describe_conclusions(results))
    assert "Attack success rose from 0.8731 to 0.9500" in found
    assert "no sign of forgetting" not in found


def test_conclusions_say_when_unlearned_equals_original() -> None:
    results = make_run()[0]
    assert "no trace" not in " ".join(describe_conclusions(results))
    results["models"]["unlearned"] = dict(results["models"]["original"])
    found = " ".join(describe_conclusions(results))
    assert "these numbers show no trace of forgetting" in found
    assert "hardly changed, from 0.9412 to 0.9412" in found


def test_conclusions_say_when_recovered_is_level_with_retrained() -> None:
    results = make_run()[0]
    results["models"]["recovered"]["test_accuracy"] = 0.9381
    assert "recovered is level with it" in " ".join(describe_conclusions(results))


def test_hostile_strings_stay_text(tmp_path: Path) -> None:
    bad = "</p><script>alert(1)</script>"
    results, history, clients = make_run()
    results |= {"strategy": bad, "notices": [bad], "config": {bad: bad}}
    results["attack"]["name"] = bad
    results["method"] = {bad: bad}
    failure = {"server_round": 1, "phase": bad, "client_id": 0, "reason": bad}
    results["failures"] = [failure]
    clients["role"] = bad
    history.loc[0, "phase"] = bad
    text = render(tmp_path, (results, history, clients))
    assert "<script" not in text
    assert text.count("&lt;script&gt;") > 6


@pytest.mark.parametrize("models", [("original", "unlearned"), ("original",)])
def test_absent_models_are_not_mentioned(
    tmp_path: Path, models: tuple[str, ...]
) -> None:
    run = make_run(models=models, forget=(4,) if len(models) > 1 else ())
    text = said(tmp_path, run)
    assert "recovered" not in text
    assert "gap_to_retrain" not in text
    assert text.count("There is no retrained model") == len(models) - 1


def test_run_that_forgets_nothing_reports_training(tmp_path: Path) -> None:
    text = said(tmp_path, make_run(forget=(), models=("original",), attack="none"))
    assert text.startswith("Federated training report Federated training report Train")
    assert "The original model's test accuracy is 0.9412." in text
    assert "unlearned" not in text


@pytest.mark.parametrize("null", [None, float("nan")])
def test_null_metrics_become_dashes(tmp_path: Path, null: float | None) -> None:
    results, history, clients = make_run()
    for model in results["models"].values():
        for name in model:
            model[name] = null
    results["models"]["original"]["retain_accuracy"] = 0.25
    results["cost"] = dict.fromkeys(results["cost"], null)
    history["accuracy"] = null
    clients["test_accuracy"] = null
    text = said(tmp_path, (results, history, clients))
    full = render(tmp_path, (results, history, clients))
    assert "<figure" not in full
    assert ">nan<" not in full
    assert "No metric was measured in this run." in text
    assert "original 0.2500" in text
    assert "unlearned \N{EN DASH}" in text
    assert "nan" not in text.lower()
    assert "None" not in text
    assert "not repeated" not in text
    assert not (tmp_path / "figures").exists()


def test_hundred_clients_are_dots_and_twenty_are_bars() -> None:
    """A bar is a closed path; 21 clients have far fewer paths than 20 x 4 bars."""
    bars = client_accuracy(make_run(total=20)[2], [4])
    dots = client_accuracy(make_run(total=100)[2], [4])
    assert bars is not None
    assert dots is not None
    assert b"median" not in bars.svg["wide"]
    assert dots.svg["wide"].count(b"median") == 4
    assert b"100 clients" in dots.alt.encode()


@pytest.mark.parametrize("total", [1, 2, 20, 21])
def test_figures_fit_any_number_of_clients(tmp_path: Path, total: int) -> None:
    """A layout that does not fit warns, and warnings are errors here."""
    write_report(tmp_path, *make_run(total=total, forget=(), models=("original",)))
    assert (tmp_path / "figures" / "client_accuracy.svg").is_file()


def test_forgotten_clients_are_marked() -> None:
    clients = make_run()[2]
    none, one, two = (client_accuracy(clients, f) for f in ([], [4], [3, 4]))
    assert none is not None
    assert one is not None
    assert two is not None
    band = LIGHT["mark"].encode()
    for width in ("wide", "narrow"):
        assert b"forgotten client" in one.svg[width]
        assert b"forgotten client" not in none.svg[width]
        assert none.svg[width].count(band) == 0
        assert two.svg[width].count(band) == one.svg[width].count(band) + 1


def test_phases_are_named_and_the_reference_is_dashed() -> None:
    picture = accuracy_over_rounds(make_run()[1])
    assert picture is not None
    svg = picture.svg["wide"].decode()
    for word in (">train<", ">unlearn<", ">recover<", "retrained 0.938"):
        assert word in svg
    assert "stroke-dasharray" in svg
    without = accuracy_over_rounds(make_run(models=("original",))[1])
    assert without is not None
    assert "stroke-dasharray" not in without.svg["wide"].decode()


def test_same_inputs_give_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_report(tmp_path / name, *make_run())
    first = {p.name: p.read_bytes() for p in (tmp_path / "one").rglob("*.*")}
    second = {p.name: p.read_bytes() for p in (tmp_path / "two").rglob("*.*")}
    assert len(first) == 1 + 3 * 3
    assert first == second


def test_figures_keep_text_as_text_and_hold_no_date() -> None:
    picture = accuracy_over_rounds(make_run()[1])
    assert picture is not None
    for svg in picture.svg.values():
        words = [e.text for e in ET.fromstring(svg).iter() if e.tag.endswith("text")]
        assert "server round (0 is the initial model)" in words
        assert b"dc:date" not in svg
    assert picture.png.startswith(b"\x89PNG")


def test_page_refers_to_nothing_outside_and_runs_nothing(default_page: Path) -> None:
    text = default_page.read_text()
    targets = re.findall(r'(?:src|href|srcset|action)\s*=\s*"([^"]*)"', text)
    assert targets
    assert all(t.startswith(("#", "data:,")) for t in targets)
    assert "http" not in text
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert not re.search(r"<script|\son\w+=", text)


def test_ids_are_unique_and_every_reference_has_one(default_page: Path) -> None:
    text = default_page.read_text()
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    references = re.findall(r'(?:href="#|url\(#)([^")]*)', text)
    assert references
    assert set(references) <= set(ids)


def test_figure_colours_follow_the_theme(default_page: Path) -> None:
    text = default_page.read_text()
    drawings = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert len(drawings) == 2 * 3
    for drawing in drawings:
        assert "var(--ink)" in drawing
        assert not re.search(r"(fill|stroke): #", drawing)


def test_every_figure_has_a_description_with_numbers(default_page: Path) -> None:
    text = default_page.read_text()
    described = re.findall(r'role="img" aria-label="([^"]*)"', text)
    assert len(described) == 6
    assert all(re.search(r"0\.\d{3}", line) for line in described)
    assert text.count("<figcaption>") == 3


def test_writing_leaves_the_old_file_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    write_bytes(path, b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_report_leaves_its_files_and_no_temporary_one(default_page: Path) -> None:
    names = {p.name for p in default_page.parent.rglob("*") if p.is_file()}
    figures = ("accuracy_over_rounds", "client_accuracy", "attack_success")
    kinds = (".svg", ".png", "_narrow.svg")
    assert names == {"report.html"} | {f + kind for f in figures for kind in kinds}


def test_inputs_are_left_as_they_were(tmp_path: Path) -> None:
    given, again = make_run(), make_run()
    write_report(tmp_path, *given)
    assert given[0] == again[0]
    pd.testing.assert_frame_equal(given[1], again[1])
    pd.testing.assert_frame_equal(given[2], again[2])


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        (rate, 0.5, "0.5000"),
        (percent, 0.98, "98 %"),
        (percent, 0.002, "0.2 %"),
        (percent, 0.00004, "under 0.1 %"),
        (percent, 0, "0 %"),
        (percent, 0.994, "99.4 %"),
        (percent, 0.99999, "over 99.9 %"),
        (percent, 1.0, "100 %"),
        (percent, -0.2, "\N{MINUS SIGN}20 %"),
        (percent, -0.001, "\N{MINUS SIGN}0.1 %"),
        (percent, None, "\N{EN DASH}"),
        (rate, None, "\N{EN DASH}"),
        (rate, float("nan"), "\N{EN DASH}"),
        (signed, 0.25, "+0.2500"),
        (signed, -0.25, "\N{MINUS SIGN}0.2500"),
        (human_seconds, 0.0126, "13 ms"),
        (human_seconds, 0.9996, "1.0 s"),
        (human_seconds, 1.1, "1.1 s"),
        (human_seconds, 59.94, "59.9 s"),
        (human_seconds, 59.96, "1 min 00 s"),
        (human_seconds, 119.6, "2 min 00 s"),
        (human_seconds, 3599.7, "1 h 00 min"),
        (human_bytes, 1023, "1023 B"),
        (human_bytes, 1536, "1.5 KiB"),
        (human_bytes, 2.0**41, "2.0 TiB"),
        (plain, float("nan"), "\N{EN DASH}"),
        (plain, 3.0, "3"),
        (plain, 0.123456, "0.1235"),
        (plain, [1.0], "[1.0]"),
        (number, True, 1.0),
        (number, "x", None),
        (number, float("inf"), None),
    ],
)
def test_values_are_written_for_people(
    form: Callable[[object], object], value: object, text: object
) -> None:
    assert form(value) == text


def test_link_quotes_its_path_and_escapes_its_text() -> None:
    assert link("<a>", 'javascript:x"/y') == Markup(
        '<a href="javascript%3Ax%22/y">&lt;a&gt;</a>'
    )


def test_page_puts_its_pieces_in_the_order_given() -> None:
    """What the second report relies on: pieces chain, notices rise to the top."""

    def draw(figure: Figure, narrow: bool) -> None:
        figure.subplots().plot([0, 1], color=LIGHT["ink"])

    picture = draw_picture("line", draw, alt="A line.")
    assert isinstance(picture, Picture)
    frame = pd.DataFrame({"run": ["a"], "accuracy": [0.5]})
    text = (
        Page("Title", "Subtitle", footer="Footer")
        .cards([Card("Card", "1", "note")])
        .section("First")
        .text("Paragraph")
        .table(frame, caption="Caption", formats={"accuracy": rate})
        .section("Second")
        .figure(picture, "Below")
        .bullets(["Bullet"])
        .details("Closed", {"key": "of the key"})
        .notice("Notice")
        .render()
    )
    body = text[text.index("<body>") :]
    order = ["Title", "Subtitle", "Notice", "Card", "First", "Paragraph", "Caption"]
    order += ["0.5000", "Second", "A line.", "Below", "Bullet", "Closed", "of the key"]
    places = [body.index(word) for word in [*order, "Footer"]]
    assert places == sorted(places)
    assert '<td class="number">0.5000</td>' in text


def test_nested_values_read_as_a_line():
    scales = [{"min": 0.0, "mean": 0.51234567}, {"min": 1.0, "mean": 1.0}]
    assert human_value({"unit": "neuron", "scales": scales}) == (
        "unit: neuron, scales: min: 0, mean: 0.5123; min: 1, mean: 1"
    )
    assert human_value({"4": 1.0}) == "4: 1"
    assert human_value(True) is True
