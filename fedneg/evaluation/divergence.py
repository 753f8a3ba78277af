"""How far two models are apart: in what they answer, and in their parameters.

None of these proves forgetting. Two trainings without the client differ too, by their
seeds alone, so that a distance to a retrained model means something only beside the
distance of two retrained models (`fedneg.evaluation.floor`).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import rel_entr

from fedneg.core.parameters import Vector

Probabilities = NDArray[np.floating]
# Float32 softmax rows miss 1 by a few 1e-7.
SUM_TOLERANCE = 1e-4
# Nats: no class is shared.
MAX_JS = math.log(2)


def _checked(
    first: Probabilities, second: Probabilities
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both as float64 distributions that sum to 1 exactly, or raise."""
    if first.shape != second.shape or first.ndim != 2 or first.size == 0:
        raise ValueError(
            "two models' class probabilities must have one shape (N, C) with N and C "
            f"of at least 1, got {first.shape} and {second.shape}"
        )
    checked = []
    for given in (first, second):
        values = np.asarray(given, dtype=np.float64)
        if not np.isfinite(values).all():
            raise ValueError("class probabilities must be finite")
        if values.min() < 0:
            raise ValueError(
                f"class probabilities must not be negative, got {values.min():g}"
            )
        sums = values.sum(axis=1, keepdims=True)
        worst = sums.flat[np.abs(sums - 1).argmax()]
        if abs(worst - 1) > SUM_TOLERANCE:
            raise ValueError(
                f"every row of class probabilities must sum to 1, got {worst:g}"
            )
        checked.append(values / sums)
    return checked[0], checked[1]


def prediction_agreement(first: Probabilities, second: Probabilities) -> float:
    """Return the share of examples that two models put into the same class.

    Parameters
    ----------
    first, second : arrays, shape (N, C)
        Class probabilities on the same N examples in the same order. The lowest class
        wins a tie.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        If the shapes differ or are not (N, C), or a row is no distribution.
    """
    p, q = _checked(first, second)
    return float(np.mean(p.argmax(axis=1) == q.argmax(axis=1)))


def mean_js_divergence(first: Probabilities, second: Probabilities) -> float:
    """Return the Jensen-Shannon divergence of two models, averaged over examples.

    Parameters
    ----------
    first, second : arrays, shape (N, C)
        Class probabilities on the same N examples in the same order.

    Returns
    -------
    float
        Nats, in [0, ln 2]: 0 for equal answers, ln 2 where no class is shared.
        Symmetric, and finite where a probability is 0, which KL is not.

    Raises
    ------
    ValueError
        As `prediction_agreement`.

    References
    ----------
    Lin, 'Divergence measures based on the Shannon entropy', IEEE Transactions on
    Information Theory 37(1), 1991, equation 4.1 with weights of one half.
    """
    p, q = _checked(first, second)
    middle = (p + q) / 2
    per_example = (rel_entr(p, middle) + rel_entr(q, middle)).sum(axis=1) / 2
    # Rounding leaves equal rows a few 1e-17 below zero, and a mean of many times ln 2
    # as much above it.
    return min(float(np.clip(per_example, 0.0, MAX_JS).mean()), MAX_JS)


@dataclass(frozen=True)
class ParameterDistance:
    """Euclidean distance of two models' parameters.

    `relative` is in units of the reference's own way from the initial parameters: at 1
    the model is as far from the reference as the untrained one. None if the reference
    never moved.
    """

    absolute: float
    relative: float | None


def parameter_distance(
    model: Vector, reference: Vector, *, initial: Vector
) -> ParameterDistance:
    """Return how far `model` lies from `reference`, in L2 over all d parameters.

    Parameters
    ----------
    model, reference, initial : vectors, shape (d,)
        `initial` is what `reference` was trained from. Neurons are compared by place:
        two networks that compute the same with neurons in another order are far apart,
        so this is of use only between models of the same initial parameters.

    Raises
    ------
    ValueError
        If the shapes differ or are not (d,).
    """
    shapes = (model.shape, reference.shape, initial.shape)
    if len(set(shapes)) != 1 or model.ndim != 1:
        raise ValueError(
            f"parameters must be vectors of one length, got shapes {shapes}"
        )
    origin = reference.astype(np.float64)
    absolute = float(np.linalg.norm(model.astype(np.float64) - origin))
    way = float(np.linalg.norm(origin - initial.astype(np.float64)))
    return ParameterDistance(absolute, absolute / way if way > 0 else None)
