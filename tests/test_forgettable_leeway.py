"""How far a step may be from what made it: what rounding leaves, array by array."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import (
    Bulyan,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    QFedAvg,
    Strategy,
)

from builders.federations import RecordingGrid
from builders.strangers import Arrays, read, written
from builders.waiting import PATIENCE_S
from fedneg import Forgettable, NotLinearError

SHAPES = {"weight": (40, 6), "hidden": (12, 5), "bias": (6,), "scale": ()}


class Direct(RecordingGrid):
    """A grid whose nodes answer at once: the model, moved by so much.

    Parameters
    ----------
    clients : int
    step : mapping of str to float
        How far each array moves.
    """

    def __init__(self, clients: int, step: dict[str, float]) -> None:
        super().__init__(ClientApp(), clients)  # Messages need an identity
        self.count, self.step, self.rounds = clients, step, 0

    def get_node_ids(self) -> list[int]:
        """Name them."""
        return list(range(1000, 1000 + self.count))

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Answer."""
        self.rounds += 1
        return [self.answer(message) for message in messages]

    def answer(self, message: Message) -> Message:
        """Return what a node answers: all go one way, and each a little its own."""
        client_id = message.metadata.dst_node_id - 1000
        own = np.random.default_rng([client_id, self.rounds])
        ours = np.random.default_rng(self.rounds)
        local = {}
        for name, array in read(message.content.array_records["arrays"]).items():
            way = ours.normal(size=array.shape) + 0.5 * own.normal(size=array.shape)
            moved = array.astype(np.float64) + self.step[name] * way
            local[name] = np.asarray(moved, array.dtype)
        metrics = MetricRecord({"num-examples": 3 + client_id % 7, "train_loss": 0.5})
        content = RecordDict({"arrays": written(local), "metrics": metrics})
        return Message(content, reply_to=message)


def model(dtype: Any, size: float = 1.0) -> Arrays:
    draws = np.random.default_rng(5)
    return {
        name: np.asarray(size * draws.normal(size=shape), dtype)
        for name, shape in SHAPES.items()
    }


def run(
    inner: Strategy,
    initial: Arrays,
    step: dict[str, float],
    *,
    clients: int,
    rounds: int,
) -> Forgettable:
    """Return a strategy that has trained."""
    held, grid = Forgettable(inner), Direct(clients, step)
    held.start(grid, written(initial), num_rounds=rounds, timeout=PATIENCE_S)
    return held


def fair(**more: Any) -> Strategy:
    return QFedAvg(client_learning_rate=0.1, q=0.2, **more)


def moving(**more: Any) -> Strategy:
    return FedAvgM(server_momentum=0.9, server_learning_rate=0.7, **more)


HONEST: dict[str, Callable[..., Strategy]] = {
    "FedAvg": FedAvg,
    "FedAvgM": moving,
    "FedAdam": FedAdam,
    "FedYogi": FedYogi,
    "FedAdagrad": FedAdagrad,
    "FedMedian": FedMedian,
    "FedTrimmedAvg": FedTrimmedAvg,
    "Krum": lambda **more: Krum(num_malicious_nodes=1, **more),
    "Bulyan": lambda **more: Bulyan(num_malicious_nodes=1, **more),
    "QFedAvg": fair,
}
SIZES = {"ordinary": (1.0, 0.1), "rounding": (1e3, 1e-3)}
TYPES = [np.float16, np.float32, np.float64]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", HONEST)
def test_what_rounding_leaves_is_never_refused(name: str, dtype: Any, size: str):
    """Parameters of a thousand, and steps of a thousandth, too."""
    large, step = SIZES[size]
    if (dtype, size) == (np.float16, "rounding") and name in ("Krum", "Bulyan"):
        pytest.skip("Flower's own distances overflow")
    inner = HONEST[name](fraction_evaluate=0.0)
    steps = dict.fromkeys(SHAPES, step)
    held = run(inner, model(dtype, large), steps, clients=12, rounds=2)
    assert held.ledger is not None
    assert len(held.ledger.participation) == 2


@pytest.mark.parametrize(
    ("dtype", "size"),
    [(np.float16, "ordinary"), (np.float32, "rounding"), (np.float64, "rounding")],
)
def test_nor_what_adds_up_over_fifty_clients_and_twenty_rounds(dtype: Any, size: str):
    """In a momentum, as far as that reaches back."""
    large, step = SIZES[size]
    steps = dict.fromkeys(SHAPES, step)
    inner = moving(fraction_evaluate=0.0)
    held = run(inner, model(dtype, large), steps, clients=50, rounds=20)
    assert held.ledger is not None
    assert len(held.ledger.participation) == 20


