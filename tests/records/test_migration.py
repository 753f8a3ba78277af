"""A state of schema 1, whose log knew neither ids nor checkpoints, goes on."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from builders.lives import ask, copied, go_on, receipt_of
from builders.old_state import change, make_old
from fedneg.cli.application import run as run_words
from fedneg.core.errors import FedNegError
from fedneg.records.identity import ID_NAME
from fedneg.records.state import State

FOUR = ("clients=4", "retrain=none")


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a state of schema 1: client 1 is forgotten, and 2 has asked."""
    folder = tmp_path_factory.mktemp("old") / "state"
    go_on(folder, *FOUR)
    ask(folder, 1, clients=4)
    go_on(folder, *FOUR)
    ask(folder, 2, clients=4)
    make_old(folder)
    return folder


@pytest.fixture
def state(old: Path, tmp_path: Path) -> Path:
    """Return a copy of it."""
    return copied(old, tmp_path / "state")


def audit(state: Path) -> None:
    """Do `fedneg audit`."""
    run_words(["audit", "--state", str(state)])


def events(state: Path) -> list[str]:
    """Return the events of its log."""
    lines = (state / "audit.jsonl").read_text().splitlines()
    return [json.loads(line)["event"] for line in lines]


def test_its_first_start_migrates_it_and_what_was_asked_is_done(
    state: Path, capsys: pytest.CaptureFixture[str]
):
    federation = State(state).known_facts().id
    run_words(["status", "--state", str(state)])  # looking changes nothing
    audit(state)
    assert "migrated" not in events(state)
    assert not (state / ID_NAME).exists()
    grid = go_on(state, *FOUR, "rounds=3")
    assert grid.asked("train") == [0, 3]
    assert receipt_of(state, 2)["federation"] == federation
    assert events(state).count("migrated") == 1
    entry = json.loads(
        (state / "audit.jsonl")
        .read_text()
        .splitlines()[events(state).index("migrated")]
    )
    assert (entry["facts"]["from_schema"], entry["facts"]["id"]) == (1, federation)
    assert entry["facts"]["requests"]["1"]["status"] == "done"
    for folder in (state, State(state).keys):
        assert (folder / ID_NAME).read_text() == f"{federation}\n"
    assert json.loads((state / "federation.json").read_bytes())["schema"] == 2
    audit(state)
    go_on(state, *FOUR, "rounds=4")
    assert events(state).count("migrated") == 1


def test_a_request_migrates_it_too(state: Path):
    run_words(["request", "forget", "0", "--state", str(state)])
    assert events(state)[-2:] == ["migrated", "accepted"]
    audit(state)


def test_a_migration_that_was_cut_short_is_completed_and_no_later_one(state: Path):
    with State(state).running():
        pass
    for folder in (state, State(state).keys):
        (folder / ID_NAME).unlink()
    change(state / "federation.json", schema=1)
    with State(state).running():
        pass
    assert json.loads((state / "federation.json").read_bytes())["schema"] == 2
    assert (State(state).keys / ID_NAME).exists()
    go_on(state, *FOUR)
    change(state / "federation.json", schema=1)
    with pytest.raises(FedNegError, match="is of schema 1, and its log has entries of"):
        go_on(state, *FOUR)


def remove(name: str) -> Callable[[Path], None]:
    return lambda state: (state / name).unlink()


without_log = remove("audit.jsonl")


def add_space(state: Path) -> None:
    path = state / "receipts" / "forget-1.json"
    path.write_bytes(path.read_bytes() + b" ")


def empty_scan_windows(state: Path) -> None:
    (state / "fingerprints" / "forget-1.json").write_bytes(b"")


def bind_keys(state: Path) -> None:
    path = State(state).keys / ID_NAME
    path.write_text("12345678-" + 3 * "1234-" + "1" * 12)


def older_log(state: Path) -> None:
    change(state / "federation.json", schema=2)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (remove("requests/forget-1.json"), r"forget-1\.json is missing"),
        (remove("receipts/forget-1.json"), r"forget-1\.json is missing, .* is done"),
        (without_log, r"audit\.jsonl is missing or empty"),
        (
            remove("fingerprints/forget-1.json"),
            r"fingerprints/forget-1\.json is missing, and forget-1 is done; restore it",
        ),
        (empty_scan_windows, r"fingerprints/forget-1\.json holds no scan windows"),
        (add_space, r"forget-1\.json is not the one in the audit log"),
        (bind_keys, "the log of federation|federation 12345678|belongs to"),
        (older_log, "of schema 1: it is an older log"),
    ],
)
def test_what_its_log_disproves_is_refused(
    state: Path, act: Callable[[Path], None], message: str
):
    """And named by who only looks, whether or not anybody has migrated it."""
    act(state)
    log = r"audit\.jsonl cannot be read" if act is without_log else message
    if act is not older_log:
        with pytest.raises(FedNegError, match=log):
            audit(state)
    with pytest.raises(FedNegError, match=message):
        go_on(state, *FOUR)


def test_once_migrated_its_scan_windows_are_those_that_the_log_names(state: Path):
    with State(state).running():
        pass
    audit(state)
    change(state / "fingerprints" / "forget-1.json", fingerprints=[])
    with pytest.raises(FedNegError, match=r"forget-1\.json is not the one that the"):
        audit(state)
    with pytest.raises(FedNegError, match=r"forget-1\.json is not the one that the"):
        run_words(["request", "forget", "0", "--state", str(state)])


def test_a_sealed_one_goes_on_as_well(tmp_path: Path):
    options = ("clients=3", "encrypt=true", "retrain=none", "rounds=1")
    go_on(tmp_path / "state", *options)
    ask(tmp_path / "state", 2)
    go_on(tmp_path / "state", *options)
    make_old(tmp_path / "state")
    assert go_on(tmp_path / "state", *options, "rounds=2").asked("train") == [0, 1]
    audit(tmp_path / "state")


def test_one_from_another_time_to_come_names_both_versions(state: Path):
    change(state / "federation.json", schema=3)
    with pytest.raises(FedNegError, match="schema 3, and this fedneg knows 1 and 2"):
        go_on(state, *FOUR)
