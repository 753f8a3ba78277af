"""The queue of requests: what was accepted stays accepted, whatever happens."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.checkout import TESTS
from builders.waiting import PATIENCE_S
from fedneg.core import locks
from fedneg.core.errors import FedNegError
from fedneg.core.locks import is_locked, locked
from fedneg.records.requests import ACCEPTED, DONE, UNLEARNED, Request, Requests

GOOD = {
    "client_id": 1,
    "received": "2026-01-31T12:00:00.000000+00:00",
    "due": "2026-03-02",
    "reason": "moved",
    "status": "accepted",
}


@pytest.fixture
def requests(tmp_path: Path) -> Requests:
    """Return an empty queue."""
    return Requests(tmp_path / "state" / "requests")


def ask(requests: Requests, client_id: int, clients: int = 9) -> Request:
    """Accept a request that is due in 30 days."""
    return requests.accept(client_id, clients=clients, due_days=30)[0]


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != ".lock"}


# -- accepting -------------------------------------------------------------------------


def test_an_empty_queue_is_no_folder(requests: Requests):
    assert requests.all() == requests.open() == []
    assert requests.excluded() == frozenset()
    assert requests.of(0) is None
    assert not requests.folder.exists()


def test_it_is_on_the_disk_when_accept_returns(requests: Requests):
    made, is_new = requests.accept(3, clients=9, due_days=30, reason="moved to Ü")
    assert is_new
    assert Requests(requests.folder).all() == [made]
    assert (made.id, made.client_id, made.reason) == ("forget-3", 3, "moved to Ü")
    assert (made.status, made.is_open) == (ACCEPTED, True)
    assert list(contents(requests.folder)) == ["forget-3.json"]


def test_asking_again_changes_no_byte(requests: Requests):
    """Nor does it move the due date, or the reason."""
    made = ask(requests, 3)
    before = contents(requests.folder)
    again, is_new = requests.accept(3, clients=9, due_days=1, reason="hurry")
    assert (again, is_new) == (made, False)
    assert contents(requests.folder) == before
    requests.mark([3], DONE)
    again, is_new = requests.accept(3, clients=9, due_days=1)
    assert (again.status, again.received, is_new) == (DONE, made.received, False)


def test_requests_come_back_in_the_order_in_which_they_came(requests: Requests):
    """Not in that of their names: forget-10 sorts before forget-2."""
    order = [7, 10, 2, 0]
    for client_id in order:
        ask(requests, client_id, 11)
    assert [request.client_id for request in requests.all()] == order


@pytest.mark.parametrize("client_id", [-1, 3, 99])
def test_an_unknown_client_is_refused(requests: Requests, client_id: int):
    message = f"there is no client {client_id}; client ids are 0 to 2"
    with pytest.raises(FedNegError, match=message):
        ask(requests, client_id, 3)
    assert not requests.folder.exists()


def test_the_last_client_cannot_be_forgotten(requests: Requests):
    """Those that are done count: they do not come back."""
    ask(requests, 0, 3)
    requests.mark([0], DONE)
    ask(requests, 2, 3)
    with pytest.raises(FedNegError, match="client 1 is the last of 3 that has not"):
        ask(requests, 1, 3)
    assert requests.excluded() == {0, 2}
    assert ask(requests, 2, 3).client_id == 2  # who asked may ask again


@given(st.lists(st.integers(-2, 5), max_size=12), st.integers(1, 5))
@settings(max_examples=20)
def test_whatever_is_asked_somebody_stays(
    tmp_path_factory: pytest.TempPathFactory, asked: list[int], clients: int
):
    requests = Requests(tmp_path_factory.mktemp("queue"))
    accepted: list[int] = []
    for client_id in asked:
        possible = client_id in range(clients) and (
            client_id in accepted or len(accepted) < clients - 1
        )
        if possible:
            _, is_new = requests.accept(client_id, clients=clients, due_days=1)
            assert is_new == (client_id not in accepted)
            accepted += [client_id] * is_new
        else:
            with pytest.raises(FedNegError):
                ask(requests, client_id, clients)
    assert [r.client_id for r in requests.all()] == accepted
    assert requests.excluded() == set(accepted)


# -- how far they are ------------------------------------------------------------------


def test_marks_are_written_and_the_done_stay_excluded(requests: Requests):
    for client_id in (4, 1, 2):
        ask(requests, client_id)
    before = requests.of(1)
    requests.mark([4, 1], UNLEARNED)
    requests.mark([1], DONE)
    requests.mark([8], DONE)  # nobody's request
    found = Requests(requests.folder)
    assert [(r.client_id, r.status) for r in found.all()] == [
        (4, UNLEARNED),
        (1, DONE),
        (2, ACCEPTED),
    ]
    assert [r.client_id for r in found.open()] == [4, 2]
    assert found.excluded() == {1, 2, 4}
    after = found.of(1)
    assert before is not None
    assert after is not None
    assert (after.received, after.due) == (before.received, before.due)
    with pytest.raises(ValueError, match="its status is 'gone'"):
        requests.mark([4], "gone")


@pytest.mark.parametrize("due_days", [0, 0.5, 1, 30, 400])
def test_the_due_date_is_so_many_days_after_the_receipt(
    requests: Requests, due_days: float
):
    made, _ = requests.accept(0, clients=2, due_days=due_days)
    received = datetime.fromisoformat(made.received)
    assert received.utcoffset() == timedelta(0)
    assert made.due == (received + timedelta(days=due_days)).date().isoformat()


def test_days_are_counted_over_leap_days():
    """30 days after 31 January are 2 March, in a leap year 1 March."""
    for year, due in ((2026, "2026-03-02"), (2028, "2028-03-01")):
        start = datetime(year, 1, 31, tzinfo=UTC)
        assert (start + timedelta(days=30)).date().isoformat() == due
    assert Request(**GOOD).due == "2026-03-02"  # type: ignore[arg-type]


@pytest.mark.parametrize("left", [-400, -1, 0, 1, 30])
def test_days_left_are_negative_when_it_is_overdue(left: int):
    before = datetime.now(UTC).date()
    due = (before + timedelta(days=left)).isoformat()
    found = Request(0, GOOD["received"], due).days_left  # type: ignore[arg-type]
    passed = (datetime.now(UTC).date() - before).days  # midnight may have come
    assert left - passed <= found <= left


# -- what is no request ----------------------------------------------------------------


def changed(**changes: Any) -> bytes:
    """Return a request for client 1 that differs from a good one."""
    kept = {k: v for k, v in (GOOD | changes).items() if v is not Ellipsis}
    return json.dumps(kept).encode()


DAMAGED = {
    "empty": b"",
    "cut short": changed()[:-9],
    "no text": b"\xff\x00\xfe",
    "a list": b"[]",
    "a number": b"7",
    "nothing": b"null",
    "another client": changed(client_id=2),
    "a word for a client": changed(client_id="1"),
    "true for a client": changed(client_id=True),
    "a fraction for a client": changed(client_id=1.0),
    "no client": changed(client_id=...),
    "no due date": changed(due=...),
    "no date": changed(due="soon"),
    "a number for a date": changed(due=20260302),
    "no time": changed(received="yesterday"),
    "another status": changed(status="forgotten"),
    "a number for a reason": changed(reason=5),
    "a field too many": changed(priority=1),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_request_is_named_and_nothing_goes_on(
    requests: Requests, content: bytes
):
    """Whom it was about nobody may guess, so nobody may train."""
    ask(requests, 0)
    path = requests.folder / "forget-1.json"
    path.write_bytes(content)
    looks: list[Callable[[], object]] = [
        requests.all,
        requests.excluded,
        requests.open,
        lambda: requests.of(0),
        lambda: ask(requests, 2),
        lambda: requests.mark([0], DONE),
    ]
    for look in looks:
        with pytest.raises(FedNegError, match=f"{path} is no request: "):
            look()
    assert set(contents(requests.folder)) == {"forget-0.json", "forget-1.json"}
    path.write_bytes(changed())
    assert requests.excluded() == {0, 1}


@pytest.mark.parametrize(
    "name",
    [
        *("forget-.json", "forget-01.json", "forget--1.json", "forget-1.json.bak"),
        *("forget-1", "Forget-1.json", "forget-1a.json", "notes.txt"),
        "forget-\N{ARABIC-INDIC DIGIT ONE}.json",
    ],
)
def test_a_misnamed_file_is_named(requests: Requests, name: str):
    ask(requests, 0)
    (requests.folder / name).write_bytes(changed())
    with pytest.raises(FedNegError, match=r"is no request: its name is not forget-"):
        requests.all()


def test_a_folder_in_place_of_a_request_is_named(requests: Requests):
    (requests.folder / "forget-1.json").mkdir(parents=True)
    with pytest.raises(FedNegError, match=r"forget-1\.json is no request"):
        requests.all()


# -- killed, and at once ---------------------------------------------------------------

KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from processes.killing import Executioner
from fedneg.records.requests import Requests
for action in ("accept", "mark"):
    requests = Requests(Path(sys.argv[1]) / action)
    requests.accept(0, clients=99, due_days=30)
    for last in range(1, 40):
        if (child := os.fork()) == 0:
            Executioner(last).watch()
            if action == "accept":
                requests.accept(last, clients=99, due_days=30)
            else:
                requests.mark([0], "done" if last % 2 else "unlearned")
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        found = {r.client_id: r.status for r in Requests(requests.folder).all()}
        what = found.get(last if action == "accept" else 0)
        print(action, last, code, what, flush=True)
        if action == "accept":  # each file more is a step more
            (requests.folder / f"forget-{last}.json").unlink(missing_ok=True)
        if code == 0:
            break
"""
Killed = list[tuple[int, int, str]]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Killed]]:
    """Return a folder, and step, exit code and status found, by what was killed."""
    folder = tmp_path_factory.mktemp("killed")
    words = [sys.executable, "-c", KILLED, str(folder), str(TESTS)]
    text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    found: dict[str, Killed] = {"accept": [], "mark": []}
    for line in text.splitlines():
        action, step, code, status = line.split()
        found[action].append((int(step), int(code), status))
    return folder, found


