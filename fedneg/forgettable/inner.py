"""What the inner strategy keeps for itself, and has to be told when somebody leaves."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from fedneg.core.parameters import Vector
from fedneg.forgettable.names import Names

MINIMA = ("min_train_nodes", "min_evaluate_nodes", "min_available_nodes")


def server_optimiser(strategy: Strategy) -> tuple[float, float]:
    """Return the learning rate and the momentum of the server's step."""
    rate = getattr(strategy, "server_learning_rate", 1.0)
    return float(rate), float(getattr(strategy, "server_momentum", 0.0))


def minima_of(strategy: Strategy) -> dict[str, int]:
    """Return how many nodes a strategy waits for, and wants, by the name of each."""
    return {n: getattr(strategy, n) for n in MINIMA if hasattr(strategy, n)}


def lower_minima(strategy: Strategy, minima: Mapping[str, int], by: int) -> None:
    """Let a strategy that waits for all nodes not wait for so many that are out."""
    for name, value in minima.items():
        setattr(strategy, name, max(min(value, 1), value - by))


def take_momentum(
    strategy: Strategy, names: Names, arrays: ArrayRecord, gone: Vector | None
) -> None:
    """Take the forgotten out of a momentum, and put a copy of the model right.

    Parameters
    ----------
    arrays : ArrayRecord
        The model after forgetting.
    gone : Vector, shape (d,), optional
        The sum of the momentum rows of whoever was forgotten, of updates.
    """
    inner: Any = strategy
    if getattr(inner, "current_arrays", None) is not None:
        inner.current_arrays = arrays
    vector = getattr(inner, "momentum_vector", None)
    if vector is not None and gone is not None:
        # Flower's is of gradients, which are updates turned around. It has one of
        # running statistics too, of which nobody knows whose it is.
        theirs = _as_arrays(names, gone)
        inner.momentum_vector = [
            array + change if name in names.parameters else np.zeros_like(array)
            for name, array, change in zip(names.shapes, vector, theirs, strict=True)
        ]


def give_momentum(
    strategy: Strategy, names: Names, arrays: ArrayRecord, rows: NDArray[np.float32]
) -> None:
    """Give a strategy that has just been made the momentum of all clients' rows."""
    inner: Any = strategy
    inner.current_arrays = arrays
    inner.momentum_vector = _as_arrays(names, -rows.sum(axis=0))


def _as_arrays(names: Names, vector: Vector) -> list[NDArray[np.floating]]:
    """Return what is of the parameters in the record's order; of the rest nothing."""
    layout = names.layout
    nothing = np.zeros(layout.width - layout.size, np.float32)
    return list(names.arrays(vector, nothing).values())
