"""Receipts, and the commands by which others check them, the log and the files."""

import json
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedneg.__main__ import main
from fedneg.core.errors import FedNegError
from fedneg.records.audit import AuditLog
from fedneg.records.identity import write_id
from fedneg.records.receipts import read_receipt, signed_receipt, write_receipt
from fedneg.records.scan_windows import scan_windows
from fedneg.records.signing import OperatorKey, keys_folder

CONTENT = {
    "request": "forget-3",
    "client": 3,
    "methods": ["negative_gradient", "finetune"],
    "model": {"before": "ab" * 32, "after": None, "accuracy": 0.912345678},
    "by_round": {1: 0.5, 10: 0.25, 9: True},
    "steps": [{"name": "subtract", "done": True}, {"name": "recover", "done": False}],
    "empty": {},
}


def signed_and_written(path: Path, content: dict[str, Any], key: OperatorKey) -> None:
    """Write a receipt."""
    write_receipt(path, signed_receipt(content, key))


@dataclass(frozen=True)
class State:
    """A state folder with its key and log, and the command line for it."""

    folder: Path
    key: OperatorKey
    log: AuditLog
    fedneg: Callable[..., tuple[int, str, str]]

    def receipt(self, name: str, **content: Any) -> Path:
        """Write a receipt that is in the log."""
        path = self.folder / "receipts" / f"{name}.json"
        entry = self.log.append("forgotten", request=name)
        signed_and_written(path, {"audit_entry": entry["digest"], **content}, self.key)
        return path

    def audit(self, *words: str) -> tuple[int, str, str]:
        """Run `fedneg audit`."""
        return self.fedneg("audit", "--state", str(self.folder), *words)

    def scan(self, *words: str) -> tuple[int, str, str]:
        """Run `fedneg scan`."""
        return self.fedneg("scan", "--state", str(self.folder), *words)


