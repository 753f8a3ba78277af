"""Any Flower strategy made forgettable: the identity, recomputed from the messages."""

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.app import RecordDict as Records
from flwr.serverapp.strategy import (
    FedAvg,
    FedAvgM,
    FedProx,
    Strategy,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.strangers import (
    INITIAL,
    TRAINED,
    Watched,
    contributions,
    flat,
    read,
    step_of,
    trained,
    written,
)
from fedneg import Forgettable
from fedneg.core.errors import FedNegError
from fedneg.forgettable import files

# -- the identity ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "server"),
    [
        (FedAvg(fraction_evaluate=0.0), {}),
        (FedProx(fraction_evaluate=0.0, proximal_mu=0.1), {}),
        (
            FedAvgM(
                fraction_evaluate=0.0, server_learning_rate=0.5, server_momentum=0.9
            ),
            {"rate": 0.5, "momentum": 0.9},
        ),
    ],
    ids=lambda x: type(x).__name__,
)
def test_forgetting_takes_away_what_the_messages_say(
    strategy: Strategy, server: dict[str, float]
):
    grid = Watched()
    held, arrays = trained(strategy, grid, rounds=5)
    before, by_hand = read(arrays), contributions(grid, **server)
    assert set(held.clients) == set(by_hand)
    gone = held.clients[2]
    after = read(held.forget([gone], arrays))
    for name in TRAINED:
        expected = before[name].astype(np.float64) - by_hand[gone][name]
        np.testing.assert_allclose(
            after[name], expected, rtol=0, atol=1e-6 * step_of(before)
        )
        rest = sum(row[name] for node, row in by_hand.items() if node != gone)
        np.testing.assert_allclose(
            after[name], INITIAL[name] + rest, rtol=0, atol=1e-6 * step_of(before)
        )
    assert {n: (a.dtype, a.shape) for n, a in after.items()} == {
        n: (a.dtype, a.shape) for n, a in INITIAL.items()
    }


def test_statistics_are_the_mean_of_those_who_stay():
    grid = Watched()
    held, arrays = trained(FedAvg(fraction_evaluate=0.0), grid)
    gone = held.clients[0]
    after = read(held.forget([gone], arrays))
    last = grid.rounds[-1][1]
    stay = {node: found for node, found in last.items() if node != gone}
    total = sum(count for _, count in stay.values())
    for name in ("bn.running_mean", "bn.running_var"):
        mean = sum(local[name] * count for local, count in stay.values()) / total
        np.testing.assert_allclose(after[name], mean, rtol=1e-6)
    # Whole numbers stay such, on the way too, where Flower would send their mean.
    counter = "bn.num_batches_tracked"
    assert grid.rounds[-1][0][counter].dtype == INITIAL[counter].dtype
    mean = sum(local[counter] * count for local, count in stay.values()) / total
    assert after[counter].dtype == INITIAL[counter].dtype
    assert after[counter] == np.rint(mean)
    assert (after["bn.running_var"] >= 1).all()


@settings(max_examples=15, deadline=None)
@given(
    rounds=st.integers(1, 20),
    fraction=st.sampled_from([0.5, 1.0]),
    momentum=st.sampled_from([0.0, 0.7]),
    broken=st.sets(st.tuples(st.integers(0, 3), st.integers(1, 20)), max_size=6),
)
def test_the_identity_holds_with_sampling_and_failures(
    rounds: int, fraction: float, momentum: float, broken: set[tuple[int, int]]
):
    grid = Watched(broken={(k, r) for k, r in broken if k})  # client 0 never fails
    inner = FedAvgM(
        fraction_train=fraction, fraction_evaluate=0.0, server_momentum=momentum
    )
    held, arrays = trained(inner, grid, rounds=rounds)
    by_hand = contributions(grid, momentum=momentum)
    whole = read(arrays)
    gone = [node for node in held.clients if node in by_hand][:1]
    after = read(held.forget(gone, arrays))
    for name in TRAINED:
        expected = whole[name].astype(np.float64) - by_hand[gone[0]][name]
        bound = 1e-6 * (step_of(whole) + np.abs(whole[name]).max())
        np.testing.assert_allclose(after[name], expected, rtol=0, atol=bound)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_types_come_back_as_they_were(dtype: type):
    initial = {
        name: a.astype(dtype) if a.dtype.kind == "f" else a
        for name, a in INITIAL.items()
    }
    grid = Watched()
    held, arrays = trained(FedAvg(fraction_evaluate=0.0), grid, initial=initial)
    before = read(arrays)
    gone = held.clients[1]
    # What a coarse type rounds in every round is nobody's, and accounted for.
    assert held.ledger.deviation(flat(arrays)) < 1e-7
    after = read(held.forget([gone], arrays))
    assert after["conv.weight"].dtype == dtype
    expected = before["conv.weight"] - contributions(grid)[gone]["conv.weight"]
    np.testing.assert_allclose(
        after["conv.weight"], expected, atol=2e-3 if dtype == np.float16 else 1e-6
    )