def test_an_accept_killed_at_any_step_is_there_or_not_there(
    killed: tuple[Path, dict[str, Killed]],
):
    folder, found = killed[0] / "accept", killed[1]["accept"]
    assert [code for _, code, _ in found] == [-signal.SIGKILL] * (len(found) - 1) + [0]
    states = [status for _, _, status in found]
    assert set(states) == {"None", "accepted"}
    # Once its name is there it stays there: every later step finds it.
    assert states == sorted(states, key=["None", "accepted"].index)
    assert len(found) > 5
    # What was cut short is no request, and stands in nobody's way.
    assert any(name.startswith(".forget-") for name in contents(folder))
    requests = Requests(folder)
    assert ask(requests, 98, 99).client_id in requests.excluded()


def test_a_mark_killed_at_any_step_leaves_the_old_or_the_new(
    killed: tuple[Path, dict[str, Killed]],
):
    before = "accepted"
    for step, code, status in killed[1]["mark"]:
        new = "done" if step % 2 else "unlearned"
        assert status in ((new,) if code == 0 else (before, new))
        before = status
    assert [r.client_id for r in Requests(killed[0] / "mark").all()] == [0]


def test_what_a_killed_writer_left_is_not_looked_at(requests: Requests):
    ask(requests, 0)
    (requests.folder / ".forget-1.json.x7f").write_bytes(changed()[:40])
    assert requests.excluded() == {0}
    assert ask(requests, 1).client_id == 1


