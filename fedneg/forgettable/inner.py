"""The strategies in one another, and what they wait for."""

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

    Its owner's values stand, and may be changed at any time; in force are lower ones
    where somebody is out.
    """

    def __init__(self, strategy: Strategy) -> None:
        self._places = [
            (one, name)
            for one in layers(strategy)
            for name in MINIMA
            if hasattr(one, name)
        ]
        self._wanted = [getattr(one, name) for one, name in self._places]
        self._in_force = list(self._wanted)

    def fit(self, *, out: int, there: int = 0) -> None:
        """Let a strategy that waits for all nodes not wait for those that are out.

        Parameters
        ----------
        out : int
            Nodes that are.
        there : int
            Others that are online: as far as they meet a minimum it stays.
        """
        for k, (one, name) in enumerate(self._places):
            if getattr(one, name) != self._in_force[k]:  # its owner has said otherwise
                self._wanted[k] = getattr(one, name)
            wanted = self._wanted[k]
            # As many as there are, but for those who have still to come.
            self._in_force[k] = max(wanted - out, min(wanted, max(there, 1)))
            setattr(one, name, self._in_force[k])
