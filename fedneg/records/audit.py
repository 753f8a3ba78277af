"""A log that can be added to and not changed: each entry is signed and names the last.

``audit.jsonl`` has one line of canonical JSON per entry: ``seq``, ``time``, ``event``,
``facts``, ``previous`` (the digest of the entry before), ``digest`` (sha256 of the
others) and ``signature`` (the operator's, over the digest). An entry counts once its
line has its newline. Who holds the key can still write another history, and anybody can
cut off the end: a digest kept elsewhere, in the keys (head.py), a receipt or an anchor,
shows both.

The log holds events and client ids; it is no place for names or data: of a request's
reason it has the sha256. What it says has come to be is in fedneg/records/account.py.

Longer than most: who writes an entry, who checks one and who completes one that a kill
cut short must agree on every byte of a line.
"""

import errno
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedneg.core.errors import FedNegError
from fedneg.core.locks import give_back, open_locked, take
from fedneg.core.reading import open_regular
from fedneg.ledger.tensors import sync_folder
from fedneg.records.entries import BEGINNING, MAX_LINE, digest_of, read_entry, signed
from fedneg.records.head import Head, contradiction, read_head, tidy_head, write_head
from fedneg.records.signing import OperatorKey, PublicKey, canonical

BLOCK = 1 << 16


@dataclass(frozen=True)
class Broken:
    """The first entry that is not as it was written.

    Attributes
    ----------
    number : int
        Its line, from 1.
    what : str
        What is wrong with it.
    """

    number: int
    what: str


@dataclass(frozen=True)
class AuditCheck:
    """What reading a log came to.

    Attributes
    ----------
    entries : int
        Entries that are whole, up to the first broken one.
    head : str
        Digest of the last of them; 64 zeros without any.
    broken : Broken or None
    missing : tuple of str
        Digests that were asked for and are not among the whole entries.
    unfinished : int
        Bytes after the last newline: of an entry that a kill cut short. It never
        counted, and the next one is written in its place.
    """

    entries: int
    head: str
    broken: Broken | None
    missing: tuple[str, ...] = ()
    unfinished: int = 0


