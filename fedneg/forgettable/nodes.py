"""Who is who, and whose data an aggregate may have: Flower's nodes and the clients."""

from collections.abc import Callable, Iterable, Mapping

from flwr.app import Message
from flwr.serverapp import Grid

from fedneg.forgettable.grid import GridWithout


class Nodes:
    """Which client each of Flower's nodes is.

    Parameters
    ----------
    clients : mapping of int to int, or str, optional
        As of `fedneg.forgettable.strategy.Forgettable`.
    """

    def __init__(self, clients: Mapping[int, int] | str | None = None) -> None:
        self._said_by = clients if isinstance(clients, str) else None
        self._client_of = {} if isinstance(clients, str) else dict(clients or {})

    def client(self, node_id: int) -> int:
        """Return the client of a node: by default the node itself."""
        return self._client_of.get(node_id, node_id)

    def get_to_know(self, replies: Iterable[Message]) -> None:
        """Let nodes say who they are, each once, where they are to be believed."""
        for reply in replies:
            node = reply.metadata.src_node_id
            if self._said_by is None or node in self._client_of or reply.has_error():
                continue
            for metrics in reply.content.metric_records.values():
                said = metrics.get(self._said_by)
                if isinstance(said, int) or (
                    isinstance(said, float) and said.is_integer()
                ):
                    self._client_of[node] = int(said)

    def grid_of(self, grid: Grid, takes_part: Callable[[int], bool]) -> Grid:
        """Return a grid with the nodes of some clients alone."""
        return GridWithout(grid, lambda node: not takes_part(self.client(node)))

    def replies_of(
        self, replies: Iterable[Message], takes_part: Callable[[int], bool]
    ) -> list[Message]:
        """Return the replies that are of some clients."""
        return [
            reply
            for reply in replies
            if takes_part(self.client(reply.metadata.src_node_id))
        ]
