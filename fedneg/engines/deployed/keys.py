"""Keys and certificates as files: read with one clear error, written in one piece."""

from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedneg.core.errors import FedNegError
from fedneg.core.files import write_bytes
from fedneg.core.reading import read_regular

PrivateKey = ec.EllipticCurvePrivateKey
PEM = serialization.PrivateFormat.PKCS8
OPENSSH = serialization.PrivateFormat.OpenSSH


def new_key() -> PrivateKey:
    """Return a new key on P-384, the curve that Flower asks of SuperNodes."""
    return ec.generate_private_key(ec.SECP384R1())


def write_key(path: Path, key: PrivateKey, form: serialization.PrivateFormat) -> None:
    """Write a private key that only this user can read."""
    content = key.private_bytes(
        serialization.Encoding.PEM, form, serialization.NoEncryption()
    )
    write_bytes(path, content)


def read_key(path: Path) -> PrivateKey:
    """Return a private key, in PEM or OpenSSH's format.

    Raises
    ------
    FedNegError
        If the file cannot be read, others can read it, or it holds no P-384 key.
    """
    content = _content(path)
    if path.stat().st_mode & 0o077:
        raise FedNegError(
            f"{path} can be read by others: a private key must have mode 0600 "
            f"(chmod 600 {path}), and if they may have read it, be made anew"
        )
    openssh = b"OPENSSH" in content.partition(b"\n")[0]
    try:
        key: object = (
            serialization.load_ssh_private_key(content, password=None)
            if openssh
            else serialization.load_pem_private_key(content, password=None)
        )
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise damaged(path, "a private key without a passphrase") from None
    if not isinstance(key, PrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise damaged(path, "a key on the curve P-384")
    return key


def public_line(key: PrivateKey) -> bytes:
    """Return a public key as OpenSSH writes it, a line."""
    return (
        key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
        + b"\n"
    )


def client_pair(path: Path) -> list[str]:
    """Make a client's key pair unless it is there; return what was made, a line each.

    The private key may have moved to its client's machine; then `path`.pub is left.

    Raises
    ------
    FedNegError
        If a file is damaged, or the two do not belong together.
    """
    public = path.with_name(f"{path.name}.pub")
    if not path.exists():
        if public.exists():
            _read_public(public)
            return []
        key = new_key()
        write_key(path, key, OPENSSH)
        write_bytes(public, public_line(key), shared=True)
        return [f"{path}: key of a client, with {public.name} to register"]
    key = read_key(path)
    if not public.exists():
        write_bytes(public, public_line(key), shared=True)
        return [f"{public}: from {path.name}"]
    if _read_public(public) != key.public_key():
        raise mismatch(public, path)
    return []


def _read_public(path: Path) -> ec.EllipticCurvePublicKey:
    """Return a public key in OpenSSH's format."""
    try:
        key = serialization.load_ssh_public_key(_content(path))
    except (ValueError, UnsupportedAlgorithm):
        raise damaged(path, "a public key in OpenSSH's format") from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise damaged(path, "a key on the curve P-384")
    return key


def write_certificate(path: Path, certificate: x509.Certificate) -> None:
    """Write a certificate for everybody to read."""
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    write_bytes(path, pem, shared=True)


def read_certificate(path: Path) -> x509.Certificate:
    """Return a certificate; raises FedNegError if the file holds none."""
    try:
        return x509.load_pem_x509_certificate(_content(path))
    except ValueError:
        raise damaged(path, "a certificate") from None


def _content(path: Path) -> bytes:
    try:
        return read_regular(path)
    except OSError as error:
        raise FedNegError(f"{path} cannot be read: {error.strerror}") from None


def damaged(path: Path, what: str) -> FedNegError:
    """Return the error for a file that does not hold what it should."""
    return FedNegError(
        f"{path} is damaged: it should hold {what}; restore it, or remove it and what "
        "belongs to it to have them made anew"
    )


def mismatch(one: Path, other: Path) -> FedNegError:
    """Return the error for two files that do not belong together."""
    return FedNegError(
        f"{one} does not belong to {other}: restore the right one, or remove what can "
        "be made anew"
    )
