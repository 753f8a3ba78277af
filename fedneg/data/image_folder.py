"""A folder that holds one folder of image files for each class: ``<label>/*.png``."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedneg.core.errors import FedNegError
from fedneg.core.reading import kind_of, open_regular
from fedneg.data.kinds import ImageKind

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
# What file managers leave behind, beside names that begin with a dot.
LITTER = ("desktop.ini", "Thumbs.db")


def visible(folder: Path | str) -> list[os.DirEntry[str]]:
    """Return what lies in a folder, by name, without hidden files; raises OSError."""
    # Not Path.iterdir: with ten thousand images, paths cost half of reading them.
    with os.scandir(folder) as entries:
        found = [e for e in entries if e.name[0] != "." and e.name not in LITTER]
    return sorted(found, key=lambda entry: entry.name)


def suffix_of(entry: os.DirEntry[str]) -> str:
    """Return how a name ends, in small letters: ``.png``."""
    return os.path.splitext(entry.name)[1].lower()


def list_images(folder: Path, kind: ImageKind) -> list[tuple[str, int]]:
    """Return the image files of a folder of class folders, each with its label.

    Returns
    -------
    list of (path, label)
        By label, then by file name: the same on every machine.

    Raises
    ------
    FedNegError
        If a folder's name is no class, a file is no image or lies where it would not
        be read, or there is no image. What is left out unsaid would be missed.
    OSError
        If a folder cannot be read.
    """
    labels = [str(label) for label in range(kind.num_classes)]
    found = []
    for entry in visible(folder):
        if entry.is_dir():
            if entry.name not in labels:
                raise FedNegError(
                    f"{entry.path}: a class folder must be named {labels[0]} to "
                    f"{labels[-1]}, got {entry.name!r}"
                )
            found += [(path, int(entry.name)) for path in _images_in(entry.path)]
        elif suffix_of(entry) in SUFFIXES:
            raise FedNegError(
                f"{entry.path} lies beside the class folders; an image must lie in the "
                "folder named after its class"
            )
    if not found:
        raise FedNegError(
            f"{folder} must hold one .npz file, or images as <class>/<name>.png, got "
            "neither"
        )
    return found


def _images_in(folder: str) -> list[str]:
    """Return the files of a class folder; all must be images."""
    entries = visible(folder)
    for entry in entries:
        if suffix_of(entry) not in SUFFIXES or entry.is_dir():
            raise FedNegError(
                f"{entry.path}: a class folder must hold only image files "
                f"({', '.join(SUFFIXES)})"
            )
        mode = 0 if entry.is_file() else entry.stat().st_mode
        if mode:  # a pipe would be waited for; a link stands for what it names
            raise FedNegError(
                f"{entry.path}: a class folder must hold only image files, got "
                f"{kind_of(mode)}"
            )
    return [entry.path for entry in entries]


def read_images(paths: Sequence[str], kind: ImageKind) -> NDArray[np.uint8]:
    """Return image files as grey values, shape (N, height, width).

    Raises
    ------
    FedNegError
        If a file is unreadable, damaged, of another size, deeper than 8 bits, partly
        transparent, or of several pictures.
    """
    images = np.empty((len(paths), *kind.shape), dtype=np.uint8)
    # A damaged file may warn, too, before it is refused.
    with warnings.catch_warnings(action="ignore"):
        for image, path in zip(images, paths, strict=True):
            image[...] = _read_image(path, kind)
    return images


def _read_image(path: str, kind: ImageKind) -> NDArray[Any]:
    """Return one file's grey values, checked."""
    from PIL import Image  # only who has image files pays for it

    try:
        with (
            open_regular(path) as stream,
            Image.open(stream, formats=FORMATS) as picture,
        ):
            _check_form(picture, path, kind)
            _check_opaque(picture, path)
            return np.asarray(picture.convert("L"))
    except FedNegError:
        raise
    except Exception as error:
        # Pillow raises SyntaxError, struct.error and more on damaged bytes.
        raise FedNegError(f"{path} cannot be read as an image: {error}") from error


def _check_form(picture: Any, path: str, kind: ImageKind) -> None:
    """Raise what is wrong before any pixel is decoded."""
    (height, width), size = kind.shape, picture.size
    if size != (width, height):
        raise FedNegError(
            f"{path}: an image of {kind.name} must be {width}x{height} pixels, got "
            f"{size[0]}x{size[1]}"
        )
    # Pillow would cut deeper pixels off at 255 instead of scaling them.
    if picture.mode[:1] in ("I", "F"):
        raise FedNegError(
            f"{path}: an image must have 8 bits a pixel and channel, got more "
            f"(mode {picture.mode})"
        )
    if (frames := getattr(picture, "n_frames", 1)) != 1:
        raise FedNegError(f"{path}: a file must be one image, got {frames} frames")


def _check_opaque(picture: Any, path: str) -> None:
    """Refuse transparency: what is behind it would have to be made up."""
    if picture.has_transparency_data:
        lowest, _ = picture.convert("RGBA").getextrema()[3]
        if lowest < 255:
            raise FedNegError(
                f"{path}: an image must be opaque, got transparent pixels"
            )
