"""A stranger's app that lasts: requests, purge, receipts, and a kill at any moment."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM, FedMedian, FedProx
from safetensors.numpy import load_file

from builders.app_lives import (
    Meddled,
    ask,
    live,
    model_in,
    model_of,
    same,
    with_momentum,
)
from builders.checkout import TESTS
from builders.lives import copied, go_on, receipt_of
from builders.strangers import INITIAL, TRAINED, contributions, read, written
from builders.waiting import ALL_TESTS, PATIENCE_S
from fedneg import Forgettable, NotLinearError
from fedneg.cli.application import run as run_words
from fedneg.config import load_config
from fedneg.core.errors import FedNegError
from fedneg.engines.inline import FIRST_NODE_ID
from fedneg.records.scan import scan
from fedneg.records.scan_windows import loaded, scan_windows
from fedneg.records.state import State

EVERYBODY = [100, 101, 102, 103]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What an app is told in lines of its log."""
    found: list[str] = []
    for module in ("standing", "life"):
        monkeypatch.setattr(f"fedneg.forgettable.{module}.say", found.append)
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An app's state after three rounds; copy it."""
    state = tmp_path_factory.mktemp("trained") / "state"
    live(state, 3)
    return state


@pytest.fixture
def state(trained: Path, tmp_path: Path) -> Path:
    """A state after three rounds."""
    return copied(trained, tmp_path / "state")


def command(*words: object) -> None:
    """Do what `fedneg WORDS` does; a refusal is an error."""
    run_words([str(word) for word in words])


def audit(state: Path) -> None:
    """Hold a state to its log."""
    command("audit", "--state", state)


def by_hand(grid: Meddled, *, without: dict[int, set[int]]) -> dict[str, np.ndarray]:
    """Return the trained arrays without what clients sent, in all rounds or in some.

    `without` has the rounds, from 0, in which what a node sent never counted.
    """
    for number, (_, by_node) in enumerate(grid.rounds):
        for node, rounds in without.items():
            if number in rounds:
                by_node.pop(node, None)
    rows = contributions(grid)
    gone = without.keys()
    return {
        name: INITIAL[name]
        + sum(r[name] for node, r in rows.items() if node not in gone)
        for name in TRAINED
    }


# -- a life ----------------------------------------------------------------------------


def test_a_request_in_the_middle_is_carried_out_repaired_and_purged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    state, grid = tmp_path / "state", Meddled()
    grid.during[3] = lambda: command("request", "forget", 101, "--state", state)
    held, result = live(state, 6, grid)
    # Asked in round 3, and what it sent then counts no more.
    others = [100, 102, 103]
    assert grid.trained() == [EVERYBODY] * 3 + [others] * 3
    assert held.forgotten == (101,)
    assert list(result.train_metrics_clientapp) == [1, 2, 3, 4, 5, 6]
    expected = by_hand(grid, without={FIRST_NODE_ID + 1: {2}})
    for name in TRAINED:
        np.testing.assert_allclose(model_of(result)[name], expected[name], atol=1e-6)
    assert same(model_in(state), model_of(result))

    receipt = receipt_of(state, 101)
    assert receipt["client"] == 101
    assert receipt["federation"] == State(state).known_facts().id
    assert receipt["done"]["around"] == "FedAvg"
    assert receipt["done"]["method"] == {
        "form": "update",
        "scale": {"101": 1.0},
        "strategy": "negative_gradient",
    }
    # Of steps, forgetting is one: it came after three rounds.
    assert receipt["done"]["unlearn_round"] == 4
    assert receipt["done"]["recovery_rounds"] == [
        {"server_round": number, "clients": 3, "failures": 0} for number in (5, 6)
    ]
    assert receipt["remains"] == (
        "nothing of the client's summed updates; the others' running statistics began "
        "from some in which it had a part"
    )
    assert receipt["purged"]["isolable"] is False
    assert receipt["purged"]["matches"] == 0
    assert receipt["purged"]["fingerprints"] > 5
    assert len(set(receipt["models"].values())) == 3

    capsys.readouterr()
    command("audit", "--state", state)
    assert "good receipts: 1" in capsys.readouterr().out
    path, key = state / "receipts/forget-101.json", f"{state}-keys/operator.pub"
    command("verify", path, "--key", key)
    assert "the signature is good" in capsys.readouterr().out
    command("status", "--state", state, "--json")
    status = json.loads(capsys.readouterr().out)
    assert (status["trained"], status["excluded"]) == (6, [101])
    assert status["app"] == "FedAvg"


