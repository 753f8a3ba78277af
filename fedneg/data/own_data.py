"""Images that a client keeps on its own machine: a ``.npz`` file, or image files.

What is read is checked whole, before anything is trained on it.
"""

import os
import stat
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fedneg.core.errors import FedNegError
from fedneg.core.reading import kind_of, open_regular
from fedneg.core.texts import check_utf8
from fedneg.data.image_folder import list_images, read_images, suffix_of, visible
from fedneg.data.kinds import ImageKind

MIN_IMAGES = 3
# Path, size in bytes and time of change of each file: another one is another key.
FileStamps = tuple[tuple[str, int, int], ...]
Indices = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class OwnImages:
    """Checked, read-only: images (N, height, width), labels (N,), how many writers."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    num_writers: int


def read_own_images(place: str, kind: ImageKind) -> OwnImages:
    """Return a client's own images; read once per process as long as they are the same.

    Parameters
    ----------
    place : str
        Absolute path of a ``.npz`` file with ``images`` (N, height, width) uint8,
        ``labels`` (N,) whole numbers and, if known, ``writers`` (N,) whole numbers; or
        of a folder that holds one such file, or image files as
        ``<class>/<name>.png``. Without ``writers`` all are one writer's.
    kind : ImageKind
        What the images must look like.

    Raises
    ------
    FedNegError
        In one line what is wrong: file, value and rule.
    """
    check_utf8("data", place)
    path = Path(place)
    if not path.is_absolute():
        raise FedNegError(
            "data must be an absolute path, because Flower chooses the folder in which "
            f"a client app runs, got {place!r}"
        )
    try:
        files = _files(path, kind)
        stamps = tuple(
            (name, info.st_size, info.st_mtime_ns)
            for name, _ in files
            for info in [os.stat(name)]
        )
    except (OSError, ValueError) as error:  # ValueError: no system takes this path
        raise FedNegError(
            f"{getattr(error, 'filename', None) or ascii(place)} cannot be read: "
            f"{getattr(error, 'strerror', None) or error}"
        ) from error
    return _read(stamps, tuple(label for _, label in files), kind, str(path))


def _files(path: Path, kind: ImageKind) -> list[tuple[str, int]]:
    """Return the files to read, each with its label; one .npz file has none: -1."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        entries = visible(path)
        archives = [e for e in entries if suffix_of(e) == ".npz"]
        if not archives:
            return list_images(path, kind)
        if len(archives) > 1 or any(e.is_dir() for e in entries):
            raise FedNegError(
                f"{path} must hold one .npz file or class folders, got "
                f"{', '.join(e.name for e in entries[:12])}"
            )
        path, mode = Path(archives[0].path), archives[0].stat().st_mode
    if not stat.S_ISREG(mode):
        raise FedNegError(
            f"{path} must be a .npz file or a folder, got {kind_of(mode)}"
        )
    if path.suffix.lower() != ".npz":
        raise FedNegError(f"{path} must be a .npz file or a folder")
    return [(str(path), -1)]


# In a federation each process has one; several are for simulations and tests.
@lru_cache(maxsize=8)
def _read(
    stamps: FileStamps, labels: tuple[int, ...], kind: ImageKind, place: str
) -> OwnImages:
    """Read the files and check what is in them."""
    paths = [name for name, _, _ in stamps]
    if labels == (-1,):
        return _checked(_read_archive(Path(paths[0])), kind, paths[0])
    images = read_images(paths, kind)
    # Here and not in `_checked`, because here the file has a name.
    for image, path in zip(images, paths, strict=True):
        _check_pixels(image, kind, path)
    return _checked({"images": images, "labels": np.array(labels)}, kind, place)


