"""Real clients, with TLS and authentication, end to end.

Over gRPC or HTTPS, as the installed Flower wants it.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from builders.checkout import REPOSITORY
from builders.federations import SMALL, small_config
from builders.lives import Meddling, ask, files_with, go_on
from builders.programs import processes_left_in
from builders.releases import on_the_newest, on_the_oldest
from builders.waiting import ALL_TESTS, PATIENCE_S, until
from fedneg.cli.application import run as run_words
from fedneg.cli.vacuum import vacuum
from fedneg.core.errors import FedNegError
from fedneg.data.datasets import load_dataset
from fedneg.data.partition import partition_by_writer
from fedneg.engines.deployed.certificates import make_certificates
from fedneg.engines.deployed.federation import LocalFederation
from fedneg.engines.deployed.flower import SuperLink
from fedneg.engines.deployed.flwr_command import Flwr
from fedneg.engines.deployed.processes import free_ports, listens
from fedneg.engines.simulate import simulate
from fedneg.records.audit import check
from fedneg.records.receipts import read_receipt
from fedneg.records.state import State
from fedneg.server_app import run

pytestmark = [pytest.mark.nodes, pytest.mark.slow]
DEPLOYED = REPOSITORY / "fedneg" / "engines" / "deployed"
SETTINGS = "data=digits clients=3 model.hidden=[16] client.local_epochs=1"
REPAIR = "retrain_rounds=1"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """Return three clients with TLS, keys and data of their own, stopped at the end.

    Each has the images that the built-in partition would give it. All tests of this
    file share them, one after the other: to start them takes longer than most.
    """
    folder = tmp_path_factory.mktemp("real")
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
    made = LocalFederation(folder / "fed", node_config=place)
    made.start(PATIENCE_S)
    try:
        yield made
    finally:
        made.stop()
    assert processes_left_in(made.folder) == []


def test_a_key_that_nobody_registered_is_refused(federation: LocalFederation):
    """And once it is registered, the same client joins."""
    make_certificates(federation.folder / "certificates", clients=4)
    federation.start_node(3)
    with pytest.raises(FedNegError, match="ended: client 3") as raised:
        federation.wait_online(PATIENCE_S, 3)
    assert "node3.log" in str(raised.value)
    assert federation.online() == {0, 1, 2}
    del federation.nodes[3]


def test_a_client_comes_back_under_the_id_it_had(federation: LocalFederation):
    before = federation.node_ids()[1]
    federation.stop_node(1, PATIENCE_S)
    assert federation.online() == {0, 2}
    federation.start_node(1)
    federation.wait_online(PATIENCE_S, 1)
    assert federation.node_ids()[1] == before
    assert federation._refused == set(), "the SuperLink was told no goodbye"


def nginx() -> str:
    """Return the program, or skip the test by name."""
    found = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        pytest.skip("no nginx")
    return found


@pytest.fixture
def gate(federation: LocalFederation, tmp_path: Path) -> Iterator[SuperLink]:
    """Start the gate before the SuperLink; return how it looks from outside."""
    settings = federation._settings
    assert settings is not None
    if settings.fleet_port is not None:
        pytest.skip("with gRPC, clients have a port of their own and need no gate")
    (port,) = free_ports(1)
    text = (DEPLOYED / "gate.conf").read_text()
    for told, is_here in (("9092", port), ("8000", settings.port)):
        assert text.count(told) == 1
        text = text.replace(told, str(is_here))
    (tmp_path / "gate.conf").write_text(text)
    for name in ("ca.crt", "server.pem", "server.key"):
        shutil.copy(federation.folder / "certificates" / name, tmp_path)
    words = [nginx(), "-c", f"{tmp_path}/gate.conf", "-p", f"{tmp_path}/"]
    process = subprocess.Popen([*words, "-g", "daemon off;"])
    try:
        until("the gate", lambda: listens(port) or process.poll() is not None)
        assert process.poll() is None
        yield replace(settings, port=port)
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def test_clients_come_through_the_gate_and_nobody_else_does(
    federation: LocalFederation, gate: SuperLink, tmp_path: Path
):
    """Whoever reached all of the SuperLink's port could start runs."""
    outside = Flwr(tmp_path / "outside", REPOSITORY)
    gate.write_profile(tmp_path / "outside")
    with pytest.raises(FedNegError, match="403"):
        outside.submit('out="/nowhere"')
    with pytest.raises(FedNegError, match="403"):
        outside.online()
    assert federation.flwr.online()
    federation.stop_node(1, PATIENCE_S)
    (port,) = free_ports(1)
    more = federation.node_config
    words = gate.node_command(1, port=port, more=more)
    federation.nodes[1] = federation._process("node1", words)
    federation.wait_online(PATIENCE_S, 1)
    overrides = f"{SETTINGS} rounds=1 reference=false"
    trust = "strategy.trust=first_sight"
    found = federation.run(
        f'forget="null" out="{tmp_path}/out" overrides="{overrides} {trust}"',
        PATIENCE_S,
    )
    assert found.completed, (found.status, found.details, found.log)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["failures"] == []
    federation.stop_node(1, PATIENCE_S)
    federation.start_node(1)
    federation.wait_online(PATIENCE_S, 1)


