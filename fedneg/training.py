"""Local SGD and evaluation on images that stay uint8 until a batch is used."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from fedneg.settings import ClientSettings

EVALUATION_BATCH = 2000


@dataclass(frozen=True)
class Metrics:
    """Accuracy as a fraction in [0, 1], loss in nats per example."""

    accuracy: float
    loss: float
    num_examples: int


def choose_device(name: str) -> torch.device:
    """Return the device for 'auto', 'cpu' or 'cuda'; auto takes CUDA if it is there.

    Raises
    ------
    RuntimeError
        If CUDA is asked for and there is none.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise RuntimeError("device=cuda was asked for, but torch sees no CUDA device")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def as_input(images: torch.Tensor, pixel_max: int) -> torch.Tensor:
    """Return uint8 images (N, ...) as float32 rows (N, height * width) in [0, 1]."""
    return images.flatten(1).to(torch.float32).div_(pixel_max).sub_(0.305).div_(0.376)


def train_epochs(
    model: nn.Module,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    *,
    pixel_max: int,
    settings: ClientSettings,
    generator: torch.Generator,
) -> float:
    """Train `model` in place and return the mean training loss of the last epoch.

    Parameters
    ----------
    model : nn.Module
        Takes rows of float32 pixels in [0, 1], gives one logit per class.
    images, labels : writable arrays, shapes (N, height, width) and (N,)
        N is at least 1. The last batch of an epoch may be smaller.
    pixel_max : int
        The value of a white pixel.
    settings : ClientSettings
        SGD with momentum, started with zero momentum.
    generator : torch.Generator
        The order of the examples; one permutation per epoch is drawn from it.

    References
    ----------
    McMahan et al., AISTATS 2017, Algorithm 1, ClientUpdate. arXiv:1602.05629
    """
    # Sums must not depend on how many threads a machine or an engine has to spare.
    torch.set_num_threads(1)
    device = next(model.parameters()).device
    x = torch.from_numpy(images)
    y = torch.from_numpy(labels)
    optimiser = torch.optim.SGD(
        model.parameters(),
        lr=settings.learning_rate,
        momentum=settings.momentum,
        fused=True,
    )
    model.train()
    total = torch.zeros((), device=device)
    for _ in range(settings.local_epochs):
        order = torch.randperm(len(labels), generator=generator)
        total.zero_()
        for batch in torch.split(order, settings.batch_size):
            optimiser.zero_grad()
            logits = model(as_input(x[batch].to(device), pixel_max))
            loss = functional.cross_entropy(logits, y[batch].to(device))
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            total += loss.detach() * len(batch)
    return float(total) / len(labels)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    *,
    pixel_max: int,
) -> Metrics:
    """Return accuracy and mean cross-entropy on N images; N = 0 gives zeros."""
    if len(labels) == 0:
        return Metrics(0.0, 0.0, 0)
    logits = predict(model, images, pixel_max=pixel_max)
    y = torch.from_numpy(labels.copy())
    loss = functional.cross_entropy(logits, y, reduction="sum")
    correct = int((logits.argmax(1) == y).sum())
    return Metrics(correct / len(y), float(loss) / len(y), len(y))


@torch.no_grad()
def predict(
    model: nn.Module, images: NDArray[np.uint8], *, pixel_max: int
) -> torch.Tensor:
    """Return the logits of N images on the CPU, shape (N, classes)."""
    torch.set_num_threads(1)
    device = next(model.parameters()).device
    model.eval()
    parts = []
    for start in range(0, len(images), EVALUATION_BATCH):
        # A copy: torch takes no read-only array, and the data set is one.
        batch = torch.from_numpy(images[start : start + EVALUATION_BATCH].copy())
        parts.append(model(as_input(batch.to(device), pixel_max)).cpu())
    return torch.cat(parts)
