"""A federation that lives on: what a request does, and that nothing stays of it."""

import json
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from builders.checkout import REPOSITORY, TESTS
from builders.federations import SMALL, RecordingGrid, small_config
from builders.lives import THREE, Meddling, _read, ask, files_with, go_on, receipt_of
from builders.old_state import make_old
from builders.programs import command
from builders.waiting import ALL_TESTS, PATIENCE_S
from fedneg.cli.application import run as run_words
from fedneg.client_app import app as real_clients
from fedneg.config import load_config
from fedneg.core.errors import FedNegError
from fedneg.engines.inline import FIRST_NODE_ID
from fedneg.federation import composition
from fedneg.records.audit import check
from fedneg.records.facts import fixed_settings
from fedneg.records.state import State
from fedneg.server_app import live, run

# -- what a request does ---------------------------------------------------------------


def test_it_ends_with_the_bytes_of_one_run_of_the_main_job(
    trained: Path, tmp_path: Path
):
    """Train 2, forget, repair 1: in three calls, and in one that never lived on."""
    config = small_config(
        "clients=3", "forget=1", "retrain=remaining", "retrain_rounds=1"
    )
    run(RecordingGrid(real_clients, 3), config, tmp_path)
    original = (tmp_path / "model_original.safetensors").read_bytes()
    assert (trained / "model.safetensors").read_bytes() == original
    ask(trained, 1)
    go_on(trained)
    recovered = (tmp_path / "model_recovered.safetensors").read_bytes()
    assert (trained / "model.safetensors").read_bytes() == recovered
    assert recovered != original


def test_from_scratch_it_ends_with_the_retrained_model(trained: Path, tmp_path: Path):
    config = small_config("clients=3", "forget=1", "reference=true")
    run(RecordingGrid(real_clients, 3), config, tmp_path)
    ask(trained, 1)
    go_on(trained, "retrain=scratch")
    retrained = (tmp_path / "model_retrained.safetensors").read_bytes()
    assert (trained / "model.safetensors").read_bytes() == retrained
    receipt = receipt_of(trained, 1)
    assert receipt["remains"].startswith("nothing: trained from the initial parameters")
    assert [r["clients"] for r in receipt["done"]["recovery_rounds"]] == [2, 2]


def test_the_receipt_of_who_took_no_part_says_so(tmp_path: Path):
    """One of three trains, in one round: the two others are in no model."""
    state, few = tmp_path / "state", ("rounds=1", "strategy.client_fraction=0.34")
    there = go_on(state, *few).asked("train")
    assert len(there) == 1
    absent = next(k for k in range(3) if k not in there)
    ask(state, absent)
    go_on(state, *few, "retrain=none")
    said = "nothing: the client took part in no round of this model"
    assert receipt_of(state, absent)["remains"] == said
    ask(state, *there)
    go_on(state, *few, "retrain=none", "strategy.gate=0")
    assert receipt_of(state, *there)["remains"] != said


def test_who_asked_is_never_asked_to_train_again(trained: Path):
    ask(trained, 2)
    grid = go_on(trained, "rounds=4")
    assert grid.asked("train") == [0, 1] * 3  # one recovery round, two of training
    assert 2 not in grid.asked("evaluate")


def test_a_request_in_the_middle_of_a_round_counts_at_once(tmp_path: Path):
    """Client 1 asks while client 0 trains round 2; its own reply is then dropped."""
    state, grid = tmp_path / "state", Meddling(3)

    def before(client_id: int, server_round: int) -> None:
        if (client_id, server_round) == (0, 2) and not State(state).requests.all():
            ask(state, 1)

    grid.before = before
    go_on(state, "rounds=3", grid=grid)
    history = (state / "history.csv").read_text().splitlines()
    phases = [line.split(",")[1] for line in history[1:]]
    assert phases == ["train", "train", "train", "unlearn", "recover", "train"]
    assert history[3].endswith(",2,1,1")  # two clients, one failure: client 1
    assert grid.asked("train") == [0, 1, 2, 0, 1, 2, 0, 2, 0, 2]


def test_requests_that_wait_are_carried_out_together(tmp_path: Path):
    state = tmp_path / "state"
    go_on(state, "clients=4")
    ask(state, 3, clients=4)
    ask(state, 0, clients=4)
    grid = go_on(state, "clients=4")
    assert grid.asked("train") == [1, 2]
    for client_id in (0, 3):
        assert receipt_of(state, client_id)["done"]["forgotten_together"] == [3, 0]


