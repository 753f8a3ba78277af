"""Checkpoints of a training, from which it goes on with the same bytes.

A checkpoint is two files (checkpoint_files.py): the numbers, which are the global
parameters and the ledger (checkpoint_forms.py), and a head, which names them. Each is
written under another name, flushed, and renamed, the head last. The one before is kept
until the next is whole, and is what a damaged one falls back to. Where a round's
checkpoint is written again, the renaming of the head is all that makes it count, and
until then the old one is whole. Nothing is pickled.
"""

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedneg.core.errors import FedNegError
from fedneg.core.files import write_bytes
from fedneg.core.formats import human_bytes
from fedneg.core.parameters import Vector
from fedneg.ledger.checkpoint_files import (
    SCHEMA,
    CheckpointFiles,
    DamagedCheckpointError,
    head_bytes,
)
from fedneg.ledger.checkpoint_forms import Form, OtherCheckpointError
from fedneg.ledger.ledger import TOLERANCE, Ledger
from fedneg.ledger.tensors import sync_folder

# A checkpoint beyond this is written when that is cheap, and kept once.
LARGE_BYTES = 1 << 28
LARGE_SHARE = 0.05
# Before the first one was timed: what an ordinary disk takes.
BYTES_PER_SECOND = 5e8


@dataclass(frozen=True)
class Restored:
    """What a checkpoint held beside the ledger.

    Attributes
    ----------
    rounds : int
        Rounds that are done.
    parameters : Vector, shape (d,)
        Global parameters after them.
    facts : mapping
        As given to `Checkpoints.write`.
    ledger : Ledger
        The one that was filled.
    """

    rounds: int
    parameters: Vector
    facts: Mapping[str, Any]
    ledger: Ledger


