"""The ordinary client: trains on its writers' images and measures models on them.

Clients that share a process can be trained together before they are asked one by one:
`trained_together`. Each then answers as it would have, up to rounding.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from flwr.client import NumPyClient
from flwr.common import Scalar
from numpy.typing import NDArray
from torch import nn

from fedneg.core.assignment import Assignment
from fedneg.core.errors import FedNegError
from fedneg.core.parameters import NDArrays, flatten, shapes_of, unflatten
from fedneg.core.seeding import torch_generator
from fedneg.data.attacks import boosted, poison
from fedneg.data.client_data import ClientData, own_data, partition_data
from fedneg.tasks.cohort import Examples, train_cohort
from fedneg.tasks.device import choose_device, rows_on
from fedneg.tasks.model import Network, get_parameters, set_parameters
from fedneg.tasks.training import evaluate, train_epochs


@lru_cache(maxsize=4)
def _model(network: Network, device: torch.device) -> nn.Module:
    """Return this process's network: making one takes longer than a small training.

    Clients of a process take turns, and whoever uses it sets all its parameters first.
    """
    return network.build().to(device)


@dataclass(frozen=True)
class _Trained:
    """What a client's training ends with: its running loss is in nats."""

    parameters: NDArrays
    loss: float
    num_examples: int


# Trainings that `trained_together` has done, until their clients are asked.
_ahead: dict[tuple[str, int, int], _Trained] = {}


class WriterClient(NumPyClient):
    """A client that holds the images of its writers, or images of its own.

    Parameters
    ----------
    client_id : int
        0..K-1.
    assignment : Assignment
        The server's settings for the run.
    server_round : int
        Keys the random streams of this round.
    own : str, optional
        Where this client's own data lies (`fedneg.data.own_data`); None: it has its
        part of the built-in data set.
    """

    def __init__(
        self,
        client_id: int,
        assignment: Assignment,
        server_round: int = 0,
        own: str | None = None,
    ) -> None:
        if not 0 <= client_id < assignment.clients:
            raise FedNegError(
                f"client-id must be 0 to {assignment.clients - 1}, got {client_id}"
            )
        self.client_id, self.assignment, self.server_round = (
            client_id,
            assignment,
            server_round,
        )
        self.own = own
        if own is None:
            self.data = partition_data(client_id, assignment)
        else:
            self.data = own_data(
                own,
                name=assignment.data.name,
                client_id=client_id,
                seed=assignment.seed,
            )
        shape = self.data.images.shape[1:]
        self.model = _model(
            Network(assignment.model, shape, self.data.num_classes),
            choose_device(assignment.client.device),
        )

    def fit(
        self, parameters: list[NDArray[np.float32]], config: dict[str, Scalar]
    ) -> tuple[list[NDArray[np.float32]], int, dict[str, Scalar]]:
        """Return the local parameters after training, the examples used, and metrics.

        Metrics: ``running_loss`` (nats, running mean of the last epoch); with
        `evaluate_after_fit` also what `evaluate` measures, of the local model. An
        attacker that means to replace the model returns other parameters than those.
        """
        trained = _ahead.pop(self._key, None)
        if trained is None:
            trained = self._train(parameters)
        assignment, local = self.assignment, trained.parameters
        metrics: dict[str, Scalar] = {"running_loss": trained.loss}
        if assignment.client.evaluate_after_fit:
            set_parameters(self.model, local)
            metrics |= self._measure(("train", "val", "test"))
        if self._attacks and assignment.attack.name == "model_replacement":
            assert assignment.attack.boost is not None  # `Config` fills it in
            local = boosted(parameters, local, assignment.attack.boost)
        return local, trained.num_examples, metrics

    def _train(self, parameters: NDArrays) -> _Trained:
        set_parameters(self.model, parameters)
        found = self._examples()
        loss = train_epochs(
            self.model,
            found.images,
            found.labels,
            scaling=self.data.scaling,
            settings=self.assignment.client,
            generator=found.generator,
        )
        return _Trained(get_parameters(self.model), loss, len(found.labels))

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
    def _key(self) -> tuple[str, int, int]:
        """What tells this training from others of this process."""
        return self.assignment.to_json(), self.server_round, self.client_id

    @property
    def _attacks(self) -> bool:
        return self.client_id in (self.assignment.attack.clients or ())

    def _source(self) -> tuple[ClientData, int]:
        """Return the data to train on and whose they are: for sybils the first's."""
        source = self.assignment.attack.source_of(self.client_id)
        if source == self.client_id:
            return self.data, source
        if self.own is not None:
            raise FedNegError(
                f"attack=sybils trains client {self.client_id} on the images of "
                f"client {source}; with data of its own it has none of them"
            )
        return partition_data(source, self.assignment), source

    def training_data(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return the images and labels to train on, poisoned if this client attacks."""
        data, source = self._source()
        return poison(
            data.images[data.train],
            data.labels[data.train],
            attack=self.assignment.attack,
            client_id=source,
            seed=self.assignment.seed,
            pixel_max=data.pixel_max,
        )

    def _examples(self) -> Examples:
        """Return what to train on, on the device, and the stream that orders it."""
        device = next(self.model.parameters()).device
        assignment, data = self.assignment, self.data
        if self._attacks:
            images, labels = map(torch.from_numpy, self.training_data())
            images, labels = images.to(device), labels.to(device)
        else:
            images = rows_on(data.images, data.train, device)
            labels = rows_on(data.labels, data.train, device)
        generator = torch_generator(
            assignment.seed, "shuffle", self.server_round, self.client_id
        )
        return Examples(images, labels, generator)

    def _measure(self, parts: Sequence[str]) -> dict[str, Scalar]:
        """Measure the model on parts of this client's data."""
        data = self.data
        device = next(self.model.parameters()).device
        metrics: dict[str, Scalar] = {"num_writers": data.num_writers}
        for name in parts:
            index = getattr(data, name)
            found = evaluate(
                self.model,
                rows_on(data.images, index, device),
                rows_on(data.labels, index, device),
                scaling=data.scaling,
            )
            metrics[f"{name}_accuracy"] = found.accuracy
            metrics[f"{name}_loss"] = found.loss
            metrics[f"num_{name}"] = found.num_examples
        if "train" not in parts:
            return metrics
        if self._attacks:
            images, labels = self.training_data()
            metrics["trained_accuracy"] = evaluate(
                self.model, images, labels, scaling=data.scaling
            ).accuracy
        else:
            metrics["trained_accuracy"] = metrics["train_accuracy"]
        return metrics


@contextmanager
def trained_together(
    clients: Sequence[WriterClient], parameters: NDArrays
) -> Iterator[None]:
    """Train clients together, from the same parameters: here, `fit` has the results.

    Parameters
    ----------
    clients : sequence of WriterClient
        Of one round of one assignment. Each is asked to `fit` these parameters, here
        and once at most.
    parameters : list of arrays
        The global model.
    """
    first = clients[0]
    device = next(first.model.parameters()).device
    examples = [client._examples() for client in clients]
    found = train_cohort(
        first.model,
        torch.from_numpy(flatten(parameters)).to(device),
        examples,
        scaling=first.data.scaling,
        settings=first.assignment.client,
    )
    shapes = shapes_of(parameters)
    for client, row, loss, its in zip(
        clients, found.parameters.cpu().numpy(), found.losses, examples, strict=True
    ):
        _ahead[client._key] = _Trained(unflatten(row, shapes), loss, len(its.labels))
    try:
        yield
    finally:
        _ahead.clear()
