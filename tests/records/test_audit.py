"""The audit log: whatever is changed in it, or missing from it, is named."""

import errno
import fcntl
import hashlib
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builders.waiting import PATIENCE_S
from fedneg.core.errors import FedNegError
from fedneg.records import audit, entries
from fedneg.records.audit import AuditLog, Broken, check
from fedneg.records.head import HEAD_NAME, Head, read_head, write_head
from fedneg.records.signing import OperatorKey, canonical

APPEND_50 = """
import sys
from pathlib import Path
from fedneg.records.audit import AuditLog
from fedneg.records.signing import OperatorKey
folder = Path(sys.argv[1])
key = OperatorKey.load_or_create(folder / "keys")
log = AuditLog(folder / "audit.jsonl", key, head=folder / "keys" / "log.head")
for number in range(50):
    log.append("counted", process=int(sys.argv[2]), number=number)
"""


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[OperatorKey, OperatorKey]:
    """Return two operators' keys."""
    folder = tmp_path_factory.mktemp("keys")
    one, two = (OperatorKey.load_or_create(folder / name) for name in ("one", "two"))
    return one, two


@pytest.fixture
def log(tmp_path: Path, keys: tuple[OperatorKey, OperatorKey]) -> AuditLog:
    """Return a log of five entries."""
    made = AuditLog(tmp_path / "state" / "audit.jsonl", keys[0])
    for client in range(5):
        made.append("requested", client=client)
    return made


def lines_of(log: AuditLog) -> list[bytes]:
    """Return the lines of a log, each with its newline."""
    return log.path.read_bytes().splitlines(keepends=True)


def broken(log: AuditLog, lines: list[bytes], **how: Any) -> Broken | None:
    """Return what `check` finds first in a log of these lines."""
    log.path.write_bytes(b"".join(lines))
    return check(log.path, log.key.public, **how).broken


def resigned(line: bytes, key: OperatorKey, **changes: Any) -> bytes:
    """Return an entry with changes, its digest and signature made to fit."""
    entry = json.loads(line) | changes
    entry["digest"] = entries.digest_of(entry)
    entry["signature"] = key.sign({"audit": entry["digest"]})
    return canonical(entry) + b"\n"


# -- what is written ------------------------------------------------------------------


def test_an_entry_by_hand(log: AuditLog):
    """The digest is over the canonical JSON of the other five fields."""
    first, second = (json.loads(line) for line in lines_of(log)[:2])
    assert list(first) == sorted(entries.FIELDS)
    assert (first["seq"], first["event"], first["facts"]) == (
        *(1, "requested"),
        {"client": 0},
    )
    assert first["previous"] == "0" * 64
    assert second["previous"] == first["digest"]
    text = (
        '{"event":"requested","facts":{"client":0},'
        f'"previous":"{"0" * 64}","seq":1,"time":"{first["time"]}"}}'
    )
    assert first["digest"] == hashlib.sha256(text.encode()).hexdigest()
    assert log.key.public.verify({"audit": first["digest"]}, first["signature"])
    assert first["time"].endswith("+00:00")


def test_append_returns_what_a_reader_finds(log: AuditLog):
    """A fact may be called event; numbers as keys come back as text."""
    made = log.append("done", event="x", by_client={3: 1.5})
    assert made == json.loads(lines_of(log)[-1])
    assert made["facts"] == {"event": "x", "by_client": {"3": 1.5}}
    found = check(log.path, log.key.public)
    assert (found.entries, found.head, found.broken) == (6, made["digest"], None)


def test_others_may_read_the_log_and_not_write_it(log: AuditLog):
    assert stat.S_IMODE(log.path.stat().st_mode) & 0o022 == 0


def test_an_empty_log_is_whole_and_a_missing_one_is_an_error(log: AuditLog):
    assert broken(log, []) is None
    assert check(log.path, log.key.public).head == "0" * 64
    log.path.unlink()
    with pytest.raises(FedNegError, match=r"audit\.jsonl cannot be read: No such"):
        check(log.path, log.key.public)


def test_facts_that_are_no_json_leave_the_log_as_it_was(log: AuditLog):
    before = log.path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        log.append("bad", loss=float("nan"))
    with pytest.raises(TypeError, match="JSON"):
        log.append("bad", thing=object())
    with pytest.raises(FedNegError, match=r"must be shorter than 1048576 bytes"):
        log.append("bad", text="x" * entries.MAX_LINE)
    assert log.path.read_bytes() == before


