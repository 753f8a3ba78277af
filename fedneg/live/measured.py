"""What a federation of fedneg's own app measured of its models, for receipts."""

from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from fedneg.core.parameters import Vector
from fedneg.core.settings import Config
from fedneg.evaluation.canary import pairs_shown
from fedneg.evaluation.evidence import ServerTest
from fedneg.lasting.work import Work
from fedneg.records.receipts import NOTHING
from fedneg.strategies import method_named


def validation_part(config: Config) -> str:
    """Return the part of their data that clients who stay measure the last model on.

    A task of one's own need not have a validation part, and every one has a test part.
    """
    return "val" if config.task is None else "test"


def canaries_of(
    test: ServerTest, parameters: Vector, config: Config, clients: Collection[int]
) -> dict[str, Any]:
    """Return what the canaries of leaving clients show of a model, by client id.

    Nobody is retrained for it: the server made them, and their held-out twins, and
    trained with neither. {} where none of these clients was given any.
    """
    attack = config.attack
    planted = sorted(set(attack.clients or ()) & set(clients))
    if attack.name != "canaries" or not np.isfinite(parameters).all():
        return {}
    found = {}
    for client_id in planted:
        losses = test.canary_losses(parameters, client_id)
        if losses is not None:
            pairs = pairs_shown(*losses, alpha=config.verdict.alpha / len(planted))
            found[str(client_id)] = asdict(pairs)
    return found


def measured_of(
    work: Work,
    after: Mapping[str, Any],
    answers: Mapping[int, Mapping[str, float]],
    unanswered: Mapping[int, str],
    part: str = "val",
) -> dict[str, Any]:
    """Return the numbers of the three models; those of clients were checked.

    `part` is what the clients that stay measured the last one on.
    """

    def measured(found: Mapping[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in found.items() if k != "model"}

    total = sum(int(a[f"num_{part}"]) for a in answers.values())
    right = sum(a[f"{part}_accuracy"] * a[f"num_{part}"] for a in answers.values())
    validation = {
        "clients": len(answers),
        "examples": total,
        "accuracy": right / total if total else None,
        "left_out": {str(k): why for k, why in unanswered.items()},
    }
    return {
        "before": measured(work.before),
        "unlearned": measured(work.unlearned),
        "after": {**measured(after), "validation_of_remaining_clients": validation},
    }


def remains(client_id: int, work: Work) -> str:
    """Return what of the contribution the method left in the model."""
    if work.mode == "scratch":
        return f"{NOTHING}: trained from the initial parameters without the client"
    method = work.method
    if client_id in method.get("absent", ()):
        return f"{NOTHING}: the client took part in no round of this model"
    # The present run may have another method than the one that forgot.
    return method_named(method.get("strategy")).remains(method, client_id)