# -- going on --------------------------------------------------------------------------


def test_who_was_forgotten_is_asked_no_more_and_nobody_waits_for_them():
    """A strategy that wants all four nodes goes on with three."""
    inner = FedAvg(min_train_nodes=4, min_evaluate_nodes=4, min_available_nodes=4)
    grid = Watched()
    held, arrays = trained(inner, grid)
    gone = held.clients[3]
    after = held.forget([gone], arrays)
    grid.rounds.clear()
    grid.sent.clear()
    result = held.start(grid, after, num_rounds=2)
    assert [sorted(replies) for _, replies in grid.rounds] == [
        sorted(set(held.clients) - {gone})
    ] * 2
    assert grid.asked("evaluate").count(3) == 0
    assert (inner.min_train_nodes, inner.min_available_nodes) == (4, 4), "its owner's"
    # And what comes next is forgotten as before, from the model without the first.
    second = held.clients[0]
    again = read(held.forget([second], result.arrays))
    assert held.forgotten == tuple(sorted([gone, second]))
    rest = contributions(grid)[second]["conv.weight"]
    assert not np.allclose(again["conv.weight"], read(result.arrays)["conv.weight"])
    assert np.abs(rest).max() > 0


def test_a_reply_of_who_was_forgotten_never_enters_an_aggregate():
    grid = Watched()
    held, arrays = trained(FedAvg(fraction_evaluate=0.0), grid)
    gone = held.clients[0]
    after = held.forget([gone], arrays)
    messages = list(held.configure_train(1, after, ConfigRecord(), grid))
    late = Message(messages[0].content, dst_node_id=gone, message_type="train")
    replies = list(grid.send_and_receive([*messages, late]))
    assert gone in {reply.metadata.src_node_id for reply in replies}
    found, _ = held.aggregate_train(1, replies)
    assert found is not None
    _, by_node = grid.rounds[-1]
    stay = {node: local for node, local in by_node.items() if node != gone}
    total = sum(count for _, count in stay.values())
    mean = sum(a["conv.weight"] * count for a, count in stay.values()) / total
    np.testing.assert_allclose(read(found)["conv.weight"], mean, rtol=1e-5)


def test_momentum_goes_on_without_the_forgotten():
    """As if only the others' updates had ever moved it."""
    inner = FedAvgM(fraction_evaluate=0.0, server_momentum=0.9)
    grid = Watched()
    held, arrays = trained(inner, grid, rounds=4)
    gone = held.clients[1]
    before = held.forget([gone], arrays)
    after = held.start(grid, before, num_rounds=1).arrays
    moved = read(after)["conv.weight"] - read(before)["conv.weight"]
    # By hand: buffers of those who stay, decayed, and the mean of the new updates.
    expected, buffers = np.zeros((2, 3, 4)), np.zeros((2, 3, 4))
    for start, replies in grid.rounds[:4]:
        total = sum(count for _, count in replies.values())
        buffers *= 0.9
        for node, (local, count) in replies.items():
            if node != gone:
                buffers += count / total * (local["conv.weight"] - start["conv.weight"])
    start, replies = grid.rounds[4]
    total = sum(count for _, count in replies.values())
    expected = 0.9 * buffers + sum(
        count / total * (local["conv.weight"] - start["conv.weight"])
        for local, count in replies.values()
    )
    np.testing.assert_allclose(moved, expected, atol=1e-6)


def test_a_client_under_two_nodes_is_one_where_it_is_told():
    grid = Watched(clients=2)
    first, second = grid.get_node_ids()
    held, arrays = trained(
        FedAvg(fraction_train=0.5, min_train_nodes=1, fraction_evaluate=0.0),
        grid,
        rounds=8,
        clients={first: 70, second: 70},
    )
    assert held.clients == (70,)
    after = read(held.forget([70], arrays))
    np.testing.assert_allclose(after["conv.weight"], INITIAL["conv.weight"], atol=1e-5)


