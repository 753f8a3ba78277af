"""What a round that failed, or that nobody can be told of, leaves of a strategy."""

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM

from builders.strangers import INITIAL, TRAINED, Watched, flat, read, trained, written
from builders.waiting import PATIENCE_S
from fedneg import Forgettable
from fedneg.core.errors import FedNegError
from fedneg.ledger import ledger as ledgers

CLIENTS = {1000 + k: 100 + k for k in range(8)}


class Ordered(Watched):
    """A grid whose clients answer in the order of their nodes."""

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Sort them."""
        asked = sorted(messages, key=lambda m: m.metadata.dst_node_id)
        found = super().send_and_receive(asked, timeout=timeout)
        return sorted(found, key=lambda m: m.metadata.src_node_id)


class Shifted(FedAvgM):
    """A strategy whose step is nobody's: what it adds hangs on the round."""

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        """Do as FedAvgM does, and add a wave."""
        arrays, metrics = super().aggregate_train(server_round, replies)
        moved = read(arrays)
        wave = 0.3 * np.sin(server_round + np.arange(24, dtype=np.float32))
        moved["conv.weight"] = moved["conv.weight"] + wave.reshape(2, 3, 4)
        self.current_arrays = written(moved)
        return written(moved), metrics


def test_a_step_that_is_nobodys_leaves_the_servers_momentum(tmp_path: Path):
    """With a state as without one, and after files."""
    models, moments = [], list[np.ndarray]()
    for state in (None, tmp_path / "state"):
        inner = Shifted(fraction_evaluate=0.0, server_momentum=0.9)
        held = Forgettable(inner, method="retrain", state=state, clients=CLIENTS)
        found = held.start(Ordered(), written(INITIAL), 4, PATIENCE_S)
        models.append(flat(found.arrays))
        by_name = dict(zip(INITIAL, inner.momentum_vector, strict=True))
        moments.append(np.concatenate([np.ravel(by_name[n]) for n in TRAINED]))
    assert np.linalg.norm(moments[0]) > 0.1
    np.testing.assert_allclose(moments[1], moments[0], atol=1e-5)
    np.testing.assert_allclose(models[1], models[0], atol=1e-5)
    inner = Shifted(fraction_evaluate=0.0, server_momentum=0.9)
    again = Forgettable(inner, method="retrain", state=state, clients=CLIENTS)
    further = again.start(Ordered(), written(INITIAL), 5, PATIENCE_S).arrays
    expected = held.start(Ordered(), found.arrays, 5, PATIENCE_S).arrays
    np.testing.assert_allclose(flat(further), flat(expected), atol=1e-5)


class Sick(FedAdam):
    """A strategy of which one round ends in a variance that is none."""

    sick = True

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        """Do as FedAdam does."""
        arrays, metrics = super().aggregate_train(server_round, replies)
        if self.sick and server_round == 2:
            moved = read(arrays)
            moved["bn.running_var"] = np.full(2, np.nan, np.float32)
            arrays = written(moved)
        return arrays, metrics


def test_a_round_that_fails_late_is_none_for_the_servers_moments_too(
    monkeypatch: pytest.MonkeyPatch,
):
    """Whatever fails: one can go on from the model before it."""
    inner = Sick(fraction_evaluate=0.0)
    held = Forgettable(inner)
    floats = {name: np.asarray(a, np.float64) for name, a in INITIAL.items()}
    with pytest.raises(FedNegError, match="running_var has a number that is not fin"):
        held.start(Watched(), written(floats), num_rounds=3, timeout=PATIENCE_S)
    inner.sick = False
    held.start(Watched(), held.arrays, num_rounds=2, timeout=PATIENCE_S)

    def full(*_: object) -> None:
        raise FedNegError("the disk is full")

    grid = Watched(clients=5)
    with monkeypatch.context() as patch:
        patch.setattr(ledgers, "grown", full)
        with pytest.raises(FedNegError, match="the disk is full"):
            held.start(grid, held.arrays, num_rounds=1)
    held.start(grid, held.arrays, num_rounds=2, timeout=PATIENCE_S)
    assert held.ledger is not None
    assert held.ledger.clients == 5


def test_a_ledger_grows_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch):
    ledger = ledgers.Ledger(np.zeros(3, np.float32), clients=2, momentum=0.5)
    real, calls = ledgers.grown, []

    def full_at_last(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise FedNegError("the disk is full")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ledgers, "grown", full_at_last)
        with pytest.raises(FedNegError, match="the disk is full"):
            ledger.grow(4)
    assert ledger.clients == 2
    ledger.grow(4)
    assert ledger.buffers is not None
    assert len(ledger.contributions) == len(ledger.buffers) == 4
    ledger.local[3] = np.ones(3, np.float32)


def test_minima_fit_those_who_are_left_after_files_too(tmp_path: Path):
    inner = FedAvg(fraction_evaluate=0.0, min_train_nodes=6, min_available_nodes=6)
    held, _ = trained(inner, Watched(clients=6), clients=CLIENTS)
    held.forget([102])
    assert inner.min_available_nodes == 6
    held.save(tmp_path)
    inner = FedAvg(fraction_evaluate=0.0, min_train_nodes=6, min_available_nodes=6)
    again = Forgettable.load(tmp_path, inner, clients=CLIENTS)
    grid = Watched(clients=6)
    again.start(grid, again.arrays, num_rounds=1, timeout=PATIENCE_S)
    assert inner.min_available_nodes == 6
    assert len(grid.rounds[-1][1]) == 5
    assert len(again.nodes) == 8  # those that were told


