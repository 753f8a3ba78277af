"""FedAvg that keeps a ledger, knows clients by id, and runs in phases.

`LedgerFedAvg` is a `flwr.serverapp.strategy.FedAvg`: `start()` is Flower's own, only
the hooks differ. A run is a sequence of phases (train, unlearn, recover, retrain); each
is one call of `start()` after `begin()` has said what the phase is. In the first round
of an unlearn phase the method rectifies the parameters on the server; where it needs no
client, `configure_train` returns no messages and `aggregate_train` what was rectified.

Differs from Flower's FedAvg: all clients take part from round 1 (the stock strategy
counts nodes before a simulation has registered them); replies are validated and summed
in the order of client ids, so that every engine gives the same bytes; a server learning
rate and momentum form the server optimiser of the paper's section 3.2.

Longer than others: the hooks of one round belong together, and what can stand alone
(roster, replies, phases, questions, what a method implements) has a file of its own.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
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

from fedneg.core.machine import cache_root
from fedneg.core.parameters import (
    NDArrays,
    Shapes,
    Vector,
    add,
    flatten,
    shapes_of,
    unflatten,
    weights_of,
)
from fedneg.core.seeding import rng
from fedneg.core.settings import Config
from fedneg.core.source import code_digest
from fedneg.ledger.ledger import Ledger
from fedneg.ledger.rows import KeptUpdates, Rows, make_rows, release
from fedneg.strategies.claims import reason_of
from fedneg.strategies.hooks import NO_HOOKS, Hooks
from fedneg.strategies.method import ForgettingMethod
from fedneg.strategies.phases import Failure, Phase, RoundReport
from fedneg.strategies.questions import Questions
from fedneg.strategies.replies import Reply, absurd, read_reply
from fedneg.strategies.roster import Roster
from fedneg.tasks.model import initial_parameters

# What a subclass may override without changing how a federation is trained.
FORGETTING = {
    *vars(ForgettingMethod),
    *("combine", "evaluate_clients", "question_clients", "_abc_impl"),
}


class LedgerFedAvg(ForgettingMethod, Questions, FedAvg):
    """FedAvg with a ledger; subclasses say how to forget (`ForgettingMethod`).

    Parameters
    ----------
    config : Config
        The whole run; `config.strategy.options` are checked by the class's `Options`.
    task : str
        JSON that tells the clients what to train; sent with every message.
    hooks : Hooks, optional
        Who is out, which rounds stand, and who is told what.
    roster : Roster, optional
        By default that of a simulation.
    """

    def __init__(
        self,
        config: Config,
        task: str,
        hooks: Hooks = NO_HOOKS,
        roster: Roster | None = None,
    ) -> None:
        # Clients evaluate when asked by name (`evaluate_clients`), not every round.
        super().__init__(min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1)
        self.fraction_evaluate = 0.0
        self.config, self.settings, self.task = config, config.strategy, task
        self.options = self.parse_options(config)
        self.hooks = hooks
        self.roster = roster or Roster(config.clients, hooks=hooks)
        self.forgotten: set[int] = set()
        self.forgetting: tuple[int, ...] = ()
        self.phase = Phase("train", tuple(range(config.clients)), config.rounds)
        self.reports: list[RoundReport] = []
        self.method_report: dict[str, Any] = {}
        self.unanswered: dict[int, str] = {}
        self._asked: dict[int, int] = {}
        self._shapes: Shapes = ()
        self._global: Vector = np.empty(0, dtype=np.float32)
        self.initial = self._rectified = self._global
        self._ledger: Ledger | None = None
        self._server_bytes: int | None = None
        # Replies of a round wait here until all are in.
        self._waiting: Rows = make_rows(0, 0)

    def combine(self, number: int, good: Mapping[int, Reply]) -> Vector:
        """Return the parameters after an unlearn round; by default FedAvg.

        `good` is empty where the method asks nobody; where nobody that was asked gave a
        usable answer, the parameters stay and this is not called. The ledger is told,
        so that its identity goes on to hold.
        """
        local = {k: self.adjust(number, k, r.local) for k, r in good.items()}
        return self._record(local, good)

    def training_identity(self) -> dict[str, Any]:
        """Return what this class adds to that which determines a training.

        Forgetting comes after it, so a method that overrides nothing of the training
        shares trainings with all others; one that does brings its code and options.
        """
        found: dict[str, Any] = {"local_models": self._keep_local}
        if self.keeps_updates:
            found["updates"] = self.keeps_updates
        above = type(self).__mro__[: type(self).__mro__.index(LedgerFedAvg)]
        names = {name for cls in above for name in vars(cls) if name[:2] != "__"}
        if {n for n in names if hasattr(LedgerFedAvg, n)} - FORGETTING:
            found["options"] = asdict(self.options)
            found["code"] = code_digest(tuple(cls.__module__ for cls in above))
        return found

    # -- phases ------------------------------------------------------------------------

    @property
    def remaining(self) -> tuple[int, ...]:
        """Client ids that are not being forgotten, now or before."""
        out = self.forgotten | set(self.forgetting)
        return tuple(k for k in range(self.config.clients) if k not in out)

    @property
    def ledger(self) -> Ledger:
        """The ledger of the current model; made by `reset`."""
        assert self._ledger is not None, "reset() comes first"
        return self._ledger

    @property
    def server_bytes(self) -> int:
        """What the method reads of that which the server keeps (`Needs`), bytes.

        Measured when forgetting began, the last time; before that, of the ledger now.
        """
        if self._server_bytes is None:
            return self.needs().server_bytes
        return self._server_bytes

    @property
    def _keep_local(self) -> bool:
        """Whether the ledger keeps last local models: needed, or asked for."""
        return self.keeps_local_models or self.settings.keep_local_models

    def reset(self, initial: NDArrays) -> None:
        """Start a new lineage: an empty ledger at these initial parameters.

        A ledger beyond `strategy.ledger_memory_mib` lies on the disk.
        """
        self._shapes = shapes_of(initial)
        # Before the new ones are made: there may be room for one ledger only.
        self._ledger, self._waiting = None, make_rows(0, 0)
        start, clients = flatten(initial), self.config.clients
        # The ledger's own may come to hold what forgetting left (`fold_correction`).
        self.initial = start
        every = self.keeps_updates
        kept = -(-self.config.rounds // every) if every else 0
        rows = clients * (1 + kept)
        large = rows * start.nbytes > self.settings.ledger_memory_mib * 2**20
        folder = cache_root() / "scratch" if large else None
        self._ledger = Ledger(
            start,
            clients=clients,
            learning_rate=self.settings.server_learning_rate,
            momentum=self.settings.server_momentum,
            keep_local=self._keep_local,
            updates=KeptUpdates(every, make_rows(clients * kept, start.size, folder)),
            folder=folder,
        )
        self._waiting = make_rows(self._sample_size(clients), start.size, folder)

    def fresh_parameters(self, draw: int) -> Vector:
        """Return other initial parameters, which no training ever saw; `draw` >= 1."""
        arrays = initial_parameters(
            self._shapes[0][1],
            self.config.model.hidden,
            self._shapes[-1][0],
            seed=self.config.seed,
            draw=draw,
        )
        return flatten(arrays)

    def begin(self, phase: Phase, forget: Sequence[int] = ()) -> None:
        """Say which phase the next `start()` runs; `forget` is for an unlearn phase."""
        self.phase, self.forgetting = phase, tuple(sorted(forget))

    def _number(self, current_round: int) -> int:
        """Return the history's number for round 1.. of the current phase."""
        return self.phase.first_round + current_round - 1

    # -- a round -----------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send the global parameters to the phase's clients; to nobody to unlearn."""
        self._global = flatten(arrays.to_numpy_ndarrays())
        self.reports.append(RoundReport(self._number(server_round), self.phase.name))
        stream = self.phase.first_stream + server_round - 1
        content = ConfigRecord({"server-round": stream, "task": self.task})
        if self.phase.name == "unlearn":
            if server_round == 1:
                self._unlearn()
                arrays = ArrayRecord(unflatten(self._global, self._shapes))
            out, self._asked = self._out(), {}
            asked = [k for k in self.unlearn_clients(server_round) if k not in out]
            if not asked:
                return []
            content["server-round"] = self.unlearn_stream(server_round) or stream
            for name, value in self.unlearn_settings(server_round).items():
                content[name] = value
            self._discover(grid, asked)
        else:
            asked = self._sample(self._taking_part(grid), stream)
        record = RecordDict(
            {self.arrayrecord_key: arrays, self.configrecord_key: content}
        )
        for client_id in sorted(set(asked) - set(self.roster.node_of)):
            self._fail(client_id, "not online")
        messages = self._to_clients(record, asked, MessageType.TRAIN)
        self.reports[-1].bytes_down = len(messages) * self._global.nbytes
        return messages

    def _taking_part(self, grid: Grid) -> list[int]:
        """Return the phase's clients but those who are out; wait for their nodes."""
        clients = [k for k in self.phase.clients if k not in self.hooks.excluded()]
        self._discover(grid, clients)
        return clients

    def _discover(self, grid: Grid, clients: Collection[int]) -> None:
        minimum = self.settings.min_clients
        self.roster.discover(
            grid,
            clients,
            minimum=None if minimum is None else min(minimum, len(clients)),
            timeout_s=self.settings.wait_for_clients_s,
        )

    def _sample_size(self, clients: int) -> int:
        """Return how many of so many clients train in a round."""
        return max(1, round(self.settings.client_fraction * clients))

    def _sample(self, clients: Sequence[int], stream: int) -> list[int]:
        """Return who trains in a round, drawn without replacement.

        Every client id draws a number, and the smallest take part: a retraining
        without some clients samples the others as the training did.
        """
        size = self._sample_size(len(clients))
        if size == len(clients):
            return list(clients)
        draws = rng(self.config.seed, "sample", stream).random(self.config.clients)
        return sorted(sorted(clients, key=lambda k: draws[k])[:size])

    def sampled(self, number: int) -> tuple[int, ...]:
        """Return which of the remaining clients train in unlearn round `number`.

        All of them, or `client_fraction` of them, drawn as for a round of training that
        tells its clients the same server round.
        """
        out = self.hooks.excluded()
        clients = [k for k in self.remaining if k not in out]
        own = self.phase.first_stream + number - 1
        return tuple(self._sample(clients, self.unlearn_stream(number) or own))

    def _to_clients(
        self, record: RecordDict, clients: Iterable[int], message_type: str
    ) -> list[Message]:
        """Address one record to those clients that are online, wherever they are."""
        ids = sorted(set(clients) & set(self.roster.node_of))
        self._asked = {self.roster.node_of[k]: k for k in ids}
        return list(
            self._construct_messages(
                record, [self.roster.node_of[k] for k in ids], message_type
            )
        )

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the next global parameters; FedAvg, or the unlearn round's result."""
        report = self.reports[-1]
        is_unlearning = self.phase.name == "unlearn"
        if is_unlearning and not self.unlearn_clients(server_round):
            self._global = self.combine(server_round, {})
        else:
            good = self._gated(self._validated(replies))
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
            elif is_unlearning:
                self._global = self.combine(server_round, good)
            else:
                local = {k: reply.local for k, reply in good.items()}
                self._global = self._record(local, good)
            release(self._waiting)
        return ArrayRecord(unflatten(self._global, self._shapes)), MetricRecord()

    def _record(self, local: Mapping[int, Vector], good: Mapping[int, Reply]) -> Vector:
        """Enter local models into the ledger; return the parameters after FedAvg."""
        number = self.reports[-1].server_round
        counts = {k: reply.num_examples for k, reply in good.items()}
        norms = {k: reply.norms for k, reply in good.items()}
        return self.ledger.record(number, self._global, local, counts, norms)

    def _unlearn(self) -> None:
        """Run the method, and take the forgotten clients out of ledger and sampling."""
        before, ids = self._global, self.forgetting
        # While all rows are there.
        self._server_bytes = self.needs().server_bytes
        self._global = self._rectified = self.rectify(before, ids)
        if self.starts_over:
            self.ledger.start_over(self._global)
        else:
            self.ledger.forget(
                ids, before=before, after=self._global, spread=self.spread
            )
        self.forgotten |= set(ids)

    def _out(self) -> set[int]:
        """Return who is out, but for those that take part in their own forgetting."""
        leaving = self.forgetting if self.needs_leaving_client else ()
        return set(self.hooks.excluded()) - set(leaving)

    # -- what is believed of a reply ---------------------------------------------------

    def _validated(self, messages: Iterable[Message]) -> dict[int, Reply]:
        """Return the usable replies by client id, in order; the rest are failures."""
        good: dict[int, Reply] = {}
        answered: set[int] = set()
        for message in messages:
            client_id = self._asked.get(message.metadata.src_node_id)
            if client_id is None:
                # An error may come from the SuperLink and name no client: whoever is
                # missing below is found by difference.
                log(WARNING, "a reply from a node that was not asked is dropped")
            elif client_id in answered:
                if good.pop(client_id, None) is not None:
                    self._fail(client_id, "answered more than once")
            else:
                answered.add(client_id)
                self.hooks.on_reply(len(answered), len(self._asked))
                try:
                    good[client_id] = self._read(message, client_id, len(answered) - 1)
                except Exception as error:
                    # Whatever the bytes of somebody's choice lead to is that client's
                    # failure, and not the server's.
                    self._fail(client_id, reason_of(error))
        for client_id in sorted(set(self._asked.values()) - answered):
            self._fail(client_id, "no reply")
        for client_id in sorted(self._out() & set(good)):
            del good[client_id]
            self._fail(client_id, "asked to be forgotten meanwhile")
        good = dict(sorted(good.items()))
        limit = self.settings.max_update_norm_ratio
        for client_id, reason in absurd(good, limit).items():
            del good[client_id]
            self._fail(client_id, reason)
        return good

    def _gated(self, good: dict[int, Reply]) -> dict[int, Reply]:
        """Return the replies, or none if the round that they make may not stand.

        Only a round that forgotten clients train is looked at: they may wish the model
        no good, and whoever trains alone is compared with nobody (`absurd`). What they
        all may cost is measured from where the phase, or the method, began: it does
        not add up.
        """
        if not good or not set(good) & self.forgotten:
            return good
        weights = weights_of([r.num_examples for r in good.values()])
        terms = [
            (w, r.local - self._global)
            for w, r in zip(weights, good.values(), strict=True)
        ]
        if self.hooks.accept(self._rectified, add(self._global, terms)):
            return good
        for client_id in good:
            self._fail(
                client_id, "its round failed the gate; the model before it is kept"
            )
        return {}

    def _read(self, message: Message, client_id: int, place: int) -> Reply:
        """Return a checked reply, its parameters in a row where they can wait."""
        reply = read_reply(
            message,
            client_id,
            shapes=self._shapes,
            before=self._global,
            settings=self.settings,
            out=self._waiting[place],
        )
        release(self._waiting)
        return reply

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

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask nobody: clients evaluate whole models, in `evaluate_clients`."""
        return []

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

        self._global = self._rectified = parameters
        self.start(
            grid,
            ArrayRecord(unflatten(parameters, self._shapes)),
            num_rounds=phase.rounds,
            timeout=self.settings.round_timeout_s,
            evaluate_fn=evaluate_fn,
        )
        return self._global
