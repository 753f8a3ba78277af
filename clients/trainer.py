"""The ordinary client: trains on its writers' images and measures models on them."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from flwr.client import NumPyClient
from flwr.common import Scalar
from numpy.typing import NDArray
from torch import nn

from fedneg.attacks import boosted, poison
from fedneg.client_data import ClientData, own_data, partition_data
from fedneg.errors import FedNegError
from fedneg.model import build_mlp, get_parameters, set_parameters
from fedneg.seeding import torch_generator
from fedneg.settings import Task
from fedneg.training import choose_device, evaluate, train_epochs


@lru_cache(maxsize=4)
def _network(
    input_size: int, hidden: tuple[int, ...], num_classes: int, device: torch.device
) -> nn.Module:
    """Return this process's network: making one takes longer than a small training.

    Clients of a process take turns, and whoever uses it sets all its parameters first.
    """
    return build_mlp(input_size, hidden, num_classes).to(device)


class WriterClient(NumPyClient):
    """A client that holds the images of its writers, or images of its own.

    Parameters
    ----------
    client_id : int
        0..K-1.
    task : Task
        The server's settings for the run.
    server_round : int
        Keys the random streams of this round.
    own : str, optional
        Where this client's own data lies (`fedneg.own_data`); None: it has its part of
        the built-in data set.
    """

    def __init__(
        self, client_id: int, task: Task, server_round: int = 0, own: str | None = None
    ) -> None:
        if not 0 <= client_id < task.clients:
            raise FedNegError(
                f"client-id must be 0 to {task.clients - 1}, got {client_id}"
            )
        self.client_id, self.task, self.server_round = client_id, task, server_round
        self.own = own
        if own is None:
            self.data = partition_data(client_id, task)
        else:
            self.data = own_data(
                own, name=task.data.name, client_id=client_id, seed=task.seed
            )
        self.model = _network(
            self.data.input_size,
            task.model.hidden,
            self.data.num_classes,
            choose_device(task.client.device),
        )

    def fit(
        self, parameters: list[NDArray[np.float32]], config: dict[str, Scalar]
    ) -> tuple[list[NDArray[np.float32]], int, dict[str, Scalar]]:
        """Return the local parameters after training, the examples used, and metrics.

        Metrics: ``running_loss`` (nats, running mean of the last epoch); with
        `evaluate_after_fit` also what `evaluate` measures, of the local model. An
        attacker that means to replace the model returns other parameters than those.
        """
        set_parameters(self.model, parameters)
        images, labels = self._training_data()
        task = self.task
        loss = train_epochs(
            self.model,
            images,
            labels,
            scaling=self.data.scaling,
            settings=task.client,
            generator=torch_generator(
                task.seed, "shuffle", self.server_round, self.client_id
            ),
        )
        metrics: dict[str, Scalar] = {"running_loss": loss}
        if task.client.evaluate_after_fit:
            metrics |= self._measure(("train", "val", "test"))
        local = get_parameters(self.model)
        if self._attacks and task.attack.name == "model_replacement":
            assert task.attack.boost is not None  # `Config` fills it in
            local = boosted(parameters, local, task.attack.boost)
        return local, len(labels), metrics

    def evaluate(
        self, parameters: list[NDArray[np.float32]], config: dict[str, Scalar]
    ) -> tuple[float, int, dict[str, Scalar]]:
        """Return test loss, test examples, and every metric of the model here.

        For each part in ``config["parts"]`` (train, val, test, separated by spaces; by
        default all): accuracy, loss and number of examples, on the original labels.
        With train, ``trained_accuracy`` is on what this client trained on, poison
        included.
        """
        set_parameters(self.model, parameters)
        parts = str(config.get("parts", "train val test")).split()
        metrics = self._measure(parts)
        last = parts[-1]
        return float(metrics[f"{last}_loss"]), int(metrics[f"num_{last}"]), metrics

    @property
    def _attacks(self) -> bool:
        """Whether this client is an attacker."""
        return self.client_id in (self.task.attack.clients or ())

    def _source(self) -> tuple[ClientData, int]:
        """Return the data to train on and whose they are: for sybils the first's."""
        source = self.task.attack.source_of(self.client_id)
        if source == self.client_id:
            return self.data, source
        if self.own is not None:
            raise FedNegError(
                f"attack=sybils trains client {self.client_id} on the images of "
                f"client {source}; with data of its own it has none of them"
            )
        return partition_data(source, self.task), source

    def _training_data(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return the images and labels to train on, poisoned if this client attacks."""
        data, source = self._source()
        return poison(
            data.images[data.train],
            data.labels[data.train],
            attack=self.task.attack,
            client_id=source,
            seed=self.task.seed,
            pixel_max=data.pixel_max,
        )

    def _measure(self, parts: Sequence[str]) -> dict[str, Scalar]:
        """Measure the model on parts of this client's data."""
        data = self.data
        metrics: dict[str, Scalar] = {"num_writers": data.num_writers}
        for name in parts:
            index = getattr(data, name)
            found = evaluate(
                self.model,
                data.images[index],
                data.labels[index],
                scaling=data.scaling,
            )
            metrics[f"{name}_accuracy"] = found.accuracy
            metrics[f"{name}_loss"] = found.loss
            metrics[f"num_{name}"] = found.num_examples
        if "train" not in parts:
            return metrics
        if self._attacks:
            images, labels = self._training_data()
            metrics["trained_accuracy"] = evaluate(
                self.model, images, labels, scaling=data.scaling
            ).accuracy
        else:
            metrics["trained_accuracy"] = metrics["train_accuracy"]
        return metrics
