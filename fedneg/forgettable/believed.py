"""What a client sent, in the types and shapes of the model; or why it counts as failed.

Flower averages whatever arrays come: one client's float64 makes the model float64, its
array of shape (1,) gives an array without axes one, its NaN is everybody's, and where
shapes do not fit NumPy ends the run without a word of whose they were. Here such a
reply is a failed one, as when the ClientApp had raised an error, and the round goes on
with the others, if the strategy accepts failures. So the app's own strategy does it.
"""

from logging import WARNING
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Error, Message, RecordDict
from flwr.common import log
from numpy.typing import NDArray

from fedneg.core.errors import FedNegError
from fedneg.forgettable.names import Names
from fedneg.forgettable.views import long_axes, view_of

# Flower's code of errors that have none of their own.
UNKNOWN = 0


def as_the_model_has_it(
    record: ArrayRecord, names: Names, before: ArrayRecord
) -> tuple[ArrayRecord, str]:
    """Return a client's arrays in the order, types and shapes of the model's.

    Numbers of another type are rounded to the model's; axes of length 1 come and go.

    Parameters
    ----------
    record : ArrayRecord
        What it sent, which stays as it is; arrays that fit are shared.
    names : Names
    before : ArrayRecord
        What it started from, of whose types its arrays may be as well: FedAdam makes
        float64 of a float32 model.

    Returns
    -------
    ArrayRecord
    str
        What was rounded, for people; empty: nothing.

    Raises
    ------
    FedNegError
        If an array is missing, is not expected or cannot be read, has another shape, or
        is of another kind than in the model.
    """
    names.check_same_names(record)
    found, rounded = dict[str, Array](), ""
    for name, shape in names.shapes.items():
        sent, dtype = record[name], names.dtypes[name]
        try:
            array = view_of(sent)
        except Exception as error:
            # NumPy's reader raises all kinds of errors on bytes of somebody's choice.
            raise FedNegError(f"array {name} cannot be read: {error}") from None
        if long_axes(array.shape) != long_axes(shape):
            raise FedNegError(
                f"array {name} must have shape {shape}, as in the model, got "
                f"{array.shape}"
            )
        if array.dtype == before[name].dtype:
            dtype = array.dtype
        is_same = (array.dtype, array.shape) == (dtype, shape)
        if not (is_same and (sent.dtype, tuple(sent.shape)) == (dtype.name, shape)):
            if not rounded and np.promote_types(array.dtype, dtype) != dtype:
                rounded = f"array {name} of {array.dtype} is rounded to {dtype}"
            array = _cast(name, array, dtype).reshape(shape)
            sent = Array(array)
        found[name] = sent
    return ArrayRecord(found), rounded


def _cast(name: str, array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return an array in a type of the model; FedNegError if that is another thing."""
    with np.errstate(all="ignore"):  # what overflows is not finite, and refused
        found = array.astype(dtype) if array.dtype.kind in "biuf" else None
    is_kept = found is not None and (
        (array.dtype.kind, dtype.kind) == ("f", "f") or np.array_equal(found, array)
    )
    if found is None or not is_kept:
        raise FedNegError(
            f"array {name} must be of {dtype}, as in the model, got {array.dtype}"
        )
    return found


def failed(
    reply: Message, client_id: int, reason: str, *, is_last_hope: bool
) -> Message:
    """Return a failed reply in the place of one that cannot be believed; log why.

    Raises
    ------
    FedNegError
        If nobody else's could be, `is_last_hope`: the round would be lost, and all
        that follow.
    """
    text = f"client {client_id}: {reason}"
    if is_last_hope:
        raise FedNegError(text)
    log(WARNING, "fedneg: a reply counts as failed: %s", text)
    meta = reply.metadata
    asked = Message(
        RecordDict(), dst_node_id=meta.src_node_id, message_type=meta.message_type
    )
    return Message(Error(UNKNOWN, text), reply_to=asked)
