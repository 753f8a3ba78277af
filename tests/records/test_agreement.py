"""The audit log is the truth: what is moved about, removed or put back is named.

Every break is found by `fedneg audit`, which only looks, and refused by the next start,
so that in no case a forgotten client trains again.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from builders.checkout import TESTS
from builders.lives import Meddling, ask, go_on
from builders.waiting import PATIENCE_S
from fedneg.cli.application import run as run_words
from fedneg.core.errors import FedNegError
from fedneg.lasting.remnants import Remnants
from fedneg.ledger.checkpoint_files import head_bytes
from fedneg.ledger.tensors import sha256_of
from fedneg.live.standing import Standing
from fedneg.records.account import BEGUN
from fedneg.records.audit import AuditLog
from fedneg.records.head import HEAD_NAME, read_head
from fedneg.records.identity import ID_NAME
from fedneg.records.pins import OPERATOR
from fedneg.records.receipts import read_receipt, signed_receipt
from fedneg.records.requests import ACCEPTED, Request, logged
from fedneg.records.state import State

FOUR = ("clients=4", "retrain=none")


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with copies of one federation at three times of its life.

    ``trained``, after two rounds; ``one``, without client 1; ``two``, without 2 either.
    """
    folder = tmp_path_factory.mktemp("lives")
    go_on(folder / "trained", *FOUR)
    for client_id in (0, 2):
        State(folder / "trained").pins().add(client_id, str(client_id) * 64, OPERATOR)
    for client_id, before, after in ((1, "trained", "one"), (2, "one", "two")):
        copy(folder / before, folder / after)
        ask(folder / after, client_id, clients=4)
        go_on(folder / after, *FOUR)
    return folder


def copy(made: Path, to: Path) -> Path:
    """Copy a state and its keys."""
    for ending in ("", "-keys"):
        shutil.copytree(f"{made}{ending}", f"{to}{ending}")
    return to


@pytest.fixture
def state(lives: Path, tmp_path: Path) -> Path:
    """Return a copy of the federation from which 1 and 2 were forgotten."""
    return copy(lives / "two", tmp_path / "state")


def audit(state: Path, *words: str) -> None:
    """Do `fedneg audit`."""
    run_words(["audit", "--state", str(state), *words])


def contents(*folders: Path) -> dict[Path, bytes | None]:
    """Return every file and folder, but for the lock of who only looks in."""
    return {
        path: path.read_bytes() if path.is_file() else None
        for folder in folders
        for path in folder.rglob("*")
    }


