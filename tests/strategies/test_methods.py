"""What a method says of itself: nobody else names it, and what is said is kept."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builders.checkout import REPOSITORY
from builders.lives import ask, go_on, receipt_of
from builders.run_folders import add_run
from builders.run_results import make_run
from fedneg.core.errors import FedNegError
from fedneg.core.settings import methods
from fedneg.reports.compare.controls import control_warnings
from fedneg.reports.compare.figures import draw_pareto
from fedneg.reports.compare.rows import collect_comparison
from fedneg.reports.compare.statistics import strategies_of, summarise
from fedneg.reports.compare.text import describe_setting, describe_winners
from fedneg.reports.conclusions import describe_request
from fedneg.reports.html.figures import method_style
from fedneg.strategies import method_named, strategy_class
from fedneg.strategies.method import (
    KINDS,
    METHOD,
    About,
    ForgettingMethod,
)

# A key of the configuration, and a phase of a run, that a method is called after.
ALSO_A_KEY = {"retrain"}
# What may be imported from fedneg, which is a list of names (test_public_names.py).
PUBLIC = REPOSITORY / "fedneg" / "__init__.py"
# Where a method may be named all the same, and why.
ALLOWED = {
    # Help: a command that can be typed needs names.
    "compensated,fine_tune": "compare",
    # In somebody's own app, whose default it is, and where it needs no class.
    "negative_gradient": "method",
    # References are trained by plain FedAvg, which is what a control does.
    "do_nothing": "references",
}


def named_in(path: Path) -> Iterator[str]:
    """Yield where the code of a file names a method; what is said about it may."""
    tree = ast.parse(path.read_text())
    told = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    names = set(methods()) - ALSO_A_KEY
    classes = {strategy_class(name).__name__ for name in methods()}
    words = re.compile(rf"\b({'|'.join(names)})\b")
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
            for allowed, place in ALLOWED.items():
                text = text.replace(allowed, "") if place in path.stem else text
            if id(node) not in told and words.search(text):
                yield f"{path}:{node.lineno}: {words.findall(text)}"
        elif isinstance(node, ast.Compare):
            text = ast.unparse(node)
            if re.search("method|strateg", text) and any(
                f"'{name}'" in text for name in ALSO_A_KEY
            ):
                yield f"{path}:{node.lineno}: {text}"
        elif isinstance(node, ast.Name | ast.Attribute):
            name = node.id if isinstance(node, ast.Name) else node.attr
            if name in classes:
                yield f"{path}:{node.lineno}: {name}"


@pytest.mark.parametrize("package", ["fedneg", "clients"])
def test_nobody_names_a_method_but_itself(package: str):
    """Neither a list, a dictionary nor a comparison: its class is asked."""
    found = [
        line
        for path in sorted((REPOSITORY / package).rglob("*.py"))
        if path != PUBLIC
        for line in named_in(path)
    ]
    assert found == []


def test_every_method_has_a_place_of_its_own():
    """The next one takes the next number; its colour is nobody else's."""
    places = [method_named(name).about.place for name in methods()]
    assert sorted(places, key=str) == sorted(range(len(methods())), key=str)


def test_tables_begin_with_methods_and_end_with_controls():
    order = strategies_of(["retrained", "mine", *methods(), "mine (x=1)", "original"])
    assert order[:3] == ["original", "retrained", "negative_gradient"]
    kinds = [method_named(name).about.kind for name in order[2:]]
    assert kinds == sorted(kinds, key=KINDS.index)
    last = max(n for n, name in enumerate(order) if kinds[n - 2] == METHOD)
    assert order[last - 1 : last + 1] == ["mine", "mine (x=1)"]
    assert order[last + 1 :] == ["fine_tune", "retrain", "do_nothing", "random_init"]


@pytest.mark.parametrize(
    "name", ["mine", "base", "roster", "a.b", "fine_tune (rounds=0.5)", "", None]
)
def test_of_a_method_that_is_not_here_the_defaults_are_told(name: str | None):
    """A table or receipt may be of another version, or of the user's own method."""
    assert method_named(name) is ForgettingMethod
    results = make_run()[0] | {"strategy": "mine"}
    assert ", with the strategy mine; then" in describe_request(results)


def test_a_kind_must_be_one_of_three():
    with pytest.raises(FedNegError, match=r"kind must be one of method, baseline, con"):
        About(kind="other")


# -- what is said hangs on the class, and on no name -----------------------------------


