"""Models of a task from files, whoever wrote them."""

from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load

from fedneg.core.errors import FedNegError
from fedneg.core.layout import Layout
from fedneg.core.parameters import Vector, flatten
from fedneg.core.reading import read_regular

# Names that an error shows.
MAX_SHOWN = 3


def read_model_file(path: Path, layout: Layout, task: str) -> Vector:
    """Return the vector of a model in safetensors format.

    Arrays of the model that do not travel, such as frozen ones, are the task's own.

    Parameters
    ----------
    path : Path
    layout : Layout
        Of the task's model: which arrays it must have, by their state_dict names.
    task : str
        Its name, for errors.

    Raises
    ------
    FedNegError
        If it cannot be read, an array is missing, has another shape, or values that are
        not finite.
    """
    try:
        tensors = load(read_regular(path))
    except OSError as error:
        raise FedNegError(f"{path} cannot be read: {error.strerror}") from None
    except SafetensorError as error:
        raise FedNegError(f"{path} is no safetensors file: {error}") from None
    wrong = f"{path} is no model of task {task}"
    missing = [name for name in layout.names if name not in tensors]
    if missing:
        dots = ", .." if len(missing) > MAX_SHOWN else ""
        raise FedNegError(f"{wrong}: it lacks {', '.join(missing[:MAX_SHOWN])}{dots}")
    for part in layout.parts:
        found = tuple(tensors[part.name].shape)
        if found != part.shape:
            raise FedNegError(
                f"{wrong}: {part.name} must have shape {part.shape}, got {found}"
            )
    arrays = [
        tensors[name].to(torch.float32).numpy().astype(np.float32)
        for name in layout.names
    ]
    for name, array in zip(layout.names, arrays, strict=True):
        if not np.isfinite(array).all():
            raise FedNegError(f"{wrong}: {name} has values that are not finite")
    return flatten(arrays)
