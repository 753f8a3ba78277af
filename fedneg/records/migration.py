"""A state that an older fedneg wrote, brought to what this one holds it to.

Schema 1 wrote entries after their acts, and neither ids nor checkpoints into the log.
What is there is compared with what the old log has, and becomes one entry, 'migrated',
from which on the log is the truth. It is done once: a log with an entry of the new kind
is never migrated, whatever ``federation.json`` says of its schema.
"""

import hashlib
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedneg.core.errors import FedNegError
from fedneg.core.parameters import digest_of_model
from fedneg.core.reading import read_regular
from fedneg.ledger.checkpoint import Checkpoints
from fedneg.records.account import Account, Asked
from fedneg.records.facts import Facts
from fedneg.records.identity import disagreement
from fedneg.records.pins import Pins
from fedneg.records.requests import ACCEPTED, Request, Requests
from fedneg.records.scan_windows import loaded


def id_of_old(folder: Path, keys: Path, account: Account, facts: Facts | None) -> str:
    """Return the id of an old state; made if it has none.

    Raises
    ------
    FedNegError
        If state, keys and log contradict each other.
    """
    mine = facts.id if facts else ""
    federation = mine or account.federation or str(uuid.uuid4())
    contradiction = disagreement(folder, keys, federation)
    if not contradiction and account.federation not in ("", federation):
        contradiction = (
            f"{account.path} is the log of federation {account.federation}, and "
            f"{folder / 'federation.json'} of {federation}"
        )
    if contradiction:
        raise FedNegError(contradiction)
    return federation


def found_in(
    requests: Requests,
    receipts: Path,
    scan_windows: Path,
    roster: Path,
    checkpoints: Checkpoints,
    account: Account,
) -> dict[str, Any]:
    """Return what the entry 'migrated' says of an old state, but for id and settings.

    Raises
    ------
    FedNegError
        If a request or receipt is not what the old log says, or the scan windows of a
        client that is out are not there; it is named.
    """
    asked = asked_in(requests, receipts, scan_windows, account)
    names = {f"forget-{client_id}" for client_id in asked}
    return {
        "from_schema": 1,
        "requests": {str(k): asdict(found) for k, found in asked.items()},
        "requests_without_entry": sorted(names - account.found),
        "roster": {str(k): asdict(pin) for k, pin in Pins(roster).all().items()},
        "checkpoints": _models(checkpoints),
    }


def asked_in(
    requests: Requests, receipts: Path, scan_windows: Path, account: Account
) -> dict[int, Asked]:
    """Return what the new log is to say of requests, by client; raises as `found_in`.

    For who only looks, too: no key is needed.
    """
    asked = {request.client_id: request for request in requests.all()}
    for name in sorted(account.found - {request.id for request in asked.values()}):
        raise FedNegError(
            f"{requests.folder / name}.json is missing, and the audit log says that "
            f"{name} was accepted; restore it"
        )
    return {
        k: _asked(request, receipts, scan_windows, account)
        for k, request in asked.items()
    }


def _asked(
    request: Request, receipts: Path, scan_windows: Path, account: Account
) -> Asked:
    """Return what the new log is to say of a request."""
    path = receipts / f"{request.id}.json"
    logged = account.old_receipts.get(request.id)
    try:
        there = hashlib.sha256(read_regular(path)).hexdigest()
    except FileNotFoundError:
        there = None
    if not request.is_open and (there is None or there != logged):
        what = "is missing" if there is None else "is not the one in the audit log"
        raise FedNegError(f"{path} {what}, and {request.id} is done; restore it")
    return Asked(
        request.received,
        request.due,
        request.reason_sha256,
        request.status,
        receipts=[] if there is None else [there],
        fingerprints=_sha256_of_scan_windows(request, scan_windows),
    )


def _sha256_of_scan_windows(request: Request, folder: Path) -> str | None:
    """Return what the new log is to say of them; None before there need be any."""
    if request.status == ACCEPTED:
        return None
    path = folder / f"{request.id}.json"
    try:
        data = read_regular(path)
        if loaded(data)[0] != request.client_id:
            raise ValueError("it is of another client")
    except FileNotFoundError:
        raise FedNegError(
            f"{path} is missing, and {request.id} is {request.status}; restore it"
        ) from None
    except (OSError, ValueError) as error:
        raise FedNegError(
            f"{path} holds no scan windows, and {request.id} is {request.status}; "
            f"restore it ({error})"
        ) from None
    return hashlib.sha256(data).hexdigest()


def _models(checkpoints: Checkpoints) -> list[list[Any]]:
    """Return round and model of every whole checkpoint."""
    found = []
    for number in checkpoints.rounds():
        try:
            checkpoints.verify(number)
        except FedNegError:
            continue
        # Nobody's rows: the global parameters alone.
        model = checkpoints.rows(number, -1)["global"]
        found.append([number, digest_of_model(model)])
    return found
