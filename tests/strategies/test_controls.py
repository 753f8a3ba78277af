"""The controls: what must fail to forget, and what must fail to be of use."""

import numpy as np
import pytest

from builders.federations import Bench, small_config
from builders.networks import initial_parameters
from fedneg.core.assignment import Assignment
from fedneg.core.parameters import flatten
from fedneg.data.datasets import load_dataset


def bench(name: str, *overrides: str) -> Bench:
    """Return a federation of real clients on the digits."""
    config = small_config("clients=4", f"strategy={name}", *overrides)
    assignment = Assignment.of(config, root=None).to_json()
    arrays = initial_parameters(64, config.model.hidden, 10, seed=config.seed)
    load_dataset("digits")
    return Bench(config, arrays, assignment=assignment)


@pytest.mark.parametrize("forget", [(1,), (1, 3)])
def test_do_nothing_leaves_the_very_bytes_and_its_ledger_holds(forget: tuple[int, ...]):
    made = bench("do_nothing", "forget=null")
    before = made.train(1).tobytes()
    assert made.unlearn(*forget).tobytes() == before
    ledger = made.strategy.ledger
    assert not ledger.contributions[list(forget)].any()
    assert ledger.correction.any()
    np.testing.assert_allclose(ledger.rebuilt(), made.model, atol=1e-6)
    assert made.strategy.forgotten == set(forget)


@pytest.mark.parametrize("forget", [(1,), (1, 3)])
def test_random_init_draws_parameters_that_nothing_was_trained_from(
    forget: tuple[int, ...],
):
    made = bench("random_init", "forget=null")
    start = made.model.copy()
    made.train(1)
    after = made.unlearn(*forget)
    assert not (after == start).any()
    # Uniform in ±1/sqrt(fan in), as the first ones.
    assert np.abs(after).max() <= 1 / np.sqrt(16)
    assert after[:1024].std() == pytest.approx(1 / np.sqrt(64 * 3), rel=0.05)
    ledger = made.strategy.ledger
    assert ledger.rebuilt().tobytes() == after.tobytes()
    assert not ledger.contributions.any()
    assert ledger.participation == []


def test_random_init_hangs_on_the_seed_alone():
    found = [
        bench("random_init", "forget=1", f"seed={seed}").unlearn(1).tobytes()
        for seed in (5, 5, 6)
    ]
    assert found[0] == found[1] != found[2]


def test_draws_of_the_initial_parameters_are_unrelated():
    first, second = (
        flatten(initial_parameters(64, (16,), 10, seed=0, draw=draw)) for draw in (0, 1)
    )
    default = flatten(initial_parameters(64, (16,), 10, seed=0))
    assert first.tobytes() == default.tobytes() != second.tobytes()
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.1
