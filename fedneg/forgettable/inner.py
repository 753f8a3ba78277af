"""The strategies in one another, and what they wait for."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flwr.serverapp.strategy import Strategy

MINIMA = ("min_train_nodes", "min_evaluate_nodes", "min_available_nodes")


def layers(strategy: Strategy) -> list[Any]:
    """Return a strategy and those that it wraps, from the outside in."""
    found: list[Any] = [strategy]
    while isinstance(inner := getattr(found[-1], "strategy", None), Strategy):
        found.append(inner)
    return found


class Minima:
    """How many nodes a strategy, and what it wraps, waits for and wants.

    They are its owner's, and stay so: lower ones are in force only while the strategy
    does something.
    """

    def __init__(self, strategy: Strategy) -> None:
        self._places = [
            (one, name)
            for one in layers(strategy)
            for name in MINIMA
            if hasattr(one, name)
        ]
        self._out = self._there = 0

    def fit(self, *, out: int, there: int = 0) -> None:
        """Let a strategy that waits for all nodes not wait for those that are out.

        Parameters
        ----------
        out : int
            Nodes that are.
        there : int
            Others that are online: as far as they meet a minimum it stays.
        """
        self._out, self._there = out, there

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Have them as low as they must be; and as they were in the end."""
        wanted = [getattr(one, name) for one, name in self._places]
        # As many as there are, but for those who have still to come.
        low = [max(w - self._out, min(w, max(self._there, 1))) for w in wanted]
        for (one, name), value in zip(self._places, low, strict=True):
            setattr(one, name, value)
        try:
            yield
        finally:
            for (one, name), value, own in zip(self._places, low, wanted, strict=True):
                if getattr(one, name) == value:  # else the strategy has said otherwise
                    setattr(one, name, own)
