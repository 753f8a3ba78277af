"""A full disk and a closed pipe: one line with the file's name, and no traceback."""

import errno
import io
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from omegaconf import OmegaConf
from rich.console import Console

from builders.federations import SMALL, RecordingGrid
from builders.lives import copied, live_on
from builders.waiting import PATIENCE_S
from fedneg.cli.application import run as run_words
from fedneg.client_app import app as real_clients
from fedneg.config import load_config
from fedneg.core import files
from fedneg.core.errors import FedNegError
from fedneg.core.exits import CLOSED_PIPE, LogFile, mistake_of, whole_output
from fedneg.records import audit
from fedneg.records.audit import check
from fedneg.records.state import State
from fedneg.server_app import run

FULL = Path("/dev/full")
on_linux = pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")


class Disk:
    """A disk that takes `left` more files to its end, and no more: at each fsync."""

    def __init__(self, left: int) -> None:
        self.left, self.calls = left, 0

    @contextmanager
    def full(self) -> Iterator[None]:
        """Let the flushing of the next file fail as a full disk lets it, nameless."""
        real = os.fsync

        def fsync(handle: int) -> None:
            self.calls += 1
            if self.calls > self.left:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(handle)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(files.os, "fsync", fsync)
            yield


def until_there_is_room(
    act: Callable[[], object], again: Callable[[], None], *, step: int = 1
) -> list[str]:
    """Do it on ever larger disks until it succeeds; return what it said before.

    Every failure must be a mistake in one line that names a file; `again` follows each.
    """
    said: list[str] = []
    for left in range(0, 1000, step):
        disk = Disk(left)
        with disk.full():
            line = failure_of(act)
        if line is None:
            assert disk.calls <= left
            return said
        assert "No space left on device" in line
        assert "\n" not in line
        assert "/" in line
        said.append(line)
        again()
    raise AssertionError("there is never room")


def failure_of(act: Callable[[], object]) -> str | None:
    """Return the line that an act ends with, None if it succeeds."""
    try:
        act()
    except (FedNegError, OSError) as error:
        mistake = mistake_of(error)
        if mistake is None:
            raise
        return str(mistake)
    return None


# -- files -----------------------------------------------------------------------------


def test_a_run_names_every_file_that_finds_no_room(tmp_path: Path):
    said = until_there_is_room(lambda: do_run(tmp_path / "out"), lambda: None)
    names = ("model_original.safetensors", "history.csv", "clients.csv", "results.json")
    for name in names:
        line = f"cannot write {tmp_path / 'out' / name}: No space left on device"
        assert line in said


def test_a_report_that_finds_no_room_is_named(tmp_path: Path):
    """It is the last file that is written, after its figures."""
    out, disk = tmp_path / "out", Disk(1000)
    with disk.full():
        do_run(out, "report=true")
    for before_last, name in (1, "report.html"), (2, "figures/"):
        again = Disk(disk.calls - before_last)
        with again.full():
            line = failure_of(lambda: do_run(out, "report=true"))
        assert line is not None
        assert f"cannot write {out}/{name}" in line


