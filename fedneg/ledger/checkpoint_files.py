"""The files of checkpoints: which there are, which count, and which go.

A checkpoint is two files: ``round-000007.safetensors`` holds its numbers, and
``round-000007.json``, its *head*, the rest, with name and digest of the first file and
a digest of its own. What no head names does not count. Where a round's checkpoint is
written again, its numbers have a new name (``round-000007-2.safetensors``). How one is
written, switched to and restored is in checkpoint.py.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from fedneg.core.errors import FedNegError
from fedneg.core.files import leftovers, remove
from fedneg.core.parameters import Vector
from fedneg.core.reading import open_regular, read_json
from fedneg.ledger.checkpoint_forms import Form, OtherCheckpointError, Plain
from fedneg.ledger.tensors import sha256_of

SCHEMA = 2  # 1: the data file had the head's own name
# What reading a file raises that is not as it was written.
_DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError)


class DamagedCheckpointError(FedNegError):
    """A file of a checkpoint is missing, or not as it was written; it names which."""


class CheckpointFiles:
    """The files of the checkpoints of one training, in a folder of their own.

    Whatever reads one raises `DamagedCheckpointError` if it is damaged, and
    `OtherCheckpointError` if another version of fedneg made it.

    Parameters
    ----------
    folder : Path
    form : Form
        How the numbers are written; by default as they are.
    """

    def __init__(self, folder: Path, *, form: Form | None = None) -> None:
        self.folder = folder
        self.form = Plain() if form is None else form

    # -- which there are ---------------------------------------------------------------

    def rounds(self) -> list[int]:
        """Return the rounds of which there is a checkpoint, whole or not, ascending."""
        names = (path.stem for path in self.folder.glob("round-*.json"))
        return sorted(int(name[6:]) for name in names if name[6:].isdigit())

    def stem(self, rounds: int) -> Path:
        """Return what the files of a checkpoint are called, without their endings."""
        return self.folder / f"round-{rounds:06d}"

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

    # -- what they hold ----------------------------------------------------------------

    def facts(self, rounds: int) -> Mapping[str, Any]:
        """Return the facts of one checkpoint; its numbers are not looked at."""
        with self._reading(rounds):
            found: Mapping[str, Any] = self._head(rounds)["facts"]
            return found

    def data(self, rounds: int) -> Path:
        """Return the file with a checkpoint's numbers, which are not looked at."""
        with self._reading(rounds):
            return self._data(rounds, self._head(rounds))

    def digest(self, rounds: int) -> str:
        """Return the digest of a checkpoint's head, which has that of its numbers."""
        with self._reading(rounds):
            return digest_of_head(self._head(rounds))

    def rows(self, rounds: int, client_id: int) -> dict[str, Vector]:
        """Return what a checkpoint holds of a client, and its global parameters."""
        with self._reading(rounds):
            head = self._head(rounds)
            found = self.form.rows(self._data(rounds, head), client_id)
            place = head["ledger"]["local"].get(str(client_id))
            # The other last local models are of clients that stay, or leave later.
            others = {n for n in found if n.startswith("local ")} - {f"local {place}"}
            return {name: row for name, row in found.items() if name not in others}

    def verify(self, rounds: int) -> None:
        """Return if a checkpoint is whole, and raise what is wrong with it if not."""
        with self._reading(rounds):
            self._whole(rounds)

    # -- which go ----------------------------------------------------------------------

    def remove(self, rounds: int) -> list[Path]:
        """Remove one checkpoint and return its files."""
        head = self._head_path(rounds)
        gone = [head] if head.exists() else []
        gone += self._all_data(rounds)
        for path in gone:  # the head first: without it the rest does not count
            remove(path)
        return gone

    def tidy(self) -> None:
        """Remove what a killed run left half-written; the entry is locked."""
        for path in leftovers(self.folder, ".*"):
            path.unlink(missing_ok=True)
        for rounds in self._places():
            self._drop_unnamed(rounds)

    # -- names -------------------------------------------------------------------------

    def _head_path(self, rounds: int) -> Path:
        return self.stem(rounds).with_suffix(".json")

    def _data_path(self, rounds: int, head: Mapping[str, Any]) -> Path:
        """Return the name that a head gives; those of schema 1 give none."""
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

    def _places(self) -> list[int]:
        """Return the rounds of which there is a file with numbers."""
        return sorted({place for place, _ in self._numbers()})

    def _drop_unnamed(self, rounds: int) -> None:
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
                with self._reading(rounds):
                    named = self._data_path(rounds, self._head(rounds))
            except FedNegError:
                return []
        return [path for path in self._all_data(rounds) if path != named]

    # -- reading -----------------------------------------------------------------------

    @contextmanager
    def _reading(self, rounds: int) -> Iterator[None]:
        """Let what goes wrong say that the checkpoint is damaged."""
        try:
            yield
        except (*_DAMAGE, SafetensorError) as error:
            said = getattr(error, "strerror", None) or str(error)
            raise DamagedCheckpointError(
                f"{self.stem(rounds)} is damaged: {said}"
            ) from None

    def _head(self, rounds: int) -> dict[str, Any]:
        head = self._head_path(rounds)
        content: dict[str, Any] = read_json(head)
        claimed = content.pop("digest")
        if claimed != digest_of_head(content):
            raise ValueError(f"the digest of {head.name} is not {claimed}")
        if content["schema"] not in range(1, SCHEMA + 1):
            raise OtherCheckpointError(
                f"{head} is of schema {content['schema']}, and this version of fedneg "
                f"reads schemas 1 to {SCHEMA}; go on with the version that made it"
            )
        if content["rounds"] != rounds:
            raise ValueError(f"{head.name} is of round {content['rounds']}")
        return content

    def _data(self, rounds: int, head: Mapping[str, Any]) -> Path:
        """Return the file that a head names; it is a file, and no pipe."""
        path = self._data_path(rounds, head)
        open_regular(path).close()
        return path

    def _whole(self, rounds: int) -> tuple[dict[str, Any], Path]:
        """Return a checkpoint's head and the path of its numbers, if both are whole."""
        content = self._head(rounds)
        data = self._data(rounds, content)
        # Before anything is read from it: a library's parser is no judge of damage.
        if sha256_of(data) != content["sha256"]:
            raise ValueError(f"the sha256 of {data.name} is not {content['sha256']}")
        return content, data


def digest_of_head(content: Mapping[str, Any]) -> str:
    """Return the digest of what a head says, itself left out."""
    return hashlib.sha256(_json(content)).hexdigest()


def head_bytes(content: Mapping[str, Any]) -> bytes:
    """Return the file of a head: what it says, and its digest."""
    return _json({**content, "digest": digest_of_head(content)})


def _parsed(name: str) -> tuple[int, int] | None:
    """Return a data file's round, and which writing of it (1, 2, ..) it is."""
    found = re.fullmatch(r"round-([0-9]{6,})(?:-([0-9]+))?\.safetensors", name)
    return (int(found[1]), int(found[2] or 1)) if found else None


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, sort_keys=True, indent=1) + "\n").encode()
