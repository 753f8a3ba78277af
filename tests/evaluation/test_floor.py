"""How far apart retrained models are, by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedneg.evaluation.divergence import mean_js_divergence
from fedneg.evaluation.floor import Floor, absolute_gap, floor_of


def test_floor_of_few_models_is_the_largest_gap():
    """0.90, 0.93, 0.91: gaps 0.03, 0.01, 0.02."""
    found = floor_of([0.90, 0.93, 0.91], absolute_gap)
    assert found is not None
    assert found.gap == pytest.approx(0.03)
    assert (found.models, found.rule) == (3, "max")


def test_floor_of_seven_models_is_the_95th_percentile_of_21_gaps():
    """0, 1, ..., 5 and 100. The 21 gaps end in 95, 96, ..., 100 above 15 small ones.

    The percentile lies at place 0.95 * 20 = 19 of 0..20: the second largest.
    """
    found = floor_of([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 100.0], absolute_gap)
    assert found == Floor(99.0, 7, "p95")


def test_six_models_have_15_pairs_and_their_maximum():
    found = floor_of([0.0, 1.0, 2.0, 3.0, 4.0, 100.0], absolute_gap)
    assert found == Floor(100.0, 6, "max")


def test_a_single_retraining_has_no_floor():
    assert floor_of([0.9], absolute_gap) is None
    assert floor_of([], absolute_gap) is None


def test_floor_of_answers_takes_any_distance():
    one, other = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    found = floor_of([one, one, other], mean_js_divergence)
    assert found is not None
    assert found.gap == pytest.approx(math.log(2))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=9))
def test_floor_does_not_depend_on_the_order(values: list[float]):
    found = floor_of(values, absolute_gap)
    assert found == floor_of(sorted(values), absolute_gap)
    assert found is not None
    assert 0 <= found.gap <= max(values) - min(values) + 1e-12


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_a_gap_is_finite_and_not_negative(bad: float):
    with pytest.raises(ValueError, match="gaps must be finite and not negative"):
        floor_of([1.0, 2.0], lambda a, b: bad)