def do_run(out: Path, *overrides: str) -> None:
    """Train, forget and write everything into a folder."""
    given = [*SMALL, "clients=3", "rounds=1", "forget=1", "reference=false"]
    config, notices = load_config([*given, "report=false", *overrides])
    out.mkdir(exist_ok=True)
    run(RecordingGrid(real_clients, 3), config, out, notices)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a federation of three, after one round."""
    folder = tmp_path_factory.mktemp("made") / "state"
    live_on(folder, *SMALL, "clients=3", "rounds=1", "retrain_rounds=1")
    return folder


@pytest.fixture
def state(made: Path, tmp_path: Path) -> State:
    """Return a copy of it, keys included."""
    return State(copied(made, tmp_path / "state"))


def is_whole(state: State) -> bool:
    """Return whether the log has no broken entry, and no file is half written."""
    found = check(state.folder / "audit.jsonl", state.operator.public)
    left = [
        p for p in state.folder.rglob(".*") if p.name not in (".gitignore", ".lock")
    ]
    return found.broken is None and not left


def test_a_federation_goes_on_after_every_file_that_found_no_room(state: State):
    """From the training of a second round to the receipt of who is forgotten after it.

    The folder is whole after each failure, and the last try ends as it should.
    """
    state.requests.accept(1, clients=3, due_days=30)

    def again() -> None:
        assert is_whole(state)

    said = until_there_is_room(lambda: live_on(state.folder, "rounds=2"), again, step=3)
    assert len(said) > 3
    assert state.requests.open() == []
    assert (state.receipts / "forget-1.json").is_file()


def test_a_request_that_finds_no_room_says_whether_it_is_accepted(
    state: State, capsys: pytest.CaptureFixture[str]
):
    """And asking again, with room, accepts it once."""
    words = ["forget", "1", "--state", str(state.folder)]
    accepted: list[bool] = []

    def again() -> None:
        assert is_whole(state)
        accepted.append(bool(state.requests.all()))

    said = until_there_is_room(lambda: run_words(["request", *words]), again)
    assert said
    for line, is_there in zip(said, accepted, strict=True):
        assert ("is not accepted" in line) != ("is accepted" in line), line
        assert not is_there or "is accepted" in line, line
    assert [r.id for r in state.requests.open()] == ["forget-1"]


@pytest.mark.parametrize("command", ["request", "roster"])
def test_what_the_log_alone_has_is_said_and_shown_while_the_disk_stays_full(
    state: State, capsys: pytest.CaptureFixture[str], command: str
):
    """The entry found room and its file does not, however often it is asked for."""
    where = ["--state", str(state.folder)]
    words, name, told = ["forget", "1", *where], "requests/forget-1.json", "is accepted"
    if command == "roster":
        words = ["add", "1", str(public_key(state.folder.parent)), *where]
        name, told = "roster.json", "since the audit log has it"
    real = files.replacing

    @contextmanager
    def full(path: Path, *, shared: bool = False) -> Iterator[IO[bytes]]:
        if path == state.folder / name:
            raise OSError(errno.ENOSPC, "No space left on device", os.fspath(path))
        with real(path, shared=shared) as file:
            yield file

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "replacing", full)
        for _ in range(2):
            line = failure_of(lambda: run_words([command, *words]))
            assert line is not None
            assert told in line
            assert str(state.folder / name) in line
        # Nor is there room for another entry, which asking again begins with.
        patch.setattr(audit.os, "write", lambda *_: 0)
        line = failure_of(lambda: run_words([command, *words]))
        assert line is not None
        assert told in line
    capsys.readouterr()
    if command == "request":
        for shown in ("requests", "status"):
            run_words([shown, *where])
            assert "forget-1" in capsys.readouterr().out
    run_words([command, *words])
    assert is_whole(State(state.folder))
    there = state.requests.excluded() if command == "request" else state.pins().all()
    assert list(there) == [1]


def test_a_change_of_the_roster_that_finds_no_room_is_named(state: State):
    public = public_key(state.folder.parent)
    words = ["add", "1", str(public), "--state", str(state.folder)]
    said = until_there_is_room(lambda: run_words(["roster", *words]), lambda: None)
    assert any("roster.json" in line for line in said)
    assert any("audit.jsonl" in line for line in said)
    assert list(state.pins().all()) == [1]


def public_key(folder: Path) -> Path:
    """Return the file of a client's public key."""
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    path = folder / "key.pub"
    path.write_bytes(key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    return path


# -- what libraries write --------------------------------------------------------------


@on_linux
def test_a_file_that_a_library_writes_is_named(tmp_path: Path):
    """As Hydra writes .hydra/config.yaml: its error has no name."""
    (tmp_path / "config.yaml").symlink_to(FULL)
    with pytest.raises(OSError, match="No space") as caught:
        OmegaConf.save(OmegaConf.create({"a": 1}), tmp_path / "config.yaml")
    assert caught.value.filename is None
    assert str(mistake_of(caught.value)) == (
        f"cannot write {tmp_path / 'config.yaml'}: No space left on device"
    )


def test_a_log_that_finds_no_room_ends_the_run_by_name(tmp_path: Path):
    """Unless something worse is being told."""
    log, file = logging.Logger("a log"), LogFile(tmp_path / "log")
    log.addHandler(file)
    file.stream.close()
    file.stream = Stream(OSError(errno.ENOSPC, "No space left on device"), at="flush")
    with pytest.raises(OSError, match="No space left") as caught:
        log.error("something")
    assert caught.value.filename == str(tmp_path / "log")
    try:
        raise ValueError("worse")
    except ValueError:
        log.exception("this is told elsewhere")
    file.stream = None
    file.close()


def test_other_errors_of_the_system_stay_defects():
    assert mistake_of(OSError(errno.EINVAL, "Invalid argument")) is None
    assert mistake_of(ValueError("x")) is None
    assert mistake_of(BrokenPipeError(errno.EPIPE, "Broken pipe")) is None


def test_names_that_cannot_be_encoded_are_shown():
    found = mistake_of(FileNotFoundError(errno.ENOENT, "No such file", "a\udcff"))
    assert str(found) == r"cannot use a\xff: No such file"


# -- what is printed -------------------------------------------------------------------


class Stream(io.StringIO):
    """A standard output that cannot be written."""

    def __init__(self, error: OSError, *, at: str) -> None:
        super().__init__()
        self.error, self.at = error, at

    def write(self, text: str) -> int:
        """Raise what is wrong, if it shows here."""
        if self.at == "write":
            raise self.error
        return len(text)

    def flush(self) -> None:
        """Raise what is wrong."""
        raise self.error


def print_plainly() -> None:
    print("x")


def print_richly() -> None:
    Console().print("x")


@pytest.mark.parametrize("at", ["write", "flush"])
@pytest.mark.parametrize("say", [print_plainly, print_richly])
def test_what_is_printed_and_finds_no_room_is_one_line_and_exit_code_2(
    say: Callable[[], None],
    at: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    full = OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Stream(full, at=at))
        with pytest.raises(SystemExit) as end, whole_output():
            say()
    assert end.value.code == 2
    assert capsys.readouterr().err == (
        "fedneg: error: cannot write to the standard output: No space left on device\n"
    )


@pytest.mark.parametrize("at", ["write", "flush"])
def test_a_reader_who_has_gone_is_no_mistake(
    at: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    gone = BrokenPipeError(errno.EPIPE, "Broken pipe")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Stream(gone, at=at))
        with pytest.raises(SystemExit) as end, whole_output():
            print_plainly()
    assert end.value.code == CLOSED_PIPE
    assert capsys.readouterr().err == ""


@on_linux
@pytest.mark.parametrize("words", [["--version"], ["request", "--help"]])
@pytest.mark.parametrize("buffered", ["", "1"])
def test_help_that_goes_nowhere_is_one_line(words: list[str], buffered: str):
    """The real thing, until after Python's own last flush."""
    with FULL.open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fedneg", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONUNBUFFERED": buffered},
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "cannot write to the standard output: No space left" in done.stderr


PRINTING = """
from rich.console import Console
from fedneg.core.exits import whole_output
with whole_output():
    Console().print("a table")
"""


def test_nor_is_one_that_rich_finds_gone():
    """It ends the program by itself, with another code."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as gone:
        done = subprocess.run(
            [sys.executable, "-c", PRINTING],
            stdout=gone,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    assert done.stderr == ""
    assert done.returncode == CLOSED_PIPE