@pytest.fixture
def state(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> State:
    """Return a state folder with a log of two entries."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fedneg", *arguments])
        capsys.readouterr()
        code: Any = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    folder = tmp_path / "state"
    key = OperatorKey.load_or_create(keys_folder(folder))
    log = AuditLog(folder / "audit.jsonl", key)
    log.append("started")
    log.append("requested", client=3)
    return State(folder, key, log, run)


@pytest.fixture
def path(state: State) -> Path:
    """Return a receipt outside the state."""
    path = state.folder.parent / "receipt.json"
    signed_and_written(path, CONTENT, state.key)
    return path


def other_key(state: State) -> OperatorKey:
    """Return the key of somebody else."""
    return OperatorKey.load_or_create(state.folder.parent / "other")


# -- receipts -------------------------------------------------------------------------


def test_a_receipt_says_what_was_signed(state: State, path: Path):
    """Keys are text, as in any JSON; the rest is as it was, in its order."""
    found = read_receipt(path, state.key.public)
    assert list(found) == list(CONTENT)
    assert found == CONTENT | {"by_round": {"1": 0.5, "10": 0.25, "9": True}}
    written = json.loads(path.read_bytes())
    assert list(written) == ["receipt", "signature", "key"]
    assert written["key"] == state.key.public.digest


def test_a_receipt_may_be_laid_out_anew(state: State, path: Path):
    """Another order, no line breaks: the signature is over what it says."""
    written = json.loads(path.read_bytes())
    written["receipt"] = dict(reversed(written["receipt"].items()))
    path.write_text(json.dumps(written, separators=(",", ":")))
    assert read_receipt(path, state.key.public)["client"] == 3


def test_every_altered_field_of_a_receipt_is_found(state: State, path: Path):
    whole = json.loads(path.read_bytes())
    for field in CONTENT:
        for change in ({field: "x"}, None):
            altered = json.loads(json.dumps(whole))
            if change:
                altered["receipt"] |= change
            else:
                del altered["receipt"][field]
            path.write_text(json.dumps(altered))
            with pytest.raises(FedNegError, match=r"receipt\.json was altered"):
                read_receipt(path, state.key.public)


def test_no_changed_byte_of_a_receipt_goes_unnoticed(state: State, path: Path):
    """It is refused, or it is the same receipt: white space may differ."""
    whole = path.read_bytes()
    expected = read_receipt(path, state.key.public)
    refused = []
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 1
        path.write_bytes(changed)
        try:
            assert read_receipt(path, state.key.public) == expected
        except FedNegError as error:
            refused.append(str(error))
    assert len(refused) > len(whole) / 2
    assert not any("\n" in line for line in refused)


def test_a_receipt_cut_off_anywhere_is_no_receipt(state: State, path: Path):
    whole = path.read_bytes()
    for end in range(len(whole) - 1):  # without the last newline it is whole
        path.write_bytes(whole[:end])
        with pytest.raises(FedNegError, match="is not a receipt"):
            read_receipt(path, state.key.public)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "not a JSON object"),
        ("{}", "must have a receipt, a signature and a key"),
        ('{"receipt": {}, "signature": "", "key": "", "more": 1}', "nothing else"),
        ('{"receipt": [], "signature": "", "key": ""}', "must have a receipt"),
        ('{"receipt": {}, "receipt": {}, "signature": "", "key": ""}', "twice"),
        ("[" * 100_000, "nested too deeply"),
        ("\0", "is not a receipt"),
        ('{"receipt": {}, "signature": "", "key": "\\n\\u001b"}', r"key '\\n\\x1b'"),
    ],
)
def test_what_is_no_receipt_is_refused_in_one_line(
    state: State, path: Path, text: str, said: str
):
    path.write_text(text)
    with pytest.raises(FedNegError, match=said) as raised:
        read_receipt(path, state.key.public)
    assert "\n" not in str(raised.value)


def test_another_key_is_named_beside_the_one_given(state: State, path: Path):
    other = other_key(state).public
    with pytest.raises(FedNegError) as raised:
        read_receipt(path, other)
    assert other.digest in str(raised.value)
    assert state.key.public.digest in str(raised.value)


def test_who_signs_again_with_another_key_is_found(state: State, path: Path):
    """Also when the file claims to be of the right key."""
    signed_and_written(path, CONTENT, other_key(state))
    written = json.loads(path.read_bytes())
    written["key"] = state.key.public.digest
    path.write_text(json.dumps(written))
    with pytest.raises(FedNegError, match="was altered"):
        read_receipt(path, state.key.public)


def test_the_signature_of_a_log_entry_is_no_receipt(state: State, path: Path):
    """Nor would anything else that the key signs pass for one."""
    entry = state.log.append("anything")
    for receipt in ({"audit": entry["digest"]}, {"digest": entry["digest"]}):
        made = {"receipt": receipt, "signature": entry["signature"]}
        path.write_text(json.dumps(made | {"key": state.key.public.digest}))
        with pytest.raises(FedNegError, match="was altered"):
            read_receipt(path, state.key.public)


def test_a_receipt_that_cannot_be_written_leaves_the_old_one(state: State, path: Path):
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        signed_and_written(path, {"loss": float("nan")}, state.key)
    with pytest.raises(FedNegError, match=r"cannot be written: File exists"):
        signed_and_written(path / "below", {}, state.key)
    assert path.read_bytes() == before
    with pytest.raises(FedNegError, match=r"cannot be read: No such file"):
        read_receipt(path.parent / "missing.json", state.key.public)


# -- fedneg verify --------------------------------------------------------------------


def test_verify_shows_everything_that_a_receipt_says(state: State, path: Path):
    key = str(keys_folder(state.folder) / "operator.pub")
    code, out, err = state.fedneg("verify", str(path), "--key", key)
    assert (code, err) == (0, "")
    rows = dict(line.split(None, 1) for line in out.splitlines()[:-1] if " " in line)
    assert rows == {
        "request": "forget-3",
        "client": "3",
        "methods": "negative_gradient, finetune",
        "model.before": "ab" * 32,
        "model.after": "\N{EN DASH}",
        "model.accuracy": "0.9123",
        "by_round.1": "0.5",
        "by_round.10": "0.25",
        "by_round.9": "yes",
        "steps[0].name": "subtract",
        "steps[0].done": "yes",
        "steps[1].name": "recover",
        "steps[1].done": "no",
        "empty": "{}",
    }
    assert out.splitlines()[-1] == (
        f"the signature is good: made by key {state.key.public.digest}"
    )


def test_verify_moves_no_cursor_and_ends_long_lists(state: State, path: Path):
    content = {"a\x1b[2J": "x\n\x1b[31m", "long": list(range(30))}
    signed_and_written(path, content, state.key)
    key = str(keys_folder(state.folder) / "operator.pub")
    _, out, _ = state.fedneg("verify", str(path), "--key", key)
    assert "\x1b" not in out
    assert r"x\n\x1b[31m" in out
    assert "10, 11, ... (30 in all)" in out
    assert len(out.splitlines()) == 3


def test_verify_prints_nothing_of_a_receipt_that_does_not_hold(
    state: State, path: Path
):
    other_key(state)
    key = str(state.folder.parent / "other" / "operator.pub")
    code, out, err = state.fedneg("verify", str(path), "--key", key)
    assert (code, out) == (2, "")
    assert err.startswith(f"fedneg: error: {path} is signed with key")
    assert len(err.splitlines()) == 1
    code, out, err = state.fedneg("verify", str(path))
    assert (code, out) == (2, "")
    assert "--key" in err


# -- fedneg audit ---------------------------------------------------------------------


def test_audit_of_a_whole_state(state: State, tmp_path: Path):
    """The key is found beside the state; the same with other ways to name it."""
    state.receipt("forget-3")
    head = state.receipt("forget-4")
    digest = json.loads(head.read_bytes())["receipt"]["audit_entry"]
    keys = keys_folder(state.folder)
    assert keys == tmp_path / "state-keys"
    for words in (
        [],
        ["--keys", str(keys)],
        ["--key", str(keys / "operator.pub")],
        ["--head", digest.upper()],
    ):
        code, out, err = state.audit(*words)
        assert (code, err) == (0, "")
        assert out.splitlines() == [
            f"whole entries: 4, the last one is {digest}",
            f"good receipts: 2, signed with key {state.key.public.digest}",
        ]
    code, out, _ = state.audit("--json")
    assert code == 0
    assert json.loads(out) == {
        "entries": 4,
        "head": digest,
        "broken": None,
        "receipts": 2,
        "strangers": [],
        "problems": [],
        "to_be_completed": [],
    }


def test_audit_names_the_first_broken_entry(state: State):
    """And no receipt whose entry stands behind it."""
    state.receipt("forget-3")
    text = state.log.path.read_text().replace('"client":3', '"client":4')
    state.log.path.write_text(text)
    code, out, err = state.audit()
    assert code == 2
    assert err == (
        f"fedneg: error: entry 2 of {state.log.path} is broken: changed content: its "
        "digest is another\n"
    )
    assert out.startswith("whole entries: 1,")
    code, out, _ = state.audit("--json")
    assert code == 2
    assert json.loads(out)["broken"] == {
        "number": 2,
        "what": "changed content: its digest is another",
    }


def test_audit_finds_a_removed_tail_by_a_receipt_or_an_anchor(state: State):
    path = state.receipt("forget-3")
    digest = json.loads(path.read_bytes())["receipt"]["audit_entry"]
    lines = state.log.path.read_bytes().splitlines(keepends=True)
    state.log.path.write_bytes(b"".join(lines[:-1]))
    code, _, err = state.audit()
    assert code == 2
    assert f"{path} names entry {digest}, which is not in" in err
    path.unlink()
    assert state.audit()[0] == 0
    code, _, err = state.audit("--head", digest)
    assert code == 2
    assert f"entry 3 of {state.log.path} is broken: the log ends" in err


def test_audit_names_receipts_that_do_not_hold(state: State):
    """The first of them in the one line, all of them in the JSON."""
    good = state.receipt("a")
    altered = state.receipt("b")
    altered.write_text(altered.read_text().replace('"audit_entry": "', '"x": "'))
    nameless = good.parent / "c.json"
    signed_and_written(nameless, {"client": 3}, state.key)
    code, out, err = state.audit()
    assert code == 2
    assert err.startswith(f"fedneg: error: {altered} was altered")
    assert err.endswith("; and 1 more\n")
    assert "good receipts: 1," in out
    problems = json.loads(state.audit("--json")[1])["problems"]
    assert problems[1] == f"{nameless} must name an entry as audit_entry, got None"


def test_audit_of_what_is_not_there_is_one_line(state: State):
    code, _, err = state.audit("--head", "abc")
    assert (code, "must be 64 hexadecimal digits, got 'abc'" in err) == (2, True)
    state.log.path.unlink()
    code, _, err = state.audit()  # these keys know of no entry
    assert (code, "has begun" in err, "audit.jsonl is not there" in err) == (
        2,
        True,
        True,
    )
    write_id(state.folder, str(uuid.uuid4()))
    code, _, err = state.audit()
    assert (code, "audit.jsonl cannot be read: No such file" in err) == (2, True)
    missing = state.folder / "missing"
    code, _, err = state.fedneg("audit", "--state", str(missing))
    assert (code, f"has begun in {missing} yet" in err) == (2, True)


# -- fedneg scan ----------------------------------------------------------------------


def remember(state: State, client: int) -> np.ndarray:
    """Keep scan windows of what a client sent, and return that."""
    draw = np.random.default_rng(client)
    sent = draw.normal(size=600).astype(np.float32)
    made = [f.to_json() for f in scan_windows({"update": sent})]
    path = state.folder / "fingerprints" / f"forget-{client}.json"
    path.parent.mkdir(exist_ok=True)
    content = {"client": client, "request": path.stem, "fingerprints": made}
    path.write_text(json.dumps(content))
    return sent


def test_scan_of_a_clean_state(state: State):
    """What it keeps to look for is in a file of the state, and no match."""
    remember(state, 3)
    remember(state, 4)
    code, out, err = state.scan()
    assert (code, err) == (0, "")
    first, *rest = out.splitlines()
    size = sum(p.stat().st_size for p in state.folder.rglob("*") if p.is_file())
    assert first == f"read 3 files, {size / 1024:.1f} KiB, for 64 scan windows"
    assert rest == [
        "client 3 (forget-3): 0 matches in 0 files",
        "client 4 (forget-4): 0 matches in 0 files",
    ]


def test_scan_names_the_first_match_and_counts_all_by_client(state: State):
    """In the state and in a backup elsewhere."""
    three, four = remember(state, 3), remember(state, 4)
    (state.folder / ".old").write_bytes(b"1" + four.tobytes())
    backup = state.folder.parent / "backup"
    backup.mkdir()
    (backup / "a").write_bytes(three.tobytes()[:64])
    (backup / "b").write_bytes(four.tobytes())
    code, out, err = state.scan(str(backup))
    assert code == 2
    assert err == (
        f"fedneg: error: {backup / 'a'} holds, at byte 0, what client 3 (forget-3) "
        "sent\n"
    )
    assert out.splitlines()[1:] == [
        "client 3 (forget-3): 1 matches in 1 files",
        f"  {backup / 'a'}",
        "client 4 (forget-4): 64 matches in 2 files",
        f"  {backup / 'b'}",
        f"  {state.folder / '.old'}",
    ]
    code, _, err = state.scan()
    assert code == 2
    assert f"{state.folder / '.old'} holds, at byte 1, what client 4" in err


def test_scan_without_anything_to_look_for_does_not_pass(state: State):
    code, out, err = state.scan()
    assert (code, out) == (2, "")
    assert "fingerprints holds no scan windows" in err
    remember(state, 3)
    path = state.folder / "fingerprints" / "forget-4.json"
    nothing = {"client": 4, "request": "forget-4", "fingerprints": []}
    path.write_text(json.dumps(nothing))
    code, out, _ = state.scan()
    assert code == 0
    assert out.startswith("client 4 (forget-4) has no scan windows")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"client": 1, "request": "a", "fingerprints": [1]}']
)
def test_scan_names_a_damaged_file_of_scan_windows(state: State, text: str):
    remember(state, 3)
    path = state.folder / "fingerprints" / "a.json"
    path.write_text(text)
    code, _, err = state.scan()
    assert code == 2
    assert err.startswith(f"fedneg: error: {path} must hold a client, a request")
    assert len(err.splitlines()) == 1
