"""Who is who, and who is out: Flower's nodes and the clients."""

from collections.abc import Callable, Collection, Iterable, Mapping
from logging import WARNING
from operator import index

from flwr.app import Message
from flwr.common import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedneg.core.errors import FedNegError
from fedneg.forgettable.grid import GridWithout
from fedneg.forgettable.identity import is_client_id, take
from fedneg.forgettable.inner import Minima


class Nodes:
    """Which client each of Flower's nodes is.

    Parameters
    ----------
    strategy : Strategy
        The inner one, which waits for nodes.
    clients : mapping of int to int, or str, optional
        As of `fedneg.forgettable.strategy.Forgettable`.
    """

    def __init__(
        self, strategy: Strategy, clients: Mapping[int, int] | str | None = None
    ) -> None:
        # Also who has asked to be forgotten: they are asked for nothing.
        self._out: set[int] = set()
        self.minima = Minima(strategy)
        self._has_warned = False
        self._said_by = clients if isinstance(clients, str) else None
        if self._said_by == "":
            raise FedNegError("clients must name a metric, got ''")
        self._client_of = {} if isinstance(clients, str) else _told(clients)
        # Of these nodes the owner says it, and may call several one client.
        self._told = dict(self._client_of)
        # These have said nothing, and are clients under their own ids.
        self._unsaid = set[int]()

    @property
    def known(self) -> dict[str, int]:
        """The clients of those nodes of whom it was said, by their ids as text."""
        return {str(node): client for node, client in self._client_of.items()}

    def remember(self, known: Mapping[str, int]) -> None:
        """Take back what `known` gave; who says otherwise now is right."""
        self._client_of = {int(k): v for k, v in known.items()} | self._client_of

    def client(self, node_id: int) -> int:
        """Return the client of a node: by default the node itself."""
        return self._client_of.get(node_id, node_id)

    def stay(self, clients: Iterable[int]) -> None:
        """Let nodes that were clients of their own be so, whatever they say later."""
        for client_id in set(clients) - set(self._client_of.values()):
            self._client_of.setdefault(client_id, client_id)

    def get_to_know(self, replies: Iterable[Message], *, trained: bool = True) -> None:
        """Let nodes say who they are, each once; take out of replies what says so.

        Whoever trained and did not say it is a client of its own from then on: its rows
        are under that name, and being forgotten must stick to it.

        Parameters
        ----------
        trained : bool
            Whether the replies are of a training, or else of measuring.

        Raises
        ------
        FedNegError
            If two nodes say in one round that they are the same client, or one says it
            is a client that goes by another node's id.
        """
        nodes = dict[int, int]()  # of each client, in this round
        for reply in replies:
            if reply.has_error():
                continue
            node, said = reply.metadata.src_node_id, take(reply.content)
            self._learn(node, said, reply, trained=trained)
            client = self.client(node)
            other = nodes.setdefault(client, node)
            if other != node and not {node, other} <= self._told.keys():
                raise FedNegError(
                    f"nodes {other} and {node} both answer as client {client} in one "
                    "round: give each its own client id, or say by clients= that they "
                    "are one client's"
                )

    def _learn(
        self, node: int, said: int | None, reply: Message, *, trained: bool
    ) -> None:
        """Let a node be the client that it says it is, if it is none yet."""
        if node not in self._client_of:
            found = self._metric(reply)
            found = said if found is None else found
            if found is not None:
                self._check_apart(node, found, {found} & self._unsaid)
                self._client_of[node] = found
            elif trained:
                others = {k for k, one in self._client_of.items() if one == node}
                self._check_apart(node, node, others)
                self._client_of[node] = node
                self._unsaid.add(node)
                if self._said_by is not None:
                    log(
                        WARNING,
                        "fedneg: the reply of node %d has no metric %r that is a "
                        "client id, a whole number from 0: its client is called %d, "
                        "and under another node it would be another",
                        *(node, self._said_by, node),
                    )

    def _check_apart(self, node: int, client: int, others: Collection[int]) -> None:
        """Raise FedNegError where other nodes are a client by chance of its name."""
        for other in set(others) - {node}:
            raise FedNegError(
                f"nodes {other} and {node} would both be client {client}, since one "
                "says nothing of its client and goes by its own id: say by clients= "
                "who each is"
            )

    def _metric(self, reply: Message) -> int | None:
        """Return what the metric says that was named to say it."""
        for metrics in reply.content.metric_records.values():
            said = None if self._said_by is None else metrics.get(self._said_by)
            if isinstance(said, float) and said.is_integer():
                said = int(said)
            if isinstance(said, int) and is_client_id(said):
                return said
        return None

    def leave_out(self, client_ids: Iterable[int]) -> None:
        """Ask clients for nothing any more, and believe nothing that they send."""
        self._out |= set(client_ids)
        self.minima.fit(out=len(self._out))

    def take_back(self) -> None:
        """Ask everybody again, as if nobody had been forgotten."""
        self._out = set()
        self.minima.fit(out=0)

    def is_in(self, client_id: int) -> bool:
        """Return whether a client may be asked, and believed."""
        return client_id not in self._out

    def grid_of(self, grid: Grid, takes_part: Callable[[int], bool]) -> Grid:
        """Return a grid with the nodes of some clients alone.

        The strategy's minima are made to fit: it waits for nobody who is out.

        Raises
        ------
        FedNegError
            If every node that is online is out: it would be waited for others for ever.
            Or if somebody is out, and nothing tells who of these nodes that is. Or if
            a node of whom nothing was told has the name of another one's client.
        """
        online = list(grid.get_node_ids())
        self._check_told(online)
        self._check_known(online)
        there = sum(takes_part(self.client(node)) for node in online)
        if online and not there:
            raise FedNegError(
                f"nobody is left to train: the clients of all {len(online)} nodes that "
                "are online were forgotten, or have no part in this round"
            )
        # A client that is out may have several nodes, and be offline.
        known = sum(client in self._out for client in self._client_of.values())
        out = max(len(online) - there, known, len(self._out))
        self.minima.fit(out=out, there=there)
        return GridWithout(
            grid,
            lambda node: not takes_part(self.client(node)),
            lambda messages: self.to_be_sent(messages, takes_part),
        )

    def to_be_sent(
        self, messages: Iterable[Message], takes_part: Callable[[int], bool]
    ) -> list[Message]:
        """Return the messages that are to some clients; say once if there are others.

        A strategy may have a list of nodes of its own, and who was forgotten is not
        even to be sent a model.
        """
        found = list[Message]()
        for message in messages:
            node = message.metadata.dst_node_id
            if takes_part(self.client(node)):
                found.append(message)
            elif not self._has_warned:
                self._has_warned = True
                log(
                    WARNING,
                    "fedneg: the strategy has a message for node %d, whose client %d "
                    "was forgotten or has no part in this round: nothing is sent to "
                    "such nodes",
                    *(node, self.client(node)),
                )
        return found

    def _check_told(self, online: Iterable[int]) -> None:
        """Raise FedNegError where a node would be another one's client by its name."""
        clients = {client: node for node, client in self._told.items()}
        for node in online:
            if node in clients and node not in self._client_of:
                raise FedNegError(
                    f"clients= says that node {clients[node]} is client {node}, and "
                    f"nothing of node {node}, whose client would be called so too: say "
                    "of that node who it is"
                )

    def _check_known(self, online: Collection[int]) -> None:
        """Raise FedNegError where whoever is out would come back under another name."""
        known = self._client_of
        named_by_node = known and all(node == client for node, client in known.items())
        if self._out and named_by_node and online and not known.keys() & set(online):
            raise FedNegError(
                f"none of the {len(online)} nodes that are online is one that trained "
                "before, so nothing tells which of them was forgotten: a simulation's "
                "node ids are new each time. Let clients say who they are, by "
                "serve(app) or clients="
            )

    def replies_of(
        self, replies: Iterable[Message], takes_part: Callable[[int], bool]
    ) -> list[Message]:
        """Return the replies that are of some clients."""
        return [
            reply
            for reply in replies
            if takes_part(self.client(reply.metadata.src_node_id))
        ]


def _told(clients: Mapping[int, int] | None) -> dict[int, int]:
    """Return what the owner says of nodes and clients, as whole numbers."""
    found = dict[int, int]()
    try:
        for node, client in dict(clients or {}).items():
            if isinstance(client, bool) or isinstance(node, bool) or index(node) < 0:
                raise TypeError
            found[index(node)] = index(client)
        if not all(map(is_client_id, found.values())):
            raise TypeError
    except (TypeError, ValueError):
        raise FedNegError(
            "clients must say of each node id which client id it is, whole numbers "
            f"from 0, or name a metric, got {clients!r}"
        ) from None
    return found
