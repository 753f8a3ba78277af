"""Exact tests of counts, against sums of binomial probabilities."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedneg.core.seeding import rng
from fedneg.evaluation.exact import above_p_value, holm, pairs_of, rate_of


def tail(hits: int, count: int, rate: float) -> float:
    """Return the chance of at least so many hits."""
    return sum(
        math.comb(count, k) * rate**k * (1 - rate) ** (count - k)
        for k in range(hits, count + 1)
    )


@settings(max_examples=80, deadline=None)
@given(
    count=st.integers(1, 40), share=st.floats(0, 1), alpha=st.sampled_from([0.01, 0.1])
)
def test_the_ends_of_an_interval_are_rates_that_are_just_refused(
    count: int, share: float, alpha: float
):
    hits = round(share * count)
    found = rate_of(hits, count, alpha=alpha)
    assert found.low <= found.value <= found.high
    if hits:
        assert tail(hits, count, found.low) == pytest.approx(alpha / 2, rel=1e-6)
    else:
        assert found.low == 0
    if hits < count:
        below = 1 - tail(hits + 1, count, found.high)
        assert below == pytest.approx(alpha / 2, rel=1e-6)
    else:
        assert found.high == 1


def test_a_rate_above_another_by_hand():
    """Three of three with a rate of 1/2: one in eight."""
    assert above_p_value(3, 3, 0.5) == pytest.approx(1 / 8)
    assert above_p_value(0, 3, 0.5) == pytest.approx(1)
    assert above_p_value(2, 5, 0.1) == pytest.approx(tail(2, 5, 0.1))
    assert above_p_value(1, 4, 0.0) == 0


@pytest.mark.parametrize(
    ("won", "count", "epsilon"),
    [(10, 10, 1.05), (100, 100, 3.49), (50, 100, 0), (0, 5, 0)],
)
def test_epsilon_of_won_pairs(won: int, count: int, epsilon: float):
    """10 of 10: a rate of .05^(1/10) = .741 just explains them, log(.741/.259)."""
    found = pairs_of(won, count)
    assert found.epsilon == pytest.approx(epsilon, abs=0.005)
    assert found.p_value == pytest.approx(tail(won, count, 0.5))


def test_epsilon_is_too_large_in_at_most_five_of_a_hundred():
    """Of pairs that are won at the rate that epsilon 1 allows."""
    draw, rate = rng(0, "pairs"), math.e / (1 + math.e)
    shown = [pairs_of(int(draw.binomial(30, rate)), 30).epsilon for _ in range(1000)]
    assert 0 < sum(epsilon > 1 for epsilon in shown) / 1000 <= 0.065


def test_no_pair_shows_nothing():
    found = pairs_of(0, 0)
    assert (found.p_value, found.epsilon) == (1, 0)


def test_holm_by_hand():
    """.01 x 3, .02 x 2, and .03 is at least what came before it."""
    assert holm({"a": 0.03, "b": 0.01, "c": 0.02}) == pytest.approx(
        {"a": 0.04, "b": 0.03, "c": 0.04}
    )
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


@pytest.mark.parametrize(("hits", "count"), [(-1, 3), (4, 3), (0, 0)])
def test_counts_that_are_none_are_refused(hits: int, count: int):
    with pytest.raises(ValueError, match=f"got {hits} of {count}"):
        rate_of(hits, count)
