"""Which public key belongs to which client id: the operator's list, on the disk.

Node ids are Flower's and may change; a client is who holds its private key. A key is
known by its digest, the sha256 of its DER SubjectPublicKeyInfo in hex.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
    load_ssh_public_key,
)

from fedneg.core.errors import FedNegError
from fedneg.core.files import write_bytes
from fedneg.core.locks import locked
from fedneg.core.reading import read_json
from fedneg.ledger.tensors import sync_folder

OPERATOR, FIRST_SIGHT = "operator", "first sight"
# Events of the audit log.
LISTED, SEEN, REMOVED = "key listed", "key seen first", "key removed"


def key_digest_of(key: bytes) -> str:
    """Return the digest of a public key in PEM or OpenSSH form.

    Raises
    ------
    ValueError
        If it is neither.
    """
    key = key.strip()
    load = load_pem_public_key if key.startswith(b"-----") else load_ssh_public_key
    try:
        public = load(key)
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from error
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


@dataclass(frozen=True)
class Pin:
    """A key's digest, who said that it is the client's, and when (UTC)."""

    key: str
    source: str
    since: str


class Pins:
    """Client ids and their keys.

    Parameters
    ----------
    path : Path, optional
        The JSON file that holds them; None: in memory only.
    record : callable, optional
        Given an event and its facts before a pin changes: it raises, or they are in the
        audit log when it returns.
    agree : callable, optional
        Called while the file is held, before anything is recorded: raises unless the
        file is what the log says.

    Raises
    ------
    FedNegError
        If the file is there and cannot be understood.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        record: Callable[..., object] = lambda event, **facts: None,
        agree: Callable[["Pins"], object] = lambda pins: None,
    ) -> None:
        self.path, self.record, self.agree = path, record, agree
        self._pins: dict[int, Pin] = {}
        self._seen: tuple[int, ...] = ()
        self.refresh()

    def refresh(self) -> None:
        """Read the file again if it is another than before."""
        if self.path is None or not self.path.exists():
            return
        try:
            found = self.path.stat()
            seen = (found.st_ino, found.st_size, found.st_mtime_ns)
            if seen == self._seen:
                return
            content = read_json(self.path)
            pins = {int(k): Pin(**pin) for k, pin in content.items()}
            if len({pin.key for pin in pins.values()}) < len(pins):
                raise ValueError("two clients have the same key")
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise FedNegError(f"{self.path} is no roster of keys: {error}") from None
        self._pins, self._seen = pins, seen

    def all(self) -> Mapping[int, Pin]:
        """Return all pins by client id, ascending."""
        return dict(sorted(self._pins.items()))

    def key_of(self, client_id: int) -> str | None:
        """Return the digest of a client's key, or None."""
        pin = self._pins.get(client_id)
        return None if pin is None else pin.key

    def client_of(self, key: str) -> int | None:
        """Return whose key it is, or None."""
        return next((k for k, pin in self._pins.items() if pin.key == key), None)

    def add(self, client_id: int, key: str, source: str) -> None:
        """Pin a key to a client id, on the disk too; a client's old pin is replaced.

        Raises
        ------
        FedNegError
            If the key is another client's, or was seen first where there is one.
        """
        with self.changing():
            owner, pinned = self.client_of(key), self.key_of(client_id)
            if owner not in (None, client_id):
                raise FedNegError(
                    f"key {key[:16]} belongs to client {owner}, and cannot be client "
                    f"{client_id}'s too"
                )
            if source == FIRST_SIGHT and pinned not in (None, key):
                raise FedNegError(f"client {client_id} has another key already")
            now = datetime.now(UTC).isoformat(timespec="seconds")
            pin = Pin(key, source, now)
            self.record(
                SEEN if source == FIRST_SIGHT else LISTED,
                client=client_id,
                **asdict(pin),
            )
            self.put(client_id, pin)

    def remove(self, client_id: int) -> None:
        """Take a client's pin away; none is no error."""
        with self.changing():
            if client_id in self._pins:
                self.record(REMOVED, client=client_id)
                self.put(client_id, None)

    def put(self, client_id: int, pin: Pin | None) -> None:
        """Write a pin, or none; the file is held, and the log has its entry.

        Raises
        ------
        FedNegError
            If it cannot be written: what the log says holds none the less.
        """
        self._pins.pop(client_id, None)
        if pin is not None:
            self._pins[client_id] = pin
        try:
            self._write()
        except OSError as error:
            what = "no key" if pin is None else f"key {pin.key[:16]}"
            raise FedNegError(
                f"client {client_id} has {what}, since the audit log has it, but "
                f"{self.path} cannot be written: {error.strerror}; the next run or "
                "change of the roster writes it"
            ) from error

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the file, as it is now: a run and an operator may both write it."""
        if self.path is None:
            yield
            return
        with locked(self.path.with_suffix(".lock"), "the roster of keys"):
            self.refresh()
            self.agree(self)
            yield

    def _write(self) -> None:
        if self.path is None:
            return
        content: dict[str, Any] = {str(k): asdict(pin) for k, pin in self.all().items()}
        write_bytes(self.path, (json.dumps(content, indent=1) + "\n").encode())
        sync_folder(self.path.parent)
