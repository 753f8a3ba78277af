"""The report in a real browser: quiet, readable and within the window."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from builders.findings import judged_run, measured, verdict
from builders.pages import MEASURE
from builders.run_results import make_run
from fedneg.config import load_config
from fedneg.engines.simulate import simulate
from fedneg.reports.compare.sweep import write_sweep
from fedneg.reports.run.report import write_report
from fedneg.server_app import run as run_job

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a page of each kind, by name."""
    root = tmp_path_factory.mktemp("pages")
    runs = {
        "all": make_run(),
        "many": make_run(total=100, forget=(3, 17)),
        "twenty": make_run(total=20, models=("original", "unlearned")),
        "train": make_run(forget=(), models=("original",), attack="none"),
    }
    judged = {
        "judged": verdict(0.6, pairs=(97, 100)),
        "forgotten": verdict(seed=1),
        "open": verdict(outs=2),
        "overshot": verdict({1: -9.0, 3: 0.1}, clients=(1, 3)),
    }
    judged["forgotten"]["later"] = [
        {"rounds_after": rounds, "influence": judged["forgotten"]["influence"]}
        for rounds in (0, 2, 10, 50)
    ]
    for name, found in judged.items():
        runs[name] = judged_run(found, **measured())
    runs["all"][0]["failures"] = [
        {"server_round": 1, "phase": "train", "client_id": 2, "reason": "late " * 40}
    ]
    runs["all"][0]["notices"].append("a/path/" + "without_any_space" * 12)
    pages = {name: write_report(root / name, *run) for name, run in runs.items()}
    for name, run in runs.items():
        folder = root / "sweep" / f"a/rather/long/{name}"
        write_report(folder, *run)
        (folder / "results.json").write_text(json.dumps(run[0]))
    config, _ = load_config(
        ["experiment=paper", "data=digits", "rounds=1", "retrain_rounds=1"]
    )
    (root / "paper").mkdir()
    simulate(
        lambda grid, context: run_job(grid, config, root / "paper"),
        clients=config.clients,
        engine=config.engine,
    )
    pages["paper"] = root / "paper" / "report.html"
    return pages | {"sweep": write_sweep(root / "sweep")[1]}


NAMES = (
    *("all", "many", "twenty", "train", "judged", "forgotten", "overshot"),
    *("sweep", "paper"),
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [1280, 721, 400])
def test_page_is_quiet_and_readable(
    browser: "Browser", pages: dict[str, Path], name: str, width: int
) -> None:
    """No error, no request but the page; text large enough, nothing cut off."""
    trouble: list[str] = []
    requests: list[str] = []
    view = browser.new_page(viewport={"width": width, "height": 800})
    try:
        view.on(
            "console",
            lambda m: trouble.append(m.text) if m.type == "error" else None,
        )
        view.on("pageerror", lambda error: trouble.append(str(error)))
        view.on("requestfailed", lambda request: trouble.append(request.url))
        view.on("request", lambda request: requests.append(request.url))
        view.goto(pages[name].as_uri())
        for _ in range(2):  # closed parts, then the same with every part open
            seen = view.evaluate(MEASURE)
            assert seen["wide"] <= seen["window"] == width
            assert seen["body"] >= 12
            assert seen["drawn"] >= 9
            assert seen["outside"] == []
            assert seen["figures"]
            assert set(seen["figures"]) == {1}, "one drawing of each figure shows"
            view.evaluate("document.querySelectorAll('details').forEach(d=>d.open=1)")
    finally:
        view.close()
    assert trouble == []
    assert [url for url in requests if not url.startswith("data:")] == [
        pages[name].as_uri()
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(
    browser: "Browser", pages: dict[str, Path], scheme: Literal["light", "dark"]
) -> None:
    """WCAG contrast of at least 4.5 for body, small and figure text in both schemes."""
    view = browser.new_page(color_scheme=scheme)
    try:
        view.goto(pages["all"].as_uri())
        shades = view.evaluate(
            """() => {
              const of = (q, p) => getComputedStyle(document.querySelector(q))[p];
              return {page: of('body', 'backgroundColor'),
                      card: of('section:not(.bare)', 'backgroundColor'),
                      notice: of('.notice', 'backgroundColor'),
                      ink: of('body', 'color'), small: of('figcaption', 'color'),
                      figure: of('figure svg text', 'fill')};
            }"""
        )
    finally:
        view.close()
    assert (luminance(shades["page"]) < 0.2) == (scheme == "dark")
    for behind in ("page", "card", "notice"):
        assert contrast(shades["ink"], shades[behind]) >= 4.5
    for front in ("small", "figure"):
        assert contrast(shades[front], shades["card"]) >= 4.5


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["judged", "forgotten", "open"])
def test_verdict_stands_out_from_what_is_behind_it(
    browser: "Browser",
    pages: dict[str, Path],
    name: str,
    scheme: Literal["light", "dark"],
) -> None:
    """WCAG contrast of at least 4.5 for the banner's text and the table's decisions."""
    view = browser.new_page(color_scheme=scheme)
    try:
        view.goto(pages[name].as_uri())
        shades = view.evaluate(
            """() => {
              const of = (q, p) => getComputedStyle(document.querySelector(q))[p];
              return {banner: of('.verdict', 'backgroundColor'),
                      card: of('section:not(.bare)', 'backgroundColor'),
                      outcome: of('.outcome b', 'color'),
                      limit: of('.limit', 'color'),
                      badges: [...document.querySelectorAll('.badge')].map(
                        b => getComputedStyle(b).color)};
            }"""
        )
    finally:
        view.close()
    assert contrast(shades["outcome"], shades["banner"]) >= 4.5
    assert contrast(shades["limit"], shades["banner"]) >= 4.5
    assert shades["badges"]
    for badge in shades["badges"]:
        assert contrast(badge, shades["card"]) >= 4.5


def luminance(colour: str) -> float:
    """Return the relative luminance of a CSS 'rgb(r, g, b)' (WCAG 2.2)."""
    channels = [int(c) / 255 for c in colour[4:-1].split(",")]
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
    ]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours, from 1 to 21 (WCAG 2.2)."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)
