"""A server's moments: what they are after forgetting, from files, and of whom."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideFixedClipping,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    Strategy,
)

from builders.app_lives import Meddled, ask, live, model_of, same
from builders.flower_strategies import ATTRIBUTED, HELD, Case, bound
from builders.lives import receipt_of
from builders.slow_server import Optimiser, by_rank, contributions
from builders.strangers import (
    INITIAL,
    TRAINED,
    Arrays,
    Watched,
    read,
    trained,
    written,
)
from builders.waiting import PATIENCE_S
from fedneg import Forgettable, NotLinearError

OPTIMISERS = {
    name: (HELD | ATTRIBUTED)[name]
    for name in ("FedAvgM", "FedAdam", "FedYogi", "FedAdagrad")
}
optimisers = pytest.mark.parametrize("case", OPTIMISERS.values(), ids=OPTIMISERS)


def start_over(grid: Watched) -> None:
    """Let a grid keep what comes from now on."""
    grid.rounds.clear()
    grid.numbers.clear()
    grid.failures.clear()


def go_on(held: Forgettable, grid: Watched, rounds: int) -> Arrays:
    """Return the model after so many rounds more."""
    result = held.start(
        grid, initial_arrays=held.arrays, num_rounds=rounds, timeout=PATIENCE_S
    )
    return read(result.arrays)


# -- after forgetting ------------------------------------------------------------------


@optimisers
@pytest.mark.parametrize("is_loaded", [False, True])
def test_what_was_forgotten_never_comes_back_with_the_momentum(
    case: Case, is_loaded: bool, tmp_path: Path
):
    """The rounds after it move by what is left of the rows, and second moments stay."""
    grid, optimiser = Watched(), case.optimiser()
    held, arrays = trained(case.strategy(), grid, 4, case.initial)
    contributions(grid, optimiser=optimiser)
    gone, other = held.clients[1:3]
    after = read(held.forget([gone], arrays))
    del optimiser.rows[gone]
    if is_loaded:
        held.save(tmp_path)
        held = Forgettable.load(tmp_path, case.strategy())
    start_over(grid)
    whole = go_on(held, grid, 3)
    assert gone not in grid.rounds[0][1]
    rows = contributions(grid, optimiser=optimiser)
    for name in TRAINED:
        expected = after[name] + sum(row[name] for row in rows.values())
        limit = bound(whole, *rows.values())
        np.testing.assert_allclose(whole[name], expected, rtol=0, atol=limit)
    # And who is forgotten next leaves with all of its rounds, those before included.
    again = read(held.forget([other]))
    assert held.forgotten == (gone, other)
    assert not np.allclose(again["conv.weight"], whole["conv.weight"], atol=1e-3)
    assert held.ledger is not None
    if held.ledger.buffers is not None:
        places = [held.clients.index(k) for k in (gone, other)]
        assert not held.ledger.buffers[places].any()


def test_the_strategy_itself_has_no_first_moment_of_who_was_forgotten():
    case, grid, optimiser = ATTRIBUTED["FedAdam"], Watched(), Optimiser()
    inner = case.strategy()
    held, arrays = trained(inner, grid, 3, case.initial)
    optimiser = case.optimiser()
    contributions(grid, optimiser=optimiser)
    second = {name: array.copy() for name, array in inner.v_t.items()}
    held.forget([held.clients[0]], arrays)
    del optimiser.rows[held.clients[0]]
    for name in TRAINED:
        expected = sum(row[name] for row in optimiser.rows.values())
        np.testing.assert_allclose(inner.m_t[name], expected, rtol=0, atol=1e-7)
        np.testing.assert_array_equal(inner.v_t[name], second[name])
    # Of running statistics nobody knows whose momentum it is.
    assert not inner.m_t["bn.running_var"].any()


@optimisers
def test_resetting_clears_what_the_strategy_remembers(case: Case):
    """Another training is as with a new strategy."""
    models = []
    for is_first in (True, False):
        held, _ = trained(case.strategy(), Watched(), 0 if is_first else 3)
        held.reset()
        result = held.start(
            Watched(), written(case.initial), num_rounds=2, timeout=PATIENCE_S
        )
        models.append(read(result.arrays))
    for name in TRAINED:
        np.testing.assert_allclose(models[0][name], models[1][name], atol=1e-6)


@pytest.mark.parametrize("method", ["retrain", "compensated"])
def test_a_method_that_trains_anew_has_new_moments(method: str):
    case = ATTRIBUTED["FedAdam"]
    inner = case.strategy()
    held, arrays = trained(inner, Watched(), 3, case.initial, method=method)
    assert "second moments" in held.depends[0]
    held.forget([held.clients[0]], arrays)
    assert (inner.v_t is None) == (method == "retrain")
    assert (held.depends == ()) == (method == "retrain")


# -- whose they are --------------------------------------------------------------------


class Scheduled(FedAdam):
    """Somebody's own: it learns less and less."""

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        """Do as FedAdam does, with another rate."""
        self.eta = 0.1 / server_round
        return super().aggregate_train(server_round, replies)


