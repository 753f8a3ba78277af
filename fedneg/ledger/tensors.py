"""Named float32 arrays in one safetensors file, written without a copy in memory.

The safetensors library reads them, lazily; for writing it wants every array as bytes
at once, which a ledger of many clients is too large for.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from fedneg.core.files import naming, replacing
from fedneg.core.reading import open_regular
from fedneg.ledger.rows import release

# Bytes hashed and written at a time.
CHUNK = 1 << 24


@dataclass(frozen=True)
class Raw:
    """So many bytes, made piece by piece while they are written: an array of uint8."""

    nbytes: int
    pieces: Iterable[bytes]


Tensors = Mapping[str, NDArray[np.float32] | Raw]


def write_tensors(
    path: Path, tensors: Tensors, metadata: Mapping[str, str] | None = None
) -> str:
    """Write the arrays, flush them to the disk, rename; return the file's sha256.

    Raises OSError, and then leaves an old file as it was.
    """
    digest = hashlib.sha256()
    with replacing(path) as file:
        for part in _parts(tensors, metadata or {}):
            digest.update(part)
            file.write(part)
    return digest.hexdigest()


def _parts(
    tensors: Tensors, metadata: Mapping[str, str]
) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a safetensors file."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    for name, array in tensors.items():
        end, is_raw = start + array.nbytes, isinstance(array, Raw)
        header[name] = {
            "dtype": "U8" if is_raw else "F32",
            "shape": [array.nbytes] if isinstance(array, Raw) else list(array.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data are aligned to eight bytes
    yield len(text).to_bytes(8, "little") + text
    for array in tensors.values():
        if isinstance(array, Raw):
            yield from array.pieces
            continue
        flat = np.ascontiguousarray(array, dtype="<f4").reshape(-1).view(np.uint8)
        for first in range(0, flat.size, CHUNK):
            yield flat[first : first + CHUNK].data
            release(array)


def read_tensors(
    path: Path, into: Mapping[str, NDArray[np.float32]], *, partly: bool = False
) -> None:
    """Fill arrays with those of a file; with `partly` the file may hold others, too.

    Raises
    ------
    ValueError
        If the file has other arrays, or other shapes.
    OSError
        If it cannot be read.
    """
    try:
        with safe_open(str(path), framework="numpy") as file:
            shapes = {k: tuple(file.get_slice(k).get_shape()) for k in file.keys()}  # noqa: SIM118
            expected = {name: array.shape for name, array in into.items()}
            if partly:
                shapes = {k: shape for k, shape in shapes.items() if k in expected}
            if shapes != expected:
                raise ValueError(f"it holds arrays {shapes}, not {expected}")
            for name, array in into.items():
                if array.ndim == 1:
                    array[...] = file.get_tensor(name)
                    continue
                rows = file.get_slice(name)
                for k in range(len(array)):
                    array[k] = rows[k]
                    release(array)
    except OSError:
        raise
    except Exception as error:  # SafetensorError derives from nothing more special
        raise ValueError(str(error)) from error


def shapes_in(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a file's arrays; ValueError or OSError if it has none."""
    try:
        with safe_open(str(path), framework="numpy") as file:
            return {k: tuple(file.get_slice(k).get_shape()) for k in file.keys()}  # noqa: SIM118
    except OSError:
        raise
    except Exception as error:
        raise ValueError(str(error)) from error


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's content, in hex."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Flush a folder to the disk: without it a rename may not outlive a power cut."""
    if os.name == "nt":
        return
    with naming(folder):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
