"""The built-in task: MNIST by writer, or the embedded digits, one task like any other.

Images stay uint8 until a batch of them is used. What of it the server needs (test
images) and what a client has (its part, or images of its own) comes from `fedneg.data`;
which network is trained, from `fedneg.tasks.model`.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from fedneg.core.assignment import Assignment
from fedneg.core.data_settings import AttackSettings, DataSettings
from fedneg.core.errors import FedNegError
from fedneg.core.settings import ModelSettings
from fedneg.data.attacks import attack_probe, poison, poisoned_places
from fedneg.data.canaries import make_canaries
from fedneg.data.client_data import own_data, partition_data
from fedneg.data.datasets import Dataset, load_dataset
from fedneg.data.kinds import ImageKind, image_kind
from fedneg.data.partition import partition
from fedneg.tasks.confidence import cross_entropies, probabilities_of, scaled_confidence
from fedneg.tasks.device import as_input, rows_on
from fedneg.tasks.model import Network
from fedneg.tasks.task import ClientRef, Extras, Split, Task
from fedneg.tasks.training import SGD, Rows, evaluate, predict


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images, some or all of those in two arrays.

    Attributes
    ----------
    images, labels : arrays, shapes (M, height, width) and (M,)
        As ``kind`` says; not to be written to.
    kind : ImageKind
    index : int64 array, shape (N,), optional
        Which of them; None: all.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    kind: ImageKind
    index: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels if self.index is None else self.index)

    def arrays(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return the images and labels themselves."""
        if self.index is None:
            return self.images, self.labels
        return self.images[self.index], self.labels[self.index]

    def on(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return them as tensors on a device, images as bytes."""
        if self.index is not None:
            return (
                rows_on(self.images, self.index, device),
                rows_on(self.labels, self.index, device),
            )
        return (
            torch.tensor(self.images, device=device),
            torch.tensor(self.labels, device=device),
        )

    def take(self, places: NDArray[np.int64]) -> "Images":
        """Return some of them, in the order of `places`."""
        index = places if self.index is None else self.index[places]
        return Images(self.images, self.labels, self.kind, index)


@dataclass(frozen=True)
class _ImageTask:
    """The functions of the task, and what they must know."""

    seed: int
    clients: int
    settings: DataSettings
    network: ModelSettings
    threads: int
    download: bool

    @property
    def kind(self) -> ImageKind:
        return image_kind(self.settings.name)

    def dataset(self) -> Dataset:
        root = self.settings.root
        place = Path(root) if root else None
        return load_dataset(self.settings.name, root=place, download=self.download)

    def model(self) -> nn.Module:
        return Network(self.network, self.kind.shape, self.kind.num_classes).fresh()

    def data(self, client: ClientRef) -> Split:
        place = own_place(client)
        if place is None:
            found = partition_data(
                client.client_id,
                self.settings,
                clients=client.clients,
                seed=self.seed,
            )
        else:
            found = own_data(
                place,
                name=self.settings.name,
                client_id=client.client_id,
                seed=self.seed,
            )
        train, val, unseen, test = (
            Images(found.images, found.labels, found.kind, index)
            for index in (
                found.train,
                found.val,
                np.concatenate([found.val, found.test]),
                found.test,
            )
        )
        return Split(
            train,
            unseen,
            test,
            more={"val": val},
            counts={"num_writers": found.num_writers},
        )

    def test(self) -> Images:
        found = self.dataset()
        # What cannot be split among the clients should not be found out K times.
        partition(found, self.settings, clients=self.clients, seed=self.seed)
        return Images(found.test_images, found.test_labels, self.kind)

    def rows(self, data: Images, device: torch.device) -> Rows:
        return Rows(*data.on(device), self.kind.scaling)

    def measure(self, model: nn.Module, data: Images) -> tuple[float, float]:
        images, labels = data.on(_device_of(model))
        scaling = self.kind.scaling
        found = evaluate(model, images, labels, scaling=scaling, threads=self.threads)
        return found.accuracy, found.loss

    def quality(self, model: nn.Module, data: Images) -> float:
        return self.measure(model, data)[0]

    def logits(self, model: nn.Module, data: Images) -> NDArray[np.float32]:
        images, _ = data.on(_device_of(model))
        scaling = self.kind.scaling
        found = predict(model, images, scaling=scaling, threads=self.threads)
        logits: NDArray[np.float32] = found.numpy()
        return logits

    def losses(self, model: nn.Module, data: Images) -> NDArray[np.float64]:
        logits = self.logits(model, data)
        if not np.isfinite(logits).all():
            return np.full(len(data), np.nan)
        return cross_entropies(logits, data.arrays()[1])

    def scores(self, model: nn.Module, data: Images) -> NDArray[np.float64]:
        logits = self.logits(model, data)
        if not np.isfinite(logits).all():
            return np.full(len(data), np.nan)
        return scaled_confidence(logits, data.arrays()[1])

    def outputs(self, model: nn.Module, data: Images) -> NDArray[np.float64]:
        logits = self.logits(model, data)
        if not np.isfinite(logits).all():
            return np.full(logits.shape, np.nan)
        return probabilities_of(logits)

    def loss(self, model: nn.Module, data: Images) -> torch.Tensor:
        images, labels = data.on(_device_of(model))
        logits = model(as_input(images, self.kind.scaling))
        return functional.cross_entropy(logits, labels, reduction="none")

    def inputs(self, data: Images) -> torch.Tensor:
        return as_input(data.on(torch.device("cpu"))[0], self.kind.scaling)

    def poison(
        self, data: Images, attack: AttackSettings, draws: np.random.Generator
    ) -> Images:
        found = poison(*data.arrays(), attack=attack, draws=draws, kind=self.kind)
        return Images(*found, self.kind)

    def poisoned(
        self, count: int, attack: AttackSettings, draws: np.random.Generator
    ) -> NDArray[np.int64]:
        return poisoned_places(count, attack=attack, draws=draws)

    def probe(
        self, data: Images, attack: AttackSettings
    ) -> tuple[Images, Images | None]:
        images, labels = data.arrays()
        found = attack_probe(images, labels, attack=attack, kind=self.kind)
        assert found is not None, attack.name
        if attack.poison != "backdoor":
            return Images(*found, self.kind), None
        others = labels != attack.target
        if not others.any():
            return Images(*found, self.kind), None
        return (
            Images(*found, self.kind),
            Images(images[others], found[1], self.kind),
        )

    def canaries(
        self, attack: AttackSettings, draws: np.random.Generator
    ) -> tuple[Images, Images]:
        made = make_canaries(self.kind, count=attack.canaries, draws=draws)
        return (
            Images(made.planted, made.labels, self.kind),
            Images(made.held_out, made.labels, self.kind),
        )

    def facts(self) -> dict[str, Any]:
        return {"writers": self.dataset().num_writers}

    def digest(self) -> str:
        return self.dataset().digest


def images_task(
    assignment: Assignment, *, threads: int = 1, download: bool = False
) -> Task:
    """Return the built-in task for the data, the network and the seed of a run.

    Parameters
    ----------
    assignment : Assignment
    threads : int
        That measure a model; they change no bit of what is measured.
    download : bool
        Whether files that are not there may be downloaded.
    """
    return _made(
        assignment.seed,
        assignment.clients,
        assignment.data,
        assignment.model,
        threads,
        download,
    )


@lru_cache(maxsize=8)
def _made(
    seed: int,
    clients: int,
    data: DataSettings,
    model: ModelSettings,
    threads: int,
    download: bool,
) -> Task:
    own = _ImageTask(seed, clients, data, model, threads, download)
    return Task(
        name=data.name,
        model=own.model,
        data=own.data,
        train=SGD(own.rows),
        losses=own.losses,
        loss=own.loss,
        test=own.test,
        quality=own.quality,
        outputs=own.outputs,
        inputs=own.inputs,
        poison=own.poison,
        deterministic=True,
        extras=Extras(
            measure=own.measure,
            scores=own.scores,
            take=Images.take,
            probe=own.probe,
            canaries=own.canaries,
            poisoned=own.poisoned,
            digest=own.digest,
            facts=own.facts,
        ),
    )


def own_place(client: ClientRef) -> str | None:
    """Return where a node's own images lie, None if it has none.

    Raises
    ------
    FedNegError
        If the node config's `data` is no text.
    """
    value = client.node_config.get("data")
    if value is not None and not isinstance(value, str):
        raise FedNegError(
            "data in the node config must be a path in quotes, e.g. "
            f'data="/srv/digits.npz", got {value!r}'
        )
    return value


def _device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
