"""The paper's method: both forms by hand, and what forgetting must not do."""

import numpy as np
import pytest

from builders.federations import Answer, Behaviour, Bench, small_config
from fedneg.core.errors import FedNegError
from fedneg.core.parameters import NDArrays, add


def moves(*steps: tuple[int, Answer] | None) -> Behaviour:
    """Return a client that in round r adds steps[r - 1] to the model, or is absent."""

    def train(arrays: NDArrays, server_round: int) -> Answer:
        step = steps[min(server_round, len(steps)) - 1]
        if step is None:
            raise RuntimeError("absent")
        num_examples, update = step
        return [arrays[0] + np.array(update, np.float32)], num_examples

    return train


def bench(*overrides: str, behaviours: dict[int, Behaviour], start: float = 1) -> Bench:
    """Return a federation of made-up clients with a model of two numbers."""
    config = small_config(
        f"clients={len(behaviours)}", "forget=null", "rounds=2", *overrides
    )
    return Bench(config, [np.full(2, start, np.float32)], behaviours)


def by_hand(*overrides: str) -> Bench:
    """Return two rounds of training with unequal weights, and who is in which.

    Weights 1/4, 3/4 in round 1, then 1/2, 1/2: client 2 answers in round 2 only, in
    client 0's place.

    =====  ============  ============  ============  ==========
    round  client 0      client 1      client 2      global
    =====  ============  ============  ============  ==========
    0                                                [1, 1]
    1      1/4 * [4, 0]  3/4 * [0, 4]                [2, 4]
    2                    1/2 * [2, 2]  1/2 * [0, 8]  [3, 9]
    sum    [1, 0]        [1, 4]        [0, 4]
    last   [5, 1]        [4, 6]        [2, 12]
    =====  ============  ============  ============  ==========
    """
    made = bench(
        *overrides,
        behaviours={
            0: moves((1, [4, 0]), None),
            1: moves((3, [0, 4]), (5, [2, 2])),
            2: moves(None, (5, [0, 8])),
            3: moves(None),
        },
    )
    assert made.train(2).tolist() == [3, 9]
    return made


@pytest.mark.parametrize(
    ("forget", "expected"),
    [([1], [2, 5]), ([0, 2], [2, 5]), ([2, 0], [2, 5]), ([0, 1, 2], [1, 1])],
)
def test_update_form_subtracts_contributions_by_hand(
    forget: list[int], expected: list[float]
):
    """[3, 9] - [1, 4] = [2, 5]; [3, 9] - [1, 0] - [0, 4] = [2, 5]; all: the start."""
    made = by_hand()
    assert made.unlearn(*forget).tolist() == expected
    ledger = made.strategy.ledger
    assert not ledger.contributions[forget].any()
    assert ledger.correction.tolist() == [0, 0]
    assert ledger.rebuilt().tolist() == expected


def test_update_form_is_scaled_by_hand():
    """[3, 9] - 1/2 * [1, 4] = [2.5, 7]; the other half stays, as correction."""
    made = by_hand("strategy.scale=0.5")
    assert made.unlearn(1).tolist() == [2.5, 7]
    assert made.strategy.ledger.correction.tolist() == [0.5, 2]
    assert made.strategy.method_report["scale"] == {"1": 0.5}


def test_parameters_form_subtracts_weighted_last_models_by_hand():
    """The last weight of client 1 is 1/2 and of client 0, in round 1, 1/4.

    [3, 9] - 1/2 * [4, 6] = [1, 6]; then also - 1/4 * [5, 1] = [-0.25, 5.75].
    """
    assert by_hand("strategy.form=parameters").unlearn(1).tolist() == [1, 6]
    made = by_hand("strategy.form=parameters")
    assert made.unlearn(1, 0).tolist() == [-0.25, 5.75]
    assert made.strategy.method_report["scale"] == {"0": 0.25, "1": 0.5}
    assert made.strategy.ledger.rebuilt().tolist() == [-0.25, 5.75]


def test_parameters_form_is_scaled_by_hand():
    """[3, 9] - 2 * [4, 6] = [-5, -3]."""
    made = by_hand("strategy.form=parameters", "strategy.scale=2")
    assert made.unlearn(1).tolist() == [-5, -3]


def test_parameters_form_renormalises_by_hand():
    """([3, 9] - 1/4 * [5, 1]) / (1 - 1/4) = [7/3, 35/3]."""
    made = by_hand("strategy.form=parameters", "strategy.renormalise=true")
    np.testing.assert_allclose(made.unlearn(0), [7 / 3, 35 / 3], rtol=1e-6)


def test_parameters_form_refuses_to_renormalise_by_nothing():
    made = by_hand(
        "strategy.form=parameters", "strategy.renormalise=true", "strategy.scale=1"
    )
    with pytest.raises(FedNegError, match="sum to less than 1, got 1"):
        made.unlearn(0)


def test_update_form_renormalises_to_the_others_weights_by_hand():
    """Constant weights 1/4, 3/4: without client 0, client 1 counts whole.

    Updates of client 1 are [0, 4] and [2, 2]; from [1, 1] they lead to [3, 7].
    """
    made = bench(
        "strategy.renormalise=true",
        behaviours={
            0: moves((1, [4, 0]), (1, [0, 8])),
            1: moves((3, [0, 4]), (3, [2, 2])),
        },
    )
    made.train(2)
    assert made.unlearn(0).tolist() == [3, 7]


