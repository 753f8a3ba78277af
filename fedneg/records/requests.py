"""The durable queue of requests to be forgotten: one small JSON file each.

A request exists from the moment the audit log has its entry, and its file follows; from
then on its client is out of every round, also after a restart. There is one request for
a client, ever: asking again finds it.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from fedneg.core.errors import FedNegError
from fedneg.core.files import write_bytes
from fedneg.core.locks import locked
from fedneg.core.reading import read_json
from fedneg.core.texts import check_text
from fedneg.ledger.tensors import sync_folder

ACCEPTED, UNLEARNED, DONE = "accepted", "unlearned", "done"
NAME = re.compile(r"forget-(0|[1-9][0-9]*)\.json")


@dataclass(frozen=True)
class Request:
    """A client's request to be forgotten.

    Attributes
    ----------
    client_id : int
    received : str
        UTC, ISO 8601.
    due : str
        A date, ISO 8601.
    reason : str
        The operator's words; stays in the state folder.
    status : str
        accepted; unlearned (its contribution is out of the model, the rest is not yet
        done); or done (purged, with a receipt).
    """

    client_id: int
    received: str
    due: str
    reason: str = ""
    status: str = ACCEPTED

    def __post_init__(self) -> None:
        if self.status not in (ACCEPTED, UNLEARNED, DONE):
            raise ValueError(f"its status is {self.status!r}")
        if type(self.client_id) is not int or not isinstance(self.reason, str):
            raise ValueError("its client_id is no whole number, or its reason no text")
        date.fromisoformat(self.due)
        datetime.fromisoformat(self.received)

    @property
    def id(self) -> str:
        """The request's name, such as forget-3."""
        return f"forget-{self.client_id}"

    @property
    def reason_sha256(self) -> str:
        """What the audit log has of the reason."""
        return hashlib.sha256(self.reason.encode()).hexdigest()

    @property
    def is_open(self) -> bool:
        """Whether something is left to do."""
        return self.status != DONE

    @property
    def days_left(self) -> int:
        """Days until it is due; negative when overdue."""
        return (date.fromisoformat(self.due) - datetime.now(UTC).date()).days


class Requests:
    """The requests of a federation, in a folder.

    Parameters
    ----------
    folder : Path
    record : callable, optional
        Given an event and its facts before a request is accepted or done: it raises, or
        they are in the audit log when it returns.
    agree : callable, optional
        Called while the queue is held, before anything is recorded: raises unless the
        queue is what the log says.
    """

    def __init__(
        self,
        folder: Path,
        *,
        record: Callable[..., object] = lambda event, **facts: None,
        agree: Callable[[], object] = lambda: None,
    ) -> None:
        self.folder, self.record, self.agree = folder, record, agree

    def all(self) -> list[Request]:
        """Return all requests, in the order in which they came.

        Raises
        ------
        FedNegError
            If a file is no request: whom it was about nobody may guess.
        """
        found: list[Request] = []
        if not self.folder.is_dir():
            return found
        for path in sorted(self.folder.iterdir()):
            if path.name.startswith("."):  # a lock, or a write that was cut short
                continue
            match = NAME.fullmatch(path.name)
            try:
                if match is None:
                    raise ValueError("its name is not forget-<client id>.json")
                content: dict[str, Any] = read_json(path)
                if isinstance(content.get("reason"), str):
                    # Older versions accepted what no receipt can hold.
                    text = content["reason"].encode(errors="backslashreplace")
                    content["reason"] = text.decode()
                request = Request(**content)
                if request.client_id != int(match[1]):
                    raise ValueError(f"it is about client {request.client_id}")
            except (OSError, ValueError, TypeError, AttributeError) as error:
                raise FedNegError(f"{path} is no request: {error}") from None
            found.append(request)
        return sorted(found, key=lambda r: (r.received, r.client_id))

    def excluded(self) -> frozenset[int]:
        """Return the client ids of all requests, done or not."""
        return frozenset(request.client_id for request in self.all())

    def open(self) -> list[Request]:
        """Return those that are not done."""
        return [request for request in self.all() if request.is_open]

    def of(self, client_id: int) -> Request | None:
        """Return a client's request, or None."""
        return next((r for r in self.all() if r.client_id == client_id), None)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the queue: who looks and then writes must not be overtaken."""
        with locked(self.folder / ".lock", "the queue of requests"):
            yield

    def accept(
        self, client_id: int, *, clients: int | None, due_days: float, reason: str = ""
    ) -> tuple[Request, bool]:
        """Return the client's request, and whether it is new; it is on the disk.

        Parameters
        ----------
        clients : int, optional
            K of the federation; None where any client may come and go.
        due_days : float
            From now.

        Raises
        ------
        FedNegError
            If there is no such client, no such day, nobody would be left, or the reason
            is no text for a log (`check_text`).
        """
        check_text("--reason", reason)
        if type(client_id) is not int or (clients is None and client_id < 0):
            raise FedNegError(
                f"client ids are whole numbers from 0 on, got {client_id!r}"
            )
        if clients is not None and client_id not in range(clients):
            raise FedNegError(
                f"there is no client {client_id}; client ids are 0 to {clients - 1}"
            )
        with self.changing():
            self.agree()
            found = self.of(client_id)
            if found is not None:
                return found, False
            if clients is not None and len(self.excluded()) + 1 == clients:
                raise FedNegError(
                    f"client {client_id} is the last of {clients} that has not asked "
                    "to be forgotten; a federation of nobody has no model"
                )
            now = datetime.now(UTC)
            try:
                due = (now + timedelta(days=due_days)).date().isoformat()
            except OverflowError:
                raise FedNegError(
                    f"no calendar has a day in {due_days:g} days"
                ) from None
            received = now.isoformat(timespec="microseconds")
            request = Request(client_id, received, due, reason)
            self.record(ACCEPTED, **logged(request))
            try:
                self.write(request)
            except OSError as error:
                raise FedNegError(
                    f"{request.id} is accepted, since the audit log has it, but "
                    f"{self.folder / request.id}.json cannot be written: "
                    f"{error.strerror}; the next run or request writes it"
                ) from None
            return request, True

    def mark(self, client_ids: Sequence[int], status: str) -> None:
        """Write down how far the requests of clients have come."""
        with self.changing():
            if status == DONE:
                self.record(DONE, clients=sorted(client_ids))
            for client_id in client_ids:
                request = self.of(client_id)
                if request is not None and request.status != status:
                    self.write(replace(request, status=status))

    def write(self, request: Request) -> None:
        """Write the file of a request; the queue is held, and the log has its entry."""
        text = json.dumps(asdict(request), indent=1) + "\n"
        write_bytes(self.folder / f"{request.id}.json", text.encode())
        sync_folder(self.folder)


def logged(request: Request) -> dict[str, Any]:
    """Return what the audit log is told of a request: all that makes its file again.

    But for the words of the reason, for which the log is no place.
    """
    return {
        "request": request.id,
        "client": request.client_id,
        "received": request.received,
        "due": request.due,
        "reason_sha256": request.reason_sha256,
    }


def request_of(facts: Mapping[str, Any]) -> Request:
    """Return the request that `logged` told of, without its reason.

    Raises
    ------
    FedNegError
        If these are no such facts.
    """
    try:
        return Request(facts["client"], facts["received"], facts["due"])
    except (KeyError, TypeError, ValueError) as error:
        raise FedNegError(f"the audit log has no request: {error!r}") from None