def test_an_entry_is_on_the_disk_before_append_returns(
    log: AuditLog, monkeypatch: pytest.MonkeyPatch
):
    """In one write: the size at each fsync is that of whole lines."""
    synced, written = [], []
    real_sync, real_write = os.fsync, os.write

    def fsync(handle: int) -> None:
        synced.append(os.fstat(handle).st_size)
        real_sync(handle)

    def write(handle: int, data: bytes) -> int:
        written.append(data)
        return real_write(handle, data)

    monkeypatch.setattr(audit.os, "fsync", fsync)
    monkeypatch.setattr(audit.os, "write", write)
    log.append("done")
    assert written == [lines_of(log)[-1]]
    assert synced == [log.path.stat().st_size]


def test_a_full_disk_leaves_the_log_as_it_was(
    log: AuditLog, monkeypatch: pytest.MonkeyPatch
):
    """Whether nothing could be written, or the first bytes of the line."""
    before, real = log.path.read_bytes(), os.write

    def full(handle: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for write in full, lambda handle, data: real(handle, data[:9]):
        monkeypatch.setattr(audit.os, "write", write)
        with pytest.raises(FedNegError, match=r"cannot be written: .*(space|room)"):
            log.append("done")
        assert log.path.read_bytes() == before


# -- several processes, and crashes ---------------------------------------------------


def test_processes_that_append_at_once_make_one_whole_chain(tmp_path: Path):
    started = [
        subprocess.Popen([sys.executable, "-c", APPEND_50, str(tmp_path), str(k)])
        for k in range(4)
    ]
    assert [process.wait(PATIENCE_S) for process in started] == [0] * 4
    key = OperatorKey.load_or_create(tmp_path / "keys")
    found = check(tmp_path / "audit.jsonl", key.public)
    assert (found.entries, found.broken) == (200, None)
    assert read_head(tmp_path / "keys" / "log.head") == Head(200, found.head)
    facts = [
        json.loads(line)["facts"]
        for line in (tmp_path / "audit.jsonl").read_bytes().splitlines()
    ]
    for k in range(4):
        mine = [f["number"] for f in facts if f["process"] == k]
        assert mine == list(range(50))


def test_reading_while_others_append_finds_nothing_broken(log: AuditLog):
    stop = threading.Event()

    def add() -> None:
        while not stop.is_set():
            log.append("more")

    writer = threading.Thread(target=add)
    writer.start()
    try:
        for _ in range(40):
            assert check(log.path, log.key.public).broken is None
    finally:
        stop.set()
        writer.join()


def test_reading_waits_for_an_entry_that_is_being_written(log: AuditLog):
    """Half a line under the lock is no crash."""
    *whole, last = lines_of(log)
    log.path.write_bytes(b"".join(whole) + last[:50])
    found: list[audit.AuditCheck] = []
    reader = threading.Thread(
        target=lambda: found.append(check(log.path, log.key.public))
    )
    with log.path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        reader.start()
        # Too short on a busy machine to find a fault, never to find one that is none.
        reader.join(0.2)
        assert found == []
        file.write(last[50:])
    reader.join(PATIENCE_S)
    assert (found[0].entries, found[0].broken) == (5, None)


def test_killed_at_any_byte_of_a_line_the_log_goes_on(log: AuditLog):
    """The part of a line never counted; the newline is what makes it count."""
    whole, last = lines_of(log)[:-1], lines_of(log)[-1]
    for cut in range(len(last) + 1):
        found = broken(log, [*whole, last[:cut]])
        if 0 < cut < len(last):
            assert check(log.path, log.key.public).unfinished == cut
        assert found is None
        added = log.append("next", cut=cut)
        result = check(log.path, log.key.public)
        assert result.broken is None
        assert result.head == added["digest"]
        events = [json.loads(line)["event"] for line in lines_of(log)[4:]]
        if cut == len(last):
            assert events == ["requested", "next"]
        elif cut == 0:
            assert events == ["next"]
        else:
            assert events == ["repaired", "next"]
            repaired = json.loads(lines_of(log)[4])
            assert repaired["facts"] == {"removed_bytes": cut}


def test_a_long_tail_without_a_newline_is_cut_off_too(log: AuditLog):
    """A power cut may leave zeros: here more than is read at a time, and no entry."""
    for before in (lines_of(log), []):
        log.path.write_bytes(b"".join(before) + b"\0" * (2 * audit.BLOCK + 5))
        log.append("next")
        result = check(log.path, log.key.public)
        repaired = bool(before)  # of a first entry nothing is said
        assert (result.entries, result.broken) == (len(before) + 1 + repaired, None)


def test_a_line_may_be_longer_than_what_is_read_at_a_time(log: AuditLog):
    text = "x" * (3 * audit.BLOCK)
    log.append("long", text=text)
    log.append("next")
    assert check(log.path, log.key.public).entries == 7


def test_nothing_is_added_to_a_log_whose_last_entry_is_not_ours(
    log: AuditLog, keys: tuple[OperatorKey, OperatorKey]
):
    before = lines_of(log)
    changed = before[-1].replace(b'"client":4', b'"client":3')
    for last, other, said in (
        (changed, keys[0], "changed content"),
        (b"\n", keys[0], "not JSON"),
        (before[-1], keys[1], "bad signature"),
    ):
        content = b"".join([*before[:-1], last])
        log.path.write_bytes(content)
        with pytest.raises(FedNegError, match=rf"last entry of .* broken \({said}"):
            AuditLog(log.path, other).append("next")
        assert log.path.read_bytes() == content


# -- tampering ------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 3, 5])
@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("seq", 7, "changed content"),
        ("time", "2026-01-01T00:00:00.000+00:00", "changed content"),
        ("event", "withdrawn", "changed content"),
        ("facts", {"client": 9}, "changed content"),
        ("previous", "1" * 64, "changed content"),
        ("digest", "1" * 64, "changed content"),
        ("signature", "A" * 86 + "==", "bad signature"),
        ("signature", None, "bad signature"),
        ("seq", "1", "not an entry"),
        ("more", 1, "not an entry"),
    ],
)
def test_a_changed_field_is_found_in_its_entry(
    log: AuditLog, number: int, field: str, value: object, said: str
):
    lines = lines_of(log)
    entry = json.loads(lines[number - 1]) | {field: value}
    lines[number - 1] = canonical(entry) + b"\n"
    found = broken(log, lines)
    assert found is not None
    assert found.number == number
    assert found.what.startswith(said)
    result = check(log.path, log.key.public)
    assert result.entries == number - 1
    expected = json.loads(lines[number - 2])["digest"] if number > 1 else "0" * 64
    assert result.head == expected


