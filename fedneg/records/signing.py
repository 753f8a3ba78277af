"""The operator's Ed25519 key, and signatures over JSON that anybody can check.

What is signed is `canonical` JSON: the same bytes whoever writes the content down. The
private key never leaves its folder; without a password, since the server that signs
runs unattended, so the folder and the file are the owner's alone from the first moment.
"""

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from fedneg.core.errors import FedNegError
from fedneg.core.files import write_bytes
from fedneg.core.locks import open_locked
from fedneg.core.reading import open_regular, read_regular
from fedneg.ledger.tensors import sync_folder

PRIVATE_NAME = "operator.key"
PUBLIC_NAME = "operator.pub"


def keys_folder(state: Path) -> Path:
    """Return where the keys of a federation lie: beside its state, not in it.

    So a copy of the state, as an auditor may get it, holds no private key. Where the
    state is a link, they may lie beside the link, or beside the folder itself.
    """
    beside = Path(f"{os.path.abspath(state)}-keys")
    real = Path(f"{os.path.realpath(state)}-keys")
    return real if real.is_dir() and not beside.is_dir() else beside


def canonical(content: Mapping[str, Any]) -> bytes:
    """Return content as JSON: keys sorted, no spaces, UTF-8.

    Reading the result and writing it again gives the same bytes. Keys that are numbers
    become text before they are sorted, as they are text when somebody reads them.

    Raises
    ------
    ValueError
        For NaN, infinity, and text that is no Unicode.
    TypeError
        For what JSON does not know, such as numpy's numbers.
    """
    return _dump(json.loads(_dump(content, sort=False)))


def _dump(content: Mapping[str, Any], *, sort: bool = True) -> bytes:
    """Return compact JSON."""
    text = json.dumps(
        content,
        sort_keys=sort,
        separators=(",", ":"),
        allow_nan=False,
        ensure_ascii=False,
    )
    return text.encode()


def parse(data: bytes) -> dict[str, Any]:
    """Return a JSON object that has only one reading.

    Raises
    ------
    ValueError
        If it is not JSON, no object, or names a key twice: a reader might see the one
        and a signature cover the other.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key stands there twice")
        return found

    def never(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    try:
        found = json.loads(data, object_pairs_hook=once, parse_constant=never)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("it is not a JSON object")
    return found


@dataclass(frozen=True)
class PublicKey:
    """What anybody may have: it checks signatures and makes none.

    Attributes
    ----------
    raw : bytes
        32 bytes.
    """

    raw: bytes

    @property
    def digest(self) -> str:
        """The sha256 of the 32 bytes, in hex."""
        return hashlib.sha256(self.raw).hexdigest()

    def verify(self, content: Mapping[str, Any], signature: str) -> bool:
        """Return whether the signature is this key's, over this content.

        False, too, for a signature or a content that none could have been made of.
        """
        try:
            made = base64.b64decode(signature, validate=True)
            # One spelling: the last digit of base64 carries bits that mean nothing.
            if base64.b64encode(made).decode() != signature:
                return False
            key = Ed25519PublicKey.from_public_bytes(self.raw)
            key.verify(made, canonical(content))
        except (InvalidSignature, ValueError, TypeError, RecursionError):
            return False
        return True

    def pem(self) -> bytes:
        """Return the content of operator.pub."""
        return Ed25519PublicKey.from_public_bytes(self.raw).public_bytes(
            serialization.Encoding.PEM,
            serialization.PublicFormat.SubjectPublicKeyInfo,
        )


def load_public(path: Path) -> PublicKey:
    """Read a public key from a PEM file.

    Raises
    ------
    FedNegError
        If the file cannot be read or holds no Ed25519 public key.
    """
    try:
        found = serialization.load_pem_public_key(read_regular(path))
    except OSError as error:
        raise FedNegError(
            f"the public key {path} cannot be read: {error.strerror}"
        ) from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise FedNegError(f"{path} must hold a public key as PEM; it is damaged") from (
            None
        )
    if not isinstance(found, Ed25519PublicKey):
        raise FedNegError(f"{path} must hold an Ed25519 public key; it holds another")
    return PublicKey(found.public_bytes_raw())


class OperatorKey:
    """The key that signs; made with `load_or_create`."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = PublicKey(private.public_key().public_bytes_raw())

    @classmethod
    def load_or_create(cls, folder: Path) -> "OperatorKey":
        """Return the key of a folder; where there is none, one is made.

        However many processes call it at once, and whenever one is killed, they end
        with the same key.

        Raises
        ------
        FedNegError
            If the key file may be used by other users, or is damaged; if operator.pub
            is not its public half, or stands there without it; if the folder cannot be
            written.
        """
        private, public = folder / PRIVATE_NAME, folder / PUBLIC_NAME
        try:
            if not (private.exists() and public.exists()):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                with open_locked(folder / "lock"):
                    _create(private, public)
            found = cls(_load_private(private))
        except OSError as error:
            raise FedNegError(
                f"the key folder {folder} cannot be used: {error.strerror}"
            ) from None
        if load_public(public) != found.public:
            raise FedNegError(
                f"{public} must be the public half of {private}, and is another key's; "
                "restore both files from one backup"
            )
        return found

    def sign(self, content: Mapping[str, Any]) -> str:
        """Return the signature over `canonical` content, as base64."""
        return base64.b64encode(self._private.sign(canonical(content))).decode()


def _create(private: Path, public: Path) -> None:
    """Make what is missing of the two files; the folder is locked."""
    for left in private.parent.glob(f".{PRIVATE_NAME}.*"):
        left.unlink()  # of a process that was killed
    if not private.exists():
        if public.exists():
            raise FedNegError(
                f"{public} stands there without {private.name}; restore that from a "
                "backup, or move the public key away to have a new pair made"
            )
        _write_private(private, Ed25519PrivateKey.generate())
    if not public.exists():
        pem = OperatorKey(_load_private(private)).public.pem()
        write_bytes(public, pem, shared=True)
    sync_folder(private.parent)


def _write_private(path: Path, key: Ed25519PrivateKey) -> None:
    """Write a private key that no other user could read at any moment."""
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    write_bytes(path, pem)


def _load_private(path: Path) -> Ed25519PrivateKey:
    """Read a private key that is its owner's alone."""
    with open_regular(path) as file:
        mode = os.fstat(file.fileno()).st_mode & 0o777
        if mode & 0o077:
            raise FedNegError(
                f"{path} must be its owner's alone (mode 0600), got mode {mode:04o}: "
                "others may have read it"
            )
        data = file.read()
    try:
        found = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise FedNegError(
            f"{path} must hold a private key as PEM without a password; it is damaged"
        ) from None
    if not isinstance(found, Ed25519PrivateKey):
        raise FedNegError(f"{path} must hold an Ed25519 key; it holds another")
    return found