def test_a_start_goes_on_where_the_last_one_was(tmp_path: Path, said: list[str]):
    """As one start would have, momentum too; what is told of is counted on."""
    once, twice = tmp_path / "once", tmp_path / "twice"
    _, whole = live(once, 5, strategy=with_momentum())
    live(twice, 3, strategy=with_momentum())
    assert said == []
    grid = Meddled()
    _, rest = live(twice, 5, grid, with_momentum())
    assert said == [
        f"the federation in {twice} has gone on to round 3: its model goes on, and not "
        "the initial arrays"
    ]
    assert grid.told == [4, 5]
    assert list(rest.train_metrics_clientapp) == [4, 5]
    for name, array in model_of(whole).items():
        np.testing.assert_allclose(model_of(rest)[name], array, atol=1e-6)
    # And when nothing is missing.
    grid = Meddled()
    _, nothing = live(twice, 5, grid, with_momentum())
    assert grid.rounds == []
    assert same(model_of(nothing), model_of(rest))


def test_rounds_are_counted_on_for_clients_and_for_whoever_evaluates(state: Path):
    seen: list[int] = []

    def evaluate(number: int, arrays: ArrayRecord) -> MetricRecord:
        seen.append(number)
        return MetricRecord({"accuracy": 0.1 * number})

    ask(state, 101)
    held = Forgettable(FedAvg(), state=state, repair_rounds=3)
    grid = Meddled()
    result = held.start(grid, written(INITIAL), num_rounds=4, evaluate_fn=evaluate)
    # One round is missing, and three repair.
    assert grid.told == [4, 5, 6]
    assert seen == [3, 4, 5, 6]
    assert list(result.evaluate_metrics_serverapp) == seen
    assert list(result.evaluate_metrics_clientapp) == [4, 5, 6]


def test_a_request_of_the_last_round_gets_rounds_that_repair(state: Path):
    grid = Meddled()
    grid.during[4] = lambda: ask(state, 100)
    _, result = live(state, 4, grid)
    assert grid.trained() == [EVERYBODY] + [[101, 102, 103]] * 2
    assert grid.told == [4, 5, 6]
    assert list(result.train_metrics_clientapp) == [4, 5, 6]
    assert len(receipt_of(state, 100)["done"]["recovery_rounds"]) == 2


def test_status_tells_rounds_of_repair_that_came_on_top(
    state: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "200")

    def shown() -> str:
        capsys.readouterr()
        command("status", "--state", state)
        lines = capsys.readouterr().out.splitlines()
        return next(line for line in lines if "trained" in line)

    assert "3 of 3 rounds" in shown()
    ask(state, 101)
    live(state, 3)
    assert "5 rounds, 2 of them of repair; the last run was to come to 3" in shown()
    live(state, 6)
    assert "6 of 6 rounds" in shown()
    live(state, 3)  # there are more already: nothing is done
    assert "6 rounds, 2 of them of repair; the last run was to come to 3" in shown()


def test_without_repair_a_request_is_done_at_once(state: Path):
    ask(state, 102)
    grid = Meddled()
    live(state, 3, grid, repair_rounds=0)
    assert grid.rounds == []
    receipt = receipt_of(state, 102)
    assert receipt["done"]["recovery"] == "none"
    assert receipt["done"]["recovery_rounds"] == []
    assert receipt["models"]["unlearned"] == receipt["models"]["after"]
    audit(state)


