"""The files of a federation: whose they are, where links lead, who may only look."""

import builtins
import errno
import io
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from builders.federations import SMALL
from builders.lives import copied, live_on
from builders.waiting import promptly
from fedneg.cli.application import run as run_words
from fedneg.core.errors import FedNegError
from fedneg.ledger.rows import make_rows
from fedneg.records.receipts import read_receipt
from fedneg.records.state import State


def train(folder: Path, *overrides: str) -> State:
    """Begin a federation of three, with one round."""
    live_on(folder, *SMALL, "clients=3", "rounds=1", "retrain_rounds=1", *overrides)
    return State(folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a federation that was trained under an open umask."""
    folder = tmp_path_factory.mktemp("made") / "state"
    before = os.umask(0o000)
    try:
        train(folder)
    finally:
        os.umask(before)
    return folder


@pytest.fixture
def state(made: Path, tmp_path: Path) -> State:
    """Return a copy of it, keys included."""
    return State(copied(made, tmp_path / "state"))


def open_to_others(*folders: Path) -> dict[str, str]:
    """Return the modes of all files and folders that other users may use."""
    found = {}
    for folder in folders:
        for path in (folder, *folder.rglob("*")):
            mode = stat.S_IMODE(path.lstat().st_mode)
            if mode & 0o077:
                found[path.name] = f"{mode:o}"
    return found


def forget(state: State, client_id: int, *overrides: str) -> dict[str, Any]:
    """Let a client be forgotten, and return its receipt."""
    state.requests.accept(client_id, clients=3, due_days=30)
    live_on(state.folder, *overrides)
    path = state.receipts / f"forget-{client_id}.json"
    return read_receipt(path, state.operator.public)


# -- what is no file -------------------------------------------------------------------


def write_deep(path: Path) -> None:
    path.write_text("[" * 200_000)


@pytest.mark.parametrize("put", [os.mkfifo, write_deep], ids=["a pipe", "deep JSON"])
def test_no_command_fails_over_what_lies_in_the_place_of_a_file(
    tmp_path: Path, put: Callable[[Path], None]
):
    """In that of any file of state and keys it is named, or does no harm."""
    made = train(tmp_path / "made", "encrypt=true")
    forget(made, 1)
    made.pins().add(0, "ab" * 32, "operator")
    roots = {False: made.folder, True: made.keys}
    files = [
        (is_key, path.relative_to(root))
        for is_key, root in roots.items()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    ]
    assert len(files) > 20
    state = tmp_path / "state"
    for is_key, name in files:
        for end in ("", "-keys"):
            shutil.rmtree(f"{state}{end}", ignore_errors=True)
        copied(made.folder, state)
        path = Path(f"{state}-keys" if is_key else state) / name
        path.unlink()
        put(path)
        for work in (
            lambda: run_words(["status", "--state", str(state)]),
            lambda: run_words(["audit", "--state", str(state)]),
            lambda: live_on(state),
        ):
            with suppress(FedNegError, OSError):
                promptly(work)


# -- modes -----------------------------------------------------------------------------


def test_a_federation_is_its_owners_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """With its scratch folder; the public key alone is there to be passed on."""
    before = os.umask(0o000)
    monkeypatch.setenv("FEDNEG_CACHE", str(tmp_path / "cache"))
    try:
        state = train(tmp_path / "state", "encrypt=true")
        # Before the next start tightens anything.
        assert open_to_others(state.folder, state.keys) == {"operator.pub": "666"}
        make_rows(2, 3, tmp_path / "cache" / "scratch")
        forget(state, 1)
        state.pins().add(0, "ab" * 32, "operator")
    finally:
        os.umask(before)
    parts = {path.name for path in state.folder.iterdir()}
    assert parts >= {"checkpoints", "requests", "receipts", "fingerprints", "lock"}
    assert parts >= {"roster.json", "history.csv", "status.json", "audit.jsonl"}
    folders = (state.folder, state.keys, tmp_path / "cache")
    assert open_to_others(*folders) == {"operator.pub": "666"}


def test_what_an_older_version_left_open_is_tightened_at_the_next_start(state: State):
    """Behind a link, too, where it is one of the federation's own folders."""
    disk = state.folder.parent / "disk"
    (state.folder / "checkpoints").rename(disk)
    (state.folder / "checkpoints").symlink_to(disk)
    for folder in (state.folder, disk):
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
    assert len(open_to_others(state.folder)) > 5
    with state.running():
        assert open_to_others(disk) == {}
        assert set(open_to_others(state.folder)) <= {"checkpoints"}  # the link itself


def test_a_file_that_is_not_ours_to_tighten_is_named(
    state: State, monkeypatch: pytest.MonkeyPatch
):
    def refuse(path: Path, mode: int, **_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", str(path))

    state.history.chmod(0o644)
    monkeypatch.setattr(Path, "chmod", refuse)
    with (
        pytest.raises(
            FedNegError, match=r"history\.csv must be its owner's alone, and"
        ),
        state.running(),
    ):
        pass


# -- links -----------------------------------------------------------------------------


def test_a_backup_behind_a_link_keeps_a_purge_open_and_what_is_no_file_is_told(
    state: State, capsys: pytest.CaptureFixture[str]
):
    """The receipt says where the proof went, and where it could not go."""
    disk = state.folder.parent / "disk"
    (state.folder / "checkpoints").rename(disk)
    (state.folder / "checkpoints").symlink_to(disk)
    original = next(disk.glob("*.safetensors"))
    backup = disk / "old" / "backup.bin"
    backup.parent.mkdir()
    shutil.copy(original, backup)
    os.mkfifo(state.folder / "pipe")
    (state.folder / "backups").symlink_to(disk.parent / "unmounted")
    with pytest.raises(FedNegError, match=f"{backup} still holds a "):
        forget(state, 1)
    assert [r.id for r in state.requests.open()] == ["forget-1"]
    with pytest.raises(FedNegError, match=f"{backup} holds, at byte"):
        run_words(["scan", "--state", str(state.folder)])
    backup.unlink()
    live_on(state.folder)
    assert state.requests.open() == []
    assert not original.exists()
    path = state.receipts / "forget-1.json"
    purged = read_receipt(path, state.operator.public)["purged"]
    assert purged["followed"] == [f"checkpoints -> {disk}"]
    assert sorted(purged["not_searched"]) == [
        f"backups (a link to {disk.parent / 'unmounted'}, which is not there)",
        "pipe (a pipe)",
    ]
    assert purged["not_searched_count"] == 2
    capsys.readouterr()
    run_words(["scan", "--state", str(state.folder)])
    said = capsys.readouterr().out
    assert f"followed {state.folder / 'checkpoints'} to {disk}\n" in said
    assert f"not searched: {state.folder / 'pipe'} (a pipe)\n" in said
    assert f"not searched: {state.folder / 'backups'} (a link to " in said


def test_a_model_that_is_served_through_a_link_is_replaced_there(state: State):
    served = state.folder.parent / "served.safetensors"
    state.model.rename(served)
    state.model.symlink_to(served)
    before = served.read_bytes()
    forget(state, 1)
    assert state.model.is_symlink()
    assert served.read_bytes() != before
    assert state.model.stat().st_size == len(before)


def test_a_checkpoint_that_is_a_link_is_purged_where_it_lies(state: State):
    disk = state.folder.parent / "disk"
    disk.mkdir()
    for path in (state.folder / "checkpoints").glob("*.safetensors"):
        path.rename(disk / path.name)
        path.symlink_to(disk / path.name)
    forget(state, 1)
    assert list(disk.iterdir()) == []


def test_checkpoints_on_a_disk_that_is_not_there_are_named(state: State):
    shutil.rmtree(state.folder / "checkpoints")
    (state.folder / "checkpoints").symlink_to("/nowhere/disk")
    with pytest.raises(OSError, match=r"a link to /nowhere/disk, which is not there"):
        live_on(state.folder)


# -- looking ---------------------------------------------------------------------------


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let every try to write fail, as on a disk that is mounted so; for root, too."""

    def no(*given: object, **_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(given[0]))

    real_open, plain = os.open, io.open

    def os_open(path: Any, flags: int, *more: Any, **options: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            no(path)
        return real_open(path, flags, *more, **options)

    def io_open(file: Any, mode: str = "r", *more: Any, **options: Any) -> Any:
        if set(mode) & set("wax+"):
            no(file)
        return plain(file, mode, *more, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", os_open)
        patch.setattr(io, "open", io_open)
        patch.setattr(builtins, "open", io_open)
        for name in ("mkdir", "replace", "rename", "unlink", "chmod", "utime"):
            patch.setattr(os, name, no)
        yield


def test_who_only_looks_needs_no_write_access(
    made: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
):
    """Status, requests, roster, audit, verify and scan; before the first lock, too."""
    folder = tmp_path_factory.mktemp("looked at") / "state"
    copied(made, folder)
    forget(State(folder), 1)
    for lock in (*folder.rglob("lock"), *folder.rglob(".lock"), folder / ".gitignore"):
        lock.unlink()
    capsys.readouterr()
    request.getfixturevalue("read_only")
    given = ["--state", str(folder)]
    run_words(["status", *given])
    run_words(["status", *given, "--json"])
    run_words(["requests", *given])
    run_words(["roster", "list", *given])
    run_words(["audit", *given])
    public = f"{folder}-keys/operator.pub"
    run_words(["verify", str(folder / "receipts/forget-1.json"), "--key", public])
    run_words(["scan", *given])
    assert "matches in 0 files" in capsys.readouterr().out
    with pytest.raises(OSError, match="Read-only"):
        State(folder).requests.mark([1], "accepted")


def test_status_sees_a_run_without_write_access(
    state: State, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
):
    with state.running():
        request.getfixturevalue("read_only")
        run_words(["status", "--state", str(state.folder), "--json"])
    assert json.loads(capsys.readouterr().out)["running"] is True


def test_status_counts_what_lies_behind_links(
    state: State, capsys: pytest.CaptureFixture[str]
):
    def counted() -> int:
        run_words(["status", "--state", str(state.folder), "--json"])
        return int(json.loads(capsys.readouterr().out)["disk_bytes"])

    before = counted()
    (state.folder / "checkpoints").rename(state.folder.parent / "disk")
    (state.folder / "checkpoints").symlink_to(state.folder.parent / "disk")
    assert counted() == before


def test_status_of_real_clients_claims_nothing_about_servers(
    state: State,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    """A SuperLink and its clients may be up: only runs hold the folder."""
    monkeypatch.setenv("COLUMNS", "200")
    facts = state.folder / "federation.json"
    facts.write_text(facts.read_text().replace('"deployed": false', '"deployed": true'))
    run_words(["status", "--state", str(state.folder)])
    said = capsys.readouterr().out
    assert "no run at the moment; SuperLink and clients may be up" in said
    assert "online in the last run" in said
    assert "not running" not in said


# -- nothing to look for ---------------------------------------------------------------


def test_a_scan_for_clients_that_never_took_part_has_nothing_to_look_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """One of three takes part in each of two rounds; the third asks to be forgotten.

    The model of the first round goes in the purge, and holds nothing of that client.
    """
    state = train(tmp_path / "state", "strategy.client_fraction=0.1", "rounds=2")
    checkpoints = state.checkpoints(every=1, encrypt=False)
    absent = min({0, 1, 2} - set(checkpoints.facts(2)["contains"]))
    forget(state, absent)
    capsys.readouterr()
    run_words(["scan", "--state", str(state.folder)])
    assert capsys.readouterr().out == (
        f"client {absent} (forget-{absent}) has no scan windows: it took part in no "
        "round, there is nothing to look for\n"
    )
    path = state.scan_windows / f"forget-{absent}.json"
    content = json.loads(path.read_bytes())
    # Who took part, and left nothing telling, is another matter: nothing is claimed.
    path.write_text(json.dumps(content | {"took_part": True}))
    with pytest.raises(FedNegError, match="holds no scan windows; nothing was looked"):
        run_words(["scan", "--state", str(state.folder)])
    shutil.rmtree(state.scan_windows)
    with pytest.raises(FedNegError, match="holds no scan windows; nothing was looked"):
        run_words(["scan", "--state", str(state.folder)])