def test_two_nodes_of_a_client_in_one_round_are_one_row():
    grid = Watched()
    one, two, *others = grid.get_node_ids()
    held, arrays = trained(
        FedAvg(fraction_evaluate=0.0), grid, clients={one: 70, two: 70}
    )
    assert held.clients == (70, *sorted(others))
    by_hand = contributions(grid)
    before, after = read(arrays), read(held.forget([70], arrays))
    for name in TRAINED:
        expected = before[name] - by_hand[one][name] - by_hand[two][name]
        np.testing.assert_allclose(after[name], expected, atol=1e-6)
    last = [grid.rounds[-1][1][node] for node in others]
    total = sum(count for _, count in last)
    mean = sum(local["bn.num_batches_tracked"] * count for local, count in last) / total
    assert after["bn.num_batches_tracked"] == np.rint(mean)


def test_a_metric_says_who_a_node_is_once():
    """Whatever it says later; and what is no whole number is no client."""
    grid = Watched()
    held, arrays = trained(FedAvg(fraction_evaluate=0.0), grid, clients="place")
    assert held.clients == (100, 101, 102, grid.get_node_ids()[3])
    held.forget([101], arrays)
    grid.rounds.clear()
    held.start(grid, held.arrays, num_rounds=1)
    assert len(grid.rounds[0][1]) == 3
    assert grid.get_node_ids()[1] not in grid.rounds[0][1]


def test_a_client_that_joins_later_has_a_row():
    grid = Watched(clients=3)
    late = grid.get_node_ids()[-1]
    context = grid.contexts.pop(late)
    inner = FedAvg(min_train_nodes=1, min_available_nodes=1, fraction_evaluate=0.0)
    held, arrays = trained(inner, grid)
    assert late not in held.clients
    grid.contexts[late] = context
    arrays = held.start(grid, arrays, num_rounds=2).arrays
    assert late in held.clients
    before, after = read(arrays), read(held.forget([late], arrays))
    np.testing.assert_allclose(
        after["conv.weight"],
        before["conv.weight"] - contributions(grid)[late]["conv.weight"],
        atol=1e-6,
    )


def test_the_hooks_of_the_inner_strategy_are_called_with_their_arguments():
    asked: list[str] = []

    def metrics(records: list[Records], key: str) -> MetricRecord:
        asked.append(key)
        return MetricRecord({"seen": len(records)})

    inner = FedAvg(train_metrics_aggr_fn=metrics, weighted_by_key="num-examples")
    held = Forgettable(inner)
    seen: list[int] = []

    def evaluate_fn(number: int, arrays: ArrayRecord) -> MetricRecord:
        seen.append(number)
        return MetricRecord({"accuracy": 0.25})

    result = held.start(
        grid=Watched(),
        initial_arrays=written(INITIAL),
        num_rounds=2,
        train_config=ConfigRecord({"lr": 0.1}),
        evaluate_fn=evaluate_fn,
    )
    assert asked == ["num-examples"] * 2
    assert result.train_metrics_clientapp[2]["seen"] == 4
    assert result.evaluate_metrics_clientapp[1]["accuracy"] == 0.5
    assert seen == [0, 1, 2]


# -- files -----------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_what_is_loaded_goes_on_as_what_was_saved(momentum: float, tmp_path: Path):
    """Two rounds more give the same model, and then forgetting the same again."""
    models = []
    for again in (False, True):
        grid = Watched()
        inner = FedAvgM(fraction_evaluate=0.0, server_momentum=momentum)
        held, arrays = trained(inner, grid)
        gone, other = held.clients[:2]
        arrays = held.forget([gone], arrays)
        if again:
            held.save(tmp_path)
            inner = FedAvgM(fraction_evaluate=0.0, server_momentum=momentum)
            held = Forgettable.load(tmp_path, inner)
            for name, array in read(held.arrays).items():
                np.testing.assert_allclose(array, read(arrays)[name], atol=1e-6)
            arrays = held.arrays
        assert held.forgotten == (gone,)
        arrays = held.start(grid, arrays, num_rounds=2).arrays
        assert gone not in grid.rounds[-1][1]
        models.append(read(held.forget([other], arrays)))
    for name in INITIAL:
        np.testing.assert_allclose(models[0][name], models[1][name], atol=2e-6)


def test_a_kill_while_saving_leaves_the_ledger_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    grid = Watched()
    held, arrays = trained(FedAvg(fraction_evaluate=0.0), grid)
    held.save(tmp_path)
    before = read(Forgettable.load(tmp_path, FedAvg()).arrays)
    held.forget([held.clients[0]], arrays)
    for name in ("write_tensors", "write_bytes"):
        with monkeypatch.context() as patch:

            def killed(*_: object, **__: object) -> None:
                raise KeyboardInterrupt

            patch.setattr(files, name, killed)
            with pytest.raises(KeyboardInterrupt):
                held.save(tmp_path)
        after = read(Forgettable.load(tmp_path, FedAvg()).arrays)
        assert {n: a.tobytes() for n, a in before.items()} == {
            n: a.tobytes() for n, a in after.items()
        }
    held.save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2, "what is old goes"
    found = Forgettable.load(tmp_path, FedAvg())
    assert found.forgotten == held.forgotten
    assert not any(
        np.allclose(read(found.arrays)[name], before[name]) for name in TRAINED
    )