ACCEPTING = """
import sys
from pathlib import Path
from fedneg.core.errors import FedNegError
from fedneg.records.requests import Requests
requests = Requests(Path(sys.argv[1]))
sys.stdin.read()
for client_id in map(int, sys.argv[2].split()):
    try:
        print(client_id, requests.accept(client_id, clients=12, due_days=1)[1])
    except FedNegError:
        print(client_id, "refused")
"""


def test_processes_that_accept_at_once_agree(requests: Requests):
    """Three ask for all of 12 clients: each is new to one, and one client stays."""
    orders = ["0 1 2 3 4 5 6 7 8 9 10 11", "11 10 9 8 7 6 5 4 3 2 1 0"]
    orders.append("5 6 4 7 3 8 2 9 1 10 0 11")
    running = [
        subprocess.Popen(
            [sys.executable, "-c", ACCEPTING, str(requests.folder), order],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for order in orders
    ]
    for process in running:
        assert process.stdin is not None
        process.stdin.close()  # now, all of them
        process.stdin = None
    said = [process.communicate(timeout=PATIENCE_S)[0].split() for process in running]
    answers = [
        pair for words in said for pair in zip(words[::2], words[1::2], strict=True)
    ]
    new = [client for client, what in answers if what == "True"]
    assert len(new) == len(set(new)) == 11
    assert requests.excluded() == set(map(int, new))
    [stays] = set(range(12)) - set(map(int, new))
    assert {client for client, what in answers if what == "refused"} == {str(stays)}


# -- locks -----------------------------------------------------------------------------

HOLDING = """
import sys, time
from pathlib import Path
from fedneg.core.locks import locked
with locked(Path(sys.argv[1]), "the test"):
    print("mine", flush=True)
    sys.stdin.read()
"""


def holder(path: Path) -> subprocess.Popen[str]:
    """Return a process that holds a lock until its input ends, or it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "mine\n"
    return process


def test_a_lock_is_held_in_its_block_and_given_back_after(tmp_path: Path):
    path = tmp_path / "new" / "lock"
    assert not is_locked(path)
    assert not path.exists()  # to look makes nothing
    with locked(path, "it"):
        assert is_locked(path)
    assert not is_locked(path)
    with pytest.raises(RuntimeError, match="mine"), locked(path, "it"):
        raise RuntimeError("mine")
    assert not is_locked(path)
    assert path.exists()


def test_timeout_0_refuses_at_once_and_names_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path, naps, sleep = tmp_path / "lock", [], time.sleep
    monkeypatch.setattr(locks.time, "sleep", lambda s: (naps.append(s), sleep(s)))
    process = holder(path)
    try:
        message = f"somebody else is using the federation, {tmp_path}$"
        with (
            pytest.raises(FedNegError, match=message),
            locked(path, "the federation", timeout_s=0),
        ):
            pass
        assert sum(naps) < 1  # the default waits 30
        with (
            pytest.raises(FedNegError, match=r"\(waited 0\.3 s\)"),
            locked(path, "it", timeout_s=0.3),
        ):
            pass
        assert is_locked(path)
    finally:
        process.kill()
        process.communicate()


def test_who_is_killed_gives_its_lock_back(tmp_path: Path):
    path = tmp_path / "lock"
    process = holder(path)
    assert is_locked(path)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not is_locked(path)
    with locked(path, "it", timeout_s=0):
        assert is_locked(path)


def test_a_lock_that_is_given_back_is_had_by_who_waits(tmp_path: Path):
    process = holder(tmp_path / "lock")
    assert process.stdin is not None
    process.stdin.close()
    process.stdin = None
    with locked(tmp_path / "lock", "it"):
        assert is_locked(tmp_path / "lock")
    process.communicate()


def test_a_look_at_a_lock_puts_nobody_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """`fedneg status` looks just when a run begins: the run begins all the same."""
    path = tmp_path / "lock"
    path.touch()
    looking = os.open(path, os.O_RDWR)
    locks.fcntl.flock(looking, locks.fcntl.LOCK_EX)
    monkeypatch.setattr(locks.time, "sleep", lambda seconds: os.close(looking))
    with locked(path, "it", timeout_s=0):
        assert is_locked(path)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(looking)  # it was waited for, and given back


def test_who_looks_and_then_writes_waits_for_who_does_so(
    requests: Requests, monkeypatch: pytest.MonkeyPatch
):
    ask(requests, 0)
    impatient = partial(locked, timeout_s=0)
    monkeypatch.setattr("fedneg.records.requests.locked", impatient)
    acts: list[Callable[[], object]] = [
        lambda: ask(requests, 1),
        lambda: requests.mark([0], DONE),
    ]
    for act in acts:
        with (
            locked(requests.folder / ".lock", "it"),
            pytest.raises(FedNegError, match="is using the queue of requests"),
        ):
            act()
    assert [(r.client_id, r.status) for r in requests.all()] == [(0, ACCEPTED)]
