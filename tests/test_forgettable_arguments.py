"""What a strategy is given that it cannot use is one line, before anything is done."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import FedAvg, FedXgbBagging, FedXgbCyclic
from torch import nn

from builders.strangers import INITIAL, Watched, contributions, read, trained, written
from builders.waiting import PATIENCE_S
from fedneg import Forgettable, NotLinearError
from fedneg.core.errors import FedNegError


def fedavg(**more: Any) -> FedAvg:
    return FedAvg(fraction_evaluate=0.0, **more)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"clients": ""}, "clients must name a metric, got ''"),
        ({"clients": {1: True}}, "clients must say of each node id which client id"),
        ({"clients": {-1: 3}}, "clients must say of each node id which client id"),
        ({"method": None}, "method must be the name of one, got None"),
        ({"method": ""}, "method must be the name of one, got ''"),
        ({"method": 3}, "method must be the name of one, got 3"),
        ({"options": 3}, "options must say of names what they are, got 3"),
        ({"options": [1]}, r"options must say of names what they are, got \[1\]"),
        ({"options": {1: 2}}, "options must say of names what they are, got {1: 2}"),
        ({"model": 3}, "model must be a torch module, or make one, got int"),
        ({"model": int}, "model must be a torch module, or make one, got int"),
        ({"model": nn.Linear}, "and 'Linear' wants arguments"),
        ({"memory_mib": 1.5}, "memory_mib must be a whole number, got 1.5"),
        ({"state": 3}, "state must be a path, got 3"),
        ({"state": b"x"}, "state must be a path, got b'x'"),
        ({"state": ""}, "state must be a path, got ''"),
        ({"keys": True}, "keys must be a path, got True"),
        ({"repair_rounds": "x"}, "repair_rounds must be a whole number, got 'x'"),
        ({"repair_rounds": -1}, "repair_rounds must be at least 0, got -1"),
        ({"checkpoint": 0}, "checkpoint must be at least 1, got 0"),
    ],
    ids=str,
)
def test_what_it_cannot_be_made_of(given: dict[str, Any], said: str):
    with pytest.raises(FedNegError, match=said):
        Forgettable(fedavg(), **given)


def test_what_is_forgettable_is_not_made_so_again():
    with pytest.raises(FedNegError, match="this strategy is a Forgettable"):
        Forgettable(Forgettable(fedavg()))


BROKEN = written(
    {n: a * np.nan if a.dtype.kind == "f" else a for n, a in INITIAL.items()}
)


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"grid": 3}, "grid must be a flwr.serverapp.Grid, got int"),
        ({"initial_arrays": INITIAL}, "initial_arrays must be a flwr.app.ArrayRecord"),
        ({"initial_arrays": None}, "ArrayRecord, got NoneType"),
        ({"initial_arrays": BROKEN}, "of the initial arrays has a number that is not"),
        ({"num_rounds": "3"}, "num_rounds must be a whole number, got '3'"),
        ({"num_rounds": 1.5}, "num_rounds must be a whole number, got 1.5"),
        ({"num_rounds": True}, "num_rounds must be a whole number, got True"),
        ({"num_rounds": -1}, "num_rounds must be at least 0, got -1"),
        ({"timeout": "1"}, "timeout must be a number, got '1'"),
        ({"train_config": {"lr": 1}}, "train_config must be a flwr.app.ConfigRecord"),
        ({"evaluate_config": []}, "evaluate_config must be a flwr.app.ConfigRecord"),
        ({"evaluate_fn": 3}, "evaluate_fn must be a function, got int"),
    ],
    ids=lambda one: next(iter(one)) if isinstance(one, dict) else "",
)
def test_what_a_start_cannot_be_given(
    given: dict[str, Any], said: str, with_state: bool, tmp_path: Path
):
    grid = Watched()
    held = Forgettable(fedavg(), state=tmp_path / "state" if with_state else None)
    whole = {"grid": grid, "initial_arrays": written(INITIAL), "num_rounds": 1}
    with pytest.raises(FedNegError, match=said):
        held.start(**{**whole, **given})
    assert grid.rounds == []
    held.start(**{**whole, "num_rounds": np.int64(1)}, timeout=PATIENCE_S)
    assert len(grid.rounds) == 1


@pytest.mark.parametrize(
    "scale",
    ["x", None, [1], True, 1 + 2j, np.array([0.5, 0.5]), 0, 1.5, np.nan],
    ids=str,
)
def test_a_share_that_is_none_is_a_line_and_nobody_is_forgotten(scale: Any):
    held, _ = trained(fedavg(), Watched(), 1)
    with pytest.raises(FedNegError, match=r"scale must be a number in \(0, 1\], got"):
        held.forget([held.clients[0]], scale=scale)
    assert held.forgotten == ()
    held.forget([held.clients[0]], scale=np.float32(0.5))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda held: held.forget(held.clients[:1], [1]),
            "arrays must be a flwr.app.A",
        ),
        (lambda held: held.save(3), "folder must be a path, got 3"),
        (lambda held: held.save(""), "folder must be a path, got ''"),
        (lambda held: held.fresh(with_forgotten=1), "must be true or false, got 1"),
        (lambda _: Forgettable.load(None, fedavg()), "folder must be a path, got None"),
    ],
    ids=["forget", "save", "save in no folder", "fresh", "load"],
)
def test_what_other_methods_cannot_be_given(
    call: Callable[[Forgettable], Any], said: str
):
    held, _ = trained(fedavg(), Watched(), 1)
    with pytest.raises(FedNegError, match=said):
        call(held)
    assert held.forgotten == ()


# -- models ----------------------------------------------------------------------------


def test_a_model_without_a_number_is_a_line():
    with pytest.raises(FedNegError, match="floats to train, with a number in it"):
        trained(fedavg(), Watched(), 1, {"w": np.zeros((0, 3), np.float32)})
    held, _ = trained(
        fedavg(),
        Watched(),
        1,
        {"none": np.zeros((0, 3), np.float32), "w": np.ones(2, np.float32)},
    )
    assert read(held.forget(held.clients[:1]))["none"].shape == (0, 3)


def test_a_model_of_big_endian_floats_alone_is_one_of_floats():
    initial = {"w": np.linspace(0, 1, 6).astype(">f4")}
    held, arrays = trained(fedavg(), grid := Watched(), 2, initial)
    assert len(grid.rounds) == 2
    after = read(held.forget(held.clients[:1], arrays))
    assert not np.allclose(after["w"], read(arrays)["w"])


@pytest.mark.parametrize("method", ["negative_gradient", "retrain"])
@pytest.mark.parametrize("make", [FedXgbBagging, FedXgbCyclic])
def test_trees_are_refused_whatever_they_are_given(
    make: Callable[..., Any], method: str
):
    grid, inner = Watched(), make(fraction_evaluate=0.0)
    with pytest.raises(NotLinearError, match="its model is one of trees"):
        Forgettable(inner, method=method).start(grid, written(INITIAL), 1)
    assert grid.rounds == []


# -- what clients weigh ----------------------------------------------------------------


class Without(Watched):
    """A grid in whose replies something is missing."""

    def __init__(self, take: Callable[[Message], Any], *clients: int) -> None:
        super().__init__()
        self.take, self.clients = take, clients

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Let it be."""
        found = super().send_and_receive(messages, timeout=timeout)
        for reply in found:
            if reply.metadata.src_node_id - 1000 in self.clients:
                self.take(reply)
        return found