def test_a_second_forgetting_checks_the_first(state: Path):
    """And two who ask together leave together; who asks meanwhile comes after."""
    grid = Meddled()
    ask(state, 100)
    ask(state, 101)
    grid.during[4] = lambda: ask(state, 102)
    held, _ = live(state, 7, grid)
    assert held.forgotten == (100, 101, 102)
    assert grid.trained() == [[102, 103]] + [[103]] * 3
    assert receipt_of(state, 100)["done"]["forgotten_together"] == [100, 101]
    last = receipt_of(state, 102)
    assert [found["request"] for found in last["rechecked"]] == [
        "forget-100",
        "forget-101",
    ]
    assert all(
        found["row_is_zero"] and found["excluded"] and found["matches"] == 0
        for found in last["rechecked"]
    )
    audit(state)


def test_nothing_of_who_was_forgotten_lies_in_the_folder(state: Path):
    """Nor what BatchNorm measured of it; rows, by hand from a checkpoint before."""
    before = load_file(state / "checkpoints/round-000003.safetensors")
    place = 1  # the clients came in the order of their ids
    for name in ("contributions", "statistics"):
        assert before[name][place].any()
    row = before["contributions"][place]
    wanted = scan_windows({"contribution": row, "model": before["global"]})
    assert scan([state], wanted).matches
    ask(state, 101)
    live(state, 5)
    assert scan([state], wanted).matches == []
    (path,) = (state / "checkpoints").glob("*.safetensors")
    after = load_file(path)
    assert not after["contributions"][place].any()
    assert not after["statistics"][place].any()
    # The global ones are the mean of those who stay.
    rest = [0, 2, 3]
    examples = np.array([10, 24, 31])
    mean = (after["statistics"][rest] * examples[:, None]).sum(0) / examples.sum()
    found = model_in(state)
    np.testing.assert_allclose(found["bn.running_mean"], mean[:2], rtol=1e-5)
    np.testing.assert_allclose(found["bn.running_var"], mean[2:4], rtol=1e-5)
    _, windows, took_part = loaded(
        (state / "fingerprints/forget-101.json").read_bytes()
    )
    assert took_part
    assert {window.name.split(",")[0] for window in windows} >= {
        "contribution",
        "global model",
    }


def test_a_copy_that_still_holds_it_keeps_the_request_open(state: Path):
    copy = state / "notes.bin"
    copy.write_bytes((state / "checkpoints/round-000003.safetensors").read_bytes())
    ask(state, 101)
    with pytest.raises(FedNegError, match=r"notes\.bin still holds a global model"):
        live(state, 4)
    assert [r.status for r in State(state).requests.all()] == ["unlearned"]
    copy.unlink()
    grid = Meddled()
    live(state, 4, grid)
    assert grid.rounds == [], "the rounds that repair were run before"
    assert receipt_of(state, 101)["purged"]["matches"] == 0
    audit(state)


