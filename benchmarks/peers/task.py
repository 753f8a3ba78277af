"""What every peer has in common: the network, the data, and the line it reports.

It needs torch and numpy only, since a peer may live in an environment of its own.
"""

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

LAYERS = (784, 512, 256, 128, 10)
LEARNING_RATE = 0.01
MOMENTUM = 0.9
BATCH_SIZE = 32
# Mean and deviation of MNIST's pixels after division by 255.
MEAN, STD = 0.1307, 0.3081
LOSS_EXAMPLES = 2000


@dataclass(frozen=True, eq=False)
class Images:
    """All training images: (N, 28, 28), their labels (N,) and their clients (N,)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    client_of: NDArray[np.int64]

    def of_client(self, client_id: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return the images and labels of one client."""
        chosen = self.client_of == client_id
        return self.images[chosen], self.labels[chosen]


@cache
def load_images(folder: str) -> Images:
    """Return what `prepare.write_data` wrote, read once per process."""
    arrays = (
        np.load(Path(folder) / f"{name}.npy")
        for name in ("images", "labels", "client_of")
    )
    return Images(*arrays)


def as_input(images: NDArray[np.uint8]) -> torch.Tensor:
    """Return images as scaled float32."""
    return torch.from_numpy(images).float().div_(255).sub_(MEAN).div_(STD)


@cache
def client_tensors(folder: str, client_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the scaled images and the labels of one client, made once per process."""
    images, labels = load_images(folder).of_client(client_id)
    return as_input(images), torch.from_numpy(labels)


def build_net() -> nn.Sequential:
    """Return the dense ReLU network; it takes images, flattened or not."""
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(LAYERS):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@torch.no_grad()
def first_images_loss(net: nn.Module, data: Images) -> float:
    """Return the cross-entropy on the first images, nats per example.

    Untrained it is about ln(10) = 2.3, so this proves that a peer did learn.
    """
    logits = net(as_input(data.images[:LOSS_EXAMPLES]))
    labels = torch.from_numpy(data.labels[:LOSS_EXAMPLES])
    return float(nn.functional.cross_entropy(logits, labels))


def seconds_since_process_start() -> float:
    """Return the age of this process, imports included (Linux).

    Elsewhere the interpreter's own start, before the first import, is not counted.
    """
    try:
        stat = Path("/proc/self/stat").read_text()
    except OSError:
        return time.perf_counter() - _imported
    # Field 22, in clock ticks since boot; field 2, a name in brackets, may hold spaces.
    ticks = int(stat.rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


_imported = time.perf_counter()


def print_report(
    peer: str,
    *,
    packages: Sequence[str],
    settings: Mapping[str, object],
    start_seconds: float,
    round_seconds: Sequence[float],
    final_loss: float,
) -> None:
    """Print the one line of JSON that the benchmark reads.

    ``start_seconds`` is the age of the process when round 1 began.
    """
    common = {
        "model": list(LAYERS),
        "learning_rate": LEARNING_RATE,
        "momentum": MOMENTUM,
        "batch_size": BATCH_SIZE,
        "local_epochs": 1,
    }
    report = {
        "peer": peer,
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
        "settings": {**common, **settings},
        "round_seconds": [round(seconds, 4) for seconds in round_seconds],
        "final_loss": round(final_loss, 4),
        "start_seconds": round(start_seconds, 3),
    }
    print(json.dumps(report), flush=True)
