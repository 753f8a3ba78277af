"""Keys that make a client's numbers unreadable, backups included, once they are gone.

What belongs to a client (its row of the ledger, its last local model) is sealed with a
key of its own, and everything that all clients went into (the global parameters) with a
model key that changes with every forgetting: the old global parameters, minus all other
rows, would give the forgotten one back. Sealing is AES-256-GCM; keys lie beside the
state folder, readable by their owner alone. What cannot be helped: a disk that keeps
old blocks may keep a deleted key.
"""

import re
import secrets
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from fedneg.core.errors import FedNegError
from fedneg.core.files import PRIVATE_FILE, naming, write_bytes
from fedneg.core.reading import read_regular
from fedneg.ledger.tensors import sync_folder

CHUNK = 1 << 24  # bytes sealed at a time
NONCE, TAG = 12, 16
TOMBSTONE = re.compile(r"client-([0-9]+)\.destroyed")
MODEL = re.compile(r"model-([0-9]{6})\.key")


class Vault:
    """The keys of a federation, in a folder of their own.

    Parameters
    ----------
    folder : Path
        Made, for its owner alone, with the first key.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def client_key(self, client_id: int, *, make: bool = True) -> str:
        """Return the name of a client's key; the key is made if need be, and wished.

        Raises
        ------
        FedNegError
            If it was destroyed: the client was forgotten.
        """
        name = f"client-{client_id}"
        if (self.folder / f"{name}.destroyed").exists():
            raise FedNegError(
                f"the key of client {client_id} was destroyed when it was forgotten"
            )
        if make:
            self._make(name)
        return name

    def model_key(self) -> str:
        """Return the name of the current model key; the first is made if need be."""
        numbers = self._model_keys()
        name = f"model-{numbers[-1] if numbers else 0:06d}"
        self._make(name)
        return name

    def next_model_key(self) -> str:
        """Make the next model key and return its name; the old ones stay for now."""
        numbers = self._model_keys()
        name = f"model-{numbers[-1] + 1 if numbers else 0:06d}"
        self._make(name)
        return name

    def destroyed(self) -> set[int]:
        """Return the client ids whose keys were destroyed."""
        if not self.folder.is_dir():
            return set()
        found = (TOMBSTONE.fullmatch(path.name) for path in self.folder.iterdir())
        return {int(match[1]) for match in found if match}

    def destroy(self, client_ids: list[int]) -> list[str]:
        """Destroy clients' keys and all model keys but the current; return their names.

        A tombstone remains of a client's key, so that none is made in its place.
        """
        gone = []
        for client_id in client_ids:
            name = f"client-{client_id}"
            if self.folder.is_dir():
                tombstone = self.folder / f"{name}.destroyed"
                with naming(tombstone):
                    tombstone.touch(PRIVATE_FILE)
                gone += self._unlink(name)
        for number in self._model_keys()[:-1]:
            gone += self._unlink(f"model-{number:06d}")
        if self.folder.is_dir():
            sync_folder(self.folder)
        return gone

    def sealed_size(self, size: int) -> int:
        """Return how many bytes `seal` makes of so many."""
        return size + (NONCE + TAG) * max(1, -(-size // CHUNK))

    def plain_size(self, size: int) -> int:
        """Return how many bytes `seal` made so many of."""
        return size - (NONCE + TAG) * max(1, -(-size // (CHUNK + NONCE + TAG)))

    def seal(self, key: str, what: str, array: NDArray[np.float32]) -> Iterator[bytes]:
        """Yield an array's bytes, sealed chunk by chunk.

        Parameters
        ----------
        key : str
            Name of the key.
        what : str
            What it is; bound to the bytes, so that no other array opens in its place.
        """
        cipher = self._cipher(key)
        data = np.ascontiguousarray(array, dtype="<f4").reshape(-1).view(np.uint8)
        for number, start in enumerate(range(0, max(1, data.size), CHUNK)):
            nonce = secrets.token_bytes(NONCE)
            chunk = data[start : start + CHUNK].data
            yield nonce + cipher.encrypt(nonce, chunk, _bound(what, number))

    def open(
        self, key: str, what: str, sealed: NDArray[np.uint8], out: NDArray[np.float32]
    ) -> None:
        """Put what `seal` sealed into `out`, a contiguous array of its size.

        Raises
        ------
        FedNegError
            If the key is not there any more.
        ValueError
            If the bytes are not those that were sealed.
        """
        cipher = self._cipher(key)
        target, step = out.reshape(-1).view(np.uint8), CHUNK + NONCE + TAG
        if sealed.size != self.sealed_size(target.size):
            raise ValueError(f"{what} has {sealed.size} sealed bytes")
        for number, start in enumerate(range(0, sealed.size, step)):
            chunk = sealed[start : start + step].tobytes()
            try:
                plain = cipher.decrypt(
                    chunk[:NONCE], chunk[NONCE:], _bound(what, number)
                )
            except InvalidTag:
                raise ValueError(f"{what} does not open with its key") from None
            first = number * CHUNK
            target[first : first + len(plain)] = np.frombuffer(plain, np.uint8)

    def _model_keys(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        found = (MODEL.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def _make(self, name: str) -> None:
        """Make a key unless it is there; never seen half, nor by other users."""
        path = self.folder / f"{name}.key"
        if path.exists():
            return
        write_bytes(path, secrets.token_bytes(32))
        sync_folder(self.folder)

    def _cipher(self, name: str) -> AESGCM:
        path = self.folder / f"{name}.key"
        try:
            key = read_regular(path)
        except FileNotFoundError:
            raise FedNegError(
                f"the key {name} is not in {self.folder}; it was destroyed, or the "
                "keys folder is another"
            ) from None
        if len(key) != 32:
            raise FedNegError(f"{path} is no key: it has {len(key)} bytes, not 32")
        return AESGCM(key)

    def _unlink(self, name: str) -> list[str]:
        path = self.folder / f"{name}.key"
        if not path.exists():
            return []
        path.unlink()
        return [name]


def _bound(what: str, number: int) -> bytes:
    return f"{what} {number}".encode()
