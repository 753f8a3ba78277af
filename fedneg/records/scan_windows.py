"""Digests of windows of vectors, by which `scan` finds them again, and their files.

From a scan window no number comes back, but who guesses a whole window rightly can
confirm the guess. The rolling hash is that of Karp and Rabin (IBM J. Res. Dev. 31,
1987), modulo 2**64 so that numpy's integers do the reduction.

They are called fingerprints where they lie: in the folder ``fingerprints/`` of a state,
in its files, in the log and in receipts, so that those of older versions stay good.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

# Odd, so that it has an inverse modulo 2**64, and 5 modulo 8, so that its powers take
# as long as any to come round.
BASE = 0x9E3779B97F4A7C15
INVERSE = pow(BASE, -1, 1 << 64)
# A window has at least this share of distinct bytes. Of 64 bytes of trained float32
# some 45 are distinct; of a run of one number, at most 4.
DISTINCT_SHARE = 1 / 3
# A scan holds a window in memory.
MAX_WIDTH = 1 << 16
_FIELDS = ("name", "width", "rolling", "sha256")
_HEX_16, _HEX_64 = re.compile("[0-9a-f]{16}"), re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class ScanWindow:
    """Digests of one window of a vector.

    Attributes
    ----------
    name : str
        Of the vector.
    width : int
        Bytes in the window.
    rolling : int
        Sum of byte i times ``BASE**i``, modulo 2**64.
    sha256 : str
        Of the bytes, in hex.
    """

    name: str
    width: int
    rolling: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """Return what JSON holds exactly."""
        return {
            "name": self.name,
            "width": self.width,
            "rolling": f"{self.rolling:016x}",
            "sha256": self.sha256,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "ScanWindow":
        """Return what `to_json` gave; raises ValueError for anything else."""
        name, width, rolling, sha256 = map(content.get, _FIELDS)
        if (
            set(content) != set(_FIELDS)
            or not (isinstance(name, str) and type(width) is int)
            or not 0 < width <= MAX_WIDTH
            or not (isinstance(rolling, str) and _HEX_16.fullmatch(rolling))
            or not (isinstance(sha256, str) and _HEX_64.fullmatch(sha256))
        ):
            raise ValueError(f"not a scan window: {content}")
        return cls(name, width, int(rolling, 16), sha256)


def scan_windows(
    vectors: Mapping[str, NDArray[np.float32]], *, windows: int = 32, width: int = 64
) -> list[ScanWindow]:
    """Return digests of windows spread over each vector.

    Parameters
    ----------
    vectors : mapping of name to array, any shape, float32
        What only the client in question caused: where a vector equals something that
        may stay, its windows are found there.
    windows : int
        At most so many of each.
    width : int
        Bytes in each; a multiple of 4.

    Returns
    -------
    list of ScanWindow
        None of a stretch where the bytes are nearly constant: it would be found in
        innocent files. So none at all of a vector of zeros, or shorter than `width`.

    Raises
    ------
    ValueError
        If `windows` is below 1, or `width` no multiple of 4 from 16 to 65,536.
    """
    if windows < 1 or not 16 <= width <= MAX_WIDTH or width % 4:
        raise ValueError(
            "windows must be at least 1 and width a multiple of 4 from 16 to "
            f"{MAX_WIDTH}, got {windows} and {width}"
        )
    found = []
    for name, vector in vectors.items():
        data = np.ascontiguousarray(vector, dtype="<f4").reshape(-1).view(np.uint8)
        for window in _windows(data, windows, width):
            rolling = _hash(window)
            sha256 = hashlib.sha256(window.tobytes()).hexdigest()
            found.append(ScanWindow(name, width, rolling, sha256))
    return found


def dumped(client_id: int, found: Sequence[ScanWindow], *, took_part: bool) -> bytes:
    """Return the file of a client's scan windows.

    Nothing is of a client that never took part: no model contains it.
    """
    content = {
        "client": client_id,
        "request": f"forget-{client_id}",
        "took_part": took_part,
        "fingerprints": [f.to_json() for f in found],
    }
    return (json.dumps(content) + "\n").encode()


def loaded(data: bytes) -> tuple[int, list[ScanWindow], bool]:
    """Return client, scan windows, and whether the client took part.

    Raises
    ------
    ValueError
        If it is not such a file. Of older versions it does not say who took part.
    """
    try:
        content = json.loads(data)
        client_id, found = content["client"], content["fingerprints"]
        if type(client_id) is not int or content["request"] != f"forget-{client_id}":
            raise ValueError("its request is not its client's")
        made = [ScanWindow.from_json(f) for f in found]
        return client_id, made, content.get("took_part") is not False
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def _windows(
    data: NDArray[np.uint8], windows: int, width: int
) -> Iterator[NDArray[np.uint8]]:
    """Yield from each stretch of the data the first window that is telling."""
    blocks = data[: data.size // width * width].reshape(-1, width)
    for stretch in np.array_split(blocks, min(windows, max(1, len(blocks)))):
        for first in range(0, len(stretch), 256):
            ordered = np.sort(stretch[first : first + 256], axis=1)
            distinct = 1 + (np.diff(ordered, axis=1) != 0).sum(axis=1)
            telling = np.flatnonzero(distinct >= width * DISTINCT_SHARE)
            if telling.size:
                yield stretch[first + telling[0]]
                break


def powers(base: int, count: int) -> Words:
    """Return ``base**i`` modulo 2**64 for i below `count`."""
    powers = np.full(count, base, np.uint64)
    powers[0] = 1
    return np.multiply.accumulate(powers)


def _hash(window: NDArray[np.uint8]) -> int:
    """Return the hash of one window."""
    return int((window.astype(np.uint64) * powers(BASE, window.size)).sum())
