"""FedAvg that keeps a ledger, knows clients by id, and runs in phases.

`LedgerFedAvg` is a `flwr.serverapp.strategy.FedAvg`: `start()` is Flower's own, only
the hooks differ. A run is a sequence of phases (train, unlearn, recover, retrain); each
is one call of `start()` after `begin()` has said what the phase is. In an unlearn round
no client is asked to train: `configure_train` returns no messages and `aggregate_train`
returns the rectified parameters.

Differs from Flower's FedAvg: all clients take part from round 1 (the stock strategy
counts nodes before a simulation has registered them); replies are validated and summed
in the order of client ids, so that every engine gives the same bytes; a server learning
rate and momentum form the server optimiser of the paper's section 3.2.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from logging import WARNING
from typing import Any

import numpy as np
from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.common import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from fedneg.errors import FedNegError
from fedneg.ledger import Ledger
from fedneg.parameters import NDArrays, Shapes, Vector, flatten, shapes_of, unflatten
from fedneg.settings import Config, build

DISCOVERY_TIMEOUT_S = 120.0
PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Phase:
    """A stretch of rounds with the same clients.

    Attributes
    ----------
    name : str
        train, unlearn, recover or retrain.
    clients : tuple of int
        Client ids that train in it.
    rounds : int
    first_round : int
        Number of its first round in the history.
    first_stream : int
        Server round that the first round tells the clients: their random streams hang
        on it, so a retraining draws what the training drew.
    """

    name: str
    clients: tuple[int, ...]
    rounds: int
    first_round: int = 1
    first_stream: int = 1


@dataclass(frozen=True)
class Failure:
    """A client that was left out of a round, and why."""

    server_round: int
    phase: str
    client_id: int
    reason: str


@dataclass
class RoundReport:
    """What happened in one round; `metrics` are the replies' own, per client."""

    server_round: int
    phase: str
    clients: int = 0
    failures: list[Failure] = field(default_factory=list)
    metrics: dict[int, dict[str, float]] = field(default_factory=dict)
    bytes_up: int = 0
    bytes_down: int = 0


@dataclass(frozen=True)
class _Reply:
    """A validated answer to a training message."""

    local: Vector
    num_examples: int
    metrics: dict[str, float]


