"""A grid in which some nodes are not there."""

from collections.abc import Callable, Iterable
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid


class GridWithout(Grid):
    """Another grid, without those of its nodes that are out.

    Parameters
    ----------
    grid : Grid
    is_out : callable
        Whether a node, by its id, is.
    """

    def __init__(self, grid: Grid, is_out: Callable[[int], bool]) -> None:
        self._grid, self._is_out = grid, is_out

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the nodes that are there."""
        return [node for node in self._grid.get_node_ids() if not self._is_out(node)]

    def set_run(self, run: Any) -> None:
        """Hand on."""
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        """That of the whole grid."""
        return self._grid.run

    def create_message(self, *arguments: Any, **more: Any) -> Message:
        """Hand on."""
        return self._grid.create_message(*arguments, **more)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand on."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Hand on."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Hand on."""
        return self._grid.send_and_receive(messages, timeout=timeout)
