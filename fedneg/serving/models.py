"""A model as a stranger's app sends it: arrays by name, or in a list, into the task's.

Names are the state_dict's. NumPy arrays in a list travel under "0", "1", ..; they are
taken in the order of the state_dict, or in that of what is trained, whichever has their
shapes.
"""

from collections.abc import Sequence

import numpy as np
import torch
from flwr.app import ArrayRecord
from torch import nn

from fedneg.core.errors import FedNegError
from fedneg.tasks.calls import make_model
from fedneg.tasks.layout import layout_of
from fedneg.tasks.task import Task

# Names that a message shows.
MAX_SHOWN = 3


def load_model(task: Task, record: ArrayRecord) -> nn.Module:
    """Return the task's model with the arrays of a record.

    Parts that are frozen, and buffers that do not travel, may be missing: they are the
    task's own.

    Raises
    ------
    FedNegError
        If an array has no place in the model or another shape there, or one that is
        trained is missing.
    """
    model = make_model(task, seed=0)
    tensors = model.state_dict()
    try:
        needed = layout_of(model).names
        names = _places(tuple(record), record, tensors, needed)
        for name, key in names.items():
            array = record[key].numpy()
            if _without_ones(array.shape) != _without_ones(tensors[name].shape):
                raise FedNegError(
                    f"{name} must have shape {tuple(tensors[name].shape)}, got "
                    f"{array.shape}"
                )
            if not tensors[name].is_floating_point():
                array = np.rint(array)
            with torch.no_grad():
                found = torch.from_numpy(np.array(array)).reshape(tensors[name].shape)
                tensors[name].copy_(found)
    except FedNegError as error:
        raise FedNegError(f"task {task.name}, model: {error}") from None
    return model


def _places(
    keys: Sequence[str],
    record: ArrayRecord,
    tensors: dict[str, torch.Tensor],
    needed: Sequence[str],
) -> dict[str, str]:
    """Return which of the record's arrays each of the model's is, by name."""
    if set(keys) == set(map(str, range(len(keys)))) and not set(keys) <= set(tensors):
        ordered = sorted(keys, key=int)
        shapes = [_without_ones(tuple(record[key].shape)) for key in ordered]
        for order in (tuple(tensors), tuple(needed)):
            if shapes == [_without_ones(tensors[name].shape) for name in order]:
                return dict(zip(order, ordered, strict=True))
        raise FedNegError(
            f"{len(keys)} arrays without names must be those of its state_dict in "
            f"their order ({len(tensors)} arrays), and have other shapes"
        )
    unknown = [key for key in keys if key not in tensors]
    if unknown:
        raise FedNegError(
            f"has no {_listed(unknown)}, which was sent; it has {_listed(tensors)}"
        )
    # A tensor with two names is there under one of them.
    there = {tensors[key].data_ptr() for key in keys if tensors[key].numel()}
    missing = [
        name
        for name in needed
        if name not in keys and tensors[name].data_ptr() not in there
    ]
    if missing:
        raise FedNegError(f"has {_listed(missing)}, which was not sent")
    return {key: key for key in keys}


def _without_ones(shape: Sequence[int]) -> tuple[int, ...]:
    """Return a shape as it may come back of averaging, which adds or drops axes."""
    return tuple(n for n in shape if n != 1)


def _listed(names: Sequence[str] | dict[str, torch.Tensor]) -> str:
    """Return a few names for people."""
    shown = ", ".join(list(names)[:MAX_SHOWN])
    return shown if len(names) <= MAX_SHOWN else f"{shown}, .."
