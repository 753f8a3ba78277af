"""The last entry of the audit log, as the keys folder knows it: ``log.head``.

A state restored from an older backup, its log with it, agrees with itself. Its keys,
which lie elsewhere, know better: they have number and digest of the newest entry. After
a kill, or with keys from a backup, that may be an earlier one than the log's last: it
must then be found in the log.
"""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from fedneg.core.errors import FedNegError
from fedneg.core.files import leftovers, write_bytes
from fedneg.core.reading import read_json

HEAD_NAME = "log.head"
_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Head:
    """Number and digest of an entry of the audit log."""

    seq: int
    digest: str

    def __post_init__(self) -> None:
        if type(self.seq) is not int or self.seq < 1:
            raise ValueError(f"its seq is {self.seq!r:.20}")
        if not (isinstance(self.digest, str) and _DIGEST.fullmatch(self.digest)):
            raise ValueError(f"its digest is {self.digest!r:.80}")


def read_head(path: Path) -> Head | None:
    """Return what the keys know; None where an older fedneg wrote nothing.

    Raises
    ------
    FedNegError
        If the file cannot be read, or names no entry.
    """
    try:
        return Head(**read_json(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FedNegError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError):
        raise FedNegError(
            f"{path} must hold seq and digest of the last entry of the audit log; it "
            "is damaged: restore it, or remove it if no newer log is anywhere"
        ) from None


def write_head(path: Path, head: Head) -> None:
    """Let the keys know an entry; who writes holds the log. Raises OSError."""
    write_bytes(path, (json.dumps(asdict(head)) + "\n").encode())


def tidy_head(path: Path) -> None:
    """Remove what a killed writer left; the log is held."""
    for left in leftovers(path.parent, f".{path.name}.*"):
        left.unlink(missing_ok=True)


def contradiction(log: Path, path: Path, head: Head, digest: str) -> str:
    """Return how a log contradicts what the keys know; empty if it does not.

    Parameters
    ----------
    path : Path
        Of what they know.
    digest : str
        Of the log's entry of that number; empty if it ends before.
    """
    if digest == head.digest:
        return ""
    if not digest:
        return (
            f"the log {log} ends before entry {head.seq} that the keys know ({path}): "
            "restore the newer one, with its state"
        )
    return (
        f"the log {log} has another entry {head.seq} than the keys know ({path}): it "
        "was written anew; restore the right one, with its state"
    )
