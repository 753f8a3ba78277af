"""Going against one more update: the round by hand, and by a server that sees sums."""

from itertools import count

import numpy as np
import pytest
from flwr.app import ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

from builders.federations import Answer, Behaviour, Bench, small_config
from builders.networks import initial_parameters
from fedneg.core.assignment import Assignment
from fedneg.core.errors import FedNegError
from fedneg.core.parameters import NDArrays
from fedneg.strategies.hooks import NO_HOOKS, Hooks

# Client: examples, and what it adds in every round.
STEPS = {0: (1, [4.0, 0.0]), 1: (2, [8.0, 8.0]), 2: (3, [0.0, 8.0]), 3: (2, [2.0, 6.0])}


def adds(client_id: int, fails: int | None = None) -> Behaviour:
    """Return a client that adds its step to the global parameters; one fails later."""
    (examples, step), calls = STEPS[client_id], count(1)

    def train(arrays: NDArrays, server_round: int) -> Answer:
        if next(calls) > 1 and client_id == fails:
            raise RuntimeError("it has left already")
        return [arrays[0] + np.array(step, np.float32)], examples

    return train


def bench(*options: str, hooks: Hooks = NO_HOOKS, fails: int | None = None) -> Bench:
    """Return four clients after a round: the model is [3, 6.5]."""
    config = small_config("clients=4", "forget=null", "strategy=puf", *options)
    made = Bench(
        config,
        [np.zeros(2, np.float32)],
        {k: adds(k, fails) for k in STEPS},
        hooks=hooks,
    )
    assert made.train(1).tolist() == [3.0, 6.5]
    made.grid.sent.clear()
    return made


def by_definition(
    model: list[float], leave: tuple[int, ...], eta: float, *, special: bool = False
) -> list[float]:
    """Return the paper's round, written as it is printed."""
    there = [k for k in STEPS if not special or k in leave]
    total = sum(STEPS[k][0] for k in there)
    found = list(model)
    for k in there:
        for place in range(2):
            share = STEPS[k][0] / total * STEPS[k][1][place]
            found[place] += -eta * share if k in leave else share
    return found


@pytest.mark.parametrize("leave", [(1,), (1, 3)])
def test_the_regular_round_by_hand(leave: tuple[int, ...]):
    """1 alone: [3, 6.5] + ([4, 0] + 3 [0, 8] + 2 [2, 6]) / 8 - 4 * 2 [8, 8] / 8."""
    made = bench("strategy.learning_rate=4")
    after = made.unlearn(*leave)
    np.testing.assert_allclose(after, by_definition([3.0, 6.5], leave, 4.0))
    if leave == (1,):
        assert after.tolist() == [-4.0, 3.0]
    assert made.grid.asked("train") == [0, 1, 2, 3]
    assert [r.clients for r in made.strategy.reports] == [4, 4]


@pytest.mark.parametrize("memory", ["2048", "0"])
@pytest.mark.parametrize("form", ["regular", "special"])
@pytest.mark.parametrize("leave", [(1,), (1, 3), (0, 1, 3)])
def test_who_leaves_is_asked_beside_a_sample(
    leave: tuple[int, ...], form: str, memory: str
):
    """One trains in a round, and up to four answer in this one: in memory, on disk."""
    options = ("strategy.client_fraction=0.25", f"strategy.form={form}")
    config = small_config(
        *("clients=4", "forget=null", "strategy=puf", "strategy.learning_rate=4"),
        *(*options, f"strategy.ledger_memory_mib={memory}"),
    )
    made = Bench(config, [np.zeros(2, np.float32)], {k: adds(k) for k in STEPS})
    before = made.train(2).tolist()
    made.grid.sent.clear()
    after = made.unlearn(*leave)
    assert made.failures() == []
    asked = made.grid.asked("train")
    assert set(leave) <= set(asked)
    assert len(asked) == len(leave) + (form == "regular")
    total = sum(STEPS[k][0] for k in asked)
    found = np.array(before)
    for k in asked:
        share = STEPS[k][0] / total * np.array(STEPS[k][1])
        found += -4 * share if k in leave else share
    np.testing.assert_allclose(after, found, rtol=1e-6)
    np.testing.assert_allclose(made.strategy.ledger.rebuilt(), after, rtol=1e-6)


@pytest.mark.parametrize("leave", [(1,), (1, 3)])
def test_the_special_round_by_hand(leave: tuple[int, ...]):
    made = bench("strategy.form=special", "strategy.learning_rate=0.5")
    after = made.unlearn(*leave)
    expected = by_definition([3.0, 6.5], leave, 0.5, special=True)
    np.testing.assert_allclose(after, expected)
    assert made.grid.asked("train") == list(leave)
    if leave == (1,):
        assert after.tolist() == [-1.0, 2.5]