def test_a_later_request_checks_the_earlier_ones_again(trained: Path):
    ask(trained, 2)
    go_on(trained)
    assert receipt_of(trained, 2)["rechecked"] == []
    ask(trained, 0)
    go_on(trained)
    assert receipt_of(trained, 0)["rechecked"] == [
        {"request": "forget-2", "row_is_zero": True, "excluded": True, "matches": 0}
    ]


def test_a_client_that_never_took_part_leaves_the_very_bytes(tmp_path: Path):
    state = tmp_path / "state"
    config, _ = load_config([*THREE, f"state={state}"])
    State.of(config).settle(
        fixed_settings(config), [*THREE], deployed=False, encrypt=False
    )
    ask(state, 1)
    go_on(state, "retrain=none", "rounds=1")
    assert (
        receipt_of(state, 1)["models"]["unlearned"]
        == (receipt_of(state, 1)["models"]["before"])
    )
    assert receipt_of(state, 1)["purged"]["fingerprints"] == 0


# -- what a receipt says ---------------------------------------------------------------


def test_the_receipt_names_what_was_asked_done_and_measured(trained: Path):
    before = (trained / "history.csv").read_text().splitlines()[-1].split(",")[2]
    ask(trained, 1)
    go_on(trained)
    receipt = receipt_of(trained, 1)
    assert (receipt["client"], receipt["asked"]["reason"]) == (1, "moved")
    assert receipt["done"]["method"]["scale"] == {"1": 1.0}
    assert receipt["done"]["unlearn_round"] == 3
    assert receipt["done"]["recovery_rounds"] == [
        {"server_round": 4, "clients": 2, "failures": 0}
    ]
    measured = receipt["measured"]
    assert measured["before"]["test_accuracy"] == float(before)
    assert measured["after"]["validation_of_remaining_clients"]["clients"] == 2
    assert len({*receipt["models"].values()}) == 3
    assert receipt["remains"] == "nothing of the client's summed updates"
    state = State(trained)
    found = check(
        trained / "audit.jsonl", state.operator.public, wanted=[receipt["audit_entry"]]
    )
    assert (found.broken, found.missing) == (None, ())


def test_attack_success_is_on_the_receipt_where_there_is_an_attack(tmp_path: Path):
    state = tmp_path / "state"
    go_on(state, "attack=backdoor", "attack.clients=[1]")
    ask(state, 1)
    go_on(state)
    measured = receipt_of(state, 1)["measured"]
    assert {"attack_success_rate"} <= measured["before"].keys() & measured["after"]


def test_canaries_give_a_receipt_an_epsilon_without_any_retraining(tmp_path: Path):
    """Of the client that leaves, before and after; clients without any have none."""
    state = tmp_path / "state"
    words = ("attack=canaries", "attack.clients=[1,2]", "attack.canaries=20")
    go_on(state, *words, "client.local_epochs=8", "client.learning_rate=0.1")
    ask(state, 1)
    grid = go_on(state, "retrain=scratch")
    measured = receipt_of(state, 1)["measured"]
    before, after = (measured[name]["canaries"] for name in ("before", "after"))
    assert set(before) == set(after) == {"1"}
    assert before["1"]["count"] == 20
    assert before["1"]["epsilon"] > 0
    assert before["1"]["p_value"] < 0.05
    assert after["1"]["won"] < before["1"]["won"]
    assert set(grid.asked("train")) == {0, 2}
    ask(state, 0)
    go_on(state)
    assert "canaries" not in receipt_of(state, 0)["measured"]["before"]


def test_the_parameters_form_says_that_a_part_remains(tmp_path: Path):
    state = tmp_path / "state"
    go_on(state, "strategy.form=parameters")
    ask(state, 1)
    go_on(state)
    assert receipt_of(state, 1)["remains"].startswith(
        "a part of the client's summed updates (parameters form, scale 0."
    )


def test_what_remains_is_no_row_of_its_own(tmp_path: Path):
    """With scale 0.5 the correction would be half of the client's contribution."""
    state = tmp_path / "state"
    go_on(state, "strategy.scale=0.5")
    ask(state, 1)
    go_on(state, "retrain=none")
    (path,) = (state / "checkpoints").glob("*.safetensors")
    kept = load_file(path)
    assert not kept["correction"].any()
    rebuilt = kept["initial"] + kept["contributions"].sum(0)
    np.testing.assert_allclose(rebuilt, kept["global"], atol=1e-6)


