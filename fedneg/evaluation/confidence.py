"""How sure a model is of an example's own class, in float64 from float32 logits.

In float32 the losses of all examples that a model is sure of are 0 or a few 1e-7, and
an attack on them sees ties where there is an order.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

Floats = NDArray[np.float64]


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
