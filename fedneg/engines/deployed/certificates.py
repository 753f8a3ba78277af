"""Who may be believed to be whom in a federation.

One certificate authority signs the SuperLink's TLS certificate, so that clients know
the server. Each SuperNode has a key pair, so that the server knows its clients.
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedneg.core.errors import FedNegError
from fedneg.engines.deployed.keys import (
    PEM,
    PrivateKey,
    client_pair,
    mismatch,
    new_key,
    read_certificate,
    read_key,
    write_certificate,
    write_key,
)

# The SuperLink's own helper processes reach it there, whatever name it has outside.
LOCAL_HOSTS = ("localhost", "127.0.0.1")
SERVER_DAYS = 365
AUTHORITY_DAYS = 3650
CLOCK_SKEW = timedelta(hours=1)
HOST_NAME = re.compile(r"(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?")

Names = tuple[x509.GeneralName, ...]


@dataclass(frozen=True)
class Authority:
    """The certificate authority; the key is None where it is kept elsewhere."""

    certificate: x509.Certificate
    key: PrivateKey | None


def make_certificates(
    folder: Path,
    *,
    clients: int,
    hosts: Sequence[str] = (),
    server_days: int = SERVER_DAYS,
    authority_days: int = AUTHORITY_DAYS,
) -> list[str]:
    """Make what is missing in a folder; what is there and fits is kept.

    Parameters
    ----------
    folder : Path
        Gets ca.crt, ca.key, server.pem, server.key, node0, node0.pub, node1, ...
        Private keys have mode 0600.
    clients : int
        Key pairs of clients 0 to clients - 1. Only the .pub of a key that has moved to
        its client's machine need be left.
    hosts : sequence of str
        Names and IP addresses under which clients reach the SuperLink; `LOCAL_HOSTS`
        are always added. Empty: those that the certificate names already. A server
        certificate for others, or one that has less than a tenth of its time to go, is
        made anew.
    server_days, authority_days : int
        How long new certificates are valid.

    Returns
    -------
    list of str
        What was made, a line each.

    Raises
    ------
    FedNegError
        If a host is none, or a file is damaged, out of date or does not fit another.
    """
    names = alternative_names(hosts)
    authority, made = _authority(folder, authority_days)
    made += _server(folder, authority, names if hosts else None, server_days)
    for client_id in range(clients):
        made += client_pair(folder / f"node{client_id}")
    return made


def alternative_names(hosts: Sequence[str]) -> Names:
    """Return hosts, and this machine, as certificates name them, each once."""
    found: list[x509.GeneralName] = []
    for host in (*hosts, *LOCAL_HOSTS):
        name: x509.GeneralName
        try:
            name = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            if not HOST_NAME.fullmatch(host):
                raise FedNegError(
                    f"--host must be a host name or an IP address, got {host!r}"
                ) from None
            name = x509.DNSName(host)
        if name not in found:
            found.append(name)
    return tuple(found)


def _authority(folder: Path, days: int) -> tuple[Authority, list[str]]:
    """Return the certificate authority, made if there is none."""
    certificate, key = folder / "ca.crt", folder / "ca.key"
    if not certificate.exists():
        if key.exists():
            raise FedNegError(
                f"{certificate} is missing but {key} is there: restore the one or "
                "remove the other"
            )
        made = _new_authority(days)
        assert made.key is not None
        write_key(key, made.key, PEM)
        write_certificate(certificate, made.certificate)
        return made, [f"{certificate}: certificate authority, {days} days"]
    found = Authority(
        read_certificate(certificate), read_key(key) if key.exists() else None
    )
    if found.key and found.key.public_key() != found.certificate.public_key():
        raise mismatch(key, certificate)
    if found.certificate.not_valid_after_utc < datetime.now(UTC):
        raise FedNegError(
            f"{certificate} was valid until {found.certificate.not_valid_after_utc}: "
            f"remove it and {key.name}, and give every client the new ca.crt"
        )
    return found, []


def _new_authority(days: int) -> Authority:
    key = new_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedneg federation")])
    usage = _usage(key_cert_sign=True)
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
        )
        .sign(key, hashes.SHA384())
    )
    return Authority(certificate, key)


def _server(
    folder: Path,
    authority: Authority,
    names: Names | None,
    days: int,
) -> list[str]:
    """Make the SuperLink's certificate unless the one that is there will do."""
    certificate, key = folder / "server.pem", folder / "server.key"
    if certificate.exists() and key.exists():
        found = read_certificate(certificate)
        if read_key(key).public_key() != found.public_key():
            raise mismatch(key, certificate)
        try:
            found.verify_directly_issued_by(authority.certificate)
        except (InvalidSignature, ValueError, TypeError):
            raise mismatch(certificate, folder / "ca.crt") from None
        named = _names_in(found)
        names = names or named
        if set(named) == set(names) and _lasts(found):
            return []
    names = names or alternative_names(())
    if authority.key is None:
        raise FedNegError(
            f"{certificate} must be made, and {folder / 'ca.key'} is missing: put it "
            "back for as long as that takes"
        )
    own = new_key()
    write_key(key, own, PEM)
    write_certificate(certificate, _signed(authority, own, names, days))
    hosts = ", ".join(str(name.value) for name in names)
    return [f"{certificate}: SuperLink at {hosts}, {days} days"]


def _names_in(found: x509.Certificate) -> Names:
    """Return the hosts that a certificate is for."""
    try:
        kind = x509.SubjectAlternativeName
        return tuple(found.extensions.get_extension_for_class(kind).value)
    except x509.ExtensionNotFound:
        return ()


def _lasts(found: x509.Certificate) -> bool:
    """Return whether more than a tenth of a certificate's time is left."""
    whole = found.not_valid_after_utc - found.not_valid_before_utc
    return found.not_valid_after_utc - datetime.now(UTC) > whole / 10


def _signed(
    authority: Authority,
    own: PrivateKey,
    names: Names,
    days: int,
) -> x509.Certificate:
    """Return a server certificate; it ends no later than its authority."""
    issuer, public = authority.certificate, own.public_key()
    assert authority.key is not None
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder(
            issuer.subject,
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedneg SuperLink")]),
            public,
        )
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(min(now + timedelta(days=days), issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(public), critical=False
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(
                authority.key.public_key()
            ),
            critical=False,
        )
        .sign(authority.key, hashes.SHA384())
    )


def _usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False
) -> x509.KeyUsage:
    """Return what a key may be used for; a signer of certificates signs CRLs too."""
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=key_cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
