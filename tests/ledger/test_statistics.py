"""Running statistics: the mean of those who stay, never a sum over clients."""

import numpy as np
import pytest

from fedneg.ledger.ledger import Ledger
from fedneg.ledger.statistics import Statistics

ZERO = np.zeros(3, np.float32)
ROWS = {
    0: np.array([1, -2, 5], np.float32),
    1: np.array([4, 4, 9], np.float32),
    2: np.array([10, 0, 2], np.float32),
}


@pytest.fixture
def found() -> Statistics:
    """Two means and a counter of three clients with 10, 30 and 60 examples."""
    made = Statistics(np.array([7, 7, 1]), clients=4, means=2)
    made.record(ROWS, {0: 10, 1: 30, 2: 60})
    return made


def test_the_global_ones_are_the_weighted_mean_and_the_maximum(found: Statistics):
    assert found.current.tolist() == pytest.approx([7.3, 1.0, 9])


def test_who_is_forgotten_leaves_the_mean_of_the_others(found: Statistics):
    found.forget([1, 3])
    expected = [(10 * 1 + 60 * 10) / 70, -20 / 70, 5]
    assert found.current.tolist() == pytest.approx(expected)
    assert not found.rows[1].any()
    found.forget([0, 2])
    assert found.current.tolist() == [7, 7, 1]
    assert not found.rows.any()


def test_only_the_last_of_each_client_counts(found: Statistics):
    """Who does not take part in a round keeps what it had."""
    found.record({0: ZERO}, {0: 70})
    expected = [(30 * 4 + 60 * 10) / 160, 120 / 160, 9]
    assert found.current.tolist() == pytest.approx(expected)


def test_facts_and_rows_bring_them_back(found: Statistics):
    again = Statistics(np.array([7, 7, 1]), clients=4, means=2)
    again.rows[...] = found.rows
    again.restore_facts(found.facts())
    assert again.current.tobytes() == found.current.tobytes()


def test_a_model_without_any_is_its_parameters():
    ledger = Ledger(np.ones(2, np.float32), clients=3)
    assert ledger.whole(ledger.initial) is ledger.initial
    assert "statistics" not in ledger.arrays() | ledger.facts()
    assert ledger.width == 2


def test_the_ledger_starts_over_without_them(found: Statistics):
    ledger = Ledger(np.ones(2, np.float32), clients=4, statistics=found)
    assert ledger.whole(ledger.initial).size == ledger.width == 5
    before = ledger.num_bytes
    ledger.forget([2], before=ledger.initial, after=ledger.initial)
    assert ledger.statistics.current[2] == 9
    ledger.start_over(ledger.initial)
    assert ledger.statistics.current.tolist() == [7, 7, 1]
    bare = Ledger(np.ones(2, np.float32), clients=4)
    assert before == bare.num_bytes + 4 * 3 * 4
