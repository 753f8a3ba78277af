"""The data sets, each image with its label and the person who wrote it.

``mnist`` is the original MNIST, keyed by original writer: QMNIST's extended labels
(Yadav and Bottou, NeurIPS 2019, arXiv:1905.10498) name the writer of each of its 60,000
training images. ``digits`` is scikit-learn's bundled 8x8 digits, which need no network.
"""

import gzip
import hashlib
import math
import os
import struct
import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedneg.core.errors import FedNegError
from fedneg.core.machine import cache_root
from fedneg.core.reading import open_regular, read_regular
from fedneg.core.texts import check_utf8
from fedneg.data import download as files
from fedneg.data.kinds import DIGITS, MNIST, Scaling, image_kind

# First sample of each writer, and the end: scikit-learn MOOC, "Sample grouping".
DIGITS_BOUNDS = (
    *(0, 130, 256, 386, 516, 646, 776, 915),
    *(1029, 1157, 1287, 1415, 1545, 1667, 1797),
)
DIGITS_TEST_WRITER = 11  # writers 11, 12 and 13 are the test set

_cache: dict[tuple[str, Path | None], "Dataset"] = {}
_lock = threading.Lock()


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images, labels and writers; the arrays of a loaded data set are read-only.

    ``images`` is (N, height, width) with values 0..``pixel_max``, ``labels`` and
    ``writers`` are (N,). ``scaling`` makes them input.
    """

    name: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    writers: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    pixel_max: int
    scaling: Scaling

    @property
    def num_writers(self) -> int:
        """Writers of the training images."""
        return len(np.unique(self.writers))

    @cached_property
    def digest(self) -> str:
        """A sha256 of everything in it, in hex."""
        digest = hashlib.sha256()
        for array in (
            *(self.images, self.labels, self.writers),
            *(self.test_images, self.test_labels),
        ):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        digest.update(f"{self.name} {self.pixel_max} {self.scaling}".encode())
        return digest.hexdigest()


def default_root() -> Path:
    """Return the data root: $FEDNEG_DATA, else ``data`` in the cache root.

    An empty variable counts as not set.
    """
    if root := os.environ.get("FEDNEG_DATA"):
        check_utf8("FEDNEG_DATA", root)
        return Path(root).expanduser()
    return cache_root() / "data"


def load_dataset(
    name: str, *, root: Path | None = None, download: bool = True
) -> Dataset:
    """Return a data set, one copy per process and root.

    Parameters
    ----------
    name : str
        ``"mnist"`` or ``"digits"``.
    root : Path, optional
        The folder that holds ``MNIST/raw`` and ``QMNIST/raw``; `default_root` if None.
    download : bool
        Whether files that are not there may be downloaded.

    Raises
    ------
    FedNegError
        If the name is unknown, or a file that is there is damaged.
    DataUnavailableError
        If a file is not there and is not to be had.
    """
    image_kind(name)
    place = None
    if name == "mnist":
        place = (default_root() if root is None else root).expanduser().resolve()
    with _lock:
        if (name, place) not in _cache:
            _cache[name, place] = (
                _load_digits() if place is None else _load_mnist(place, download)
            )
        return _cache[name, place]


def resolve_auto(
    *, root: Path | None = None, download: bool = True
) -> tuple[str, str | None]:
    """Return the best data set that can be had, and a notice if it is not MNIST.

    Raises
    ------
    FedNegError
        If a file of MNIST is there but damaged: that is for the user to repair.
    """
    try:
        load_dataset("mnist", root=root, download=download)
    except files.DataUnavailableError as error:
        return "digits", (
            f"MNIST could not be had: {error.reason}. The embedded 8x8 digits are used "
            "instead; set FEDNEG_DATA to a folder with torchvision's MNIST and QMNIST "
            "to use MNIST."
        )
    return "mnist", None


def _load_mnist(root: Path, download: bool) -> Dataset:
    """Read MNIST and its writers, after downloading what is not there."""
    # What is there is checked first: no download, and no fallback, hides damage.
    arrays = {f: _read(f, root) for f in files.FILES if f.find(root)}
    missing = [f for f in files.FILES if f not in arrays]
    if missing and not download:
        names = ", ".join(f.name for f in missing)
        raise files.DataUnavailableError(
            f"{names} not under {root} and data.download=false forbids the download"
        )
    for file in missing:
        files.fetch(file, root)
        arrays[file] = _read(file, root)
    images, labels, test_images, test_labels, extended = (
        arrays[f] for f in files.FILES
    )
    # Columns of QMNIST's labels: 0 is the class, 2 the writer.
    unequal = int(np.count_nonzero(extended[:, 0] != labels))
    if unequal or test_labels.max() > 9:
        raise FedNegError(
            f"labels under {root} are damaged: {unequal} of {len(labels)} classes in "
            "QMNIST differ from MNIST's and all must be equal, and the greatest test "
            f"label is {test_labels.max()} and must be at most 9; delete the label "
            "files to have them downloaded again"
        )
    return Dataset(
        name="mnist",
        images=images,
        labels=_frozen(labels, np.int64),
        writers=_frozen(extended[:, 2], np.int64),
        test_images=test_images,
        test_labels=_frozen(test_labels, np.int64),
        pixel_max=MNIST.pixel_max,
        scaling=MNIST.scaling,
    )


def _read(file: files.IdxFile, root: Path) -> NDArray[Any]:
    """Return the array of a file that is there, after checking it."""
    path = file.find(root)
    assert path is not None
    try:
        if path.suffix == ".gz":
            return _parse(file, _unzip(file, read_regular(path)))
        return _map(file, path)
    except OSError as error:
        raise FedNegError(f"{path} cannot be read: {error.strerror}") from error
    except _DamageError as error:
        raise FedNegError(
            f"{path} is damaged: {error}; delete it to have it downloaded again"
        ) from error


class _DamageError(Exception):
    """What is wrong with the bytes of a file."""


def _unzip(file: files.IdxFile, content: bytes) -> bytes:
    """Return what a ``.gz`` file holds if its md5 is the known one."""
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != file.md5:
        raise _DamageError(f"its md5 is {found}, not {file.md5}")
    return gzip.decompress(content)


def _header(file: files.IdxFile) -> bytes:
    """Return how an idx file of this type and shape begins.

    Two zeros, type (8 ubyte, 12 int), number of dimensions, then each as an int32.
    """
    code, ndim = 8 if np.dtype(file.dtype).itemsize == 1 else 12, len(file.shape)
    return struct.pack(f">4B{ndim}i", 0, 0, code, ndim, *file.shape)


def _check(file: files.IdxFile, start: bytes, size: int) -> int:
    """Return where the numbers begin; raises _DamageError for a wrong start or size."""
    header = _header(file)
    if start != header:
        raise _DamageError(
            f"it starts with {start.hex() or 'nothing'}, not with {header.hex()}, the "
            f"header of shape {file.shape}"
        )
    right = len(header) + math.prod(file.shape) * np.dtype(file.dtype).itemsize
    if size != right:
        raise _DamageError(f"it has {size} bytes, not {right}")
    return len(header)


def _parse(file: files.IdxFile, content: bytes) -> NDArray[Any]:
    """Return the read-only array in the bytes of an idx file."""
    offset = _check(file, content[: len(_header(file))], len(content))
    return np.frombuffer(content, file.dtype, offset=offset).reshape(file.shape)


def _map(file: files.IdxFile, path: Path) -> NDArray[Any]:
    """Return the read-only array of an idx file that all processes share.

    A memory map: however many workers read it, the machine holds it once.
    """
    with open_regular(path) as stream:
        start = stream.read(len(_header(file)))
        offset = _check(file, start, os.fstat(stream.fileno()).st_size)
        mapped = np.memmap(stream, file.dtype, "r", offset, file.shape)
    return mapped.view(np.ndarray)


def _load_digits() -> Dataset:
    """Read scikit-learn's digits and number their writers."""
    from sklearn.datasets import load_digits  # takes a second: only who needs it pays

    digits = load_digits()
    sizes = np.diff(DIGITS_BOUNDS)
    writers = np.repeat(np.arange(len(sizes)), sizes)
    train = writers < DIGITS_TEST_WRITER
    return Dataset(
        name="digits",
        images=_frozen(digits.images[train], np.uint8),
        labels=_frozen(digits.target[train], np.int64),
        writers=_frozen(writers[train], np.int64),
        test_images=_frozen(digits.images[~train], np.uint8),
        test_labels=_frozen(digits.target[~train], np.int64),
        pixel_max=DIGITS.pixel_max,
        scaling=DIGITS.scaling,
    )


def _frozen(values: NDArray[Any], dtype: type[np.generic]) -> NDArray[Any]:
    """Return a read-only copy of another type."""
    array = values.astype(dtype)
    array.setflags(write=False)
    return array