# -- nothing of it stays ---------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [(), ("strategy.form=parameters",), ("strategy.server_momentum=0.5",)],
    ids=["update", "parameters", "momentum"],
)
def test_no_file_holds_a_forgotten_client(tmp_path: Path, options: tuple[str, ...]):
    """Searched for by hand: all rows, and all models that contain it."""
    state = tmp_path / "state"
    go_on(state, *options)
    must_go = []
    for path in (state / "checkpoints").glob("*.safetensors"):
        kept = load_file(path)
        must_go += [kept["contributions"][1], kept["global"]]
        must_go += [kept[n][1] for n in ("buffers", "local") if n in kept]
    assert all(files_with(state, vector) for vector in must_go)
    ask(state, 1)
    go_on(state)
    for vector in must_go:
        assert files_with(state, vector) == []
    stays = load_file(next((state / "checkpoints").glob("*.safetensors")))
    assert files_with(state, stays["contributions"][0])
    assert not stays["contributions"][1].any()


def test_a_copy_in_the_state_folder_is_named_and_keeps_the_request_open(trained: Path):
    backup = trained / "backup.bin"
    whole = (trained / "checkpoints" / "round-000002.safetensors").read_bytes()
    backup.write_bytes(b"x" * 13 + whole)
    ask(trained, 1)
    with pytest.raises(FedNegError, match=r"backup\.bin still holds"):
        go_on(trained)
    assert State(trained).requests.all()[0].status == "unlearned"
    assert "backup.bin" in State(trained).read_status()["error"]
    backup.unlink()
    grid = go_on(trained)
    assert grid.asked("train") == []  # nothing is done twice
    assert State(trained).requests.all()[0].status == "done"
    assert "error" not in State(trained).read_status()


def test_a_model_that_contains_a_forgotten_client_is_refused_by_name(
    trained: Path, tmp_path: Path
):
    kept = {p.name: p.read_bytes() for p in (trained / "checkpoints").iterdir()}
    ask(trained, 1)
    go_on(trained)
    for name, content in kept.items():
        (trained / "checkpoints" / name).write_bytes(content)
    with pytest.raises(
        FedNegError, match=r"round 1 .* contains client 1, which was forgotten"
    ):
        go_on(trained)


def test_lost_checkpoints_are_no_reason_to_begin_anew(trained: Path):
    for path in (trained / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(FedNegError, match="there was one of round 2"):
        go_on(trained)


def test_sealed_backups_are_unreadable_once_the_keys_are_gone(tmp_path: Path):
    state = tmp_path / "state"
    go_on(state, "encrypt=true")
    shutil.copytree(state, tmp_path / "backup")
    ask(state, 1)
    go_on(state)
    assert receipt_of(state, 1)["purged"]["keys"] == ["client-1", "model-000000"]
    # An operator who brings back everything but the keys, the log included.
    shutil.rmtree(state)
    shutil.copytree(tmp_path / "backup", state)
    with pytest.raises(FedNegError, match="the key"):
        go_on(state)


def test_a_sealed_federation_gives_the_same_model(trained: Path, tmp_path: Path):
    sealed = tmp_path / "sealed"
    go_on(sealed, "encrypt=true")
    for state in (trained, sealed):
        ask(state, 1)
        go_on(state)
    assert _read(sealed / "model.safetensors") == _read(trained / "model.safetensors")
    rows = load_file(next((trained / "checkpoints").glob("*.safetensors")))
    assert files_with(trained, rows["contributions"][0])
    assert not files_with(sealed, rows["contributions"][0])


# -- the gate --------------------------------------------------------------------------


def test_a_model_below_the_gate_is_not_handed_over(trained: Path):
    """Ten times too much is subtracted, and one round does not repair that."""
    before = _read(trained / "model.safetensors")
    ask(trained, 1)
    with pytest.raises(FedNegError, match=r"below strategy\.gate=0\.9 times"):
        go_on(trained, "strategy.gate=0.9", "strategy.scale=10")
    assert _read(trained / "model.safetensors") == before
    assert State(trained).requests.all()[0].status == "unlearned"
    assert not list((trained / "receipts").glob("*"))
    go_on(trained, "strategy.gate=0.9", "retrain=scratch")
    assert _read(trained / "model.safetensors") != before
    assert receipt_of(trained, 1)["done"]["recovery"] == "scratch"


def test_more_recovery_rounds_go_on_where_the_gate_stopped(trained: Path):
    ask(trained, 1)
    with pytest.raises(FedNegError, match="1 recovery rounds"):
        go_on(trained, "strategy.gate=0.9", "strategy.scale=10")
    grid = go_on(trained, "retrain_rounds=3")
    assert grid.asked("train") == [0, 2] * 2
    assert len(receipt_of(trained, 1)["done"]["recovery_rounds"]) == 3


# -- one federation, one folder --------------------------------------------------------


def test_later_runs_need_not_repeat_what_the_first_said(tmp_path: Path):
    given = [*SMALL, "clients=3", "client.learning_rate=0.03", f"state={tmp_path}/s"]
    config, notices = load_config(given)
    live(Meddling(3), config, given, notices)
    later, _ = load_config([f"state={tmp_path}/s", "client.batch_size=16"])
    assert (later.clients, later.client.learning_rate) == (3, 0.03)
    assert (later.data.name, later.client.batch_size) == ("digits", 16)
    assert later.retrain == "remaining"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("clients=4", "clients is 3 in the federation in"),
        ("seed=1", "seed is 0"),
        ("model.hidden=[8]", r"model.hidden is \[16\]"),
        ("strategy.server_momentum=0.5", "strategy.server_momentum is 0.0"),
        ("encrypt=true", "encrypt is False"),
        (
            "data.partition=dirichlet",
            "data.partition is 'writer' in the federation in .*, got 'dirichlet'",
        ),
    ],
)
def test_what_the_ledger_hangs_on_stays(trained: Path, override: str, message: str):
    kept = {p: _read(p) for p in (trained / "checkpoints").iterdir()}
    with pytest.raises(FedNegError, match=message):
        go_on(trained, override)
    assert kept == {p: _read(p) for p in (trained / "checkpoints").iterdir()}


