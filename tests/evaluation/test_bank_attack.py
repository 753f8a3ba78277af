"""LiRA with a bank: by hand, against scipy, and what its curve says of made models."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from fedneg.evaluation.bank_attack import GRID, curve, curves, ratios
from fedneg.evaluation.seen import Seen


def models(
    count: int, shift: float, *, seed: int, examples: int = 40
) -> list[np.ndarray]:
    """Return scaled confidences of models in which each example is so much surer."""
    draw = np.random.default_rng(seed)
    middle = np.random.default_rng(0).normal(size=examples)
    return [middle + shift + 0.5 * draw.normal(size=examples) for _ in range(count)]


def test_ratio_by_hand() -> None:
    """Within examples: (1 + 1) / 2 of those with it, (4 + 4) / 2 without: 10 / 2."""
    with_it, without_it = np.array([[3.0], [5.0]]), np.array([[-2.0], [2.0]])
    # ((1 - 0)^2 - (1 - 4)^2) / (2 * 5)
    assert ratios(np.array([1.0]), with_it, without_it) == pytest.approx([-0.8])


def test_ratio_is_that_of_two_normal_distributions() -> None:
    ins, outs = np.stack(models(5, 1.0, seed=1)), np.stack(models(7, 0.0, seed=2))
    (observed,) = models(1, 0.4, seed=3)
    inside = [((kind - kind.mean(axis=0)) ** 2).sum() for kind in (ins, outs)]
    spread = math.sqrt(sum(inside) / (10 * 40))
    expected = [
        norm.logpdf(x, a, spread) - norm.logpdf(x, b, spread)
        for x, a, b in zip(observed, ins.mean(axis=0), outs.mean(axis=0), strict=True)
    ]
    assert ratios(observed, ins, outs) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("shift", "low", "high"), [(1.0, 0.85, 1.0), (0.0, 0.4, 0.6), (-1.0, 0.0, 0.15)]
)
def test_curve_tells_what_was_trained_on(shift: float, low: float, high: float) -> None:
    ins, outs = models(8, 1.0, seed=1), models(7, 0.0, seed=2)
    (observed,) = models(1, shift, seed=3)
    found = curve(observed, ins, outs)
    assert found is not None
    assert low <= found["auc"] <= high
    # 7 times 40 examples: no share of false alarms below 1 / 280.
    assert found["false_positives"] == [at for at in GRID if at >= 1 / 280]
    assert found["true_positives"] == sorted(found["true_positives"])


def test_retrained_model_among_the_others_is_left_out_of_their_mean() -> None:
    """Else each would lie nearer to its own mean, and everybody else look trained."""
    aucs = []
    for world in range(60):
        ins = models(8, 0.3, seed=2 * world)
        *outs, fresh = models(4, 0.0, seed=2 * world + 1)
        found = curve(fresh, ins, outs)
        assert found is not None
        aucs.append(found["auc"])
    assert np.mean(aucs) == pytest.approx(0.5, abs=0.02)


def test_too_few_models_have_no_curve() -> None:
    ins, outs = models(4, 1.0, seed=1), models(3, 0.0, seed=2)
    assert curve(ins[0], ins, outs) is not None
    assert curve(ins[0], ins[:3], outs) is None
    assert curve(ins[0], ins, outs[:2]) is None
    assert curve(ins[0][:0], ins, outs) is None


def test_each_client_has_the_models_of_its_own() -> None:
    """Of client 4 only three models with it answered."""

    def seen(scores: np.ndarray, *clients: int) -> Seen:
        return Seen({k: np.logaddexp(0, -scores) for k in clients})

    ins, outs = models(5, 1.0, seed=1), models(4, 0.0, seed=2)
    with_clients = [seen(one, 3, *([4] if k < 3 else [])) for k, one in enumerate(ins)]
    without = [seen(one, 3, 4) for one in outs]
    (own,) = models(1, 1.0, seed=3)
    found = curves(seen(own, 3, 4), with_clients, without)
    assert list(found) == ["3"]
    assert found["3"] == curve(own, ins, outs)
