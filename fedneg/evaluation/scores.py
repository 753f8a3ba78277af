"""What a model's influence is measured by, example by example: of losses, three scores.

The first decides what is found. The others find nobody, and acquit nobody against whom
they speak: where one score shows nothing of a client another may.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from fedneg.tasks.confidence import Floats, confidence_of_losses

# Confidence of 98 % (or 2 %), beyond which more of it counts by its logarithm.
KNEE = 4.0
# Of a model that is sure of nothing the size of its confidences is rounding.
LEAST = 1e-3
# What may speak against an acquittal.
UNDAMPED = "undamped scores"
RELATIVE = "scores relative to the model's own sharpness"


def scores_of_losses(losses: Floats) -> Floats:
    """Return what a model's influence is measured by, of losses of any kind.

    Parameters
    ----------
    losses : float64 array, shape (N,)
        At least 0; of a cross-entropy in nats.

    Returns
    -------
    array, shape (N,)
        asinh(c / KNEE) of the scaled confidence c = log(p / (1 - p)) of a loss -log(p):
        in proportion to c where p is between 2 and 98 %, and to the logarithm of its
        size far beyond. For another loss the same curve, which orders as -loss does.

    How far beyond it is, on either side, hangs on a seed.
    """
    damped: Floats = np.arcsinh(confidence_of_losses(losses) / KNEE)
    return damped


def relative_scores(losses: Floats) -> Floats:
    """Return scaled confidences relative to their size in the middle of the examples.

    Parameters
    ----------
    losses : float64 array, shape (N,)
        As of `scores_of_losses`.

    Returns
    -------
    array, shape (N,)
        c / median |c|, which counts as LEAST at least. A model whose logits were
        divided by a number is less sure of everything and has forgotten nothing: its
        scores, while it is sure, stay nearly what they were.
    """
    confidences = confidence_of_losses(losses)
    size = float(np.median(np.abs(confidences))) if len(confidences) else 0.0
    relative: Floats = confidences / max(size, LEAST)
    return relative


# By what they are called.
DOUBTS: Mapping[str, Callable[[Floats], Floats]] = MappingProxyType(
    {UNDAMPED: confidence_of_losses, RELATIVE: relative_scores}
)