def test_a_federation_that_never_named_its_partition_deals_by_writer(trained: Path):
    """As those made before there were others."""
    path = trained / "federation.json"
    make_old(trained)
    facts = json.loads(path.read_text())
    del facts["fixed"]["data.partition"]
    path.write_text(json.dumps(facts))
    assert go_on(trained).asked("train") == []
    with pytest.raises(FedNegError, match=r"data\.partition is 'writer'"):
        go_on(trained, "data.partition=iid")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("forget=1", r"by request, got forget=\[1\]; fedneg request forget 1"),
        ("experiment=paper", "experiment=paper cannot have state=DIR"),
        ("retrain=forgotten", "retrain=forgotten trains on what is to be forgotten"),
        ("strategy.trust=nobody", "strategy.trust must be one of listed, first_sight"),
        ("strategy.min_clients=0", "strategy.min_clients must be at least 1"),
        ("strategy.gate=2", "strategy.gate must be .* 1"),
        ("encrypt=maybe", "encrypt must be true or false"),
        ("keys=3", "keys must be a folder or null"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, override: str, message: str):
    with pytest.raises(FedNegError, match=message):
        load_config([*THREE, f"state={tmp_path}", override])
    assert list(tmp_path.iterdir()) == []


def test_two_runs_at_once_are_refused(trained: Path):
    with (
        State(trained).running(),
        pytest.raises(FedNegError, match="somebody else is using the federation"),
    ):
        go_on(trained)


def test_the_status_says_where_it_stands(trained: Path):
    ask(trained, 2)
    go_on(trained)
    status = State(trained).read_status()
    assert (status["server_round"], status["trained"], status["phase"]) == (
        *(4, 2, "recover"),
    )
    assert (status["excluded"], status["carrying_out"]) == ([2], [])
    history = (trained / "history.csv").read_text().splitlines()
    assert status["accuracy"] == float(history[-1].split(",")[2])


def test_a_client_that_fails_is_in_the_status(tmp_path: Path):
    grid = Meddling(3)
    grid.silent = {2}
    go_on(tmp_path / "state", grid=grid)
    assert State(tmp_path / "state").read_status()["failed"] == {"2": "no reply"}


