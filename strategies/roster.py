"""Who is who: which of Flower's nodes is which client, found by asking.

Flower's node ids are random and may change when a node restarts; client ids do not.
Nothing beyond this file keys anything by a node id. A real node is believed by its
public key (`strategy.trust`): who claims another's id could have that client forgotten,
or poison its row of the ledger. Whoever is refused is asked nothing any more.

A little longer than most: who is waited for, asked again and believed share one state.
"""

import math
import time
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from logging import WARNING

from flwr.app import Message, MessageType, RecordDict
from flwr.common import log
from flwr.serverapp import Grid

from fedneg.core.errors import FedNegError
from fedneg.flower_internals import nodes_with_keys
from fedneg.records.pins import FIRST_SIGHT, Pins, key_digest_of
from fedneg.strategies.claims import MAX_COUNT, count, reason_of, shown
from fedneg.strategies.hooks import NO_HOOKS, Hooks

# A node that gave no usable answer is asked again after so long; one that gave none
# (it hangs) after twice as long every time: whoever is asked with it waits for it.
ASK_AGAIN_S = 5.0
QUESTION_TIMEOUT_S = 60.0
# Nobody hangs in a simulation, but its first workers may still be importing: on a busy
# machine Ray's took over a minute, and whoever was asked then was given up.
SIMULATED_TIMEOUT_S = 600.0


@dataclass
class Node:
    """A node and what it says of itself.

    Attributes
    ----------
    key : str
        Digest of its public key; empty without one.
    claims : int or None
        The client id that it claims; None until it has said so.
    refused : str
        Why it is not believed; empty if it is.
    asked_at : float
        When it was last asked, monotonic seconds.
    silences : int
        How often it was asked in vain.
    """

    key: str
    claims: int | None = None
    refused: str = ""
    asked_at: float = -math.inf
    silences: int = 0


