"""Locks between processes: what they promise, and that one place asks for them."""

import ast
import os
import threading
from pathlib import Path

import pytest

from builders.checkout import REPOSITORY
from builders.waiting import PATIENCE_S
from fedneg.core import locks
from fedneg.core.locks import give_back, is_locked, locked, open_locked, take


@pytest.fixture
def two(tmp_path: Path) -> tuple[int, int]:
    """Return two descriptors of one file, as two processes would have them."""
    path = tmp_path / "lock"
    path.touch()
    return os.open(path, os.O_RDWR), os.open(path, os.O_RDWR)


def test_one_has_it_alone_and_the_end_of_its_descriptor_gives_it_back(two):  # noqa: ANN001
    one, other = two
    assert take(one)
    assert not take(other, timeout_s=0)
    assert not take(other, shared=True, timeout_s=0)
    os.close(one)
    assert take(other, timeout_s=0)
    os.close(other)


def test_many_may_share_it_and_then_nobody_has_it_alone(two):  # noqa: ANN001
    one, other = two
    assert take(one, shared=True)
    assert take(other, shared=True, timeout_s=0)
    give_back(other)
    assert not take(other, timeout_s=0.05)
    give_back(one)
    assert take(other, timeout_s=0)
    os.close(one)
    os.close(other)


def test_who_waits_without_a_limit_has_it_once_it_is_free(tmp_path: Path):
    path, had = tmp_path / "new" / "lock", threading.Event()

    def wait() -> None:
        with open_locked(path, os.O_APPEND) as handle:
            os.write(handle, b"second")
            had.set()

    with open_locked(path) as handle:
        waiter = threading.Thread(target=wait)
        waiter.start()
        assert not had.wait(0.2)
        os.write(handle, b"first ")
    assert had.wait(PATIENCE_S)
    waiter.join()
    assert path.read_bytes() == b"first second"
    assert path.stat().st_mode & 0o777 == 0o600
    assert not is_locked(path)


def test_who_only_looks_puts_nobody_off(
    two,  # noqa: ANN001
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """Neither who else looks, nor who would have it and not wait."""
    looking, other = two
    assert take(looking, shared=True)
    assert not is_locked(tmp_path / "lock")
    monkeypatch.setattr(locks, "INSTANT_S", PATIENCE_S)  # on a busy machine
    end = threading.Timer(0.1, give_back, [looking])
    end.start()
    with locked(tmp_path / "lock", "this", timeout_s=0):
        assert is_locked(tmp_path / "lock")
    end.join()
    os.close(looking)
    os.close(other)


def test_one_place_asks_for_locks():
    """What a lock promises is said once, and so is true of all."""
    asking = set()
    for folder in ("fedneg", "strategies", "clients"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    names = {a.name for a in node.names}
                    if "fcntl" in names | {getattr(node, "module", None)}:
                        asking.add(path.name)
    assert asking == {"locks.py"}
