"""Whether any file still holds certain vectors: every byte offset of every file.

A window slides over the bytes of each file and is compared with `scan_windows`: the
rolling hash, by prefix sums, proposes and sha256 decides.

What it cannot find: the numbers in another form (compressed, encrypted, as base64 or
decimal text, as float64, float16 or big-endian, added to or scaled, or with other
numbers in between, as in the columns of a matrix); a remnant shorter than the distance
of two windows, a vector shorter than one, or one that is nearly constant everywhere;
and what is in no file below the folders: freed blocks of the disk, deleted files that a
process still holds open, memory, other machines. It is evidence that ordinary files are
clean, no proof about a disk.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedneg.records.scan_windows import BASE, INVERSE, ScanWindow, Words, powers
from fedneg.records.walk import Followed, NotSearched, Walk, shown

# Bytes hashed at a time: more would not be faster, and take more memory.
BLOCK = 1 << 16
# The leading bits of a hash are looked up in a table before anything else.
TABLE_BITS = 17
# A receipt names so many places that were not searched, and counts the others.
TOLD = 12


class Match(NamedTuple):
    """A window that was found: in which file, of which vector, at which byte."""

    path: Path
    name: str
    offset: int


@dataclass(frozen=True)
class ScanResult:
    """What a scan read, and what it found, by path and offset.

    Attributes
    ----------
    files, bytes : int
        Read.
    matches : list of Match
    not_searched : tuple of NotSearched
        What it came to and could not look into.
    followed : tuple of Followed
        Links that led out of what it was told to search.
    """

    files: int
    bytes: int
    matches: list[Match]
    not_searched: tuple[NotSearched, ...] = ()
    followed: tuple[Followed, ...] = ()

    def told(self, folder: Path) -> dict[str, Any]:
        """Return it as a receipt tells it; paths below `folder` without it."""
        folder = folder.resolve()  # as the walk's paths are
        left = [f"{_short(p, folder)} ({why})" for p, why in self.not_searched]
        away = [f"{_short(p, folder)} -> {shown(to)}" for p, to in self.followed]
        return {
            "scanned_files": self.files,
            "scanned_bytes": self.bytes,
            "matches": len(self.matches),
            "not_searched": left[:TOLD],
            "not_searched_count": len(left),
            "followed": away[:TOLD],
        }


def _short(path: Path, folder: Path) -> str:
    inside = path.is_relative_to(folder)
    return shown(path.relative_to(folder) if inside else path)


class _Finder:
    """Finds the scan windows of one width in a block of bytes."""

    def __init__(self, width: int, wanted: Iterable[ScanWindow]) -> None:
        self.width = width
        self.by_hash: dict[int, list[ScanWindow]] = {}
        for scan_window in wanted:
            self.by_hash.setdefault(scan_window.rolling, []).append(scan_window)
        hashes = np.array(sorted(self.by_hash), np.uint64)
        self.shift = np.uint64(64 - TABLE_BITS)
        self.table = np.zeros(1 << TABLE_BITS, np.bool_)
        self.table[hashes >> self.shift] = True
        self.powers, self.inverses = powers(BASE, 1), powers(INVERSE, 1)

    def find(self, data: NDArray[np.uint8]) -> Iterator[tuple[int, ScanWindow]]:
        """Yield where in the data windows begin that are wanted."""
        count = data.size - self.width + 1
        if count < 1:
            return
        hashes = self._hashes(data, count)
        proposed = np.flatnonzero(self.table[hashes >> self.shift])
        for at in proposed.tolist():
            for scan_window in self.by_hash.get(int(hashes[at]), ()):
                window = data[at : at + self.width]
                if hashlib.sha256(window.tobytes()).hexdigest() == scan_window.sha256:
                    yield at, scan_window

    def _hashes(self, data: NDArray[np.uint8], count: int) -> Words:
        """Return the hash of every window."""
        if self.powers.size < data.size:
            self.powers = powers(BASE, data.size)
            self.inverses = powers(INVERSE, data.size)
        sums = np.empty(data.size + 1, np.uint64)
        sums[0] = 0
        np.multiply(data, self.powers[: data.size], out=sums[1:])
        np.cumsum(sums[1:], out=sums[1:])
        hashes = sums[self.width :] - sums[:count]
        hashes *= self.inverses[:count]
        return hashes


def scan(roots: Sequence[Path], scan_windows: Sequence[ScanWindow]) -> ScanResult:
    """Look for the windows at every byte of every regular file below the roots.

    Parameters
    ----------
    roots : sequence of Path
        Folders or files. Links in them are followed, wherever they lead (walk.py); a
        file that vanishes meanwhile is passed over.
    scan_windows : sequence of ScanWindow

    Returns
    -------
    ScanResult
        Paths are real ones. What lies outside the roots and cannot be read is in
        `not_searched`.

    Raises
    ------
    FedNegError
        If a root is missing, or anything below it cannot be read: what was not read is
        not clean.
    """
    ordered = sorted(scan_windows, key=lambda f: f.width)
    finders = [_Finder(w, group) for w, group in groupby(ordered, lambda f: f.width)]
    # A set: what lies wholly in the bytes that two blocks share is found twice.
    files, total, matches, walk = 0, 0, set(), Walk(roots)
    for path in walk.files():
        try:
            size = 0
            for block, new in _blocks(path, max((f.width for f in finders), default=1)):
                start = size - (block.size - new)
                size += new
                for finder in finders:
                    for at, scan_window in finder.find(block):
                        matches.add(Match(path, scan_window.name, start + at))
        except OSError as error:
            walk.refuse(path, error)
            continue
        files, total = files + 1, total + size
    found = sorted(matches, key=_place)
    left, followed = tuple(walk.not_searched), tuple(walk.followed)
    return ScanResult(files, total, found, left, followed)


def _place(match: Match) -> tuple[Path, int, str]:
    return match.path, match.offset, match.name


def _blocks(path: Path, width: int) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """Yield blocks of a file, and how many of their bytes are new.

    The bytes before those are the last ``width - 1`` of the block before. A block is
    valid until the next.
    """
    buffer = np.empty(width - 1 + BLOCK, np.uint8)
    kept = 0
    # Neither a link nor a pipe that took the file's place since it was looked at.
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle, "rb", buffering=0) as file:
        while new := file.readinto(buffer[kept : kept + BLOCK].data):
            block = buffer[: kept + new]
            yield block, new
            kept = min(block.size, width - 1)
            buffer[:kept] = block[block.size - kept :].copy()
