"""The ordinary client: trains the task on its own data, and measures models on them.

Clients that share a process can be trained together before they are asked one by one:
`trained_together`. Each then answers as it would have, up to rounding.
"""

from collections.abc import Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from flwr.client import NumPyClient
from flwr.common import Scalar
from numpy.typing import NDArray
from torch import nn

from fedneg.clients.part import Part
from fedneg.core.assignment import Assignment
from fedneg.core.errors import FedNegError
from fedneg.core.parameters import NDArrays, flatten, shapes_of, unflatten
from fedneg.core.seeding import seed_of
from fedneg.data.attacks import boosted
from fedneg.tasks import calls
from fedneg.tasks.cohort import Examples, train_cohort
from fedneg.tasks.dense import dense_layers
from fedneg.tasks.device import choose_device
from fedneg.tasks.lookup import task_of
from fedneg.tasks.model import get_parameters, set_parameters
from fedneg.tasks.prototype import Prototype
from fedneg.tasks.task import ClientRef, Order, Split, Task
from fedneg.tasks.training import SGD, settings_of


@lru_cache(maxsize=4)
def _model(task: Task, device: torch.device) -> nn.Module:
    """Return this process's model: making one takes longer than a small training.

    Clients of a process take turns to measure by it, and whoever does sets all its
    parameters first.
    """
    return Prototype(task).build().to(device)


@dataclass(frozen=True)
class _Trained:
    """What a client's training ends with."""

    parameters: NDArrays
    metrics: Mapping[str, float]
    num_examples: int


# Trainings that `trained_together` has done, until their clients are asked.
_ahead: dict[tuple[str, int, int], _Trained] = {}


