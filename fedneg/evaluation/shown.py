"""What is shown of a run's models beside the verdict, and decides nothing.

Attacks on membership, relearning, how far answers and parameters are from those of a
retrained model, and how far retrained models are from each other.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

import numpy as np

from fedneg.core.data_settings import AttackSettings
from fedneg.evaluation.canary import chance_exposure, exposures
from fedneg.evaluation.divergence import mean_js_divergence, prediction_agreement
from fedneg.evaluation.floor import absolute_gap, floor_of
from fedneg.evaluation.membership_attacks import Attacks, Measured


class Shown:
    """Describes the models of a run.

    Parameters
    ----------
    seed : int
    attack : AttackSettings
    models : mapping of str to Measured
        By name, the original among them.
    retrained : sequence of Measured
        Models that were trained without the clients; both may grow until the first is
        described.
    """

    def __init__(
        self,
        seed: int,
        attack: AttackSettings,
        models: Mapping[str, Measured],
        retrained: Sequence[Measured],
    ) -> None:
        self._attack, self.models, self.retrained = attack, models, retrained
        self._attacks = Attacks(seed, models, retrained)

    def evidence(self) -> dict[str, Any]:
        """Return the entry evidence of results.json: every model's numbers."""
        return {name: self._of(model) for name, model in self.models.items()}

    def _of(self, model: Measured) -> dict[str, Any]:
        membership, lira, canary = self._attacks.on(model)
        relearn, retrained = model.relearn, self.models.get("retrained")
        exposure = [exposures(*losses).mean() for losses in model.canaries.values()]
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
                chance_exposure(self._attack.canaries) if exposure else None
            ),
            "relearn_batches": relearn and relearn.batches,
            "relearn_unit": relearn and relearn.unit,
            "relearn_reached": relearn and relearn.reached,
            **_apart(model, retrained),
            "distance_to_original": _distance(model, self.models["original"]),
        }

    def floor(self) -> dict[str, Any]:
        """Return the entry floor: how far retrained models are from each other."""
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
