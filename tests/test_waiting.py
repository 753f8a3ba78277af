"""Waits of the tests: they end early, say what they waited for, and have no other."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from builders import waiting
from builders.checkout import TESTS
from builders.waiting import (
    LONG_S,
    PATIENCE_S,
    no_longer_than_patience,
    until,
    until_it_says,
)

# A wait with a number of its own is patient on one machine and too short on another.
WAITS = {"wait", "communicate", "join", "run", "Timer", "check_call", "check_output"}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let everything that is waited for take too long."""
    monkeypatch.setattr(waiting, "PATIENCE_S", 0.05)


def test_what_is_found_ends_the_wait():
    looks = iter(["", "", "here"])
    assert until("it", lambda: next(looks)) == "here"


def test_what_never_comes_is_named(impatient: None, tmp_path: Path):
    with pytest.raises(AssertionError, match=r"^waited 0\.05 s for a miracle$"):
        until("a miracle", lambda: False)
    (tmp_path / "log").write_text("boom\n")
    with pytest.raises(AssertionError, match=r"^waited 0\.05 s for 'up' in .*\n?boom"):
        until_it_says(tmp_path / "log", "up")


def test_a_process_that_hangs_is_killed(impatient: None):
    hangs = f"import time; time.sleep({LONG_S})"
    process = subprocess.Popen([sys.executable, "-c", hangs], stdout=subprocess.PIPE)
    with no_longer_than_patience(process):
        assert process.communicate()[0] == b""
    assert process.returncode < 0


def waits_with_a_number(text: str) -> Iterator[tuple[int, float]]:
    """Yield line and number of every wait of a second or more that ends by itself."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        given = [k.value for k in node.keywords if k.arg == "timeout"]
        if name in WAITS - {"run"}:
            given += node.args[:1]
        numbers = [value.value for value in given if isinstance(value, ast.Constant)]
        for number in numbers:
            if isinstance(number, int | float) and number >= 1:
                yield node.lineno, number


def test_the_search_sees_every_kind_of_wait():
    text = "p.wait(20)\nrun(a, timeout=240)\np.communicate(timeout=60)\nTimer(60, f)\n"
    fine = "p.wait(PATIENCE_S)\nt.join(0.2)\n' '.join(words)\nrun(a, timeout=None)\n"
    assert [line for line, _ in waits_with_a_number(text + fine)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "path", sorted(TESTS.rglob("*.py")), ids=lambda p: str(p.relative_to(TESTS))
)
def test_no_wait_has_a_number_of_its_own(path: Path):
    assert list(waits_with_a_number(path.read_text())) == []


def test_patience_is_minutes():
    assert 600 <= PATIENCE_S < LONG_S
