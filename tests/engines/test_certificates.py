"""Certificates and keys: what is made, kept, renewed and refused."""

import ipaddress
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import verification

from fedneg.cli.application import run as run_words
from fedneg.core.errors import FedNegError
from fedneg.engines.deployed.certificates import make_certificates

PRIVATE = ("ca.key", "server.key", "node0", "node1")


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder by its name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def certificate(path: Path) -> x509.Certificate:
    """Return a certificate as cryptography reads it."""
    return x509.load_pem_x509_certificate(path.read_bytes())


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Return a folder with the certificates of two clients."""
    make_certificates(tmp_path, clients=2, hosts=["example.org", "10.0.0.7"])
    return tmp_path


@pytest.mark.parametrize("host", ["example.org", "10.0.0.7", "localhost", "127.0.0.1"])
def test_the_chain_verifies_for_every_host_and_for_this_machine(made: Path, host: str):
    subject: x509.GeneralName
    try:
        subject = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        subject = x509.DNSName(host)
    store = verification.Store([certificate(made / "ca.crt")])
    verifier = verification.PolicyBuilder().store(store).build_server_verifier(subject)
    chain = verifier.verify(certificate(made / "server.pem"), [])
    assert len(chain) == 2


def test_the_chain_does_not_verify_for_another_host(made: Path):
    store = verification.Store([certificate(made / "ca.crt")])
    other = x509.DNSName("example.com")
    verifier = verification.PolicyBuilder().store(store).build_server_verifier(other)
    with pytest.raises(verification.VerificationError):
        verifier.verify(certificate(made / "server.pem"), [])


def test_private_keys_are_for_this_user_only(made: Path):
    modes = {path.name: path.stat().st_mode & 0o777 for path in made.iterdir()}
    assert {name for name, mode in modes.items() if mode == 0o600} == set(PRIVATE)
    assert {mode for name, mode in modes.items() if name not in PRIVATE} == {0o644}


def test_a_client_has_a_key_pair_as_flower_wants_it(made: Path):
    private = serialization.load_ssh_private_key(
        (made / "node1").read_bytes(), password=None
    )
    public = serialization.load_ssh_public_key((made / "node1.pub").read_bytes())
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert isinstance(private.curve, ec.SECP384R1)
    assert private.public_key() == public


def test_a_second_call_keeps_everything(made: Path):
    before = contents(made)
    assert make_certificates(made, clients=2, hosts=["10.0.0.7", "example.org"]) == []
    assert make_certificates(made, clients=2) == []
    assert contents(made) == before


def test_more_clients_add_keys_and_nothing_else(made: Path):
    before = contents(made)
    (line,) = make_certificates(made, clients=3)
    assert "node2" in line
    assert before.items() < contents(made).items()
    assert set(contents(made)) - set(before) == {"node2", "node2.pub"}


def test_other_hosts_renew_the_server_and_keep_the_authority(made: Path):
    before = contents(made)
    (line,) = make_certificates(made, clients=2, hosts=["fed.example.org"])
    assert "fed.example.org" in line
    changed = {name for name, old in before.items() if contents(made)[name] != old}
    assert changed == {"server.pem", "server.key"}
    server = certificate(made / "server.pem")
    server.verify_directly_issued_by(certificate(made / "ca.crt"))


def test_a_server_certificate_near_its_end_is_renewed_for_the_same_hosts(
    made: Path, monkeypatch: pytest.MonkeyPatch
):
    class Later(datetime):
        """A clock that is eleven months ahead."""

        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return datetime.now(UTC) + timedelta(days=335)

    monkeypatch.setattr("fedneg.engines.deployed.certificates.datetime", Later)
    (line,) = make_certificates(made, clients=2)
    assert "example.org, 10.0.0.7, localhost, 127.0.0.1" in line


def test_the_server_certificate_ends_no_later_than_its_authority(tmp_path: Path):
    make_certificates(tmp_path, clients=1, server_days=365, authority_days=10)
    ends = [
        certificate(tmp_path / name).not_valid_after_utc
        for name in ("server.pem", "ca.crt")
    ]
    assert ends[0] == ends[1]


def test_keys_that_have_moved_away_are_not_made_again(made: Path):
    """The authority's to a safe place, a client's to the client."""
    (made / "ca.key").unlink()
    (made / "node0").unlink()
    assert make_certificates(made, clients=2) == []
    with pytest.raises(FedNegError, match=r"ca\.key is missing"):
        make_certificates(made, clients=2, hosts=["other.example.org"])


def test_a_public_key_comes_back_from_its_private_one(made: Path):
    before = contents(made)
    (made / "node0.pub").unlink()
    make_certificates(made, clients=2)
    assert contents(made) == before


@pytest.mark.parametrize("name", [*PRIVATE, "ca.crt", "server.pem", "node0.pub"])
def test_a_damaged_file_is_named_and_kept(made: Path, name: str):
    path = made / name
    path.write_bytes(path.read_bytes()[:40])
    before = contents(made)
    with pytest.raises(FedNegError, match=f"{name} is damaged") as raised:
        make_certificates(made, clients=2)
    assert "\n" not in str(raised.value)
    assert contents(made) == before


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["ca.key"], "ca.key does not belong to .*ca.crt"),
        (["ca.crt"], "ca.key does not belong to .*ca.crt"),
        (["server.key"], "server.key does not belong to .*server.pem"),
        (["server.pem", "server.key"], "server.pem does not belong to .*ca.crt"),
        (["node0.pub"], "node0.pub does not belong to .*node0"),
    ],
)
def test_files_of_another_federation_are_named(
    made: Path, tmp_path: Path, names: list[str], message: str
):
    other = tmp_path / "other"
    make_certificates(other, clients=1)
    for name in names:
        shutil.copy(other / name, made / name)
    with pytest.raises(FedNegError, match=message):
        make_certificates(made, clients=2)


def test_a_private_key_that_others_can_read_is_refused(made: Path):
    (made / "node0").chmod(0o644)
    with pytest.raises(FedNegError, match=r"node0 can be read by others.*chmod 600"):
        make_certificates(made, clients=2)


def test_an_authority_that_is_out_of_date_is_refused(
    made: Path, monkeypatch: pytest.MonkeyPatch
):
    class Later(datetime):
        """A clock that is eleven years ahead."""

        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return datetime.now(UTC) + timedelta(days=11 * 365)

    monkeypatch.setattr("fedneg.engines.deployed.certificates.datetime", Later)
    with pytest.raises(FedNegError, match=r"ca\.crt was valid until"):
        make_certificates(made, clients=2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--clients", "0"], "at least 1, got '0'"),
        (["--clients", "2", "--host", "a b"], "an IP address, got 'a b'"),
        (["--clients", "2", "--days", "x"], "whole number, at least 1, got 'x'"),
        ([], "--clients"),
    ],
)
def test_words_that_mean_nothing_make_no_files(
    tmp_path: Path, words: list[str], message: str
):
    with pytest.raises(FedNegError, match=message):
        run_words(["certificates", str(tmp_path / "new"), *words])
    assert not (tmp_path / "new").exists()


def test_the_command_says_what_it_made_and_that_it_made_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run_words(["certificates", str(tmp_path), "--clients", "1", "--days", "7"])
    said = capsys.readouterr().out
    assert "node0.pub to register" in said
    assert "SuperLink at localhost, 127.0.0.1, 7 days" in said
    run_words(["certificates", str(tmp_path), "--clients", "1"])
    assert "has all of it already" in capsys.readouterr().out
