"""Relearn time: how many batches of the forgotten data bring the knowledge back.

A model that only hides what it knew finds it again sooner than one that never knew it.
The time is therefore read against that of retrained models, never alone (Golatkar et
al., arXiv:1911.04933, 'relearn time'; Chundawat et al., arXiv:2201.05629, take its
ratio to the retrained model's as their 'anamnesis index').
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedneg.core.checks import choice, number, whole
from fedneg.core.settings import ClientSettings
from fedneg.data.datasets import Scaling
from fedneg.tasks.device import as_input
from fedneg.tasks.training import Metrics, evaluate, make_step


@dataclass(frozen=True)
class RelearnTime:
    """Batches until the model was as good as the original; a bound if not `reached`."""

    batches: int
    reached: bool


@dataclass(frozen=True)
class Target:
    """How good the original is on the forgotten data, and so how good is good enough.

    `loss` (nats, at most `value`) or `accuracy` (a fraction, at least `value`).
    """

    metric: str
    value: float

    def __post_init__(self) -> None:
        choice("metric", self.metric, ("loss", "accuracy"))
        number("value", self.value, minimum=0)

    def met_by(self, found: Metrics) -> bool:
        """Return whether a model is as good; one that diverged (NaN) is not."""
        if self.metric == "loss":
            return found.loss <= self.value
        return found.accuracy >= self.value


def relearn_time(
    step: Callable[[int], None],
    as_good: Callable[[], bool],
    *,
    cap: int,
    check_every: int = 1,
) -> RelearnTime:
    """Return after how many steps a model is as good as the original.

    Parameters
    ----------
    step : callable
        Trains on one batch; gets its number, from 1.
    as_good : callable
        Whether the model is good enough now. Asked before the first step: an original
        needs 0 batches.
    cap : int
        Steps at most, at least 1.
    check_every : int
        Steps between two questions, at least 1; the answer is a multiple of it (or the
        cap), so take it well below the time of a retrained model.

    Returns
    -------
    RelearnTime
        With ``reached=False`` and ``batches=cap`` if it was never good enough.

    Raises
    ------
    FedNegError
        If `cap` or `check_every` is no whole number of at least 1.
    """
    whole("cap", cap, minimum=1)
    whole("check_every", check_every, minimum=1)
    if as_good():
        return RelearnTime(0, True)
    for batches in range(1, cap + 1):
        step(batches)
        if (batches % check_every == 0 or batches == cap) and as_good():
            return RelearnTime(batches, True)
    return RelearnTime(cap, False)


def _batches(
    num_examples: int, size: int, generator: torch.Generator
) -> Iterator[torch.Tensor]:
    """Yield the examples of one batch after the other, epoch after epoch, for ever."""
    while True:
        order = torch.randperm(num_examples, generator=generator)
        yield from torch.split(order, size)


def relearn_module(
    model: nn.Module,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    *,
    scaling: Scaling,
    settings: ClientSettings,
    generator: torch.Generator,
    target: Target,
    cap: int,
    check_every: int = 1,
    check_images: NDArray[np.uint8] | None = None,
    check_labels: NDArray[np.int64] | None = None,
) -> RelearnTime:
    """Return the relearn time of a torch model; the model itself stays as it is.

    Parameters
    ----------
    model : nn.Module
        A copy of it is trained, by plain SGD as a client trains.
    images, labels : arrays, shapes (N, height, width) and (N,)
        What was forgotten, as it was trained: with a poisoner's labels. N at least 1.
    generator : torch.Generator
        The order of the batches; from `fedneg.core.seeding.torch_generator`. Every
        model that is compared needs the same stream anew, else their luck differs.
    target : Target
        Of the original model on the very examples that are checked.
    cap, check_every : int
        As `relearn_time`.
    check_images, check_labels : arrays, optional
        What a check passes over, at least 1 example; by default all N.

    Raises
    ------
    ValueError
        If there is no example, or the checked ones are not both images and labels.
    FedNegError
        As `relearn_time`.
    """
    if not len(labels):
        raise ValueError("relearning needs at least 1 example, got 0")
    if check_images is None and check_labels is None:
        check_images, check_labels = images, labels
    if check_images is None or check_labels is None:
        raise ValueError("check_images and check_labels go together, got one of them")
    if not len(check_labels):
        raise ValueError("a check needs at least 1 example, got 0")
    learner = copy.deepcopy(model)
    # As in train_epochs: sums must not depend on how many threads there are.
    torch.set_num_threads(1)
    device = next(learner.parameters()).device
    x = torch.from_numpy(images.copy()).flatten(1)
    y = torch.from_numpy(labels.copy())
    one_step = make_step(learner, settings, num_examples=len(labels))
    batches = _batches(len(labels), settings.batch_size, generator)

    def step(_: int) -> None:
        chosen = next(batches)
        learner.train()
        one_step(as_input(x[chosen].to(device), scaling), y[chosen].to(device))

    def as_good() -> bool:
        found = evaluate(learner, check_images, check_labels, scaling=scaling)
        return target.met_by(found)

    return relearn_time(step, as_good, cap=cap, check_every=check_every)