SWEEP = [  # method, recovered, outcome, shift
    ("compensated", True, "forgotten", 0.0),
    ("negative_gradient", True, "inconclusive", 0.3),
    ("fine_tune", False, "not forgotten", 0.02),
    ("retrain", False, "not forgotten", 0.001),
    ("do_nothing", False, "forgotten", 0.5),
    ("random_init", False, "forgotten", 0.0),
    ("random_init", True, "forgotten", 0.004),
]


def told_of(folder: Path, prefix: str) -> dict[str, Any]:
    """Return all that a comparison says of a sweep, with methods called otherwise."""
    for job, (name, recovered, outcome, shift) in enumerate(SWEEP):
        add_run(
            folder / str(job),
            method=prefix + name,
            recovered=recovered,
            outcome=outcome,
            shift=shift,
            rounds=(0.88, 0.92, 0.94)[: 3 if name == "fine_tune" else 2],
            config={"strategy": {"name": prefix + name}},
        )
    frame = collect_comparison(folder)
    summary = summarise(frame)
    picture = draw_pareto(summary)
    assert picture is not None
    ratios = frame["speed_up_fine_tune"].fillna(0).tolist()
    requests = [
        describe_request(make_run()[0] | {"strategy": prefix + name})
        for name, *_ in SWEEP
    ]
    words = {
        "order": summary["strategy"].tolist(),
        "setting": describe_setting(summary),
        "winners": describe_winners(summary),
        "warnings": control_warnings(frame),
        "drawn": re.findall(rb"fill: #\w+", picture.svg["wide"]),
        "ratios": ratios,
        "requests": requests,
    }
    return {key: str(value).replace(prefix, "") for key, value in words.items()}


def test_a_method_under_another_name_is_told_of_in_the_same_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Whoever knew a name would say something else of another."""
    known = told_of(tmp_path / "known", "zz_")
    assert "with the strategy do_nothing" in known["requests"]
    monkeypatch.setattr(
        sys.modules[method_named.__module__],
        "strategy_class",
        lambda name: strategy_class(name.removeprefix("zz_")),
    )
    renamed = told_of(tmp_path / "renamed", "zz_")
    monkeypatch.undo()
    assert renamed == told_of(tmp_path / "as it is", "") != known
    assert "Plain fine-tuning does not keep" in renamed["setting"]
    assert "A control came out wrong: do_nothing" in renamed["warnings"]
    assert ("1.0" in renamed["ratios"], "1.0" in known["ratios"]) == (True, False)


def test_a_method_has_its_colour_whoever_stands_beside_it(tmp_path: Path):
    """Two alone are not drawn as the first two of all."""
    for name in ("do_nothing", "retrain"):
        add_run(tmp_path / name, method=name)
    picture = draw_pareto(summarise(collect_comparison(tmp_path)))
    assert picture is not None
    found = [
        method_style(place)["color"].encode() in picture.svg["wide"]
        for place in range(10)
    ]
    own = [method_named(name).about.place for name in ("retrain", "do_nothing")]
    assert [place for place, drawn in enumerate(found) if drawn] == own


# -- what remains ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "report", "said"),
    [
        ("negative_gradient", {"form": "update", "scale": {"1": 1.0}}, "nothing of"),
        (
            "negative_gradient",
            {"form": "update", "scale": {"1": 0.5}},
            "a part of the client's summed updates (update form, scale 0.5)",
        ),
        ("negative_gradient", {"form": "parameters", "scale": {"1": 1.0}}, "a part of"),
        ("negative_gradient", {"form": "update", "scale": {"0": 1.0}}, "a part of"),
        ("mine", {"form": "update", "scale": {"1": 1.0}}, "a part of"),
        ("mine", {"remains": "a tenth"}, "a tenth"),
    ],
)
def test_what_remains_is_said_by_the_method(
    name: str, report: dict[str, Any], said: str
):
    assert method_named(name).remains(report, 1).startswith(said)


def test_a_receipt_is_in_the_words_of_the_method_that_forgot(tmp_path: Path):
    """Another one may be configured by the time that the request is done."""
    state = tmp_path / "state"
    go_on(state)
    ask(state, 1)
    with pytest.raises(FedNegError, match=r"below strategy\.gate=1 times"):
        go_on(state, "strategy.gate=1", "strategy.scale=10")
    go_on(state, "strategy.gate=0", "strategy=fine_tune")
    receipt = receipt_of(state, 1)
    assert receipt["done"]["method"]["strategy"] == "negative_gradient"
    assert receipt["remains"].endswith("(update form, scale 10)")
