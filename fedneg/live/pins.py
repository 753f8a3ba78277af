"""Which public key belongs to which client id: the operator's list, on the disk.

Node ids are Flower's and may change; a client is who holds its private key. A key is
known by its fingerprint, the sha256 of its DER SubjectPublicKeyInfo in hex.
"""

import hashlib
import json
from collections.abc import Mapping
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

from fedneg.errors import FedNegError
from fedneg.files import write_bytes

OPERATOR, FIRST_SIGHT = "operator", "first sight"


def fingerprint_of(key: bytes) -> str:
    """Return the fingerprint of a public key in PEM or OpenSSH form.

    Raises
    ------
    ValueError
        If it is neither.
    """
    load = load_ssh_public_key if key.lstrip()[:5] != b"-----" else load_pem_public_key
    try:
        public = load(key)
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from error
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


@dataclass(frozen=True)
class Pin:
    """A key's fingerprint, who said that it is the client's, and when (UTC)."""

    key: str
    source: str
    since: str


class Pins:
    """Client ids and their keys.

    Parameters
    ----------
    path : Path, optional
        The JSON file that holds them; None: in memory only.

    Raises
    ------
    FedNegError
        If the file is there and cannot be understood.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._pins: dict[int, Pin] = {}
        if path is not None and path.exists():
            try:
                content = json.loads(path.read_bytes())
                self._pins = {int(k): Pin(**pin) for k, pin in content.items()}
            except (OSError, ValueError, TypeError, AttributeError) as error:
                raise FedNegError(f"{path} is no roster of keys: {error}") from None

    def all(self) -> Mapping[int, Pin]:
        """Return all pins by client id, ascending."""
        return dict(sorted(self._pins.items()))

    def key_of(self, client_id: int) -> str | None:
        """Return the fingerprint of a client's key, or None."""
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
            If the key is another client's.
        """
        owner = self.client_of(key)
        if owner not in (None, client_id):
            raise FedNegError(
                f"key {key[:16]} belongs to client {owner}, and cannot be client "
                f"{client_id}'s too"
            )
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._pins[client_id] = Pin(key, source, now)
        self._write()

    def remove(self, client_id: int) -> None:
        """Take a client's pin away; none is no error."""
        if self._pins.pop(client_id, None) is not None:
            self._write()

    def _write(self) -> None:
        if self.path is None:
            return
        content: dict[str, Any] = {str(k): asdict(pin) for k, pin in self.all().items()}
        write_bytes(self.path, (json.dumps(content, indent=1) + "\n").encode())
