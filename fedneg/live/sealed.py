"""Checkpoints whose every number is sealed with the key of whom it belongs to."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from fedneg.ledger import Ledger
from fedneg.live.vault import Vault
from fedneg.parameters import Vector
from fedneg.rows import release
from fedneg.tensors import Raw, write_tensors

Item = tuple[str, str, NDArray[np.float32]]


class Sealed:
    """The form of a sealed checkpoint (`fedneg.checkpoint.Form`).

    One array for every client's row, named ``contributions.3`` and so on, beside those
    that all clients went into. A client without a key (it was forgotten) has no rows:
    they are zero.
    """

    def __init__(self, vault: Vault, forgotten: set[int]) -> None:
        self.vault, self.forgotten = vault, forgotten

    def write(self, path: Path, parameters: Vector, ledger: Ledger) -> str:
        """Write global parameters and ledger, sealed row by row."""
        model = self.vault.model_key()
        tensors = {}
        for name, key, array in self._items(model, parameters, ledger, make=True):
            size = self.vault.sealed_size(array.nbytes)
            tensors[name] = Raw(size, self._pieces(key, name, array))
        return write_tensors(path, tensors, {"model_key": model})

    def _pieces(
        self, key: str, name: str, array: NDArray[np.float32]
    ) -> Iterator[bytes]:
        yield from self.vault.seal(key, name, array)
        release(array)

    def read(self, path: Path, parameters: Vector, ledger: Ledger) -> None:
        """Open every array into its place; the rows of the forgotten are zero."""
        with safe_open(str(path), framework="numpy") as file:
            model = file.metadata()["model_key"]
            ledger.contributions[...] = 0
            if ledger.buffers is not None:
                ledger.buffers[...] = 0
            for name, key, out in self._items(model, parameters, ledger, make=False):
                self.vault.open(key, name, file.get_tensor(name), out)
                release(out)
            for name in file.keys():  # noqa: SIM118
                kind, _, place = name.partition(".")
                if kind == "local":
                    place, _, owner = place.partition(".")
                    key = self.vault.client_key(int(owner), make=False)
                    row = ledger.local.rows[int(place)]
                    self.vault.open(key, name, file.get_tensor(name), row)

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

    def _items(
        self, model: str, parameters: Vector, ledger: Ledger, *, make: bool
    ) -> Iterator[Item]:
        """Yield name, key and array of what a checkpoint holds; `make` to write one.

        To read one, keys are never made, and the last local models are for the file to
        name.
        """
        yield "global", model, parameters
        yield "initial", model, ledger.initial
        yield "correction", model, ledger.correction
        for client_id in range(ledger.clients):
            if client_id in self.forgotten:
                continue
            key = self.vault.client_key(client_id, make=make)
            yield f"contributions.{client_id}", key, ledger.contributions[client_id]
            if ledger.buffers is not None:
                yield f"buffers.{client_id}", key, ledger.buffers[client_id]
        for client_id, place in ledger.local.places.items() if make else ():
            key = self.vault.client_key(client_id)
            yield f"local.{place}.{client_id}", key, ledger.local.rows[place]
