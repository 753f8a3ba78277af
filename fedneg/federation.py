"""A federation in the words of a run: train, unlearn, recover, retrain, evaluate.

The seam between mathematics and Flower, whatever Grid reaches the clients. The main job
is told in these words (fedneg/job.py), and so is that of a federation that lives on
(fedneg/live/job.py).

Longer than others, since `Federation` is one class whose phases share history, times
and checkpoints.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from flwr.serverapp import Grid

from fedneg.core import outputs
from fedneg.core.errors import FedNegError
from fedneg.core.formats import human_bytes
from fedneg.core.parameters import (
    Vector,
    digest_of_model,
    flatten,
    shapes_of,
    unflatten,
)
from fedneg.core.progress import Progress
from fedneg.core.settings import Config, Task
from fedneg.core.unanswered import ANSWER, EVALUATE, Unanswered
from fedneg.data.datasets import default_root, load_dataset
from fedneg.data.partition import partition
from fedneg.evaluation.client_answers import ClientAnswers
from fedneg.evaluation.evidence import (
    KeptAnswers,
    KeptEvidence,
    ModelEvidence,
    ServerTest,
)
from fedneg.flower_internals import is_deployed
from fedneg.history import history_row
from fedneg.ledger.checkpoint import LARGE_BYTES, Checkpoints, Restored
from fedneg.ledger.training_cache import Entry, Store, digest_of, training_identity
from fedneg.records.pins import Pins
from fedneg.records.state import State
from fedneg.strategies import make_strategy
from fedneg.strategies.base import LedgerFedAvg
from fedneg.strategies.hooks import NO_HOOKS, Hooks
from fedneg.strategies.phases import Phase, RoundReport
from fedneg.strategies.roster import Roster
from fedneg.tasks.model import build_mlp, initial_parameters

UNAUTHENTICATED = (
    "strategy.trust=unauthenticated: any node may claim to be any client, have it "
    "forgotten, or poison what the server keeps of it"
)
# What retrainings with other seeds draw, nobody else does.
REFERENCE_DRAWS = 1000
REFERENCE_ROUNDS = 10**6

AfterRound = Callable[[RoundReport, Vector], None]


class Federation:
    """A Grid, a strategy and a test set: everything a run asks of a federation.

    Parameters
    ----------
    grid : Grid
    config : Config
    progress : Progress
        Told of every step and round.
    hooks : Hooks, optional
        Who is out, and who else is told of nodes that are waited for or refused. The
        gate, and what `progress` is told, the federation adds itself.

    Attributes
    ----------
    initial : Vector, shape (d,)
        Parameters before round 1.
    history : list of dict
        One row per round, the columns of history.csv.
    seconds : dict of str to float
        Wall time of each phase, and of writing checkpoints.
    notices : list of str
        What a user must not miss.
    unanswered : list of Unanswered
        Questions about models that clients did not answer.
    reused : set of str
        Phases that an earlier run had trained to their end.
    resumed : dict of str to int
        Phases that were trained, and after which round they went on (0: new).

    Raises
    ------
    FedNegError
        If data is missing or corrupt, or cannot be split among so many clients.
    """

    def __init__(
        self,
        grid: Grid,
        config: Config,
        progress: Progress,
        hooks: Hooks = NO_HOOKS,
    ) -> None:
        cohort = config.engine.cohort
        if cohort > 1 and getattr(grid, "cohort", 1) == 1:
            raise FedNegError(
                "engine.cohort must be 1 where the engine is Flower's own, got "
                f"{cohort}: there every client trains alone"
            )
        self.grid, self.config, self.progress = grid, config, progress
        self.deployed = is_deployed(grid)
        self.notices: list[str] = []
        self.unanswered: list[Unanswered] = []
        self._named: dict[str, str] = {}
        data = config.data
        root = Path(data.root).resolve() if data.root else None
        self.dataset = load_dataset(data.name, root=root, download=data.download)
        if self.deployed:
            shared_root = None
        else:
            # Simulated clients read the files that the server read; and what cannot
            # be split among them should not be found out K times.
            shared_root = str(root or default_root().resolve())
            partition(self.dataset, data, clients=config.clients, seed=config.seed)
        size, classes = self.dataset.input_size, self.dataset.num_classes
        arrays = initial_parameters(
            size, config.model.hidden, classes, seed=config.seed
        )
        self.shapes = shapes_of(arrays)
        self.names = list(build_mlp(size, config.model.hidden, classes).state_dict())
        self.initial = flatten(arrays)
        self.test = ServerTest(self.dataset, config.model, config.attack, self.shapes)
        task = Task.of(config, root=shared_root)
        self.strategy = self._make_strategy(task.to_json(), hooks)
        self.history: list[dict[str, object]] = []
        self.seconds: dict[str, float] = {"checkpoint": 0.0}
        self.reused: set[str] = set()
        self.resumed: dict[str, int] = {}
        self._temporary: list[Entry] = []
        self._entries: dict[bytes, Entry] = {}
        self.unlearn_rounds = self.strategy.unlearn_rounds(config)
        if config.forget:
            progress.skip(1 - self.unlearn_rounds)  # one was planned
        self.strategy.use_server_data(self.dataset)
        self.strategy.reset(arrays)

    def _make_strategy(self, task: str, hooks: Hooks) -> LedgerFedAvg:
        """Return the strategy, with the roster that real or simulated clients need."""

        def on_wait(text: str) -> None:
            self.progress.step(text)
            hooks.on_wait(text)

        own = replace(
            hooks,
            accept=self._passes_gate,
            on_reply=self.progress.clients,
            on_wait=on_wait,
        )
        roster = None
        if self.deployed:
            roster = _roster_of_real_clients(self.config, own)
            if self.config.strategy.trust == "unauthenticated":
                self.notices.append(UNAUTHENTICATED)
        return make_strategy(self.config, task, own, roster)

    def train(self, after_round: AfterRound | None = None) -> Vector:
        """Return the original model: every client, from the initial parameters.

        Whoever wants to see every round (`after_round`) gets a training of its own.
        """
        everybody = tuple(range(self.config.clients))
        self.progress.step(f"training with {len(everybody)} clients")
        self.measure_initial()
        phase = Phase("train", everybody, self.config.rounds)
        if after_round is not None:
            return self._run(phase, self.initial, after_round=after_round)
        return self._run_kept(phase, self.initial, self._identity(everybody))

    @property
    def took_part(self) -> set[int]:
        """Client ids whose updates the current lineage has, in any round of it."""
        entries = self.strategy.ledger.participation
        return {client_id for entry in entries for client_id in entry.weights}

    def measure_initial(self) -> None:
        """Enter the initial parameters into the history, as round 0."""
        first = self.test.measure(self.initial)
        self.history.append(history_row(RoundReport(0, "train"), first, seconds=0.0))

    def round(
        self,
        name: str,
        clients: Sequence[int],
        parameters: Vector,
        *,
        first_round: int,
        first_stream: int,
        shown: tuple[int, int],
        forget: Sequence[int] = (),
    ) -> Vector:
        """Return the model after one round, or one unlearn phase.

        For whoever decides after every round what comes next.

        Parameters
        ----------
        name, clients, first_round, first_stream
            As in `Phase`.
        shown : tuple of int
            The round's number and of how many, for people.
        forget : sequence of int
            Whom an unlearn round is to forget.
        """
        rounds = self.unlearn_rounds if name == "unlearn" else 1
        phase = Phase(name, tuple(clients), rounds, first_round, first_stream)
        return self._run(phase, parameters, forget=forget, shown=shown)

    def start_over(self, server_round: int) -> Vector:
        """Return the initial parameters, with an empty ledger, as a round of it."""
        self.strategy.reset(unflatten(self.initial, self.shapes))
        report = RoundReport(server_round, "unlearn")
        self.strategy.reports.append(report)
        found = self.test.measure(self.initial)
        self.history.append(history_row(report, found, seconds=0.0))
        return self.initial

    def _passes_gate(self, before: Vector, after: Vector) -> bool:
        """Return whether a round that leaving clients trained may stand."""
        least = self.config.strategy.gate * self.test.measure(before).accuracy
        return self.test.measure(after).accuracy >= least

    def unlearn(self, parameters: Vector, forget: Sequence[int]) -> Vector:
        """Return the model right after the unlearn round."""
        first = self.config.rounds + 1
        phase = Phase("unlearn", (), self.unlearn_rounds, first, first_stream=first)
        return self._run(phase, parameters, forget=forget)

    def recover(
        self,
        parameters: Vector,
        clients: Sequence[int],
        rounds: int,
        *,
        forget: Sequence[int] = (),
    ) -> Vector:
        """Return the model after further rounds of FedAvg among `clients`.

        With `forget`, the clients that were forgotten, a killed recovery goes on where
        it stopped; it is of no use to any other run, and `close` removes it.
        """
        first = self.config.rounds + 1 + self.unlearn_rounds
        phase = Phase("recover", tuple(clients), rounds, first, first_stream=first)
        if not forget:
            return self._run(phase, parameters)
        identity = {
            "after": digest_of(self._identity(tuple(range(self.config.clients)))),
            "unlearned": digest_of_model(parameters),
            "forget": list(forget),
            "taking_part": list(clients),
            "rounds": rounds,
        }
        return self._run_kept(phase, parameters, identity, lasting=False)

    def retrain(self, clients: Sequence[int], *, recovery: bool = False) -> Vector:
        """Return the gold standard: from the initial parameters, with `clients` only.

        Starts a new lineage: the ledger of the model before is gone. As `recovery` its
        rounds are the run's own and follow the unlearn round in the history; the random
        streams, and so the bytes, are the same.
        """
        self.strategy.reset(unflatten(self.initial, self.shapes))
        rounds = self.config.rounds
        after = rounds + 1 + self.unlearn_rounds
        name, first = ("recover", after) if recovery else ("retrain", 1)
        phase = Phase(name, tuple(clients), rounds, first_round=first)
        return self._run_kept(phase, self.initial, self._identity(tuple(clients)))

    def retrain_again(self, clients: Sequence[int], draw: int) -> Vector:
        """Return a model retrained with another seed.

        The clients hold what they held; initial parameters, order of the examples and
        sampling of clients are drawn anew. Its rounds are not part of the history.

        Parameters
        ----------
        draw : int
            1, 2, ..: which other seed.
        """
        size, classes = self.dataset.input_size, self.dataset.num_classes
        arrays = initial_parameters(
            *(size, self.config.model.hidden, classes),
            seed=self.config.seed,
            draw=REFERENCE_DRAWS + draw,
        )
        self.strategy.reset(arrays)
        # Streams hang on the round that clients are told, and no run has so many.
        first = 1 + draw * REFERENCE_ROUNDS
        clients, rows = tuple(clients), len(self.history)
        phase = Phase("reference", clients, self.config.rounds, 1, first_stream=first)
        identity = self._identity(clients) | {"draw": draw}
        found = self._run_kept(phase, flatten(arrays), identity)
        del self.history[rows:]
        return found

    def question(
        self, parameters: Vector, targets: Mapping[int, float] | None
    ) -> dict[int, ClientAnswers]:
        """Return what the clients to forget say of a model; see `Judgement`."""
        cap = self.config.verdict.relearn_cap
        every = self.config.verdict.relearn_every
        asked = {
            "clients": list(self.config.forget),
            "attack": asdict(self.config.attack),
            "cap": cap,
            "every": every,
            "targets": None if targets is None else sorted(targets.items()),
        }
        entry = self._entries.get(parameters.tobytes())
        kept = entry and KeptAnswers(entry.folder, parameters, asked)
        found = kept.read() if kept else None
        if found is None:
            found = {}
            for client_id in self.config.forget:
                found |= self.strategy.question_clients(
                    self.grid,
                    parameters,
                    (client_id,),
                    relearn_target=(targets or {}).get(client_id),
                    relearn_cap=cap,
                    check_every=every,
                )
                self._note(ANSWER, self._name_of(parameters))
            if kept and len(found) == len(self.config.forget):
                kept.write(found)
        return found

    def close(self) -> None:
        """Remove what was kept for this run only, now that its results are written."""
        for entry in self._temporary:
            with suppress(BlockingIOError), entry.locked():
                entry.remove()

    def on_client_tests(self, parameters: Vector) -> dict[int, Mapping[str, float]]:
        """Return each client's metrics of a model on its own test part.

        Raises
        ------
        FedNegError
            If one did not answer: the paper's tables have no empty cell.
        """
        found = self.strategy.evaluate_clients(self.grid, parameters, ("test",))
        for client_id, why in self.strategy.unanswered.items():
            raise FedNegError(
                f"client {client_id} did not measure a model on its test part: {why}"
            )
        return dict(found)

    def evaluate(self, name: str, parameters: Vector) -> ModelEvidence:
        """Measure a model on the server's test set and on every client's data."""
        self.progress.step(f"evaluating the {name} model")
        self._named[digest_of_model(parameters)] = f"the {name} model"
        kept = self._kept_evidence(parameters)
        found = kept.read(name) if kept else None
        if found is None:
            answers = self.strategy.evaluate_clients(self.grid, parameters)
            self._note(EVALUATE, self._name_of(parameters))
            found = ModelEvidence(
                name,
                self.test.measure(parameters),
                self.test.attack_success_rate(parameters),
                answers,
            )
            if kept and len(answers) == self.config.clients:
                kept.write(found)
        return found

    def _name_of(self, parameters: Vector) -> str:
        """Return what people call a model that clients are asked about."""
        return self._named.get(
            digest_of_model(parameters), "a model retrained with another seed"
        )

    def _note(self, question: str, model: str) -> None:
        """Write down, and show, who did not answer the last question."""
        last = int(str(self.history[-1]["server_round"])) if self.history else 0
        for client_id, why in self.strategy.unanswered.items():
            self.unanswered.append(Unanswered(question, model, last, client_id, why))
            self.progress.step(
                f"client {client_id} did not {question} ({model}): {why}"
            )

    def _kept_evidence(self, parameters: Vector) -> KeptEvidence | None:
        """Return where the evidence of a trained model is kept, if the model is."""
        entry = self._entries.get(parameters.tobytes())
        if entry is None:
            return None
        return KeptEvidence(entry.folder, parameters, self.config.attack)

    def save(self, path: Path, parameters: Vector) -> None:
        """Write a model's parameters as safetensors."""
        outputs.write_model(path, self.names, unflatten(parameters, self.shapes))

    def bytes_of(self, parameters: Vector) -> bytes:
        """Return what `save` writes."""
        return outputs.model_bytes(self.names, unflatten(parameters, self.shapes))

    def _identity(self, clients: tuple[int, ...]) -> dict[str, Any]:
        """Return everything that determines a training with these clients."""
        return training_identity(
            self.config,
            clients=clients,
            data_digest=self.dataset.digest,
            method=self.strategy.training_identity(),
        )

    def _run_kept(
        self,
        phase: Phase,
        parameters: Vector,
        identity: Mapping[str, Any],
        *,
        lasting: bool = True,
    ) -> Vector:
        """Run a phase from where an earlier run of the same one stopped, if any did."""
        # The server does not know the data of real clients: nothing tells it whether
        # another training would be the same.
        if not self.config.cache or self.deployed:
            return self._run(phase, parameters)
        entry = Store().entry(identity)
        if not lasting:
            self._temporary.append(entry)
        step = self.progress.step
        with entry.locked(lambda: step("waiting for a run that trains the same")):
            checkpoints = entry.checkpoints(self.config.checkpoint)
            checkpoints.tidy()
            entry.describe(identity)
            found = checkpoints.restore(self.strategy.ledger, self._warn)
            done = 0 if found is None else found.rounds
            if found is not None:
                parameters = found.parameters
                self._take_back(phase, found)
            if done < phase.rounds:
                checkpoints.check_room(self.strategy.ledger.num_bytes)
                self.resumed[phase.name] = done

                def keep(rounds: int, after: Vector) -> None:
                    self._keep(checkpoints, rounds, phase, after, lasting=lasting)

                parameters = self._run(phase, parameters, done=done, keep=keep)
            # A worker that died is no part of the identity, and may not die again.
            if self._failures_since(len(self.strategy.reports) - phase.rounds):
                entry.forget_checkpoints()
            elif lasting:
                self._entries[parameters.tobytes()] = entry
            return parameters

    def _take_back(self, phase: Phase, found: Restored) -> None:
        """Enter the rounds of a checkpoint into history, reports and times."""
        done, of = found.rounds, phase.rounds
        for number, (row, report) in enumerate(
            zip(found.facts["history"], found.facts["reports"], strict=True),
            start=phase.first_round,
        ):
            self.history.append(row | {"server_round": number, "phase": phase.name})
            self.strategy.reports.append(
                RoundReport.from_json(report, server_round=number, phase=phase.name)
            )
        self.seconds[phase.name] = found.facts["seconds"]
        self.progress.skip(done)
        if done == of:
            self.reused.add(phase.name)
            self.progress.step(f"{phase.name}: all {of} rounds were trained before")
        else:
            self.progress.step(f"{phase.name}: going on after round {done} of {of}")

    def _failures_since(self, start: int) -> bool:
        return any(report.failures for report in self.strategy.reports[start:])

    def _warn(self, text: str) -> None:
        self.notices.append(text)
        self.progress.step(text)

    def _run(
        self,
        phase: Phase,
        parameters: Vector,
        *,
        forget: Sequence[int] = (),
        after_round: AfterRound | None = None,
        done: int = 0,
        keep: Callable[[int, Vector], None] | None = None,
        shown: tuple[int, int] | None = None,
    ) -> Vector:
        """Run what is left of a phase; measure, show, time and keep every round."""
        started = round_started = time.perf_counter()
        outside, before = 0.0, self.seconds.get(phase.name, 0.0)

        def on_round(report: RoundReport, after: Vector) -> dict[str, float]:
            nonlocal round_started, outside
            ended = time.perf_counter()
            self.seconds[phase.name] = before + ended - started - outside
            found = self.test.measure(after)
            self.history.append(
                history_row(report, found, seconds=ended - round_started)
            )
            number = report.server_round - phase.first_round + 1
            self.progress.round(
                phase.name,
                *(shown or (number, phase.rounds)),
                accuracy=found.accuracy,
                loss=found.loss,
                failures=[
                    f"round {f.server_round}: client {f.client_id} left out: {f.reason}"
                    for f in report.failures
                ],
            )
            if after_round is not None:
                after_round(report, after)
            if keep is not None:
                keep(number, after)
            # Measuring and keeping are no part of what a phase costs.
            round_started = time.perf_counter()
            outside += round_started - ended
            return {"accuracy": found.accuracy, "loss": found.loss}

        rest = replace(
            phase,
            rounds=phase.rounds - done,
            first_round=phase.first_round + done,
            first_stream=phase.first_stream + done,
        )
        return self.strategy.run_phase(
            self.grid, rest, parameters, forget=forget, after_round=on_round
        )

    def _keep(
        self,
        checkpoints: Checkpoints,
        done: int,
        phase: Phase,
        after: Vector,
        *,
        lasting: bool,
    ) -> None:
        """Write a checkpoint if one is due."""
        ledger = self.strategy.ledger
        size = ledger.num_bytes
        started = time.perf_counter()
        if checkpoints.is_due(done, phase.rounds, size, lasting=lasting):
            if size > LARGE_BYTES:
                self.progress.step(f"keeping {human_bytes(size)} after round {done}")
            facts = {
                "history": self.history[-done:],
                "reports": [r.to_json() for r in self.strategy.reports[-done:]],
                "seconds": self.seconds[phase.name],
            }
            is_last = done == phase.rounds
            checkpoints.write(done, after, ledger, facts, complete=is_last)
        self.seconds["checkpoint"] += time.perf_counter() - started


def _roster_of_real_clients(config: Config, hooks: Hooks) -> Roster:
    """Return the roster that `strategy.trust` asks for."""
    trust = config.strategy.trust
    if trust == "listed" and config.state is None:
        raise FedNegError(
            "strategy.trust=listed needs state=DIR, whose roster lists the clients' "
            "keys (fedneg roster add); or say strategy.trust=first_sight, or "
            "strategy.trust=unauthenticated to believe anybody"
        )
    pins = State.of(config).pins() if config.state else Pins()
    return Roster(config.clients, trust, pins, hooks)
