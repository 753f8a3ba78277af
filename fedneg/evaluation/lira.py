"""LiRA, offline: how much surer a model is than models that never saw the example.

Carlini et al., arXiv:2112.03570: a fixed threshold on the loss asks whether an example
is easy; comparing with 'out' models, trained without it, asks whether *this* model
knows it better than it should. Offline, because a client that is to be forgotten has no
'in' models but the original.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

Floats = NDArray[np.float64]
# arXiv:2112.03570 takes one variance for all examples below 64 shadow models.
MIN_MODELS_FOR_OWN_VARIANCE = 64
# In logits. Shadow models that agree to the last digit would make any score infinite.
MIN_STANDARD_DEVIATION = 1e-3


def lira_scores(observed: Floats, shadow_out: Floats) -> Floats:
    """Return membership scores of N examples; higher = rather a member.

    Parameters
    ----------
    observed : array, shape (N,)
        Scaled confidence of the model under attack.
    shadow_out : array, shape (S, N), S at least 2
        The same of S models that were trained without these examples.

    Returns
    -------
    array, shape (N,)
        -log Pr[Z > observed] in nats, with Z normal with the mean and the variance of
        the example's S shadow values. It orders examples as the paper's 1 - Pr[Z >
        observed] does, and does not run into 1 where the evidence is strongest. From 64
        models on every example has its own variance; below, all share the mean of
        theirs.

    Raises
    ------
    ValueError
        If shapes do not fit, S is below 2, or a value is not finite.

    References
    ----------
    Carlini et al., arXiv:2112.03570, the offline attack. Differs from the paper: the
    shared variance is that within examples; pooled over all values it would hold how
    examples differ, too.
    """
    if shadow_out.ndim != 2 or observed.shape != shadow_out.shape[1:]:
        raise ValueError(
            "observed (N,) and shadow_out (S, N) expected, "
            f"got {observed.shape} and {shadow_out.shape}"
        )
    if len(shadow_out) < 2:
        raise ValueError(f"at least 2 shadow models are needed, got {len(shadow_out)}")
    if not (np.isfinite(observed).all() and np.isfinite(shadow_out).all()):
        raise ValueError("scaled confidences must be finite")
    variance = shadow_out.var(axis=0, ddof=1, dtype=np.float64)
    if len(shadow_out) < MIN_MODELS_FOR_OWN_VARIANCE and variance.size:
        variance = np.full_like(variance, variance.mean())
    deviation = np.maximum(np.sqrt(variance), MIN_STANDARD_DEVIATION)
    mean = shadow_out.mean(axis=0, dtype=np.float64)
    scores: Floats = -norm.logsf((observed - mean) / deviation)
    return scores