def test_update_form_refuses_to_renormalise_weights_that_varied():
    made = by_hand("strategy.renormalise=true")
    before = made.model.tobytes()
    with pytest.raises(
        FedNegError, match=r"needs constant .* \[1\] varied from 0\.5 to 0\.75"
    ):
        made.unlearn(1)
    assert made.model.tobytes() == before


def test_whoever_leaves_later_is_renormalised_as_if_all_had_left_at_once():
    """Constant weights 1/4, 1/4, 1/2; without client 0 they are 1/3 and 2/3.

    [1, 1] + 1/3 * [3, 0] + 2/3 * [0, 3] = [2, 3], and the rows are those two terms. A
    round of both adds the same again; then client 2 counts whole, as from the start:
    [1, 1] + [0, 3] + [0, 3] = [1, 7].
    """
    made = bench(
        "strategy.renormalise=true",
        behaviours={
            0: moves((1, [8, 8])),
            1: moves((1, [3, 0])),
            2: moves((2, [0, 3])),
        },
    )
    made.train(1)
    np.testing.assert_allclose(made.unlearn(0), [2, 3], rtol=1e-6)
    ledger = made.strategy.ledger
    np.testing.assert_allclose(ledger.contributions[1:], [[1, 0], [0, 2]], rtol=1e-6)
    assert np.abs(ledger.correction).max() < 1e-6
    assert ledger.weight_per_round([1]) == [pytest.approx(1 / 3)]
    made.train(1, clients=[1, 2])
    np.testing.assert_allclose(made.unlearn(1), [1, 7], rtol=1e-6)
    assert ledger.deviation(made.model) < 1e-6


def test_update_form_refuses_to_renormalise_when_nobody_stays():
    made = bench("strategy.renormalise=true", behaviours={0: moves((1, [1, 1]))})
    made.train(1)
    with pytest.raises(FedNegError, match=r"somebody who stays .* clients \[0\] are"):
        made.unlearn(0)


@pytest.mark.parametrize("form", ["update", "parameters"])
@pytest.mark.parametrize("renormalise", ["false", "true"])
def test_forgetting_a_client_that_never_took_part_leaves_the_very_bytes(
    form: str, renormalise: str
):
    overrides = (f"strategy.form={form}", f"strategy.renormalise={renormalise}")
    made = bench(
        *overrides,
        behaviours={
            0: moves((1, [0.1, 0.7])),
            1: moves((2, [1e-3, 3e4])),
            2: moves(None),
        },
        start=0.3,
    )
    before = made.train(3).tobytes()
    assert made.unlearn(2).tobytes() == before
    assert not made.strategy.ledger.correction.any()


def test_adding_the_contribution_again_gives_the_original():
    """Each of two roundings is at most 2**-24 of the numbers, which stay below 64."""
    rng = np.random.default_rng(3)
    updates = rng.normal(size=(5, 2))
    steps = [(n + 1, u.tolist()) for n, u in enumerate(updates)]
    made = bench(behaviours={0: moves(*steps), 1: moves(*steps[::-1])})
    before = made.train(5)
    row = made.strategy.ledger.contributions[1].copy()
    after = made.unlearn(1)
    assert np.abs(before - after).max() > 0.1
    np.testing.assert_allclose(
        add(after, [(1.0, row)]), before, rtol=0, atol=64 * 2**-23
    )


def test_forgetting_twice_is_forgetting_once():
    made = by_hand()
    once = made.unlearn(1).tobytes()
    assert made.unlearn(1).tobytes() == once


def test_unlearn_round_asks_no_client_for_anything():
    """Its cost cannot depend on the amount of data: no message leaves the server."""
    made = by_hand()
    made.grid.sent.clear()
    made.unlearn(1)
    assert made.grid.sent == []
    report = made.strategy.reports[-1]
    assert (report.phase, report.server_round) == ("unlearn", 9)
    assert (report.bytes_up, report.bytes_down, report.clients) == (0, 0, 0)


def test_momentum_of_the_forgotten_does_not_come_back():
    """With momentum 1/2, client 0 alone moves round 1; then nobody moves.

    Without forgetting its row would go on: 4, then 2. Forgotten, nothing happens.
    """

    def idle(arrays: NDArrays, server_round: int) -> Answer:
        return arrays, 1

    made = bench(
        "strategy.server_momentum=0.5",
        behaviours={0: moves((1, [8, 0]), (1, [0, 0])), 1: idle},
        start=0,
    )
    assert made.train(1).tolist() == [4, 0]
    assert made.unlearn(0).tolist() == [0, 0]
    assert made.train(1, clients=[1]).tolist() == [0, 0]


def test_a_last_local_model_that_is_not_there_is_not_taken_for_nothing():
    """Client 0 took part, and what it last sent is gone; the model is not touched."""
    made = by_hand("strategy.form=parameters")
    del made.strategy.ledger.local[0]
    with pytest.raises(
        FedNegError, match=r"last local model of client 0, which trained in round 1"
    ):
        made.unlearn(0)
