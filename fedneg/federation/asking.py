"""What is asked of the server's test set and of the clients about a model."""

from collections.abc import Mapping
from dataclasses import asdict

from fedneg.core.errors import FedNegError
from fedneg.core.parameters import Vector, digest_of_model
from fedneg.core.samples import GONE, REST
from fedneg.core.unanswered import ANSWER, EVALUATE, Unanswered
from fedneg.evaluation.client_answers import ClientAnswers
from fedneg.evaluation.evidence import KeptAnswers, KeptEvidence, ModelEvidence
from fedneg.federation.composition import Parts
from fedneg.federation.kept import KeptTrainings
from fedneg.federation.rounds import Rounds
from fedneg.tasks.lookup import code_of


class Asking:
    """Asks about models; what was answered of a kept training's is kept beside it.

    Parameters
    ----------
    parts : Parts
    rounds : Rounds
        Say after which round something was asked.
    kept : KeptTrainings

    Attributes
    ----------
    unanswered : list of Unanswered
        Questions that clients did not answer.
    """

    def __init__(self, parts: Parts, rounds: Rounds, kept: KeptTrainings) -> None:
        self.parts, self.rounds, self.kept = parts, rounds, kept
        self.unanswered: list[Unanswered] = []
        self._named: dict[str, str] = {}

    def evaluate(self, name: str, parameters: Vector) -> ModelEvidence:
        """Measure a model on the server's test set and on every client's data."""
        parts = self.parts
        parts.progress.step(f"evaluating the {name} model")
        self._named[digest_of_model(parameters)] = f"the {name} model"
        entry = self.kept.entry_of(parameters)
        kept = entry and KeptEvidence(
            entry.folder,
            parameters,
            parts.config.attack,
            code_of(parts.config.task),
            parts.config.forget_samples,
        )
        found = kept.read(name) if kept else None
        if found is None:
            answers, gone = self._measured(parameters)
            found = ModelEvidence(
                name,
                parts.test.measure(parameters),
                parts.test.attack_success_rate(parameters),
                answers,
                gone,
            )
            if kept and len(answers) == parts.config.clients:
                kept.write(found)
        return found

    def _measured(
        self, parameters: Vector
    ) -> tuple[dict[int, dict[str, float]], dict[int, dict[str, float]] | None]:
        """Return what all clients measure of a model, and some of what is to go."""
        strategy, grid, config = self.parts.strategy, self.parts.grid, self.parts.config
        if not config.forget_samples:
            answers = strategy.evaluate_clients(grid, parameters)
            self._note(EVALUATE, parameters)
            return answers, None
        answers = strategy.evaluate_clients(grid, parameters, part=REST)
        self._note(EVALUATE, parameters)
        # With a part that is never empty: where only canaries go, no own example does.
        asked, parts = config.forget_samples, ("train", "test")
        gone = strategy.evaluate_clients(
            grid, parameters, parts, among=asked, part=GONE
        )
        self._note(EVALUATE, parameters)
        return answers, gone

    def question(
        self, parameters: Vector, targets: Mapping[int, float] | None
    ) -> dict[int, ClientAnswers]:
        """Return what the clients to forget say of a model; see `Judgement`."""
        config = self.parts.config
        cap, every = config.verdict.relearn_cap, config.verdict.relearn_every
        asked = {
            "clients": list(config.forget),
            "attack": asdict(config.attack),
            "cap": cap,
            "every": every,
            "targets": None if targets is None else sorted(targets.items()),
        }
        if config.forget_samples:
            asked["samples"] = sorted(config.forget_samples.items())
        entry = self.kept.entry_of(parameters)
        kept = entry and KeptAnswers(
            entry.folder, parameters, asked, code_of(config.task)
        )
        found = kept.read() if kept else None
        if found is None:
            found = {}
            for client_id in config.forget:
                found |= self.parts.strategy.question_clients(
                    self.parts.grid,
                    parameters,
                    (client_id,),
                    relearn_target=(targets or {}).get(client_id),
                    relearn_cap=cap,
                    check_every=every,
                )
                self._note(ANSWER, parameters)
            if kept and len(found) == len(config.forget):
                kept.write(found)
        return found

    def on_client_tests(self, parameters: Vector) -> dict[int, Mapping[str, float]]:
        """Return each client's metrics of a model on its own test part.

        Raises
        ------
        FedNegError
            If one did not answer: the paper's tables have no empty cell.
        """
        strategy = self.parts.strategy
        found = strategy.evaluate_clients(self.parts.grid, parameters, ("test",))
        for client_id, why in strategy.unanswered.items():
            raise FedNegError(
                f"client {client_id} did not measure a model on its test part: {why}"
            )
        return dict(found)

    def _note(self, question: str, parameters: Vector) -> None:
        """Write down, and show, who did not answer the last question."""
        model = self._named.get(
            digest_of_model(parameters), "a model retrained with another seed"
        )
        last = self.rounds.last_round
        for client_id, why in self.parts.strategy.unanswered.items():
            self.unanswered.append(Unanswered(question, model, last, client_id, why))
            self.parts.progress.step(
                f"client {client_id} did not {question} ({model}): {why}"
            )
