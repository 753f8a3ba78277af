"""What would not be there: sources by hand, and worlds in which the answer is known."""

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.federations import Answer, Behaviour, Bench, small_config
from builders.networks import initial_parameters
from fedneg.core.assignment import Assignment
from fedneg.core.errors import FedNegError
from fedneg.core.parameters import NDArrays
from fedneg.ledger.bank import DECAYS, Bank, aged, fitted
from fedneg.ledger.ledger import Ledger
from fedneg.strategies.counterfactual import PROBED_PARTS
from fedneg.strategies.sources import (
    Floats,
    factors_of,
    kernel,
    left_in,
    left_of,
    rates_of,
    source_of,
    summands,
)

EXAMPLES = {0: 1, 1: 2, 2: 3, 3: 2}
# Where each client's own data would have the two parameters.
GOALS = {0: [4.0, 0.0], 1: [-9.0, 5.0], 2: [1.0, 8.0], 3: [2.0, 6.0]}


def pulls(client_id: int, rate: float, fails: int | None = None) -> Behaviour:
    """Return a client that goes a share of the way to where it wants to be."""
    goal = np.array(GOALS[client_id])
    calls = []

    def train(arrays: NDArrays, server_round: int) -> Answer:
        calls.append(server_round)
        if fails is not None and len(calls) > fails:
            raise RuntimeError("it is gone")
        moved = arrays[0] + rate * (goal - arrays[0])
        return [moved.astype(np.float32)], EXAMPLES[client_id]

    return train


def bench(
    *options: str,
    rate: float = 0.4,
    fails: int | None = None,
    also: Mapping[int, Behaviour] | None = None,
) -> Bench:
    """Return four clients, untrained; the model has one row of two parameters."""
    config = small_config(
        *("clients=4", "forget=null", "rounds=3", "strategy=counterfactual"), *options
    )
    behaviours = {k: pulls(k, rate, None if k == 1 else fails) for k in EXAMPLES}
    behaviours |= also or {}
    return Bench(config, [np.array([10.0, -3.0], np.float32)], behaviours)


def retrained(leave: tuple[int, ...], rounds: int, rate: float = 0.4) -> np.ndarray:
    """Return the model without the clients, by FedAvg as it is printed."""
    model = np.array([10.0, -3.0])
    stay = [k for k in EXAMPLES if k not in leave]
    total = sum(EXAMPLES[k] for k in stay)
    for _ in range(rounds):
        step = [EXAMPLES[k] / total * rate * (GOALS[k] - model) for k in stay]
        model = model + sum(step)
    return model


@pytest.mark.parametrize("leave", [(1,), (1, 3)])
@pytest.mark.parametrize("rate", [0.1, 0.4, 0.8])
def test_where_all_push_back_alike_it_is_the_retrained_model(
    leave: tuple[int, ...], rate: float
):
    """Two rounds are corrected and the third is run again: nothing is approximate."""
    made = bench(rate=rate)
    made.train(3)
    after = made.unlearn(*leave)
    np.testing.assert_allclose(after, retrained(leave, 3, rate), rtol=2e-5)
    rates = made.strategy.method_report["rates"]
    assert rates == pytest.approx({"min": rate, "mean": rate, "max": rate}, rel=1e-4)


def test_the_model_to_start_from_is_the_retrained_one_of_a_round_before():
    made = bench()
    made.train(3)
    made.unlearn(1)
    np.testing.assert_allclose(made.after[-2], retrained((1,), 2), rtol=2e-5)


def test_without_a_probe_the_rate_is_the_option():
    made = bench("strategy.probe=0", "strategy.rate=0.4")
    made.train(3)
    np.testing.assert_allclose(made.unlearn(1), retrained((1,), 3), rtol=2e-5)
    assert made.strategy.unlearn_rounds(made.config) == 1
    other = bench("strategy.probe=0", "strategy.rate=0.1")
    other.train(3)
    assert np.abs(other.unlearn(1) - retrained((1,), 3)).max() > 0.05


def test_two_rounds_again():
    made = bench("strategy.rewind=2")
    made.train(3)
    np.testing.assert_allclose(made.unlearn(1), retrained((1,), 3), rtol=2e-5)
    assert [r.clients for r in made.strategy.reports[3:]] == [3, 3, 3]


def test_all_rounds_again_is_retraining():
    made = bench("strategy.rewind=3", "strategy.probe=0")
    made.train(3)
    np.testing.assert_allclose(made.unlearn(1), retrained((1,), 3), rtol=2e-5)


