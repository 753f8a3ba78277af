"""A grid in which some nodes are not there."""

from collections.abc import Callable, Iterable
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid

Messages = Iterable[Message]


class GridWithout(Grid):
    """Another grid, without those of its nodes that are out.

    Parameters
    ----------
    grid : Grid
    is_out : callable
        Whether a node, by its id, is.
    kept : callable
        From messages to those of them that are to be sent: a strategy may have a list
        of nodes of its own.
    """

    def __init__(
        self,
        grid: Grid,
        is_out: Callable[[int], bool],
        kept: Callable[[Messages], list[Message]],
    ) -> None:
        self._grid, self._is_out, self._kept = grid, is_out, kept

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the nodes that are there."""
        return [node for node in self._grid.get_node_ids() if not self._is_out(node)]

    def get_nodes(self) -> Iterable[Any]:
        """Return what is known of the nodes that are there."""
        nodes = self._grid.get_nodes()
        return [node for node in nodes if not self._is_out(node.node_id)]

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

    def push_messages(self, messages: Messages) -> Iterable[str]:
        """Send messages, but for those to nodes that are out."""
        return self._grid.push_messages(self._kept(messages))

    def pull_messages(self, message_ids: Iterable[str]) -> Messages:
        """Hand on."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Messages, *, timeout: float | None = None
    ) -> Messages:
        """Send messages, but for those to nodes that are out; return the replies."""
        return self._grid.send_and_receive(self._kept(messages), timeout=timeout)