class Checkpoints(CheckpointFiles):
    """The checkpoints of one training, in a folder of their own.

    Parameters
    ----------
    folder : Path
    every : int
        Write one after every so many rounds, and after the last; 0: the last only. A
        large one (256 MiB) waits until writing it takes less than a twentieth of the
        time since the one before: with hundreds of clients every round would cost more
        than its training, and writing each round's updates instead, to be replayed,
        would be as many bytes.
    form : Form
        How the numbers are written; by default as they are.
    remedy : str
        What to do when there is no room, for the error.
    """

    def __init__(
        self,
        folder: Path,
        *,
        every: int = 1,
        form: Form | None = None,
        remedy: str = "make room, set FEDNEG_CACHE to another disk, or use cache=false",
    ) -> None:
        super().__init__(folder, form=form)
        self.every, self.remedy = every, remedy
        self._written_at = time.monotonic()
        self._seconds: float | None = None

    def is_due(
        self, rounds: int, of: int, num_bytes: int, *, lasting: bool = True
    ) -> bool:
        """Return whether a checkpoint should follow the round that just ended.

        The last one is always due where others may use it (`lasting`).
        """
        if rounds == of and (lasting or num_bytes <= LARGE_BYTES):
            return True
        if not self.every or rounds % self.every:
            return False
        if num_bytes <= LARGE_BYTES:
            return True
        cost = self._seconds
        if cost is None:
            cost = num_bytes / BYTES_PER_SECOND
        return cost < LARGE_SHARE * (time.monotonic() - self._written_at)

    def check_room(self, num_bytes: int) -> None:
        """Raise FedNegError if the disk has no room for large checkpoints.

        Before anything is trained; a new one is written before the old one goes.
        """
        if num_bytes <= LARGE_BYTES:
            return
        needed = num_bytes * (2 if self.rounds() else 1)
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise FedNegError(
                f"checkpoints of this training need {human_bytes(needed)} in "
                f"{self.folder.parent}, which has {human_bytes(free)}; {self.remedy}"
            )

    def write(
        self,
        rounds: int,
        parameters: Vector,
        ledger: Ledger,
        facts: Mapping[str, Any],
        *,
        complete: bool = False,
    ) -> None:
        """Write a checkpoint, whole or not at all; then let old ones go.

        Raises
        ------
        FedNegError
            If it cannot be written; the ones before are as they were, also one of the
            same round.
        """
        started = time.monotonic()
        head, data = self._head_path(rounds), self._new_data_path(rounds)
        try:
            digest = self.form.write(data, parameters, ledger)
            content = {
                "schema": SCHEMA,
                "rounds": rounds,
                "complete": complete,
                "data": data.name,
                "sha256": digest,
                "initial": ledger.origin,
                "facts": dict(facts),
                "ledger": ledger.facts(),
            }
            write_bytes(head, head_bytes(content))
            sync_folder(self.folder)
        except OSError as error:
            with suppress(OSError):  # room for others; the next start removes it too
                self._drop_unnamed(rounds)
            raise FedNegError(
                f"the checkpoint of round {rounds} cannot be written to {self.folder}: "
                f"{error.strerror}{self._intact()}; {self.remedy}"
            ) from None
        with suppress(OSError):
            self._drop_unnamed(rounds)
        large = data.stat().st_size > LARGE_BYTES
        self._keep(1 if large and complete else 2)
        self._written_at = time.monotonic()
        self._seconds = self._written_at - started

    def _intact(self) -> str:
        """Return words on the latest checkpoint that is whole, for an error."""
        for rounds in reversed(self.rounds()):
            with suppress(FedNegError):
                self.verify(rounds)
                return f"; the one of round {rounds} is intact"
        return ""

    def restore(
        self,
        ledger: Ledger,
        warn: Callable[[str], None] = lambda text: None,
        *,
        strict: bool = False,
    ) -> Restored | None:
        """Fill the ledger from the latest checkpoint that is whole.

        Parameters
        ----------
        ledger : Ledger
            Of the same shapes and initial parameters; without a whole checkpoint it
            stays as it is.
        warn : callable
            Told of every checkpoint that is damaged, by name.
        strict : bool
            Where nothing else holds what a checkpoint does: one that is whole, and not
            of this training, is an error, and not a reason to pass it over.

        Returns
        -------
        Restored or None
            None if there is no checkpoint, or no whole one.

        Raises
        ------
        FedNegError
            If a whole one cannot be read to its end; the ledger is of no use then.
        OtherCheckpointError
            If one is whole, and of other arrays, initial parameters or schema
            (`strict`).
        """
        return self.restore_into(lambda facts: ledger, warn, strict=strict)

    def restore_into(
        self,
        ledger_for: Callable[[Mapping[str, Any]], Ledger],
        warn: Callable[[str], None] = lambda text: None,
        *,
        strict: bool = False,
    ) -> Restored | None:
        """Do as `restore` does, with a ledger for the facts of each that is tried."""
        rounds = self.rounds()
        while rounds:
            number = rounds.pop()
            try:
                return self._read(number, ledger_for)
            except OtherCheckpointError as error:
                if strict:
                    raise
                warn(f"{error}; it is passed over")
            except DamagedCheckpointError as error:
                rest = f"the one of round {rounds[-1]}" if rounds else "no other"
                warn(f"{error}; there is {rest} before it")
        return None

    def _read(
        self, rounds: int, ledger_for: Callable[[Mapping[str, Any]], Ledger]
    ) -> Restored:
        """Return one checkpoint; raises what is wrong with it."""
        with self._reading(rounds):
            content, data = self._whole(rounds)
            ledger = ledger_for(content["facts"])
            if content["initial"] != ledger.origin:
                raise OtherCheckpointError(
                    f"{data} is whole, but starts from other initial parameters than "
                    "this run; go on with the settings and the version of torch that "
                    "made it"
                )
            # From here on no byte is wrong, and the ledger may change.
            parameters = np.empty(ledger.width, dtype=np.float32)
            initial = ledger.initial.copy()
            try:
                self.form.read(data, parameters, ledger)
            except OSError as error:
                # Not damage: the ledger may be half filled, and no training may go on.
                raise FedNegError(f"{data} cannot be read: {error.strerror}") from error
            deviation = ledger.deviation(parameters)
            if deviation > TOLERANCE:
                ledger.start_over(initial)
                raise ValueError(
                    f"the rows in {data.name} do not add up to its global parameters: "
                    f"they are {deviation:.2g} of them apart, more than {TOLERANCE:g}"
                )
            ledger.restore_facts(content["ledger"])
            kept = parameters[ledger.initial.size :]
            if not np.array_equal(ledger.statistics.current, kept, equal_nan=True):
                ledger.start_over(initial)
                raise ValueError(
                    f"the statistics in {data.name} are not those of its global model"
                )
            return Restored(rounds, parameters, content["facts"], ledger)

    def _keep(self, count: int) -> None:
        """Remove all but the latest checkpoints."""
        for number in self.rounds()[:-count]:
            self.remove(number)
