"""Checkpoints of a training, from which it goes on with the same bytes.

A checkpoint is two files: ``round-000007.safetensors`` holds the global parameters and
the ledger, ``round-000007.json`` (its head) the rest, with name and digest of the first
file and a digest of its own. Each is written under another name, flushed, and renamed,
the head last: what no head names does not count. The one before is kept until the next
is whole, and is what a damaged one falls back to. Where a round's checkpoint is written
again, its numbers go into a file with a new name (``round-000007-2.safetensors``): the
renaming of the head is all that makes it count, and until then the old one is whole.
Nothing is pickled.

Longer than others: what a write, a switch, a fall back and a removal leave on the disk
is one argument, in one place; the forms of a file are in checkpoint_forms.py.
"""

import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedneg.core.errors import FedNegError
from fedneg.core.files import leftovers, remove, write_bytes
from fedneg.core.formats import human_bytes
from fedneg.core.parameters import Vector
from fedneg.ledger.checkpoint_forms import Form, OtherCheckpointError, Plain
from fedneg.ledger.ledger import TOLERANCE, Ledger
from fedneg.ledger.tensors import sha256_of, sync_folder

SCHEMA = 2  # 1: the data file had the head's own name
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
            content["digest"] = _digest(content)
            write_bytes(head, _json(content))
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
        rounds = self.rounds()
        while rounds:
            number = rounds.pop()
            try:
                return self._read(number, ledger)
            except OtherCheckpointError as error:
                if strict:
                    raise
                warn(f"{error}; it is passed over")
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                rest = f"the one of round {rounds[-1]}" if rounds else "no other"
                said = getattr(error, "strerror", None) or str(error)
                warn(
                    f"{self._head_path(number).with_suffix('')} is damaged: {said}; "
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

    def data(self, rounds: int) -> Path:
        """Return the file with a checkpoint's numbers; raises as `facts` does."""
        return self._data_path(rounds, self._head(rounds))

    def digest(self, rounds: int) -> str:
        """Return the digest of a checkpoint's head, which has that of its numbers.

        Raises ValueError or OSError if the head is damaged.
        """
        return _digest(self._head(rounds))

    def rows(self, rounds: int, client_id: int) -> dict[str, Vector]:
        """Return what a checkpoint holds of a client, and its global parameters."""
        head = self._head(rounds)
        found = self.form.rows(self._data_path(rounds, head), client_id)
        place = head["ledger"]["local"].get(str(client_id))
        # The other last local models are of clients that stay, or leave later.
        others = {n for n in found if n.startswith("local ")} - {f"local {place}"}
        return {name: row for name, row in found.items() if name not in others}

    def verify(self, rounds: int) -> None:
        """Raise FedNegError unless a checkpoint is whole."""
        try:
            self._whole(rounds)
        except OtherCheckpointError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            said = getattr(error, "strerror", None) or str(error)
            stem = self._head_path(rounds).with_suffix("")
            raise FedNegError(f"{stem} is damaged: {said}") from None

    def stamp(self, rounds: int) -> tuple[object, ...]:
        """Return what changes with the files of a checkpoint; empty without a head."""
        found: list[object] = []
        for path in (self._head_path(rounds), *self._all_data(rounds)):
            try:
                stat = path.stat()
            except OSError:
                if not found:
                    return ()
                continue  # removed meanwhile, or a link to nothing
            found.append((path.name, stat.st_ino, stat.st_size, stat.st_mtime_ns))
        return tuple(found)

    def unnamed(self) -> list[Path]:
        """Return files with numbers that no head names; a damaged head names all."""
        return [p for rounds in self._places() for p in self._unnamed(rounds)]

    def remove(self, rounds: int) -> list[Path]:
        """Remove one checkpoint and return its files."""
        head = self._head_path(rounds)
        gone = [head] if head.exists() else []
        gone += self._all_data(rounds)
        for path in gone:  # the head first: without it the rest does not count
            remove(path)
        return gone

    def _head_path(self, rounds: int) -> Path:
        return self.folder / f"round-{rounds:06d}.json"

    def _data_path(self, rounds: int, head: Mapping[str, Any]) -> Path:
        """Return the file that a head names; those of schema 1 name none."""
        name = str(head.get("data", f"round-{rounds:06d}.safetensors"))
        if (_parsed(name) or (None,))[0] != rounds:
            raise ValueError(f"its head names {name!r} as its data")
        return self.folder / name

    def _new_data_path(self, rounds: int) -> Path:
        """Return a name for numbers that no file has."""
        taken = [found[1] for p in self._all_data(rounds) if (found := _parsed(p.name))]
        number = max(taken, default=0) + 1
        more = f"-{number}" if number > 1 else ""
        return self.folder / f"round-{rounds:06d}{more}.safetensors"

    def _all_data(self, rounds: int) -> list[Path]:
        """Return every file with numbers of a round, named by its head or not."""
        return [path for place, path in self._numbers() if place == rounds]

    def _numbers(self) -> list[tuple[int, Path]]:
        """Return round and path of every file with numbers, in order."""
        paths = sorted(self.folder.glob("round-*.safetensors"))
        return [(found[0], p) for p in paths if (found := _parsed(p.name))]

    def _whole(self, rounds: int) -> tuple[dict[str, Any], Path]:
        """Return a checkpoint's head and the path of its numbers, if both are whole."""
        content = self._head(rounds)
        data = self._data_path(rounds, content)
        # Before anything is read from it: a library's parser is no judge of damage.
        if sha256_of(data) != content["sha256"]:
            raise ValueError(f"the sha256 of {data.name} is not {content['sha256']}")
        return content, data

    def _read(self, rounds: int, ledger: Ledger) -> Restored:
        """Return one checkpoint; raises what is wrong with it."""
        content, data = self._whole(rounds)
        if content["initial"] != ledger.origin:
            raise OtherCheckpointError(
                f"{data} is whole, but starts from other initial parameters than this "
                "run; go on with the settings and the version of torch that made it"
            )
        # From here on no byte is wrong, and the ledger may change.
        parameters, initial = np.empty_like(ledger.initial), ledger.initial.copy()
        try:
            self.form.read(data, parameters, ledger)
        except OSError as error:
            # Not damage: the ledger may be half filled, and no training may go on.
            raise FedNegError(f"{data} cannot be read: {error.strerror}") from error
        deviation = ledger.deviation(parameters)
        if deviation > TOLERANCE:
            ledger.start_over(initial)
            raise ValueError(
                f"the rows in {data.name} do not add up to its global parameters: they "
                f"are {deviation:.2g} of them apart, more than {TOLERANCE:g}"
            )
        ledger.restore_facts(content["ledger"])
        return Restored(rounds, parameters, content["facts"])

    def _head(self, rounds: int) -> dict[str, Any]:
        """Return a checkpoint's JSON; raises what is wrong with it."""
        head = self._head_path(rounds)
        content: dict[str, Any] = json.loads(head.read_bytes())
        claimed = content.pop("digest")
        if claimed != _digest(content):
            raise ValueError(f"the digest of {head.name} is not {claimed}")
        if content["schema"] not in range(1, SCHEMA + 1):
            raise OtherCheckpointError(
                f"{head} is of schema {content['schema']}, and this version of fedneg "
                f"reads schemas 1 to {SCHEMA}; go on with the version that made it"
            )
        if content["rounds"] != rounds:
            raise ValueError(f"{head.name} is of round {content['rounds']}")
        return content

    def _keep(self, count: int) -> None:
        """Remove all but the latest checkpoints."""
        for number in self.rounds()[:-count]:
            self.remove(number)

    def tidy(self) -> None:
        """Remove what a killed run left half-written; the entry is locked."""
        for path in leftovers(self.folder, ".*"):
            path.unlink(missing_ok=True)
        for rounds in self._places():
            self._drop_unnamed(rounds)

    def _places(self) -> list[int]:
        """Return the rounds of which there is a file with numbers."""
        return sorted({place for place, _ in self._numbers()})

    def _drop_unnamed(self, rounds: int) -> None:
        """Remove the files of a round that its head does not name."""
        for path in self._unnamed(rounds):
            remove(path)

    def _unnamed(self, rounds: int) -> list[Path]:
        """Return the files of a round that its head does not name.

        All of them without a head; none if the head cannot be read, since nobody knows
        which of them it named.
        """
        named = None
        if self._head_path(rounds).exists():
            try:
                named = self._data_path(rounds, self._head(rounds))
            except (OSError, ValueError, KeyError, TypeError, FedNegError):
                return []
        return [path for path in self._all_data(rounds) if path != named]


def _parsed(name: str) -> tuple[int, int] | None:
    """Return a data file's round, and which writing of it (1, 2, ..) it is."""
    found = re.fullmatch(r"round-([0-9]{6,})(?:-([0-9]+))?\.safetensors", name)
    return (int(found[1]), int(found[2] or 1)) if found else None


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, sort_keys=True, indent=1) + "\n").encode()


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(_json(content)).hexdigest()
