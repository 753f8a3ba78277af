"""A stranger's app whose disk is full, or whose state folder cannot be: a line each."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from flwr.serverapp.strategy import FedAvg

from builders.app_lives import Meddled, ask, live
from builders.full_disk import Full, watched
from builders.lives import copied
from fedneg import Forgettable
from fedneg.core.errors import FedNegError
from fedneg.core.exits import mistakes_in
from fedneg.records.requests import DONE
from fedneg.records.state import State

STRIDE = 23


def test_a_full_disk_is_a_line_with_the_file_and_the_next_start_goes_on(tmp_path: Path):
    """At every STRIDE-th step of writing, from the first round to the receipt."""
    trained = tmp_path / "trained"
    live(trained, 1)
    ask(trained, 101)
    last, named = 1, set()
    while True:
        state = copied(trained, tmp_path / f"{last}")
        try:
            with watched(Full(last)):
                live(state, 2, repair_rounds=0)
        except FedNegError as error:
            said = str(error)
            assert str(state) in said, said
            assert "\n" not in said
            named |= {w.rstrip(":,;") for w in said.split() if str(state) in w}
        else:
            break
        live(state, 2, repair_rounds=0)
        assert [r.status for r in State(state).requests.all()] == [DONE]
        last += STRIDE
    assert len(named) > 3, named


@pytest.mark.parametrize("name", ["model.safetensors", "forget-101.json"])
def test_no_room_for_one_file_of_the_folder_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    """In service, and of what a purge looks for: nobody told which file it was."""
    state, replace = tmp_path / "state", os.replace

    def full(source: Any, target: Any) -> None:
        if Path(target).name == name and Path(target).parent.name != "requests":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    grid = Meddled()
    grid.during[1] = lambda: ask(state, 101)
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(FedNegError, match=rf"cannot write {state}.*{name}: No space"):
        live(state, 2, grid)
    assert name in State(state).read_status()["error"]
    monkeypatch.undo()
    live(state, 2)
    assert [r.status for r in State(state).requests.all()] == [DONE]


@pytest.mark.parametrize("below", ["", "/deep"])
def test_a_state_folder_that_cannot_be_made_is_a_line(tmp_path: Path, below: str):
    (tmp_path / "file").write_text("no folder")
    state = f"{tmp_path}/file/state{below}"
    with pytest.raises(FedNegError, match=f"{tmp_path}/file.*: Not a directory"):
        live(Path(state), 1)
    with pytest.raises(FedNegError, match=r"cannot use /proc/s.*: No such file"):
        live(Path(f"/proc/s{below}"), 1)


def test_a_state_folder_that_may_not_be_written_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    state, opened = tmp_path / "state", os.open
    live(state, 1)

    def refused(path: Any, flags: int, *more: Any, **options: Any) -> int:
        if flags & os.O_RDWR and Path(path).is_relative_to(state):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        return opened(path, flags, *more, **options)

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(FedNegError, match=f"cannot write {state}/lock: Read-only"):
        live(state, 2)
    with pytest.raises(FedNegError, match=f"cannot write {state}/lock: Read-only"):
        Forgettable(FedAvg(), state=state).forget([101])


def test_errors_of_the_program_s_own_files_stay_what_they_are(tmp_path: Path):
    state, grid = tmp_path / "state", Meddled()
    grid.during[1] = lambda: (tmp_path / "missing.csv").read_text()
    with pytest.raises(FileNotFoundError, match=r"missing\.csv"):
        live(state, 1, grid)
    live(state, 1)


def test_errors_count_on_the_way_to_a_folder_and_in_it(tmp_path: Path):
    state = tmp_path / "a/state"
    for name in (state / "x/y", state, tmp_path / "a", bytes(state)):
        with pytest.raises(FedNegError, match="cannot use"), mistakes_in(state):
            raise OSError(errno.EACCES, "no", name)
    for odd in (tmp_path / "b", f"{state}x", None, 7):
        with pytest.raises(OSError, match="no"), mistakes_in(state):
            raise OSError(errno.EACCES, "no", odd)
