"""What one client works on, wherever it comes from: built-in partition or own data."""

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedneg.core.assignment import Assignment
from fedneg.core.data_settings import DataSettings
from fedneg.data.datasets import Scaling, image_kind, load_dataset
from fedneg.data.own_data import OwnImages, read_own_images
from fedneg.data.partition import ClientSplit, Indices, partition, split_images


@dataclass(frozen=True, eq=False)
class ClientData:
    """One client's images and how they are split.

    ``images`` (N, height, width) with values 0..``pixel_max`` and ``labels`` (N,) are
    read-only, and may hold other clients' images too; ``train``, ``val`` and ``test``
    are ascending indices of this client's. ``scaling`` makes pixels the model's input.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    train: Indices
    val: Indices
    test: Indices
    num_writers: int
    pixel_max: int
    scaling: Scaling
    num_classes: int

    @property
    def input_size(self) -> int:
        """Pixels of one image."""
        return math.prod(self.images.shape[1:])


def partition_data(client_id: int, assignment: Assignment) -> ClientData:
    """Return a client's part of the built-in data set; nothing is copied.

    Raises
    ------
    FedNegError
        If the data set is not there or damaged, or cannot be dealt out so.
    """
    data = assignment.data
    root = Path(data.root) if data.root else None
    found = load_dataset(data.name, root=root, download=False)
    split = _splits(data, assignment.clients, assignment.seed)[client_id]
    return ClientData(
        images=found.images,
        labels=found.labels,
        train=split.train,
        val=split.val,
        test=split.test,
        num_writers=len(split.writers),
        pixel_max=found.pixel_max,
        scaling=found.scaling,
        num_classes=found.num_classes,
    )


@lru_cache(maxsize=4)
def _splits(data: DataSettings, clients: int, seed: int) -> tuple[ClientSplit, ...]:
    """Return the partition, made once per process."""
    root = Path(data.root) if data.root else None
    dataset = load_dataset(data.name, root=root, download=False)
    return partition(dataset, data, clients=clients, seed=seed)


def own_data(place: str, *, name: str, client_id: int, seed: int) -> ClientData:
    """Return a client's own data; no file of the data set `name` is needed.

    The images are split as `partition` splits a client's.

    Parameters
    ----------
    place : str
        Where they lie (`fedneg.data.own_data.read_own_images`).
    name : str
        The run's data set: what the images must look like.

    Raises
    ------
    FedNegError
        In one line what is wrong with the data.
    """
    kind = image_kind(name)
    found = read_own_images(place, kind)
    split = _own_split(found, client_id, seed)
    return ClientData(
        images=found.images,
        labels=found.labels,
        train=split.train,
        val=split.val,
        test=split.test,
        num_writers=found.num_writers,
        pixel_max=kind.pixel_max,
        scaling=kind.scaling,
        num_classes=kind.num_classes,
    )


# By the object's identity: the same images are the same object (`read_own_images`).
@lru_cache(maxsize=8)
def _own_split(found: OwnImages, client_id: int, seed: int) -> ClientSplit:
    everything = np.arange(len(found.labels))
    return split_images(client_id, everything, np.empty(0, np.int64), seed)
