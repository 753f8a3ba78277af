"""Who is who: which of Flower's nodes is which client, found by asking.

Flower's node ids are random and change when a node restarts; client ids do not. Nothing
beyond this file keys anything by a node id.
"""

import time

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedneg.errors import FedNegError

DISCOVERY_TIMEOUT_S = 120.0


class Roster:
    """The nodes of clients 0..K-1.

    Attributes
    ----------
    node_of : dict of client id to node id
        Who is online, as far as `discover` has seen.
    """

    def __init__(self, clients: int) -> None:
        self.clients = clients
        self.node_of: dict[int, int] = {}
        self._last_error = ""

    def discover(self, grid: Grid, timeout_s: float = DISCOVERY_TIMEOUT_S) -> None:
        """Wait until every client is online and known; ask only nodes that are new.

        Raises
        ------
        FedNegError
            If a simulation has another number of nodes than clients, a client id is
            out of range or claimed by two nodes, or somebody is still missing after
            `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            nodes = set(grid.get_node_ids())
            self.node_of = {c: n for c, n in self.node_of.items() if n in nodes}
            self._ask(grid, sorted(nodes - set(self.node_of.values())), timeout_s)
            missing = [k for k in range(self.clients) if k not in self.node_of]
            if not missing:
                return
            if time.monotonic() > deadline:
                raise FedNegError(
                    f"waited {timeout_s:g} s for all {self.clients} clients; "
                    f"client {missing[0]} is not online{self._last_error}"
                )
            time.sleep(0.1)

    def _ask(self, grid: Grid, nodes: list[int], timeout_s: float) -> None:
        """Ask nodes for their client ids and enter the answers."""
        questions = [
            Message(RecordDict(), message_type=MessageType.QUERY, dst_node_id=node)
            for node in nodes
        ]
        if not questions:
            return
        for reply in grid.send_and_receive(questions, timeout=timeout_s):
            try:
                client_id, simulated_nodes = _identity(reply)
            except (KeyError, ValueError) as error:
                self._last_error = f"; a node answered: {error}"
                continue
            self._enter(
                reply.metadata.src_node_id,
                client_id=client_id,
                simulated_nodes=simulated_nodes,
            )

    def _enter(self, node: int, *, client_id: int, simulated_nodes: int) -> None:
        """Enter one answer, or raise what is wrong with it."""
        if simulated_nodes not in (0, self.clients):
            raise FedNegError(
                f"clients={self.clients} but the federation has {simulated_nodes} "
                "nodes; make them equal, e.g. flwr run . --federation-config "
                f"'num-supernodes={self.clients}'"
            )
        if client_id not in range(self.clients):
            raise FedNegError(
                f"a node calls itself client {client_id}; client ids are 0 to "
                f"{self.clients - 1} (clients={self.clients})"
            )
        if self.node_of.setdefault(client_id, node) != node:
            raise FedNegError(f"two nodes call themselves client {client_id}")


def _identity(reply: Message) -> tuple[int, int]:
    """Return client id and number of simulated nodes; raises what is wrong."""
    if reply.has_error():
        raise ValueError(reply.error.reason)
    answer = reply.content.config_records["identity"]
    return int(str(answer["client-id"])), int(str(answer["num-partitions"]))
