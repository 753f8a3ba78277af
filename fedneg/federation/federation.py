"""A federation in the words of a run: train, unlearn, recover, retrain, evaluate.

The seam between mathematics and Flower, whatever Grid reaches the clients. The main job
is told in these words (fedneg/job.py), and so is that of a federation that lives on
(fedneg/live/job.py). Here stands which phase each word is; what a federation is made
of (composition.py), how rounds are run (rounds.py), what of earlier runs is taken
(kept.py), what a verdict compares with (references.py) and who is asked about a model
(asking.py) stand beside it.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from flwr.serverapp import Grid
from numpy.typing import NDArray

from fedneg.core import outputs
from fedneg.core.parameters import Vector, digest_of_model, unflatten
from fedneg.core.progress import Progress
from fedneg.core.samples import ALL, GONE, REST
from fedneg.core.settings import Config
from fedneg.evaluation.client_answers import ClientAnswers
from fedneg.evaluation.evidence import ModelEvidence
from fedneg.federation.asking import Asking
from fedneg.federation.composition import compose
from fedneg.federation.kept import KeptTrainings
from fedneg.federation.references import References
from fedneg.federation.rounds import AfterRound, Rounds
from fedneg.ledger.training_cache import digest_of
from fedneg.strategies.hooks import NO_HOOKS, Hooks
from fedneg.strategies.phases import Phase, RoundReport


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
    deployed : bool
        Whether the clients are real ones.
    task : Task
        What is trained.
    strategy : LedgerFedAvg
    test : ServerTest
    initial : Vector, shape (d,)
        Parameters before round 1.
    shapes : Shapes
        Of the model's arrays, in order.
    history : list of dict
        One row per round, the columns of history.csv.
    seconds : dict of str to float
        Wall time of each phase, and of writing checkpoints.
    num_forgotten : dict of int to int
        Of whom only some examples are to go: how many, where the clients are simulated.
    staying : str
        What of their examples those train on who go on.
    notices : list of str
        What a user must not miss.
    reference_reports : list of RoundReport
        Of the references' rounds.
    unanswered : list of Unanswered
        Questions about models that clients did not answer.
    reused : set of str
        Phases that an earlier run had trained to their end.
    resumed : dict of str to int
        Phases that were trained, and after which round they went on (0: new).

    Raises
    ------
    FedNegError
        If data is missing or corrupt, or cannot be split among so many clients; or if
        the engine, or what is known of real clients, does not go with the settings.
    """

    def __init__(
        self,
        grid: Grid,
        config: Config,
        progress: Progress,
        hooks: Hooks = NO_HOOKS,
    ) -> None:
        parts = compose(grid, config, progress, hooks)
        self.grid, self.config, self.progress = grid, config, progress
        self.deployed, self.task = parts.deployed, parts.task
        self.strategy, self.test = parts.strategy, parts.test
        self.initial, self.prototype = parts.initial, parts.prototype
        self.shapes = parts.prototype.layout.shapes
        self.notices = parts.notices
        self._rounds = Rounds(parts)
        self.history, self.seconds = self._rounds.history, self._rounds.seconds
        self._kept = KeptTrainings(parts, self._rounds)
        self.reused, self.resumed = self._kept.reused, self._kept.resumed
        self._references = References(parts, self._kept)
        self.reference_reports = self._references.reports
        self._asking = Asking(parts, self._rounds, self._kept)
        self.unanswered = self._asking.unanswered
        self.num_forgotten = parts.num_forgotten
        self.staying = REST if config.forget_samples else ALL
        self.unlearn_rounds = self.strategy.unlearn_rounds(config)
        if config.forget:
            progress.skip(1 - self.unlearn_rounds)  # one was planned

    @property
    def took_part(self) -> set[int]:
        """Client ids whose updates the current lineage has, in any round of it."""
        return self.strategy.took_part

    def measure_initial(self) -> None:
        """Enter the initial parameters into the history, as round 0."""
        # A mistake in the task's `outputs` is found now, not after a whole training.
        self.test.probabilities(self.initial)
        self._rounds.enter(RoundReport(0, "train"), self.initial)

    def train(self, after_round: AfterRound | None = None) -> Vector:
        """Return the original model: every client, from the initial parameters.

        Whoever wants to see every round (`after_round`) gets a training of its own.
        """
        everybody = tuple(range(self.config.clients))
        self.progress.step(f"training with {len(everybody)} clients")
        self.measure_initial()
        phase = Phase("train", everybody, self.config.rounds)
        if after_round is not None:
            return self._rounds.run(phase, self.initial, after_round=after_round)
        return self._kept.run(phase, self.initial, self._kept.identity(everybody))

    def round(
        self,
        name: str,
        clients: Sequence[int],
        parameters: Vector,
        *,
        first_round: int,
        first_stream: int,
        shown: tuple[int, int] | None = None,
        forget: Sequence[int] = (),
    ) -> Vector:
        """Return the model after one round, or one unlearn phase.

        For whoever decides after every round what comes next.

        Parameters
        ----------
        name, clients, first_round, first_stream
            As in `Phase`.
        shown : tuple of int, optional
            The round's number and of how many, for people; by default those of the
            phase.
        forget : sequence of int
            Whom an unlearn round is to forget.
        """
        rounds = self.unlearn_rounds if name == "unlearn" else 1
        phase = Phase(name, tuple(clients), rounds, first_round, first_stream)
        return self._rounds.run(phase, parameters, forget=forget, shown=shown)

    def start_over(self, server_round: int) -> Vector:
        """Return the initial parameters, with an empty ledger, as a round of it."""
        self.strategy.reset(unflatten(self.initial, self.shapes))
        report = RoundReport(server_round, "unlearn")
        self.strategy.reports.append(report)
        self._rounds.enter(report, self.initial)
        return self.initial

    def unlearn(self, parameters: Vector, forget: Sequence[int]) -> Vector:
        """Return the model right after the unlearn round."""
        first = self.config.rounds + 1
        phase = Phase("unlearn", (), self.unlearn_rounds, first, first_stream=first)
        return self._rounds.run(phase, parameters, forget=forget)

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
        # On what went it is trained again where the paper does that.
        gone = self.config.forget_samples and self.config.retrain == "forgotten"
        phase = Phase(
            *("recover", tuple(clients), rounds, first, first),
            part=GONE if gone else self.staying,
        )
        if not forget:
            return self._rounds.run(phase, parameters)
        identity = {
            "after": digest_of(self._kept.identity(tuple(range(self.config.clients)))),
            "unlearned": digest_of_model(parameters),
            "forget": list(forget),
            "taking_part": list(clients),
            "rounds": rounds,
        }
        if phase.part != ALL:
            identity["part"] = self._kept.identity(tuple(clients), phase.part)
        return self._kept.run(phase, parameters, identity, lasting=False)

    def go_on(
        self, parameters: Vector, clients: Sequence[int], ends: Collection[int]
    ) -> dict[int, Vector]:
        """Return the model after some further numbers of rounds of FedAvg.

        As a federation does that is not over: one training, no part of the history.

        Parameters
        ----------
        parameters : Vector, shape (d,)
            Of the current lineage's model.
        ends : collection of int
            After how many rounds the model is wanted; at least 0.
        """
        rows, config = len(self.history), self.config
        # Streams that no round of the run has had.
        first = config.rounds + self.unlearn_rounds
        first += 1 + max(config.rounds, config.retrain_rounds)
        found, done = {}, 0
        for end in sorted(ends):
            if end > done:
                phase = Phase(
                    *("later", tuple(clients), end - done, first + done, first + done),
                    part=self.staying,
                )
                parameters = self._rounds.run(phase, parameters)
            found[end], done = parameters, end
        del self.history[rows:]
        return found

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
        part = self.staying
        phase = Phase(name, tuple(clients), rounds, first_round=first, part=part)
        identity = self._kept.identity(tuple(clients), part)
        return self._kept.run(phase, self.initial, identity)

    def reference(
        self,
        clients: Sequence[int],
        draw: int,
        *,
        after: Collection[int] = (0,),
        part: str = ALL,
    ) -> dict[int, Vector]:
        """Return a model trained with another seed, after so many further rounds.

        See `References.train`. Not part of the history; the ledger stays as it is.
        """
        return self._references.train(clients, draw, after=after, part=part)

    def evaluate(self, name: str, parameters: Vector) -> ModelEvidence:
        """Measure a model on the server's test set and on every client's data."""
        return self._asking.evaluate(name, parameters)

    def question(
        self, parameters: Vector, targets: Mapping[int, float] | None
    ) -> dict[int, ClientAnswers]:
        """Return what the clients to forget say of a model; see `Judgement`."""
        return self._asking.question(parameters, targets)

    def on_client_tests(self, parameters: Vector) -> dict[int, Mapping[str, float]]:
        """Return each client's metrics of a model on its own test part.

        Raises
        ------
        FedNegError
            If one did not answer: the paper's tables have no empty cell.
        """
        return self._asking.on_client_tests(parameters)

    def close(self) -> None:
        """Remove what was kept for this run only, now that its results are written."""
        self._kept.close()

    def save(self, path: Path, parameters: Vector) -> None:
        """Write a model's parameters as safetensors."""
        outputs.write_model(path, *self._named(parameters))

    def bytes_of(self, parameters: Vector) -> bytes:
        """Return what `save` writes."""
        return outputs.model_bytes(*self._named(parameters))

    def _named(self, model: Vector) -> tuple[list[str], list[NDArray[Any]]]:
        layout = self.prototype.layout
        return layout.names, layout.typed(unflatten(model, layout.shapes))
