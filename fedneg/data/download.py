"""The files of MNIST and QMNIST: where they lie and how a missing one is had.

Layout, addresses and checksums are torchvision's, which a test compares and nothing
imports: it takes seconds. pooch downloads and checks a file in a folder of its own;
only then is it written to a temporary name beside its place, flushed and renamed, so
that no process ever sees half a file.
"""

import gzip
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

TIMEOUT_S = 20.0  # to connect, and for each read
DEADLINE_S = 900.0  # for one file: ends a mirror that sends a byte now and then
# Bytes after which the deadline is looked at: few, for a mirror may send one by one.
CHUNK = 256


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
    mirrors: tuple[str, ...]  # where the .gz file lies, tried in this order

    @property
    def urls(self) -> list[str]:
        """The addresses of the compressed file."""
        return [f"{mirror}/{self.name}.gz" for mirror in self.mirrors]

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


MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist",
    "http://yann.lecun.com/exdb/mnist",
)
QMNIST_MIRRORS = ("https://raw.githubusercontent.com/facebookresearch/qmnist/master",)
FILES = (
    IdxFile(
        *("MNIST", "train-images-idx3-ubyte", (60_000, 28, 28), "u1"),
        md5="f68b3c2dcbeaaa9fbdd348bbdeb94873",
        mirrors=MNIST_MIRRORS,
    ),
    IdxFile(
        *("MNIST", "train-labels-idx1-ubyte", (60_000,), "u1"),
        md5="d53e105ee54ea40749a09fcbcd1e9432",
        mirrors=MNIST_MIRRORS,
    ),
    IdxFile(
        *("MNIST", "t10k-images-idx3-ubyte", (10_000, 28, 28), "u1"),
        md5="9fb629c4189551a2d022fa330f9573f3",
        mirrors=MNIST_MIRRORS,
    ),
    IdxFile(
        *("MNIST", "t10k-labels-idx1-ubyte", (10_000,), "u1"),
        md5="ec29112dd5afa0611ce80d1b7f02629c",
        mirrors=MNIST_MIRRORS,
    ),
    IdxFile(
        *("QMNIST", "qmnist-train-labels-idx2-int", (60_000, 8), ">i4"),
        md5="0058f8dd561b90ffdd0f734c6a30e5e4",
        mirrors=QMNIST_MIRRORS,
    ),
)


def fetch(file: IdxFile, root: Path) -> Path:
    """Download one ``.gz`` file, trying each mirror in turn, and return its path.

    It is unpacked beside, as torchvision does: every process maps the same file then.

    Raises
    ------
    DataUnavailableError
        If no mirror gave the right bytes in time, or they cannot be written.
    """
    failures = []
    for url in file.urls:
        try:
            content = _get(url, file.md5)
        except (OSError, ValueError) as error:  # ValueError: another checksum
            failures.append(f"{url}: {_reason(error)}")
            continue
        packed = _write(file.gz_path(root), content)
        _write(packed.with_suffix(""), gzip.decompress(content))
        return packed
    raise DataUnavailableError(
        f"{file.name}.gz is not under {root} and could not be downloaded "
        f"({'; '.join(failures)})"
    )


class _Bar:
    """What pooch tells of a download: a bar where a person can see one, a deadline."""

    def __init__(self, name: str, *, visible: bool) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
        )
        self._shown = Progress(
            *columns, console=Console(stderr=True), disable=not visible
        )
        self._task = self._shown.add_task(name, total=None)
        self._start = time.monotonic()
        self.total = 0  # pooch sets it, in bytes, before the first update

    def __enter__(self) -> "_Bar":
        self._shown.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._shown.stop()

    def update(self, size: int) -> None:
        """Show so many bytes more; raises TimeoutError after the deadline."""
        if time.monotonic() - self._start > DEADLINE_S:
            raise TimeoutError(f"not complete after {DEADLINE_S:g} s")
        self._shown.update(self._task, advance=size, total=self.total or None)

    def reset(self) -> None:
        """Begin anew, as pooch does before it fills the bar at the end."""
        self._shown.reset(self._task)

    def close(self) -> None:
        """Leave the bar as it is; the block that opened it ends it."""


def _get(url: str, md5: str) -> bytes:
    """Return what a URL holds, if its md5 is this one; OSError or ValueError if not."""
    import pooch  # brings `requests`: only who downloads pays

    pooch.get_logger().setLevel("WARNING")  # the line below says it
    visible = sys.stderr.isatty()
    if not visible:
        print(f"downloading {url}", file=sys.stderr)
    name = url.rsplit("/", 1)[-1]
    with tempfile.TemporaryDirectory() as folder, _Bar(name, visible=visible) as bar:
        downloader = pooch.HTTPDownloader(
            progressbar=bar,
            chunk_size=CHUNK,
            timeout=TIMEOUT_S,
            # The bytes as they lie there: what is compressed must stay so.
            headers={"User-Agent": "fedneg", "Accept-Encoding": "identity"},
        )
        path = pooch.retrieve(
            url, f"md5:{md5}", fname=name, path=folder, downloader=downloader
        )
        return Path(path).read_bytes()


def _reason(error: BaseException) -> str:
    """Return why a download failed, in a few words; `requests` wraps the reason."""
    answer: Any = getattr(error, "response", None)
    if answer is not None:
        return str(answer.reason)
    while inner := error.__cause__ or error.__context__:
        error = inner
    # pooch goes on to say what it did with the bytes.
    return str(error).partition(" Deleted download")[0]


def _write(path: Path, content: bytes) -> Path:
    """Write a download; raises DataUnavailableError if the disk will not take it."""
    try:
        return write_bytes(path, content, shared=True)
    except OSError as error:
        raise DataUnavailableError(
            f"{path} was downloaded but cannot be written ({error.strerror})"
        ) from error
