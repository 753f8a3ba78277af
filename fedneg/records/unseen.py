"""Whose requests are about nobody that the federation has seen: perhaps a mistyped id.

Such a request is carried out all the same: a client may ask before it ever trains.
"""

from collections.abc import Sequence
from pathlib import Path

from fedneg.core.errors import FedNegError
from fedneg.core.reading import read_regular
from fedneg.ledger.checkpoint import Checkpoints
from fedneg.records.kept import Kept
from fedneg.records.requests import ACCEPTED, Request
from fedneg.records.scan_windows import loaded


def unseen(folder: Path, requests: Sequence[Request]) -> set[int]:
    """Return the clients that took part in no round, as far as the files tell.

    Parameters
    ----------
    folder : Path
        Of the state. Nothing is written, and no key is needed.
    requests : sequence of Request
        Of an accepted one the last checkpoint tells; of others their scan windows.
    """
    there = _in_model(folder)
    return {
        request.client_id
        for request in requests
        if (
            request.client_id not in there
            if request.status == ACCEPTED
            else not _took_part(folder / "fingerprints" / f"{request.id}.json")
        )
    }


def _in_model(folder: Path) -> set[int]:
    """Return who is in the model, by the last checkpoint that can be read."""
    checkpoints = Checkpoints(folder / "checkpoints")
    for number in reversed(checkpoints.rounds()):
        try:
            return set(Kept.read(checkpoints, number).contains)
        except FedNegError:
            continue  # damaged, or just removed by a run
    return set()


def _took_part(path: Path) -> bool:
    """Return whether a client did, by what a purge looks for; True if nothing tells."""
    try:
        _, _, took_part = loaded(read_regular(path))
    except (OSError, ValueError):
        return True
    return took_part