def test_after_a_probe_that_nobody_answered_it_goes_on_with_the_option():
    """Those who stay fail in the probe, and so in all rounds after it."""
    made = bench(fails=3)
    made.train(3)
    after = made.unlearn(1)
    model, sources = np.array([10.0, -3.0]), []
    for _ in range(2):
        updates = {k: np.float32(0.4 * (GOALS[k] - model)) for k in EXAMPLES}
        shares = {k: n / 8 for k, n in EXAMPLES.items()}
        sources.append(source_of(updates, shares, (1,)))
        model = model + sum(shares[k] * updates[k] for k in EXAMPLES)
    expected = model - left_of(sources, np.full(2, 0.3))
    np.testing.assert_allclose(after, expected, rtol=1e-5)
    assert made.strategy.method_report["probed"] == []
    np.testing.assert_allclose(made.strategy.ledger.rebuilt(), after, rtol=1e-5)


def test_the_ledger_stands_for_the_model_and_knows_who_stays():
    """Whoever is forgotten next owns no part of a round that was run again."""
    made = bench()
    made.train(3)
    after = made.unlearn(1)
    ledger = made.strategy.ledger
    np.testing.assert_allclose(ledger.rebuilt(), after, rtol=1e-5)
    assert not ledger.contributions[1].any()
    assert [sorted(p.weights) for p in ledger.participation] == [
        [0, 2, 3],
        [0, 2, 3],
        [0, 2, 3],
    ]
    start = made.after[-2]
    last = 3 / 6 * 0.4 * (GOALS[2] - start)  # of the round that was run again
    first, second = [10.0, -3.0], made.after[0]
    own = [3 / 8 * 0.4 * (GOALS[2] - np.array(w)) for w in (first, second)]
    np.testing.assert_allclose(ledger.contributions[2], sum(own) + last, rtol=1e-4)


def test_a_source_by_hand():
    """With p = 2/8 + 2/8; u = ([8,0] + [0,4]) / 2, 8 dw = 2 [8,0] + 3 [2,2] + 2 [0,4].

    Half of the weight: p / (1 - p) = 1, so s = [4, 2] - [2.75, 1.75].
    """
    updates = {1: [8, 0], 2: [2, 2], 3: [0, 4], 0: [0, 0]}
    weights = {0: 1 / 8, 1: 2 / 8, 2: 3 / 8, 3: 2 / 8}
    found = source_of(
        {k: np.array(u, np.float32) for k, u in updates.items()}, weights, (1, 3)
    )
    np.testing.assert_allclose(found, [1.25, 0.25])


def test_who_had_no_part_in_a_round_brought_nothing_in():
    updates = {0: np.ones(3, np.float32), 2: np.full(3, 5, np.float32)}
    assert not source_of(updates, {0: 0.25, 2: 0.75}, (1,)).any()


def test_alone_in_a_round_it_brought_in_the_step():
    found = source_of({1: np.full(2, 3, np.float32)}, {1: 1.0}, (1,))
    assert found.tolist() == [3, 3]


def test_rates_by_hand_per_unit():
    taken = np.array([1.0, 2.0, 3.0, 0.0, 1.0])
    back = np.array([0.5, 1.0, -3.0, 7.0, 9.0])
    units = np.array([0, 0, 1, 2, 3])
    assert rates_of(taken, back, units).tolist() == [0.5, 0.0, 0.0, 0.95]


def test_what_is_left_by_hand():
    """With g = 1 / .25 - 1 = 3: ages 0, 1, 2 leave 1, 1/2 and 1/sqrt(7)."""
    sources = [np.array([7.0**0.5]), np.array([2.0]), np.array([1.0])]
    assert left_of(sources, np.array([0.5]), 0.5).tolist() == pytest.approx([3.0])


@given(
    rates=st.lists(st.floats(0, 0.95), min_size=1, max_size=6),
    rounds=st.integers(1, 12),
)
def test_no_more_is_left_than_was_brought_in_and_less_the_faster_it_goes(
    rates: list[float], rounds: int
):
    source = np.ones(len(rates))
    found = left_of([source] * rounds, np.array(rates))
    assert (found >= 1 - 1e-9).all()
    assert (found <= rounds + 1e-9).all()
    order = np.argsort(rates)
    assert (np.diff(found[order]) <= 1e-9).all()


def bends(near: float, beyond: float, at: float) -> Behaviour:
    """Return a client that wants 0, and pulls otherwise below a place."""

    def train(arrays: NDArrays, server_round: int) -> Answer:
        return [arrays[0] + bent(arrays[0], near, beyond, at)], 2

    return train


