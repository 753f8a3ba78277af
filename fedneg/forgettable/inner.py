"""What the inner strategy waits for, and has to be told when somebody leaves."""

from collections.abc import Sequence

from flwr.serverapp.strategy import Strategy

from fedneg.forgettable.moments import layers

MINIMA = ("min_train_nodes", "min_evaluate_nodes", "min_available_nodes")
# Whose they are, each with its name.
Minima = Sequence[tuple[Strategy, str, int]]


def minima_of(strategy: Strategy) -> Minima:
    """Return how many nodes a strategy, and what it wraps, waits for and wants."""
    return [
        (one, name, getattr(one, name))
        for one in layers(strategy)
        for name in MINIMA
        if hasattr(one, name)
    ]


def lower_minima(minima: Minima, by: int, there: int = 0) -> None:
    """Let a strategy that waits for all nodes not wait for so many that are out.

    Parameters
    ----------
    minima : Minima
    by : int
        Nodes that are out.
    there : int
        Others that are online: a minimum that they meet stays as it was.
    """
    for strategy, name, value in minima:
        lowered = max(min(value, 1), value - by)
        setattr(strategy, name, value if there >= value else lowered)
