"""Every strategy of Flower's: whose the step is, recomputed from the messages."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.flower_strategies import ALL, Case, bound
from builders.strangers import INITIAL, TRAINED, Watched, read, trained
from fedneg.forgettable.weighing import closest_to_median, median_of, trimmed

cases = pytest.mark.parametrize("case", ALL.values(), ids=ALL)


pytestmark = pytest.mark.usefixtures("small_heap")


# -- the identity ----------------------------------------------------------------------


@cases
@settings(max_examples=5, deadline=None)
@given(
    rounds=st.integers(1, 20),
    broken=st.sets(st.tuples(st.integers(1, 3), st.integers(1, 20)), max_size=6),
    late=st.dictionaries(st.integers(2, 3), st.integers(1, 10), max_size=2),
    data=st.data(),
)
def test_forgetting_takes_away_what_the_messages_say(
    case: Case,
    rounds: int,
    broken: set[tuple[int, int]],
    late: dict[int, int],
    data: st.DataObject,
):
    """With sampling, failures, unequal weights and clients that come later."""
    grid = Watched(case.clients, broken, late, case.mods)
    fraction = data.draw(st.sampled_from(case.fractions))
    held, arrays = trained(
        case.strategy(fraction_train=fraction), grid, rounds, case.initial
    )
    by_hand = case.by_hand(grid)
    if arrays is None or not held.clients:
        return
    whole = read(arrays)
    assert set(held.clients) == set(by_hand)
    gone = data.draw(st.sampled_from(held.clients))
    limit = bound(whole, *by_hand.values())
    for name in TRAINED:
        total = INITIAL[name] + sum(row[name] for row in by_hand.values())
        np.testing.assert_allclose(whole[name], total, rtol=0, atol=limit)
    after = read(held.forget([gone], arrays))
    for name in TRAINED:
        expected = whole[name].astype(np.float64) - by_hand[gone][name]
        np.testing.assert_allclose(after[name], expected, rtol=0, atol=limit)


# -- by hand ---------------------------------------------------------------------------


def test_the_median_of_five_is_one_reply_and_of_four_two():
    values = np.array([[3.0], [1.0], [9.0], [2.0], [5.0]])
    assert median_of(5).of(values).ravel().tolist() == [1, 0, 0, 0, 0]
    assert median_of(4).of(values[:4]).ravel().tolist() == [0.5, 0, 0, 0.5]


def test_equal_replies_share_what_is_left_of_them():
    """Cut one at each end of four: 1 | 2 2 | 2, and of equal ones each has a third.

    In the second column 1 | 1 3 | 4: half for 3, and half for both of 1.
    """
    values = np.array([[2.0, 1], [1, 3], [2, 4], [2, 1]])
    expected = [[1 / 3, 1 / 4], [0, 1 / 2], [1 / 3, 0], [1 / 3, 1 / 4]]
    found = trimmed(1).of(values)
    np.testing.assert_allclose(found, expected)
    np.testing.assert_allclose((found * values).sum(axis=0), [2, 2])


def test_nothing_is_cut_of_few():
    np.testing.assert_allclose(trimmed(0).of(np.ones((3, 2))), np.full((3, 2), 1 / 3))


def test_of_the_chosen_those_near_their_median_count():
    """Of replies 0, 2 and 3 with 1, 4 and 6, two: 4, the median, and 6."""
    values = np.array([[1.0], [5], [4], [6]])
    found = closest_to_median([0, 2, 3], 2).of(values)
    assert found.ravel().tolist() == [0, 0, 0.5, 0.5]
