"""Checkpoints of a training, from which it goes on with the same bytes.

A checkpoint is two files: ``round-000007.safetensors`` holds the global parameters and
the ledger, ``round-000007.json`` the rest, with the digest of the first file and its
own. Each is written under another name, flushed, and renamed, the JSON last: what has
no JSON does not count. The one before is kept until the next is whole, and is what a
damaged one falls back to. Nothing is pickled.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors import safe_open

from fedneg.errors import FedNegError
from fedneg.files import write_bytes
from fedneg.formats import human_bytes
from fedneg.ledger import Ledger
from fedneg.parameters import Vector
from fedneg.tensors import read_tensors, sha256_of, sync_folder, write_tensors

SCHEMA = 1
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
    """

    rounds: int
    parameters: Vector
    facts: Mapping[str, Any]


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
        read_tensors(path, {"global": parameters, **ledger.arrays()})

    def rows(self, path: Path, client_id: int) -> dict[str, Vector]:
        """Return one client's rows and the global parameters, without the rest."""
        with safe_open(str(path), framework="numpy") as file:
            found = {"global": file.get_tensor("global")}
            for name in ("contributions", "buffers"):
                if name in file.keys():  # noqa: SIM118
                    found[name] = file.get_slice(name)[client_id]
            if "local" in file.keys():  # noqa: SIM118
                # Whose row is whose is not said here: all of them, then.
                rows = file.get_tensor("local")
                found |= {f"local {k}": row for k, row in enumerate(rows)}
        return found


class Checkpoints:
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
        self.folder, self.every, self.remedy = folder, every, remedy
        self.form = Plain() if form is None else form
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
            If it cannot be written; the ones before are as they were.
        """
        started = time.monotonic()
        data, head = self._paths(rounds)
        try:
            digest = self.form.write(data, parameters, ledger)
            content = {
                "schema": SCHEMA,
                "rounds": rounds,
                "complete": complete,
                "sha256": digest,
                "initial": ledger.origin,
                "facts": dict(facts),
                "ledger": ledger.facts(),
            }
            content["digest"] = _digest(content)
            write_bytes(head, _json(content))
            sync_folder(self.folder)
        except OSError as error:
            before = self.rounds()
            rest = f"; the one of round {before[-1]} is intact" if before else ""
            raise FedNegError(
                f"the checkpoint of round {rounds} cannot be written to {self.folder}: "
                f"{error.strerror}{rest}; {self.remedy}"
            ) from None
        large = data.stat().st_size > LARGE_BYTES
        self._keep(1 if large and complete else 2)
        self._written_at = time.monotonic()
        self._seconds = self._written_at - started

    def restore(
        self, ledger: Ledger, warn: Callable[[str], None] = lambda text: None
    ) -> Restored | None:
        """Fill the ledger from the latest checkpoint that is whole.

        Parameters
        ----------
        ledger : Ledger
            Of the same shapes and initial parameters; without a whole checkpoint it
            stays as it is.
        warn : callable
            Told of every checkpoint that is damaged, by name.

        Returns
        -------
        Restored or None
            None if there is no checkpoint, or no whole one.

        Raises
        ------
        FedNegError
            If a whole one cannot be read to its end; the ledger is of no use then.
        """
        rounds = self.rounds()
        while rounds:
            number = rounds.pop()
            try:
                return self._read(number, ledger)
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                rest = f"the one of round {rounds[-1]}" if rounds else "no other"
                said = getattr(error, "strerror", None) or str(error)
                warn(
                    f"{self._paths(number)[0].with_suffix('')} is damaged: {said}; "
                    f"there is {rest} before it"
                )
        return None

    def rounds(self) -> list[int]:
        """Return the rounds of which there is a checkpoint, whole or not, ascending."""
        names = (path.stem for path in self.folder.glob("round-*.json"))
        return sorted(int(name[6:]) for name in names if name[6:].isdigit())

    def facts(self, rounds: int) -> Mapping[str, Any]:
        """Return the facts of one checkpoint; ValueError or OSError if it is damaged.

        Its numbers are not looked at.
        """
        found: Mapping[str, Any] = self._head(rounds)["facts"]
        return found

    def rows(self, rounds: int, client_id: int) -> dict[str, Vector]:
        """Return what a checkpoint holds of a client, and its global parameters."""
        found = self.form.rows(self._paths(rounds)[0], client_id)
        place = self._head(rounds)["ledger"]["local"].get(str(client_id))
        # The other last local models are of clients that stay, or leave later.
        others = {n for n in found if n.startswith("local ")} - {f"local {place}"}
        return {name: row for name, row in found.items() if name not in others}

    def verify(self, rounds: int) -> None:
        """Raise FedNegError unless a checkpoint is whole."""
        data, _ = self._paths(rounds)
        try:
            if sha256_of(data) != self._head(rounds)["sha256"]:
                raise ValueError(f"the sha256 of {data.name} is another")
        except (OSError, ValueError, KeyError) as error:
            raise FedNegError(f"{data.with_suffix('')} is damaged: {error}") from None

    def remove(self, rounds: int) -> list[Path]:
        """Remove one checkpoint and return its files."""
        data, head = self._paths(rounds)
        gone = [path for path in (head, data) if path.exists()]
        for path in gone:  # the head first: without it the rest does not count
            path.unlink()
        return gone

    def _paths(self, rounds: int) -> tuple[Path, Path]:
        stem = self.folder / f"round-{rounds:06d}"
        return stem.with_suffix(".safetensors"), stem.with_suffix(".json")

    def _read(self, rounds: int, ledger: Ledger) -> Restored:
        """Return one checkpoint; raises what is wrong with it."""
        data, _ = self._paths(rounds)
        content = self._head(rounds)
        # Before anything is read from it: a library's parser is no judge of damage.
        if sha256_of(data) != content["sha256"]:
            raise ValueError(f"the sha256 of {data.name} is not {content['sha256']}")
        if content["initial"] != ledger.origin:
            raise ValueError("it starts from other initial parameters")
        # From here on nothing is wrong with it, and the ledger may change.
        parameters = np.empty_like(ledger.initial)
        try:
            self.form.read(data, parameters, ledger)
        except OSError as error:
            # Not damage: the ledger may be half filled, and no training may go on.
            raise FedNegError(f"{data} cannot be read: {error.strerror}") from error
        ledger.restore_facts(content["ledger"])
        return Restored(rounds, parameters, content["facts"])

    def _head(self, rounds: int) -> dict[str, Any]:
        """Return a checkpoint's JSON; raises what is wrong with it."""
        _, head = self._paths(rounds)
        content: dict[str, Any] = json.loads(head.read_bytes())
        claimed = content.pop("digest")
        if claimed != _digest(content):
            raise ValueError(f"the digest of {head.name} is not {claimed}")
        if content["schema"] != SCHEMA or content["rounds"] != rounds:
            raise ValueError(f"{head.name} is of another schema or round")
        return content

    def _keep(self, count: int) -> None:
        """Remove all but the latest checkpoints."""
        for number in self.rounds()[:-count]:
            self.remove(number)

    def tidy(self) -> None:
        """Remove what a killed run left half-written; the entry is locked."""
        known = {p for number in self.rounds() for p in self._paths(number)}
        for pattern in (".*", "round-*.safetensors"):
            for path in self.folder.glob(pattern):
                if path not in known:
                    path.unlink(missing_ok=True)


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, sort_keys=True, indent=1) + "\n").encode()


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(_json(content)).hexdigest()
