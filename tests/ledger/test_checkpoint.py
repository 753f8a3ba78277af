"""A run that is killed at any moment ends, when it is repeated, with the same bytes."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from builders.checkout import TESTS
from builders.programs import command, processes_left_in
from builders.trainings import federate
from builders.waiting import ALL_TESTS, PATIENCE_S, no_longer_than_patience
from fedneg.core import files
from fedneg.core.errors import FedNegError
from fedneg.ledger import checkpoint, checkpoint_forms
from fedneg.ledger.checkpoint import Checkpoints
from fedneg.ledger.ledger import Ledger

MODELS = ("original", "unlearned", "recovered", "retrained")


@pytest.fixture(scope="module")
def kills(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return what some 45 killed runs came to when repeated; first the undisturbed."""
    folder, stride = tmp_path_factory.mktemp("kills"), "1" if ALL_TESTS else "11"
    done = subprocess.run(
        [sys.executable, "-m", "processes.killed_runs", str(folder), stride],
        cwd=TESTS,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_killed_at_any_step_a_run_ends_with_the_same_bytes(kills: list[dict[str, Any]]):
    """During writes, between them and a rename, and between two renames."""
    undisturbed, *killed = kills
    assert len(killed) > 30
    assert {k["code"] for k in killed} == {-signal.SIGKILL}
    for found in killed:
        assert found["again"] == 0
        assert found["models"] == undisturbed["models"], found["step"]
        assert found["history"] == undisturbed["history"], found["step"]
        assert found["notices"] == []
        assert found["left"] == []


def test_it_goes_on_from_the_last_complete_round(kills: list[dict[str, Any]]):
    """Whatever has a JSON file is not trained again, in every phase of a run."""
    seen: dict[str, set[int]] = {"train": set(), "recover": set(), "retrain": set()}
    for found in kills[1:]:
        latest: dict[str, int] = {}
        for name in found["checkpoints"]:
            entry, file = name.split("/")
            latest[entry] = int(file[6:12])
        rounds = [n for phase in seen for n in [found["resumed"].get(phase)]]
        expected = sorted(latest.values())
        ended = {"train": 3, "recover": 2, "retrain": 3}
        begun = [
            ended[phase] if n is None else n
            for phase, n in zip(seen, rounds, strict=True)
        ]
        assert sorted(n for n in begun if n) == expected, found["step"]
        for phase, n in zip(seen, begun, strict=True):
            seen[phase].add(n)
    assert seen == {
        "train": {0, 1, 2, 3},
        "recover": {0, 1, 2},
        "retrain": {0, 1, 2, 3},
    }


# -- through the command line ---------------------------------------------------------


# The command, which kills itself once the checkpoint of round 4 is written: whoever did
# that from outside might come too late.
KILLED = """
import os, signal
from fedneg.__main__ import main
from fedneg.ledger.checkpoint import Checkpoints
write = Checkpoints.write
def write_and_die(self, rounds, *arguments, **options):
    write(self, rounds, *arguments, **options)
    if rounds == 4:
        os.kill(os.getpid(), signal.SIGKILL)
Checkpoints.write = write_and_die
main()
"""


@pytest.mark.slow
def test_kill_9_and_the_same_command_again(tmp_path: Path):
    """Workers end by themselves, and the second run needs no cleaning."""
    small = ("reference=false", "client.local_epochs=1", "report=false")
    arguments = ("data=digits", "rounds=6", *small)
    alone = command(
        *arguments,
        f"hydra.run.dir={tmp_path / 'alone'}",
        cwd=tmp_path,
        FEDNEG_CACHE=str(tmp_path / "one"),
    )
    assert alone.returncode == 0, alone.stderr
    environment = {"FEDNEG_CACHE": str(tmp_path / "two")}
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments],
        cwd=tmp_path,
        env=os.environ | environment,
        timeout=PATIENCE_S,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert processes_left_in(tmp_path) == []
    again = command(
        *arguments,
        f"hydra.run.dir={tmp_path / 'again'}",
        cwd=tmp_path,
        **environment,
    )
    assert again.returncode == 0, again.stderr
    results = json.loads((tmp_path / "again" / "results.json").read_text())
    assert results["cost"]["resumed_from_round"] == 4
    assert results["cost"]["reused_training"] is False
    assert "going on after round 4 of 6" in again.stderr
    for name in ("original", "unlearned"):
        one, two = (
            (tmp_path / run / f"model_{name}.safetensors").read_bytes()
            for run in ("alone", "again")
        )
        assert one == two


