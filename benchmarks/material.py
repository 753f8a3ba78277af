"""What is measured on: MNIST where it is at hand, else images like it; and how much."""

import math
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.prepare import synthetic, write_data
from fedneg.core.parameters import NDArrays
from fedneg.core.seeding import rng, seed_of
from fedneg.core.settings import ModelSettings
from fedneg.data.datasets import default_root, load_dataset
from fedneg.data.download import FILES, DataUnavailableError
from fedneg.tasks.calls import seeded
from fedneg.tasks.model import Network, get_parameters

REPOSITORY = Path(__file__).resolve().parent.parent
# The network of conf/model and of the peers.
HIDDEN = (512, 256, 128)


@dataclass(frozen=True)
class Sizes:
    """How much of everything; the defaults are what docs/benchmarks.md reports.

    Attributes
    ----------
    few, some, many : int
        Clients; 5 hold 10,000 images each, 50 hold 1,000, and 539 are MNIST's writers.
    epochs : int
        Client-epochs in a sample, after one that is not counted.
    rounds, many_rounds, many_rounds_stock : int
        Rounds of a run; with many clients, and the same for stock Flower.
    most_rounds : int
        Where a retraining that does not reach its aim is given up.
    """

    few: int = 5
    some: int = 50
    more: int = 150
    many: int = 539
    epochs: int = 5
    rounds: int = 10
    many_rounds: int = 4
    many_rounds_stock: int = 3
    most_rounds: int = 30


QUICK = Sizes(
    few=2,
    some=3,
    more=4,
    many=6,
    epochs=1,
    rounds=2,
    many_rounds=2,
    many_rounds_stock=2,
    most_rounds=2,
)


@dataclass(frozen=True)
class Material:
    """The data of all contestants, and a folder for what they write.

    Attributes
    ----------
    source : str
        ``mnist by writer``, ``synthetic``, or, for a quick run, ``digits``.
    overrides : tuple of str
        What tells fedneg to use it.
    root : Path
        FEDNEG_DATA of whoever reads MNIST's files.
    scratch : Path
    """

    source: str
    overrides: tuple[str, ...]
    root: Path
    scratch: Path
    sizes: Sizes
    _prepared: dict[int, Path] = field(default_factory=dict)

    @classmethod
    def find(cls, scratch: Path, *, quick: bool) -> "Material":
        """Return what there is; nothing is downloaded."""
        if quick:
            hidden = ",".join(map(str, HIDDEN))
            small = ("data=digits", f"model.hidden=[{hidden}]", "client.local_epochs=1")
            return cls("digits", small, scratch, scratch, QUICK)
        root, source = default_root().resolve(), "mnist by writer"
        try:
            load_dataset("mnist", root=root, download=False)
        except DataUnavailableError:
            root, source = scratch / "data", "synthetic"
            write_synthetic_files(root)
        quoted = str(root).replace("\\", "\\\\").replace("'", "\\'")
        given = ("data=mnist", "data.download=false", f"data.root='{quoted}'")
        return cls(source, given, root, scratch, Sizes())

    def for_peers(self, clients: int) -> Path:
        """Return a folder with the images of so many clients, as the peers read it."""
        if clients not in self._prepared:
            folder = self.scratch / f"peers-{clients}"
            if self.source == "digits":
                _write_few_images(folder, clients)
            else:
                write_data(folder, clients, root=self.root)
            self._prepared[clients] = folder
        return self._prepared[clients]


def initial_parameters(input_size: int) -> NDArrays:
    """Return the network's arrays before round 1 of a run with seed 0."""
    network = Network(ModelSettings("mlp", HIDDEN), (input_size,), 10)
    with seeded(seed_of(0, "init")):
        return get_parameters(network.fresh())


def write_synthetic_files(root: Path) -> None:
    """Write files of MNIST's names, shapes and writers, with a pattern per class."""
    images, labels, writers = synthetic()
    extended = np.zeros((len(labels), 8), np.int64)
    extended[:, 0], extended[:, 2] = labels, writers
    # Images to test on are as good as any: they measure how long testing takes.
    arrays: list[NDArray[Any]] = [images, labels]
    arrays += [images[:10_000], labels[:10_000], extended]
    for file, array in zip(FILES, arrays, strict=True):
        path = file.gz_path(root).with_suffix("")
        path.parent.mkdir(parents=True, exist_ok=True)
        assert math.prod(file.shape) == array.size
        code = 8 if file.dtype == "u1" else 12
        head = struct.pack(
            f">4B{len(file.shape)}i", 0, 0, code, len(file.shape), *file.shape
        )
        path.write_bytes(head + array.astype(file.dtype).tobytes())


def _write_few_images(folder: Path, clients: int) -> None:
    """Write a hundred images of MNIST's size for each client."""
    draw = rng(0, "bench")
    size = 100 * clients
    folder.mkdir(parents=True, exist_ok=True)
    images = draw.integers(0, 256, (size, 28, 28), dtype=np.uint8)
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", draw.integers(0, 10, size))
    np.save(folder / "client_of.npy", np.arange(size) % clients)
