"""A reply that is not as the model is: put right, or its client's failure."""

import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideFixedClipping,
    FedAdam,
    FedAvg,
    FedMedian,
    QFedAvg,
    Strategy,
)

from builders.slow_server import contributions
from builders.strangers import INITIAL, TRAINED, Arrays, Watched, read, trained, written
from builders.waiting import PATIENCE_S
from fedneg import Forgettable
from fedneg.core.errors import FedNegError

NODE = 1001
FLOATS = {n: np.atleast_1d(a) for n, a in INITIAL.items() if a.dtype.kind == "f"}
Change = Callable[[Message], None]


class Meddled(Watched):
    """A grid that changes what nodes sent, after it was watched.

    Parameters
    ----------
    change : callable
        Does so with a message.
    nodes : sequence of int
        Whose; the others' replies are as they were.
    since : int
        The first round in which it does.
    """

    def __init__(
        self, change: Change, nodes: Iterable[int] = (NODE,), since: int = 1
    ) -> None:
        super().__init__()
        self.change, self.nodes, self.since = change, set(nodes), since

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Do so."""
        found = super().send_and_receive(messages, timeout=timeout)
        for reply in found:
            is_due = len(self.rounds) >= self.since
            if is_due and reply.metadata.src_node_id in self.nodes:
                self.change(reply)
        return found

    def without_the_changed(self) -> None:
        """Forget that these answered."""
        for _, replies in self.rounds[self.since - 1 :]:
            for node in self.nodes:
                replies.pop(node, None)


def put(name: str, value: Any) -> Change:
    """Return what puts an array, or a metric, into a reply."""

    def change(reply: Message) -> None:
        if name in ("num-examples", "train_loss"):
            reply.content["metrics"][name] = value
        else:
            array = Array(np.asarray(value)) if not isinstance(value, Array) else value
            reply.content["arrays"][name] = array

    return change


def moved(name: str, by: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Return what does something to an array of a reply."""

    def change(reply: Message) -> None:
        record = reply.content["arrays"]
        record[name] = Array(np.asarray(by(record[name].numpy())))

    return change


def without(name: str) -> Change:
    return lambda reply: reply.content["arrays"].pop(name)


def torn() -> Array:
    """Return an array whose bytes end too early."""
    whole = Array(np.zeros((2, 3, 4), np.float32))
    return Array(whole.dtype, whole.shape, whole.stype, whole.data[:-7])


def started(strategy: Strategy, grid: Watched, rounds: int = 3, **more: Any) -> Any:
    """Return a strategy that can forget, and its model."""
    held, arrays = trained(strategy, grid, rounds, **more)
    return held, read(arrays)


def holds(held: Forgettable, grid: Watched, whole: Arrays, **more: Any) -> None:
    """Assert that the model, and what is forgotten, are as the messages say."""
    by_hand = contributions(grid, **more)
    gone = held.clients[0]
    assert set(held.clients) == set(by_hand)
    after = read(held.forget([gone]))
    for name in TRAINED:
        total = INITIAL[name] + sum(row[name] for row in by_hand.values())
        np.testing.assert_allclose(whole[name], total, rtol=0, atol=2e-6)
        left = whole[name] - by_hand[gone][name]
        np.testing.assert_allclose(after[name], left, rtol=0, atol=2e-6)