def test_every_single_byte_of_a_line_matters(log: AuditLog):
    lines = lines_of(log)
    for at in range(len(lines[2])):
        changed = bytearray(lines[2])
        changed[at] ^= 1
        found = broken(log, [*lines[:2], bytes(changed), *lines[3:]])
        assert found is not None, at
        assert found.number == 3, at


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda a: [a[0], a[2], a[1], *a[3:]], (2, "wrong seq: 3 in place of 2")),
        (lambda a: [a[0], *a[2:]], (2, "wrong seq: 3 in place of 2")),
        (lambda a: a[1:], (1, "wrong seq: 2 in place of 1")),
        (lambda a: [*a[:3], a[2], *a[3:]], (4, "wrong seq: 3 in place of 4")),
        (lambda a: [*a[:2], b"\n", *a[2:]], (3, "not JSON")),
        (lambda a: [*a[:2], b"{}\n", *a[2:]], (3, "not an entry")),
        (lambda a: [*a[:2], b"[" * 10**6 + b"\n", *a[2:]], (3, "not JSON")),
        (lambda a: [*a[:2], b"x" * (1 << 21) + b"\n"], (3, "line too long")),
        (lambda a: [a[0], b" " + a[1], *a[2:]], (2, "changed content: its digest")),
    ],
    ids=[
        *("swapped", "removed", "beheaded", "doubled", "blank", "object"),
        *("nested", "long", "space"),
    ],
)
def test_entries_out_of_their_place_are_found(
    log: AuditLog, change: Callable[[list[bytes]], list[bytes]], expected: tuple
):
    found = broken(log, change(lines_of(log)))
    assert found is not None
    assert found.number == expected[0]
    assert found.what.startswith(expected[1])


def test_who_hides_an_entry_must_sign_all_later_ones(
    log: AuditLog, keys: tuple[OperatorKey, OperatorKey]
):
    """With the key: the next names the wrong one. Without: the signature is another."""
    lines = lines_of(log)
    hidden = [lines[0], resigned(lines[2], keys[0], seq=2), *lines[3:]]
    assert broken(log, hidden) == Broken(
        2, "wrong previous: it does not name the entry before it"
    )
    other = resigned(lines[1], keys[1], facts={"client": 9})
    found = broken(log, [lines[0], other, *lines[2:]])
    assert found is not None
    assert found.number == 2
    assert found.what.startswith("bad signature")