class Roster:
    """The nodes of clients 0..K-1.

    Parameters
    ----------
    clients : int
        K.
    trust : str or None
        How real nodes are believed, as in `StrategySettings`; None for the nodes of a
        simulation, which fedneg or Flower made itself.
    pins : Pins, optional
        The keys of the clients, for a trust that needs them.
    hooks : Hooks, optional
        Told whose node is refused, and who is waited for.

    Attributes
    ----------
    node_of : dict of client id to node id
        Who is online and believed, as far as `discover` has seen.
    absent : set of int
        Client ids that a round has waited for in vain, and does not wait for again.
    """

    def __init__(
        self,
        clients: int,
        trust: str | None = None,
        pins: Pins | None = None,
        hooks: Hooks = NO_HOOKS,
    ) -> None:
        self.clients, self.trust, self.hooks = clients, trust, hooks
        self.pins = Pins() if pins is None else pins
        self.node_of: dict[int, int] = {}
        self._nodes: dict[int, Node] = {}
        self.absent: set[int] = set()
        self._missed: set[int] = set()
        self._last_error = ""

    @property
    def refused(self) -> dict[int, str]:
        """Why nodes that are online are refused, by the client id that they claim."""
        return {
            node.claims: node.refused
            for node in self._nodes.values()
            if node.refused and node.claims is not None
        }

    def discover(
        self,
        grid: Grid,
        wanted: Collection[int] | None = None,
        *,
        minimum: int | None = None,
        timeout_s: float = 120.0,
    ) -> None:
        """Wait until clients are online and believed; ask only nodes that are new.

        Parameters
        ----------
        wanted : collection of int, optional
            Client ids that are waited for; by default all.
        minimum : int, optional
            After the time, go on if so many of them are there; by default all must be.
            Who was waited for in vain is not waited for again.
        timeout_s : float

        Raises
        ------
        FedNegError
            If a simulation has another number of nodes than clients, or too many are
            still missing after `timeout_s`; it names the first.
        """
        wanted = range(self.clients) if wanted is None else wanted
        deadline = time.monotonic() + timeout_s
        told = False
        while True:
            self._look(grid)
            missing = sorted(set(wanted) - set(self.node_of))
            self.absent &= set(missing)
            enough = minimum is not None and len(wanted) - len(missing) >= minimum
            if not missing or (enough and set(missing) <= self.absent):
                return
            # In a simulation nobody comes later, and nobody is replaced.
            hopeless = self.trust is None and bool(self.refused)
            if hopeless or time.monotonic() > deadline:
                if enough:
                    self.absent |= set(missing)
                    return
                raise FedNegError(self._missing(wanted, missing, minimum, timeout_s))
            if not told and time.monotonic() > deadline - timeout_s + 1:
                self.hooks.on_wait(
                    f"waiting for clients {missing}, up to {timeout_s:g} s"
                )
                told = True
            time.sleep(0.1)

    def look_for(
        self, grid: Grid, wanted: Collection[int], *, timeout_s: float
    ) -> None:
        """Wait a little for clients, and go on without those that do not come.

        Who was waited for in vain, here or by `discover`, is not waited for again;
        whom `discover` waits for stays as it was.
        """
        deadline = time.monotonic() + timeout_s
        told = False
        while True:
            self._look(grid)
            self._missed -= set(self.node_of)
            missing = set(wanted) - set(self.node_of)
            hopeless = self.trust is None and bool(self.refused)
            if missing <= self._missed | self.absent or hopeless:
                return
            if time.monotonic() > deadline:
                self._missed |= missing
                return
            if not told and time.monotonic() > deadline - timeout_s + 1:
                self.hooks.on_wait(f"waiting for clients {sorted(missing)}")
                told = True
            time.sleep(0.1)

    def _missing(
        self,
        wanted: Collection[int],
        missing: list[int],
        minimum: int | None,
        timeout_s: float,
    ) -> str:
        """Return what a user should know of clients that did not come."""
        whom = f"all {len(wanted)}" if minimum is None else f"{minimum} of"
        names = ", ".join(map(str, missing[:10])) + (", ..." if missing[10:] else "")
        are = f"client {names} is" if len(missing) == 1 else f"clients {names} are"
        refused = "".join(f"; refused: {why}" for why in self.refused.values())
        return (
            f"waited {timeout_s:g} s for {whom} clients; {are} not online"
            f"{refused}{self._last_error}"
        )

    def _look(self, grid: Grid) -> None:
        """See who is online, ask the new ones, and decide who is believed."""
        online = self._online(grid)
        known = self._nodes
        self._nodes = {
            # A node with another key is another node, whatever its number.
            number: known[number]
            if number in known and known[number].key == key
            else Node(key)
            for number, key in online.items()
        }
        now = time.monotonic()
        new = [
            number
            for number, node in sorted(self._nodes.items())
            if node.claims is None
            and now - node.asked_at >= ASK_AGAIN_S * 2**node.silences
        ]
        self._ask(grid, new)
        self._decide()

    def _online(self, grid: Grid) -> dict[int, str]:
        """Return the nodes that are online, each with its key's digest."""
        if self.trust in (None, "unauthenticated"):
            return dict.fromkeys(grid.get_node_ids(), "")
        found = {}
        for number, public in nodes_with_keys(grid).items():
            try:
                key = key_digest_of(public) if public else ""
            except ValueError:
                key = ""
            found[number] = key
        return found

    def _ask(self, grid: Grid, nodes: list[int]) -> None:
        """Ask nodes for their client ids and enter the answers."""
        questions = [
            Message(RecordDict(), message_type=MessageType.QUERY, dst_node_id=node)
            for node in nodes
        ]
        if not questions:
            return
        silent = set(nodes)
        timeout_s = SIMULATED_TIMEOUT_S if self.trust is None else QUESTION_TIMEOUT_S
        for reply in grid.send_and_receive(questions, timeout=timeout_s):
            node = self._nodes.get(reply.metadata.src_node_id)
            silent.discard(reply.metadata.src_node_id)
            try:
                client_id, simulated_nodes = _identity(reply)
            except Exception as error:  # whatever it sent: it is not believed
                self._last_error = f"; a node answered: {reason_of(error)}"
                continue
            if simulated_nodes not in (0, self.clients):
                numbers = (
                    f"clients={self.clients} but the federation has {simulated_nodes} "
                    "nodes"
                )
                if self.trust is not None:  # one real node's word ends no run
                    self._last_error = f"; a node answered: {numbers}"
                    continue
                raise FedNegError(
                    f"{numbers}; make them equal, e.g. flwr run . --federation-config "
                    f"'num-supernodes={self.clients}'"
                )
            if node is not None:
                node.claims = client_id
        for number in nodes:
            node = self._nodes[number]
            node.silences += number in silent
            node.asked_at = time.monotonic()

    def _decide(self) -> None:
        """Believe each client id's one node, or none."""
        self.pins.refresh()  # the operator may have listed a key meanwhile
        self.node_of = {}
        reasons: dict[int, str] = {}
        claimants: dict[int, list[int]] = defaultdict(list)
        for number, node in self._nodes.items():
            if node.claims is None:
                continue
            reasons[number] = self._distrust(node.claims, node.key)
            if not reasons[number]:
                claimants[node.claims].append(number)
        for client_id, numbers in sorted(claimants.items()):
            if len(numbers) > 1:
                # Whoever came second may be the impostor, or the restarted client.
                why = f"two nodes call themselves client {client_id}"
            else:
                why = self._pin(client_id, self._nodes[numbers[0]].key)
            reasons |= dict.fromkeys(numbers, why)
            if not why:
                self.node_of[client_id] = numbers[0]
        self._refuse(reasons)

    def _pin(self, client_id: int, key: str) -> str:
        """Pin a key at first sight; return why it cannot be, or nothing."""
        if self.trust != "first_sight" or self.pins.key_of(client_id) is not None:
            return ""
        try:
            self.pins.add(client_id, key, FIRST_SIGHT)
        except FedNegError as error:  # nobody's key ends the run of the others
            return str(error)
        return ""

    def _distrust(self, client_id: int, key: str) -> str:
        """Return why a node with this key is not that client, or nothing."""
        if client_id not in range(self.clients):
            return (
                f"a node calls itself client {client_id}; client ids are 0 to "
                f"{self.clients - 1} (clients={self.clients})"
            )
        if self.trust in (None, "unauthenticated"):
            return ""
        if not key:
            return (
                f"the node that calls itself client {client_id} has no key, and "
                f"strategy.trust={self.trust} needs one"
            )
        pinned, owner = self.pins.key_of(client_id), self.pins.client_of(key)
        if owner not in (None, client_id):
            return f"client {owner}'s node claims to be client {client_id}"
        if pinned is None and self.trust == "listed":
            return (
                f"the operator's roster has no key for client {client_id} (fedneg "
                "roster add, or strategy.trust=first_sight)"
            )
        if pinned not in (None, key):
            return (
                f"a node with another key ({key[:16]}) claims to be client {client_id}"
            )
        return ""

    def _refuse(self, reasons: Mapping[int, str]) -> None:
        """Enter why nodes are refused, if they are, and say so once."""
        for number, why in reasons.items():
            node = self._nodes[number]
            if why and why != node.refused:
                log(WARNING, "refused: %s", why)
                self.hooks.on_refused(node.claims, why)
            node.refused = why


def _identity(reply: Message) -> tuple[int, int]:
    """Return client id and number of simulated nodes; raises what is wrong."""
    if reply.has_error():
        raise ValueError(reply.error.reason)
    answer = reply.content.config_records["identity"]
    client_id, nodes = (answer[name] for name in ("client-id", "num-partitions"))
    # A text that reads as a number is none: two readers might read it differently.
    for value in (client_id, nodes):
        if type(value) is not int:
            raise ValueError(f"its client id must be a number, got {shown(value)}")
    # Whether it is one of this federation's is for `_distrust` to say, by name.
    client_id = count("client-id", client_id, least=-MAX_COUNT)
    return client_id, count("num-partitions", nodes)
