"""What can be told of membership from one model of a run: three attacks.

The loss-threshold attack, LiRA with the retrained models for shadow models (they never
saw the leaving client's examples), and planted against held-out canaries. Several
clients count the same each.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from fedneg.core.parameters import Vector, digest_of_model
from fedneg.core.seeding import rng
from fedneg.evaluation.canary import canary_input
from fedneg.evaluation.client_answers import ClientAnswers
from fedneg.evaluation.lira import lira_scores
from fedneg.evaluation.membership import Interval, MembershipInput, bootstrap, roc
from fedneg.evaluation.relearn import RelearnTime, unit_of

FPR = 0.01
MIN_SHADOWS = 2


@dataclass(frozen=True, eq=False)
class Measured:
    """What was seen of one model; None or no entry for what was not, or not finite.

    `probabilities` (N, classes) on the server's test images; `canaries` by client id.
    """

    name: str
    parameters: Vector
    test_accuracy: float
    attack_success: float | None
    attack_base: float | None
    probabilities: NDArray[np.float64] | None
    canaries: Mapping[int, tuple[NDArray[np.float64], NDArray[np.float64]]]
    answers: Mapping[int, ClientAnswers]

    @cached_property
    def digest(self) -> str:
        """The model digest."""
        return digest_of_model(self.parameters)

    @property
    def relearn(self) -> RelearnTime | None:
        """All leaving clients' relearn times together."""
        times = [t.relearn for t in self.answers.values() if t.relearn is not None]
        unit = unit_of(times)
        if not times or len(times) < len(self.answers) or unit is None:
            return None
        return RelearnTime(
            sum(t.batches for t in times), all(t.reached for t in times), unit
        )

    @property
    def as_trained_accuracy(self) -> float | None:
        """Accuracy on what the leaving clients trained, poison included."""
        found = [t.as_trained_accuracy for t in self.answers.values()]
        return fmean(found) if found else None


@dataclass(frozen=True)
class Attack:
    """A membership attack over one client or several."""

    auc: Interval
    advantage: float
    tpr: float | None


class Attacks:
    """The attacks on the models of a run, each done once.

    Parameters
    ----------
    seed : int
    shown : mapping
        Models by name that people are shown: only these get an interval.
    retrained : sequence
        The retrained models; both may grow until the first attack is asked for.
    """

    def __init__(
        self,
        seed: int,
        shown: Mapping[str, Measured],
        retrained: Sequence[Measured],
    ) -> None:
        self._seed, self._shown, self._retrained = seed, shown, retrained
        self._cached: dict[tuple[str, str], Attack | None] = {}

    def on(self, model: Measured) -> tuple[Attack | None, Attack | None, Attack | None]:
        """Return membership by loss, LiRA, and canaries; None where not measured."""
        return self.membership(model), self.lira(model), self.canary(model)

    def _attack(
        self,
        purpose: str,
        model: Measured,
        inputs: Mapping[int, MembershipInput],
    ) -> Attack | None:
        """Return the mean over clients; the interval of a mean of independent ones.

        Models that are only compared with need no interval, and get none: 500
        resamplings a model would cost more than the model.
        """
        if not inputs:
            return None
        shown = model.name in self._shown
        curves = {k: roc(given) for k, given in inputs.items()}
        value = fmean(curve.auc for curve in curves.values())
        below = above = 0.0
        for client_id, given in inputs.items() if shown else ():
            draws = rng(self._seed, f"bootstrap {purpose}", 0, client_id)
            found = bootstrap(given, lambda curve: curve.auc, draws)
            below += (found.value - found.low) ** 2
            above += (found.high - found.value) ** 2
        tprs = [curve.tpr_at(FPR) for curve in curves.values()]
        known = [tpr for tpr in tprs if tpr is not None]
        count = len(inputs)
        return Attack(
            Interval(
                value,
                max(0.0, value - math.sqrt(below) / count),
                min(1.0, value + math.sqrt(above) / count),
            ),
            fmean(curve.advantage for curve in curves.values()),
            fmean(known) if len(known) == count else None,
        )

    def membership(self, model: Measured) -> Attack | None:
        """Return the loss-threshold attack: the scaled confidence orders as -loss."""
        inputs = {
            k: MembershipInput(t.members, t.unseen) for k, t in model.answers.items()
        }
        return self._once("membership", model, lambda: inputs)

    def lira(self, model: Measured) -> Attack | None:
        """Return the calibrated attack: retrained models never saw these examples."""
        return self._once("lira", model, lambda: self._lira_inputs(model))

    def canary(self, model: Measured) -> Attack | None:
        """Return planted against held-out canaries."""
        return self._once(
            "canary",
            model,
            lambda: {k: canary_input(*losses) for k, losses in model.canaries.items()},
        )

    def _once(
        self,
        purpose: str,
        model: Measured,
        inputs: Callable[[], Mapping[int, MembershipInput]],
    ) -> Attack | None:
        """Do an attack on a model once."""
        key = purpose, model.name
        if key not in self._cached:
            self._cached[key] = self._attack(purpose, model, inputs())
        return self._cached[key]

    def _lira_inputs(self, model: Measured) -> dict[int, MembershipInput]:
        """Return LiRA's scores; a retrained model is no shadow of itself."""
        found = {}
        for client_id, said in model.answers.items():
            shadows = [
                m.answers[client_id]
                for m in self._references(model)
                if client_id in m.answers
                # Who answers of other examples each time is no shadow.
                and m.answers[client_id].members.shape == said.members.shape
                and m.answers[client_id].unseen.shape == said.unseen.shape
            ]
            if len(shadows) < MIN_SHADOWS:
                continue
            members = np.stack([s.members for s in shadows])
            unseen = np.stack([s.unseen for s in shadows])
            found[client_id] = MembershipInput(
                lira_scores(said.members, members),
                lira_scores(said.unseen, unseen),
            )
        return found

    def _references(self, model: Measured) -> list[Measured]:
        """Return the retrained models but those that are the model itself."""
        return [m for m in self._retrained if m.digest != model.digest]