class AuditLog:
    """The log as those see it who add to it.

    Parameters
    ----------
    path : Path
        Made with the first entry, its folder too.
    key : OperatorKey
    head : Path, optional
        Where the keys know its last entry.
    """

    def __init__(
        self, path: Path, key: OperatorKey, *, head: Path | None = None
    ) -> None:
        self.path, self.key, self.head = path, key, head

    def append(self, event: str, /, **facts: Any) -> dict[str, Any]:
        """Add an entry, flush it to the disk, and return it.

        Several processes may do so at once. Part of a line that a crash left at the end
        is cut off, and an entry 'repaired' says so before this one, unless this is the
        first.

        Raises
        ------
        FedNegError
            If the log cannot be written, its last entry is not this key's, or the keys
            know a later one: then nothing may be added to it. The log is as it was.
        ValueError, TypeError
            If the facts are not JSON.
        """
        canonical(facts)  # fails before anything is locked or written
        try:
            with open_locked(self.path, os.O_APPEND) as handle:
                last, end = self._last(handle)
                self._check_head(last)
                cut = os.fstat(handle).st_size - end
                entries = []
                if cut and last is not None:
                    last = self._entry(last, "repaired", {"removed_bytes": cut})
                    entries.append(last)
                entries.append(self._entry(last, event, facts))
                _write(handle, b"".join(canonical(e) + b"\n" for e in entries), end)
                # The entry counts. One that the keys do not know yet is no fault, and
                # the next start says why it could not be written.
                with suppress(OSError):
                    self._write_head(entries[-1])
            if last is None:
                sync_folder(self.path.parent)
        except OSError as error:
            raise FedNegError(
                f"the audit log {self.path} cannot be written: {error.strerror}"
            ) from None
        return entries[-1]

    def keep_head(self) -> None:
        """Let the keys know the last entry, if a kill or an older fedneg did not.

        Raises
        ------
        FedNegError
            If they know a later one, or it cannot be written.
        """
        if self.head is None:
            return
        try:
            with open_locked(self.path, os.O_APPEND) as handle:
                tidy_head(self.head)
                last, _ = self._last(handle)
                self._check_head(last)
                if last is not None and read_head(self.head) != _head(last):
                    self._write_head(last)
        except OSError as error:
            raise FedNegError(
                f"{self.head} cannot be written: {error.strerror}"
            ) from None

    def _write_head(self, last: Mapping[str, Any]) -> None:
        if self.head is not None:
            write_head(self.head, _head(last))

    def _check_head(self, last: Mapping[str, Any] | None) -> None:
        """Raise FedNegError if the keys know a later entry, or another last one.

        A log put in the place of a newer one while somebody writes to it must not
        become what the keys know. Earlier ones were compared at the start.
        """
        head = None if self.head is None else read_head(self.head)
        seq, digest = (last["seq"], last["digest"]) if last else (0, "")
        if self.head is None or head is None or head.seq < seq:
            return
        found = digest if head.seq == seq else ""
        said = contradiction(self.path, self.head, head, found)
        if said:
            raise FedNegError(said)

    def _entry(
        self, last: Mapping[str, Any] | None, event: str, facts: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the entry after `last`."""
        entry = {
            "seq": last["seq"] + 1 if last else 1,
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "event": event,
            "facts": json.loads(canonical(facts)),
            "previous": last["digest"] if last else BEGINNING,
        }
        digest = digest_of(entry)
        entry |= {"digest": digest, "signature": self.key.sign(signed(digest))}
        if len(canonical(entry)) >= MAX_LINE:
            raise FedNegError(
                f"an entry of the audit log must be shorter than {MAX_LINE} bytes, "
                f"got {len(canonical(entry))} for {event!r}"
            )
        return entry

    def _last(self, handle: int) -> tuple[dict[str, Any] | None, int]:
        """Return the last entry that counts, and where its line ends."""
        size = os.fstat(handle).st_size
        end = _after_newline(handle, size)
        if end == 0:
            return None, 0
        line = os.pread(handle, MAX_LINE + 1, _after_newline(handle, end - 1))
        line = line[: line.find(b"\n") + 1]
        entry, what = read_entry(line, self.key.public)
        if entry is None:
            raise FedNegError(
                f"the last entry of {self.path} is broken ({what}), and nothing may be "
                "added to it; `fedneg audit` says where the log breaks"
            )
        return entry, end


def _head(entry: Mapping[str, Any]) -> Head:
    return Head(entry["seq"], entry["digest"])


def check(
    path: Path,
    public_key: PublicKey,
    *,
    head: str | None = None,
    wanted: Collection[str] = (),
    each: Callable[[Mapping[str, Any]], None] = lambda entry: None,
) -> AuditCheck:
    """Read a log from its beginning to the first entry that is broken.

    Entries that others add meanwhile are not waited for. Memory: a line at a time.

    Parameters
    ----------
    path : Path
    public_key : PublicKey
        Of whoever should have signed it.
    head : str, optional
        The digest of an entry, kept elsewhere. Without it in the log the log is broken:
        it was cut off, or written anew.
    wanted : collection of str
        Digests of further entries; those not found are `AuditCheck.missing`.
    each : callable
        Told of every whole entry.

    Raises
    ------
    FedNegError
        If there is no log or it cannot be read.
    """
    left = set(wanted) | ({head} if head is not None else set())
    entries, before, broken, unfinished = 0, BEGINNING, None, 0
    try:
        for line in _lines(path):
            if _is_unfinished(line):
                unfinished = len(line)
                break
            entry, what = read_entry(line, public_key)
            if entry is not None:
                what = _out_of_line(entry, entries + 1, before)
            if entry is None or what:
                broken = Broken(entries + 1, what)
                break
            entries, before = entries + 1, entry["digest"]
            left.discard(before)
            each(entry)
    except OSError as error:
        raise FedNegError(
            f"the audit log {path} cannot be read: {error.strerror}"
        ) from None
    if broken is None and head in left:
        what = f"the log ends, and entry {head} is not in it: it was cut off or changed"
        broken = Broken(entries + 1, what)
    missing = tuple(sorted(left & set(wanted)))
    return AuditCheck(entries, before, broken, missing, unfinished)


def follow(
    path: Path, public_key: PublicKey, offset: int, entries: int, head: str
) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield the entries after `offset`, and where each ends in the file.

    Parameters
    ----------
    entries, head
        How many entries stand before `offset`, and the digest of the last of them.

    Raises
    ------
    FedNegError
        If one is broken. A last line without its newline is none yet, and ends it.
    OSError
        If the log cannot be read.
    """
    for line in _lines(path, offset):
        if _is_unfinished(line):
            return
        entry, what = read_entry(line, public_key)
        if entry is not None:
            what = _out_of_line(entry, entries + 1, head)
        if entry is None or what:
            raise FedNegError(f"entry {entries + 1} of {path} is broken: {what}")
        entries, head, offset = entries + 1, entry["digest"], offset + len(line)
        yield entry, offset


def newest_of(
    events: Collection[str], path: Path, public_key: PublicKey
) -> dict[str, Any] | None:
    """Return the newest whole entry of some events, for who only watches.

    It alone is checked, and not its place in the log, so that a long log costs little.

    Raises
    ------
    FedNegError
        If the log cannot be read.
    """
    marks = [canonical({"event": event})[1:-1] for event in events]
    found = None
    try:
        for line in _lines(path):
            if any(mark in line for mark in marks):
                entry, _ = read_entry(line, public_key)
                if entry is not None and entry["event"] in events:
                    found = entry
    except OSError as error:
        raise FedNegError(
            f"the audit log {path} cannot be read: {error.strerror}"
        ) from None
    return found


def _is_unfinished(line: bytes) -> bool:
    return not line.endswith(b"\n") and len(line) <= MAX_LINE


def _out_of_line(entry: Mapping[str, Any], seq: int, before: str) -> str:
    """Return what is wrong with a whole entry in its place, empty if nothing is."""
    if entry["seq"] != seq:
        return f"wrong seq: {entry['seq']} in place of {seq}"
    if entry["previous"] != before:
        return "wrong previous: it does not name the entry before it"
    return ""


def _lines(path: Path, done: int = 0) -> Iterator[bytes]:
    """Yield the lines from an offset on, the last perhaps without a newline."""
    with open_regular(path) as file:
        # While one is being added its line is not whole: wait for that one, no longer.
        take(file.fileno(), shared=True)
        size = os.fstat(file.fileno()).st_size
        give_back(file.fileno())
        file.seek(done)
        while done < size:
            line = file.readline(MAX_LINE + 1)
            if not line:
                return
            done += len(line)
            yield line


def _after_newline(handle: int, end: int) -> int:
    """Return where the last newline before `end` ends; 0 if there is none."""
    while end > 0:
        start = max(0, end - BLOCK)
        found = os.pread(handle, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _write(handle: int, data: bytes, end: int) -> None:
    """Let the log end at `end` and add to it in one write, or let it end there."""
    try:
        os.ftruncate(handle, end)
        if os.write(handle, data) < len(data):
            raise OSError(errno.ENOSPC, "there is no room for another entry")
        os.fsync(handle)
    except OSError:
        os.ftruncate(handle, end)
        raise