class Largest(FedAdam):
    """AMSGrad, say: it divides by second moments that it keeps elsewhere."""

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        """Do as FedAdam does, and then put something else beside the result."""
        found = super().aggregate_train(server_round, replies)
        if server_round > 1:
            self.v_t = {n: np.flip(v) + 1e-3 for n, v in self.v_t.items()}
        return found


def test_a_subclass_with_a_rate_of_its_own_works():
    grid, options = Watched(), {"beta_1": 0.5, "beta_2": 0.9, "tau": 1e-3}
    held, arrays = trained(Scheduled(fraction_evaluate=0.0, **options), grid, 4)
    optimiser = Optimiser("adam", momentum=0.5, beta_2=0.9, tau=1e-3)
    by_hand: dict[int, Arrays] = {}
    rounds, numbers = list(grid.rounds), list(grid.numbers)
    for number, whole in zip(numbers, rounds, strict=True):
        start_over(grid)
        grid.rounds, grid.numbers, grid.failures = [whole], [number], [0]
        optimiser.rate = 0.1 / number
        contributions(grid, optimiser=optimiser, found=by_hand)
    gone = held.clients[3]
    whole, after = read(arrays), read(held.forget([gone], arrays))
    for name in TRAINED:
        taken = whole[name] - after[name]
        limit = 10 * bound(whole, *by_hand.values())  # of float32 second moments
        np.testing.assert_allclose(taken, by_hand[gone][name], rtol=0, atol=limit)


def test_a_subclass_that_divides_by_something_else_is_refused_and_put_right():
    inner = Largest(fraction_evaluate=0.0)
    grid, held = Watched(), Forgettable(inner)
    with pytest.raises(NotLinearError, match="its step in round 2 is off by"):
        held.start(grid, written(INITIAL), num_rounds=4)
    assert len(grid.rounds) == 2
    # As after round 1: the second never was.
    optimiser = Optimiser("adam", rate=0.1, momentum=0.9, beta_2=0.99, tau=1e-3)
    grid.rounds.pop()
    grid.numbers.pop()
    grid.failures.pop()
    by_hand = contributions(grid, optimiser=optimiser)
    assert set(held.clients) == set(by_hand)
    assert inner.m_t is not None
    assert inner.v_t is not None
    for name in TRAINED:
        momentum = sum(row[name] for row in optimiser.rows.values())
        np.testing.assert_allclose(inner.m_t[name], momentum, rtol=0, atol=1e-6)
        np.testing.assert_allclose(
            inner.v_t[name], optimiser.second[name], rtol=1e-4, atol=1e-9
        )


