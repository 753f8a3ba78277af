"""The leaving client that climbs its own loss: its part in `gradient_ascent`.

Halimi, Kadhe, Rawat and Baracaldo, 'Federated Unlearning: How to Efficiently Erase a
Client in FL?', arXiv:2207.05521, section 3: maximise the mean cross-entropy on this
client's data within a Euclidean ball around the parameters that the server sent, by
projected gradient ascent, and stop early when the accuracy on its validation part has
fallen below a threshold.

Differs from the paper: the threshold is looked at after every batch; without a
validation part, on the training one. The loss is the task's own (`Task.loss`), and a
task whose examples cannot be taken one by one has one batch, of all of them.
"""

from collections.abc import Iterator, Mapping, Sequence, Sized

import numpy as np
import torch
from flwr.common import Scalar
from numpy.typing import NDArray

from fedneg.clients.trainer import TrainingClient
from fedneg.core.seeding import torch_generator
from fedneg.tasks import calls
from fedneg.tasks.model import get_parameters, set_parameters


class AscentClient(TrainingClient):
    """A client that unlearns its own data, as far as the server allows."""

    def fit(
        self, parameters: list[NDArray[np.float32]], config: dict[str, Scalar]
    ) -> tuple[list[NDArray[np.float32]], int, dict[str, Scalar]]:
        """Return the parameters after the ascent, the examples used, and metrics.

        Parameters
        ----------
        parameters : list of arrays
            The centre of the ball, and where the ascent starts.
        config : dict
            ``radius`` of the ball, ``epochs``, ``learning-rate``, ``momentum``,
            ``batch-size``, ``clip`` (the largest norm of a gradient) and
            ``stop-accuracy`` (a fraction).

        Returns
        -------
        parameters, num_examples, metrics
            Metrics: ``steps``, ``distance`` from the start, and ``val_accuracy``, that
            which the early stop looked at last.
        """
        set_parameters(self.model, parameters)
        data = self.training_data()
        metrics = self._climb(data, {k: float(v) for k, v in config.items()})
        return get_parameters(self.model), len(data), metrics

    def _climb(self, data: Sized, settings: Mapping[str, float]) -> dict[str, Scalar]:
        """Climb in place and return the metrics."""
        torch.set_num_threads(1)  # sums must not depend on how many there are
        weights = [p for p in self.model.parameters() if p.requires_grad]
        start = [p.detach().clone() for p in weights]
        optimiser = torch.optim.SGD(
            weights, lr=settings["learning-rate"], momentum=settings["momentum"]
        )
        steps, accuracy = 0, self._accuracy()
        for batch in self._batches(data, settings):
            if accuracy < settings["stop-accuracy"]:
                break
            optimiser.zero_grad()
            loss = -calls.differentiable_losses(self.task, self.model, batch).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(weights, settings["clip"])
            optimiser.step()
            project(weights, start, radius=settings["radius"])
            steps, accuracy = steps + 1, self._accuracy()
        away = distance(weights, start)
        return {"steps": steps, "distance": away, "val_accuracy": accuracy}

    def _batches(self, data: Sized, settings: Mapping[str, float]) -> Iterator[Sized]:
        """Yield each batch's examples, epoch after epoch."""
        generator = torch_generator(
            self.assignment.seed, "ascent", self.server_round, self.client_id
        )
        take = self.task.extras.take
        for _ in range(int(settings["epochs"])):
            if take is None:
                yield data
                continue
            order = torch.randperm(len(data), generator=generator)
            for places in torch.split(order, int(settings["batch-size"])):
                yield take(data, places.numpy())

    def _accuracy(self) -> float:
        """Return the model's quality on this client's validation part."""
        split = self.split
        part = split.more.get("val", split.unseen)
        part = part if len(part) else split.train
        return calls.quality(self.task, self.model, part)


def distance(weights: Sequence[torch.Tensor], start: Sequence[torch.Tensor]) -> float:
    """Return the Euclidean distance of all parameters together, not its square."""
    square = sum(
        float(((w.detach() - s).double() ** 2).sum())
        for w, s in zip(weights, start, strict=True)
    )
    return float(square**0.5)


@torch.no_grad()
def project(
    weights: Sequence[torch.Tensor], start: Sequence[torch.Tensor], *, radius: float
) -> None:
    """Put parameters that have left the ball around `start` back onto it, in place."""
    away = distance(weights, start)
    if away > radius:
        for weight, centre in zip(weights, start, strict=True):
            weight.copy_(centre + (weight - centre) * (radius / away))
