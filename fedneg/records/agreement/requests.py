"""Requests, and the scan windows of whom they were about, held to the log."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedneg.core.errors import FedNegError
from fedneg.core.reading import read_regular
from fedneg.ledger.checkpoint import Checkpoints
from fedneg.records.account import Account, Asked
from fedneg.records.agreement.difference import Difference
from fedneg.records.kept import Kept
from fedneg.records.requests import (
    ACCEPTED,
    DONE,
    NAME,
    UNLEARNED,
    Request,
    Requests,
    logged,
)
from fedneg.records.scan_windows import loaded


def of_requests(requests: Requests, account: Account) -> Iterator[Difference]:
    """Yield how the files of requests differ; who completes it holds the queue."""
    found = {request.client_id: request for request in requests.all()}
    newest = account.newest.get("requests", {"event": "", "facts": {}})
    for client_id, asked in account.requests.items():
        path = requests.folder / f"forget-{client_id}.json"
        request = found.pop(client_id, None)
        if request is None:
            if (
                asked.status == ACCEPTED
                and newest["event"] == ACCEPTED
                and newest["facts"]["client"] == client_id
            ):
                yield Difference(
                    f"{path} is made again from the audit log, without its reason",
                    _remaking(requests, client_id, asked.received, asked.due),
                )
            else:
                yield Difference(
                    f"{path} is missing, and the audit log says that forget-"
                    f"{client_id} is {asked.status}; restore it"
                )
            continue
        told = logged(request)
        for name in ("received", "due", "reason_sha256"):
            if told[name] != getattr(asked, name):
                what = name.removesuffix("_sha256")
                yield Difference(f"{path} has another {what} than the audit log says")
        yield from _of_status(requests, request, asked.status, newest)
    for client_id in found:
        yield Difference(
            f"{requests.folder / f'forget-{client_id}.json'} has no entry in the audit "
            "log: it was not accepted there"
        )


def _of_status(
    requests: Requests, request: Request, status: str, newest: Mapping[str, Any]
) -> Iterator[Difference]:
    """Yield how far a request is by its file and how far by the log."""
    path = requests.folder / f"{request.id}.json"
    if request.is_open == (status != DONE):
        return  # accepted or unlearned: the checkpoint decides
    if (
        request.status not in (ACCEPTED, DONE)
        and newest["event"] == DONE
        and request.client_id in newest["facts"]["clients"]
    ):
        done = replace(request, status=DONE)
        yield Difference(
            f"{request.id} is marked done, as the audit log says",
            lambda: requests.write(done),
        )
        return
    yield Difference(
        f"{path} says that it is {request.status}, and the audit log that it is "
        f"{status}"
    )


def _remaking(
    requests: Requests, client_id: int, received: str, due: str
) -> Callable[[], object]:
    """Make a request's file again, with an entry for it, when called."""
    request = Request(client_id, received, due)

    def remake() -> None:
        requests.record(ACCEPTED, **logged(request), remade=True)
        requests.write(request)

    return remake


def of_scan_windows(
    folder: Path, checkpoints: Checkpoints, account: Account
) -> Iterator[Difference]:
    """Yield which scan windows of the forgotten are not those that the log names.

    By them alone a purge, and every later one, knows what to look for.
    """
    for client_id, asked in account.requests.items():
        if asked.fingerprints is None or _is_repeated(client_id, checkpoints, account):
            continue
        path = folder / f"forget-{client_id}.json"
        wrong = _wrong_scan_windows(path, client_id, asked)
        if wrong:
            yield Difference(
                f"{path} {wrong}, and forget-{client_id} is {asked.status}: what is "
                "left of the client would be looked for by nobody; restore it"
            )
    for path in sorted(folder.glob("forget-*.json")):
        match = NAME.fullmatch(path.name)
        if match is not None and int(match[1]) not in account.requests:
            yield Difference(
                f"{path} is of a client that never asked, by the audit log; remove it"
            )


def _wrong_scan_windows(path: Path, client_id: int, asked: Asked) -> str:
    """Return what is wrong with a client's file; of an old log, it must be one."""
    try:
        data = read_regular(path)
        found, _, _ = loaded(data)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except ValueError:
        return "holds no scan windows"
    if found != client_id:
        return f"is of client {found}"
    if asked.fingerprints and hashlib.sha256(data).hexdigest() != asked.fingerprints:
        return "is not the one that the audit log names: its sha256 is another"
    return ""


def _is_repeated(client_id: int, checkpoints: Checkpoints, account: Account) -> bool:
    """Return whether a kill came before the checkpoint by which a client is out.

    The unlearn round is then repeated, and writes the file anew.
    """
    newest = account.newest.get("run")
    if newest is None or newest["event"] != UNLEARNED:
        return False
    facts = newest["facts"]
    written = facts.get("fingerprints", {str(k) for k in facts["clients"]})
    if str(client_id) not in written:
        return False
    try:
        return Kept.read(checkpoints, facts["round"]).model != str(facts["model"])
    except FedNegError:
        return True
