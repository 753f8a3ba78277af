"""Why a strategy cannot be made forgettable, in a line that says what to do instead."""

from flwr.app import ArrayRecord
from flwr.serverapp.strategy import Strategy

from fedneg.core.errors import FedNegError
from fedneg.forgettable.moments import layers


class NotLinearError(FedNegError):
    """A strategy's step is no weighted sum of its clients' updates."""


def refusal(strategy: Strategy, reason: str) -> str:
    """Return the line that refuses a strategy."""
    return (
        f"{type(strategy).__name__} cannot be made forgettable: {reason}. Take another "
        "strategy (docs/your-flower-app.md has a table), or retrain without the client"
    )


def check_before(strategy: Strategy, arrays: ArrayRecord) -> None:
    """Raise NotLinearError where it can be known before anybody has trained.

    Parameters
    ----------
    arrays : ArrayRecord
        The initial model.
    """
    for one in layers(strategy):
        multiplier = getattr(one, "noise_multiplier", 0)
        if isinstance(multiplier, int | float) and multiplier > 0:
            raise NotLinearError(
                refusal(
                    strategy,
                    f"it adds noise to the aggregate (noise_multiplier "
                    f"{multiplier:g}), and taking a client's exact part out of the "
                    "model would publish what the noise hides",
                )
            )
    if not any(array.numpy().dtype.kind == "f" for array in arrays.values()):
        raise NotLinearError(
            refusal(
                strategy,
                "its model has no arrays of floats, so it is no sum of updates, as "
                "trees are none",
            )
        )