def test_who_took_part_in_no_round_is_kept_out_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Before the first round, too; there is nothing to repair then."""
    state, grid = tmp_path / "state", Meddled()
    held = Forgettable(FedAvg(), state=state)
    said = "client 1002 took part in no round so far"

    def begin(number: int, arrays: ArrayRecord) -> None:
        if number == 0:
            command("request", "forget", 1002, "--state", state)

    held.start(grid, written(INITIAL), num_rounds=2, evaluate_fn=begin)
    assert said in capsys.readouterr().out
    assert set(grid.asked("train")) == {0, 1, 3}
    assert set(grid.asked("evaluate")) == {0, 1, 3}
    receipt = receipt_of(state, 1002)
    assert receipt["remains"] == "nothing: it took part in no round"
    assert receipt["done"]["recovery_rounds"] == []
    assert receipt["models"]["before"] == receipt["models"]["after"]
    assert receipt["purged"]["fingerprints"] == 0
    audit(state)


def test_an_id_that_nobody_has_is_said_to_be_one_at_once_and_later(
    state: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "200")

    def shown() -> dict[int, tuple[str, bool]]:
        capsys.readouterr()
        command("requests", "--state", state, "--json")
        found = json.loads(capsys.readouterr().out)
        return {r["client"]: (r["status"], r["took_part"]) for r in found}

    said = "took part in no round"
    command("request", "forget", 77, "--state", state)
    assert f"client 77 {said} so far: is that" in capsys.readouterr().out
    command("request", "forget", 101, "--state", state)
    assert said not in capsys.readouterr().out
    assert shown() == {77: ("accepted", False), 101: ("accepted", True)}
    command("requests", "--state", state)
    assert f"accepted, {said}" in capsys.readouterr().out
    live(state, 5)
    assert shown() == {77: ("done", False), 101: ("done", True)}
    command("requests", "--state", state)
    assert capsys.readouterr().out.count(said) == 1


@pytest.mark.parametrize("odd", [-1, True, "3", 1.0])
def test_an_id_that_is_none_is_refused_before_anything_is_written(
    state: Path, odd: Any
):
    before = (state / "audit.jsonl").read_bytes()
    with pytest.raises(FedNegError, match="whole numbers from 0 on, got"):
        ask(state, odd)
    if odd == -1:
        with pytest.raises(FedNegError, match="whole numbers from 0 on, got -1"):
            command("request", "forget", odd, "--state", state)
    assert (state / "audit.jsonl").read_bytes() == before
    assert State(state).excluded() == set()


def test_who_comes_back_under_another_node_trains_in_vain(tmp_path: Path):
    """It says who it is in its reply, and is asked no more; so after a restart."""
    state = tmp_path / "state"
    live(state, 1, clients="place")
    ask(state, 101)
    live(state, 3, clients="place")

    class Renamed(Meddled):
        """The same clients, under other node ids; each says who it is."""

        def __init__(self) -> None:
            super().__init__()
            self.contexts = {node + 500: c for node, c in self.contexts.items()}
            for node, context in self.contexts.items():
                context.node_id = node

        def send_and_receive(self, *arguments: Any, **more: Any) -> list[Message]:
            """Let them say it."""
            found = super().send_and_receive(*arguments, **more)
            for reply in found:
                place = reply.metadata.src_node_id - 500 - FIRST_NODE_ID + 100
                reply.content.metric_records["metrics"]["place"] = place
            return found

    grid, before = Renamed(), model_in(state)
    live(state, 5, grid, clients="place")
    assert [len(by_node) for _, by_node in grid.rounds] == [4, 3]
    start, by_node = grid.rounds[0]
    assert same(start, before)
    by_node.pop(FIRST_NODE_ID + 501)
    total = sum(count for _, count in by_node.values())
    mean = sum(a["conv.weight"] * count for a, count in by_node.values()) / total
    np.testing.assert_allclose(grid.rounds[1][0]["conv.weight"], mean, rtol=1e-5)


def test_a_strategy_that_waits_for_everybody_does_not_wait_for_who_is_out(state: Path):
    inner = FedAvg(fraction_evaluate=0.0, min_train_nodes=4, min_available_nodes=4)
    grid = Meddled()
    grid.during[4] = lambda: ask(state, 103)
    live(state, 6, grid, inner)
    assert grid.trained() == [EVERYBODY] + [[100, 101, 102]] * 2


def test_clients_that_fail_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    state, grid = tmp_path / "state", Meddled(broken=[(1, 2), (3, 2)])
    live(state, 2, grid)
    command("status", "--state", state, "--json")
    failed = json.loads(capsys.readouterr().out)["failed"]
    assert set(failed) == {"101", "103"}
    assert "out of power" in failed["101"]
    command("status", "--state", state)
    assert "client 103" in capsys.readouterr().out


def test_starting_over_begins_with_the_first_arrays(state: Path):
    """And not with what a part of a subtraction left of somebody."""
    held, _ = live(state, 3)
    held.forget([100], scale=0.5)
    grid = Meddled()
    live(state, 3, grid, repair_rounds=0)
    grid = Meddled()
    ask(state, 101)
    live(state, 3, grid, method="retrain", repair_rounds=0)
    start, _ = grid.rounds[0]
    for name in TRAINED:
        np.testing.assert_array_equal(start[name], INITIAL[name])
    assert receipt_of(state, 101)["purged"]["isolable"] is False


def test_a_part_of_the_clients_in_each_round(tmp_path: Path):
    """Rows come as clients do; and the last who is left may go too."""
    state = tmp_path / "state"
    inner = FedAvg(fraction_train=0.5, min_train_nodes=1, fraction_evaluate=0.0)
    grid = Meddled()
    held, _ = live(state, 4, grid, inner)
    gone = held.clients[0]
    ask(state, gone)
    inner = FedAvg(fraction_train=0.5, min_train_nodes=1, fraction_evaluate=0.0)
    held, result = live(state, 6, grid, inner)
    assert all(gone not in found for found in grid.trained()[4:])
    node = gone - 100 + FIRST_NODE_ID
    expected = by_hand(grid, without={node: set()})
    for name in TRAINED:
        np.testing.assert_allclose(model_of(result)[name], expected[name], atol=1e-6)
    audit(state)
    for client_id in set(held.clients) - {gone}:
        ask(state, client_id)
    _, nothing = live(state, 6, grid, inner)
    for name in TRAINED:
        np.testing.assert_allclose(model_of(nothing)[name], INITIAL[name], atol=1e-6)
    audit(state)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_types_of_numbers(tmp_path: Path, dtype: str):
    state = tmp_path / "state"
    initial = {
        n: a.astype(dtype) if a.dtype.kind == "f" else a for n, a in INITIAL.items()
    }
    live(state, 2, initial=initial)
    ask(state, 100)
    _, result = live(state, 4, initial=initial)
    assert {n: a.dtype for n, a in model_of(result).items()} == {
        n: a.dtype for n, a in initial.items()
    }
    assert same(model_in(state), model_of(result))
    audit(state)


@pytest.mark.parametrize("method", ["compensated", "fine_tune", "retrain"])
def test_other_methods_carry_requests_out(tmp_path: Path, method: str):
    """With rounds of their own, which count neither as training nor as repair."""
    state, grid = tmp_path / "state", Meddled()
    live(state, 2, method=method, strategy=with_momentum())
    ask(state, 101)
    held, _ = live(state, 3, grid, method=method, strategy=with_momentum())
    receipt = receipt_of(state, 101)
    assert receipt["done"]["method"]["strategy"] == method
    assert len(receipt["done"]["recovery_rounds"]) == 2
    assert receipt["remains"].startswith("nothing") is (method == "retrain")
    own = len(grid.rounds) - 2
    assert own == {"compensated": 0, "fine_tune": own, "retrain": 2}[method]
    assert all(101 not in found for found in grid.trained())
    assert State(state).read_status()["trained"] == 4
    assert held.unlearn_rounds == 0
    audit(state)


@pytest.mark.parametrize("kind", [FedAdam, FedMedian])
def test_what_still_depends_on_the_client_stands_in_its_receipt(
    tmp_path: Path, kind: type[FedAvg]
):
    """Also of what was held before a restart; moments go on as they were."""
    once, twice = tmp_path / "once", tmp_path / "twice"
    live(once, 3, strategy=kind(fraction_evaluate=0.0))
    for rounds in (1, 2, 3):
        live(twice, rounds, strategy=kind(fraction_evaluate=0.0))
    for name, array in model_in(once).items():
        np.testing.assert_allclose(model_in(twice)[name], array, atol=1e-6)
    ask(twice, 101)
    held, _ = live(twice, 5, strategy=kind(fraction_evaluate=0.0))
    depends = receipt_of(twice, 101)["done"]["depends"]
    assert depends
    assert depends == list(held.depends)
    audit(twice)


def test_a_node_that_was_forgotten_is_asked_for_nothing_after_a_restart(tmp_path: Path):
    """Where nodes say who they are: it need not say it again."""
    state = tmp_path / "state"
    live(state, 1, clients="place")
    ask(state, 101)
    live(state, 1, clients="place", repair_rounds=0)
    grid = Meddled()
    live(state, 2, grid, clients="place")
    assert grid.trained() == [[100, 102, 103]]


# -- a kill, and what else ends a start ------------------------------------------------


def test_killed_at_any_step_a_life_ends_the_same(tmp_path: Path):
    """Training, two requests, their purges."""
    words = [sys.executable, "-m", "processes.killed_apps", str(tmp_path)]
    done = subprocess.run(
        [*words, "1" if ALL_TESTS else "97"],
        cwd=TESTS,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    undisturbed, *killed = (json.loads(line) for line in done.stdout.splitlines())
    assert len(killed) > 8
    assert undisturbed["statuses"] == ["done", "done"]
    assert undisturbed["broken"] == "None"
    assert undisturbed["differs"] == []
    for found in killed:
        step = found.pop("step")
        assert (found.pop("code"), found.pop("again")) == (-signal.SIGKILL, 0), step
        model = found.pop("model")
        assert found == {k: undisturbed[k] for k in found}, step
        for name, array in undisturbed["model"].items():
            np.testing.assert_allclose(model[name], array, atol=1e-6)


def test_a_start_that_was_interrupted_goes_on_in_the_same_program(state: Path):
    """From the checkpoint: what memory holds of the round in progress is not used."""

    def lose() -> None:
        raise ConnectionError("the SuperLink is gone")

    grid = Meddled()
    grid.during[5] = lose
    inner = with_momentum()
    undisturbed = state.with_name("undisturbed")
    live(undisturbed, 6, strategy=with_momentum())
    other = state.with_name("other")
    held = Forgettable(inner, state=other)
    with pytest.raises(ConnectionError):
        held.start(grid, written(INITIAL), num_rounds=6)
    result = held.start(grid, written(INITIAL), num_rounds=6)
    assert grid.told == [1, 2, 3, 4, 5, 5, 6]
    for name, array in model_in(undisturbed).items():
        np.testing.assert_allclose(model_of(result)[name], array, atol=1e-6)
    # And on, from what it returned.
    result = held.start(grid, result.arrays, num_rounds=7)
    assert grid.told[-1] == 7
    assert same(model_in(other), model_of(result))


def test_a_repair_that_was_interrupted_is_told_of_as_a_whole(state: Path):
    """With the rounds that came before, and those of the next start."""

    def lose() -> None:
        raise ConnectionError("the SuperLink is gone")

    ask(state, 101)
    grid = Meddled()
    grid.during[5] = lose
    with pytest.raises(ConnectionError):
        live(state, 3, grid)
    assert [r.status for r in State(state).requests.all()] == ["unlearned"]
    assert not same(model_in(state), grid.rounds[-1][0]), "the one before is in service"
    grid = Meddled()
    live(state, 3, grid)
    assert grid.told == [5]
    assert receipt_of(state, 101)["done"]["recovery_rounds"] == [
        {"server_round": number, "clients": 3, "failures": 0} for number in (5, 6)
    ]
    audit(state)


def test_checkpoints_now_and_then(tmp_path: Path):
    state, grid = tmp_path / "state", Meddled()
    seen: list[list[str]] = []
    for number in range(1, 6):
        folder = state / "checkpoints"
        grid.during[number] = lambda folder=folder: seen.append(
            sorted(p.stem for p in folder.glob("*.json"))
        )
    live(state, 5, grid, checkpoint=2)
    # While a round's replies come, those of the rounds before are there.
    live(state, 7, grid, checkpoint=9)
    ask(state, 101)
    live(state, 9, grid, checkpoint=9)
    assert receipt_of(state, 101)["purged"]["matches"] == 0
    assert seen == [[], [], ["round-000002"], ["round-000002"], seen[4]]
    assert seen[4] == ["round-000002", "round-000004"]
    audit(state)


def test_a_damaged_checkpoint_is_gone_back_before(state: Path, said: list[str]):
    path = state / "checkpoints/round-000003.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    grid = Meddled()
    live(state, 3, grid)
    assert grid.told == [3]
    assert said[0].startswith(f"{path.with_suffix('')} is damaged")
    audit(state)


def test_a_rollback_goes_back_and_no_further_than_who_was_forgotten(
    state: Path, said: list[str]
):
    command("rollback", 2, "--state", state)
    grid = Meddled()
    live(state, 3, grid)
    assert grid.told == [3]
    ask(state, 101)
    live(state, 6, grid)
    with pytest.raises(FedNegError, match="there is no checkpoint of round 3"):
        command("rollback", 3, "--state", state)
    audit(state)


def test_a_model_that_somebody_changed_is_made_again(state: Path, said: list[str]):
    model = (state / "model.safetensors").read_bytes()
    (state / "model.safetensors").write_bytes(model[:-4] + b"1234")
    live(state, 3)
    assert (state / "model.safetensors").read_bytes() == model
    assert any("is another model" in line for line in said)


# -- asked by the program itself -------------------------------------------------------


def test_forget_is_a_request_too(state: Path):
    """In a program that has not started yet; the next start repairs and purges."""
    held = Forgettable(
        FedAvg(fraction_evaluate=0.0),
        state=state,
        clients={FIRST_NODE_ID + k: 100 + k for k in range(4)},
    )
    before = model_in(state)
    after = held.forget([101])
    assert held.forgotten == (101,)
    rows = load_file(state / "checkpoints/round-000003.safetensors")["contributions"]
    gone = rows[1][:24].reshape(2, 3, 4)
    np.testing.assert_allclose(
        read(after)["conv.weight"], before["conv.weight"] - gone, atol=1e-6
    )
    assert [r.status for r in State(state).requests.all()] == ["unlearned"]
    audit(state)
    with pytest.raises(FedNegError, match="client 101 was forgotten before"):
        held.forget([101])
    grid = Meddled()
    held.start(grid, after, num_rounds=4)
    assert grid.trained() == [[100, 102, 103]] * 2
    assert receipt_of(state, 101)["done"]["recovery_rounds"]
    # Half of another's; the receipt says what that leaves.
    held.forget([102], scale=0.5)
    held.start(grid, held.arrays, num_rounds=4)
    receipt = receipt_of(state, 102)
    assert receipt["remains"] == "a part of the client's summed updates (scale 0.5)"
    assert receipt["purged"]["isolable"] is True


def test_a_copy_has_no_state(state: Path):
    """So models may be retrained beside it, as the verdict wants them."""
    held, result = live(state, 3)
    files = {p: p.read_bytes() for p in state.rglob("*") if p.is_file()}
    copied = deepcopy(held)
    copied.forget([101])
    copied.reset()
    copied.start(Meddled(), written(INITIAL), num_rounds=1)
    assert files == {p: p.read_bytes() for p in state.rglob("*") if p.is_file()}
    assert held.forgotten == ()
    held.start(Meddled(), result.arrays, num_rounds=4)


def test_who_is_forgotten_before_another_is_repaired_is_done_as_far_as_it_was(
    state: Path,
):
    """The first has its receipt then, which says that nothing was repaired."""
    held = Forgettable(FedAvg(fraction_evaluate=0.0), state=state)
    held.forget([101])
    after = held.forget([103])
    assert receipt_of(state, 101)["done"]["recovery_rounds"] == []
    assert [r.status for r in State(state).requests.all()] == ["done", "unlearned"]
    grid = Meddled()
    held.start(grid, after, num_rounds=3)
    assert len(grid.rounds) == 2
    assert len(receipt_of(state, 103)["done"]["recovery_rounds"]) == 2
    audit(state)


def test_forget_before_anything_and_in_the_middle_are_refused(tmp_path: Path):
    held = Forgettable(FedAvg(fraction_evaluate=0.0), state=tmp_path / "state")
    with pytest.raises(FedNegError, match="nobody has trained yet"):
        held.forget([1])
    grid, errors = Meddled(), []

    def forget() -> None:
        with pytest.raises(FedNegError, match="ask by `fedneg request forget"):
            held.forget([FIRST_NODE_ID])
        errors.append(1)

    grid.during[2] = forget
    held.start(grid, written(INITIAL), num_rounds=2)
    assert errors == [1]
    with pytest.raises(FedNegError, match="begin anew with another state folder"):
        held.reset()
    assert State(tmp_path / "state").requests.all() == []


# -- what is refused -------------------------------------------------------------------


def moved(**arrays: Any) -> dict[str, np.ndarray]:
    """Return the initial arrays with others among them."""
    return {**INITIAL, **arrays}


def test_other_arrays_of_the_same_shapes_do_not_begin_anew(
    state: Path, said: list[str]
):
    """An app that draws its first model anew each time goes on."""
    other = moved(temperature=np.array(0.25, np.float32))
    grid = Meddled()
    held, result = live(state, 4, grid, initial=other)
    assert "not the arrays given, with which it did not begin" in said[-1]
    assert len(grid.rounds) == 1
    # In the same program they would be the user's own doing.
    with pytest.raises(FedNegError, match="not those that the ledger stands for"):
        held.start(grid, written(other), num_rounds=5)
    held.start(grid, result.arrays, num_rounds=5)
    audit(state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"initial": moved(temperature=np.zeros(2, np.float32))},
            r"arrays\.temperature is 'parameter float32 \[\]' in the federation in",
        ),
        (
            {"initial": moved(bias=np.zeros(2, np.float32))},
            r"arrays\.bias is None in the federation in .* got 'parameter float32",
        ),
        ({"strategy": FedProx(fraction_evaluate=0.0)}, "app is 'FedAvg' in the"),
        (
            {"strategy": with_momentum()},
            "app is 'FedAvg' in the federation in .* and stays so, got 'FedAvgM'",
        ),
    ],
)
def test_another_strategy_or_model_is_refused(
    state: Path, change: dict[str, Any], message: str
):
    files = {p: p.read_bytes() for p in state.rglob("*") if p.is_file()}
    with pytest.raises(FedNegError, match=message):
        live(state, 4, **change)
    del files[state / "status.json"]
    assert all(path.read_bytes() == content for path, content in files.items())


def test_another_server_optimiser_is_refused(tmp_path: Path):
    live(tmp_path / "state", 1, strategy=with_momentum())
    other = FedAvgM(
        fraction_evaluate=0.0, server_learning_rate=0.5, server_momentum=0.9
    )
    with pytest.raises(FedNegError, match=r"server_momentum is 0\.5 in the federation"):
        live(tmp_path / "state", 2, strategy=other)


class Amplified(FedAvg):
    """A strategy whose step nobody's updates make."""

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        """Do as FedAvg does, and more of it."""
        arrays, metrics = super().aggregate_train(server_round, replies)
        return written({n: a * 1.5 for n, a in read(arrays).items()}), metrics


