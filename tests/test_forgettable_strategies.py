"""Every strategy of Flower's: whose the step is, recomputed from the messages."""

import gc
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.flower_strategies import ALL, Case, bound
from builders.strangers import INITIAL, TRAINED, Watched, read, trained

cases = pytest.mark.parametrize("case", ALL.values(), ids=ALL)


@pytest.fixture(autouse=True, scope="module")
def a_small_heap() -> Iterator[None]:
    """Some strategies collect garbage for every reply: let it be of the test alone."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


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
