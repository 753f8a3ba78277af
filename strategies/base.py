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

What a strategy is told, and by whom (hooks.py), who is who (roster.py), who trains in a
round (sampling.py), which replies are believed (inbox.py, replies.py), what clients are
asked beside training (questions.py) and what a method implements (method.py) stand
beside it.
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

from fedneg.arrays import record_of
from fedneg.core.parameters import Vector, flatten
from fedneg.core.samples import GONE
from fedneg.core.settings import Config
from fedneg.core.source import code_digest
from fedneg.ledger.bank import DECAYS
from fedneg.ledger.rows import release
from fedneg.strategies.hooks import NO_HOOKS, Hooks
from fedneg.strategies.inbox import Inbox, leave_out
from fedneg.strategies.lineage import Lineage
from fedneg.strategies.method import ForgettingMethod
from fedneg.strategies.phases import Phase, RoundReport
from fedneg.strategies.questions import Questions
from fedneg.strategies.replies import Reply
from fedneg.strategies.roster import Roster
from fedneg.strategies.sampling import sample

# What a subclass may override without changing how a federation is trained.
FORGETTING = {
    *vars(ForgettingMethod),
    *("combine", "without_answers"),
    *("evaluate_clients", "question_clients", "_abc_impl"),
}


class LedgerFedAvg(Lineage, Questions, FedAvg):
    """FedAvg with a ledger; subclasses say how to forget (`ForgettingMethod`).

    Parameters
    ----------
    config : Config
        The whole run; `config.strategy.options` are checked by the class's `Options`.
    assignment : str
        JSON that tells the clients what to train; sent with every message.
    hooks : Hooks, optional
        Who is out, which rounds stand, and who is told what.
    roster : Roster, optional
        By default that of a simulation.
    """

    def __init__(
        self,
        config: Config,
        assignment: str,
        hooks: Hooks = NO_HOOKS,
        roster: Roster | None = None,
    ) -> None:
        # Clients evaluate when asked by name (`evaluate_clients`), not every round.
        super().__init__(min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1)
        self.fraction_evaluate = 0.0
        self.config, self.settings, self.assignment = (
            config,
            config.strategy,
            assignment,
        )
        self.options = self.parse_options(config)
        self.hooks = hooks
        self.roster = roster or Roster(config.clients, hooks=hooks)
        self.forgotten = set()
        self.forgetting: tuple[int, ...] = ()
        self.phase = Phase("train", tuple(range(config.clients)), config.rounds)
        self.reports: list[RoundReport] = []
        self.method_report: dict[str, Any] = {}
        self.unanswered: dict[int, str] = {}
        self._asked: dict[int, int] = {}
        self._global: Vector = np.empty(0, dtype=np.float32)
        self._rectified = self._global

    def combine(self, number: int, good: Mapping[int, Reply]) -> Vector:
        """Return the parameters after an unlearn round; by default FedAvg.

        `good` is empty where the method asks nobody; where nobody that was asked gave a
        usable answer, this is not called (`without_answers`). The ledger is told, so
        that its identity goes on to hold.
        """
        local = {k: self.adjust(number, k, r.local) for k, r in good.items()}
        return self._record(local, good)

    def without_answers(self, number: int) -> Vector:
        """Return the parameters after an unlearn round without a usable answer.

        By default those before it.
        """
        return self._global

    def training_identity(self) -> dict[str, Any]:
        """Return what this class adds to that which determines a training.

        Forgetting comes after it, so a method that overrides nothing of the training
        shares trainings with all others; one that does brings its code and options.
        """
        found: dict[str, Any] = {"local_models": self._keep_local}
        if self.keeps_updates:
            found["updates"] = self.keeps_updates
        if self.keeps_recent:
            found["recent"] = [self.keeps_recent, *DECAYS]
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
        out = self.forgotten | set(self.leaving)
        return tuple(k for k in range(self.config.clients) if k not in out)

    @property
    def leaving(self) -> tuple[int, ...]:
        """Those that are being forgotten; who forgets some examples only, stays."""
        return () if self.config.forget_samples else self.forgetting

    def begin(self, phase: Phase, forget: Sequence[int] = ()) -> None:
        """Say which phase the next `start()` runs; `forget` is for an unlearn phase."""
        self.phase, self.forgetting = phase, tuple(sorted(forget))

    def go_on_from(self, parameters: Vector) -> None:
        """Say what a round's clients start from, where another strategy asks them."""
        self._global = parameters

    def _number(self, current_round: int) -> int:
        """Return the history's number for round 1.. of the current phase."""
        return self.phase.first_round + current_round - 1

    # -- a round -----------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send the global parameters to the phase's clients; to nobody to unlearn."""
        # What of a model is not trained comes from the ledger's statistics.
        self._global = flatten(arrays.to_numpy_ndarrays())[: self.layout.size]
        part = self._part(server_round)
        self.reports.append(
            RoundReport(self._number(server_round), self.phase.name, part=part)
        )
        stream = self.phase.first_stream + server_round - 1
        content = ConfigRecord(
            {"server-round": stream, "assignment": self.assignment_for(part)}
        )
        if self.phase.name == "unlearn":
            if server_round == 1:
                self._unlearn()
                arrays = record_of(self.layout, self._whole)
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
        self._make_room(len(asked))
        messages = self._to_clients(record, asked, MessageType.TRAIN)
        self.reports[-1].bytes_down = len(messages) * self.layout.nbytes
        return messages

    def _part(self, current_round: int) -> str:
        """Return what of their examples the clients train on in a round."""
        if self.phase.name == "unlearn":
            return self.unlearn_part(current_round)
        return self.phase.part

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

    def _sample(self, clients: Sequence[int], stream: int) -> list[int]:
        """Return who trains in a round; a strategy may draw otherwise."""
        return sample(self.config, clients, stream)

    def sampled(self, number: int) -> tuple[int, ...]:
        """Return which of the remaining clients train in unlearn round `number`.

        All of them, or `client_fraction` of them, drawn as for a round of training that
        tells its clients the same server round.
        """
        out = self.hooks.excluded()
        clients = [k for k in self.remaining if k not in out]
        own = self.phase.first_stream + number - 1
        return tuple(self._sample(clients, self.unlearn_stream(number) or own))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the next global parameters; FedAvg, or the unlearn round's result."""
        report = self.reports[-1]
        is_unlearning = self.phase.name == "unlearn"
        if is_unlearning and not self.unlearn_clients(server_round):
            self._global = self.combine(server_round, {})
        else:
            good = self._usable(replies)
            report.clients = len(good)
            report.metrics = {k: r.metrics for k, r in good.items()}
            report.bytes_up = len(good) * self.layout.nbytes
            if not good:
                log(
                    WARNING,
                    "round %d (%s): no usable reply; the model stays as it was",
                    report.server_round,
                    self.phase.name,
                )
                if is_unlearning:
                    self._global = self.without_answers(server_round)
            elif is_unlearning:
                self._global = self.combine(server_round, good)
            else:
                local = {k: reply.local for k, reply in good.items()}
                self._global = self._record(local, good)
            release(self._waiting)
        return record_of(self.layout, self._whole), MetricRecord()

    def _usable(self, replies: Iterable[Message]) -> dict[int, Reply]:
        """Return the replies that the round is made of, by client id, in order."""
        inbox = Inbox(
            self.reports[-1],
            self._asked,
            self._global,
            self.layout,
            self._waiting,
            self.settings,
            self.hooks,
        )
        good = inbox.take_in(replies, self._out)
        gated = set(self.forgotten)
        if self.reports[-1].part == GONE:
            gated |= set(self.forgetting)
        return inbox.gated(
            good,
            forgotten=gated,
            since=self._rectified,
            whole=self.ledger.whole,
        )

    def _fail(self, client_id: int, reason: str) -> None:
        leave_out(self.reports[-1], client_id, reason)

    def _record(self, local: Mapping[int, Vector], good: Mapping[int, Reply]) -> Vector:
        """Enter local models into the ledger; return the parameters after FedAvg."""
        number = self.reports[-1].server_round
        norms = {k: reply.norms for k, reply in good.items()}
        return self.enter_models(number, self._global, local, good, norms)

    def _unlearn(self) -> None:
        """Run the method, and take the forgotten clients out of ledger and sampling."""
        ids = self.forgetting
        self._global = self._rectified = self.take_out(self._global, ids)

    def _out(self) -> set[int]:
        """Return who is out, but for those that take part in their own forgetting."""
        leaving = self.forgetting if self.needs_leaving_client else ()
        return set(self.hooks.excluded()) - set(leaving)

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
        parameters : Vector, shape (layout.width,)
            The global model before the phase, its statistics those of the ledger.
        after_round : callable, optional
            Called with the report and the new global parameters of every round; returns
            what it measured of them.
        """
        self.begin(phase, forget)

        def evaluate_fn(server_round: int, arrays: ArrayRecord) -> MetricRecord:
            if not server_round or after_round is None:
                return MetricRecord()
            return MetricRecord(dict(after_round(self.reports[-1], self._whole)))

        self._global = self._rectified = parameters[: self.layout.size]
        self.start(
            grid,
            record_of(self.layout, parameters),
            num_rounds=phase.rounds,
            timeout=self.settings.round_timeout_s,
            evaluate_fn=evaluate_fn,
        )
        return self._whole

    @property
    def _whole(self) -> Vector:
        """The global model: parameters, and the statistics of those who stay."""
        return self.ledger.whole(self._global)
