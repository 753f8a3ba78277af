"""Why a strategy cannot be made forgettable, in a line that says what to do instead."""

from flwr.app import ArrayRecord
from flwr.serverapp.strategy import Strategy

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
    if not any("float" in array.dtype for array in arrays.values()):
        raise NotLinearError(
            f"{type(strategy).__name__} cannot be made forgettable: its model has no "
            "arrays of floats, so it is no sum of updates, as trees are none. Retrain "
            "without the client, from a grid that does not have it"
        )
