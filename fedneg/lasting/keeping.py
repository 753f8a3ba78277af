"""A checkpoint of a federation that lasts, written so that a kill does no harm.

In this order: the entry of the log, the scan windows that it names, the checkpoint.
"""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from fedneg.core.errors import FedNegError
from fedneg.core.parameters import Vector, digest_of_model
from fedneg.lasting.remnants import Remnants
from fedneg.records.account import ENDED, KEPT
from fedneg.records.kept import Kept
from fedneg.records.state import State


def write_kept(
    state: State,
    remnants: Remnants,
    kept: Kept,
    parameters: Vector,
    server_round: int,
    *,
    event: str = KEPT,
    clients: Sequence[int] = (),
    scan_windows: Mapping[int, bytes] | None = None,
) -> None:
    """Write a checkpoint, with its entry before it.

    Parameters
    ----------
    remnants : Remnants
        Of the checkpoints that it is one of, and of whoever trains.
    kept : Kept
        What it is to hold beside ledger and parameters.
    parameters : Vector
        The global model; statistics after the parameters.
    server_round : int
        Rounds of every kind so far.
    event : str
        The entry's; `clients` are of whom it tells.
    scan_windows : mapping of client id to bytes, optional
        The files that the entry names, and that must be there when the checkpoint is.
    """
    told: dict[str, Any] = {"clients": list(clients)} if clients else {}
    if scan_windows is not None:
        told["fingerprints"] = {
            str(k): hashlib.sha256(content).hexdigest()
            for k, content in scan_windows.items()
        }
    model = digest_of_model(parameters)
    state.audit.append(event, round=server_round, model=model, **told)
    remnants.write_scan_windows(scan_windows or {})
    ledger = remnants.trainer.ledger
    remnants.checkpoints.write(server_round, parameters, ledger, kept.facts())


def write_end(state: State, remnants: Remnants, server_round: int) -> None:
    """Say that nothing is left to do, and with which checkpoints.

    No act of this run is missing any more, and nobody writes until the next.
    """
    left = {}
    for number in remnants.checkpoints.rounds():
        with suppress(FedNegError):
            left[number] = remnants.checkpoints.digest(number)
    state.audit.append(ENDED, round=server_round, checkpoints=left)