def bent(model: np.ndarray, near: float, beyond: float, at: float = 0) -> np.ndarray:
    """Return the update of `bends`: at a rate of `beyond` where it is below `at`."""
    return -near * np.maximum(model, at) - beyond * np.minimum(model - at, 0)


PUSH = np.array([6.0, 2.0], np.float32)
TWICE = ("strategy.probes=2", "strategy.probe=0.2")


def pushes(arrays: NDArrays, server_round: int) -> Answer:
    """Train the leaving client: always the same way."""
    return [arrays[0] + PUSH], 2


@pytest.mark.parametrize(
    ("near", "beyond", "at", "told"),
    [(0.5, 0.0, 0.0, "small"), (0.2, 0.9, 8.0, "whole")],
)
def test_of_two_probes_the_larger_counts_as_by_the_history(
    near: float, beyond: float, at: float, told: str
):
    """Beyond 0 nobody pushes: in the small a = near. Or they push more: as a whole."""
    also = {k: bends(near, beyond, at) for k in (0, 2, 3)} | {1: pushes}
    made = bench("rounds=6", *TWICE, also=also)
    made.train(6)
    made.unlearn(1)
    model, sources = np.array([10.0, -3.0]), []
    for _ in range(5):
        updates = {k: np.float32(bent(model, near, beyond, at)) for k in (0, 2, 3)}
        updates[1] = PUSH
        shares = dict.fromkeys(range(4), 0.25)
        sources.append(source_of(updates, shares, (1,)))
        model = model + sum(0.25 * u for u in updates.values())
    taken_out = left_of(sources, np.full(2, 0.3))
    rates = {}
    for name, part in (("whole", taken_out), ("small", 0.1 * taken_out)):
        response = bent(model - part, near, beyond, at) - bent(model, near, beyond, at)
        rates[name] = part @ response / (part @ part)
    assert rates[told] == max(rates.values()) > 1.02 * min(rates.values())
    found = made.strategy.method_report["rates"]
    assert found["max"] == pytest.approx(rates[told], rel=1e-4)
    expected = model - left_of(sources, np.full(2, rates[told]))
    np.testing.assert_allclose(made.after[-2], expected, rtol=1e-4)


def test_two_probes_by_hand():
    """Others stop at 0 where w = 3, D = 4: 1/2 of 3 of the 4 comes back; of .4, 1/2."""
    model, taken_out, unit = np.array([3.0]), np.array([4.0]), np.zeros(1, np.intp)
    rates = []
    for share in PROBED_PARTS:
        part = share * taken_out
        response = bent(model - part, 0.5, 0) - bent(model, 0.5, 0)
        rates.append(rates_of(part, response, unit)[0])
    assert rates == pytest.approx([3 / 8, 1 / 2])


@pytest.mark.parametrize("fails", [4, 5])
def test_of_two_probes_one_is_enough(fails: int):
    """Those who are probed fail in the first or in the second, and in no other."""

    def once(client_id: int) -> Behaviour:
        pull, calls = pulls(client_id, 0.4), list[int]()

        def train(arrays: NDArrays, server_round: int) -> Answer:
            calls.append(server_round)
            if len(calls) == fails:
                raise RuntimeError("it is gone")
            return pull(arrays, server_round)

        return train

    made = bench(*TWICE, also={0: once(0), 2: once(2)})
    made.train(3)
    after = made.unlearn(1)
    assert [r.clients for r in made.strategy.reports[3:]].count(0) == 1
    np.testing.assert_allclose(made.after[-2], retrained((1,), 2), rtol=2e-5)
    np.testing.assert_allclose(after, retrained((1,), 3), rtol=2e-5)
    np.testing.assert_allclose(made.strategy.ledger.rebuilt(), after, rtol=1e-5)


def test_forgotten_one_after_the_other_is_as_if_neither_had_been_there():
    made = bench()
    made.train(3)
    made.unlearn(1)
    np.testing.assert_allclose(made.unlearn(3), retrained((1, 3), 3), rtol=2e-5)


@pytest.mark.parametrize("rate", [0.1, 0.8])
def test_a_round_again_with_those_who_are_probed_alone(rate: float):
    """Two of three, twice; where all push back alike the third does as they do."""
    made = bench("strategy.again=probed", "strategy.probe=0.33", rate=rate)
    made.train(3)
    after = made.unlearn(1)
    np.testing.assert_allclose(after, retrained((1,), 3, rate), rtol=2e-5)
    assert [r.clients for r in made.strategy.reports[3:]] == [2, 2]
    ledger = made.strategy.ledger
    np.testing.assert_allclose(ledger.rebuilt(), after, rtol=1e-5)
    assert sorted(ledger.participation[-1].weights) == [0, 2, 3]
    # What was not asked for is entered as what was computed.
    assert ledger.bank.update_of(1, 3) == pytest.approx(
        rate * (GOALS[3] - made.after[-2]), rel=1e-3
    )
    np.testing.assert_allclose(made.unlearn(3), retrained((1, 3), 3, rate), rtol=2e-5)


