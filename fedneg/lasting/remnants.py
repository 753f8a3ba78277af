"""What clients leave behind: taken down before they are forgotten, sought afterwards.

What may be found nowhere in the end: their contributions, momentum rows and last local
models, and every global model that contains them (the old one, minus all other rows,
would give the contribution back). Of these the state keeps digests, the *scan windows*,
before the rows go.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedneg.core.errors import FedNegError
from fedneg.core.files import write_bytes
from fedneg.core.parameters import Vector
from fedneg.core.reading import read_regular
from fedneg.evaluation.isolation import left_of
from fedneg.ledger.checkpoint import Checkpoints
from fedneg.ledger.ledger import Ledger
from fedneg.ledger.tensors import sync_folder
from fedneg.records.kept import Kept
from fedneg.records.scan_windows import ScanWindow, dumped, loaded, scan_windows

BLOCK = 16  # numbers in a scan window
SUM = "sum"  # of the contributions of clients that leave together


class Trainer(Protocol):
    """Whoever trains a federation, as far as a purge must know it."""

    @property
    def ledger(self) -> Ledger:
        """Its ledger."""

    @property
    def initial(self) -> Vector:
        """What everybody may know: the parameters that training began with."""

    def row_of(self, client_id: int) -> int | None:
        """Return the ledger's row of a client; None for who never had one."""

    def bytes_of(self, parameters: Vector) -> bytes:
        """Return the file of a model."""


class Remnants:
    """What a federation holds of clients, in memory and in its checkpoints.

    Parameters
    ----------
    trainer : Trainer
    checkpoints : Checkpoints
    folder : Path
        Of the files of scan windows.
    """

    def __init__(
        self, trainer: Trainer, checkpoints: Checkpoints, folder: Path
    ) -> None:
        self.trainer, self.checkpoints = trainer, checkpoints
        self.folder = folder
        self._took_part: set[int] = set()

    def of(
        self, clients: Sequence[int], parameters: Vector
    ) -> dict[int, dict[str, Vector]]:
        """Return, by client and name, what must be found nowhere in the end."""
        self._took_part = self._who_took_part(clients)
        return {k: self._vectors(k, parameters) for k in clients}

    def _who_took_part(self, clients: Sequence[int]) -> set[int]:
        """Return of which of them memory or a checkpoint holds something."""
        ledger = self.trainer.ledger
        rows = {k: row for k in clients if (row := self.trainer.row_of(k)) is not None}
        weighed = {row for entry in ledger.participation for row in entry.weights}
        found = {
            k
            for k, row in rows.items()
            if row in weighed or ledger.contributions[row].any()
        }
        for number in self.checkpoints.rounds():
            try:
                found |= set(Kept.read(self.checkpoints, number).contains)
            except FedNegError:
                continue  # damaged: its files go, whatever they hold
        return found

    def _vectors(self, client_id: int, parameters: Vector) -> dict[str, Vector]:
        """Return what memory and checkpoints hold of a client, by name."""
        ledger, row = self.trainer.ledger, self.trainer.row_of(client_id)
        if row is None:
            return {}
        vectors = {"contribution": ledger.contributions[row]}
        if ledger.buffers is not None:
            vectors["momentum"] = ledger.buffers[row]
        vectors |= dict(ledger.bank.rows_of(row))
        if row in ledger.statistics.examples:
            vectors["statistics"] = ledger.statistics.rows[row]
        if row in ledger.local:
            vectors["last local model"] = ledger.local[row]
        vectors["global model"] = parameters
        for number in self.checkpoints.rounds():
            try:
                found = self.checkpoints.rows(number, row)
            except FedNegError:
                continue  # damaged: its files go, whatever they hold
            for name, vector in found.items():
                vectors[f"{name}, round {number}"] = vector
        # Copies: the rows are about to become zero.
        return {name: np.array(vector) for name, vector in vectors.items()}

    def left(
        self,
        remnants: Mapping[int, Mapping[str, Vector]],
        after: Vector,
        *,
        seed: Vector,
        starts_over: bool = False,
        parts: NDArray[np.intp] | None = None,
    ) -> dict[str, Any]:
        """Return how near arithmetic on what is left comes to the contributions.

        Right after forgetting, before what the method changed is folded away: for each
        client and, of several, for their sum (`fedneg.evaluation.isolation`).

        Parameters
        ----------
        remnants : mapping
            What `of` returned; clients without a row have nothing.
        after : Vector
            The model without them.
        seed : Vector, shape (d,)
            The initial parameters, as anybody may have them.
        starts_over, parts
            What the method says of itself.
        """
        own = {str(k): v["contribution"] for k, v in remnants.items() if v}
        if len(own) > 1:
            rows = [row.astype(np.float64) for row in own.values()]
            own[SUM] = np.sum(rows, axis=0)
        if not own:
            return {}
        before = next(v["global model"] for v in remnants.values() if v)
        found = left_of(
            list(own.values()),
            self.trainer.ledger,
            seed=seed,
            before=before,
            after=after,
            starts_over=starts_over,
            parts=parts,
        )
        return {name: asdict(left) for name, left in zip(own, found, strict=True)}

    def scan_window_files(
        self, remnants: Mapping[int, Mapping[str, Vector]], *, stays: Vector
    ) -> dict[int, bytes]:
        """Return the files with digests of what `of` returned, by client.

        Weights that the clients never moved are everybody's: the same in the initial
        parameters, or in the model without them (`stays`). Nothing is of a client that
        never took part: no model contains it.
        """
        made = {}
        for client_id, vectors in remnants.items():
            took_part = client_id in self._took_part
            own = {
                name: _beyond(vector, self.trainer.initial, stays)
                for name, vector in vectors.items()
                if took_part
            }
            made[client_id] = dumped(client_id, scan_windows(own), took_part=took_part)
        return made

    def write_scan_windows(self, made: Mapping[int, bytes]) -> None:
        """Write what `scan_window_files` returned; the log names the digests."""
        for client_id, content in made.items():
            write_bytes(self.folder / f"forget-{client_id}.json", content)
        if made:
            sync_folder(self.folder)

    def scan_windows(self, client_id: int) -> list[ScanWindow]:
        """Return what was written of a client; FedNegError if it cannot be read."""
        path = self.folder / f"forget-{client_id}.json"
        try:
            return loaded(read_regular(path))[1]
        except (OSError, ValueError) as error:
            raise FedNegError(f"{path} cannot be read: {error}") from None


def _beyond(vector: Vector, *others: Vector) -> Vector:
    """Return a vector with zeros for every stretch that shares a number with another.

    Digests are taken of stretches of `BLOCK` numbers, never of zeros.
    """
    found = np.array(vector, dtype=np.float32)
    whole = found.size // BLOCK * BLOCK
    for other in others:
        same = (found[:whole] == other[:whole]).reshape(-1, BLOCK).any(axis=1)
        found[:whole].reshape(-1, BLOCK)[same] = 0
    return found
