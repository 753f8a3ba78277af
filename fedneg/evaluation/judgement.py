"""A run's models measured alike, and the verdict on the one that it hands over.

Every model is asked the same: the server's test set, canaries that the server makes
itself, and what the leaving clients answer from their own data. The judge is asked
about the original and the retrained model too: their answers are known.

Where several clients are to be forgotten each counts the same: rates and AUCs are means
over them, relearn times sums.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedneg.core.parameters import Vector
from fedneg.core.settings import AttackSettings, Config
from fedneg.core.verdict_settings import VerdictSettings
from fedneg.evaluation.canary import chance_exposure, exposures
from fedneg.evaluation.client_answers import ClientAnswers
from fedneg.evaluation.divergence import mean_js_divergence, prediction_agreement
from fedneg.evaluation.evidence import ModelEvidence, ServerTest
from fedneg.evaluation.floor import absolute_gap, floor_of
from fedneg.evaluation.measurements import Measurements
from fedneg.evaluation.membership_attacks import Attacks, Measured
from fedneg.evaluation.relearn import RelearnTime
from fedneg.evaluation.verdict import TOOK_NO_PART, Verdict, judge, outcome_of

# Asks leaving clients about a model, given how good each is to become by relearning.
Ask = Callable[[Vector, Mapping[int, float] | None], Mapping[int, ClientAnswers]]


@dataclass(frozen=True)
class Setting:
    """What the judge is to know of a federation that has no `Config`."""

    seed: int
    clients: int
    forget: tuple[int, ...]
    verdict: VerdictSettings
    attack: AttackSettings
    retrain: str = "none"
    reference: bool = True


class Judgement:
    """Collects what is seen of a run's models, and judges.

    Parameters
    ----------
    config : Config or Setting
    test : ServerTest
    ask : callable
        Asks the leaving clients; those that do not answer are missing.
    """

    def __init__(self, config: Config | Setting, test: ServerTest, ask: Ask) -> None:
        self.config, self.test, self._ask = config, test, ask
        self.models: dict[str, Measured] = {}
        self.retrained: list[Measured] = []
        self._trained_by: dict[str, Collection[int]] = {}
        self._measurements: dict[str, Measurements] = {}
        self._attacks = Attacks(config.seed, self.models, self.retrained)

    def add(
        self,
        name: str,
        parameters: Vector,
        found: ModelEvidence,
        *,
        trained_by: Collection[int] | None = None,
    ) -> None:
        """Add a model of the run: the original first.

        One called 'retrained' is among those that the others are compared with.

        Parameters
        ----------
        trained_by : collection of int, optional
            Client ids that took part in a round that led to the model; by default all.
        """
        self._trained_by[name] = (
            range(self.config.clients) if trained_by is None else set(trained_by)
        )
        self.models[name] = self._measure(
            name, parameters, found.test.accuracy, found.attack_success_rate
        )
        if name == "retrained":
            self.retrained.append(self.models[name])

    def add_retrained(self, name: str, parameters: Vector) -> None:
        """Add a model that was retrained with another seed."""
        accuracy = self.test.measure(parameters).accuracy
        success = self.test.attack_success_rate(parameters)
        self.retrained.append(self._measure(name, parameters, accuracy, success))

    def _measure(
        self, name: str, parameters: Vector, accuracy: float, success: float | None
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
            accuracy,
            success,
            self.test.attack_base(parameters),
            probabilities,
            self._canary_losses(parameters) if finite else {},
            self._answers(parameters) if finite else {},
        )

    @property
    def absent(self) -> tuple[int, ...]:
        """Clients to forget that took part in no round before they were forgotten."""
        there = self._trained_by.get("original", self.config.forget)
        return tuple(k for k in self.config.forget if k not in there)

    def _is_asked(self, client_id: int) -> bool:
        """Return whether a leaving client's answers belong to what is judged.

        An absent one's examples are no members, and would make a weak test of a strong
        one; if all are absent, or train afterwards, all are asked.
        """
        absent = self.absent
        if len(absent) == len(self.config.forget) or self.config.retrain == "forgotten":
            return True
        return client_id not in absent

    def _answers(self, parameters: Vector) -> Mapping[int, ClientAnswers]:
        """Return what those leaving clients say whose answers count."""
        said = self._all_answers(parameters)
        return {k: found for k, found in said.items() if self._is_asked(k)}

    def _all_answers(self, parameters: Vector) -> Mapping[int, ClientAnswers]:
        """Ask the leaving clients, if there is anything to compare the answers with."""
        if not self.config.reference:
            return {}
        original = self.models.get("original")
        if not self.config.verdict.relearn_cap:
            return self._ask(parameters, None)
        if original is None:
            # As good as the original is what the others are to become: it is so now.
            at_once = RelearnTime(0, True)
            said = self._ask(parameters, None)
            return {k: replace(t, relearn=at_once) for k, t in said.items()}
        targets = {k: t.check_loss for k, t in original.answers.items()}
        return self._ask(parameters, targets)

    def _canary_losses(
        self, parameters: Vector
    ) -> dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Return losses in nats of planted and of held-out canaries, by client id."""
        attack = self.config.attack
        if attack.name != "canaries":
            return {}
        found = {}
        forget = {k for k in self.config.forget if self._is_asked(k)}
        for client_id in sorted(set(attack.clients or ()) & forget):
            losses = self.test.canary_losses(parameters, client_id)
            # Canaries are no examples: finite answers to these promise nothing for
            # those.
            if losses is not None:
                found[client_id] = losses
        return found

    # -- the verdict -------------------------------------------------------------------

    def measurements_of(self, model: Measured) -> Measurements:
        """Return what the verdict is to know of a model; all models have been added."""
        if model.name not in self._measurements:
            membership, lira, canary = self._attacks.on(model)
            others = [*self.retrained, self.models["original"]]
            pairs = [
                (other.digest, model.probabilities, other.probabilities)
                for other in others
                if other.digest != model.digest
            ]
            self._measurements[model.name] = Measurements(
                model.name,
                model.digest,
                model.test_accuracy,
                attack_success=model.attack_success,
                attack_base=model.attack_base,
                as_trained_accuracy=model.as_trained_accuracy,
                membership_auc=membership.auc if membership else None,
                lira_auc=lira.auc if lira else None,
                canary_auc=canary.auc if canary else None,
                relearn=model.relearn,
                js_divergence={
                    key: mean_js_divergence(mine, theirs)
                    for key, mine, theirs in pairs
                    if mine is not None and theirs is not None
                },
                disagreement={
                    key: 1 - prediction_agreement(mine, theirs)
                    for key, mine, theirs in pairs
                    if mine is not None and theirs is not None
                },
            )
        return self._measurements[model.name]

    @property
    def handed_over(self) -> str:
        """Name of the model that the run hands over."""
        return "recovered" if "recovered" in self.models else "unlearned"

    def judge(self, name: str) -> Verdict:
        """Return the verdict on one of the models."""
        return judge(
            self.measurements_of(self.models[name]),
            original=self.measurements_of(self.models["original"]),
            retrained=[self.measurements_of(m) for m in self.retrained],
            settings=self.config.verdict,
            took_part=self._took_part(name),
        )

    def _took_part(self, name: str) -> bool:
        """Return whether anybody who leaves is in the original or in this model."""
        there = {*self._trained_by["original"], *self._trained_by[name]}
        return not there.isdisjoint(self.config.forget)

    def _control(self, name: str) -> str:
        """Return what the evidence alone says of a model whose answer is known."""
        found = self.judge(name)
        if found.overruled_by == TOOK_NO_PART:
            return found.outcome
        return outcome_of(found.evidence)

    # -- results.json ------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Return the entries verdict, evidence and floor of results.json."""
        controls = [name for name in ("original", "retrained") if name in self.models]
        outcomes = {name: self.judge(name).outcome for name in self.models}
        return {
            "verdict": {
                **self.judge(self.handed_over).to_json(),
                "model": self.handed_over,
                "retrainings": len(self.retrained),
                "absent": list(self.absent),
                "controls": {name: self._control(name) for name in controls},
                "outcomes": outcomes,
            },
            "evidence": {name: self._entry(m) for name, m in self.models.items()},
            "floor": self._floor(),
        }

    def _entry(self, model: Measured) -> dict[str, Any]:
        membership, lira, canary = self._attacks.on(model)
        relearn, retrained = model.relearn, self.models.get("retrained")
        exposure = [exposures(*losses).mean() for losses in model.canaries.values()]
        attack = self.config.attack
        return {
            # The model digest, under the name that results.json has had from the first.
            "fingerprint": model.digest,
            "attack_base": model.attack_base,
            "membership_auc": membership and asdict(membership.auc),
            "membership_advantage": membership and membership.advantage,
            "membership_tpr_at_fpr_1": membership and membership.tpr,
            "lira_auc": lira and asdict(lira.auc),
            "lira_tpr_at_fpr_1": lira and lira.tpr,
            "canary_auc": canary and asdict(canary.auc),
            "canary_exposure": float(fmean(exposure)) if exposure else None,
            "canary_exposure_chance": (
                chance_exposure(attack.canaries) if exposure else None
            ),
            "relearn_batches": relearn and relearn.batches,
            "relearn_unit": relearn and relearn.unit,
            "relearn_reached": relearn and relearn.reached,
            **_apart(model, retrained),
            "distance_to_original": _distance(model, self.models["original"]),
        }

    def _floor(self) -> dict[str, Any]:
        """Return how far retrained models are from each other."""
        accuracies = [m.test_accuracy for m in self.retrained]
        successes = [
            m.attack_success for m in self.retrained if m.attack_success is not None
        ]
        seen = [m.probabilities for m in self.retrained if m.probabilities is not None]
        return {
            "models": len(self.retrained),
            "test_accuracy": _gap(accuracies, absolute_gap),
            "attack_success_rate": _gap(successes, absolute_gap),
            "js": _gap(seen, mean_js_divergence),
            "disagreement": _gap(seen, lambda p, q: 1 - prediction_agreement(p, q)),
        }


def _gap(values: Sequence[Any], gap: Callable[[Any, Any], float]) -> float | None:
    """Return the floor of a metric; None with fewer than two values."""
    found = floor_of(values, gap)
    return None if found is None else found.gap


def _apart(model: Measured, retrained: Measured | None) -> dict[str, float | None]:
    """Return how a model's answers and parameters differ from the retrained one's."""
    js = agreement = distance = None
    if retrained is not None:
        distance = _distance(model, retrained)
        mine, theirs = model.probabilities, retrained.probabilities
        if mine is not None and theirs is not None:
            js = mean_js_divergence(mine, theirs)
            agreement = prediction_agreement(mine, theirs)
    return {
        "js_to_retrained": js,
        "agreement_with_retrained": agreement,
        "distance_to_retrained": distance,
    }


def _distance(model: Measured, other: Measured) -> float | None:
    """Return the Euclidean distance of parameters; None if one is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):  # of a model that diverged
        found = float(np.linalg.norm(model.parameters - other.parameters))
    return found if math.isfinite(found) else None