@pytest.mark.parametrize(("form", "eta"), [("regular", 20), ("special", 2)])
def test_how_far_is_the_papers_unless_it_is_said(form: str, eta: float):
    made = bench(f"strategy.form={form}")
    after = made.unlearn(1)
    expected = by_definition([3.0, 6.5], (1,), eta, special=form == "special")
    np.testing.assert_allclose(after, expected)
    assert made.strategy.method_report["learning_rate"] == eta


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_the_ledger_stands_for_the_model(momentum: float):
    """Those who stay own their part of the round; what was subtracted is nobody's."""
    made = bench(f"strategy.server_momentum={momentum}", "strategy.learning_rate=4")
    rows = made.strategy.ledger.contributions.copy()
    after = made.unlearn(1)
    ledger = made.strategy.ledger
    np.testing.assert_allclose(ledger.rebuilt(), after, rtol=1e-6)
    assert not ledger.contributions[1].any()
    if not momentum:
        gained = ledger.contributions[[0, 2, 3]] - rows[[0, 2, 3]]
        np.testing.assert_allclose(gained, [[0.5, 0], [0, 3], [0.5, 1.5]])
    assert ledger.participation[-1].weights == {0: 1 / 8, 2: 3 / 8, 3: 2 / 8}


def test_a_server_that_sees_only_the_sum_does_the_same():
    """Flower's own FedAvg, where the leaving client sends w - eta D for w + D."""
    made = bench("strategy.learning_rate=4")
    model = made.after[-1].copy()
    after = made.unlearn(1)
    replies = []
    for client_id, (examples, step) in STEPS.items():
        sign = -4.0 if client_id == 1 else 1.0
        local = model + sign * np.array(step, np.float32)
        metrics = MetricRecord({"num-examples": examples})
        replies.append(RecordDict({"arrays": ArrayRecord([local]), "metrics": metrics}))
    summed = aggregate_arrayrecords(replies, FedAvg().weighted_by_key)
    np.testing.assert_allclose(summed.to_numpy_ndarrays()[0], after, rtol=1e-6)


def test_what_fails_the_gate_is_not_subtracted_and_the_others_part_stays():
    seen = []

    def accept(before: np.ndarray, after: np.ndarray) -> bool:
        seen.append((before.tolist(), after.tolist()))
        return len(seen) == 1  # the round itself; not the model against it

    made = bench("strategy.learning_rate=4", hooks=Hooks(accept=accept))
    after = made.unlearn(1)
    assert seen[-1] == ([3.0, 6.5], [-4.0, 3.0])
    assert after.tolist() == [4.0, 11.0]
    assert made.strategy.ledger.rebuilt().tolist() == [4.0, 11.0]
    assert "failed the gate" in made.failures()[-1][2]
    assert "nothing of client 1" in made.strategy.method_report["notice"]


@pytest.mark.parametrize("form", ["regular", "special"])
def test_without_the_client_nothing_is_subtracted_and_it_is_told(form: str):
    made = bench(f"strategy.form={form}", fails=1)
    after = made.unlearn(1)
    if form == "special":
        assert after.tolist() == [3.0, 6.5]
    assert made.strategy.method_report["subtracted"] == {"1": 0.0}
    assert "nothing of client 1" in made.strategy.method_report["notice"]
    np.testing.assert_allclose(made.strategy.ledger.rebuilt(), after)


def test_what_was_subtracted_is_told_by_its_length():
    made = bench("strategy.learning_rate=4")
    made.unlearn(1)
    lengths = made.strategy.method_report["subtracted"]
    assert lengths["1"] == pytest.approx(4 * 2 / 8 * np.hypot(8, 8))
    assert "notice" not in made.strategy.method_report


def test_real_clients_train_once_more_through_flowers_messages():
    config = small_config("clients=4", "forget=1", "strategy=puf", "attack=backdoor")
    made = Bench(
        config,
        initial_parameters(64, config.model.hidden, 10, seed=0),
        assignment=Assignment.of(config, root=None).to_json(),
    )
    made.train(2)
    made.unlearn(1)
    assert made.failures() == []
    np.testing.assert_allclose(made.strategy.ledger.rebuilt(), made.model, atol=1e-5)


def test_options_are_checked():
    for option, said in (
        ("form=other", "strategy.form must be one of regular, special"),
        ("learning_rate=0", "strategy.learning_rate must be greater than 0"),
        ("learning_rate=x", "strategy.learning_rate must be"),
    ):
        with pytest.raises(FedNegError, match=said):
            small_config("strategy=puf", f"strategy.{option}")