def test_a_strategy_that_was_refused_at_once_is_no_federation_yet(tmp_path: Path):
    state = tmp_path / "state"
    with pytest.raises(NotLinearError):
        live(state, 2, strategy=Amplified(fraction_evaluate=0.0))
    assert "cannot be made forgettable" in State(state).read_status()["error"]
    _, result = live(state, 2)
    assert same(model_in(state), model_of(result))
    audit(state)


def test_fedneg_s_own_app_and_a_strangers_keep_apart(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    app = "belongs to an app of somebody's own, around FedAvg: run that app"
    with pytest.raises(FedNegError, match=app):
        go_on(state)
    # On the command line before anybody looks for data.
    with pytest.raises(FedNegError, match=app):
        load_config([f"state={state}", "data=digits", "rounds=3"])
    with pytest.raises(FedNegError, match="which alone can carry a request out"):
        command("request", "forget", 100, "--now", "--state", state)
    assert State(state).requests.all() == []
    with pytest.raises(FedNegError, match="who its clients are that app says"):
        command("roster", "remove", 100, "--state", state)
    own = tmp_path / "own"
    go_on(own, "rounds=1")
    with pytest.raises(FedNegError, match="belongs to fedneg's own app: go on with"):
        live(own, 2)


def test_a_folder_that_cannot_be_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("no folder")
    for state in (tmp_path / "file", tmp_path / "file" / "state"):
        with pytest.raises(FedNegError, match=str(state)):
            live(state, 1)


def test_one_program_at_a_time(state: Path):
    grid = Meddled()
    refused: list[int] = []

    def start_too() -> None:
        with pytest.raises(FedNegError, match="the federation"):
            live(state, 5)
        refused.append(1)

    grid.during[4] = start_too
    live(state, 4, grid)
    assert refused == [1]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"repair_rounds": -1}, "repair_rounds must be at least 0, got -1"),
        ({"checkpoint": 0}, "checkpoint must be at least 1, got 0"),
        ({"state": "."}, "state must be a folder of its own, got the working one"),
        ({"keys": "state"}, "keys must be another folder than state"),
    ],
)
def test_mistakes_are_lines(more: dict[str, Any], message: str):
    with pytest.raises(FedNegError, match=message):
        Forgettable(FedAvg(), **{"state": "state", **more})
