"""The comparison in a real browser: its filters choose rows, its headings sort."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from builders.findings import verdict
from builders.pages import MEASURE
from builders.run_folders import add_run
from fedneg.reports.compare.page import write_comparison

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
SHOWN = "[...document.querySelectorAll('.filtered tbody tr')].filter(r => !r.hidden)"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of three methods under two attacks."""
    root = tmp_path_factory.mktemp("comparison")
    for job, (method, attack, outcome, epochs) in enumerate(
        (
            ("compensated", "backdoor", "forgotten", 8),
            ("compensated", "none", "inconclusive", 8),
            ("federaser", "backdoor", "not forgotten", 24),
            ("do_nothing", "none", "not forgotten", 100),
        )
    ):
        add_run(
            root / str(job),
            method=method,
            attack=attack,
            outcome=outcome,
            epochs=epochs,
            recovered=False,
        )
    return write_comparison(root)[1]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of methods of which residual influence was measured."""
    root = tmp_path_factory.mktemp("judged")
    for job, (method, attack, share) in enumerate(
        (
            ("compensated", "backdoor", 0.1),
            ("fine_tune", "backdoor", 0.9),
            ("negative_gradient", "none", -9.0),
            ("do_nothing", "none", 1.0),
        )
    ):
        found = verdict(share, marked=attack != "none")
        add_run(root / str(job), method=method, attack=attack, verdict=found)
    return write_comparison(root)[1]


def shown(view: "Page") -> list[str]:
    """Return the methods of the rows that show."""
    found: list[str] = view.evaluate(f"{SHOWN}.map(r => r.cells[0].textContent)")
    return found


def test_filters_choose_rows_together(browser: "Browser", page: Path) -> None:
    view = browser.new_page()
    try:
        view.goto(page.as_uri())
        assert len(shown(view)) == 4 + 2 * 2, "each setting has two references"
        view.get_by_role("combobox", name="Attack").select_option("backdoor")
        assert shown(view) == ["original", "retrained", "compensated", "federaser"]
        view.get_by_role("searchbox", name="Method contains").fill("FED")
        assert shown(view) == ["federaser"]
        assert view.get_by_role("status").text_content() == "1 of 8 rows"
        view.get_by_role("button", name="Show all").click()
        view.get_by_role("combobox", name="Outcome").select_option("forgotten")
        assert shown(view) == ["compensated"], "'not forgotten' is another outcome"
        view.get_by_role("button", name="Show all").click()
        view.get_by_role("combobox", name="Model").select_option("unlearned")
        assert len(shown(view)) == 4
    finally:
        view.close()


def test_heading_sorts_by_number_with_missing_last(
    browser: "Browser", page: Path
) -> None:
    """8, 8, 24, 100 as numbers, where text would put 100 first."""
    view = browser.new_page()
    try:
        view.goto(page.as_uri())
        heading = view.get_by_role("button", name="client-epochs")
        heading.click()
        assert shown(view)[2:4] == ["federaser", "do_nothing"]
        heading.click()
        assert shown(view)[:2] == ["do_nothing", "federaser"]
    finally:
        view.close()


@pytest.mark.parametrize("name", ["page", "judged"])
@pytest.mark.parametrize("width", [1280, 400])
def test_page_is_quiet_and_within_the_window(
    browser: "Browser", request: pytest.FixtureRequest, name: str, width: int
) -> None:
    page: Path = request.getfixturevalue(name)
    trouble: list[str] = []
    requests: list[str] = []
    view = browser.new_page(viewport={"width": width, "height": 800})
    try:
        view.on("pageerror", lambda error: trouble.append(str(error)))
        view.on("request", lambda request: requests.append(request.url))
        view.goto(page.as_uri())
        seen = view.evaluate(MEASURE)
    finally:
        view.close()
    assert seen["wide"] <= seen["window"] == width
    assert seen["body"] >= 12
    assert seen["drawn"] >= 9
    assert seen["outside"] == []
    assert set(seen["figures"]) == {1}
    assert trouble == []
    assert [url for url in requests if not url.startswith("data:")] == [page.as_uri()]


def test_page_without_scripts_shows_every_row_and_no_form(
    browser: "Browser", page: Path
) -> None:
    context = browser.new_context(java_script_enabled=False)
    try:
        view = context.new_page()
        view.goto(page.as_uri())
        assert view.locator(".filtered tbody tr:visible").count() == 8
        assert not view.locator(".filters").is_visible()
    finally:
        context.close()
