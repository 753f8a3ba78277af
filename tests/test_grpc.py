"""A request to be forgotten, on real clients over gRPC, with TLS and authentication."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, SMALL
from safetensors.numpy import load_file
from test_live import Meddling, ask, files_with, go_on

from fedneg.data import load_dataset
from fedneg.deploy.federation import LocalFederation
from fedneg.errors import FedNegError
from fedneg.live.audit import check
from fedneg.live.commands import run_request_command
from fedneg.live.receipts import read_receipt
from fedneg.live.state import State
from fedneg.live.vacuum_command import vacuum
from fedneg.live.verify_commands import run_audit_command, run_scan_command
from fedneg.partition import partition_by_writer

pytestmark = [pytest.mark.grpc, pytest.mark.slow]
SETTINGS = "data=digits clients=3 model.hidden=[16] client.local_epochs=1"
REPAIR = "retrain_rounds=1"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """Return three clients with data of their own, stopped at the end.

    Each has the images that the built-in partition would give it.
    """
    folder = tmp_path_factory.mktemp("grpc")
    digits = load_dataset("digits")
    for split in partition_by_writer(digits.writers, clients=3, seed=0):
        own = np.sort(np.concatenate([split.train, split.val, split.test]))
        np.savez(
            folder / f"client{split.client_id}.npz",
            images=digits.images[own],
            labels=digits.labels[own],
            writers=digits.writers[own],
        )
    place = f'data="{folder}/client{{id}}.npz"'
    with LocalFederation(folder / "fed", node_config=place) as made:
        yield made


def wait_for(what: str, is_so: Callable[[], bool], timeout_s: float = 120) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def forgotten(federation: LocalFederation) -> tuple[State, list[np.ndarray]]:
    """Return the state after a life with two kills, and what client 2 had left in it.

    Client 2 asks to be forgotten. When it is out of the model, the SuperLink dies with
    the ServerApp, and client 1's node too; both are started again.
    """
    state, flwr = State(federation.state), federation.flwr
    config = f'state="{state.folder}" rounds=2 overrides="{SETTINGS} {REPAIR}"'
    done = federation.run(config, timeout_s=200)
    assert done.completed, done.details
    run_request_command(["forget", "2", "--state", str(state.folder)])
    left = []
    for path in (state.folder / "checkpoints").glob("*.safetensors"):
        kept = load_file(path)
        left += [kept["contributions"][2], kept["global"]]
    flwr.submit(f'state="{state.folder}"')
    unlearned = state.folder / "checkpoints" / "round-000003.json"
    wait_for("the unlearn round", unlearned.exists)
    federation.kill_node(1)
    federation.kill_superlink()
    wait_for("the ServerApp to be gone", lambda: not state.is_running, 10)
    assert [request.status for request in state.requests.all()] != ["done"]
    federation.start_superlink()
    federation.start_node(1)
    federation.wait_online()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLWR_HOME", str(federation.folder / "flwr"))
        words = ["--state", str(state.folder), "--app", str(REPOSITORY)]
        run_request_command(["forget", "2", *words, "--now", "federation"])
    return state, left


def test_the_model_is_that_of_the_inline_engine(
    forgotten: tuple[State, list[np.ndarray]], tmp_path: Path
):
    """Bit for bit, ledger and model, two kills notwithstanding."""
    state, _ = forgotten
    alone = tmp_path / "alone"
    go_on(alone, "model.hidden=[16]", grid=Meddling(3))
    ask(alone, 2)
    go_on(alone)
    assert State(alone).model.read_bytes() == state.model.read_bytes()
    one, other = (
        load_file(next((s / "checkpoints").glob("*.safetensors")))
        for s in (alone, state.folder)
    )
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
    assert SMALL[2] == "client.local_epochs=1"


def test_nothing_of_the_client_is_left(
    forgotten: tuple[State, list[np.ndarray]], federation: LocalFederation
):
    """Nor in the SuperLink's database, once it was vacuumed."""
    state, left = forgotten
    for vector in left:
        assert files_with(state.folder, vector) == []
    database = federation.folder / "superlink.db"
    vacuum(database)  # while the SuperLink runs
    run_scan_command(["--state", str(state.folder), str(federation.folder)])
    backup = state.folder / "copy"
    backup.write_bytes(b"." + left[0].tobytes())
    with pytest.raises(FedNegError, match="copy holds"):
        run_scan_command(["--state", str(state.folder)])
    backup.unlink()


def test_the_receipt_is_good_until_it_is_touched(
    forgotten: tuple[State, list[np.ndarray]],
):
    state, _ = forgotten
    path, public = state.receipts / "forget-2.json", state.operator.public
    receipt = read_receipt(path, public)
    assert receipt["purged"]["matches"] == 0
    assert receipt["done"]["recovery_rounds"] == [
        {"server_round": 4, "clients": 2, "failures": 0}
    ]
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"matches": 0', b'"matches": 1'))
    with pytest.raises(FedNegError, match="signature"):
        read_receipt(path, public)
    path.write_bytes(whole)


def test_the_audit_log_is_whole_until_it_is_touched(
    forgotten: tuple[State, list[np.ndarray]],
):
    state, _ = forgotten
    log = state.folder / "audit.jsonl"
    run_audit_command(["--state", str(state.folder)])
    events = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    assert events == [
        *("federation made", "accepted", "resumed", "unlearned"),
        *("resumed", "purged", "receipt"),
    ]
    whole = log.read_bytes()
    log.write_bytes(whole.replace(b'"client', b'"Client', 1))
    found = check(log, state.operator.public)
    assert found.broken is not None
    log.write_bytes(whole)


def test_who_was_forgotten_is_out(forgotten: tuple[State, list[np.ndarray]]):
    """Client 2's node is online and trusted, and trains no more."""
    state, _ = forgotten
    status = state.read_status()
    assert status["online"] == [0, 1, 2]
    assert status["excluded"] == [2]
    history = state.history.read_text().splitlines()
    assert history[-1].split(",")[:2] == ["4", "recover"]