def test_an_owner_may_change_minima_at_any_time():
    inner = FedAvg(fraction_evaluate=0.0, fraction_train=0.2, min_train_nodes=2)
    held, arrays = trained(inner, Watched(clients=6))
    inner.min_train_nodes = 4
    grid = Watched(clients=6)
    arrays = held.start(grid, arrays, num_rounds=2, timeout=PATIENCE_S).arrays
    assert [len(replies) for _, replies in grid.rounds] == [4, 4]
    left = held.forget(held.clients[:3], arrays)
    held.start(grid, left, num_rounds=1, timeout=PATIENCE_S)
    assert len(grid.rounds[-1][1]) == 3


@pytest.mark.parametrize("method", ["negative_gradient", "compensated"])
@pytest.mark.parametrize("state", [False, True])
def test_a_momentum_of_statistics_is_nobodys_after_forgetting(
    method: str, state: bool, tmp_path: Path
):
    """Of which nobody knows whose it was; that of what is trained is the ledger's."""
    inner = FedAvgM(fraction_evaluate=0.0, server_momentum=0.9)
    folder = tmp_path / "state" if state else None
    held = Forgettable(inner, method=method, state=folder, clients=CLIENTS)
    held.start(Watched(), written(INITIAL), 3, PATIENCE_S)
    held.forget([101])
    by_name = dict(zip(INITIAL, inner.momentum_vector, strict=True))
    assert not by_name["bn.running_var"].any()
    assert held.ledger is not None
    assert held.ledger.buffers is not None
    rows = held.ledger.buffers.sum(axis=0)
    theirs = -np.concatenate([np.ravel(by_name[n]) for n in TRAINED])
    np.testing.assert_allclose(theirs, rows, atol=1e-6)
    if state:  # to the last bit, as whoever starts again has it
        rows = held.ledger.buffers.astype(np.float64).sum(axis=0)
        np.testing.assert_array_equal(theirs, rows.astype(np.float32))


def test_the_model_that_is_handed_out_is_the_one_that_is_held():
    """Statistics too, on which a server's momentum would be."""
    inner = FedAvgM(fraction_evaluate=0.0, server_momentum=0.9)
    held, arrays = trained(inner, Watched(), rounds=4)
    for name, array in read(held.arrays).items():
        np.testing.assert_array_equal(read(arrays)[name], array)


@pytest.mark.parametrize(
    "clients", [{1000: "h0"}, {1000: -1}, {"one": 3}, [1, 2], 3, {1000: 1.5}], ids=repr
)
def test_what_says_of_no_node_who_it_is_is_a_line(clients: Any):
    with pytest.raises(FedNegError, match="clients must say of each node id which cl"):
        Forgettable(FedAvg(), clients=clients)


def test_whole_numbers_of_any_type_say_who_is_who(tmp_path: Path):
    clients = {np.int64(node): np.int64(client) for node, client in CLIENTS.items()}
    held, _ = trained(FedAvg(fraction_evaluate=0.0), Watched(), clients=clients)
    held.save(tmp_path)
    assert held.clients == (100, 101, 102, 103)


def test_a_start_that_never_ran_a_round_takes_none_of_a_methods():
    held, _ = trained(FedAvg(fraction_evaluate=0.0), Watched(), method="federaser")
    arrays = held.forget([held.clients[0]])
    assert held.unlearn_rounds == 2
    nobody = Watched()
    nobody.contexts = {1000: nobody.contexts[1000]}
    with pytest.raises(FedNegError, match="nobody is left to train"):
        held.start(nobody, arrays, num_rounds=1)
    assert held.unlearn_rounds == 2


def test_a_copy_that_is_made_during_a_start_is_idle():
    copies: list[Forgettable] = []

    def evaluate(number: int, arrays: ArrayRecord) -> MetricRecord:
        if number == 1:
            copies.append(copy.deepcopy(held))
        return MetricRecord()

    held = Forgettable(FedAvg(fraction_evaluate=0.0))
    held.start(Watched(), written(INITIAL), num_rounds=2, evaluate_fn=evaluate)
    (other,) = copies
    other.reset()
    assert other.ledger is None
    after = other.start(Watched(), written(INITIAL), num_rounds=1, timeout=PATIENCE_S)
    assert other.clients == held.clients
    assert other.ledger is not None
    np.testing.assert_allclose(other.ledger.initial, flat(written(INITIAL)))
    # The one that went on meanwhile has had two rounds, and is not the copy's.
    assert flat(after.arrays).tobytes() != flat(held.arrays).tobytes()


def test_where_nobody_has_trained_other_arrays_are_a_beginning():
    grid = Watched(broken={(k, 1) for k in range(4)})
    held = Forgettable(FedAvg(fraction_evaluate=0.0))
    held.start(grid, written(INITIAL), num_rounds=1, timeout=PATIENCE_S)
    assert held.clients == ()
    other = {name: array + 1 for name, array in INITIAL.items()}
    held.start(Watched(), written(other), num_rounds=1, timeout=PATIENCE_S)
    assert held.ledger is not None
    np.testing.assert_array_equal(held.ledger.initial, flat(written(other)))
