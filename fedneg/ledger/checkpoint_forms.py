"""How the numbers of a checkpoint become a file, and what one file lacks for another.

A method decides which rows a ledger has beside the contributions: another method, in
the next run, may need more of them or fewer (`PASSING`). What both have is taken from
the file; what only the file has is left there; what only the ledger has stays empty,
and is filled by the rounds that follow. All other arrays must be the same.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from fedneg.core.errors import FedNegError
from fedneg.core.parameters import Vector
from fedneg.ledger.ledger import Ledger
from fedneg.ledger.tensors import read_tensors, shapes_in, write_tensors

# Kept for some methods and not for others.
PASSING = ("local", "updates", "bank", "recent")

Arrays = Mapping[str, NDArray[np.float32]]
Shapes = Mapping[str, tuple[int, ...]]


class OtherCheckpointError(FedNegError):
    """A checkpoint is whole, and not of what is to go on from it."""


class Form(Protocol):
    """How the numbers of a checkpoint become a file, and come back."""

    def write(self, path: Path, parameters: Vector, ledger: Ledger) -> str:
        """Write a file, whole or not at all; return its sha256."""

    def read(self, path: Path, parameters: Vector, ledger: Ledger) -> None:
        """Fill parameters and ledger; OSError if that stops halfway."""

    def rows(self, path: Path, client_id: int) -> dict[str, Vector]:
        """Return what a file holds of a client, and of its global parameters."""


class Plain:
    """Every array as it is."""

    def write(self, path: Path, parameters: Vector, ledger: Ledger) -> str:
        """Write global parameters and ledger."""
        return write_tensors(path, {"global": parameters, **ledger.arrays()})

    def read(self, path: Path, parameters: Vector, ledger: Ledger) -> None:
        """Read them into arrays of the right shapes."""
        arrays = {"global": parameters, **ledger.arrays()}
        into = common(path, shapes_in(path), arrays)
        read_tensors(path, into, partly=True)

    def rows(self, path: Path, client_id: int) -> dict[str, Vector]:
        """Return one row's numbers and the global parameters, without the rest."""
        with safe_open(str(path), framework="numpy") as file:
            found = {"global": file.get_tensor("global")}
            for name in ("contributions", "buffers", "statistics"):
                if name not in file.keys():  # noqa: SIM118
                    continue
                rows = file.get_slice(name)
                if client_id in range(rows.get_shape()[0]):
                    found[name] = rows[client_id]
            if "local" in file.keys():  # noqa: SIM118
                # Whose row is whose is not said here: all of them, then.
                rows = file.get_tensor("local")
                found |= {f"local {k}": row for k, row in enumerate(rows)}
            # These have several rows of each client, one after every K rows.
            clients = file.get_slice("contributions").get_shape()[0]
            for name in ("bank", "recent"):
                if client_id in range(clients) and name in file.keys():  # noqa: SIM118
                    rows = file.get_slice(name)
                    for place in range(client_id, rows.get_shape()[0], clients):
                        found[f"{name} {place}"] = rows[place]
        return found


def common(path: Path, there: Shapes, wanted: Arrays) -> dict[str, NDArray[np.float32]]:
    """Return those of the wanted arrays that a file has, the others zeroed.

    Raises
    ------
    OtherCheckpointError
        If they differ in anything but `PASSING`.
    """
    into = dict(wanted)
    for name in PASSING:
        if name in into and there.get(name) != into[name].shape:
            into.pop(name)[...] = 0
    expected = {name: array.shape for name, array in into.items()}
    lasting = {n: s for n, s in there.items() if n in expected or n not in PASSING}
    if lasting != expected:
        raise OtherCheckpointError(
            f"{path} is whole and holds arrays {_listed(lasting)}, where this run has "
            f"{_listed(expected)}; go on with the settings that made it"
        )
    return into


def _listed(shapes: Shapes) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in sorted(shapes.items()))