NAN = np.full((2, 3, 4), np.nan, np.float32)
WRONG = {
    "NaN": (put("conv.weight", NAN), "array conv.weight has a number that is not"),
    "infinite": (
        put("temperature", np.array(np.inf, np.float32)),
        "array temperature has a number that is not finite",
    ),
    "too far": (
        put("temperature", np.array(1e300)),
        "array temperature has a number that is not finite",
    ),
    "NaN statistic": (
        put("bn.running_var", np.array([1, np.nan], np.float32)),
        "array bn.running_var has a number that is not finite",
    ),
    "counter": (
        put("bn.num_batches_tracked", np.array(2**24 + 1)),
        "array bn.num_batches_tracked has whole numbers up to 16777217",
    ),
    "reshaped": (
        moved("conv.weight", lambda a: a.reshape(4, 3, 2)),
        r"array conv.weight must have shape \(2, 3, 4\), as in the model, got \(4,",
    ),
    "flat": (
        moved("conv.weight", lambda a: a.reshape(-1)),
        r"array conv.weight must have shape \(2, 3, 4\), as in the model, got \(24,",
    ),
    "short": (
        put("conv.weight", np.zeros(5)),
        r"array conv.weight must have shape \(2, 3, 4\), as in the model, got \(5,",
    ),
    "complex": (
        moved("conv.weight", lambda a: a.astype(complex)),
        "array conv.weight must be of float32, as in the model, got complex128",
    ),
    "text": (
        put("temperature", np.array("warm")),
        "array temperature must be of float32, as in the model, got <U4",
    ),
    "half counts": (
        put("bn.num_batches_tracked", np.array(3.5)),
        "array bn.num_batches_tracked must be of int64, as in the model, got float64",
    ),
    "torn": (put("conv.weight", torn()), "array conv.weight cannot be read"),
    "missing": (without("temperature"), "array temperature is not in the record"),
    "more": (put("more", np.zeros(2)), "array more is in the record, and the initial"),
    "negative": (put("num-examples", -3), "num-examples must be a number from 0, got"),
    "no number": (put("num-examples", float("nan")), "num-examples must be a number"),
    "list": (put("num-examples", [3]), r"num-examples must be a number from 0, got \["),
}
wrong = pytest.mark.parametrize(("change", "said"), WRONG.values(), ids=WRONG)


@wrong
def test_what_cannot_be_is_that_clients_failure(
    change: Change, said: str, flower_log: pytest.LogCaptureFixture
):
    """Round 2 on: the others go on, and what the client sent before is its own."""
    grid = Meddled(change, since=2)
    held, whole = started(FedAvg(fraction_evaluate=0.0), grid)
    assert [len(replies) for _, replies in grid.rounds] == [4, 4, 4]
    (line, *_) = [r.message for r in flower_log.records if "counts as" in r.message]
    assert line.startswith(f"fedneg: a reply counts as failed: client {NODE}: ")
    flower_log.clear()
    assert "\n" not in line
    assert re.search(said, line), line
    grid.without_the_changed()
    holds(held, grid, whole)


@wrong
def test_where_nobody_ever_sent_what_can_be_it_is_the_apps_mistake(
    change: Change, said: str
):
    grid = Meddled(change, nodes=Watched().get_node_ids())
    held = Forgettable(FedAvg(fraction_evaluate=0.0))
    with pytest.raises(FedNegError, match=rf"^client 100\d: .*{said}"):
        held.start(grid, written(INITIAL), num_rounds=2)
    assert held.clients == ()
    assert len(grid.rounds) == 1


def test_later_a_round_of_failures_alone_changes_nothing():
    grid = Meddled(put("conv.weight", NAN), nodes=Watched().get_node_ids(), since=2)
    held, whole = started(FedAvg(fraction_evaluate=0.0), grid)
    first = contributions(only(grid, 1))
    for name in TRAINED:
        total = INITIAL[name] + sum(row[name] for row in first.values())
        np.testing.assert_allclose(whole[name], total, rtol=0, atol=1e-6)
    assert held.ledger is not None
    assert len(held.ledger.participation) == 1


def only(grid: Watched, rounds: int) -> Watched:
    """Return what was watched of the first rounds."""
    for kept in (grid.rounds, grid.numbers, grid.failures):
        del kept[rounds:]
    return grid


def test_a_strategy_that_wants_all_replies_makes_no_step_without_one():
    inner = DifferentialPrivacyClientSideFixedClipping(
        FedAvg(fraction_evaluate=0.0), 0.0, 9.0, 4
    )
    grid = Meddled(put("conv.weight", NAN), since=2)
    held, whole = started(inner, grid, initial=FLOATS)
    assert held.ledger is not None
    assert len(held.ledger.participation) == 1
    after_first = grid.rounds[1][0]["conv.weight"]
    np.testing.assert_array_equal(whole["conv.weight"], after_first)


def test_whoever_weighs_nothing_with_all_others_is_a_failure():
    """Flower would divide by zero."""
    change = put("num-examples", 0)
    grid = Meddled(change, nodes=Watched().get_node_ids(), since=2)
    held, _ = started(FedAvg(fraction_evaluate=0.0), grid)
    assert len(held.ledger.participation) == 1
    grid = Meddled(change)
    held, _ = started(FedAvg(fraction_evaluate=0.0), grid)
    assert held.ledger.participation[0].weights[1] == 0
    grid = Meddled(change, nodes=Watched().get_node_ids())
    with pytest.raises(FedNegError, match="num-examples is 0, as everybody's is"):
        Forgettable(FedAvg()).start(grid, written(INITIAL), num_rounds=1)