def nudged(make: Callable[..., Strategy], name: str, share: float) -> Strategy:
    """Return a strategy that adds to one array, of its step, so much."""
    inner: Any = make(fraction_evaluate=0.0)
    configure, aggregate = inner.configure_train, inner.aggregate_train
    before: Arrays = {}

    def configure_train(number: int, arrays: ArrayRecord, *more: Any) -> Any:
        before.update(read(arrays))
        return configure(number, arrays, *more)

    def aggregate_train(number: int, replies: Iterable[Message]) -> Any:
        arrays, metrics = aggregate(number, replies)
        found = read(arrays)
        step = found[name] - before[name]
        by = share * np.linalg.norm(step) / np.sqrt(step.size)
        found[name] = np.asarray(found[name] + by, found[name].dtype)
        return written(found), metrics

    inner.configure_train, inner.aggregate_train = configure_train, aggregate_train
    return inner


@pytest.mark.parametrize("large", [1.0, 1e3])
# QFedAvg's steps are too small beside the parameters to tell.
@pytest.mark.parametrize("name", sorted(HONEST.keys() - {"QFedAvg"}))
def test_a_small_array_does_not_hide_behind_a_large_one(name: str, large: float):
    """A ten-thousandth of its own step, of a thousandth of all numbers' size."""
    initial = model(np.float32)
    initial["weight"] *= np.float32(large)
    steps = dict.fromkeys(SHAPES, 0.1)
    inner = nudged(HONEST[name], "bias", 1e-4)
    with pytest.raises(
        NotLinearError, match=r"off by .*e-05 .*|off by 0\.0001 "
    ) as why:
        run(inner, initial, steps, clients=8, rounds=1)
    assert "updates, in array bias. Take another" in str(why.value)
    run(nudged(HONEST[name], "bias", 0.0), initial, steps, clients=8, rounds=1)


@pytest.mark.parametrize("name", ["FedAvg", "FedMedian", "FedAdam"])
def test_float64_is_held_to_the_precision_of_its_parts(name: str):
    """Parameters of a thousand excuse nothing there: a hundred-thousandth is seen."""
    initial, steps = model(np.float64, 1e3), dict.fromkeys(SHAPES, 1e-3)
    inner = nudged(HONEST[name], "bias", 1e-5)
    with pytest.raises(NotLinearError, match="in array bias"):
        run(inner, initial, steps, clients=8, rounds=1)


def test_a_rule_that_comes_nearer_is_taken_though_another_is_near_enough():
    """Half floats round so much that the mean would do for the median."""
    steps = dict.fromkeys(SHAPES, 0.05)
    inner = FedMedian(fraction_evaluate=0.0)
    held = run(inner, model(np.float16), steps, clients=12, rounds=1)
    assert len(held.depends) == 1


class Uniform(FedAvg):
    """Weighs all alike, whatever their examples: weights have to be looked for."""

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        """Return the mean."""
        records = [read(m.content.array_records["arrays"]) for m in replies]
        mean = {n: np.mean([r[n] for r in records], axis=0) for n in records[0]}
        mean = {n: np.asarray(a, records[0][n].dtype) for n, a in mean.items()}
        return written(mean), MetricRecord({})


class Narrow(Direct):
    """Everybody moves the same five numbers; some of them as somebody else does."""

    def __init__(self, clients: int, *, numbers: int, alike: int = 0) -> None:
        super().__init__(clients, dict.fromkeys(SHAPES, 0.1))
        self.numbers, self.alike = numbers, alike

    def answer(self, message: Message) -> Message:
        """Answer with few numbers moved."""
        client_id = message.metadata.dst_node_id - 1000
        own = np.random.default_rng([max(client_id, self.alike), self.rounds])
        local = read(message.content.array_records["arrays"])
        moved = local["weight"].copy()
        moved.flat[: self.numbers] += 0.1 * own.normal(size=self.numbers)
        metrics = MetricRecord({"num-examples": 3 + client_id, "train_loss": 0.5})
        arrays = {**local, "weight": np.asarray(moved, local["weight"].dtype)}
        content = RecordDict({"arrays": written(arrays), "metrics": metrics})
        return Message(content, reply_to=message)


def start(grid: Direct) -> Forgettable:
    held = Forgettable(Uniform(fraction_evaluate=0.0))
    held.start(grid, written(model(np.float32)), num_rounds=2, timeout=PATIENCE_S)
    return held


def test_weights_that_others_would_do_for_are_refused():
    """Twelve updates in five directions: what each weighed nothing tells."""
    with pytest.raises(NotLinearError, match="12 clients weighed: their updates lie"):
        start(Narrow(12, numbers=5))
    held = start(Narrow(12, numbers=40))
    assert held.ledger is not None
    assert len(held.ledger.participation) == 2


def test_updates_that_are_the_same_need_not_be_told_apart():
    """Of two that sent one update it does not matter whose part is whose."""
    held = start(Narrow(12, numbers=40, alike=1))
    assert held.ledger is not None
    before = held.ledger.contributions
    assert len(before) == 12
