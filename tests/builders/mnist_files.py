"""A made-up MNIST of a few images, in the files of the real one."""

import gzip
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from fedneg.data import download

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
EXTENDED = "qmnist-train-labels-idx2-int"


def idx(array: np.ndarray) -> bytes:
    """Return an idx file written the slow way."""
    kind = {1: 8, 4: 12}[array.dtype.itemsize]
    head = bytes([0, 0, kind, array.ndim])
    return head + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


@dataclass
class SmallMnist:
    """MNIST of six 2x3 images and two test images, packed, and where it may lie."""

    root: Path
    packed: dict[str, bytes]

    @classmethod
    def made(cls, folder: Path, monkeypatch: pytest.MonkeyPatch) -> "SmallMnist":
        """Return it for a folder, with a table of files that says what it holds."""
        labels = np.array([5, 0, 4, 1, 9, 2], np.uint8)
        extended = np.zeros((6, 8), ">i4")
        extended[:, 0] = labels
        extended[:, 2] = [7, 7, 300, 0, 0, 300]
        arrays = {
            IMAGES: np.arange(36, dtype=np.uint8).reshape(6, 2, 3),
            LABELS: labels,
            TEST_IMAGES: np.arange(12, dtype=np.uint8).reshape(2, 2, 3),
            TEST_LABELS: np.array([8, 3], np.uint8),
            EXTENDED: extended,
        }
        packed = {n: gzip.compress(idx(a), mtime=0) for n, a in arrays.items()}
        table = tuple(
            replace(f, shape=arrays[f.name].shape, md5=md5_of(packed[f.name]))
            for f in download.FILES
        )
        monkeypatch.setattr(download, "FILES", table)
        return cls(folder / "root", packed)

    def path(self, name: str, suffix: str = "") -> Path:
        """Return where a file lies."""
        folder = "QMNIST" if name == EXTENDED else "MNIST"
        return self.root / folder / "raw" / f"{name}{suffix}"

    def put(self, name: str, content: bytes, suffix: str = "") -> Path:
        """Write a file and return where."""
        path = self.path(name, suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def put_all(self, *, packed: bool = False) -> None:
        """Write all five files, plain or packed."""
        for name, content in self.packed.items():
            if packed:
                self.put(name, content, ".gz")
            else:
                self.put(name, gzip.decompress(content))


def md5_of(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
