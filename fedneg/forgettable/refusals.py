"""Why a strategy cannot be made forgettable, in a line that says what to do instead."""

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import FedXgbBagging, FedXgbCyclic, Strategy

from fedneg.core.errors import FedNegError
from fedneg.forgettable.inner import layers


class NotLinearError(FedNegError):
    """A strategy's step is no sum of parts, each of one client's updates."""


def refusal(strategy: Strategy, reason: str) -> str:
    """Return the line that refuses a strategy."""
    return (
        f"{type(strategy).__name__} cannot be made forgettable: {reason}. Take another "
        "strategy (docs/your-flower-app.md has a table), or retrain without the "
        "client: method='retrain'"
    )


def check_before(strategy: Strategy, arrays: ArrayRecord, *, starts_over: bool) -> None:
    """Raise NotLinearError where it can be known before anybody has trained.

    Parameters
    ----------
    arrays : ArrayRecord
        The initial model.
    starts_over : bool
        Whether forgetting trains anew, which needs to know nobody's part.
    """
    for one in layers(strategy):
        multiplier = getattr(one, "noise_multiplier", 0)
        is_number = isinstance(multiplier, int | float)
        if is_number and multiplier > 0 and not starts_over:
            raise NotLinearError(
                refusal(
                    strategy,
                    f"it adds noise to the aggregate (noise_multiplier "
                    f"{multiplier:g}), and taking a client's exact part out of the "
                    "model would show what the noise hides",
                )
            )
    of_trees = isinstance(layers(strategy)[-1], FedXgbBagging | FedXgbCyclic)
    if of_trees or not any(map(_is_of_floats, arrays.values())):
        why = "is one of trees" if of_trees else "has no arrays of floats"
        raise NotLinearError(
            f"{type(strategy).__name__} cannot be made forgettable: its model {why}, "
            "so it is no sum of updates. Retrain without the client, from a grid that "
            "does not have it"
        )


def _is_of_floats(array: Array) -> bool:
    """Return whether an array is, in whatever order of bytes."""
    try:
        return np.dtype(array.dtype).kind == "f"
    except TypeError:  # none of NumPy's
        return "float" in array.dtype
