"""A browser, for the tests that look at pages."""

import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from builders.waiting import PATIENCE_S

if TYPE_CHECKING:
    from playwright.sync_api import Browser


ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """Yield headless Chromium, or skip and say what is missing."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.skip("playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"no browser on PATH: looked for {', '.join(names)}")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=found, args=ARGUMENTS, timeout=PATIENCE_S * 1000
        )
        for name in ("new_page", "new_context"):
            setattr(chromium, name, _patient(getattr(chromium, name)))
        yield chromium
        chromium.close()


def _patient(make: Callable[..., Any]) -> Callable[..., Any]:
    """Return what makes pages that wait longer than Playwright's half minute."""

    def made(**options: Any) -> Any:
        view = make(**options)
        view.set_default_timeout(PATIENCE_S * 1000)
        return view

    return made