def unweighed(reply: Message) -> None:
    del reply.content["metrics"]["num-examples"]


@pytest.mark.parametrize("trains", [True, False])
def test_who_does_not_say_what_the_strategy_weighs_by_is_named(
    trains: bool, flower_log: pytest.LogCaptureFixture
):
    """One of four fails, and the others go on; of four it is the app's mistake."""
    said = "its reply has no metric 'num-examples', by which the strategy weighs repl"
    share = {"fraction_train": float(trains), "fraction_evaluate": float(not trains)}
    held = Forgettable(FedAvg(**share))
    held.start(Without(unweighed, 2), written(INITIAL), 1, PATIENCE_S)
    assert f"a reply counts as failed: client 1002: {said}" in flower_log.text
    assert held.clients == ((1000, 1001, 1003) if trains else ())
    with pytest.raises(FedNegError, match=f"client 100.: {said}"):
        Forgettable(FedAvg(**share)).start(
            Without(unweighed, *range(4)), written(INITIAL), 1, PATIENCE_S
        )


def test_who_sends_no_model_where_others_do_has_failed(
    flower_log: pytest.LogCaptureFixture,
):
    def take(reply: Message) -> None:
        del reply.content["arrays"]

    held, _ = trained(fedavg(), Without(take, 1), 1)
    assert len(held.clients) == 3
    assert "its reply has no arrays" in flower_log.text


def test_a_strategy_that_weighs_by_nothing_needs_nobody_to_say_it():
    """A plain mean of somebody's own."""

    class Mean(FedAvg):
        def __init__(self) -> None:
            super().__init__(fraction_evaluate=0.0)
            del self.weighted_by_key

        def summary(self) -> None:
            """Say nothing, since Flower's would say that."""

        def aggregate_train(
            self, server_round: int, replies: Iterable[Message]
        ) -> tuple[ArrayRecord, MetricRecord]:
            models = [read(reply.content["arrays"]) for reply in replies]
            mean = {
                name: np.mean([m[name] for m in models], axis=0) for name in INITIAL
            }
            return written(mean), MetricRecord()

    grid = Without(unweighed, *range(4))
    held, arrays = trained(Mean(), grid, 2)
    grid.rounds[:] = [
        (before, {k: (local, 1.0) for k, (local, _) in replies.items()})
        for before, replies in grid.rounds
    ]
    gone = held.clients[0]
    expected = contributions(grid)[gone]["conv.weight"]
    after = read(held.forget([gone], arrays))["conv.weight"]
    np.testing.assert_allclose(read(arrays)["conv.weight"] - after, expected, atol=1e-6)
    assert held.depends == ()
