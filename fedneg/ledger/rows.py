"""K rows of d numbers that may be larger than memory.

A row store is an ordinary float32 array: in memory, or a memory map of a file without a
name, which the system takes back however the process ends. `release` gives a map's
pages back to the system, so that resident memory does not grow with what was touched.
"""

import errno
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedneg.core.errors import FedNegError
from fedneg.core.files import make_folder
from fedneg.core.parameters import Vector

Rows = NDArray[np.float32]


def make_rows(count: int, size: int, folder: Path | None = None) -> Rows:
    """Return zeros of shape (count, size), float32.

    Parameters
    ----------
    folder : Path, optional
        Put them into a nameless file on this folder's disk.

    Raises
    ------
    FedNegError
        If the disk cannot hold them: a map of a file that finds the disk full later
        would end the process.
    """
    if folder is None or count * size == 0:
        # NumPy asks for huge pages for `empty`, not for `zeros`: a tenth of the time.
        rows = np.empty((count, size), dtype=np.float32)
        rows.fill(0)
        return rows
    num_bytes = count * size * 4
    try:
        make_folder(folder)
        # Reserving more than there is would fill the disk before it fails.
        if shutil.disk_usage(folder).free < num_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, num_bytes)
            return np.memmap(file, dtype=np.float32, mode="r+", shape=(count, size))
    except OSError as error:
        raise FedNegError(
            f"{folder} cannot hold {count} rows of {size} numbers, {num_bytes} bytes: "
            f"{error.strerror}"
        ) from None


def grown(rows: Rows, more: int, folder: Path | None = None) -> Rows:
    """Return rows with so many of zeros after them; for a while both are there."""
    found = make_rows(len(rows) + more, rows.shape[1], folder)
    for old, new in zip(rows, found, strict=False):
        new[...] = old
        release(rows)  # not all of both at once, if they are maps
        release(found)
    return found


def release(rows: Rows) -> None:
    """Let the system have the pages of a memory map; the numbers stay as they are."""
    mapped = getattr(rows, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


class Vectors(MutableMapping[int, Vector]):
    """One vector for each of some client ids, all in one row store.

    Setting copies the vector in. What comes out is a view: read it before the client's
    vector is set again.
    """

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._place: dict[int, int] = {}
        self._free = list(range(len(rows)))[::-1]

    def __setitem__(self, client_id: int, vector: Vector) -> None:
        if client_id not in self._place:
            self._place[client_id] = self._free.pop()
        self._rows[self._place[client_id]] = vector

    def __getitem__(self, client_id: int) -> Vector:
        row: Vector = self._rows[self._place[client_id]]
        return row

    def __delitem__(self, client_id: int) -> None:
        place = self._place.pop(client_id)
        # What is deleted must not be found in memory or on the disk.
        self._rows[place] = 0
        self._free.append(place)

    def grow(self, more: int, folder: Path | None = None) -> None:
        """Have room for so many more; in a file in `folder`, if there is one."""
        first = len(self._rows)
        self._rows = grown(self._rows, more, folder)
        self._free = [*range(first, first + more)][::-1] + self._free

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._place))

    def __len__(self) -> int:
        return len(self._place)

    def release(self) -> None:
        """Let the system have the pages of a memory map."""
        release(self._rows)

    @property
    def rows(self) -> Rows:
        """The row store itself; `places` says whose row is whose."""
        return self._rows

    @property
    def places(self) -> dict[int, int]:
        """The row of each client id."""
        return dict(self._place)

    def restore(self, places: Mapping[int, int]) -> None:
        """Say whose rows they are, after `rows` were filled from elsewhere."""
        self._place = dict(places)
        taken = set(self._place.values())
        self._free = [k for k in range(len(self._rows)) if k not in taken][::-1]


class KeptUpdates:
    """The updates of every n-th round, whole: what some methods cannot do without.

    Parameters
    ----------
    every : int
        Keep the first round of every so many; 0: keep nothing.
    rows : Rows, shape (kept rounds * K, d)
        Where; rounds for which there is no room are not kept.
    """

    def __init__(self, every: int = 0, rows: Rows | None = None) -> None:
        self.every = every
        self.rows = make_rows(0, 0) if rows is None else rows

    def row(self, place: int, client_id: int, clients: int) -> Vector | None:
        """Return where the update of a client in the ledger's round `place` is kept."""
        if not self.every or place % self.every:
            return None
        number = place // self.every * clients + client_id
        row: Vector | None = self.rows[number] if number < len(self.rows) else None
        return row

    def forget(self, client_ids: Iterable[int], clients: int) -> None:
        """Zero what is kept of clients."""
        for client_id in client_ids:
            self.rows[client_id::clients] = 0
