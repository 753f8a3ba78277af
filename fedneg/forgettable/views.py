"""Arrays of records as one vector that is read block by block: none is copied whole.

A round's replies are K models; updates beside them would be as many again.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from itertools import accumulate
from typing import Any

import numpy as np
from flwr.app import Array
from numpy.typing import NDArray

from fedneg.core.parameters import Vector
from fedneg.ledger.ledger import BLOCK
from fedneg.ledger.steps import Blocks


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


class _Pieces:
    """Arrays of some sizes, one after the other, of which slices are asked for."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = sizes
        self._stops = list(accumulate(sizes))
        self.size = self._stops[-1] if self._stops else 0

    def _inside(self, block: slice) -> tuple[int, list[tuple[int, slice, slice]]]:
        """Return a slice's length; and of each array in it: where there, where here."""
        start, stop, _ = block.indices(self.size)
        place, at = bisect_right(self._stops, start), start
        found = []
        while at < stop:
            first = self._stops[place] - self._sizes[place]
            end = min(self._stops[place], stop)
            here = slice(at - start, end - start)
            found.append((place, slice(at - first, end - first), here))
            at, place = end, place + 1
        return max(stop - start, 0), found


class Joined(_Pieces):
    """Arrays as one vector of float32.

    Parameters
    ----------
    arrays : sequence of arrays

    Attributes
    ----------
    size : int
    """

    def __init__(self, arrays: Sequence[NDArray[Any]]) -> None:
        self._arrays = [array.reshape(-1) for array in arrays]
        super().__init__([array.size for array in self._arrays])

    def __getitem__(self, block: slice) -> Vector:
        """Return a part of it; not to be written to, since it may be an array's own."""
        length, pieces = self._inside(block)
        if len(pieces) == 1:
            place, inside, _ = pieces[0]
            return np.asarray(self._arrays[place][inside], np.float32)
        found = np.empty(length, np.float32)
        for place, inside, here in pieces:
            found[here] = self._arrays[place][inside]
        return found


class Difference(_Pieces):
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
        super().__init__([old.size for _, old in self._pairs])
        self.dtype = dtype

    def __getitem__(self, block: slice) -> NDArray[Any]:
        """Return a part of it, new."""
        length, pieces = self._inside(block)
        found = np.empty(length, self.dtype)
        for place, inside, here in pieces:
            new, old = self._pairs[place]
            exact = np.promote_types(np.result_type(new, old), np.float32)
            found[here] = np.subtract(new[inside], old[inside], dtype=exact)
        return found

    def local(self, block: slice, dtype: Any) -> NDArray[Any]:
        """Return a part of what they were added to, new."""
        length, pieces = self._inside(block)
        found = np.empty(length, dtype)
        for place, inside, here in pieces:
            found[here] = self._pairs[place][0][inside]
        return found


def whole(vector: Blocks) -> Vector:
    """Return all of a vector at once, as float32; it may not be anybody's to write."""
    return np.asarray(vector[:], np.float32)


def is_same(one: Array, other: Array) -> bool:
    """Return whether two arrays of records hold the same numbers, of whatever type.

    In the same places: only axes of length 1 may be missing, or more, which come and
    go where arrays are averaged.
    """
    if (one.dtype, one.shape, one.data) == (other.dtype, other.shape, other.data):
        return True  # mostly they share their bytes
    if long_axes(one.shape) != long_axes(other.shape):
        return False
    first, second = view_of(one).reshape(-1), view_of(other).reshape(-1)
    return first.size == second.size and all(
        np.array_equal(first[block], second[block], equal_nan=True)
        for block in blocks(first.size)
    )


def long_axes(shape: Sequence[int]) -> tuple[int, ...]:
    """Return a shape without axes of length 1."""
    return tuple(length for length in shape if length != 1)


def first_other(
    records: Mapping[str, Array], others: Mapping[str, Array]
) -> str | None:
    """Return the first name under which two records differ; None: they are the same."""
    if set(records) != set(others):
        return min(set(records) ^ set(others))
    for name, array in records.items():
        if not is_same(array, others[name]):
            return name
    return None


def digest_of(arrays: Mapping[str, Array]) -> str:
    """Return a sha256 of arrays, by name, to the last bit of their own types."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = view_of(arrays[name])
        found.update(f"{name}\0{array.dtype}\0{array.shape}\0".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def blocks(size: int) -> Iterator[slice]:
    """Yield slices that cover so many numbers."""
    for start in range(0, size, BLOCK):
        yield slice(start, min(start + BLOCK, size))


def dot(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Return a product of two blocks; in one thread, since many wait for others."""
    return float(np.einsum("i,i->", one, other))


def norm(vector: Blocks) -> float:
    """Return how long a vector is; not finite if a number is."""
    total = 0.0
    for block in blocks(vector.size):
        part = vector[block].astype(np.float64)
        total += dot(part, part)
    return float(np.sqrt(total))


def is_finite(vector: Blocks) -> bool:
    """Return whether all numbers are finite."""
    return all(np.isfinite(vector[block]).all() for block in blocks(vector.size))
