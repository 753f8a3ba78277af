"""Audits and requests beside a federation whose rounds are very short.

Log, keys and files cannot be read in one moment. Whoever writes adds to the log first:
so what is found to be newer than the log is looked up in it again.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from builders.app_lives import ask, live
from builders.lives import copied
from builders.waiting import PATIENCE_S
from fedneg.cli.application import run as run_words
from fedneg.core.errors import FedNegError
from fedneg.records import identity, keyring
from fedneg.records.account import ENDED, RESUMED, Account
from fedneg.records.agreement import difference
from fedneg.records.agreement.difference import Difference, lasting
from fedneg.records.audit import AuditLog
from fedneg.records.head import HEAD_NAME
from fedneg.records.state import State


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An app's state after two rounds; copy it."""
    state = tmp_path_factory.mktemp("trained") / "state"
    live(state, 2)
    return state


@pytest.fixture
def state(trained: Path, tmp_path: Path) -> Path:
    """A state after two rounds."""
    return copied(trained, tmp_path / "state")


def log_of(state: Path) -> AuditLog:
    """Return the log as a run adds to it."""
    found = State(state)
    head = found.keys / HEAD_NAME
    return AuditLog(state / "audit.jsonl", found.operator, head=head)


def command(*words: object) -> None:
    """Do what `fedneg WORDS` does; a refusal is an error."""
    run_words([str(word) for word in words])


def refusal(*words: object) -> str | None:
    """Do what `fedneg WORDS` does; return why it was refused, if it was."""
    try:
        command(*words)
    except (FedNegError, SystemExit) as error:
        return f"{words[0]}: {error}"
    return None


@contextmanager
def again_and_again(act: Callable[[], object]) -> Iterator[None]:
    """Do something as often as possible meanwhile."""
    stop, failed = threading.Event(), []

    def work() -> None:
        try:
            while not stop.is_set():
                act()
        except BaseException as error:
            failed.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield
    finally:
        stop.set()
        worker.join(PATIENCE_S)
    assert not failed


def test_beside_who_appends_as_fast_as_it_can_nothing_is_refused(state: Path):
    log = log_of(state)
    with again_and_again(lambda: log.append("refused", client=None, why="test")):
        said = [
            refusal(*words, "--state", state)
            for client_id in range(100, 112)
            for words in (
                ("audit",),
                ("request", "forget", client_id),
                ("status",),
                ("requests",),
            )
        ]
    assert said == [None] * 48
    assert len(State(state).requests.all()) == 12


def test_beside_a_life_of_very_short_rounds_nothing_is_refused(state: Path):
    """Each start trains a round and hands over; one of them forgets."""
    rounds, said = iter(range(3, 10_000)), list[str | None]()
    with again_and_again(lambda: live(state, next(rounds))):
        for client_id in (101, 103):
            ask(state, client_id)
            for words in ("audit", "status", "requests") * 5:
                said.append(refusal(words, "--state", state))
    assert said == [None] * 30


@pytest.mark.parametrize("act", ["audit", "request"])
@pytest.mark.parametrize("owner", [keyring, Account])
def test_an_entry_that_comes_between_log_and_keys_is_no_older_log(
    state: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, act: str
):
    """At every single reading: of the log, or of what the keys know."""
    log = log_of(state)
    name = "read_head" if owner is keyring else "refresh"
    real = getattr(owner, name)

    def meddled(*arguments: Any) -> Any:
        if owner is keyring:  # before the keys are read, and after the log was
            log.append("refused", client=None, why="test")
            return real(*arguments)
        found = real(*arguments)
        log.append("refused", client=None, why="test")
        return found

    monkeypatch.setattr(owner, name, meddled)
    words = ["request", "forget", 101] if act == "request" else [act]
    assert refusal(*words, "--state", state) is None


def test_a_log_that_is_older_is_refused_all_the_same(state: Path):
    log = log_of(state)
    before = log.path.read_bytes()
    log.append("refused", client=None, why="test")
    log.path.write_bytes(before)
    for words in (["audit"], ["request", "forget", 101]):
        with pytest.raises(FedNegError, match="ends before entry"):
            command(*words, "--state", state)


def test_of_differences_those_last_that_every_look_finds(
    monkeypatch: pytest.MonkeyPatch,
):
    """Round after round there is another checkpoint that the log did not name yet."""
    monkeypatch.setattr(difference, "LOOK_AGAIN_S", 0)
    looks: list[int] = []

    def look() -> list[Difference]:
        looks.append(1)
        return [Difference("a receipt is missing"), Difference(f"round {len(looks)}")]

    assert [d.text for d in lasting(look)] == ["a receipt is missing"]
    assert len(looks) == 3
    looks.clear()
    assert lasting(lambda: look()[1:]) == []


def test_what_a_run_that_began_meanwhile_writes_is_no_stranger(
    state: Path, monkeypatch: pytest.MonkeyPatch
):
    """By the log before it none could be half-written; by that of now one may be."""
    log, half = log_of(state), f".round-000003.safetensors.{'0' * 16}"
    from fedneg.cli import audit as command_of_audit

    real = command_of_audit.lasting_strangers

    def begun(*arguments: Any) -> Any:
        number, model = State(state).account.line[-1]
        log.append(RESUMED, round=number, model=model)
        (state / "checkpoints" / half).write_bytes(b"half")
        return real(*arguments)

    monkeypatch.setattr(command_of_audit, "lasting_strangers", begun)
    command("audit", "--state", state)
    monkeypatch.undo()
    log.append(ENDED, round=2, checkpoints={})
    with pytest.raises(FedNegError, match=f"{half} is none of fedneg's"):
        command("audit", "--state", state)


def test_a_federation_that_begins_just_now_is_no_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It has a log without an entry when that is read, and one when it is judged."""
    from fedneg.cli import audit as command_of_audit

    state, real = tmp_path / "state", command_of_audit.check
    keys = tmp_path / "state-keys"
    state.mkdir()
    key = identity.OperatorKey.load_or_create(keys)
    (state / "audit.jsonl").touch()

    def read(*arguments: Any, **more: Any) -> Any:
        found = real(*arguments, **more)
        (state / "audit.jsonl").unlink()
        _ = State(state).operator
        return found

    monkeypatch.setattr(command_of_audit, "check", read)
    command("audit", "--state", state)
    assert Account(state / "audit.jsonl", key.public).refresh().entries == 1


def test_an_audit_of_what_has_not_begun_says_so(tmp_path: Path):
    """A kill in the first second leaves nothing, a lock, or a key without a log."""
    state, keys = tmp_path / "state", tmp_path / "state-keys"
    said = f"no federation has begun in {state} yet: "
    with pytest.raises(FedNegError, match=said):
        command("audit", "--state", state)
    state.mkdir()
    keys.mkdir()
    (keys / "federation.lock").touch()
    with pytest.raises(FedNegError, match=said):
        command("audit", "--state", state)
    identity.OperatorKey.load_or_create(keys)
    for more in ([], ["--key", keys / "operator.pub"]):
        with pytest.raises(FedNegError, match=said):
            command("audit", "--state", state, *more)
    # Of what has begun it is another mistake.
    _ = State(state).operator
    (keys / "operator.pub").rename(tmp_path / "elsewhere")
    (keys / "operator.key").unlink()
    with pytest.raises(FedNegError, match=r"operator\.pub cannot be read"):
        command("audit", "--state", state)
