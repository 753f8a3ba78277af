"""The files of MNIST and QMNIST: where they lie and how a missing one is had.

Layout, mirrors and checksums are torchvision's. A download is checked before anything
touches the disk, then written to a temporary name, flushed and renamed, so that no
process ever sees half a file.
"""

import gzip
import hashlib
import http.client
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TransferSpeedColumn,
)

from fedneg.core.errors import FedNegError
from fedneg.core.files import write_bytes
from fedneg.data import vision

TIMEOUT_S = 20.0  # to connect, and for each read
DEADLINE_S = 900.0  # for one file: ends a mirror that sends a byte now and then


class DataUnavailableError(FedNegError):
    """MNIST is not there and cannot be had; `reason` says why, without advice."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"{reason}; set FEDNEG_DATA to a folder with torchvision's MNIST and "
            "QMNIST, or use data=digits"
        )
        self.reason = reason


@dataclass(frozen=True)
class IdxFile:
    """One file of torchvision's layout, ``<root>/<folder>/raw/<name>[.gz]``."""

    folder: str
    name: str
    shape: tuple[int, ...]
    dtype: str  # "u1" or ">i4": idx files are big endian
    md5: str  # of the .gz file

    def gz_path(self, root: Path) -> Path:
        """Return where the compressed file lies, or will lie, under ``root``."""
        return root / self.folder / "raw" / f"{self.name}.gz"

    def find(self, root: Path) -> Path | None:
        """Return the file under ``root``, uncompressed if it is there in both forms."""
        packed = self.gz_path(root)
        plain = packed.with_suffix("")
        for path in (plain, packed):
            try:
                path.stat()
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:  # e.g. a folder that this user may not enter
                raise FedNegError(f"{path} cannot be read: {error.strerror}") from error
            return path
        return None


# The checksums repeat torchvision's (a test compares them), so that a process that
# finds its files need not import torchvision, which takes seconds.
FILES = (
    IdxFile(
        *("MNIST", "train-images-idx3-ubyte", (60_000, 28, 28), "u1"),
        md5="f68b3c2dcbeaaa9fbdd348bbdeb94873",
    ),
    IdxFile(
        *("MNIST", "train-labels-idx1-ubyte", (60_000,), "u1"),
        md5="d53e105ee54ea40749a09fcbcd1e9432",
    ),
    IdxFile(
        *("MNIST", "t10k-images-idx3-ubyte", (10_000, 28, 28), "u1"),
        md5="9fb629c4189551a2d022fa330f9573f3",
    ),
    IdxFile(
        *("MNIST", "t10k-labels-idx1-ubyte", (10_000,), "u1"),
        md5="ec29112dd5afa0611ce80d1b7f02629c",
    ),
    IdxFile(
        *("QMNIST", "qmnist-train-labels-idx2-int", (60_000, 8), ">i4"),
        md5="0058f8dd561b90ffdd0f734c6a30e5e4",
    ),
)


def sources(file: IdxFile) -> tuple[list[str], str]:
    """Return the URLs of a file's ``.gz``, in torchvision's order, and its md5."""
    try:
        known = vision.datasets()
    except ImportError as error:
        raise DataUnavailableError(f"{file.name} cannot be had: {error}") from error
    name = f"{file.name}.gz"
    if file.folder == "MNIST":
        md5 = dict(known.MNIST.resources)[name]
        return [f"{m.rstrip('/')}/{name}" for m in known.MNIST.mirrors], md5
    by_name = {
        url.rsplit("/", 1)[-1]: (url, m) for url, m in known.QMNIST.resources["train"]
    }
    url, md5 = by_name[name]
    return [url], md5


def current_md5(file: IdxFile) -> str | None:
    """Return the md5 in torchvision's own table, None if torchvision does not load."""
    try:
        return sources(file)[1]
    except DataUnavailableError:
        return None


def fetch(file: IdxFile, root: Path) -> Path:
    """Download one ``.gz`` file, trying each mirror in turn, and return its path.

    It is unpacked beside, as torchvision does: every process maps the same file then.

    Raises
    ------
    DataUnavailableError
        If no mirror gave the right bytes in time, or they cannot be written.
    """
    urls, md5 = sources(file)
    failures = []
    for url in urls:
        try:
            content = _get(url)
        except (OSError, http.client.HTTPException) as error:
            failures.append(f"{url}: {getattr(error, 'reason', error)}")
            continue
        found = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if found == md5:
            packed = _write(file.gz_path(root), content)
            _write(packed.with_suffix(""), gzip.decompress(content))
            return packed
        failures.append(f"{url}: {len(content)} bytes with md5 {found}, not {md5}")
    raise DataUnavailableError(
        f"{file.name}.gz is not under {root} and could not be downloaded "
        f"({'; '.join(failures)})"
    )


def _get(url: str) -> bytes:
    """Return what a URL holds, with a progress bar where a person can see one."""
    start = time.monotonic()
    visible = sys.stderr.isatty()
    if not visible:
        print(f"downloading {url}", file=sys.stderr)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    request = urllib.request.Request(url, headers={"User-Agent": "fedneg"})
    with (
        urllib.request.urlopen(request, timeout=TIMEOUT_S) as response,
        Progress(*columns, console=Console(stderr=True), disable=not visible) as bar,
    ):
        task = bar.add_task(url.rsplit("/", 1)[-1], total=response.length)
        parts: list[bytes] = []
        # read1 returns what has come; read would wait for the whole block.
        while part := response.read1(1 << 16):
            if time.monotonic() - start > DEADLINE_S:
                raise TimeoutError(f"not complete after {DEADLINE_S:g} s")
            parts.append(part)
            bar.advance(task, len(part))
    return b"".join(parts)


def _write(path: Path, content: bytes) -> Path:
    """Write a download; raises DataUnavailableError if the disk will not take it."""
    try:
        return write_bytes(path, content, shared=True)
    except OSError as error:
        raise DataUnavailableError(
            f"{path} was downloaded but cannot be written ({error.strerror})"
        ) from error