def test_who_is_waited_for_is_said_and_in_the_status(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    state, grid = tmp_path / "state", Meddling(3)
    gone = grid.contexts.pop(FIRST_NODE_ID + 1)
    said = "waiting for clients [1], up to 2 s"
    with pytest.raises(FedNegError, match="client 1 is not online"):
        go_on(state, "strategy.wait_for_clients_s=2", grid=grid)
    assert capfd.readouterr().err.count(said) == 1
    status = State(state).read_status()
    assert (status["waiting"], status["online"]) == (said, [0, 2])
    grid.contexts[FIRST_NODE_ID + 1] = gone
    go_on(state, grid=grid)
    assert State(state).read_status()["waiting"] == ""


def test_whose_node_is_refused_is_said_and_in_the_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    grid = Meddling(3)
    grid.contexts[FIRST_NODE_ID].node_config["partition-id"] = 1
    with pytest.raises(FedNegError, match="two nodes call themselves client 1"):
        go_on(tmp_path / "state", grid=grid)
    why = "two nodes call themselves client 1"
    assert capfd.readouterr().err.count(f"refused: {why}") >= 2  # one for each node
    log = (tmp_path / "state" / "audit.jsonl").read_text().splitlines()
    entries = [e for e in map(json.loads, log) if e["event"] == "refused"]
    assert [e["facts"] for e in entries] == [{"client": 1, "why": why}] * 2


def test_one_command_asks_and_another_carries_it_out(tmp_path: Path):
    """Through the command line, workers and all; a mistake is one line."""
    first = command(*THREE, "state=fed", "engine=local", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    for words in (["request", "forget", "1", "--state", "fed"], ["state=fed"]):
        done = command(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert "receipts/forget-1.json" in done.stdout
    wrong = command("state=fed", "clients=9", cwd=tmp_path)
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines()[-1].startswith("fedneg: error: clients is 3 in")


# -- killed ----------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_at_any_step_a_life_ends_the_same(tmp_path: Path):
    """Training, two requests, their purges: sealed, with momentum and local models."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "processes.killed_live",
            str(tmp_path),
            "1" if ALL_TESTS else "67",
        ],
        cwd=TESTS,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    undisturbed, *killed = (json.loads(line) for line in done.stdout.splitlines())
    assert len(killed) > 15
    assert undisturbed["statuses"] == ["done", "done"]
    assert undisturbed["broken"] == "None"
    assert undisturbed["differs"] == []
    for found in killed:
        assert (found["code"], found["again"]) == (-signal.SIGKILL, 0), found["step"]
        for name in undisturbed.keys() - {"step"}:
            assert found[name] == undisturbed[name], (found["step"], name)


def test_what_lies_in_a_checkout_is_not_sent_to_clients(trained: Path, tmp_path: Path):
    """`flwr run` sends the app to everybody: whoever asked to be forgotten is not in.

    Nor is it committed.
    """
    app = tmp_path / "app"
    for name in ("fedneg", "strategies", "clients", "conf"):
        shutil.copytree(
            REPOSITORY / name, app / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, app / name)
    shutil.copytree(trained, app / "state")
    flwr = Path(sys.executable).parent / "flwr"
    subprocess.run([flwr, "build"], cwd=app, check=True, capture_output=True)
    (built,) = app.glob("*.fab")
    names = zipfile.ZipFile(built).namelist()
    assert {"fedneg/live/job.py", "conf/config.yaml"} <= set(names)
    assert [name for name in names if "state/" in name] == []
    for folder in (trained, State(trained).keys):
        assert (folder / ".gitignore").read_text() == "*\n"


def test_after_a_rollback_the_model_in_service_is_the_earlier_one(trained: Path):
    first = load_file(trained / "checkpoints" / "round-000001.safetensors")["global"]
    later = _read(trained / "model.safetensors")
    run_words(["rollback", "1", "--state", str(trained)])
    go_on(trained, "rounds=1")
    found = load_file(trained / "model.safetensors")
    flat = np.concatenate([array.reshape(-1) for array in found.values()])
    assert sorted(flat) == sorted(first)
    go_on(trained)
    assert _read(trained / "model.safetensors") == later


def test_real_clients_are_not_believed_unless_it_is_said_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Without a roster of keys the default has nobody to believe."""
    monkeypatch.setattr(composition, "is_deployed", lambda grid: True)
    config = small_config("clients=3", "forget=1")
    with pytest.raises(FedNegError, match=r"needs state=DIR, whose roster lists"):
        run(RecordingGrid(real_clients, 3), config, tmp_path)
    anybody = small_config(
        "clients=3", "forget=1", "strategy.trust=unauthenticated", "reference=false"
    )
    run(RecordingGrid(real_clients, 3), anybody, tmp_path)
    notices = json.loads((tmp_path / "results.json").read_text())["notices"]
    assert any("any node may claim to be any client" in text for text in notices)


def test_a_run_with_nothing_left_to_do_writes_no_second_receipt(trained: Path):
    """The last checkpoint still names the work that has been done."""
    ask(trained, 1)
    go_on(trained)
    receipt = _read(trained / "receipts" / "forget-1.json")
    grid = go_on(trained)
    assert grid.asked("evaluate") == []
    assert _read(trained / "receipts" / "forget-1.json") == receipt


def test_the_rounds_of_an_unlearn_phase_are_counted(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    words = ("strategy=fine_tune", "strategy.rounds=3", "cache=false")
    go_on(tmp_path / "S", *words)
    ask(tmp_path / "S", 1)
    capfd.readouterr()
    go_on(tmp_path / "S", *words)
    said = capfd.readouterr().err
    assert [said.count(f"unlearn {number}/3") for number in (1, 2, 3)] == [1, 1, 1]
