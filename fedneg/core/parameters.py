"""Small named arithmetic on parameters; sums run in float64, in the order given.

A model is `NDArrays` in state_dict order at the seam to Flower and torch, and one flat
float32 `Vector` everywhere in between: the ledger's rows are vectors.
"""

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from io import BytesIO
from math import prod

import numpy as np
from numpy.typing import NDArray

NDArrays = list[NDArray[np.float32]]
Vector = NDArray[np.float32]
Shapes = tuple[tuple[int, ...], ...]


def shapes_of(arrays: Sequence[NDArray[np.generic]]) -> Shapes:
    """Return the shape of every array, in order."""
    return tuple(tuple(a.shape) for a in arrays)


def size_of(shapes: Shapes) -> int:
    """Return d, the number of parameters in arrays of these shapes."""
    return sum(prod(shape) for shape in shapes)


def flatten(
    arrays: Sequence[NDArray[np.floating]], out: Vector | None = None
) -> Vector:
    """Return the arrays as one float32 vector, each in C order; new, or `out`."""
    if out is None:
        out = np.empty(sum(a.size for a in arrays), dtype=np.float32)
    start = 0
    for array in arrays:
        out[start : start + array.size] = array.ravel()
        start += array.size
    return out


def unflatten(vector: Vector, shapes: Shapes) -> NDArrays:
    """Return views of `vector` with these shapes; the inverse of `flatten`.

    Raises
    ------
    ValueError
        If the vector has not exactly as many entries as the shapes.
    """
    if vector.size != size_of(shapes):
        raise ValueError(f"{size_of(shapes)} parameters expected, got {vector.size}")
    arrays, start = [], 0
    for shape in shapes:
        stop = start + prod(shape)
        arrays.append(vector[start:stop].reshape(shape))
        start = stop
    return arrays


@lru_cache(maxsize=64)
def _npy_header(shape: tuple[int, ...]) -> bytes:
    """Return how NumPy's format begins for a float32 array in C order."""
    header = BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    return header.getvalue()


def to_npy(array: NDArray[np.float32]) -> bytes:
    """Return a float32 array in NumPy's format, as `numpy.save` writes it.

    One copy, where `numpy.save` into memory makes three.
    """
    content = np.ascontiguousarray(array, dtype="<f4").reshape(-1).view(np.uint8)
    return b"".join((_npy_header(array.shape), content.data))


def from_npy(content: bytes, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
    """Return a read-only view of a float32 array of this shape in NumPy's format.

    None if the bytes hold anything else, or hold it in another way: then it is for
    `numpy.load` to say what.
    """
    header = _npy_header(shape)
    if len(content) != len(header) + 4 * prod(shape) or not content.startswith(header):
        return None
    view = np.frombuffer(content, dtype="<f4", offset=len(header))
    return view.reshape(shape)


def weights_of(num_examples: Sequence[float]) -> list[float]:
    """Return each client's share of the examples, the aggregation weights of FedAvg.

    Raises
    ------
    ValueError
        If there is no client, a count is negative, or all counts are 0.

    References
    ----------
    McMahan et al., AISTATS 2017, Algorithm 1, server step. arXiv:1602.05629
    """
    if not num_examples:
        raise ValueError("at least one client is needed, got none")
    if min(num_examples) < 0:
        raise ValueError(f"num_examples must not be negative, got {min(num_examples)}")
    total = sum(num_examples)
    if total == 0:
        raise ValueError("at least one client needs examples, all have 0")
    return [n / total for n in num_examples]


def add(vector: Vector, terms: Iterable[tuple[float, NDArray[np.floating]]]) -> Vector:
    """Return vector + sum of scale * term, in float64, rounded to float32 once."""
    total = vector.astype(np.float64)
    for scale, term in terms:
        total += scale * term.astype(np.float64)
    # What is too long for float32 is infinite, as it is to whoever measures it.
    with np.errstate(over="ignore"):
        return total.astype(np.float32)


def digest_of_model(parameters: Vector) -> str:
    """Return a model's name in receipts and logs: the sha256 of its float32 bytes."""
    return hashlib.sha256(np.ascontiguousarray(parameters, "<f4").tobytes()).hexdigest()