def test_who_was_not_asked_changes_as_the_others_do_by_hand():
    """Client 3 pulls the other way; it changes as 0 and 2 do, by (.4 + 3 * .2) / 4.

    Of how far the model is from where the training's round began.
    """
    also = {3: pulls(3, -1), 2: pulls(2, 0.2)}
    made = bench("strategy.again=probed", "strategy.probe=0.33", also=also)
    made.train(2)
    before_last = made.after[0]
    made.unlearn(1)
    start, bank = made.after[-2], made.strategy.ledger.bank
    then = -1 * (GOALS[3] - before_last)
    expected = then + 0.25 * (before_last - start)
    np.testing.assert_allclose(bank.update_of(1, 3), expected, rtol=1e-3)
    own = 0.4 * (GOALS[0] - start)
    np.testing.assert_allclose(bank.update_of(1, 0), own, rtol=1e-3)


def test_a_smaller_power_leaves_more_of_what_is_old():
    """With a = 1/2 and q = 1/4, g = 15: after a round 1/2, after two 31^(-1/4)."""
    found = kernel(np.array([0.5]), 3, power=0.25)[:, 0]
    assert found.tolist() == pytest.approx([1, 0.5, 31**-0.25])
    assert found[2] > kernel(np.array([0.5]), 3, 0.5)[2, 0] == pytest.approx(7**-0.5)
    assert left_of([np.array([1.0])] * 3, np.array([0.5]), 0.25) == pytest.approx(
        found.sum()
    )


def test_the_power_is_the_methods():
    made, other = (bench(f"strategy.power={q}", "rounds=4") for q in (0.5, 0.2))
    for one in (made, other):
        one.train(4)
        one.unlearn(1)
    assert np.abs(made.model - other.model).max() > 1e-3


def test_a_round_that_was_run_again_has_its_batches_the_next_time_too():
    told: list[int] = []

    def train(arrays: NDArrays, server_round: int) -> Answer:
        told.append(server_round)
        return pulls(0, 0.4)(arrays, server_round)

    made = bench(also={0: train})
    made.train(3)
    made.unlearn(1)
    made.unlearn(3)
    assert told == [1, 2, 3, *(3, 3), *(3, 3)]


def banked(
    rounds: int, fraction: float, clients: int = 20, seed: int = 5
) -> tuple[Ledger, list[Floats]]:
    """Return a ledger with a bank after random rounds, and the sources of 1 and 2."""
    size = 40
    rng, sources = np.random.default_rng(seed), []
    bank = Bank(1, clients=clients, size=size)
    ledger = Ledger(
        np.zeros(size, np.float32), clients=clients, learning_rate=0.7, bank=bank
    )
    # Where each client goes, all together, and by chance: less and less.
    own, together = rng.normal(size=(clients, size)), rng.normal(size=size)
    model = ledger.initial
    for server_round in range(1, rounds + 2):
        count = round(fraction * clients)
        there = [int(k) for k in sorted(rng.choice(clients, count, replace=False))]
        moved = own[there] + together + 0.5 * rng.normal(size=(count, size))
        moved = (0.85**server_round * moved).astype(np.float32)
        local = {k: model + one for k, one in zip(there, moved, strict=True)}
        updates = {k: v - model for k, v in local.items()}
        norms = {k: (float(np.linalg.norm(u)),) for k, u in updates.items()}
        examples = {k: k + 1.0 for k in there}
        model = ledger.record(server_round, model, local, examples, norms)
        weights = ledger.participation[-1].weights
        sources.append(0.7 * source_of(updates, weights, (1, 2)))
    # The last round is whole: out with it.
    for k, weight in ledger.participation.pop().weights.items():
        ledger.contributions[k] -= np.float32(0.7 * weight) * bank.update_of(1, k)
    bank.undo()
    return ledger, sources[:-1]


