"""What lies in a state folder and is none of fedneg's: old copies above all.

fedneg's own are the files that it writes there, and what a kill leaves of one. All else
is a *stranger*. Notes and pictures do no harm; one that lies in a folder of fedneg's,
or may hold numbers of clients (arrays, archives and databases, by their first bytes,
whatever they are called), is a fault: nobody holds it to the log, and no purge makes it
anew. Numbers without any form are for `fedneg scan` to find.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedneg.core.errors import FedNegError
from fedneg.core.reading import open_regular
from fedneg.records.account import ENDED, Account
from fedneg.records.walk import Walk, shown

_FORGET = r"forget-(0|[1-9][0-9]*)\.json"
_OWN = re.compile(
    r"federation\.(json|id)|audit\.jsonl|model\.safetensors|status\.json|history\.csv"
    r"|roster\.(json|lock)|lock|\.gitignore"
)
_OWN_IN = {
    "checkpoints": re.compile(r"round-[0-9]{6,}(\.json|(-[0-9]+)?\.safetensors)"),
    "requests": re.compile(rf"{_FORGET}|\.lock"),
    "receipts": re.compile(_FORGET),
    "fingerprints": re.compile(_FORGET),
}
# So many are named at a start, and the others counted.
NAMED = 3
# Whose other files are named by who compares them with the log.
_NAMED = ("requests", "receipts")
# How `fedneg.core.files` names what it has not finished.
_UNFINISHED = re.compile(r"\.(.+)\.[0-9a-f]{16}")
_MAGIC = (
    (0, b"\x93NUMPY", "a file of arrays"),
    (0, b"\x89HDF\r\n", "a file of arrays"),
    (0, b"PK\x03\x04", "an archive, or a file of arrays"),
    (0, b"\x1f\x8b", "an archive"),
    (0, b"BZh", "an archive"),
    (0, b"\xfd7zXZ", "an archive"),
    (0, b"\x28\xb5\x2f\xfd", "an archive"),
    (0, b"7z\xbc\xaf", "an archive"),
    (257, b"ustar", "an archive"),
    (0, b"SQLite format 3\0", "a database"),
)


@dataclass(frozen=True)
class Stranger:
    """A file that is none of fedneg's.

    Attributes
    ----------
    path : Path
    fault : str
        What is wrong with it; empty if nothing is.
    goes : bool
        Whether it is what a kill left half-written, and the next start removes.
    """

    path: Path
    fault: str = ""
    goes: bool = False


def strangers(folder: Path, account: Account, *, look: bool = True) -> list[Stranger]:
    """Return what is in a state folder and none of fedneg's, in order.

    Parameters
    ----------
    look : bool
        Look into folders, links and files; else what lies at the top is named alone.
    """
    found: list[Stranger] = []
    rests = account.is_newest(ENDED)
    for path in _in(folder):
        if path.name in _OWN_IN and path.is_dir():
            own, hidden = _OWN_IN[path.name], path.name in _NAMED
            for inner in _in(path):
                if own.fullmatch(inner.name) or (hidden and inner.name[0] != "."):
                    continue
                goes = _is_unfinished(inner.name, own, rests)
                fault = "" if goes else "is none of fedneg's, in a folder of its own"
                found.append(Stranger(inner, fault, goes))
        elif not (_OWN.fullmatch(path.name) or _is_unfinished(path.name, _OWN, rests)):
            found += _looked_at(path) if look else [Stranger(path)]
    return found


def lasting_strangers(folder: Path, account: Account) -> list[Stranger]:
    """Return the `strangers`, and of faults those that a second look finds, too.

    By a log that was read before a run began, what that writes would be one.
    """
    found = strangers(folder, account)
    if any(stranger.fault for stranger in found):
        log = Account(account.path, account.public).refresh()
        again = strangers(folder, log)
        found = [s for s in found if s in again or not s.fault]
    return found


def notices_of(folder: Path, account: Account) -> list[str]:
    """Return what a start says of strangers: the first few, and how many more."""
    odd = [s for s in strangers(folder, account, look=False) if not s.goes]
    look = "`fedneg audit` looks into it"
    said = [
        f"{shown(stranger.path)} is none of fedneg's files; {look}"
        for stranger in odd[:NAMED]
    ]
    if len(odd) > NAMED:
        said.append(f"{len(odd) - NAMED} more files in {folder} are none of fedneg's")
    return said


def _in(folder: Path) -> list[Path]:
    """Return what lies in a folder; nothing if nobody can look into it."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _is_unfinished(name: str, own: re.Pattern[str], rests: bool) -> bool:
    """Return whether a name is of what a kill left of an own file.

    A run that came to its end leaves no half of a checkpoint, or of a model.
    """
    found = _UNFINISHED.fullmatch(name)
    if found is None or (rests and found[1].endswith(".safetensors")):
        return False
    return own.fullmatch(found[1]) is not None


def _looked_at(path: Path) -> Iterator[Stranger]:
    """Yield a file, or all below a folder and behind a link, with what it holds."""
    try:
        walk = Walk([path])
        files = list(walk.files())
    except FedNegError as error:
        # A pipe, or a link to nothing, holds nothing; what cannot be read may.
        fault = f"cannot be looked into: {error}" if path.is_dir() else ""
        yield Stranger(path, fault)
        return
    for file in files:
        kind = _kind(file)
        yield Stranger(file, f"is none of fedneg's, and {kind}" if kind else "")
    if not files:
        yield Stranger(path)


def _kind(path: Path) -> str:
    """Return what a file is that may hold numbers of clients; empty for others."""
    try:
        with open_regular(path) as file:
            size = file.seek(0, 2)
            file.seek(0)
            head = file.read(512)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    for start, magic, kind in _MAGIC:
        if head[start:].startswith(magic):
            return kind
    # safetensors: the length of a JSON object, and then that.
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and 2 <= length <= size - 8:
        return "a file of arrays"
    return ""