# A client starts a process for each message: a round of FedEraser costs ten of them.
ROUNDS = 2 if ALL_TESTS else 1
# Clients take part in the forgetting; in the first, who leaves answers as well. In the
# second, what is trained is another's: a task that is found as installed. In the third
# a client trains twice: on what goes of its examples, and on the rest.
METHODS = {
    "gradient_ascent": ("rounds=1", "attack=backdoor", "strategy.gate=0"),
    "federaser": (
        *(f"rounds={ROUNDS}", "strategy.interval=1", "reference=false"),
        "task=examples.own_task:task",
    ),
    "puf": ("forget_samples={2:.3}", "rounds=1", "reference=false"),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("gradient_ascent", marks=on_the_newest),
        pytest.param("federaser", marks=on_the_oldest),
        pytest.param(
            "puf",
            marks=pytest.mark.skipif(
                not ALL_TESTS, reason="make test-all forgets real clients' examples"
            ),
        ),
    ],
)
def test_a_run_with_real_clients_gives_the_bytes_of_inline(
    name: str, federation: LocalFederation, tmp_path: Path
):
    """Its models, what the method says of itself, and all that was measured.

    Each on one of Flower's releases: on both, `forgotten` below does what it does.
    """
    more = (f"strategy={name}", "clients=3", "client.local_epochs=2", *METHODS[name])
    more = (*more, "report=false")
    overrides = " ".join([*SMALL, *more, "strategy.trust=first_sight"])
    config = f'forget=2 out="{tmp_path}/real" overrides="{overrides}"'
    found = federation.run(config, PATIENCE_S)
    assert found.completed, (found.status, found.details, found.log)
    assert "accuracy" in found.log
    (tmp_path / "inline").mkdir()
    config = small_config("forget=2", *more)
    simulate(
        lambda grid, context: run(grid, config, tmp_path / "inline"),
        clients=3,
        engine=config.engine,
    )
    real, inline = (
        {path.name: path.read_bytes() for path in (tmp_path / engine).glob("model_*")}
        for engine in ("real", "inline")
    )
    assert real == inline
    assert len(real) == (3 if config.reference else 2)
    results, expected = (
        json.loads((tmp_path / engine / "results.json").read_text())
        for engine in ("real", "inline")
    )
    for part in ("models", "method", "evidence", "failures"):
        assert results[part] == expected[part], part
    assert results["failures"] == []
    if name == "gradient_ascent":
        ascent = results["method"]["ascents"]["2"]
        assert ascent["kept"]
        assert ascent["steps"], "client 2 trained, and did not climb"
        for evidence in results["evidence"].values():
            assert evidence["membership_auc"], "client 2 did not answer"
            assert evidence["relearn_batches"] is not None
    elif name == "puf":
        assert results["forget_samples"]["2"]["chosen"] == 0.3
        assert real["model_unlearned.safetensors"] != real["model_original.safetensors"]
    else:
        assert results["method"]["retained_rounds"] == [*range(1, ROUNDS + 1)]
        assert results["method"]["calibration_epochs"] == 1
        assert results["data"]["name"] == "breast cancer"


def test_clients_find_a_superlink_that_was_killed_and_started_again(
    federation: LocalFederation,
):
    """A run that fails at once shows that the new SuperLink works, and tells why."""
    before = federation.node_ids()
    federation.kill_superlink()
    federation.start_superlink(PATIENCE_S)
    federation.wait_online(PATIENCE_S)
    assert federation.node_ids() == before
    found = federation.run('out="somewhere"', PATIENCE_S)
    assert found.status == "finished:failed"
    assert "out must be an absolute folder, got 'somewhere'" in found.details


# -- a request -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def forgotten(federation: LocalFederation) -> tuple[State, list[np.ndarray]]:
    """Return the state after a life with two kills, and what client 2 had left in it.

    Client 2 asks to be forgotten. When it is out of the model, the SuperLink dies with
    the ServerApp, and client 1's node too; both are started again.
    """
    state, flwr = State(federation.state), federation.flwr
    config = f'state="{state.folder}" rounds=2 overrides="{SETTINGS} {REPAIR}"'
    done = federation.run(config, PATIENCE_S)
    assert done.completed, done.details
    run_words(["request", "forget", "2", "--state", str(state.folder)])
    left = []
    for path in (state.folder / "checkpoints").glob("*.safetensors"):
        kept = load_file(path)
        left += [kept["contributions"][2], kept["global"]]
    flwr.submit(f'state="{state.folder}"')
    unlearned = state.folder / "checkpoints" / "round-000003.json"
    until("the unlearn round", unlearned.exists)
    federation.kill_node(1)
    federation.kill_superlink()
    until("the ServerApp to be gone", lambda: not state.is_running)
    assert [request.status for request in state.requests.all()] != ["done"]
    federation.start_superlink(PATIENCE_S)
    federation.start_node(1)
    federation.wait_online(PATIENCE_S)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLWR_HOME", str(federation.folder / "flwr"))
        words = ["--state", str(state.folder), "--app", str(REPOSITORY)]
        run_words(["request", "forget", "2", *words, "--now", "federation"])
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
    run_words(["scan", "--state", str(state.folder), str(federation.folder)])
    backup = state.folder / "copy"
    backup.write_bytes(b"." + left[0].tobytes())
    with pytest.raises(FedNegError, match="copy holds"):
        run_words(["scan", "--state", str(state.folder)])
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
    run_words(["audit", "--state", str(state.folder)])
    events = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    assert [e for e in events if e not in ("kept", "key listed")] == [
        *("federation begun", "federation made", "served", "ended", "accepted"),
        *("resumed", "unlearned", "resumed"),
        *("purging", "served", "purged", "receipt", "done", "ended"),
    ]
    assert events.count("key listed") == 3
    assert events.index("kept") < events.index("accepted")
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
