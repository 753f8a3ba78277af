"""How sure a model is, from losses of any kind."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedneg.tasks.confidence import (
    confidence_of_losses,
    cross_entropies,
    scaled_confidence,
)

LOSSES = st.lists(st.floats(0, 1e300), min_size=2, max_size=20)


def test_confidence_of_losses_by_hand():
    """P = 1/2: 0; p = 1/4: log(1/3); a large loss is its own negative."""
    losses = np.array([math.log(2), math.log(4), 50.0])
    np.testing.assert_allclose(
        confidence_of_losses(losses), [0, -math.log(3), -50], atol=1e-12
    )


@given(
    arrays(np.float64, (6, 4), elements=st.floats(-300, 300)),
    arrays(np.int64, 6, elements=st.integers(0, 3)),
)
def test_of_a_cross_entropy_it_is_the_scaled_confidence(
    logits: np.ndarray, labels: np.ndarray
):
    """From -600 to 600: also where p rounds to 0 or 1."""
    found = confidence_of_losses(cross_entropies(logits, labels))
    expected = scaled_confidence(logits, labels)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_what_float32_rounds_to_0_does_not_outweigh_the_rest():
    """A sure model's losses, all alike but for rounding, are alike as scores."""
    logits = np.array([[16.0, 0.0], [17.0, 0.0], [18.0, 0.0]], np.float32)
    own = logits[:, 0] - np.log(np.exp(logits).sum(axis=1, dtype=np.float32))
    losses = np.maximum(-own, 0).astype(np.float64)
    assert losses[-1] == 0
    found = confidence_of_losses(losses)
    np.testing.assert_allclose(found, [16, 17, 18], atol=2)
    assert confidence_of_losses(np.array([0.0, 1e-30])).tolist() == pytest.approx(
        [-np.log(5e-31), -np.log(1e-30)]
    )


@pytest.mark.parametrize("loss", [5e-324, 1e-300, 800.0, 1e300])
def test_it_is_finite_where_the_loss_is(loss: float):
    """Where p is nearly 1, or so near to 0 that exp(loss) is beyond float64."""
    (found,) = confidence_of_losses(np.array([loss]))
    assert np.isfinite(found)
    assert found > 600 if loss < 1 else found == -loss


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_of_a_model_that_diverged_it_is_not_finite(loss: float):
    assert not np.isfinite(confidence_of_losses(np.array([loss]))).any()


@given(LOSSES)
def test_its_order_is_that_of_minus_the_loss(losses: list[float]):
    """Strictly, where losses are normal numbers and differ by more than rounding."""
    ordered = np.sort(np.array(losses))
    found = confidence_of_losses(ordered)
    assert (np.diff(found) <= 0).all()
    apart = ordered[1:] > np.maximum(ordered[:-1], np.finfo(float).tiny) * (1 + 1e-9)
    assert (np.diff(found)[apart] < 0).all()
