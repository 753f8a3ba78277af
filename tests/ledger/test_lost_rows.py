"""A restore compares ledger and model: who has no row would be forgotten unheard."""

import json
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from builders.lives import go_on
from builders.trainings import federate
from fedneg.core.errors import FedNegError
from fedneg.ledger import tensors
from fedneg.ledger.checkpoint_files import head_bytes
from fedneg.records.account import RESUMED
from fedneg.records.state import State


def lose_a_row(head: Path, client_id: int) -> None:
    """Let a checkpoint lack what a client contributed, and be whole otherwise."""
    content = json.loads(head.read_bytes())
    content.pop("digest")
    data = head.parent / content["data"]
    found = load_file(data)
    found["contributions"][client_id] = 0
    save_file(found, data)
    content["sha256"] = tensors.sha256_of(data)
    head.write_bytes(head_bytes(content))


def test_a_ledger_that_does_not_add_up_to_the_model_is_damage(tmp_path: Path):
    """It would forget the client by subtracting nothing: the one before is used."""
    expected, first = federate(tmp_path)
    (path,) = tmp_path.glob("training/*/round-000003.json")
    lose_a_row(path, 1)
    found, again = federate(tmp_path)
    assert (found, again.resumed) == (expected, {"train": 2})
    assert "round-000003 is damaged: the rows in round-000003" in again.notices[0]
    for name in ("round-000002", "round-000003"):
        (path,) = tmp_path.glob(f"training/*/{name}.json")
        lose_a_row(path, 0)
    found, again = federate(tmp_path)
    assert (found, again.resumed) == (expected, {"train": 0})
    # Nothing of a refused ledger is left in the next.
    rows, expected_rows = (f.strategy.ledger.contributions for f in (again, first))
    assert rows.tobytes() == expected_rows.tobytes()


def test_a_federation_whose_rows_do_not_add_up_names_the_file(tmp_path: Path):
    """There is no training anew of real clients: the error names what is damaged."""
    go_on(tmp_path / "state", "rounds=1")
    path = tmp_path / "state" / "checkpoints" / "round-000001.json"
    lose_a_row(path, 1)
    # Its digest stands where a run ends; none stands where a run was killed.
    state = State(tmp_path / "state")
    number, digest = state.account.line[-1]
    state.audit.append(RESUMED, round=number, model=digest)
    with pytest.raises(
        FedNegError,
        match=r"one of round 1; .* \(.*round-000001 is damaged: the rows in round",
    ):
        go_on(tmp_path / "state", "rounds=2")


def test_a_row_is_not_left_out_of_a_client_that_the_model_contains(tmp_path: Path):
    """Its key is destroyed, and no request says why."""
    options = ("encrypt=true", "rounds=1")
    go_on(tmp_path / "state", *options)
    vault = State(tmp_path / "state").vault
    before = {p: p.read_bytes() for p in (tmp_path / "state/checkpoints").iterdir()}
    kept = (vault.folder / "client-2.key").read_bytes()
    vault.destroy([2])
    with pytest.raises(FedNegError, match="client 2"):
        go_on(tmp_path / "state", "rounds=2")
    (vault.folder / "client-2.key").write_bytes(kept)
    (vault.folder / "client-2.key").chmod(0o600)
    with pytest.raises(FedNegError, match="client 2"):
        go_on(tmp_path / "state", "rounds=2")
    assert before == {p: p.read_bytes() for p in before}


def test_nor_where_there_is_no_checkpoint_yet(tmp_path: Path):
    """The key was destroyed before the first round; nothing could tell its row."""
    state = State(tmp_path / "state")
    assert state.account.federation
    state.vault.folder.mkdir()
    (state.vault.folder / "client-2.destroyed").touch()
    with pytest.raises(FedNegError, match=r"client-2\.destroyed says that the key of"):
        go_on(tmp_path / "state", "encrypt=true", "rounds=1")
    assert state.account.line == []