class TrainingClient(NumPyClient):
    """A client with data of its own, which a task knows how to train on.

    Parameters
    ----------
    client_id : int
        0..K-1.
    assignment : Assignment
        The server's settings for the run.
    server_round : int
        Keys the random streams of this round.
    node_config : mapping, optional
        What the client's node was started with; the task finds its data by it.
    """

    def __init__(
        self,
        client_id: int,
        assignment: Assignment,
        server_round: int = 0,
        node_config: Mapping[str, Any] | None = None,
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
        self.node_config = dict(node_config or {})
        self.task = task_of(assignment)
        self.part = Part(self.task, assignment, client_id)
        self.whole = self._split_of(client_id)
        self.device = choose_device(assignment.client.device)
        self.model = _model(self.task, self.device)

    def fit(
        self, parameters: list[NDArray[np.float32]], config: dict[str, Scalar]
    ) -> tuple[list[NDArray[np.float32]], int, dict[str, Scalar]]:
        """Return the local parameters after training, the examples used, and metrics.

        Metrics: those of the task; with `evaluate_after_fit` also what `evaluate`
        measures, of the local model. An attacker that means to replace the model
        returns other parameters than those.
        """
        trained = _ahead.pop(self._key, None)
        if trained is None:
            trained = self._train(parameters)
        assignment, local = self.assignment, trained.parameters
        metrics: dict[str, Scalar] = dict(trained.metrics)
        if assignment.client.evaluate_after_fit:
            set_parameters(self.model, local)
            metrics |= self._measure(tuple(self.split.measured))
        if self._attacks and assignment.attack.name == "model_replacement":
            assert assignment.attack.boost is not None  # `Config` fills it in
            local = boosted(parameters, local, assignment.attack.boost)
        return local, trained.num_examples, metrics

    def order(self, purpose: str = "shuffle", *, epochs: int | None = None) -> Order:
        """Return what this client is to do in a training of this round."""
        settings = self.assignment.client
        return Order(
            epochs=settings.local_epochs if epochs is None else epochs,
            learning_rate=settings.learning_rate,
            batch_size=settings.batch_size,
            seed=seed_of(
                self.assignment.seed, purpose, self.server_round, self.client_id
            ),
            device=self.device.type,
            options={"momentum": settings.momentum, **self.assignment.task_options},
        )

    def _train(self, parameters: NDArrays) -> _Trained:
        learner, data = self._learner(), self.training_data()
        set_parameters(learner, parameters)
        metrics = calls.train(self.task, learner, data, self.order())
        metrics.pop("steps", None)  # how many there were is of use to relearning only
        return _Trained(get_parameters(learner), metrics, len(data))

    def _learner(self) -> nn.Module:
        """Return a model that nobody has trained before.

        What a task leaves on one beside the arrays that travel (an optimiser and its
        moments, buffers that are not persistent, hooks) is of that client's data, and
        must not go on into another's training. fedneg's own SGD leaves nothing.
        """
        if isinstance(self.task.train, SGD) and dense_layers(self.model):
            return self.model
        return Prototype(self.task).build().to(self.device)

    def evaluate(
        self, parameters: list[NDArray[np.float32]], config: dict[str, Scalar]
    ) -> tuple[float, int, dict[str, Scalar]]:
        """Return test loss, test examples, and every metric of the model here.

        For each part in ``config["parts"]`` (separated by spaces; by default train,
        test and what else the task has) that this client has: quality, loss and number
        of examples, on the original labels. With train, ``trained_accuracy`` is on what
        this client trained on, poison included.
        """
        set_parameters(self.model, parameters)
        known = self.split.measured
        asked = str(config.get("parts", " ".join(known))).split()
        parts = [name for name in asked if name in known]
        if not parts:
            raise FedNegError(
                f"task {self.task.name} has no part {' or '.join(asked)} to measure "
                f"models on, only {', '.join(known)}"
            )
        metrics = self._measure(parts)
        last = parts[-1]
        return float(metrics[f"{last}_loss"]), int(metrics[f"num_{last}"]), metrics

    @property
    def _key(self) -> tuple[str, int, int]:
        """What tells this training from others of this process."""
        return self.assignment.to_json(), self.server_round, self.client_id

    @property
    def _attacks(self) -> bool:
        attack = self.assignment.attack
        return attack.name != "none" and self.client_id in (attack.clients or ())

    def _split_of(self, client_id: int) -> Split:
        """Return a client's data, as this node has them."""
        clients = self.assignment.clients
        return calls.split_of(
            self.task, ClientRef(client_id, clients, self.node_config)
        )

    def _source(self) -> tuple[Split, int]:
        """Return the data to train on and whose they are: for sybils the first's."""
        source = self.assignment.attack.source_of(self.client_id)
        if source == self.client_id:
            return self.whole, source
        if "data" in self.node_config:
            raise FedNegError(
                f"attack=sybils trains client {self.client_id} on the data of "
                f"client {source}; with data of its own it has none of them"
            )
        return self._split_of(source), source

    def training_data(self) -> Sized:
        """Return what to train on, poisoned if this client attacks.

        Where some examples are to be forgotten, those of the part that is asked for.
        """
        found, places = self._as_trained()
        return found if self.part.is_all else self.part.taken(found, places)

    @cached_property
    def split(self) -> Split:
        """Its data; of the training examples the part that is asked for."""
        if self.part.is_all:
            return self.whole
        own, (_, places) = self.whole.train, self._as_trained()
        places = places[places < len(own)]  # none that the attack has added
        return replace(self.whole, train=self.part.taken(own, places))

    def _as_trained(self) -> tuple[Sized, NDArray[np.int64]]:
        """Return all that this client would train on, and which of it is meant."""
        split, source = self._source()
        found, own = self.poisoned(split.train, source), len(split.train)
        return found, self.part.places(len(found), own=own, source=source)

    def poisoned(
        self,
        data: Sized,
        source: int,
        purpose: str = "poison",
        *,
        fraction: float | None = None,
    ) -> Sized:
        """Return data as this client would train on them; client `source` has them.

        With `fraction`, another share of them is poisoned.
        """
        attack = self.assignment.attack
        if not self._attacks:
            return data
        if fraction is not None:
            attack = replace(attack, fraction=fraction)
        return calls.poisoned(
            self.task,
            data,
            attack,
            seed=self.assignment.seed,
            client_id=source,
            purpose=purpose,
        )

    def _measure(self, parts: Sequence[str]) -> dict[str, Scalar]:
        """Measure the model on parts of this client's data."""
        metrics: dict[str, Scalar] = dict(self.split.counts)
        for name in parts:
            found = calls.measure(self.task, self.model, self.split.measured[name])
            metrics[f"{name}_accuracy"] = found.accuracy
            metrics[f"{name}_loss"] = found.loss
            metrics[f"num_{name}"] = found.num_examples
        if "train" not in parts:
            return metrics
        metrics["trained_accuracy"] = metrics["train_accuracy"]
        if self._attacks:
            metrics["trained_accuracy"] = calls.quality(
                self.task, self.model, self.training_data()
            )
        return metrics


@contextmanager
def trained_together(
    clients: Sequence[TrainingClient], parameters: NDArrays
) -> Iterator[None]:
    """Train clients together, from the same parameters: here, `fit` has the results.

    Only where a task trains with fedneg's own SGD, and its model is dense; else each
    client trains when it is asked to.

    Parameters
    ----------
    clients : sequence of TrainingClient
        Of one round of one assignment. Each is asked to `fit` these parameters, here
        and once at most.
    parameters : list of arrays
        The global model.
    """
    first = clients[0]
    sgd, model = first.task.train, first.model
    if isinstance(sgd, SGD) and dense_layers(model):
        rows = [sgd.rows(client.training_data(), first.device) for client in clients]
        orders = [client.order() for client in clients]
        found = train_cohort(
            model,
            torch.from_numpy(flatten(parameters)).to(first.device),
            [
                Examples(
                    its.images,
                    its.labels,
                    torch.Generator().manual_seed(order.seed),
                )
                for its, order in zip(rows, orders, strict=True)
            ],
            scaling=rows[0].scaling,
            settings=settings_of(orders[0]),
        )
        shapes = shapes_of(parameters)
        for client, row, loss, its in zip(
            clients, found.parameters.cpu().numpy(), found.losses, rows, strict=True
        ):
            _ahead[client._key] = _Trained(
                unflatten(row, shapes), {"running_loss": loss}, len(its.labels)
            )
    try:
        yield
    finally:
        _ahead.clear()
