"""The operator's key: its owner's alone, one however often made, damage named."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st

from builders.waiting import PATIENCE_S
from fedneg.core.errors import FedNegError
from fedneg.records import signing
from fedneg.records.signing import OperatorKey, canonical, load_public, parse

SCALARS = st.none() | st.booleans() | st.integers() | st.text()
VALUES = st.recursive(
    SCALARS | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
LOAD = (
    "import sys; from pathlib import Path;"
    "from fedneg.records.signing import OperatorKey;"
    "print(OperatorKey.load_or_create(Path(sys.argv[1])).public.digest)"
)
# As LOAD, and killed at a step: an os.replace, before or after it.
KILLED = """
import os, signal, sys
from pathlib import Path
from fedneg.records.signing import OperatorKey
step, real = int(sys.argv[2]), os.replace
count = 0
def replace(*arguments):
    global count
    for part in (lambda: None, lambda: real(*arguments)):
        part()
        count += 1
        if count == step:
            os.kill(os.getpid(), signal.SIGKILL)
os.replace = replace
OperatorKey.load_or_create(Path(sys.argv[1]))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder that holds a key."""
    OperatorKey.load_or_create(tmp_path / "keys")
    return tmp_path / "keys"


# -- canonical JSON -------------------------------------------------------------------


def test_canonical_json_by_hand():
    assert canonical({"b": [1, 2.5, None], "a": "\u00e9"}) == (
        b'{"a":"\xc3\xa9","b":[1,2.5,null]}'
    )


@given(content=st.dictionaries(st.text(), VALUES))
def test_who_reads_canonical_json_and_writes_it_again_has_the_same_bytes(content: dict):
    once = canonical(content)
    assert canonical(parse(once)) == once
    assert canonical(dict(reversed(content.items()))) == once


def test_numbers_as_keys_are_sorted_as_the_text_they_become():
    """As integers 9 stands before 10, as text after it."""
    assert canonical({9: "x", 10: "y"}) == b'{"10":"y","9":"x"}'


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), "\ud800"], ids=["nan", "inf", "surrogate"]
)
def test_what_has_no_place_in_json_is_not_signed(value: object):
    with pytest.raises(ValueError, match=r"JSON|surrogates"):
        canonical({"value": value})


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"in": {"a": 1, "a": 1}}', "twice"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"a": ' + b"[" * 100_000, "nested"),
        (b"\xff", "decode"),
        (b"", "Expecting"),
    ],
)
def test_json_of_two_readings_or_none_is_refused(data: bytes, said: str):
    with pytest.raises(ValueError, match=said):
        parse(data)


# -- signatures -----------------------------------------------------------------------


def test_a_signature_holds_for_its_content_and_key_alone(tmp_path: Path):
    one = OperatorKey.load_or_create(tmp_path / "one")
    two = OperatorKey.load_or_create(tmp_path / "two")
    made = one.sign({"client": 3, "at": 1.5})
    assert one.public.verify({"at": 1.5, "client": 3}, made)
    assert not one.public.verify({"at": 1.5, "client": 4}, made)
    assert not two.public.verify({"at": 1.5, "client": 3}, made)
    assert one.public.digest != two.public.digest


def test_every_other_spelling_of_a_signature_is_refused(folder: Path):
    """The last digit before == carries four bits that decode to nothing."""
    key = OperatorKey.load_or_create(folder)
    made = key.sign({})
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    other = [made[:85] + d + "==" for d in digits if d != made[85]]
    for signature in (*other, "", made + "\n", made[:-1], "\u00e9", made.lower()):
        assert not key.public.verify({}, signature)
    assert not key.public.verify({}, None)  # type: ignore[arg-type]
    assert not key.public.verify({"a": float("nan")}, made)
    assert key.public.verify({}, made)


def test_the_public_key_is_what_others_can_read(folder: Path):
    """OpenSSL's format; the key's digest is the sha256 of the 32 bytes."""
    import hashlib

    key = OperatorKey.load_or_create(folder)
    pem = (folder / "operator.pub").read_bytes()
    found = serialization.load_pem_public_key(pem)
    assert isinstance(found, ed25519.Ed25519PublicKey)
    raw = found.public_bytes_raw()
    assert key.public.digest == hashlib.sha256(raw).hexdigest()
    assert load_public(folder / "operator.pub") == key.public


# -- the files ------------------------------------------------------------------------


def test_the_private_key_is_its_owners_alone_under_any_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """From the first moment: seen before the rename that gives it its name."""
    seen, real = [], os.replace

    def replace(source: str, target: Path) -> None:
        if Path(target).name == "operator.key":
            seen.append(stat.S_IMODE(Path(source).stat().st_mode))
        real(source, target)

    monkeypatch.setattr(signing.os, "replace", replace)
    before = os.umask(0)
    try:
        OperatorKey.load_or_create(tmp_path / "keys")
    finally:
        os.umask(before)
    assert seen == [0o600]
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.rglob("*")}
    assert modes["keys"] == 0o700
    assert modes["operator.key"] == 0o600
    assert set(modes) == {"keys", "lock", "operator.key", "operator.pub"}


def test_a_key_once_made_comes_back(folder: Path):
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    made = OperatorKey.load_or_create(folder).sign({})
    assert OperatorKey.load_or_create(folder).public.verify({}, made)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_processes_that_start_at_once_have_one_key(tmp_path: Path):
    started = [
        subprocess.Popen(
            [sys.executable, "-c", LOAD, str(tmp_path / "keys")], stdout=subprocess.PIPE
        )
        for _ in range(6)
    ]
    found = {process.communicate(timeout=PATIENCE_S)[0] for process in started}
    assert [process.returncode for process in started] == [0] * 6
    assert len(found) == 1


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_killed_at_any_step_the_next_one_has_a_whole_key(tmp_path: Path, step: int):
    """Before and after each of two renames; no half-written private key is left."""
    folder = tmp_path / "keys"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), str(step)],
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    written = folder / "operator.key"
    before = written.read_bytes() if written.exists() else None
    key = OperatorKey.load_or_create(folder)
    assert load_public(folder / "operator.pub") == key.public
    assert before in (None, written.read_bytes())
    assert not list(folder.glob(".operator.key.*"))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_key_that_others_may_use_is_refused(folder: Path, mode: int):
    (folder / "operator.key").chmod(mode)
    with pytest.raises(FedNegError, match=rf"mode 0600\), got mode {mode:04o}"):
        OperatorKey.load_or_create(folder)


def test_damage_is_one_line_that_names_the_file(folder: Path):
    """Each with the other file as it was."""
    private, public = folder / "operator.key", folder / "operator.pub"
    whole = private.read_bytes(), public.read_bytes()
    other = OperatorKey.load_or_create(folder.parent / "other").public.pem()
    curve = ec.generate_private_key(ec.SECP256R1())
    format_ = serialization.PrivateFormat.PKCS8
    pem = serialization.Encoding.PEM
    curve_pem = curve.private_bytes(pem, format_, serialization.NoEncryption())
    locked = serialization.BestAvailableEncryption(b"x")
    with_password = curve.private_bytes(pem, format_, locked)
    curve_public = curve.public_key().public_bytes(
        pem, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for path, content, said in (
        (private, whole[0][:60], "operator.key must hold a private key"),
        (private, b"", "operator.key must hold a private key"),
        (private, with_password, "without a password"),
        (private, curve_pem, "operator.key must hold an Ed25519 key"),
        (public, whole[1][:40], "operator.pub must hold a public key"),
        (public, curve_public, "operator.pub must hold an Ed25519 public key"),
        (public, other, r"operator.pub must be the public half of .*operator.key"),
    ):
        path.write_bytes(content)
        with pytest.raises(FedNegError, match=said) as raised:
            OperatorKey.load_or_create(folder)
        assert "\n" not in str(raised.value)
        private.write_bytes(whole[0])
        public.write_bytes(whole[1])
    OperatorKey.load_or_create(folder)


def test_no_new_key_is_made_where_the_old_ones_public_half_stands(folder: Path):
    """Its signatures would be refused by whoever has that public key."""
    (folder / "operator.key").unlink()
    with pytest.raises(FedNegError, match=r"stands there without operator\.key"):
        OperatorKey.load_or_create(folder)
    assert not (folder / "operator.key").exists()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FedNegError, match=r"key folder .*keys cannot be used: Not a"):
        OperatorKey.load_or_create(tmp_path / "file" / "keys")
    with pytest.raises(FedNegError, match=r"public key .* cannot be read: No such"):
        load_public(tmp_path / "operator.pub")
