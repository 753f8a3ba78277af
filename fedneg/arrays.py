"""A model's arrays as Flower carries them: by name, in order, each with its type.

Parameters and statistics travel as float32, which is what the ledger computes in;
counters in their own integer type. A state_dict takes all of them back.
"""

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from fedneg.core.layout import Kind, Layout
from fedneg.core.parameters import NDArrays, Vector, from_npy, to_npy, unflatten


def record_of(layout: Layout, model: Vector) -> ArrayRecord:
    """Return a model as a record; of float32 the bytes are those of `numpy.save`.

    Parameters
    ----------
    layout : Layout
    model : Vector, shape (layout.width,)
    """
    arrays = unflatten(model, layout.shapes)
    return ArrayRecord(
        {
            part.name: Array(array) if part.kind is Kind.COUNTER else _float32(array)
            for part, array in zip(layout.parts, layout.typed(arrays), strict=True)
        }
    )


def arrays_of(record: ArrayRecord) -> NDArrays:
    """Return a record's arrays as float32, as views where they lie so."""
    return [
        array.numpy().astype(np.float32, copy=False) if view is None else view
        for array in record.values()
        for view in [from_npy(array.data, tuple(array.shape))]
    ]


def record_like(record: ArrayRecord, arrays: NDArrays) -> ArrayRecord:
    """Return arrays under the names, and in the types, that they came with."""
    return ArrayRecord(
        {
            name: _float32(array)
            if np.dtype(came.dtype).kind == "f"
            else Array(np.asarray(np.rint(array), dtype=came.dtype))
            for (name, came), array in zip(record.items(), arrays, strict=True)
        }
    )


def _float32(array: NDArray[np.float32]) -> Array:
    return Array("float32", array.shape, "numpy.ndarray", to_npy(array))