def edit(path: Path, **changes: Any) -> None:
    """Change values in a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))


# -- breaks ----------------------------------------------------------------------------


def swap_receipts(state: Path, lives: Path) -> None:
    one, two = (state / "receipts" / f"forget-{k}.json" for k in (1, 2))
    one.rename(state / "x")
    two.rename(one)
    (state / "x").rename(two)


def copy_receipt(name: str) -> Callable[[Path, Path], None]:
    def act(state: Path, lives: Path) -> None:
        folder = state / "receipts"
        shutil.copy(folder / "forget-1.json", folder / name)

    return act


def sign_another_receipt(state: Path, lives: Path) -> None:
    """By who holds the key: a good signature, and not what the log names."""
    key = State(state).operator
    path = state / "receipts" / "forget-1.json"
    content = read_receipt(path, key.public) | {"remains": "nothing at all"}
    path.write_bytes(signed_receipt(content, key))


def remove(*names: str) -> Callable[[Path, Path], None]:
    def act(state: Path, lives: Path) -> None:
        for name in names:
            (state / name).unlink()

    return act


def change(name: str, **changes: Any) -> Callable[[Path, Path], None]:
    return lambda state, lives: edit(state / name, **changes)


def empty_scan_windows(state: Path, lives: Path) -> None:
    """Well-formed, and nothing is looked for any more."""
    edit(state / PRINTS, fingerprints=[])


def swap_scan_windows(state: Path, lives: Path) -> None:
    shutil.copy(state / "fingerprints" / "forget-2.json", state / PRINTS)


def cut_scan_windows(state: Path, lives: Path) -> None:
    (state / PRINTS).write_bytes(b"")


def scan_windows_of_nobody(state: Path, lives: Path) -> None:
    shutil.copy(state / PRINTS, state / "fingerprints" / "forget-3.json")


def whole_state(state: Path, lives: Path) -> None:
    """All of it, log included, from a backup; the keys are those of today."""
    shutil.rmtree(state)
    shutil.copytree(lives / "one", state)


def forget_head(act: Callable[[Path, Path], None]) -> Callable[[Path, Path], None]:
    """Break a federation whose keys an older fedneg wrote, without a head."""

    def both(state: Path, lives: Path) -> None:
        (State(state).keys / HEAD_NAME).unlink()
        act(state, lives)

    return both


def other_head(content: str) -> Callable[[Path, Path], None]:
    return lambda state, lives: _write(State(state).keys / HEAD_NAME, content)


def _write(path: Path, text: str) -> None:
    path.write_text(text)


def empty_log_and_receipt(state: Path, lives: Path) -> None:
    (state / RECEIPT).write_text("{}")
    empty_log(state, lives)


def older_log_and_receipt(state: Path, lives: Path) -> None:
    (state / RECEIPT).write_text("{}")
    older_log(state, lives)


def add_request(state: Path, lives: Path) -> None:
    request = json.loads((state / "requests" / "forget-1.json").read_bytes())
    made = request | {"client_id": 3, "status": "accepted"}
    (state / "requests" / "forget-3.json").write_text(json.dumps(made))


def empty_log(state: Path, lives: Path) -> None:
    (state / "audit.jsonl").write_bytes(b"")


def cut_log(state: Path, lives: Path) -> None:
    lines = (state / "audit.jsonl").read_bytes().splitlines(keepends=True)
    (state / "audit.jsonl").write_bytes(b"".join(lines[:-2]))


def older_log(state: Path, lives: Path) -> None:
    shutil.copy(lives / "one" / "audit.jsonl", state)


def other_federations_log(state: Path, lives: Path) -> None:
    """Signed with the very same key."""
    key = State(state).operator
    (state / "audit.jsonl").unlink()
    AuditLog(state / "audit.jsonl", key).append(
        BEGUN, id="12345678-" + 3 * "1234-" + "1" * 12
    )


def put_back(*names: str, of: str = "trained") -> Callable[[Path, Path], None]:
    """Bring parts of an earlier time back."""

    def act(state: Path, lives: Path) -> None:
        for name in names:
            target, source = state / name, lives / of / name
            if target.is_dir():
                shutil.rmtree(target)
            elif target.exists():
                target.unlink()
            if source.is_dir():
                shutil.copytree(source, target)
            elif source.exists():
                shutil.copy(source, target)

    return act


def all_but_the_log(state: Path, lives: Path) -> None:
    log = (state / "audit.jsonl").read_bytes()
    shutil.rmtree(state)
    shutil.copytree(lives / "trained", state)
    (state / "audit.jsonl").write_bytes(log)


def edit_head(state: Path, lives: Path) -> None:
    """Say of a whole checkpoint that client 3 is not in its model."""
    head = state / "checkpoints" / "round-000004.json"
    content = json.loads(head.read_bytes())
    del content["digest"]
    content["facts"]["contains"] = [0]
    head.write_bytes(head_bytes(content))


def swap_rows(state: Path, lives: Path) -> None:
    """Let one client's contribution be another's: the sum is the same."""
    path = state / "checkpoints" / "round-000004.safetensors"
    arrays = load_file(path)
    arrays["contributions"][[0, 3]] = arrays["contributions"][[3, 0]]
    save_file(arrays, path)
    head = path.with_suffix(".json")
    content = json.loads(head.read_bytes())
    del content["digest"]
    content["sha256"] = sha256_of(path)
    head.write_bytes(head_bytes(content))


def older_checkpoint_beside(state: Path, lives: Path) -> None:
    for path in (lives / "trained" / "checkpoints").glob("round-000001*"):
        shutil.copy(path, state / "checkpoints")


def other_id(ending: str) -> Callable[[Path, Path], None]:
    def act(state: Path, lives: Path) -> None:
        path = Path(f"{state}{ending}") / ID_NAME
        path.write_text("12345678-" + 3 * "1234-" + "1" * 12)

    return act


def another_pin(state: Path, lives: Path) -> None:
    edit(state / "roster.json", **{"3": {"key": "3" * 64, "source": "x", "since": "y"}})


RECEIPT, REQUEST = "receipts/forget-1.json", "requests/forget-1.json"
PRINTS = "fingerprints/forget-1.json"
# Of these a request is refused, too, before it is on the disk.
SCAN_WINDOWS: list[tuple[str, Callable[[Path, Path], None], str]] = [
    (
        "scan windows removed",
        remove(PRINTS),
        "fingerprints/forget-1.json is missing, and forget-1 is done: .*; restore it",
    ),
    (
        "scan windows emptied",
        empty_scan_windows,
        "fingerprints/forget-1.json is not the one that the audit log names: .*restore",
    ),
    ("of another", swap_scan_windows, "fingerprints/forget-1.json is of client 2"),
    ("of nothing", cut_scan_windows, "forget-1.json holds no scan windows, .*restore"),
    (
        "of who never asked",
        scan_windows_of_nobody,
        "fingerprints/forget-3.json is of a client that never asked, .*; remove it",
    ),
]
ENDS = "audit.jsonl ends before entry [0-9]+ that the keys know .*restore the newer one"
# And of these all that changes anything.
OLDER: list[tuple[str, Callable[[Path, Path], None], str]] = [
    ("whole state", whole_state, ENDS),
    ("log cut", cut_log, ENDS),
    ("older log", older_log, ENDS),
    (
        "log written anew",
        other_head(json.dumps({"seq": 2, "digest": "1" * 64})),
        "audit.jsonl has another entry 2 than the keys know .*: it was written anew",
    ),
    ("head damaged", other_head("{"), "log.head must hold seq and digest .* restore"),
    ("head of none", other_head('{"seq": 0, "digest": ""}'), "log.head must hold seq"),
]
# And of these who asks, and whoever lists a key: client ids hang on them.
FACTS: list[tuple[str, Callable[[Path, Path], None], str]] = [
    (
        "settings",
        change("federation.json", fixed={"clients": 4}),
        "federation.json has other settings than the audit log",
    ),
    (
        "id in federation.json",
        change("federation.json", id="y"),
        "federation.json is of federation 'y', and the audit log of",
    ),
    (
        "overrides",
        change("federation.json", overrides=["data=digits", "strategy=do_nothing"]),
        r"federation.json says overrides=\[.*do_nothing.*, and the audit log \[",
    ),
    (
        "deployed",
        change("federation.json", deployed=True),
        "federation.json says deployed=True, and the audit log False; restore it",
    ),
    (
        "encrypt",
        change("federation.json", encrypt=True),
        "federation.json says encrypt=True, and the audit log False",
    ),
    (
        "created",
        change("federation.json", created="2001-01-01T00:00:00+00:00"),
        "federation.json says created='2001-01-01",
    ),
    (
        "schema set back",
        change("federation.json", schema=1),
        "is of schema 1, and its log has entries of schema 2; restore the file",
    ),
    (
        "unknown schema",
        change("federation.json", schema=9),
        "federation.json cannot be read: it is of schema 9",
    ),
]
BREAKS: list[tuple[str, Callable[[Path, Path], None], str]] = [
    ("receipts swapped", swap_receipts, "forget-1.json is not the receipt of forget-1"),
    ("a copy", copy_receipt("forget-3.json"), "forget-3.json is no receipt that the"),
    ("a copy under a name", copy_receipt("copy.json"), "copy.json is no receipt that"),
    ("receipt signed anew", sign_another_receipt, "forget-1.json is not the receipt"),
    ("receipt deleted", remove(RECEIPT), "forget-1.json is missing, and the audit"),
    ("request removed", remove(REQUEST), "forget-1.json is missing, .* is done"),
    ("request and receipt", remove(REQUEST, RECEIPT), "forget-1.json is missing"),
    ("request added", add_request, "forget-3.json has no entry in the audit log"),
    (
        "request put back to accepted",
        change(REQUEST, status=ACCEPTED),
        "forget-1.json says that it is accepted, and the audit log that it is done",
    ),
    (
        "the last one put back",
        change("requests/forget-2.json", status=ACCEPTED),
        "forget-2.json says that it is accepted, and the audit log that it is done",
    ),
    ("due date", change(REQUEST, due="2001-01-01"), "forget-1.json has another due"),
    ("reason", change(REQUEST, reason="x"), "forget-1.json has another reason"),
    ("empty log", empty_log, "audit.jsonl is (missing or )?empty"),
    ("no log", remove("audit.jsonl"), "audit.jsonl (is missing|cannot be read)"),
    ("empty log, bad receipt", empty_log_and_receipt, "jsonl is (missing or )?empty"),
    ("older log, bad receipt", older_log_and_receipt, ENDS),
    (
        "log cut, no head",
        forget_head(cut_log),
        "forget-2.json says that it is done, and .* is purging",
    ),
    (
        "older log, no head",
        forget_head(older_log),
        "forget-2.json has no entry in the audit log",
    ),
    *SCAN_WINDOWS,
    *OLDER,
    ("log of another", other_federations_log, "is the log of federation 12345678-"),
    ("all but the log", all_but_the_log, "forget-1.json is missing"),
    ("requests", put_back("requests"), "forget-1.json is missing"),
    (
        "checkpoints",
        put_back("checkpoints"),
        "of round 1 .* contains client 1, which was forgotten .* bring a later one",
    ),
    (
        "checkpoints in between",
        put_back("checkpoints", of="one"),
        "of round 3 .* contains client 2, which was forgotten",
    ),
    (
        "checkpoint beside",
        older_checkpoint_beside,
        r"of round 1 .* contains client 1, which was forgotten \(forget-1\).* remove",
    ),
    ("who is in the model", edit_head, "round-000004 is not as the last run left it"),
    ("rows swapped", swap_rows, "round-000004 is not as the last run left it"),
    ("no federation.json", remove("federation.json"), "federation.json is missing"),
    *FACTS,
    ("id of state", other_id(""), "belong to federation .*, and the state .* 12345678"),
    ("id of keys", other_id("-keys"), "belong to federation 12345678.*, and the state"),
    ("roster", another_pin, r"has key 3333333333333333 \(x\) for client 3"),
    ("no roster", remove("roster.json"), "has no key for client 0, and the audit log"),
]


@pytest.mark.parametrize(
    ("act", "message"), [b[1:] for b in BREAKS], ids=[b[0] for b in BREAKS]
)
def test_what_the_log_disproves_is_named_by_audit_and_refused_by_a_start(
    state: Path, lives: Path, act: Callable[[Path, Path], None], message: str
):
    act(state, lives)
    before = contents(state, Path(f"{state}-keys"))
    with pytest.raises(FedNegError, match=message) as caught:
        audit(state)
    assert "\n" not in str(caught.value)
    assert contents(state, Path(f"{state}-keys")) == before  # it only looks
    grid = Meddling(4)
    with pytest.raises(FedNegError, match=message):
        go_on(state, *FOUR, "rounds=5", grid=grid)
    assert grid.sent == []


@pytest.mark.parametrize(
    ("act", "message"),
    [b[1:] for b in (*SCAN_WINDOWS, *OLDER, *FACTS)],
    ids=[b[0] for b in (*SCAN_WINDOWS, *OLDER, *FACTS)],
)
def test_no_command_goes_on_from_it_and_nothing_is_accepted(
    state: Path, lives: Path, act: Callable[[Path, Path], None], message: str
):
    act(state, lives)
    roster = act not in [b[1] for b in SCAN_WINDOWS]
    assert changed_by_refused(state, message, roster=roster) == set()


def changed_by_refused(state: Path, message: str, *, roster: bool = True) -> set[str]:
    """Say every command that changes anything: each must say why it does not.

    Return the files that are not as they were.
    """
    before = contents(state, Path(f"{state}-keys"))
    for words in (
        ["request", "forget", "3"],
        ["rollback", "4"],
        *([["roster", "remove", "0"]] if roster else []),
    ):
        with pytest.raises(FedNegError, match=message) as caught:
            run_words([*words, "--state", str(state)])
        assert "\n" not in str(caught.value)
    after = contents(state, Path(f"{state}-keys"))
    return {k for k, v in after.items() if before.get(k, b"") != v}


def flip(*names: str) -> Callable[[Path, Path], None]:
    """Change one byte in the middle of files."""

    def act(state: Path, lives: Path) -> None:
        for name in names:
            content = bytearray((state / name).read_bytes())
            content[len(content) // 2] ^= 1
            (state / name).write_bytes(content)

    return act


def no_checkpoints(state: Path, lives: Path) -> None:
    shutil.rmtree(state / "checkpoints")


def numbers_under(name: str, *, of: str = "trained") -> Callable[[Path, Path], None]:
    """Bring the numbers of an earlier checkpoint back, under a name."""

    def act(state: Path, lives: Path) -> None:
        found = sorted((lives / of / "checkpoints").glob("round-*.safetensors"))
        shutil.copy(found[-1], state / "checkpoints" / name)

    return act


LAST = "checkpoints/round-000004"
# What audit names, what a start says of it, and whether it goes on.
LOOKED_AT: list[tuple[str, Callable[[Path, Path], object], str, str, bool]] = [
    (
        "no checkpoints",
        no_checkpoints,
        r"round-000004\.json is missing, and the audit log says",
        "there is no whole checkpoint",
        False,
    ),
    (
        "no head",
        remove(f"{LAST}.json"),
        r"round-000004\.json is missing, and the audit log says",
        "there is no whole checkpoint",
        False,
    ),
    (
        "no numbers",
        remove(f"{LAST}.safetensors"),
        r"round-000004 is damaged: No such file or directory; bring it back",
        "there is no whole checkpoint",
        False,
    ),
    (
        "damaged numbers",
        flip(f"{LAST}.safetensors"),
        r"round-000004 is damaged: the sha256 .*; bring it back from a backup",
        "there is no whole checkpoint",
        False,
    ),
    (
        "damaged head",
        flip(f"{LAST}.json"),
        r"round-000004 is damaged: .*; bring it back from a backup",
        "there is no whole checkpoint",
        False,
    ),
    (
        "old model",
        put_back("model.safetensors"),
        r"model\.safetensors is another model, and .* the model of round 4 is",
        r"model\.safetensors is another model, .* in service; it is made again",
        True,
    ),
    (
        "no model",
        remove("model.safetensors"),
        r"model\.safetensors is missing, and .* the model of round 4 is",
        r"model\.safetensors is missing, .* in service; it is made again",
        True,
    ),
    (
        "numbers under another name",
        numbers_under("backup.bin"),
        r"checkpoints/backup\.bin is none of fedneg's, in a folder of its own",
        r"checkpoints/backup\.bin is none of fedneg's files",
        True,
    ),
    (
        "as a run leaves them half-written",
        numbers_under(".round-000002.safetensors.0123456789abcdef"),
        r"\.round-000002\.safetensors\.0123456789abcdef is none of fedneg's, in",
        "",
        True,
    ),
    (
        "hidden among the receipts",
        lambda state, lives: shutil.copy(
            lives / "trained" / "model.safetensors", state / "receipts" / ".old"
        ),
        r"receipts/\.old is none of fedneg's, in a folder of its own",
        "",
        True,
    ),
    (
        "a whole old state",
        lambda state, lives: shutil.copytree(lives / "trained", state / "old"),
        r"old/model\.safetensors is none of fedneg's, and a file of arrays; and 2 more",
        r"state/old is none of fedneg's files; `fedneg audit` looks into it",
        True,
    ),
    (
        "a link to one",
        lambda state, lives: (state / "old").symlink_to(lives / "trained"),
        r"trained/model\.safetensors is none of fedneg's, and a file of arrays",
        r"state/old is none of fedneg's files",
        True,
    ),
    (
        "an old state in an archive",
        lambda state, lives: shutil.make_archive(
            str(state / "notes"), "gztar", lives / "trained"
        ),
        r"notes\.tar\.gz is none of fedneg's, and an archive",
        r"notes\.tar\.gz is none of fedneg's files",
        True,
    ),
    (
        "stray numbers",
        numbers_under("round-000004-2.safetensors"),
        r"round-000004-2\.safetensors is named by no checkpoint; remove it",
        "",
        True,
    ),
]


@pytest.mark.parametrize(
    ("act", "named", "said", "goes_on"),
    [found[1:] for found in LOOKED_AT],
    ids=[found[0] for found in LOOKED_AT],
)
def test_what_a_run_goes_on_with_or_cannot_is_named_by_audit(
    state: Path,
    lives: Path,
    caplog: pytest.LogCaptureFixture,
    act: Callable[[Path, Path], object],
    named: str,
    said: str,
    goes_on: bool,
):
    model = (state / "model.safetensors").read_bytes()
    act(state, lives)
    before = contents(state, Path(f"{state}-keys"))
    with pytest.raises(FedNegError, match=named) as caught:
        audit(state)
    assert "\n" not in str(caught.value)
    assert contents(state, Path(f"{state}-keys")) == before  # it only looks
    if not goes_on:
        with pytest.raises(FedNegError, match=said):
            go_on(state, *FOUR, "rounds=2")
        return
    go_on(state, *FOUR, "rounds=2")
    assert re.search(said, caplog.text)
    assert (state / "model.safetensors").read_bytes() == model
    if "fedneg" not in named:  # a stranger is left to its owner
        audit(state)


@pytest.mark.parametrize("sealed", ["false", "true"])
def test_a_damaged_checkpoint_before_the_last_keeps_nobody_in_the_model(
    tmp_path: Path, sealed: str
):
    """Whatever is wrong with it: its files go with the purge."""
    made = tmp_path / "made"
    go_on(made, *FOUR, f"encrypt={sealed}")
    numbers, head = "round-000001.safetensors", "round-000001.json"
    whole = (made / "checkpoints" / numbers).read_bytes()
    for name, content in {
        numbers: [whole[: len(whole) // 2], b"\xff" * 8 + whole[8:], whole[:-1] + b"x"],
        head: [b"[]", b"[" * 100_000, b"{}"],
    }.items():
        for number, damaged in enumerate(content):
            state = copy(made, tmp_path / f"{name}-{number}")
            (state / "checkpoints" / name).write_bytes(damaged)
            with pytest.raises(FedNegError, match="round-000001 is damaged"):
                audit(state)
            ask(state, 1, clients=4)
            go_on(state, *FOUR)
            assert State(state).account.requests[1].status == "done"
            audit(state)


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("checkpoints/round-000004.json", "round-000004 is damaged: it is no file but"),
        ("checkpoints/round-000004.safetensors", "is damaged: it is no file but"),
        (ID_NAME, f"{ID_NAME} cannot be read: it is no file but a pipe"),
    ],
)
def test_a_pipe_in_the_place_of_a_file_is_named_and_not_waited_for(
    state: Path, name: str, named: str
):
    (state / name).unlink()
    os.mkfifo(state / name)
    command = [sys.executable, "-m", "fedneg", "audit", "--state", str(state)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 2
    assert named in done.stderr


def test_strangers_that_hold_no_numbers_are_named_and_no_fault(
    state: Path, capsys: pytest.CaptureFixture[str]
):
    (state / "notes").mkdir()
    for number in range(14):
        (state / "notes" / f"{number:02}.txt").write_text("met the operator")
    (state / "empty").mkdir()
    os.mkfifo(state / "pipe")
    (state / "nowhere").symlink_to("/nowhere")
    (state / ".status.json.0123456789abcdef").write_text("{")  # a kill's
    audit(state)
    said = capsys.readouterr().out
    assert f"none of fedneg's files: {state / 'empty'}\n" in said
    assert f"none of fedneg's files: {state / 'notes' / '09.txt'}\n" in said
    assert said.count("none of fedneg's files: ") == 13
    assert said.endswith("none of fedneg's files: 5 more\n")
    audit(state, "--json")
    assert len(json.loads(capsys.readouterr().out)["strangers"]) == 17
    found = State(state)
    with found.running():
        pass
    assert [Path(text.split()[0]).name for text in found.notices] == [
        *("empty", "notes", "nowhere", "1")
    ]


def test_a_checkpoint_that_is_missing_is_gone_back_before(
    lives: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """A run says so, and audit that it is missing, though the one before is whole."""
    state = copy(lives / "trained", tmp_path / "state")
    model = (state / "model.safetensors").read_bytes()
    for path in (state / "checkpoints").glob("round-000002*"):
        path.unlink()
    with pytest.raises(FedNegError, match=r"round-000002\.json is missing, and the"):
        audit(state)
    go_on(state, *FOUR)
    assert "no checkpoint of round 2, where the federation stood" in caplog.text
    assert (state / "model.safetensors").read_bytes() == model
    audit(state)


def test_a_model_is_served_again_while_a_request_is_open(
    lives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """From its checkpoint, as long as that is there; a request is not kept up by it."""
    state = copy(lives / "trained", tmp_path / "state")
    model = (state / "model.safetensors").read_bytes()
    told: list[str] = []
    monkeypatch.setattr(Standing, "warn", lambda self, text: told.append(text))

    def fail() -> None:
        gate = ("strategy.gate=0.9", "strategy.scale=10")
        with pytest.raises(FedNegError, match=r"below strategy\.gate=0\.9"):
            go_on(state, *FOUR, *gate)

    ask(state, 3, clients=4)
    fail()
    audit(state)
    for words in ("it is made again", "it stays so until the next is in service"):
        (state / "model.safetensors").write_bytes(b"another")
        with pytest.raises(FedNegError, match=r"model\.safetensors is another model"):
            audit(state)
        fail()
        assert [words in text for text in told] == [True]
        there = (state / "model.safetensors").read_bytes() == model
        assert there == (words == "it is made again")
        told.clear()
        for path in (state / "checkpoints").glob("round-000002*"):
            path.unlink()
    go_on(state, *FOUR, "retrain=scratch", "strategy.gate=0")
    audit(state)


@pytest.mark.parametrize("then", ["nothing", "killed again", "rolled back"])
def test_a_model_whose_entry_stands_alone_is_no_fault(
    state: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    then: str,
):
    """A kill came between: the next run puts it in service, unless it is killed."""
    write = State.serve

    def killed(self: State, content: bytes, **facts: Any) -> None:
        if content == self.model.read_bytes():
            return write(self, content, **facts)
        with monkeypatch.context() as patch:
            patch.setattr("fedneg.records.state.write_bytes", kill)
            return write(self, content, **facts)

    def kill(path: Path, content: bytes) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(State, "serve", killed)
        with pytest.raises(KeyboardInterrupt):
            go_on(state, *FOUR, "rounds=3")
        if then == "killed again":
            with pytest.raises(KeyboardInterrupt):
                go_on(state, *FOUR, "rounds=3")
    if then == "rolled back":
        run_words(["rollback", "5", "--state", str(state)])
    capsys.readouterr()
    audit(state)
    said = capsys.readouterr().out
    assert "to be completed by the next start: " in said
    assert "model.safetensors is another model" in said
    go_on(state, *FOUR, "rounds=3")
    audit(state)


def test_a_first_checkpoint_that_is_killed_twice_is_begun_a_third_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its entry alone implies no checkpoint, however often it was written."""
    state = tmp_path / "state"

    def killed(*args: object, **named: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fedneg.ledger.checkpoint.Checkpoints.write", killed)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                go_on(state, *FOUR)
            audit(state)
    go_on(state, *FOUR)
    audit(state)


def test_a_whole_federation_passes_and_trains_on_without_the_forgotten(state: Path):
    before = contents(state, Path(f"{state}-keys"))
    audit(state)
    assert contents(state, Path(f"{state}-keys")) == before
    grid = go_on(state, *FOUR, "rounds=3")
    assert grid.asked("train") == [0, 3]
    audit(state)


def test_audit_names_the_first_and_counts_the_others(
    state: Path, lives: Path, capsys: pytest.CaptureFixture[str]
):
    swap_receipts(state, lives)
    (state / REQUEST).unlink()
    with pytest.raises(FedNegError, match=r"forget-1\.json is missing.*; and 2 more$"):
        audit(state, "--json")
    found = json.loads(capsys.readouterr().out)
    assert len(found["problems"]) == 3
    assert "forget-2.json is not the receipt" in found["problems"][2]


def test_schema_1_does_not_open_a_hole(state: Path):
    """What was migrated once, or was never of schema 1, is never migrated again."""
    edit(state / "federation.json", schema=1)
    (state / REQUEST).unlink()
    with pytest.raises(FedNegError, match=r"forget-1\.json is missing"):
        go_on(state, *FOUR)


def test_a_log_that_says_less_of_federation_json_is_compared_in_what_it_says(
    state: Path, monkeypatch: pytest.MonkeyPatch
):
    """As fedneg wrote it before its entry had overrides and the like."""
    old = state.parent / "old"
    monkeypatch.setattr(
        "fedneg.records.state.entered", lambda facts: {"settings": facts.fixed}
    )
    go_on(old, *FOUR, "rounds=1")
    edit(old / "federation.json", created="2001-01-01T00:00:00+00:00")
    audit(old)
    go_on(old, *FOUR, "rounds=2")
    edit(old / "federation.json", fixed={"clients": 4})
    with pytest.raises(FedNegError, match=r"federation\.json has other settings"):
        audit(old)


# -- what the keys know ----------------------------------------------------------------


def head_of(state: Path) -> tuple[int, str]:
    """Return number and digest of the log's last entry."""
    last = json.loads((state / "audit.jsonl").read_bytes().splitlines()[-1])
    return last["seq"], last["digest"]


def known(state: Path) -> tuple[int, str]:
    """Return what the keys know of it."""
    head = read_head(State(state).keys / HEAD_NAME)
    assert head is not None
    return head.seq, head.digest


def test_the_keys_know_the_last_entry_and_older_keys_are_fine(state: Path, lives: Path):
    assert known(state) == head_of(state)
    keys = State(state).keys
    shutil.copy(Path(f"{lives / 'trained'}-keys") / HEAD_NAME, keys)
    assert known(state) < head_of(state)
    audit(state)
    with State(state).running():  # without an entry of its own
        assert known(state) == head_of(state)
    (keys / HEAD_NAME).unlink()  # as an older fedneg left them
    (keys / f".{HEAD_NAME}.1234").write_text("{")  # of who was killed
    audit(state)
    with State(state).running():
        assert known(state) == head_of(state)
    assert not list(keys.glob(f".{HEAD_NAME}.*"))


def test_a_head_that_cannot_be_written_is_said_at_the_next_start(
    state: Path, monkeypatch: pytest.MonkeyPatch
):
    """The entry counts all the same: a request is accepted."""

    def full(path: Path, head: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    before = known(state)
    with monkeypatch.context() as patch:
        patch.setattr("fedneg.records.audit.write_head", full)
        run_words(["request", "forget", "3", "--state", str(state)])
        assert known(state) == before
        with pytest.raises(FedNegError, match=r"log\.head cannot be written: No space"):
            go_on(state, *FOUR)
    assert State(state).requests.excluded() == {1, 2, 3}
    audit(state)


def test_a_public_key_that_is_missing_is_made_again_and_it_is_said(state: Path):
    path = State(state).keys / "operator.pub"
    before = path.read_bytes()
    path.unlink()
    with pytest.raises(
        FedNegError, match=r"operator\.pub is missing; the next run makes"
    ):
        audit(state)
    made = State(state)
    with made.running():
        pass
    assert made.notices == [f"{path} was missing, and is made again from operator.key"]
    assert path.read_bytes() == before
    audit(state)


def test_of_an_empty_log_nothing_else_is_said(state: Path, lives: Path):
    """Every file contradicts it, and is not to blame."""
    empty_log_and_receipt(state, lives)
    with pytest.raises(FedNegError, match=r"audit\.jsonl is empty; restore it from a "):
        audit(state)
    with pytest.raises(FedNegError, match=r"from a backup$"):
        audit(state)


@pytest.mark.parametrize("cut", [0, 1, 200])
def test_a_log_whose_first_entry_is_cut_short_begins_anew(
    lives: Path, tmp_path: Path, cut: int, capsys: pytest.CaptureFixture[str]
):
    """It never counted: nothing is refused, and no second federation is made up."""
    state, keys = tmp_path / "state", tmp_path / "state-keys"
    state.mkdir()
    keys.mkdir()
    for name in ("operator.key", "operator.pub"):
        shutil.copy(f"{lives / 'trained'}-keys/{name}", keys)
    log = (lives / "trained" / "audit.jsonl").read_bytes()
    (state / "audit.jsonl").write_bytes(log[:cut])
    audit(state)
    out = capsys.readouterr().out
    assert "has no entry: a kill kept the federation from beginning" in out
    assert (f"{cut} bytes at the end" in out) == (cut > 0)
    go_on(state, *FOUR)
    audit(state)
    # With keys that were used it is no kill, but a log that was emptied.
    shutil.rmtree(state)
    state.mkdir()
    (state / "audit.jsonl").write_bytes(log[:cut])
    with pytest.raises(FedNegError, match=r"audit\.jsonl is empty; restore it"):
        audit(state)


def test_an_entry_that_a_kill_cut_short_is_no_tampering(
    state: Path, capsys: pytest.CaptureFixture[str]
):
    """The next start writes in its place; one that the keys know was cut off."""
    path = state / "audit.jsonl"
    log = path.read_bytes()
    last = log.splitlines(keepends=True)[-1]
    for part in (last[:1], last[:-1]):
        path.write_bytes(log + part)
        audit(state)
        assert f"{len(part)} bytes at the end of {path}" in capsys.readouterr().out
    path.write_bytes(log[:-1])
    with pytest.raises(FedNegError, match=r"ends before entry \d+ that the keys know"):
        audit(state)
    path.write_bytes(log + last[:-1])
    State(state).pins().add(3, "3" * 64, OPERATOR)
    capsys.readouterr()
    audit(state)
    assert "at the end" not in capsys.readouterr().out


def test_a_hidden_file_is_no_receipt(state: Path, capsys: pytest.CaptureFixture[str]):
    shutil.copy(state / RECEIPT, state / "receipts" / ".x.json")
    with pytest.raises(FedNegError, match=r"x\.json is none of fedneg's"):
        audit(state)
    assert "good receipts: 2," in capsys.readouterr().out


# -- scan windows ----------------------------------------------------------------------


class Killed(BaseException):
    """In the place of a kill: nobody catches it."""


def killed_at(target: str, patch: pytest.MonkeyPatch) -> None:
    """Let whoever comes to a function be killed there."""

    def kill(*args: object, **named: object) -> None:
        raise Killed

    patch.setattr(target, kill)


def test_a_purge_that_was_killed_removes_what_is_later_too(
    lives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """After a damaged checkpoint a run stands at an earlier round than that."""
    state = copy(lives / "trained", tmp_path / "state")
    ask(state, 1, clients=4)
    with monkeypatch.context() as patch:
        killed_at("fedneg.lasting.erasure.Erasure._purge", patch)
        with pytest.raises(Killed):
            go_on(state, *FOUR)
    folder = state / "checkpoints"
    content = json.loads((folder / "round-000003.json").read_bytes())
    del content["digest"]
    content |= {"rounds": 5, "data": "round-000005.safetensors"}
    (folder / "round-000005.json").write_bytes(head_bytes(content))
    (folder / "round-000005.safetensors").write_bytes(b"damaged")
    go_on(state, *FOUR)
    assert sorted(path.name for path in folder.glob("*.json")) == ["round-000003.json"]
    assert State(state).account.requests[1].status == "done"
    audit(state)


def test_a_federation_that_somebody_asked_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Nothing was trained yet: the request is what hangs on it."""
    state = tmp_path / "state"
    with monkeypatch.context() as patch:
        killed_at("fedneg.live.job.restore", patch)
        with pytest.raises(Killed):
            go_on(state, *FOUR)
    kept = copy(state, tmp_path / "kept")
    (kept / "federation.json").unlink()
    audit(kept)
    go_on(kept, "clients=3")  # the first run, for the second time
    ask(state, 3, clients=4)
    (state / "federation.json").unlink()
    with pytest.raises(FedNegError, match=r"federation\.json is missing, .* was made"):
        audit(state)
    with pytest.raises(FedNegError, match=r"federation\.json is missing, .* was made"):
        go_on(state, "clients=3")


@pytest.mark.parametrize("left", ["none", "another's"])
def test_killed_before_the_scan_windows_it_is_unlearned_again(
    lives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str
):
    """Their digest is in the log, and whatever the file is, it is written anew."""
    state = copy(lives / "trained", tmp_path / "state")
    ask(state, 1, clients=4)

    def killed(self: Remnants, *_: object) -> None:
        if left != "none":
            _write(state / PRINTS, "{}")
        raise Killed

    (state / "fingerprints").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(Remnants, "write_scan_windows", killed)
        with pytest.raises(Killed):
            go_on(state, *FOUR)
    newest = State(state).account.newest["run"]
    assert (newest["event"], list(newest["facts"]["fingerprints"])) == (
        *("unlearned", ["1"]),
    )
    audit(state)
    with monkeypatch.context() as patch:
        # Again, when it has gone on after the round before, and no further.
        patch.setattr(Remnants, "of", killed)
        with pytest.raises(Killed):
            go_on(state, *FOUR)
    assert State(state).account.newest["run"]["event"] == "resumed"
    audit(state)
    go_on(state, *FOUR)
    audit(state)
    assert State(state).account.requests[1].status == "done"


def test_begun_over_from_scratch_the_first_scan_windows_hold(
    lives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    state = copy(lives / "trained", tmp_path / "state")
    ask(state, 1, clients=4)
    with pytest.raises(FedNegError, match=r"below strategy\.gate=0\.9"):
        go_on(state, *FOUR, "strategy.gate=0.9", "strategy.scale=10")
    # Out of the model, and not yet purged: nothing came after, but the checkpoint.
    kept = copy(state, tmp_path / "kept")
    (kept / PRINTS).unlink()
    with pytest.raises(FedNegError, match=r"forget-1\.json is missing, .* unlearned"):
        audit(kept)
    with monkeypatch.context() as patch:
        patch.setattr(
            Remnants,
            "write_scan_windows",
            lambda self, made: (_ for _ in ()).throw(Killed),
        )
        with pytest.raises(Killed):
            go_on(state, "clients=4", "retrain=scratch")
    audit(state)
    kept = copy(state, tmp_path / "again")
    empty_scan_windows(kept, lives)
    with pytest.raises(FedNegError, match=r"forget-1\.json is not the one"):
        audit(kept)
    with pytest.raises(FedNegError, match=r"forget-1\.json is not the one"):
        go_on(kept, "clients=4", "retrain=scratch")
    go_on(state, "clients=4", "retrain=scratch")
    audit(state)


def test_scan_windows_that_vanish_in_a_run_stop_it_before_the_purge(
    lives: Path, tmp_path: Path
):
    state = copy(lives / "one", tmp_path / "state")
    ask(state, 2, clients=4)
    grid = Meddling(4)
    grid.before = lambda client_id, server_round: (state / PRINTS).unlink(
        missing_ok=True
    )
    with pytest.raises(FedNegError, match=r"fingerprints/forget-1\.json is missing"):
        go_on(state, "clients=4", "retrain=remaining", grid=grid)
    assert State(state).account.requests[2].status == "unlearned"
    shutil.copy(lives / "one" / PRINTS, state / PRINTS)
    go_on(state, "clients=4")
    audit(state)


def test_of_a_log_without_their_digests_they_must_be_there(
    lives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As one that was written before the log had them."""
    state, append = copy(lives / "trained", tmp_path / "state"), AuditLog.append

    def without(self: AuditLog, event: str, /, **facts: Any) -> dict[str, Any]:
        facts.pop("fingerprints", None)
        return append(self, event, **facts)

    ask(state, 1, clients=4)
    with monkeypatch.context() as patch:
        patch.setattr(AuditLog, "append", without)
        go_on(state, *FOUR)
    audit(state)
    for number, (act, message) in enumerate(
        [
            (remove(PRINTS), "forget-1.json is missing, and forget-1 is done"),
            (cut_scan_windows, "forget-1.json holds no scan windows"),
            (change(PRINTS, client=2), "forget-1.json holds no scan windows"),
            (
                change(PRINTS, client=2, request="forget-2"),
                "forget-1.json is of client 2",
            ),
        ]
    ):
        broken = copy(state, tmp_path / f"broken{number}")
        act(broken, lives)
        with pytest.raises(FedNegError, match=message):
            audit(broken)
        with pytest.raises(FedNegError, match=message):
            go_on(broken, *FOUR)
    empty_scan_windows(state, lives)  # which such a log cannot know
    audit(state)
    go_on(state, *FOUR)


# -- where it stands -------------------------------------------------------------------


def test_only_the_last_two_checkpoints_may_be_gone_on_from(lives: Path, tmp_path: Path):
    """An older one is refused by name, though nobody in it was forgotten."""
    state = copy(lives / "trained", tmp_path / "state")
    for path in (state / "checkpoints").glob("round-000002*"):
        path.unlink()
    damaged = copy(state, tmp_path / "damaged")
    assert go_on(damaged, *FOUR).asked("train") == [0, 1, 2, 3]  # the last but one
    go_on(state, *FOUR, "rounds=4")
    shutil.rmtree(state / "checkpoints")
    shutil.copytree(lives / "trained" / "checkpoints", state / "checkpoints")
    with pytest.raises(
        FedNegError, match=r"round-000002 is not where .* \(after round 3 or 4\)"
    ):
        go_on(state, *FOUR)


def test_a_checkpoint_with_another_model_is_refused(
    state: Path, monkeypatch: pytest.MonkeyPatch
):
    """Whole and consistent, of the right round, and of another training."""
    other = state.parent / "other"
    go_on(other, *FOUR, "client.learning_rate=0.01")
    for client_id in (1, 2):
        ask(other, client_id, clients=4)
        go_on(other, *FOUR)
    shutil.rmtree(state / "checkpoints")
    shutil.copytree(other / "checkpoints", state / "checkpoints")
    with pytest.raises(FedNegError, match="round-000004 is no checkpoint that the"):
        go_on(state, *FOUR)
    # As one that an older fedneg wrote, which names neither its model nor its end.
    monkeypatch.setattr("fedneg.records.state.of_rest", lambda *given: [])
    from fedneg.ledger.checkpoint import Checkpoints

    named = Checkpoints.facts
    monkeypatch.setattr(
        Checkpoints,
        "facts",
        lambda self, n: {k: v for k, v in named(self, n).items() if k != "model"},
    )
    with pytest.raises(FedNegError, match="round-000004 holds another model than the"):
        go_on(state, *FOUR)


def test_a_request_that_is_being_worked_on_must_be_there(lives: Path, tmp_path: Path):
    """It is the newest of its chain, but what came after shows that it was there."""
    state = copy(lives / "trained", tmp_path / "state")
    ask(state, 3, clients=4)
    with pytest.raises(FedNegError, match=r"below strategy\.gate=0\.9"):
        go_on(state, *FOUR, "strategy.gate=0.9", "strategy.scale=10")
    audit(state)
    (state / "requests" / "forget-3.json").unlink()
    with pytest.raises(FedNegError, match=r"forget-3\.json is missing, .* unlearned"):
        go_on(state, *FOUR)


# -- an entry that stands alone --------------------------------------------------------


def test_who_is_out_by_the_log_alone_is_not_asked(lives: Path, tmp_path: Path):
    """`request` was killed between entry and file while a run goes on."""
    state, grid = copy(lives / "trained", tmp_path / "state"), Meddling(4)
    request = Request(3, "2026-01-31T12:00:00+00:00", "2026-03-02", "moved")

    def before(client_id: int, server_round: int) -> None:
        if (client_id, server_round) == (0, 3):
            State(state).audit.append(ACCEPTED, **logged(request))

    grid.before = before
    go_on(state, *FOUR, "rounds=4", grid=grid)
    history = (state / "history.csv").read_text().splitlines()
    assert history[-2].split(",")[9] == "3"  # its reply is dropped at once
    assert grid.asked("train") == [0, 1, 2, 3, 0, 1, 2]
    audit(state)
    grid = go_on(state, *FOUR, "rounds=4")
    assert State(state).requests.all() == [replace(request, reason="", status="done")]
    audit(state)


def test_every_command_killed_at_every_step_is_completed_or_never_was(
    lives: Path, tmp_path: Path
):
    """The act was done if and only if its entry is in the log, and audit passes."""
    state = copy(lives / "trained", tmp_path / "state")
    go_on(state, *FOUR, "rounds=3")
    words = [sys.executable, "-m", "processes.killed_commands"]
    done = subprocess.run(
        [*words, str(state), str(tmp_path)],
        cwd=TESTS,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    by_name: dict[str, list[dict[str, Any]]] = {}
    for line in done.stdout.splitlines():
        found = json.loads(line)
        by_name.setdefault(found.pop("name"), []).append(found)
    assert len(by_name) == 5
    for name, kills in by_name.items():
        assert len(kills) > 10, name
        assert [k["code"] for k in kills] == [-9] * (len(kills) - 1) + [0], name
        assert all(k["entered"] == k["done"] and not k["left"] for k in kills), name
        entered = [k["entered"] for k in kills]
        assert entered == sorted(entered), name
        assert set(entered) == {False, True}
        # Some entry stood alone, and was completed with a notice.
        assert any(k["notices"] for k in kills), name


# -- federation, keys and state --------------------------------------------------------

SEALED = ("clients=3", "encrypt=true", "rounds=1", "retrain=none")


def test_keys_of_a_lost_state_seal_no_other(tmp_path: Path):
    """It would leave out the rows of whom the lost one has forgotten."""
    state, keys = tmp_path / "S", tmp_path / "S-keys"
    go_on(state, *SEALED)
    ask(state, 2)
    go_on(state, *SEALED)
    federation = State(state).known_facts().id
    shutil.rmtree(state)
    message = f"the keys in {keys} belong to federation {federation}, and there is no"
    for _ in range(2):
        with pytest.raises(FedNegError, match=message):
            go_on(state, *SEALED)
        assert not state.exists()
    (keys / ID_NAME).unlink()  # as those of an older fedneg
    with pytest.raises(FedNegError, match=r"sealed another federation \(client-0"):
        go_on(state, *SEALED)
    assert not state.exists()


@pytest.mark.parametrize("has_head", [True, False])
def test_a_sealed_state_from_before_a_purge_is_refused_by_name(
    tmp_path: Path, has_head: bool
):
    """With the keys of today; they know it by the log's head, or by a tombstone."""
    state, more = tmp_path / "S", (*SEALED, "clients=4")
    go_on(state, *more)
    shutil.copytree(state, tmp_path / "backup")
    ask(state, 2, clients=4)
    go_on(state, *more)
    audit(state)
    shutil.rmtree(state)
    (tmp_path / "backup").rename(state)
    message = ENDS
    if not has_head:
        (State(state).keys / HEAD_NAME).unlink()
        message = (
            r"client-2\.destroyed says that the key of client 2 was destroyed .*, and "
            "the log .*does not say that it was.*restore the newer one"
        )
    with pytest.raises(FedNegError, match=message):
        audit(state)
    with pytest.raises(FedNegError, match=message):
        go_on(state, *more)
    assert changed_by_refused(state, message) == set()


@pytest.mark.parametrize("name", ["client-1", "model-000000"])
def test_a_lost_key_of_what_stays_is_named(tmp_path: Path, name: str):
    state = tmp_path / "S"
    go_on(state, *SEALED, "rounds=2")
    audit(state)
    path = State(state).vault.folder / f"{name}.key"
    key = path.read_bytes()
    path.unlink()
    message = rf"{name}\.key is missing, and the checkpoint of round 2 .*; restore it$"
    with pytest.raises(FedNegError, match=message):
        audit(state)
    with pytest.raises(FedNegError, match=message):
        go_on(state, *SEALED, "rounds=3")
    path.write_bytes(key)
    go_on(state, *SEALED, "rounds=3")
    ask(state, 2)
    go_on(state, *SEALED, "rounds=3")
    audit(state)  # of the forgotten there is none, and need be none


def test_two_states_cannot_have_the_same_keys(tmp_path: Path):
    keys = f"keys={tmp_path / 'keys'}"
    go_on(tmp_path / "A", *SEALED, keys)
    before = contents(tmp_path)
    with pytest.raises(FedNegError, match=r"the keys in .*/keys belong to federation"):
        go_on(tmp_path / "B", *SEALED, keys)
    assert contents(tmp_path) == before
    go_on(tmp_path / "B", *SEALED)
    mine = [
        State(tmp_path / n, tmp_path / k) for n, k in (("A", "keys"), ("B", "B-keys"))
    ]
    ids = [made.known_facts().id for made in mine]
    with pytest.raises(FedNegError) as caught:
        go_on(tmp_path / "B", *SEALED, keys)
    assert str(caught.value) == (
        f"the keys in {tmp_path / 'keys'} belong to federation {ids[0]}, and the state "
        f"in {tmp_path / 'B'} is federation {ids[1]}"
    )


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("S", "keys must be another folder than state"),
        ("S/keys", "must lie beside each other, not one in the other"),
        (".", "must lie beside each other"),
        ("link", "keys must be another folder than state"),
        ("link/below/keys", "must lie beside each other"),
    ],
)
def test_keys_in_the_state_are_refused_at_once(tmp_path: Path, keys: str, message: str):
    """A backup of the state would hold them; and `keys=state` used to hang."""
    (tmp_path / "link").symlink_to(tmp_path / "S")
    with pytest.raises(FedNegError, match=message):
        go_on(tmp_path / "S", "clients=3", f"keys={tmp_path / keys}")
    assert [p.name for p in tmp_path.iterdir()] == ["link"]


def test_the_id_stands_in_state_keys_log_and_receipts(state: Path):
    made = State(state)
    lines = (state / "audit.jsonl").read_bytes().splitlines()
    first = json.loads(lines[0])
    found = made.known_facts().id
    assert (first["event"], first["facts"]) == (BEGUN, {"id": found})
    assert (state / ID_NAME).read_text() == f"{found}\n"
    assert (made.keys / ID_NAME).read_text() == f"{found}\n"
    receipt = read_receipt(state / RECEIPT, made.operator.public)
    assert receipt["federation"] == found


# -- a request that cannot be accepted leaves nothing ----------------------------------


def test_a_request_through_a_link_finds_the_keys(lives: Path, tmp_path: Path):
    state = copy(lives / "trained", tmp_path / "state")
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link"
    link.symlink_to(state)
    run_words(["request", "forget", "1", "--state", str(link)])
    assert [r.client_id for r in State(state).requests.all()] == [1]
    assert [p.name for p in (tmp_path / "elsewhere").iterdir()] == ["link"]
    audit(link)
    audit(state)


@pytest.mark.parametrize("kind", ["none", "empty", "another's"])
@pytest.mark.parametrize("command", ["request", "roster"])
def test_wrong_keys_leave_nothing_behind(
    lives: Path, tmp_path: Path, kind: str, command: str
):
    state = copy(lives / "trained", tmp_path / "state")
    wrong = tmp_path / "wrong"
    if kind == "empty":
        wrong.mkdir()
    if kind == "another's":
        go_on(tmp_path / "other", "clients=3", "rounds=1", f"keys={wrong}")
    before = contents(tmp_path)
    where = ["--state", str(state), "--keys", str(wrong)]
    message = "keys in .*wrong belong" if kind == "another's" else "wrong does not hold"
    words = {
        "request": ["request", "forget", "1"],
        "roster": ["roster", "remove", "0"],
    }[command]
    with pytest.raises(FedNegError, match=message):
        run_words([*words, *where])
    assert contents(tmp_path) == before


def test_a_reason_that_cannot_be_signed_leaves_nothing(lives: Path, tmp_path: Path):
    state = copy(lives / "trained", tmp_path / "state")
    before = contents(state)
    for reason in ("d\udce9part", "x" * 501, "a\x1b[2J"):
        words = ["forget", "1", "--state", str(state), "--reason", reason]
        with pytest.raises(FedNegError, match="--reason must"):
            run_words(["request", *words])
        assert contents(state) == before


def test_a_disk_that_is_full_after_the_entry_says_that_it_is_accepted(
    lives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    state = copy(lives / "trained", tmp_path / "state")

    def full(self: object, request: Request) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("fedneg.records.requests.Requests.write", full)
        with pytest.raises(FedNegError, match="forget-1 is accepted, since the audit"):
            run_words(["request", "forget", "1", "--state", str(state)])
    run_words(["request", "forget", "2", "--state", str(state)])
    assert State(state).requests.excluded() == {1, 2}
    audit(state)