def test_a_log_written_anew_with_another_key_is_found_at_once(
    log: AuditLog, keys: tuple[OperatorKey, OperatorKey]
):
    before, anew = "0" * 64, []
    for line in lines_of(log):
        anew.append(resigned(line, keys[1], previous=before))
        before = json.loads(anew[-1])["digest"]
    found = broken(log, anew)
    assert found == Broken(1, f"bad signature: not made by key {keys[0].public.digest}")
    assert check(log.path, keys[1].public).broken is None


def test_a_removed_tail_shows_with_an_anchor_only(log: AuditLog):
    lines = lines_of(log)
    digests = [json.loads(line)["digest"] for line in lines]
    for kept in range(5):
        assert broken(log, lines[:kept]) is None
        found = broken(log, lines[:kept], head=digests[4])
        assert found is not None
        assert found.number == kept + 1
        assert digests[4] in found.what
        if kept:
            assert broken(log, lines[:kept], head=digests[kept - 1]) is None
    assert broken(log, lines, head=digests[0]) is None


def test_an_anchor_shows_a_history_that_the_operator_wrote_anew(log: AuditLog):
    """With the right key every other check holds."""
    anchor = json.loads(lines_of(log)[-1])["digest"]
    log.path.unlink()
    for client in range(6):
        log.append("requested", client=client)
    assert check(log.path, log.key.public).broken is None
    found = check(log.path, log.key.public, head=anchor).broken
    assert found is not None
    assert found.number == 7


def test_digests_that_are_wanted_and_not_there_are_missing(log: AuditLog):
    digests = [json.loads(line)["digest"] for line in lines_of(log)]
    found = check(log.path, log.key.public, wanted=[digests[1], "1" * 64, "2" * 64])
    assert found.missing == ("1" * 64, "2" * 64)
    assert found.broken is None


# -- what the keys know ----------------------------------------------------------------


@pytest.fixture
def headed(log: AuditLog, tmp_path: Path) -> AuditLog:
    """Return the log of five entries, whose keys know the last one."""
    made = AuditLog(log.path, log.key, head=tmp_path / "keys" / HEAD_NAME)
    made.keep_head()
    return made


def head_of(log: AuditLog) -> Head | None:
    """Return what the keys know."""
    assert log.head is not None
    return read_head(log.head)


def test_the_keys_know_every_new_entry_at_once(headed: AuditLog):
    assert headed.head is not None
    last = json.loads(lines_of(headed)[-1])
    assert head_of(headed) == Head(5, last["digest"])
    for seq in (6, 7):
        added = headed.append("more")
        assert head_of(headed) == Head(seq, added["digest"])
    assert stat.S_IMODE(headed.head.stat().st_mode) == 0o600


def test_a_head_that_lags_behind_is_no_fault(headed: AuditLog):
    assert headed.head is not None
    write_head(headed.head, Head(3, json.loads(lines_of(headed)[2])["digest"]))
    added = headed.append("more")
    assert head_of(headed) == Head(6, added["digest"])


@pytest.mark.parametrize("kept", [0, 3, 4])
def test_nothing_is_added_to_a_log_that_is_older_than_the_keys(
    headed: AuditLog, kept: int
):
    """Else the next entry would be what they know, and nobody would notice."""
    headed.path.write_bytes(b"".join(lines_of(headed)[:kept]))
    before, known = headed.path.read_bytes(), head_of(headed)
    for act in (lambda: headed.append("more"), headed.keep_head):
        with pytest.raises(FedNegError, match="ends before entry 5 that the keys know"):
            act()
    assert (headed.path.read_bytes(), head_of(headed)) == (before, known)


def test_nor_to_one_with_another_last_entry(headed: AuditLog):
    other = resigned(lines_of(headed)[4], headed.key, facts={"client": 9})
    headed.path.write_bytes(b"".join([*lines_of(headed)[:4], other]))
    with pytest.raises(FedNegError, match="has another entry 5 than the keys know"):
        headed.append("more")


def test_an_entry_costs_as_much_after_many(
    headed: AuditLog, monkeypatch: pytest.MonkeyPatch
):
    """The log is not read again for the head: its last block alone, as before."""
    read, real = [], os.pread

    def pread(handle: int, size: int, offset: int) -> bytes:
        found = real(handle, size, offset)
        read.append(len(found))
        return found

    for _ in range(4):
        headed.append("long", text="x" * 2 * audit.BLOCK)
    headed.append("short")
    monkeypatch.setattr(audit.os, "pread", pread)
    headed.append("one more")
    assert headed.path.stat().st_size > 8 * audit.BLOCK
    assert sum(read) <= 3 * audit.BLOCK