def test_a_full_disk_is_one_line_and_exit_code_2(tmp_path: Path):
    """The system lets no file grow beyond 100 kB: less than one checkpoint."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "fedneg", "data=digits", "engine=inline"),
            *("client.local_epochs=1", f"hydra.run.dir={tmp_path / 'out'}"),
        ],
        cwd=tmp_path,
        env=os.environ | {"FEDNEG_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000,) * 2),
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("fedneg: error: the checkpoint of round 1 cannot be written")
    assert "File too large" in last
    assert list((tmp_path / "cache").glob("training/*/*round*")) == []


# The command, which begins to train when it is told to, with the training locked.
HELD = """
import sys
from fedneg.__main__ import main
from fedneg.federation.rounds import Rounds
train = Rounds.run
def train_when_told(*arguments, **options):
    print("mine", file=sys.stderr, flush=True)
    sys.stdin.read()
    return train(*arguments, **options)
Rounds.run = train_when_told
main()
"""


@pytest.mark.slow
def test_two_runs_of_one_training_do_not_disturb_each_other(tmp_path: Path):
    """Whoever comes second waits, and takes what the first has trained."""

    def start(name: str, *program: str) -> subprocess.Popen[str]:
        small = ("client.local_epochs=1", "report=false", "verdict.retrainings=0")
        options = ("data=digits", "rounds=3", "engine=inline", *small)
        return subprocess.Popen(
            [sys.executable, *program, *options, f"hydra.run.dir={tmp_path / name}"],
            cwd=tmp_path,
            env=os.environ | {"FEDNEG_CACHE": str(tmp_path / "cache")},
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    first = start("first", "-c", HELD)
    with no_longer_than_patience(first):
        assert any(line == "mine\n" for line in first.stderr)
        second = start("second", "-m", "fedneg")
        with no_longer_than_patience(second):
            assert any("waiting for a run that" in line for line in second.stderr)
            said = [process.communicate()[1] for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], said
    results = [
        json.loads((tmp_path / name / "results.json").read_text())
        for name in ("first", "second")
    ]
    assert [r["cost"]["reused_training"] for r in results] == [False, True]
    for model in ("original", "retrained"):
        one, two = (
            (tmp_path / name / f"model_{model}.safetensors").read_bytes()
            for name in ("first", "second")
        )
        assert one == two


# -- damage ---------------------------------------------------------------------------


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def retell(path: Path) -> None:
    """Change a number in the JSON so that it still is JSON."""
    content = json.loads(path.read_text())
    content["facts"]["seconds"] += 1
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        *(("safetensors", damage) for damage in (truncate, flip, empty, Path.unlink)),
        *(("json", damage) for damage in (truncate, flip, empty, retell)),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    tmp_path: Path, suffix: str, damage: Callable[[Path], None]
):
    expected, first = federate(tmp_path)
    assert first.resumed == {"train": 0}
    (path,) = tmp_path.glob(f"training/*/round-000003.{suffix}")
    damage(path)
    found, again = federate(tmp_path)
    assert found == expected
    assert again.resumed == {"train": 2}
    assert len(again.notices) == 1
    assert "round-000003 is damaged: " in again.notices[0]
    assert "there is the one of round 2 before it" in again.notices[0]
    _, third = federate(tmp_path)
    assert (third.reused, third.notices) == ({"train"}, [])


def test_a_disk_that_fails_while_a_checkpoint_is_read_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The ledger is half filled: neither an older checkpoint nor a new start helps."""
    federate(tmp_path)

    def fail(*_: object, **options: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(checkpoint_forms, "read_tensors", fail)
    with pytest.raises(FedNegError, match="cannot be read: Input/output error"):
        federate(tmp_path)


def test_with_every_checkpoint_damaged_the_training_starts_anew(tmp_path: Path):
    expected, _ = federate(tmp_path)
    for path in tmp_path.glob("training/*/round-*.safetensors"):
        flip(path)
    found, again = federate(tmp_path)
    assert found == expected
    assert again.resumed == {"train": 0}
    assert [("no other" in n) for n in again.notices] == [False, True]


def test_a_full_disk_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The second of three finds no room; the next run goes on after the first."""
    expected, _ = federate(tmp_path / "alone")
    plain, count = os.fsync, 0

    def full(handle: int) -> None:
        nonlocal count
        count += 1
        if count > 4:  # identity, arrays, JSON and folder of round 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        plain(handle)

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(
        FedNegError, match="No space left on device; the one of round 1"
    ):
        federate(tmp_path / "full")
    monkeypatch.undo()
    names = sorted(p.name for p in (tmp_path / "full").glob("training/*/*round*"))
    assert names == ["round-000001.json", "round-000001.safetensors"]
    found, again = federate(tmp_path / "full")
    assert (found, again.resumed) == (expected, {"train": 1})


def test_checkpoints_follow_the_setting(tmp_path: Path):
    """Every second round and the last; with 0 the last only; the rest is removed."""
    for every, kept in ("2", [2, 3]), ("0", [3]), ("1", [2, 3]):
        federate(tmp_path / every, f"checkpoint={every}")
        names = (tmp_path / every).glob("training/*/round-*.json")
        assert sorted(int(p.stem[6:]) for p in names) == kept


def test_a_large_checkpoint_waits_until_it_is_cheap(monkeypatch: pytest.MonkeyPatch):
    now = 0.0
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now)
    large = checkpoint.LARGE_BYTES + 1
    made = Checkpoints(Path("nowhere"))
    cost = large / checkpoint.BYTES_PER_SECOND
    assert made.is_due(1, 9, large - 1)
    assert not made.is_due(1, 9, large)
    now = 20.1 * cost
    assert made.is_due(1, 9, large)
    now = 0.0
    assert made.is_due(9, 9, large)
    # The last one, too, of what serves no other run.
    assert not made.is_due(9, 9, large, lasting=False)
    assert made.is_due(9, 9, large - 1, lasting=False)


def test_a_disk_without_room_for_large_checkpoints_is_found_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(checkpoint, "LARGE_BYTES", 100)
    usage = checkpoint.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(
        checkpoint.shutil, "disk_usage", lambda _: usage._replace(free=50)
    )
    with pytest.raises(FedNegError, match=r"need .* in .*training, which has 50 B"):
        federate(tmp_path)
    assert list(tmp_path.glob("training/*/*round*")) == []


# -- what a checkpoint holds ----------------------------------------------------------


@given(
    momentum=st.sampled_from([0.0, 0.5]),
    keep_local=st.booleans(),
    on_disk=st.booleans(),
    rounds=st.lists(
        st.dictionaries(st.integers(0, 3), st.integers(1, 9), max_size=4), max_size=3
    ),
    seed=st.integers(0, 99),
)
def test_a_ledger_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory,
    momentum: float,
    keep_local: bool,
    on_disk: bool,
    rounds: list[dict[int, int]],
    seed: int,
):
    """And goes on with the same bits, wherever its rows lie."""
    folder = tmp_path_factory.mktemp("ledger")
    draw = np.random.default_rng(seed)
    start = draw.normal(size=7).astype(np.float32)

    def fresh() -> Ledger:
        return Ledger(
            start,
            clients=4,
            momentum=momentum,
            keep_local=keep_local,
            folder=folder / "rows" if on_disk else None,
        )

    ledger, model = fresh(), start
    for number, counts in enumerate(rounds, 1):
        local = {k: model + draw.normal(size=7).astype(np.float32) for k in counts}
        model = ledger.record(number, model, local, counts)
    facts = {"note": 1.5}
    Checkpoints(folder).write(len(rounds), model, ledger, facts)
    again = fresh()
    found = Checkpoints(folder).restore(again, pytest.fail)
    assert found is not None
    assert (found.rounds, found.facts) == (len(rounds), facts)
    assert found.parameters.tobytes() == model.tobytes()
    assert {k: a.tobytes() for k, a in again.arrays().items()} == {
        k: a.tobytes() for k, a in ledger.arrays().items()
    }
    assert again.participation == ledger.participation
    last = {2: model + 1, 3: model - 2}
    one, two = (
        made.record(9, model, last, {2: 1, 3: 2}).tobytes() for made in (ledger, again)
    )
    assert one == two
    assert {k: v.tobytes() for k, v in again.local.items()} == {
        k: v.tobytes() for k, v in ledger.local.items()
    }


def test_a_checkpoint_is_a_safetensors_file_that_others_read(tmp_path: Path):
    ledger = Ledger(np.zeros(3, np.float32), clients=2, keep_local=False)
    model = ledger.record(1, ledger.initial, {1: np.ones(3, np.float32)}, {1: 4})
    Checkpoints(tmp_path).write(1, model, ledger, {})
    found = load_file(tmp_path / "round-000001.safetensors")
    assert {k: v.tolist() for k, v in found.items()} == {
        "global": [1, 1, 1],
        "initial": [0, 0, 0],
        "correction": [0, 0, 0],
        "contributions": [[0, 0, 0], [1, 1, 1]],
    }


def test_a_checkpoint_of_another_start_is_refused(tmp_path: Path):
    ledger = Ledger(np.zeros(3, np.float32), clients=2)
    Checkpoints(tmp_path).write(1, ledger.initial, ledger, {})
    other, said = Ledger(np.ones(3, np.float32), clients=2), []
    assert Checkpoints(tmp_path).restore(other, said.append) is None
    assert "starts from other initial parameters" in said[0]


def test_a_checkpoint_tells_whose_last_local_model_it_holds(tmp_path: Path):
    """Rows are in the order of first answers, not of client ids."""
    ledger = Ledger(np.zeros(2, np.float32), clients=3)
    for client_id in (2, 0):
        ledger.local[client_id] = np.full(2, client_id + 5, np.float32)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.write(1, ledger.initial, ledger, {})
    found = [checkpoints.rows(1, client_id) for client_id in range(3)]
    local = [
        {n: v.tolist() for n, v in rows.items() if n.startswith("local")}
        for rows in found
    ]
    assert local == [{"local 1": [5, 5]}, {}, {"local 0": [7, 7]}]
    assert all({"global", "contributions"} <= set(rows) for rows in found)
