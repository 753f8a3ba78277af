"""Files of a run, each written in one step."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from numpy.typing import NDArray
from safetensors.numpy import save

from fedneg.core.errors import FedNegError
from fedneg.core.files import write_bytes

RUN_FILES = (
    "model_original.safetensors",
    "model_unlearned.safetensors",
    "model_recovered.safetensors",
    "model_retrained.safetensors",
    "history.csv",
    "clients.csv",
    "later.csv",
    "results.json",
    "report.html",
)


def write_json(path: Path, values: Mapping[str, Any]) -> Path:
    """Write indented JSON; NaN is an error, since JSON has none."""
    text = json.dumps(values, indent=2, allow_nan=False)
    return write_bytes(path, (text + "\n").encode(), shared=True)


def write_csv(path: Path, table: pd.DataFrame, *, shared: bool = True) -> Path:
    """Write a table without its index."""
    return write_bytes(path, table.to_csv(index=False).encode(), shared=shared)


def write_model(
    path: Path, names: Sequence[str], arrays: Sequence[NDArray[Any]]
) -> Path:
    """Write parameters by their state_dict names, in safetensors format.

    It is its owner's alone: two models of one run may differ by what a client
    contributed.
    """
    return write_bytes(path, model_bytes(names, arrays))


def model_bytes(names: Sequence[str], arrays: Sequence[NDArray[Any]]) -> bytes:
    """Return the file that `write_model` writes.

    It holds names and numbers only: the same model gives the same bytes.
    """
    # safetensors ignores strides, so views are copied first.
    tensors = {n: a.copy(order="C") for n, a in zip(names, arrays, strict=True)}
    return save(tensors)


def remove_results(out: Path) -> None:
    """Remove what an earlier run left in the folder, so that nothing stale stays."""
    for name in RUN_FILES:
        (out / name).unlink(missing_ok=True)


def prepare_folder(path: Path) -> Path:
    """Make the folder and prove that it can be written, or raise FedNegError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise FedNegError(
            f"the output folder {path} cannot be written: {error.strerror}"
        ) from None
    return path
