"""What one client works on, wherever it comes from: built-in partition or own data."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedneg.core.data_settings import DataSettings
from fedneg.data.datasets import load_dataset
from fedneg.data.kinds import ImageKind, image_kind
from fedneg.data.own_data import OwnImages, read_own_images
from fedneg.data.partition import ClientSplit, Indices, partition, split_images


@dataclass(frozen=True, eq=False)
class ClientData:
    """One client's images and how they are split.

    ``images`` (N, height, width) and ``labels`` (N,) are as ``kind`` says, read-only,
    and may hold other clients' images too; ``train``, ``val`` and ``test`` are
    ascending indices of this client's.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    train: Indices
    val: Indices
    test: Indices
    num_writers: int
    kind: ImageKind


def partition_data(
    client_id: int, data: DataSettings, *, clients: int, seed: int
) -> ClientData:
    """Return a client's part of the built-in data set; nothing is copied.

    Raises
    ------
    FedNegError
        If the data set is not there or damaged, or cannot be dealt out so.
    """
    root = Path(data.root) if data.root else None
    found = load_dataset(data.name, root=root, download=False)
    split = _splits(data, clients, seed)[client_id]
    return ClientData(
        images=found.images,
        labels=found.labels,
        train=split.train,
        val=split.val,
        test=split.test,
        num_writers=len(split.writers),
        kind=image_kind(data.name),
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
        kind=kind,
    )


# By the object's identity: the same images are the same object (`read_own_images`).
@lru_cache(maxsize=8)
def _own_split(found: OwnImages, client_id: int, seed: int) -> ClientSplit:
    everything = np.arange(len(found.labels))
    return split_images(client_id, everything, np.empty(0, np.int64), seed)