def fair(**more: Any) -> Strategy:
    return QFedAvg(client_learning_rate=0.1, q=0.2, **more)


# -- put right -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "nodes"),
    [(FedAvg, 1), (FedAvg, 4), (FedMedian, 1)],
)
def test_float64_for_float32_is_rounded_and_told_once(
    make: Callable[..., Strategy], nodes: int, flower_log: pytest.LogCaptureFixture
):
    """NumPy makes float64 of most things; the model stays what it was given as."""

    def widen(reply: Message) -> None:
        for name, array in reply.content["arrays"].items():
            if array.dtype == "float32":
                wide = array.numpy().astype(np.float64) * (1 + 1e-12)
                reply.content["arrays"][name] = Array(np.asarray(wide))

    grid = Meddled(widen, nodes=Watched().get_node_ids()[:nodes])
    held, whole = started(make(fraction_evaluate=0.0), grid)
    assert [a.dtype for a in whole.values()] == [a.dtype for a in INITIAL.values()]
    lines = [r.message for r in flower_log.records if "is rounded to" in r.message]
    assert len(lines) == 1
    assert "array conv.weight of float64 is rounded to float32, as the mo" in lines[0]
    if make is FedAvg:
        holds(held, grid, whole)


def test_what_the_server_itself_makes_float64_may_be_answered_so(
    flower_log: pytest.LogCaptureFixture,
):
    """FedAdam does, of a float32 model: each client answers in what it was sent."""
    grid = Watched()
    started(FedAdam(fraction_evaluate=0.0), grid)
    last, replies = grid.rounds[-1]
    assert last["conv.weight"].dtype == np.float64
    assert replies[NODE][0]["conv.weight"].dtype == np.float64
    assert "is rounded to" not in flower_log.text


@pytest.mark.parametrize("nodes", [1, 4])
@pytest.mark.parametrize("make", [FedAvg, FedMedian, fair])
def test_axes_of_length_1_come_and_go(make: Callable[..., Strategy], nodes: int):
    """One client's (1,) in the place of () changes nobody's array."""
    grid = Meddled(
        moved("temperature", lambda a: a.reshape(1)),
        nodes=Watched().get_node_ids()[:nodes],
    )
    initial = {n: a for n, a in INITIAL.items() if a.dtype.kind == "f"}
    held, whole = started(make(fraction_evaluate=0.0), grid, initial=initial)
    for before, _ in grid.rounds:
        assert {n: a.shape for n, a in before.items()} == {
            n: a.shape for n, a in initial.items()
        }
    assert whole["temperature"].shape == ()
    if make is FedAvg:
        holds(held, grid, whole)


def test_counters_that_are_whole_floats_are_whole_numbers():
    grid = Meddled(put("bn.num_batches_tracked", np.array(9.0)))
    _, whole = started(FedAvg(fraction_evaluate=0.0), grid)
    examples, counts = [10, 17, 24, 31], [3, 9, 5, 6]
    mean = np.average(counts, weights=examples)
    assert whole["bn.num_batches_tracked"] == np.rint(mean) == 6
    assert whole["bn.num_batches_tracked"].dtype == np.int64


def test_big_endian_numbers_are_numbers():
    grid = Meddled(moved("conv.weight", lambda a: a.astype(">f4")))
    held, whole = started(FedAvg(fraction_evaluate=0.0), grid)
    holds(held, grid, whole)
    assert whole["conv.weight"].dtype == np.float32
    assert whole["conv.weight"].dtype.isnative


def test_arrays_in_another_order_are_those_of_their_names():
    """QFedAvg goes by places: of two arrays alike in shape it would take the other."""

    def turn(reply: Message) -> None:
        record = reply.content["arrays"]
        reply.content["arrays"] = ArrayRecord(dict(reversed(list(record.items()))))

    initial = {
        "first": np.zeros((3, 4), np.float32),
        "second": np.ones((3, 4), np.float32),
    }
    found = []
    for nodes in ((), (NODE,)):
        held = Forgettable(fair(fraction_evaluate=0.0))
        result = held.start(
            Meddled(turn, nodes), written(initial), num_rounds=2, timeout=PATIENCE_S
        )
        found.append(read(result.arrays))
    for name in initial:
        np.testing.assert_allclose(found[1][name], found[0][name], rtol=1e-5)
