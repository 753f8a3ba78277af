"""The ledger: by hand, and its identity after whatever may happen."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedneg.core.parameters import Vector
from fedneg.ledger.ledger import TOLERANCE, Ledger
from fedneg.ledger.steps import Step


def vector(*values: float) -> Vector:
    """Return a float32 vector."""
    return np.array(values, dtype=np.float32)


def two_rounds(learning_rate: float = 1.0) -> tuple[Ledger, Vector]:
    """Record two rounds with unequal weights and different clients."""
    ledger = Ledger(vector(0, 0), clients=4, learning_rate=learning_rate)
    first = ledger.record(
        1, vector(0, 0), {0: vector(4, 0), 1: vector(0, 8)}, {0: 1, 1: 3}
    )
    second = ledger.record(
        2, first, {1: first + vector(0, 4), 2: first + vector(4, 0)}, {1: 3, 2: 1}
    )
    return ledger, second


def test_contributions_are_weighted_updates_by_hand():
    """Contributions add up over rounds, and with the initial model to the global one.

    Round 1, weights 1/4 and 3/4: client 0 gives [4, 0] / 4 = [1, 0], client 1 gives
    3/4 * [0, 8] = [0, 6]; global [1, 6]. Round 2: client 1 gives 3/4 * [0, 4] = [0, 3],
    client 2 gives 1/4 * [4, 0] = [1, 0]; global [2, 9]. Client 3 never took part.
    """
    ledger, after = two_rounds()
    assert after.tolist() == [2, 9]
    assert ledger.contributions.tolist() == [[1, 0], [0, 9], [1, 0], [0, 0]]
    assert ledger.contribution([2, 1]).tolist() == [1, 9]
    assert ledger.rebuilt().tolist() == [2, 9]
    assert ledger.local[1].tolist() == [1, 10]
    assert [p.weights for p in ledger.participation] == [
        {0: 0.25, 1: 0.75},
        {1: 0.75, 2: 0.25},
    ]


def test_weights_are_remembered_per_round_by_hand():
    """Client 1 weighed 3/4 twice, client 2 only 1/4 in round 2, client 3 nothing."""
    ledger, _ = two_rounds()
    assert ledger.weight_per_round([1, 2]) == [0.75, 1.0]
    assert [ledger.last_weight(k) for k in range(4)] == [0.25, 0.75, 0.25, 0.0]


def test_server_learning_rate_scales_contributions_by_hand():
    """At rate 1/2 the same updates move the model by half: [0.5, 3], then [1, 4.5]."""
    ledger, after = two_rounds(learning_rate=0.5)
    assert after.tolist() == [1, 4.5]
    assert ledger.contributions.tolist() == [[0.5, 0], [0, 4.5], [0.5, 0], [0, 0]]


def test_momentum_rows_advance_without_their_clients_by_hand():
    """Momentum 1/2, rate 2, one number, and client 0 absent from round 2.

    Round 1: only client 0, update 4: row 4, contribution 2 * 4 = 8, global 8.
    Round 2: only client 1, update 2: rows 2 and 2; contributions 8 + 4 = 12 and 4;
    global 8 + 2 * (2 + 2) = 16.
    """
    ledger = Ledger(vector(0), clients=2, learning_rate=2.0, momentum=0.5)
    first = ledger.record(1, vector(0), {0: vector(4)}, {0: 7})
    second = ledger.record(2, first, {1: first + 2}, {1: 1})
    assert (first.tolist(), second.tolist()) == ([8], [16])
    assert ledger.buffers is not None
    assert ledger.buffers.tolist() == [[2], [2]]
    assert ledger.contributions.tolist() == [[12], [4]]


def test_a_round_in_parts_has_a_gain_for_each_parameter_by_hand():
    """Momentum 1/2, two numbers, gains 1 and 10, then 2 and 0; client 0 absent later.

    Round 1: parts (4, 1) and (0, 2): rows as they are; contributions (4, 10) and
    (0, 20), global (4, 30). Round 2: only client 1, part (1, 1): rows (2, .5) and
    (1, 2); contributions grow by (4, 0) and (2, 0), global (10, 30).
    """
    ledger = Ledger(vector(0, 0), clients=2, momentum=0.5)
    parts = {0: vector(4, 1), 1: vector(0, 2)}
    step = Step(parts, {0: 0.75, 1: 0.25}, gain=vector(1, 10))
    after = ledger.enter(1, vector(0, 0), step)
    assert after.tolist() == [4, 30]
    step = Step({1: vector(1, 1)}, {1: 1.0}, gain=vector(2, 0))
    after = ledger.enter(2, after, step)
    assert after.tolist() == [10, 30]
    assert ledger.buffers is not None
    assert ledger.buffers.tolist() == [[2, 0.5], [1, 2]]
    assert ledger.contributions.tolist() == [[8, 10], [2, 20]]
    assert [entry.weights for entry in ledger.participation] == [
        {0: 0.75, 1: 0.25},
        {1: 1.0},
    ]
    np.testing.assert_array_equal(ledger.rebuilt(), after)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_empty_round_touches_nothing(momentum: float):
    ledger = Ledger(vector(1), clients=2, momentum=momentum)
    after = ledger.record(1, vector(1), {0: vector(5)}, {0: 1})
    rows = ledger.contributions.copy()
    buffers = None if ledger.buffers is None else ledger.buffers.copy()
    assert ledger.record(2, after, {}, {}) is after
    np.testing.assert_array_equal(ledger.contributions, rows)
    assert len(ledger.participation) == 1
    if buffers is not None:
        np.testing.assert_array_equal(ledger.buffers, buffers)


def test_forgetting_zeroes_row_and_momentum_by_hand():
    """Client 0 put 4 in and client 1 two; taking 3 of the 4 away leaves 1 to correct.

    Momentum 1/2: round 1, only client 0, update 4: row 4. Round 2, only client 1,
    update 2: rows 2 and 2, contributions 6 and 2, global 8. A method that goes from 8
    to 5 took 3 although the row holds 6: correction 5 - 8 + 6 = 3. Round 3, only client
    1, no update: rows 0 and 1, global 6, nothing of client 0 comes back.
    """
    ledger = Ledger(vector(0), clients=2, momentum=0.5)
    model = ledger.record(1, vector(0), {0: vector(4)}, {0: 1})
    model = ledger.record(2, model, {1: model + 2}, {1: 1})
    assert model.tolist() == [8]
    ledger.forget([0], before=model, after=vector(5))
    assert ledger.buffers is not None
    assert ledger.buffers.tolist() == [[0], [2]]
    assert ledger.contributions.tolist() == [[0], [2]]
    assert ledger.correction.tolist() == [3]
    assert 0 not in ledger.local
    assert ledger.record(3, vector(5), {1: vector(5)}, {1: 1}).tolist() == [6]
    assert ledger.contributions.tolist() == [[0], [3]]
    assert ledger.rebuilt().tolist() == [6]


rounds = st.dictionaries(st.integers(0, 4), st.integers(1, 1000), max_size=5)
forgettings = st.tuples(st.integers(0, 4), st.floats(0, 2))


@given(
    st.lists(rounds | forgettings, max_size=12),
    st.sampled_from([0.0, 0.5, 0.9]),
    st.sampled_from([0.3, 1.0, 1.5]),
    st.integers(0, 2**32 - 1),
)
def test_global_is_initial_plus_contributions_plus_correction(
    steps: list[dict[int, int] | tuple[int, float]],
    momentum: float,
    learning_rate: float,
    seed: int,
):
    """float32 rounds each of the sums to 2**-24 of the largest number around."""
    rng = np.random.default_rng(seed)
    model = rng.normal(size=6).astype(np.float32)
    ledger = Ledger(model, clients=5, learning_rate=learning_rate, momentum=momentum)
    largest = 1.0
    for number, step in enumerate(steps, 1):
        if isinstance(step, dict):
            local = {k: model + rng.normal(size=6).astype(np.float32) for k in step}
            model = ledger.record(number, model, local, step)
        else:
            client_id, scale = step
            row = ledger.contributions[client_id]
            after = (model - np.float32(scale) * row).astype(np.float32)
            ledger.forget([client_id], before=model, after=after)
            model = after
            assert not ledger.contributions[client_id].any()
        rows = [ledger.contributions, ledger.correction, model]
        largest = max(largest, *(float(np.abs(a).max()) for a in rows))
        np.testing.assert_allclose(
            ledger.rebuilt(), model, rtol=0, atol=len(steps) * 5 * largest * 2.0**-23
        )


@given(st.permutations(range(5)), st.sampled_from([0.0, 0.9]))
def test_mean_does_not_depend_on_who_answers_first(order: list[int], momentum: float):
    """Numbers that cancel: (1e20 + 1) - 1e20 is 0 in float64, (1e20 - 1e20) + 1 is 1.

    Random ones would not do: rounding to float32 hides the order of a float64 sum.
    """
    local = {k: vector(v) for k, v in enumerate((1e20, 1, -1e20, 7, 3e10))}
    found = []
    for ids in (range(5), order):
        ledger = Ledger(vector(0), clients=5, momentum=momentum)
        after = ledger.record(
            1, ledger.initial, {k: local[k] for k in ids}, dict.fromkeys(ids, 2)
        )
        found.append((after.tobytes(), ledger.contributions.tobytes()))
    assert found[0] == found[1]


def test_ledger_size_does_not_grow_with_rounds():
    ledger = Ledger(np.zeros(10, np.float32), clients=3, momentum=0.5)
    sizes = []
    for number in range(1, 6):
        local = {k: np.full(10, number, np.float32) for k in range(3)}
        ledger.record(number, ledger.initial, local, dict.fromkeys(range(3), 1))
        sizes.append(ledger.num_bytes)
    # Rows, momentum rows and last local models of 3 clients, and the correction.
    assert sizes == [(3 * 3 + 1) * 10 * 4] * 5


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_rounding_stays_far_below_what_a_restore_tolerates(momentum: float):
    """Three hundred rounds, clients that come and go; one row less is far above."""
    draw = np.random.default_rng(0)
    model = draw.normal(0, 0.05, 3000).astype(np.float32)
    ledger = Ledger(model, clients=5, momentum=momentum, keep_local=False)
    for number in range(1, 301):
        there = [k for k in range(5) if draw.random() < 0.7]
        sent = {k: model + draw.normal(0, 0.01, 3000).astype(np.float32) for k in there}
        model = ledger.record(number, model, sent, dict.fromkeys(there, 1))
    assert 0 < ledger.deviation(model) < TOLERANCE / 10
    ledger.contributions[3] = 0
    assert ledger.deviation(model) > 1000 * TOLERANCE


def test_a_model_that_diverged_tells_nothing_of_its_ledger():
    ledger, after = two_rounds()
    assert ledger.deviation(vector(np.inf, 0)) == 0
    assert ledger.deviation(after) == 0
    assert Ledger(vector(0, 0), clients=1).deviation(vector(0, 0)) == 0
