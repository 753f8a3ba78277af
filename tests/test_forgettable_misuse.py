"""What was not meant to be done with a strategy: a line, and nothing is lost."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import FedAvg, FedMedian
from torch import nn

from builders.strangers import INITIAL, TRAINED, Watched, flat, read, trained, written
from builders.waiting import PATIENCE_S
from fedneg import Forgettable, NotLinearError
from fedneg.core.errors import FedNegError


def test_while_start_runs_nobody_forgets_and_nobody_starts():
    """Flower goes on with its own arrays, in which a forgotten client would stay."""
    held, said = Forgettable(FedAvg(fraction_evaluate=0.0)), list[str]()

    def evaluate(number: int, arrays: ArrayRecord) -> MetricRecord:
        for call in (
            lambda: held.forget([held.clients[0]]),
            lambda: held.start(Watched(), arrays, num_rounds=1),
            held.reset,
        ):
            if number == 2:
                with pytest.raises(FedNegError, match=r"start\(\) is going on") as why:
                    call()
                said.append(str(why.value))
        return MetricRecord()

    held.start(Watched(), written(INITIAL), num_rounds=3, evaluate_fn=evaluate)
    assert len(said) == 3
    assert held.forgotten == ()
    held.forget([held.clients[0]])


def test_minima_stay_where_enough_nodes_are_left_and_fit_where_not():
    inner = FedAvg(fraction_train=0.1, min_train_nodes=2, fraction_evaluate=0.0)
    held, arrays = trained(inner, Watched(clients=6))
    grid = Watched(clients=6)
    arrays = held.forget(held.clients[:3], arrays)
    held.start(grid, arrays, num_rounds=1, timeout=PATIENCE_S)
    assert inner.min_train_nodes == 2
    assert len(grid.rounds[0][1]) == 2


def test_a_client_of_several_nodes_is_waited_for_with_none_of_them():
    grid = Watched(clients=6)
    one, two, three, *_ = grid.get_node_ids()
    inner = FedAvg(min_available_nodes=6, min_train_nodes=6, fraction_evaluate=0.0)
    clients = {one: 100, two: 100, three: 100}
    held, arrays = trained(inner, grid, clients=clients)
    left = held.forget([100], arrays)
    held.start(grid, left, num_rounds=1, timeout=PATIENCE_S)
    assert len(grid.rounds[-1][1]) == 3


def test_where_everybody_was_forgotten_nobody_is_waited_for():
    grid = Watched()
    held, arrays = trained(FedAvg(fraction_evaluate=0.0), grid)
    left = held.forget(held.clients, arrays)
    with pytest.raises(FedNegError, match="nobody is left to train: the clients of"):
        held.start(grid, left, num_rounds=1)


class Renamed(Watched):
    """A grid of the same clients under other node ids."""

    def __init__(self) -> None:
        super().__init__()
        self.contexts = {node + 500: one for node, one in self.contexts.items()}


@pytest.mark.parametrize("clients", [None, "place"])
def test_who_was_forgotten_does_not_come_back_under_another_name(
    clients: str | None, tmp_path: Path
):
    held, arrays = trained(FedAvg(fraction_evaluate=0.0), Watched(), clients=clients)
    held.forget([held.clients[1]], arrays)
    held.save(tmp_path)
    inner = FedAvg(fraction_evaluate=0.0)
    again, grid = Forgettable.load(tmp_path, inner, clients=clients), Renamed()
    if clients is None:
        with pytest.raises(FedNegError, match="nothing tells which of them was forgot"):
            again.start(grid, again.arrays, num_rounds=1)
    else:  # they say it, and the reply of whoever was forgotten is dropped
        again.start(grid, again.arrays, num_rounds=2, timeout=PATIENCE_S)
        assert grid.get_node_ids()[1] not in grid.rounds[-1][1]
        assert len(grid.rounds[-1][1]) == 3


@pytest.mark.parametrize("method", ["federaser", "retrain"])
def test_a_forgetting_in_the_middle_of_another_is_a_line(method: str):
    grid = Watched()
    held, _ = trained(FedAvg(fraction_evaluate=0.0), grid, method=method)
    one, two, *_ = held.clients
    held.forget([one])
    with pytest.raises(FedNegError, match="run them first, or name all clients in"):
        held.forget([two])
    assert held.forgotten == (one,)
    held.reset()
    assert held.unlearn_rounds == 0
    held.start(grid, written(INITIAL), num_rounds=1, timeout=PATIENCE_S)


def test_what_was_saved_goes_on_from_the_very_model(tmp_path: Path):
    grid = Watched()
    held, arrays = trained(FedAvg(fraction_evaluate=0.0), grid, rounds=9)
    held.forget([held.clients[0]])
    arrays = held.start(grid, held.arrays, num_rounds=5).arrays
    held.save(tmp_path)
    again = Forgettable.load(tmp_path, FedAvg(fraction_evaluate=0.0))
    np.testing.assert_array_equal(flat(again.arrays), flat(arrays))
    again.start(grid, arrays, num_rounds=1)


@pytest.mark.parametrize(
    "client_ids", [3, None, [True], ["1"], [1.0], "12", {"a": 1}], ids=repr
)
def test_what_is_no_list_of_clients_is_a_line(client_ids: Any):
    held, _ = trained(FedAvg(fraction_evaluate=0.0), Watched(), clients="place")
    with pytest.raises(FedNegError, match="forget takes a list of client ids, whole"):
        held.forget(client_ids)
    assert held.forgotten == ()


def test_a_metric_that_nobody_sends_is_told_of(flower_log: pytest.LogCaptureFixture):
    """Who is then known by a node alone would come back under another one."""
    trained(FedAvg(fraction_evaluate=0.0), Watched(), clients="place")
    assert "node 1000 has no metric" not in flower_log.text
    held, _ = trained(FedAvg(fraction_evaluate=0.0), Watched(), clients="palce")
    for node in held.clients:
        assert f"node {node} has no metric 'palce'" in flower_log.text


def test_whole_numbers_of_any_type_are_client_ids(tmp_path: Path):
    held, _ = trained(FedAvg(fraction_evaluate=0.0), Watched(), clients="place")
    held.forget(np.array([101]))
    assert held.forgotten == (101,)
    held.save(tmp_path)


def test_what_a_method_says_is_of_clients_and_not_of_rows():
    held, _ = trained(
        FedAvg(fraction_evaluate=0.0),
        Watched(),
        clients="place",
        method="negative_gradient",
        options={"form": "parameters"},
    )
    held.forget([102])
    assert list(held.report["scale"]) == ["102"]


class Net(nn.Linear):
    """A module whose class makes one by itself."""

    def __init__(self) -> None:
        super().__init__(2, 1)


def test_a_model_may_be_given_by_its_class():
    record = ArrayRecord(Net().state_dict())
    held = Forgettable(FedAvg(fraction_evaluate=0.0), model=Net)
    held.start(Watched(), record, num_rounds=1)
    assert held.ledger is not None
    assert held.ledger.contributions.shape == (4, 3)


def test_one_coarse_array_does_not_hide_a_step_that_is_none():
    """Each array may be off by what its own type rounds, and no more."""
    initial = {name: 40 * array for name, array in INITIAL.items()}
    initial["temperature"] = initial["temperature"].astype(np.float16)

    class Off(FedMedian):
        def aggregate_train(self, number: int, replies: Iterable[Message]) -> Any:
            arrays, metrics = super().aggregate_train(number, replies)
            moved = read(arrays)
            moved["conv.weight"] = moved["conv.weight"] + np.float32(0.02)
            return written(moved), metrics

    with pytest.raises(NotLinearError):
        Forgettable(Off(fraction_evaluate=0.0)).start(
            Watched(), written(initial), num_rounds=2
        )
    assert set(TRAINED) <= set(initial)
