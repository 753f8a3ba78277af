"""Waits that end as soon as the thing happens, and fail only on what hangs.

Tests run on machines of every speed, and on busy ones. How long something takes says
nothing about whether it is right, so no test asserts it: every wait has the same
patience, far beyond what the slowest machine needs.
"""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

Found = TypeVar("Found")
# `make test-all`: every step at which a run can be killed, not one of several.
ALL_TESTS = bool(os.environ.get("FEDNEG_ALL_TESTS"))
PATIENCE_S = 900.0 if not ALL_TESTS else 14_400.0
# For what takes a moment, and would wait for ever where it opened a pipe.
PROMPTLY_S = 120.0
# For what is ended in a test long before its own end.
LONG_S = 100_000


def until(what: str, look: Callable[[], Found]) -> Found:
    """Return what `look` finds, once that is true.

    Raises
    ------
    AssertionError
        If it never is: with what was waited for.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited {PATIENCE_S:g} s for {what}"
        time.sleep(0.02)
    return found


def until_it_says(path: Path, text: str) -> str:
    """Return the text of a file that grows, once it contains what is waited for."""

    def said() -> str:
        return path.read_text(errors="replace") if path.exists() else ""

    try:
        return until(repr(text), lambda: said() if text in said() else "")
    except AssertionError as error:
        raise AssertionError(f"{error} in {path}:\n{said()}") from None


@contextmanager
def no_longer_than_patience(process: subprocess.Popen[Any]) -> Iterator[None]:
    """Kill a process that hangs, so that nobody reads its output for ever."""
    alarm = threading.Timer(PATIENCE_S, process.kill)
    alarm.start()
    try:
        yield
    finally:
        alarm.cancel()


def promptly(ask: Callable[[], Any]) -> Any:
    """Return what a call returns, or raise what it raises; fail if it hangs."""
    found: list[Any] = []

    def work() -> None:
        try:
            found.append((ask(), None))
        except BaseException as error:
            found.append((None, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(PROMPTLY_S)
    assert found, "it waits for a file that is none"
    ((value, error),) = found
    if error is not None:
        raise error
    return value
