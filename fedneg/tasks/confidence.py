"""How sure a model is of an example's own class, in float64 from float32 logits.

In float32 the losses of all examples that a model is sure of are 0 or a few 1e-7, and
an attack on them sees ties where there is an order.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax

Floats = NDArray[np.float64]
# In float32 -log(p) is 0 from p = 1 - 2^-25 on, and 2^-24 or a multiple of it before.
ROUNDED = 2.0**-24


def scaled_confidence(
    logits: NDArray[np.floating], labels: NDArray[np.int64]
) -> Floats:
    """Return log(p / (1 - p)) of each example's own class, from logits.

    Parameters
    ----------
    logits : array, shape (N, C), C at least 2
        Finite.
    labels : array, shape (N,)
        Classes 0..C-1.

    Returns
    -------
    array, shape (N,)
        z_y - log(sum of exp(z_j) over the other classes): the same number as from p,
        and still exact where p rounds to 0 or 1.

    Raises
    ------
    ValueError
        If shapes do not fit, a logit is not finite, or a label is no class.

    References
    ----------
    Carlini et al., arXiv:2112.03570, 'logit scaling': close to normal over trainings,
    which the loss and the confidence themselves are not.
    """
    z = np.array(logits, dtype=np.float64)
    if z.ndim != 2 or z.shape[1] < 2 or labels.shape != z.shape[:1]:
        raise ValueError(
            "logits (N, C) with at least 2 classes and labels (N,) expected, "
            f"got {z.shape} and {labels.shape}"
        )
    if not np.isfinite(z).all():
        raise ValueError("logits must be finite")
    if labels.size and not 0 <= labels.min() <= labels.max() < z.shape[1]:
        raise ValueError(
            f"labels must be from 0 to {z.shape[1] - 1}, "
            f"got {labels.min()} to {labels.max()}"
        )
    rows = np.arange(len(z))
    own = z[rows, labels].copy()
    z[rows, labels] = -np.inf
    others: Floats = logsumexp(z, axis=1)
    return own - others


def cross_entropies(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> Floats:
    """Return the loss of each example, shape (N,), in nats.

    As a function of the scaled confidence c it is log(1 + exp(-c)): exact near 0.
    Parameters and errors are those of `scaled_confidence`.
    """
    losses: Floats = np.logaddexp(0.0, -scaled_confidence(logits, labels))
    return losses


def probabilities_of(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return class probabilities (N, C) of logits (N, C), in float64.

    In float64 because float32 rounds a confident model's small ones to zero.
    """
    found: NDArray[np.float64] = softmax(np.asarray(logits, dtype=np.float64), axis=1)
    return found


def confidence_of_losses(losses: Floats) -> Floats:
    """Return log(p / (1 - p)) with p = exp(-loss), of losses of any kind.

    For a cross-entropy it is the scaled confidence; for another loss the same curve,
    which orders as -loss does.

    Parameters
    ----------
    losses : array, shape (N,)
        At least 0.

    Returns
    -------
    array, shape (N,)
        Finite where the losses are. A loss of 0 counts as what float32 cannot tell from
        it, or as half of the smallest other one where that is less: most come of
        rounding, and one that counted as next to nothing would outweigh all others.
    """
    smallest = float(losses.min(where=losses > 0, initial=np.inf))
    rounded = min(ROUNDED, smallest / 2)
    least = np.where(losses == 0, rounded, losses)
    least = np.maximum(least, np.finfo(np.float64).tiny)
    # log(expm1(x)), where exp(x) may be beyond float64.
    found: Floats = -(least + np.log(-np.expm1(-least)))
    return found