def test_a_ledger_that_is_not_whole_is_refused(tmp_path: Path):
    held, _ = trained(FedAvg(fraction_evaluate=0.0), Watched())
    with pytest.raises(FedNegError, match="cannot be read"):
        Forgettable.load(tmp_path / "nowhere", FedAvg())
    path = held.save(tmp_path)
    with pytest.raises(FedNegError, match="is of FedAvg, got FedAvgM"):
        Forgettable.load(tmp_path, FedAvgM(server_momentum=0.5))
    (tensors,) = tmp_path.glob("*.safetensors")
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(content)
    with pytest.raises(FedNegError, match="is damaged: its sha256 is another one"):
        Forgettable.load(tmp_path, FedAvg())
    path.write_text(path.read_text().replace('"file": "', '"file": "../'))
    with pytest.raises(FedNegError, match="which is no file beside it"):
        Forgettable.load(tmp_path, FedAvg())
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 9'))
    with pytest.raises(FedNegError, match="it is of schema 9, and this fedneg knows 1"):
        Forgettable.load(tmp_path, FedAvg())


# -- what is refused -------------------------------------------------------------------


class Sometimes(FedAvg):
    """A strategy that is linear for two rounds, and then is not, or diverges."""

    def __init__(self, factor: float) -> None:
        super().__init__(fraction_evaluate=0.0)
        self.factor = factor

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        """Do as FedAvg does, and from the third round on with a factor."""
        arrays, metrics = super().aggregate_train(server_round, replies)
        if server_round > 2:
            arrays = written({n: a * self.factor for n, a in read(arrays).items()})
        return arrays, metrics


@pytest.mark.parametrize(
    ("factor", "said"), [(1.5, "its step in round 3 is off"), (np.nan, "not finite")]
)
def test_what_is_refused_late_loses_nothing_of_the_ledger(factor: float, said: str):
    """The model of the round before is there, and can still forget."""
    grid = Watched()
    held = Forgettable(Sometimes(factor))
    with pytest.raises(FedNegError, match=said):
        held.start(grid, written(INITIAL), num_rounds=4)
    assert len(grid.rounds) == 3
    handed_out = grid.rounds.pop()[0]
    gone = held.clients[1]
    after = read(held.forget([gone]))
    for name in TRAINED:
        expected = handed_out[name] - contributions(grid)[gone][name]
        np.testing.assert_allclose(after[name], expected, atol=1e-6)


def test_mistakes_are_lines():
    grid = Watched()
    held, arrays = trained(FedAvg(fraction_evaluate=0.0), grid)
    other = written({n: a + 1 for n, a in read(arrays).items()})
    gone = held.clients[0]
    cases = [
        (lambda: Forgettable(3), "wraps a flwr.serverapp.strategy.Strategy, got int"),
        (lambda: Forgettable(FedAvg()).forget([1]), "nobody has trained yet"),
        (lambda: held.forget([]), "needs at least one client id, got none"),
        (lambda: held.forget([5]), "client 5 took part in no round"),
        (lambda: held.forget([gone], other), "not those that the ledger stands for"),
        (lambda: held.forget([gone], scale=0), "scale must be a number"),
        (lambda: held.start(grid, other), "not those that the ledger stands for"),
        (
            lambda: held.start(grid, written({"conv.weight": np.zeros(2)})),
            "array bn.num_batches_tracked is not in the record",
        ),
    ]
    for call, said in cases:
        with pytest.raises(FedNegError, match=said):
            call()
    held.forget([gone], arrays)
    with pytest.raises(FedNegError, match=f"client {gone} was forgotten before"):
        held.forget([gone])
    held.reset()
    held.start(grid, other, num_rounds=1)
    assert gone not in held.clients


class Stubborn(FedAvg):
    """A strategy that runs its rounds itself."""

    def start(self, *arguments: Any, **more: Any) -> Any:
        """Do nothing, its own way."""


def test_a_strategy_with_a_start_of_its_own_cannot_be_watched():
    with pytest.raises(FedNegError, match=r"Stubborn has a start\(\) of its own"):
        Forgettable(Stubborn())


def test_nothing_in_it_imports_torch():
    code = "import sys; from fedneg import Forgettable; print('torch' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert found.stdout == "False\n"