def _read_archive(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of a .npz file; nothing in it is unpickled."""
    try:
        # Opened here: NumPy leaves it open when the archive in it is damaged.
        with open_regular(path) as stream:
            if not zipfile.is_zipfile(stream):
                raise FedNegError(
                    f"{path} is damaged: it is no .npz file (a zip archive)"
                )
            stream.seek(0)
            with _opened(stream, path) as archive:
                names = [n for n in ("images", "labels", "writers") if n in archive]
                return {name: _member(archive, name, path) for name in names}
    except OSError as error:
        raise FedNegError(f"{path} cannot be read: {error.strerror}") from error


def _opened(stream: BinaryIO, path: Path) -> Any:
    """Return NumPy's view of a .npz file; its arrays are not read yet."""
    try:
        return np.load(stream, allow_pickle=False)
    except Exception as error:  # as in `_member`
        raise FedNegError(f"{path} is damaged: {error}") from error


def _member(archive: Any, name: str, path: Path) -> NDArray[Any]:
    try:
        found = archive[name]
    except Exception as error:
        # NumPy's and zipfile's readers raise much on damaged bytes: BadZipFile,
        # EOFError, MemoryError, zlib.error ...
        if "allow_pickle" in str(error):
            error = TypeError("its type must be a number, got object")
        raise FedNegError(f"{path}: {name} cannot be read: {error}") from error
    if not isinstance(found, np.ndarray):
        raise FedNegError(f"{path}: {name} must be an array as numpy.savez writes it")
    return found


def _checked(found: dict[str, NDArray[Any]], kind: ImageKind, place: str) -> OwnImages:
    """Return the arrays as a client's images, or raise the first thing wrong."""
    for name in ("images", "labels"):
        if name not in found:
            raise FedNegError(f"{place} must hold images and labels, got no {name}")
    images, labels = found["images"], found["labels"]
    height, width = kind.shape
    if images.dtype != np.uint8:
        raise FedNegError(f"{place}: images must be uint8, got {images.dtype}")
    if images.ndim != 3 or images.shape[1:] != kind.shape:
        raise FedNegError(
            f"{place}: images must have the shape (N, {height}, {width}) of "
            f"{kind.name}, got {images.shape}"
        )
    if len(images) < MIN_IMAGES:
        raise FedNegError(
            f"{place} must hold at least {MIN_IMAGES} images, one each to train, "
            f"validate and test, got {len(images)}"
        )
    _check_pixels(images, kind, f"{place}: images")
    _check_varied(images, place)
    for name in ("labels", "writers"):
        if name in found:
            _check_whole(found[name], name, len(images), place)
    wrong = np.flatnonzero((labels < 0) | (labels >= kind.num_classes))
    if len(wrong):
        raise FedNegError(
            f"{place}: labels must be 0 to {kind.num_classes - 1}, got "
            f"{labels[wrong[0]]} at index {wrong[0]}"
        )
    images, labels = np.ascontiguousarray(images), labels.astype(np.int64)
    images.setflags(write=False)
    labels.setflags(write=False)
    return OwnImages(images, labels, len(np.unique(found.get("writers", 0))))


def _check_pixels(images: NDArray[np.uint8], kind: ImageKind, place: str) -> None:
    """Raise if a pixel is brighter than the kind's brightest."""
    # 255 is all that a byte can hold.
    if kind.pixel_max < 255 and (top := int(images.max())) > kind.pixel_max:
        raise FedNegError(
            f"{place} must have pixels of at most {kind.pixel_max} ({kind.name}), got "
            f"{top}"
        )


def constant_images(images: NDArray[np.uint8]) -> Indices:
    """Return the indices of images in which all pixels are the same."""
    flat = images.reshape(len(images), -1)
    return np.flatnonzero(flat.max(axis=1) == flat.min(axis=1))


def _check_varied(images: NDArray[np.uint8], place: str) -> None:
    """Raise if there is nothing to be learned from: blank, or all the same."""
    if len(constant_images(images)) == len(images):
        raise FedNegError(
            f"{place}: images must show something, got {len(images)} whose pixels are "
            "all the same (blank)"
        )
    if (images == images[0]).all():
        raise FedNegError(
            f"{place}: images must differ, got {len(images)} times the same"
        )


def _check_whole(values: NDArray[Any], name: str, count: int, place: str) -> None:
    """Raise unless these are so many whole numbers."""
    if values.dtype.kind not in "iu":
        raise FedNegError(
            f"{place}: {name} must be whole numbers (an integer type), got "
            f"{values.dtype}"
        )
    if values.shape != (count,):
        raise FedNegError(
            f"{place}: {name} must be one for each of the {count} images, got shape "
            f"{values.shape}"
        )
