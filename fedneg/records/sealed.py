"""Checkpoints whose every number is sealed with the key of whom it belongs to."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from fedneg.core.parameters import Vector
from fedneg.ledger.checkpoint_forms import PASSING
from fedneg.ledger.ledger import Ledger
from fedneg.ledger.rows import release
from fedneg.ledger.tensors import Raw, write_tensors
from fedneg.records.vault import Vault

Item = tuple[str, str, NDArray[np.float32]]


def keys_of(path: Path) -> set[str]:
    """Return the names of the keys that seal a file; none if it is a plain one.

    Raises
    ------
    OSError, ValueError
        If it is not there, or no file of tensors.
    """
    try:
        with safe_open(str(path), framework="numpy") as file:
            model = (file.metadata() or {}).get("model_key")
            if model is None:
                return set()
            places = (name.split(".")[1:] for name in file.keys())  # noqa: SIM118
            return {model, *(f"client-{place[-1]}" for place in places if place)}
    except SafetensorError as error:
        raise ValueError(str(error)) from None


class Sealed:
    """The form of a sealed checkpoint (`fedneg.ledger.checkpoint_forms.Form`).

    One array for every client's row, named ``contributions.3`` and so on, beside those
    that all clients went into. The forgotten have no rows: they are zero.

    Parameters
    ----------
    vault : Vault
    forgotten : set of int
        Whose rows are left out of what is written; may grow.
    """

    def __init__(self, vault: Vault, forgotten: set[int]) -> None:
        self.vault, self.forgotten = vault, forgotten

    def write(self, path: Path, parameters: Vector, ledger: Ledger) -> str:
        """Write global parameters and ledger, sealed row by row."""
        model = self.vault.model_key()
        tensors = {}
        for name, key, array in self._items(model, parameters, ledger):
            size = self.vault.sealed_size(array.nbytes)
            tensors[name] = Raw(size, self._pieces(key, name, array))
        return write_tensors(path, tensors, {"model_key": model})

    def _pieces(
        self, key: str, name: str, array: NDArray[np.float32]
    ) -> Iterator[bytes]:
        yield from self.vault.seal(key, name, array)
        release(array)

    def read(self, path: Path, parameters: Vector, ledger: Ledger) -> None:
        """Open every array in the file into its place; other rows are zero."""
        arrays = {"global": parameters, **ledger.arrays()}
        with safe_open(str(path), framework="numpy") as file:
            model = file.metadata()["model_key"]
            for name in ("contributions", "buffers", "statistics", *PASSING):
                if name in arrays:
                    arrays[name][...] = 0
            for name in file.keys():  # noqa: SIM118
                kind, *place = name.split(".")
                if kind in PASSING and kind not in arrays:
                    continue
                key, out = model, arrays[kind]
                if place:
                    key = self.vault.client_key(int(place[-1]), make=False)
                    out = out[int(place[0])]
                self.vault.open(key, name, file.get_tensor(name), out)
                release(out)

    def rows(self, path: Path, client_id: int) -> dict[str, Vector]:
        """Return one client's rows and the global parameters."""
        found: dict[str, Vector] = {}
        with safe_open(str(path), framework="numpy") as file:
            model = file.metadata()["model_key"]
            for name in file.keys():  # noqa: SIM118
                if name == "global":
                    key = model
                elif name.split(".")[-1] == str(client_id):
                    key = self.vault.client_key(client_id, make=False)
                else:
                    continue
                sealed = file.get_tensor(name)
                size = self.vault.plain_size(sealed.size) // 4
                found[name] = np.empty(size, dtype=np.float32)
                self.vault.open(key, name, sealed, found[name])
        return found

    def _items(self, model: str, parameters: Vector, ledger: Ledger) -> Iterator[Item]:
        """Yield name, key and array of what a checkpoint holds.

        A name is ``kind``, or ``kind.row.client`` where a row need not be its client's.
        """
        yield "global", model, parameters
        yield "initial", model, ledger.initial
        yield "correction", model, ledger.correction
        for client_id in range(ledger.clients):
            if client_id in self.forgotten:
                continue
            key = self.vault.client_key(client_id)
            yield f"contributions.{client_id}", key, ledger.contributions[client_id]
            if ledger.buffers is not None:
                yield f"buffers.{client_id}", key, ledger.buffers[client_id]
            if client_id in ledger.statistics.examples:
                row = ledger.statistics.rows[client_id]
                yield f"statistics.{client_id}", key, row
            for name, rows in ledger.bank.arrays().items():
                for place in range(client_id, len(rows), ledger.clients):
                    yield f"{name}.{place}.{client_id}", key, rows[place]
        for client_id, place in ledger.local.places.items():
            if client_id in self.forgotten:
                continue
            key = self.vault.client_key(client_id)
            yield f"local.{place}.{client_id}", key, ledger.local.rows[place]