def lost(rounds: int, fraction: float, rate: float, **more: int) -> float:
    """Return how far what a bank gives is from what the history gives."""
    ledger, sources = banked(rounds, fraction, **more)
    expected = left_of(sources, np.full(40, rate))
    found = left_in(summands(ledger, (1, 2)), np.array([rate]), np.zeros(40, np.intp))
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize(("rounds", "bound"), [(1, 1e-5), (5, 1e-5), (30, 0.002)])
@pytest.mark.parametrize("rate", [0.0, 0.3, 0.95])
def test_a_bank_loses_nothing_of_the_history(rounds: int, bound: float, rate: float):
    """To rounding where there are as many sums as rounds; else of what was measured."""
    assert lost(rounds, 1.0, rate) < bound


@pytest.mark.parametrize("place", range(len(DECAYS) + 1))
def test_where_sources_age_as_the_bank_does_nothing_is_lost(place: int):
    ledger, sources = banked(30, fraction=1.0)
    ages = aged(np.arange(30))[:, place]
    expected = sum(a * s for a, s in zip(ages, reversed(sources), strict=True))
    found = np.zeros(40)
    for one in summands(ledger, (1, 2)):
        shares = fitted((ages * one.factors)[:, None], one.sizes)[:, 0]
        found += sum(s * row for s, row in zip(shares, one.sums, strict=True))
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.6])
def test_of_rounds_with_half_of_the_clients_a_bank_loses_a_little(rate: float):
    assert 0.01 < lost(20, 0.5, rate) < 0.12


@pytest.mark.parametrize(
    ("clients", "fraction", "least", "most"),
    [(10, 0.5, 0.1, 0.2), (20, 0.2, 0.2, 0.4), (5, 0.4, 0.3, 1.1)],
)
def test_the_fewer_train_in_a_round_the_more_a_bank_loses(
    clients: int, fraction: float, least: float, most: float
):
    """Whom a client met in which round is in none of the sums: docs/methods.md."""
    found = [
        lost(30, fraction, 0.3, clients=clients, seed=seed) for seed in range(5, 13)
    ]
    assert least < float(np.median(found)) < most


def test_factors_by_hand():
    """Client 1 has 1/4, then no part, then 1/2 of three quarters, then all.

    Own: 1 / (1 - 1/4), 1 / (3/4 - 1/2). Off: (1/4) / (3/4), (2/3) / (3/4 - 1/2).
    """
    rounds = [{1: 0.25, 2: 0.75}, {2: 1.0}, {1: 0.5, 2: 0.25}, {1: 0.5}]
    own, off = factors_of(rounds, (1,))
    assert own.tolist() == pytest.approx([4 / 3, 1, 4, 2])
    assert off.tolist() == pytest.approx([1 / 3, 0, 8 / 3, 0])


def test_without_a_bank_of_all_rounds_nothing_is_forgotten():
    made = bench()
    made.train(3)
    made.strategy.ledger.bank.rounds = 2
    with pytest.raises(FedNegError, match="has those of 2 of 3 rounds"):
        made.unlearn(1)


def test_real_clients_repeat_their_batches():
    """All rounds again, on the very batches: the model that never had the client."""
    config = small_config(
        *("clients=4", "forget=1", "rounds=2", "strategy=counterfactual"),
        *("strategy.rewind=2", "strategy.probe=0"),
    )
    first = initial_parameters(64, config.model.hidden, 10, seed=0)
    assignment = Assignment.of(config, root=None).to_json()
    made, other = (Bench(config, first, assignment=assignment) for _ in range(2))
    made.train(2)
    made.unlearn(1)
    assert made.failures() == []
    np.testing.assert_allclose(made.strategy.ledger.rebuilt(), made.model, atol=1e-5)
    np.testing.assert_allclose(made.model, other.train(2, (0, 2, 3)), atol=1e-4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("strategy.rewind=0",), "strategy.rewind must be"),
        (("strategy.rewind=4", "rounds=3"), "at most rounds=3, got 4"),
        (("strategy.probe=2",), "strategy.probe must be at most 1"),
        (("strategy.rate=1",), "strategy.rate must be at most 0.95"),
        (("strategy.power=0",), "strategy.power must be at least 0.1"),
        (("strategy.again=some",), "strategy.again must be one of"),
        (
            ("strategy.again=probed", "strategy.probe=0"),
            "needs strategy.probe above 0 and strategy.rewind=1, got 0 and 1",
        ),
        (("strategy.again=probed", "strategy.rewind=2"), "got 0.34 and 2"),
        (("strategy.probes=3",), "strategy.probes must be at most 2, got 3"),
        (("strategy.server_momentum=0.5",), "needs strategy.server_momentum=0"),
    ],
)
def test_options_are_checked(options: tuple[str, ...], said: str):
    with pytest.raises(FedNegError, match=said):
        bench(*options)