class LedgerFedAvg(FedAvg):
    """FedAvg with a ledger; subclasses say how to forget by overriding `rectify`.

    Parameters
    ----------
    config : Config
        The whole run; `config.strategy.options` are checked by the class's `Options`.
    task : str
        JSON that tells the clients what to train; sent with every message.
    """

    @dataclass(frozen=True)
    class Options:
        """Options of the method, as in its YAML; subclasses replace this class."""

    def __init__(self, config: Config, task: str) -> None:
        # Clients evaluate when asked by name (`evaluate_clients`), not every round.
        super().__init__(min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1)
        self.fraction_evaluate = 0.0
        self.config, self.settings, self.task = config, config.strategy, task
        self.options = self.parse_options(config)
        self.node_of: dict[int, int] = {}
        self.forgotten: set[int] = set()
        self.forgetting: tuple[int, ...] = ()
        self.phase = Phase("train", tuple(range(config.clients)), config.rounds)
        self.reports: list[RoundReport] = []
        self.method_report: dict[str, Any] = {}
        self._asked: dict[int, int] = {}
        self._shapes: Shapes = ()
        self._global: Vector = np.empty(0, dtype=np.float32)
        self._ledger: Ledger | None = None

    @classmethod
    def parse_options(cls, config: Config) -> Any:
        """Check and freeze the method's own options; raises FedNegError."""
        return build(cls.Options, "strategy", config.strategy.options)

    # -- what a method implements ------------------------------------------------------

    def rectify(self, before: Vector, client_ids: tuple[int, ...]) -> Vector:
        """Return the parameters after forgetting; the ledger still has `client_ids`.

        Runs on the server, sees `self.ledger` and nothing of any client's data.
        """
        raise FedNegError(f"strategy={self.settings.name} cannot forget a client")

    # -- phases ------------------------------------------------------------------------

    @property
    def ledger(self) -> Ledger:
        """The ledger of the current model; made by `reset`."""
        assert self._ledger is not None, "reset() comes first"
        return self._ledger

    def reset(self, initial: NDArrays) -> None:
        """Start a new lineage: an empty ledger at these initial parameters."""
        self._shapes = shapes_of(initial)
        self._ledger = Ledger(
            flatten(initial),
            clients=self.config.clients,
            learning_rate=self.settings.server_learning_rate,
            momentum=self.settings.server_momentum,
        )

    def begin(self, phase: Phase, forget: Sequence[int] = ()) -> None:
        """Say which phase the next `start()` runs; `forget` is for an unlearn phase."""
        self.phase, self.forgetting = phase, tuple(sorted(forget))

    def _number(self, current_round: int) -> int:
        """Return the history's number for round 1.. of the current phase."""
        return self.phase.first_round + current_round - 1

    # -- who is who --------------------------------------------------------------------

    def discover(self, grid: Grid, timeout_s: float = DISCOVERY_TIMEOUT_S) -> None:
        """Learn which node is which client by asking; wait until all K are there.

        Flower's node ids are random and change when a node restarts; client ids do not.

        Raises
        ------
        FedNegError
            If the federation has another number of nodes than `clients`, two nodes
            claim one client id, or not all are online within `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        wanted = set(range(self.config.clients))
        while True:
            nodes = set(grid.get_node_ids())
            self.node_of = {c: n for c, n in self.node_of.items() if n in nodes}
            self._ask(grid, sorted(nodes - set(self.node_of.values())))
            missing = sorted(wanted - set(self.node_of))
            if not missing:
                return
            if time.monotonic() > deadline:
                raise FedNegError(
                    f"waited {timeout_s:g} s for all {len(wanted)} clients; "
                    f"client {missing[0]} is not online"
                )
            time.sleep(0.1)

    def _ask(self, grid: Grid, nodes: list[int]) -> None:
        """Ask nodes for their client ids and enter the answers in `node_of`."""
        if not nodes:
            return
        questions = [
            Message(RecordDict(), message_type=MessageType.QUERY, dst_node_id=node)
            for node in nodes
        ]
        for reply in grid.send_and_receive(questions, timeout=DISCOVERY_TIMEOUT_S):
            if reply.has_error():
                continue
            answer = reply.content.config_records["identity"]
            node, client_id = reply.metadata.src_node_id, int(str(answer["client-id"]))
            simulated = int(str(answer["num-partitions"]))
            if simulated not in (0, self.config.clients):
                raise FedNegError(
                    f"clients={self.config.clients} but the federation has {simulated} "
                    "nodes; make them equal, e.g. flwr run . --federation-config "
                    f"'num-supernodes={self.config.clients}'"
                )
            if client_id not in range(self.config.clients):
                raise FedNegError(
                    f"a node calls itself client {client_id}; client ids are 0 to "
                    f"{self.config.clients - 1} (clients={self.config.clients})"
                )
            if self.node_of.setdefault(client_id, node) != node:
                raise FedNegError(f"two nodes call themselves client {client_id}")

    # -- a round -----------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send the global parameters to the phase's clients; to nobody to unlearn."""
        self._global = flatten(arrays.to_numpy_ndarrays())
        self.reports.append(RoundReport(self._number(server_round), self.phase.name))
        if self.phase.name == "unlearn":
            return []
        self.discover(grid)
        content = ConfigRecord(
            {
                "server-round": self.phase.first_stream + server_round - 1,
                "task": self.task,
            }
        )
        record = RecordDict(
            {self.arrayrecord_key: arrays, self.configrecord_key: content}
        )
        messages = self._to_clients(record, self.phase.clients, MessageType.TRAIN)
        self.reports[-1].bytes_down = len(messages) * self._global.nbytes
        return messages

    def _to_clients(
        self, record: RecordDict, clients: Iterable[int], message_type: str
    ) -> list[Message]:
        """Address one record to clients, by the nodes that they are at now."""
        ids = sorted(clients)
        self._asked = {self.node_of[k]: k for k in ids}
        return list(
            self._construct_messages(
                record, [self.node_of[k] for k in ids], message_type
            )
        )

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the next global parameters; FedAvg, or the unlearn round's result."""
        report = self.reports[-1]
        if self.phase.name == "unlearn":
            after = self._unlearn()
        else:
            good = self._validated(replies)
            report.clients = len(good)
            report.metrics = {k: r.metrics for k, r in good.items()}
            report.bytes_up = len(good) * self._global.nbytes
            if not good:
                log(
                    WARNING,
                    "round %d (%s): no usable reply; the model stays as it was",
                    report.server_round,
                    self.phase.name,
                )
            after = self.ledger.record(
                report.server_round,
                self._global,
                {k: r.local for k, r in good.items()},
                {k: r.num_examples for k, r in good.items()},
            )
        self._global = after
        return ArrayRecord(unflatten(after, self._shapes)), MetricRecord()

    def _unlearn(self) -> Vector:
        """Run the method, and take the forgotten clients out of ledger and sampling."""
        after = self.rectify(self._global, self.forgetting)
        self.ledger.forget(self.forgetting, before=self._global, after=after)
        self.forgotten |= set(self.forgetting)
        return after

    # -- what is believed of a reply ---------------------------------------------------

    def _validated(self, replies: Iterable[Message]) -> dict[int, _Reply]:
        """Return the usable replies by client id, in order; the rest are failures."""
        good: dict[int, _Reply] = {}
        answered: set[int] = set()
        repeated: set[int] = set()
        for message in replies:
            if message.has_error():
                # An error may come from the SuperLink and name no client: whoever is
                # missing below is found by difference. Its reason is kept if it fits.
                client_id = self._asked.get(message.metadata.src_node_id)
                if client_id is not None and client_id not in answered:
                    answered.add(client_id)
                    self._fail(client_id, f"error: {message.error.reason}")
                continue
            client_id = self._asked.get(message.metadata.src_node_id)
            if client_id is None:
                log(WARNING, "a reply from a node that was not asked is dropped")
                continue
            if client_id in answered:
                repeated.add(client_id)
            answered.add(client_id)
            try:
                good[client_id] = self._read(message, client_id)
            except (ValueError, KeyError, TypeError, OverflowError) as error:
                self._fail(client_id, str(error).strip("'\""))
        for client_id in sorted(repeated & set(good)):
            del good[client_id]
            self._fail(client_id, "answered more than once")
        for client_id in sorted(set(self._asked.values()) - answered):
            self._fail(client_id, "no reply")
        self._drop_absurd(good)
        return dict(sorted(good.items()))

    def _read(self, message: Message, client_id: int) -> _Reply:
        """Return the reply's content; raises what names the fault."""
        arrays = message.content.array_records[self.arrayrecord_key].to_numpy_ndarrays()
        metrics = _numbers(message.content)
        claimed = int(metrics.pop("client-id"))
        if claimed != client_id:
            raise ValueError(f"claims to be client {claimed}")
        num_examples = metrics.pop(self.weighted_by_key)
        if int(num_examples) != num_examples or not (
            0 < num_examples <= self.settings.max_num_examples
        ):
            raise ValueError(
                f"num-examples must be 1 to {self.settings.max_num_examples}, "
                f"got {num_examples}"
            )
        if shapes_of(arrays) != self._shapes:
            raise ValueError(
                f"arrays of shapes {self._shapes} expected, got {shapes_of(arrays)}"
            )
        if any(a.dtype.kind != "f" for a in arrays):
            raise ValueError("arrays must be floating point")
        local = flatten(arrays)
        if not np.isfinite(local).all():
            raise ValueError("parameters are not finite")
        return _Reply(local, int(num_examples), metrics)

    def _drop_absurd(self, good: dict[int, _Reply]) -> None:
        """Drop updates whose norm is far above the round's others."""
        if len(good) < 2:
            return
        norms = {
            k: float(np.linalg.norm((r.local - self._global).astype(np.float64)))
            for k, r in good.items()
        }
        for client_id, norm in norms.items():
            others = float(np.median([n for k, n in norms.items() if k != client_id]))
            limit = self.settings.max_update_norm_ratio * others
            if others > 0 and norm > limit:
                del good[client_id]
                self._fail(
                    client_id,
                    f"update norm {norm:.3g} exceeds max_update_norm_ratio="
                    f"{self.settings.max_update_norm_ratio:g} times the others' "
                    f"median {others:.3g}",
                )

    def _fail(self, client_id: int, reason: str) -> None:
        """Enter a failure in the round's report and log it by client id."""
        report = self.reports[-1]
        report.failures.append(
            Failure(report.server_round, report.phase, client_id, reason)
        )
        log(
            WARNING,
            "round %d (%s): client %d left out: %s",
            report.server_round,
            report.phase,
            client_id,
            reason,
        )

    # -- evaluation on clients ---------------------------------------------------------

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask nobody: clients evaluate whole models, in `evaluate_clients`."""
        return []

    def evaluate_clients(
        self, grid: Grid, parameters: Vector, parts: Sequence[str] = PARTS
    ) -> dict[int, dict[str, float]]:
        """Return what each client measures of a model on parts of its own data.

        Clients that do not answer are missing from the result.
        """
        self.discover(grid)
        record = RecordDict(
            {
                self.arrayrecord_key: ArrayRecord(unflatten(parameters, self._shapes)),
                self.configrecord_key: ConfigRecord(
                    {"task": self.task, "parts": " ".join(parts)}
                ),
            }
        )
        messages = self._to_clients(
            record, range(self.config.clients), MessageType.EVALUATE
        )
        found: dict[int, dict[str, float]] = {}
        for reply in grid.send_and_receive(
            messages, timeout=self.settings.round_timeout_s
        ):
            client_id = self._asked.get(reply.metadata.src_node_id)
            if client_id is None or reply.has_error():
                continue
            metrics = _numbers(reply.content)
            if metrics.pop("client-id") == client_id:
                found[client_id] = metrics
        for client_id in sorted(set(self._asked.values()) - set(found)):
            log(WARNING, "client %d did not evaluate the model", client_id)
        return dict(sorted(found.items()))

    # -- one phase, whole --------------------------------------------------------------

    def run_phase(
        self,
        grid: Grid,
        phase: Phase,
        parameters: Vector,
        *,
        forget: Sequence[int] = (),
        after_round: Callable[[RoundReport, Vector], Mapping[str, float]] | None = None,
    ) -> Vector:
        """Run a phase through Flower's `start()` and return the parameters after it.

        Parameters
        ----------
        parameters : Vector, shape (d,)
            Global parameters before the phase.
        after_round : callable, optional
            Called with the report and the new global parameters of every round; returns
            what it measured of them.
        """
        self.begin(phase, forget)

        def evaluate_fn(server_round: int, arrays: ArrayRecord) -> MetricRecord:
            if not server_round or after_round is None:
                return MetricRecord()
            return MetricRecord(dict(after_round(self.reports[-1], self._global)))

        self._global = parameters
        self.start(
            grid,
            ArrayRecord(unflatten(parameters, self._shapes)),
            num_rounds=phase.rounds,
            timeout=self.settings.round_timeout_s,
            evaluate_fn=evaluate_fn,
        )
        return self._global


def _numbers(content: RecordDict) -> dict[str, float]:
    """Return the plain numbers of a reply's metrics."""
    record = content.metric_records["metrics"]
    return {k: v for k, v in record.items() if isinstance(v, int | float)}
