"""Arrays of records as one vector that is read block by block: none is copied whole.

A round's replies are K models; updates beside them would be as many again.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from io import BytesIO
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
from flwr.app import Array
from numpy.typing import NDArray

from fedneg.core.parameters import Vector
from fedneg.ledger.ledger import BLOCK


class Blocks(Protocol):
    """A vector, or what is read as one: a slice of it at a time."""

    @property
    def size(self) -> int:
        """How many numbers it has."""

    def __getitem__(self, block: slice, /) -> NDArray[Any]:
        """Return some of them."""


def view_of(array: Array) -> NDArray[Any]:
    """Return an array of a record; a read-only view of its bytes where it can be."""
    try:
        header = BytesIO(array.data)
        if np.lib.format.read_magic(header) == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(header)
            if not ((fortran and len(shape) > 1) or dtype.hasobject):
                found = np.frombuffer(array.data, dtype, offset=header.tell())
                return found.reshape(shape)
    except ValueError:
        pass  # for Flower to say what is wrong with it
    return array.numpy()


class Difference:
    """What was added to arrays, in their own precision, as one vector.

    Parameters
    ----------
    after, before : sequence of arrays
        Of the same sizes.
    dtype : type
        Of what is read.

    Attributes
    ----------
    size : int
    """

    def __init__(
        self,
        after: Sequence[NDArray[Any]],
        before: Sequence[NDArray[Any]],
        dtype: Any = np.float64,
    ) -> None:
        self._pairs = [
            (new.reshape(-1), old.reshape(-1))
            for new, old in zip(after, before, strict=True)
        ]
        self._stops = list(accumulate(old.size for _, old in self._pairs))
        self.size, self.dtype = self._stops[-1] if self._stops else 0, dtype

    def __getitem__(self, block: slice) -> NDArray[Any]:
        """Return a part of it, new."""
        start, stop, _ = block.indices(self.size)
        found = np.empty(max(stop - start, 0), self.dtype)
        place = bisect_right(self._stops, start)
        at = start
        while at < stop:
            new, old = self._pairs[place]
            first = self._stops[place] - old.size
            end = min(self._stops[place], stop)
            inside = slice(at - first, end - first)
            exact = np.promote_types(np.result_type(new, old), np.float32)
            found[at - start : end - start] = np.subtract(
                new[inside], old[inside], dtype=exact
            )
            at, place = end, place + 1
        return found


def whole(vector: Blocks) -> Vector:
    """Return all of a vector at once, as float32."""
    return np.asarray(vector[:], np.float32)


def blocks(size: int) -> Iterator[slice]:
    """Yield slices that cover so many numbers."""
    for start in range(0, size, BLOCK):
        yield slice(start, min(start + BLOCK, size))


def norm(vector: Blocks) -> float:
    """Return how long a vector is; not finite if a number is."""
    total = 0.0
    for block in blocks(vector.size):
        part = vector[block].astype(np.float64)
        total += float(part @ part)
    return float(np.sqrt(total))


def is_finite(vector: Blocks) -> bool:
    """Return whether all numbers are finite."""
    return all(np.isfinite(vector[block]).all() for block in blocks(vector.size))
