"""A run's models measured alike, and what the judge finds of each.

Every model is asked the same: the server's test set, canaries that the server makes
itself, and what the leaving clients answer from their own data. References are asked
too: models of other seeds, trained with the clients and without. The judge is asked
about the original and the retrained model as well: their answers are known.

A little longer than most: which models are there, by how many rounds, and who is in
each, is one state that adding, asking and judging share.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedneg.core.parameters import Vector
from fedneg.core.samples import POISONED
from fedneg.core.settings import Config
from fedneg.evaluation.bank_attack import curves
from fedneg.evaluation.client_answers import ClientAnswers
from fedneg.evaluation.decision import INCONCLUSIVE, IS_RETRAINED, NOT_FORGOTTEN
from fedneg.evaluation.evidence import ModelEvidence, ServerTest
from fedneg.evaluation.judge import Finding
from fedneg.evaluation.looks import OPEN, looked_at, looks_of
from fedneg.evaluation.membership_attacks import Measured
from fedneg.evaluation.relearn import RelearnTime
from fedneg.evaluation.seen import Seen
from fedneg.evaluation.shown import Shown

# Asks leaving clients about a model, given how good each is to become by relearning.
Ask = Callable[[Vector, Mapping[int, float] | None], Mapping[int, ClientAnswers]]
CONTROLS = ("original", "retrained")
# Where each reference lies: told of the judged model alone.
PLACES = ("out", "in")


@dataclass(frozen=True, eq=False)
class Judged:
    """What the judge is shown of a model, and of which references.

    `rounds_after`: rounds beyond the training's that the clients who stay trained in
    it.
    """

    seen: Seen
    rounds_after: int


class Judgement:
    """Collects what is seen of a run's models, and judges.

    Parameters
    ----------
    config : Config
    test : ServerTest
    ask : callable
        Asks the leaving clients; those that do not answer are missing.
    deciding : sequence of str
        Of which models it is to be told whether they have forgotten; by default of the
        one that the run hands over.

    Attributes
    ----------
    looks : tuple of Look
        That there may be: how many references each needs.
    """

    def __init__(
        self,
        config: Config,
        test: ServerTest,
        ask: Ask,
        *,
        deciding: Sequence[str] = (),
    ) -> None:
        self.config, self.test, self._ask = config, test, ask
        self._deciding = tuple(deciding)
        self.looks = looks_of(config.verdict)
        self.models: dict[str, Measured] = {}
        self._judged: dict[str, Judged] = {}
        self._later: dict[int, Judged] = {}
        self._trained_by: dict[str, Collection[int]] = {}
        self._with: dict[int, list[Seen]] = {}
        self._without: dict[int, list[Seen]] = {}
        # What the run's own retrained model and those of other seeds look like.
        self.retrained: list[Measured] = []

    def add(
        self,
        name: str,
        parameters: Vector,
        found: ModelEvidence,
        *,
        trained_by: Collection[int] | None = None,
        rounds_after: int = 0,
    ) -> None:
        """Add a model of the run: the original first.

        Parameters
        ----------
        trained_by : collection of int, optional
            Client ids that took part in a round that led to the model; by default all.
        rounds_after : int
            Rounds beyond the training's in which clients that stay trained it; below 0
            if it had fewer than the training.
        """
        everybody = range(self.config.clients)
        self._trained_by[name] = everybody if trained_by is None else set(trained_by)
        measured = self._measure(
            name, parameters, found.test.accuracy, found.attack_success_rate
        )
        self.models[name] = measured
        self._judged[name] = Judged(self._seen(measured), rounds_after)
        if name == "retrained":
            self.retrained.append(measured)

    def add_later(self, rounds: int, parameters: Vector) -> None:
        """Add the model that was handed over, after further rounds of those who stay.

        Parameters
        ----------
        rounds : int
            How many; at least 0.
        """
        after = self._judged[self.handed_over].rounds_after + rounds
        seen = self._seen(self._measure_reference("", parameters))
        self._later[rounds] = Judged(seen, after)

    def add_trained_with(
        self,
        models: Mapping[int, Vector],
        clients: Collection[int] | None = None,
    ) -> None:
        """Add a reference of another seed, trained with all clients, or with some.

        It is to have as many rounds as what is judged: a model that was trained for
        longer answers otherwise, and that is not the client's doing.

        Parameters
        ----------
        models : mapping of int to Vector
            By rounds beyond the training's, of `rounds_after`.
        clients : collection of int, optional
            Who took part, if not all.
        """
        for after, parameters in models.items():
            seen = self._seen(self._measure_reference("", parameters))
            if clients is not None:
                losses = {k: found for k, found in seen.losses.items() if k in clients}
                seen = replace(seen, losses=losses, canaries={})
            self._with.setdefault(after, []).append(seen)

    def add_trained_without(self, models: Mapping[int, Vector]) -> None:
        """Add a reference of another seed that was trained without the clients.

        Parameters
        ----------
        models : mapping of int to Vector
            By rounds beyond the training's, of `rounds_after`.
        """
        for after, parameters in models.items():
            name = f"retrained with seed {len(self._without.get(after, ())) + 1}"
            measured = self._measure_reference(name, parameters)
            self._without.setdefault(after, []).append(self._seen(measured))
            if not after:
                self.retrained.append(measured)

    @property
    def rounds_after(self) -> frozenset[int]:
        """After how many rounds beyond the training's references are needed."""
        all_of = (*self._judged.values(), *self._later.values())
        return frozenset(one.rounds_after for one in all_of)

    def trained_with(self, rounds_after: int) -> Sequence[Seen]:
        """Return the references with the clients, after so many further rounds."""
        return self._with.get(rounds_after, ())

    def trained_without(self, rounds_after: int) -> Sequence[Seen]:
        """Return the references without the clients, after so many further rounds."""
        return self._without.get(rounds_after, ())

    @property
    def references(self) -> int:
        """How many trainings of other seeds there are."""
        return sum(
            max(map(len, found.values()), default=0)
            for found in (self._with, self._without)
        )

    # -- what is seen of a model -------------------------------------------------------

    def _measure_reference(self, name: str, parameters: Vector) -> Measured:
        quality = self.test.measure(parameters).accuracy
        success = self.test.attack_success_rate(parameters)
        return self._measure(name, parameters, quality, success, relearn=False)

    def _measure(
        self,
        name: str,
        parameters: Vector,
        quality: float,
        success: float | None,
        *,
        relearn: bool = True,
    ) -> Measured:
        """See a model on the server's data and on the leaving clients'."""
        finite = bool(np.isfinite(parameters).all())
        probabilities = self.test.probabilities(parameters) if finite else None
        if finite and self.test.task.outputs is not None:
            finite = probabilities is not None
        elif finite:
            finite = math.isfinite(self.test.measure(parameters).loss)
        return Measured(
            name,
            parameters,
            quality,
            # An answer of NaN is a class, and no trick works by it.
            success if finite else None,
            self.test.attack_base(parameters),
            probabilities,
            self._canary_losses(parameters) if finite else {},
            self._answers(parameters, relearn=relearn) if finite else {},
        )

    def _seen(self, measured: Measured) -> Seen:
        """Return what the judge is shown of a model."""
        marker, rate = None, measured.attack_success
        if rate is not None:
            count = sum(map(len, self.test.attacked))
            marker = (round(rate * count), count)
        # A member's scaled confidence is log(p / (1 - p)), of a loss of -log(p).
        losses = {k: np.logaddexp(0, -a.members) for k, a in measured.answers.items()}
        return Seen(
            losses,
            quality=measured.test_accuracy,
            marker=marker,
            canaries=measured.canaries,
        )

    @property
    def _poisoned(self) -> set[int]:
        """Clients of whom the poisoned, or planted, examples are to go."""
        samples = self.config.forget_samples
        return {k for k, chosen in samples.items() if chosen == POISONED}

    @property
    def absent(self) -> tuple[int, ...]:
        """Clients to forget that took part in no round before they were forgotten."""
        return self._absent_in("original")

    def _absent_in(self, *names: str) -> tuple[int, ...]:
        """Return who of those to forget is in none of some models."""
        forget = self.config.forget
        there = {k for name in names for k in self._trained_by.get(name, forget)}
        return tuple(k for k in forget if k not in there)

    def _is_asked(self, client_id: int) -> bool:
        """Return whether a leaving client's answers belong to what is judged.

        An absent one's examples are no members, and would make a weak test of a strong
        one; if all are absent, or train afterwards, all are asked.
        """
        absent = self.absent
        if len(absent) == len(self.config.forget) or self.config.retrain == "forgotten":
            return True
        return client_id not in absent

    def _answers(
        self, parameters: Vector, *, relearn: bool
    ) -> Mapping[int, ClientAnswers]:
        """Return what those leaving clients say whose answers count."""
        # Without anything to compare the answers with nobody is asked.
        if not self.config.reference:
            return {}
        relearn = relearn and self.config.verdict.relearn_cap > 0
        said = self._ask(parameters, self._targets() if relearn else None)
        if relearn and "original" not in self.models:
            # As good as the original is what the others are to become: it is so now.
            at_once = RelearnTime(0, True)
            said = {k: replace(t, relearn=at_once) for k, t in said.items()}
        return {k: found for k, found in said.items() if self._is_asked(k)}

    def _targets(self) -> Mapping[int, float] | None:
        """Return what loss each client's model is to come to; None of the original."""
        original = self.models.get("original")
        if original is None:
            return None
        return {k: said.check_loss for k, said in original.answers.items()}

    def _canary_losses(
        self, parameters: Vector
    ) -> dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Return losses in nats of planted and of held-out canaries, by client id."""
        attack = self.config.attack
        if attack.name != "canaries":
            return {}
        found = {}
        forget = {k for k in self.config.forget if self._is_asked(k)}
        if self.config.forget_samples:  # what is not to go may be known
            forget &= self._poisoned
        for client_id in sorted(set(attack.clients or ()) & forget):
            losses = self.test.canary_losses(parameters, client_id)
            # Canaries are no examples: finite answers to these promise nothing for
            # those.
            if losses is not None:
                found[client_id] = losses
        return found

    # -- the verdict -------------------------------------------------------------------

    @property
    def handed_over(self) -> str:
        """Name of the model that the run hands over."""
        return "recovered" if "recovered" in self.models else "unlearned"

    @property
    def tells(self) -> bool:
        """Whether no further look is needed for the models that decide."""
        deciding = self._deciding or (self.handed_over,)
        return all(self.look_at(name)[-1].finding not in OPEN for name in deciding)

    def look_at(self, name: str) -> list[Finding]:
        """Return what every look at one of the models has found, by the numbers."""
        return self._look(self._judged[name], name)

    def _look(self, judged: Judged, name: str) -> list[Finding]:
        """Look at a model that whoever is in one of this name is in, too."""
        model, trained_with, trained_without = self._compared(judged)
        return looked_at(
            model,
            trained_with=trained_with,
            trained_without=trained_without,
            looks=self.looks,
            clients=self.config.forget,
            absent=self._absent_in("original", name),
            margins=self.config.verdict.margins,
            poisoned=self._poisoned,
        )

    def _compared(self, judged: Judged) -> tuple[Seen, list[Seen], list[Seen]]:
        """Return a model, and the references with and without the clients."""
        with_clients = self.trained_with(judged.rounds_after)
        without = self.trained_without(judged.rounds_after)
        model, *others = alike([judged.seen, *with_clients, *without])
        return model, others[: len(with_clients)], others[len(with_clients) :]

    def judge(self, name: str) -> Finding:
        """Return what is found of one of the models.

        One that is a retrained model, bit for bit, holds nothing of the clients: where
        the numbers say otherwise that is chance.
        """
        found = self.look_at(name)[-1]
        digests = {model.digest for model in self.retrained}
        if found.outcome == NOT_FORGOTTEN and self.models[name].digest in digests:
            return replace(found, outcome=INCONCLUSIVE, finding=IS_RETRAINED)
        return found

    def _attacked(self, name: str) -> dict[str, Any]:
        """Return how well single examples can be told, where there is a bank."""
        if not self.config.verdict.bank:
            return {}
        return {"bank_attack": curves(*self._compared(self._judged[name]))}

    # -- results.json ------------------------------------------------------------------

    def told(self, finding: Finding) -> dict[str, Any]:
        """Return a finding's entry in results.json; of examples where these go."""
        said = str(finding)
        if self.config.forget_samples:
            said = said.replace("client", "the chosen examples of client")
        needed = finding.models_needed
        return {**finding.to_json(), "said": said, "models_needed": needed}

    @cached_property
    def shown(self) -> Shown:
        """What is told beside the verdict; all models have been added."""
        config = self.config
        return Shown(config.seed, config.attack, self.models, self.retrained)

    def to_json(self) -> dict[str, Any]:
        """Return the entries verdict, evidence and floor of results.json."""
        found = {name: self.judge(name) for name in self.models}
        looks = self.look_at(self.handed_over)
        return {
            "verdict": {
                **self.told(found[self.handed_over]),
                "model": self.handed_over,
                "looks": len(looks),
                "spent": [look.alpha for look in looks],
                "retrainings": self.references,
                "absent": list(self.absent),
                # What the numbers alone say of models whose answer is known.
                "controls": {
                    name: self.look_at(name)[-1].outcome
                    for name in CONTROLS
                    if name in self.models
                },
                "outcomes": {name: one.outcome for name, one in found.items()},
                "models": {
                    name: without_places(self.told(one)) for name, one in found.items()
                },
                "later": [
                    {"rounds_after": rounds}
                    | without_places(self.told(self._look(one, self.handed_over)[-1]))
                    for rounds, one in sorted(self._later.items())
                ],
            },
            "evidence": {
                name: {**one, **self._attacked(name)}
                for name, one in self.shown.evidence().items()
            },
            "floor": self.shown.floor(),
        }


def alike(models: Sequence[Seen]) -> list[Seen]:
    """Return what is seen of models without clients that answered of other examples.

    A client's own answers may change in number; of it nothing can be told then.
    """
    sizes: dict[int, set[int]] = {}
    for model in models:
        for client_id, losses in model.losses.items():
            sizes.setdefault(client_id, set()).add(len(losses))
    same = {k for k, found in sizes.items() if len(found) == 1}
    return [
        replace(model, losses={k: v for k, v in model.losses.items() if k in same})
        for model in models
    ]


def without_places(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry without where each reference lies."""
    influence = {k: _without_places(one) for k, one in entry["influence"].items()}
    return {**entry, "influence": influence}


def _without_places(influence: dict[str, Any] | None) -> dict[str, Any] | None:
    if influence is None:
        return None
    kept = {key: value for key, value in influence.items() if key not in PLACES}
    return {**kept, "rest": _without_places(influence["rest"])}
