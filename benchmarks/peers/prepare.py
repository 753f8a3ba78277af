"""Write the images that fedneg and its peers train on, as three .npy files.

``images.npy`` (N, 28, 28) uint8, ``labels.npy`` (N,) int64 and ``client_of.npy`` (N,)
int64: the client id of each image, -1 where no client trains on it.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedneg.data.datasets import load_dataset
from fedneg.data.download import DataUnavailableError
from fedneg.data.partition import partition_by_writer

SEED = 0
# As many as MNIST has, so that the fallback is the same amount of work.
IMAGES, WRITERS = 60_000, 539


def write_data(
    folder: Path,
    clients: int,
    images_per_client: int | None = None,
    *,
    root: Path | None = None,
) -> str:
    """Write the three files and return what is in them.

    Parameters
    ----------
    folder : Path
        Where to write; made if it is not there.
    clients : int
        Number of clients; writers are dealt out to them as fedneg does with seed 0.
    images_per_client : int, optional
        Use no more than this many images of each client. All of its training part,
        ten of twelve images, if None.
    root : Path, optional
        Where MNIST's files lie, if not where fedneg looks for them.

    Returns
    -------
    str
        ``"mnist by writer"``, or ``"synthetic"`` where MNIST is not at hand: nothing
        is downloaded.
    """
    try:
        mnist = load_dataset("mnist", root=root, download=False)
        source = "mnist by writer"
        images, labels, writers = mnist.images, mnist.labels, mnist.writers
    except DataUnavailableError:
        source = "synthetic"
        images, labels, writers = synthetic()
    client_of = np.full(len(labels), -1, np.int64)
    for split in partition_by_writer(writers, clients=clients, seed=SEED):
        client_of[split.train[:images_per_client]] = split.client_id
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", labels)
    np.save(folder / "client_of.npy", client_of)
    return source


def synthetic() -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """Return images, labels and writers: a noisy pattern per class can be learned."""
    rng = np.random.default_rng(SEED)
    labels = rng.integers(0, 10, IMAGES)
    patterns = rng.integers(0, 128, (10, 28, 28), dtype=np.uint8)
    noise = rng.integers(0, 128, (IMAGES, 28, 28), dtype=np.uint8)
    return patterns[labels] + noise, labels, np.arange(IMAGES) % WRITERS


def main() -> None:
    """Write the files from the command line and say what they hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--images-per-client", type=int)
    arguments = parser.parse_args()
    print(write_data(arguments.folder, arguments.clients, arguments.images_per_client))


if __name__ == "__main__":
    main()
