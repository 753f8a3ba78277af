"""Projected gradient ascent: the client that leaves unlearns its own data itself.

Halimi, Kadhe, Rawat and Baracaldo, 'Federated Unlearning: How to Efficiently Erase a
Client in FL?', arXiv:2207.05521, section 3. The reference w_ref is the average of the
other clients' last local models. From there the leaving client maximises its own loss,
by SGD on its negative, within the ball |w - w_ref| <= radius, a third of the mean
distance from w_ref to ten random models, and stops early when its validation accuracy
is below `stop_accuracy` (clients/ascent.py). The others repair the rest
(`retrain=remaining`).

w_ref alone forgets nothing: those models all started from one that contained it.

What comes back is of the making of somebody who leaves, perhaps with a grudge. It is
believed only if it is finite, within the ball, and if the server's test accuracy after
it is at least `gate` times that of w_ref; else w_ref is kept and the report says so.

With `forget_samples` a client climbs on the examples that go, around the average of the
others' models, since its own was trained on them; the repair has the rest of its data.

Several clients climb one after the other, one unlearn round each, each within a ball
around the parameters that the one before left.

Differs from the paper: w_ref is averaged over the local models themselves, by the
weights of the rounds they are from, and not solved from w and w_k, which is the same if
all took part in the last round of plain FedAvg; the distance is the distance, where the
authors' notebook takes its square, so that its ball never binds; there is no stop at a
distance from w_k, which the notebook has and the paper does not; the gate is ours.

The leaving clients must be online. The server stores the last local model of every
client, d numbers each.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedneg.core.checks import number, whole
from fedneg.core.errors import FedNegError
from fedneg.core.parameters import Vector, add
from fedneg.core.samples import ALL, GONE
from fedneg.core.settings import Config
from fedneg.strategies.base import LedgerFedAvg
from fedneg.strategies.method import About, Needs
from fedneg.strategies.replies import Reply

RANDOM_MODELS = 10
# Of the radius: float32 on the way, and another order of the sum.
TOLERANCE = 1e-3


class GradientAscent(LedgerFedAvg):
    """FedAvg whose unlearn rounds are the leaving clients' own."""

    about = About(place=3)

    forgets_samples = True

    needs_leaving_client = True
    keeps_local_models = True

    @dataclass(frozen=True)
    class Options:
        """SGD of the ascent, its ball (`radius` None: the paper's) and early stop."""

        radius: float | None = None
        epochs: int = 5
        learning_rate: float = 0.01
        momentum: float = 0.9
        batch_size: int = 128
        clip: float = 5.0
        stop_accuracy: float = 0.12

        def __post_init__(self) -> None:
            if self.radius is not None:
                number("strategy.radius", self.radius, above=0)
            whole("strategy.epochs", self.epochs, minimum=1)
            number("strategy.learning_rate", self.learning_rate, above=0)
            number("strategy.momentum", self.momentum, minimum=0, below=1)
            whole("strategy.batch_size", self.batch_size, minimum=1)
            number("strategy.clip", self.clip, above=0)
            number("strategy.stop_accuracy", self.stop_accuracy, minimum=0, maximum=1)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._radius = 0.0

    @classmethod
    def unlearn_rounds(cls, config: Config) -> int:
        """Return one round for each client that leaves."""
        return max(1, len(config.forget))

    def task_needs(self) -> tuple[str, ...]:
        """Return the loss that the ascent climbs."""
        return ("loss",)

    def needs(self) -> Needs:
        """Return the leaving clients, and everybody's last local models."""
        return Needs(leaving_client=True, server_bytes=self.ledger.local.rows.nbytes)

    def check_kept(self, client_ids: tuple[int, ...]) -> None:
        """Raise FedNegError if those who stay took part, and left no local model.

        The reference would be the model that is to be unlearned.
        """
        ledger = self.ledger
        out = self.forgotten | set(self.hooks.excluded()) | set(client_ids)
        stay = [k for k in range(ledger.clients) if k not in out]
        took_part = [k for k in stay if ledger.last_round(k)]
        if took_part and not any(k in ledger.local for k in stay):
            raise FedNegError(
                "strategy=gradient_ascent needs last local models of the clients that "
                f"stay, {', '.join(map(str, took_part))}, and there is none: they went "
                "with an earlier forgetting, or a run kept none; forget "
                f"{', '.join(map(str, client_ids))} with another strategy or "
                "retrain=scratch, and next time train a round with this strategy "
                "before a request"
            )

    def rectify(self, before: Vector, client_ids: tuple[int, ...]) -> Vector:
        """Return w_ref, and settle the radius of the ball."""
        self.check_kept(client_ids)
        if len(client_ids) > self.phase.rounds:
            raise FedNegError(
                f"strategy=gradient_ascent forgets one client a round, got "
                f"{list(client_ids)} for {self.phase.rounds} rounds"
            )
        for client_id in set(self.hooks.excluded()) - set(client_ids):
            # Who waits for its turn is in nobody's reference, and its last model would
            # keep stretches of global models that these clients went into.
            self.ledger.local.pop(client_id, None)
        reference = self._reference(before)
        self._radius = self.options.radius or self._paper_radius(reference)
        self.method_report = {
            "form": "projected gradient ascent",
            "radius": self._radius,
            # Until they have answered, and if what they answer is not believed.
            "ascents": {str(k): {"kept": False} for k in client_ids},
            "remains": "what the ascents left of it",
        }
        return reference

    def _reference(self, before: Vector) -> Vector:
        """Return the average of the others' last local models; alone, what there is."""
        ledger = self.ledger
        # Whose examples are to go trained its last model on them, too.
        others = set(self.remaining) - set(self.forgetting)
        weights = {
            k: ledger.last_weight(k) for k in sorted(others) if k in ledger.local
        }
        total = sum(weights.values())
        if not total:
            return before
        zero = np.zeros_like(before)
        return add(zero, [(w / total, ledger.local[k]) for k, w in weights.items()])

    def _paper_radius(self, reference: Vector) -> float:
        """Return a third of the mean distance to random models."""
        distances = [
            np.linalg.norm(self.fresh_parameters(draw).astype(np.float64) - reference)
            for draw in range(1, RANDOM_MODELS + 1)
        ]
        return float(np.mean(distances)) / 3

    def unlearn_clients(self, number: int) -> tuple[int, ...]:
        """Return the client whose turn it is."""
        return self.forgetting[number - 1 : number]

    def unlearn_part(self, number: int) -> str:
        """Return that it climbs on what goes."""
        return GONE if self.config.forget_samples else ALL

    def unlearn_settings(self, number: int) -> dict[str, int | float | str]:
        """Return the role and its numbers."""
        options: GradientAscent.Options = self.options
        return {
            "role": "ascent",
            "radius": self._radius,
            "epochs": options.epochs,
            "learning-rate": options.learning_rate,
            "momentum": options.momentum,
            "batch-size": options.batch_size,
            "clip": options.clip,
            "stop-accuracy": options.stop_accuracy,
        }

    def combine(self, number: int, good: Mapping[int, Reply]) -> Vector:
        """Return what the client sent if it is in the ball, else what was there.

        What an ascent changes is nobody's contribution: it goes into `correction`.
        """
        before = self._global
        for client_id, reply in good.items():
            found: dict[str, Any] = {"kept": False, "distance": reply.norm}
            if reply.norm > self._radius * (1 + TOLERANCE):
                self._fail(
                    client_id,
                    f"its ascent left the ball of radius {self._radius:.4g} "
                    f"(distance {reply.norm:.4g}); the model before it is kept",
                )
            else:
                found |= {"kept": True, "steps": reply.metrics.get("steps")}
                after = reply.local.copy()
                self.drop((), before=before, after=after)
                before = after
            self.method_report["ascents"][str(client_id)] = found
        return before
