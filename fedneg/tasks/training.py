"""fedneg's own SGD on the cross-entropy, and evaluation: classification of any kind.

Images may stay uint8 until a batch of them is used (`Scaling`); other input is what the
model takes.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from fedneg.core.settings import ClientSettings
from fedneg.data.kinds import Scaling
from fedneg.tasks.calls import Metrics
from fedneg.tasks.cohort import Examples, train_cohort
from fedneg.tasks.dense import DenseTrainer, dense_layers
from fedneg.tasks.device import as_input, own_tensor
from fedneg.tasks.task import Order

EVALUATION_BATCH = 1000
# Bytes of shape (N, height, width), or what a model takes, and classes of shape (N,),
# wherever they lie.
Images = NDArray[Any] | torch.Tensor
Labels = NDArray[np.int64] | torch.Tensor
# Takes a batch of input and its labels; returns the batch's summed loss before it.
Step = Callable[[torch.Tensor, torch.Tensor], torch.Tensor | float]


@dataclass(frozen=True)
class Rows:
    """What fedneg's own SGD trains on.

    Attributes
    ----------
    images : tensor, shape (N, ...)
        Bytes that `scaling` makes a model's input of, or that input itself.
    labels : int64 tensor, shape (N,)
        Classes.
    scaling : Scaling, optional
        None: the model takes `images` as they are.
    """

    images: torch.Tensor
    labels: torch.Tensor
    scaling: Scaling | None = None


@dataclass(frozen=True)
class SGD:
    """A task's `train`: SGD with momentum on the mean cross-entropy.

    Where a task trains with this, and its model is dense, the gradients are those of
    `fedneg.tasks.dense`, and cohorts of clients are trained at once.

    Attributes
    ----------
    rows : (data, device) -> Rows
        The examples of a client, on the device that trains.
    """

    rows: Callable[[Any, torch.device], Rows]

    def __call__(self, model: nn.Module, data: Any, order: Order) -> dict[str, float]:
        """Train in place; return ``running_loss`` (nats, last epoch) and ``steps``."""
        rows = self.rows(data, next(model.parameters()).device)
        loss = train_epochs(
            model,
            rows.images,
            rows.labels,
            scaling=rows.scaling,
            settings=settings_of(order),
            generator=torch.Generator().manual_seed(order.seed),
            max_steps=order.max_steps,
        )
        steps = order.epochs * -(-len(rows.labels) // order.batch_size)
        return {"running_loss": loss, "steps": min(steps, order.max_steps or steps)}


def settings_of(order: Order) -> ClientSettings:
    """Return the settings of SGD that an order asks for."""
    return ClientSettings(
        local_epochs=order.epochs,
        learning_rate=order.learning_rate,
        momentum=float(order.options.get("momentum", 0.0)),
        batch_size=order.batch_size,
        device=order.device,
        evaluate_after_fit=False,
    )


def train_epochs(
    model: nn.Module,
    images: Images,
    labels: Labels,
    *,
    scaling: Scaling | None,
    settings: ClientSettings,
    generator: torch.Generator,
    after_epoch: Callable[[int], None] | None = None,
    max_steps: int | None = None,
) -> float:
    """Train `model` in place and return the mean training loss of the last epoch.

    Parameters
    ----------
    model : nn.Module
        Takes rows of scaled float32 pixels, or what `images` are; gives one logit per
        class.
    images, labels : tensors or writable arrays, shapes (N, ...) and (N,)
        N is at least 1. The last batch of an epoch may be smaller.
    scaling : Scaling or None
        How pixels become input; None: they are input.
    settings : ClientSettings
        SGD with momentum, started with zero momentum.
    generator : torch.Generator
        The order of the examples; one permutation per epoch is drawn from it.
    after_epoch : callable, optional
        Called with the number of each epoch, from 1, when it is over.
    max_steps : int, optional
        End after so many batches; the loss is then that of the last epoch's so far.

    References
    ----------
    McMahan et al., AISTATS 2017, Algorithm 1, ClientUpdate. arXiv:1602.05629
    """
    # Sums must not depend on how many threads a machine or an engine has to spare.
    torch.set_num_threads(1)
    device = next(model.parameters()).device
    # On the device once, as bytes; a batch becomes floats when it is used.
    x = torch.as_tensor(images, device=device)
    if scaling is not None:
        x = x.flatten(1)
    y = torch.as_tensor(labels, device=device)
    whole = after_epoch is None and max_steps is None
    if device.type != "cpu" and whole and dense_layers(model):
        # A cohort of one: its steps wait for nothing, and can be recorded.
        before = nn.utils.parameters_to_vector(model.parameters()).detach()
        found = train_cohort(
            model,
            before,
            [Examples(x, y, generator)],
            scaling=scaling,
            settings=settings,
        )
        nn.utils.vector_to_parameters(found.parameters[0], model.parameters())
        return found.losses[0]
    size = settings.batch_size
    step = make_step(model, settings, num_examples=len(labels))
    total: torch.Tensor | float = 0.0
    steps = seen = 0
    for epoch in range(1, settings.local_epochs + 1):
        model.train()
        order = torch.randperm(len(labels), generator=generator).to(device)
        # One gather for the epoch; batches are slices of it.
        images_now, labels_now = x[order], y[order]
        total, seen = 0.0, 0
        for start in range(0, len(labels), size):
            batch = as_input(images_now[start : start + size], scaling)
            total = total + step(batch, labels_now[start : start + size])
            steps, seen = steps + 1, seen + len(batch)
            if steps == max_steps:
                return float(total) / seen
        if after_epoch is not None:
            after_epoch(epoch)
    return float(total) / len(labels)


def make_step(model: nn.Module, settings: ClientSettings, *, num_examples: int) -> Step:
    """Return what trains `model` on one batch, its momentum zero at first.

    Batches are at most the settings' size, and never larger than `num_examples`.
    """
    trainer = DenseTrainer.of(
        model,
        learning_rate=settings.learning_rate,
        momentum=settings.momentum,
        batch_size=min(settings.batch_size, num_examples),
    )
    return _autograd_step(model, settings) if trainer is None else trainer.step


def _autograd_step(model: nn.Module, settings: ClientSettings) -> Step:
    """Return torch's own step, for any model on any device."""
    optimiser = torch.optim.SGD(
        model.parameters(),
        lr=settings.learning_rate,
        momentum=settings.momentum,
        fused=True,
    )

    def step(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        optimiser.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        # Summed on the device: reading every loss would wait for every step.
        return loss.detach().double() * len(y)

    return step


@torch.no_grad()
def evaluate(
    model: nn.Module,
    images: Images,
    labels: Labels,
    *,
    scaling: Scaling | None,
    threads: int = 1,
) -> Metrics:
    """Return accuracy and mean cross-entropy on N images; N = 0 gives zeros.

    `threads` changes no bit of it.
    """
    if len(labels) == 0:
        return Metrics(0.0, 0.0, 0)
    logits = predict(model, images, scaling=scaling, threads=threads)
    y = own_tensor(labels).cpu()
    loss = functional.cross_entropy(logits, y, reduction="sum")
    correct = int((logits.argmax(1) == y).sum())
    return Metrics(correct / len(y), float(loss) / len(y), len(y))


def predict(
    model: nn.Module,
    images: Images,
    *,
    scaling: Scaling | None,
    threads: int = 1,
) -> torch.Tensor:
    """Return the logits of N images on the CPU, shape (N, classes)."""
    device = next(model.parameters()).device
    model.eval()

    def logits(start: int) -> torch.Tensor:
        # Each thread has both settings to itself.
        torch.set_num_threads(1)
        with torch.no_grad():
            batch = own_tensor(images[start : start + EVALUATION_BATCH])
            found: torch.Tensor = model(as_input(batch.to(device), scaling))
            return found.cpu()

    starts = range(0, len(images), EVALUATION_BATCH)
    if threads == 1:
        return torch.cat([logits(start) for start in starts])
    with ThreadPoolExecutor(threads) as pool:
        return torch.cat(list(pool.map(logits, starts)))