@pytest.mark.parametrize(
    ("make", "weigh", "optimiser"),
    [
        (FedMedian, by_rank(None), Optimiser),
        (
            ATTRIBUTED["FedAdam"].strategy,
            None,
            ATTRIBUTED["FedAdam"].optimiser,
        ),
    ],
)
def test_nodes_of_one_client_have_one_row(
    make: Callable[..., Strategy], weigh: Any, optimiser: Callable[[], Optimiser]
):
    grid = Watched()
    nodes = {node: node // 2 for node in grid.get_node_ids()}
    initial = ATTRIBUTED["FedAdam"].initial
    held, arrays = trained(make(), grid, 4, initial, clients=nodes)
    more = {} if weigh is None else {"weigh": weigh}
    by_hand = contributions(
        grid, optimiser=optimiser(), client_of=nodes.__getitem__, **more
    )
    assert set(held.clients) == set(by_hand) == {500, 501}
    whole, after = read(arrays), read(held.forget([501], arrays))
    for name in TRAINED:
        limit = bound(whole, *by_hand.values())
        taken = whole[name] - after[name]
        np.testing.assert_allclose(taken, by_hand[501][name], rtol=0, atol=limit)


def test_a_strategy_in_a_wrapper_of_flowers_is_told_that_nobody_waits():
    inner = FedAvgM(
        fraction_evaluate=0.0,
        min_train_nodes=4,
        min_available_nodes=4,
        server_momentum=0.5,
    )
    floats = {n: a for n, a in INITIAL.items() if a.dtype.kind == "f"}
    around = DifferentialPrivacyClientSideFixedClipping(inner, 0.0, 1.0, 4)
    grid = Watched()
    held, arrays = trained(around, grid, 3, floats)
    gone = held.clients[0]
    after = held.forget([gone], arrays)
    assert inner.current_arrays == after
    optimiser = Optimiser(momentum=0.5)
    contributions(grid, optimiser=optimiser)
    del optimiser.rows[gone]
    for name, array in zip(floats, inner.momentum_vector, strict=True):
        if name in TRAINED:
            expected = -sum(row[name] for row in optimiser.rows.values())
            np.testing.assert_allclose(array, expected, rtol=0, atol=1e-6)
    go_on(held, grid, 1)


@pytest.mark.parametrize("name", ["FedAdam", "FedYogi", "FedMedian", "FedTrimmedAvg"])
def test_half_precision_is_entered_and_taken_away(name: str):
    """What a coarse type rounds in every round is nobody's, and accounted for."""
    case, grid = ATTRIBUTED[name], Watched()
    initial = {
        n: a.astype(np.float16) if a.dtype.kind == "f" else a
        for n, a in INITIAL.items()
    }
    held, arrays = trained(case.strategy(), grid, 3, initial)
    gone = held.clients[2]
    before = read(arrays)
    by_hand = case.by_hand(grid)
    after = read(held.forget([gone], arrays))
    assert after["conv.weight"].dtype == np.float16
    taken = before["conv.weight"].astype(np.float64) - after["conv.weight"]
    np.testing.assert_allclose(taken, by_hand[gone]["conv.weight"], atol=2e-2)


class InOrder(Watched):
    """A grid whose nodes answer in their order, by which sums are to the last bit."""

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Send in the order of nodes, too."""
        asked = sorted(messages, key=lambda m: m.metadata.dst_node_id)
        return super().send_and_receive(asked, timeout=timeout)


# -- that last -------------------------------------------------------------------------


@optimisers
def test_a_start_goes_on_to_the_last_bit(case: Case, tmp_path: Path):
    """Moments too: as one start would have."""
    once, twice = tmp_path / "once", tmp_path / "twice"
    _, whole = live(once, 5, InOrder(), case.strategy())
    live(twice, 3, InOrder(), case.strategy())
    _, rest = live(twice, 5, InOrder(), case.strategy())
    assert same(model_of(whole), model_of(rest))


def test_a_receipt_says_what_still_depends_on_the_client(tmp_path: Path):
    state, grid = tmp_path / "state", Meddled()
    grid.during[2] = lambda: ask(state, 101)
    live(state, 4, grid, ATTRIBUTED["FedAdam"].strategy())
    receipt = receipt_of(state, 101)
    (said,) = receipt["done"]["depends"]
    assert "second moments" in said
    assert receipt["purged"]["matches"] == 0
    plain = tmp_path / "plain"
    grid = Meddled()
    grid.during[2] = lambda: ask(plain, 101)
    live(plain, 4, grid, FedAvg(fraction_evaluate=0.0))
    assert "depends" not in receipt_of(plain, 101)["done"]
