"""Distances between models' answers and parameters, by hand."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedneg.evaluation.divergence import (
    mean_js_divergence,
    parameter_distance,
    prediction_agreement,
)
from fedneg.tasks.confidence import probabilities_of

LOGITS = arrays(np.float32, (5, 3), elements=st.floats(-60, 60, width=32))


def test_agreement_by_hand():
    """Classes 0 1 1 2 against 0 1 2 2: three of four. The second 1 is a tie with 2."""
    first = np.array([[0.8, 0.1, 0.1], [0.1, 0.6, 0.3], [0.2, 0.4, 0.4], [0, 0, 1]])
    second = np.array(
        [[0.5, 0.3, 0.2], [0.2, 0.7, 0.1], [0.2, 0.3, 0.5], [0.2, 0.3, 0.5]]
    )
    assert prediction_agreement(first, second) == 0.75


def test_js_divergence_by_hand():
    """(1, 0) against (1/2, 1/2), middle (3/4, 1/4), and an example answered alike.

    KL((1, 0) | m) = ln(4/3); KL((1/2, 1/2) | m) = ln(2/3) / 2 + ln(2) / 2
    = ln(4/3) / 2. Half their sum is 3/4 ln(4/3), and the mean over two examples half of
    that.
    """
    first = np.array([[1.0, 0.0], [0.3, 0.7]])
    second = np.array([[0.5, 0.5], [0.3, 0.7]])
    expected = 3 / 8 * math.log(4 / 3)
    assert mean_js_divergence(first, second) == pytest.approx(expected, rel=1e-12)


def test_js_divergence_of_models_that_share_no_class_is_ln_2():
    first, second = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    assert mean_js_divergence(first, second) == pytest.approx(math.log(2))


def test_js_divergence_never_passes_its_bound():
    """The mean of 51 times ln 2 is rounded to more than ln 2."""
    assert np.full(51, math.log(2)).mean() > math.log(2)
    first, second = np.tile([1.0, 0.0], (51, 1)), np.tile([0.0, 1.0], (51, 1))
    assert mean_js_divergence(first, second) == math.log(2)


def slow_js(first: np.ndarray, second: np.ndarray) -> float:
    """Return the entropy of the middle minus the mean entropy, averaged over rows."""

    def entropy(row: list[float]) -> float:
        return -math.fsum(p * math.log(p) for p in row if p > 0)

    found = []
    for p, q in zip(first.tolist(), second.tolist(), strict=True):
        middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
        found.append(entropy(middle) - (entropy(p) + entropy(q)) / 2)
    return sum(found) / len(found)


@given(LOGITS, LOGITS)
def test_js_divergence_is_that_of_entropies_and_symmetric(
    first: np.ndarray, second: np.ndarray
):
    p, q = probabilities_of(first), probabilities_of(second)
    found = mean_js_divergence(p, q)
    assert found == pytest.approx(slow_js(p, q), abs=1e-12)
    assert found == mean_js_divergence(q, p)
    assert 0 <= found <= math.log(2)
    assert mean_js_divergence(p, p) == 0


def test_js_divergence_of_nearly_equal_answers_is_not_negative():
    """Its two halves cancel, and rounding would leave -1e-17 (SciPy's root is NaN)."""
    p = probabilities_of(np.array([[9.0, -28.0, 0.0]]))
    q = probabilities_of(np.array([[9.0, -29.0, 0.0]]))
    assert 0 <= mean_js_divergence(p, q) < 1e-15


@given(LOGITS)
def test_agreement_with_oneself_is_1(logits: np.ndarray):
    p = probabilities_of(logits)
    assert prediction_agreement(p, p) == 1


def test_probabilities_of_huge_logits_are_finite():
    found = probabilities_of(np.array([[1000.0, 0.0], [0.0, math.log(3)]]))
    np.testing.assert_allclose(found, [[1, 0], [0.25, 0.75]])
    assert probabilities_of(np.float32([[0, -100]]))[0, 1] == pytest.approx(
        math.exp(-100)
    )


ONE = np.array([[0.5, 0.5]])


@pytest.mark.parametrize(
    ("second", "match"),
    [
        (np.ones((2, 2)) / 2, r"one shape \(N, C\).*\(1, 2\) and \(2, 2\)"),
        (np.array([[0.5, 0.6]]), "sum to 1, got 1.1"),
        (np.array([[1.5, -0.5]]), "must not be negative, got -0.5"),
        (np.array([[np.nan, 1.0]]), "must be finite"),
    ],
)
@pytest.mark.parametrize("metric", [prediction_agreement, mean_js_divergence])
def test_what_is_no_distribution_is_refused(
    metric: Callable[..., float], second: np.ndarray, match: str
):
    with pytest.raises(ValueError, match=match):
        metric(ONE, second)
    with pytest.raises(ValueError, match="one shape"):
        metric(ONE[0], ONE[0])


def vector(*values: float) -> np.ndarray:
    """Return parameters."""
    return np.array(values, dtype=np.float32)


def test_parameter_distance_by_hand():
    """(3, 4) from the reference: 5; the reference went (6, 8) from the start: 10."""
    found = parameter_distance(vector(9, 12), vector(6, 8), initial=vector(0, 0))
    assert (found.absolute, found.relative) == (5.0, 0.5)


def test_the_untrained_model_is_at_relative_distance_1():
    initial, reference = vector(1, -2, 3), vector(4, 4, 4)
    found = parameter_distance(initial, reference, initial=initial)
    assert found.relative == 1


def test_a_reference_that_never_moved_gives_no_relative_distance():
    still = vector(1, 1)
    found = parameter_distance(vector(1, 3), still, initial=still)
    assert (found.absolute, found.relative) == (2.0, None)


def test_distance_of_float32_parameters_is_summed_in_float64():
    """A million parameters apart by 0.001: 1, which float32 sums miss."""
    zero = np.zeros(1_000_000, dtype=np.float32)
    found = parameter_distance(zero + np.float32(0.001), zero, initial=zero + 1)
    assert found.absolute == pytest.approx(float(np.float32(0.001)) * 1000, rel=1e-9)


def test_parameters_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match="vectors of one length"):
        parameter_distance(vector(1), vector(1, 2), initial=vector(1))
