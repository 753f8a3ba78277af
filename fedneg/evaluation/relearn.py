"""Relearn time: how many batches of the forgotten data bring the knowledge back.

A model that only hides what it knew finds it again sooner than one that never knew it.
The time is therefore read against that of retrained models, never alone (Golatkar et
al., arXiv:1911.04933, 'relearn time'; Chundawat et al., arXiv:2201.05629, take its
ratio to the retrained model's as their 'anamnesis index').
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from fedneg.core.checks import choice, number, whole
from fedneg.core.settings import ClientSettings
from fedneg.tasks.device import as_input
from fedneg.tasks.training import Rows, make_step


@dataclass(frozen=True)
class RelearnTime:
    """Batches until the model was as good as the original; a bound if not `reached`.

    Of a task whose training does not count them, `unit` is ``"epochs"``: whole ones.
    """

    batches: int
    reached: bool
    unit: str = "batches"


def unit_of(times: Iterable[RelearnTime]) -> str | None:
    """Return what several times are counted in; None if they differ.

    A time of 0 is one of any.
    """
    units = {time.unit for time in times if time.batches}
    return None if len(units) > 1 else next(iter(units), "batches")


@dataclass(frozen=True)
class Target:
    """How good the original is on the forgotten data, and so how good is good enough.

    `loss` (at most `value`) or `accuracy` (a fraction, at least `value`).
    """

    metric: str
    value: float

    def __post_init__(self) -> None:
        choice("metric", self.metric, ("loss", "accuracy"))
        number("value", self.value, minimum=0)

    def met_by(self, found: float) -> bool:
        """Return whether a model's loss or accuracy is as good; NaN is not."""
        return found <= self.value if self.metric == "loss" else found >= self.value


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


def relearn_by_sgd(
    learner: nn.Module,
    rows: Rows,
    *,
    settings: ClientSettings,
    generator: torch.Generator,
    as_good: Callable[[], bool],
    cap: int,
    check_every: int = 1,
) -> RelearnTime:
    """Return the relearn time of a model by fedneg's own SGD.

    Parameters
    ----------
    learner : nn.Module
        Trained in place, as a client trains.
    rows : Rows
        What was forgotten, as it was trained: with a poisoner's labels. At least 1.
    generator : torch.Generator
        The order of the batches; from `fedneg.core.seeding.torch_generator`. Every
        model that is compared needs the same stream anew, else their luck differs.
    as_good, cap, check_every
        As `relearn_time`.

    Raises
    ------
    ValueError
        If there is no example.
    FedNegError
        As `relearn_time`.
    """
    count = len(rows.labels)
    if not count:
        raise ValueError("relearning needs at least 1 example, got 0")
    # As in train_epochs: sums must not depend on how many threads there are.
    torch.set_num_threads(1)
    one_step = make_step(learner, settings, num_examples=count)
    batches = _batches(count, settings.batch_size, generator)

    def step(_: int) -> None:
        chosen = next(batches).to(rows.labels.device)
        learner.train()
        one_step(as_input(rows.images[chosen], rows.scaling), rows.labels[chosen])

    return relearn_time(step, as_good, cap=cap, check_every=check_every)


def relearn_by_training(
    train: Callable[[int, int | None], float | None],
    as_good: Callable[[], bool],
    *,
    cap: int,
    check_every: int,
    epoch: int,
) -> RelearnTime:
    """Return the relearn time of a model that a task's own function trains.

    Parameters
    ----------
    train : callable
        Gets how often it was asked before, and how many batches it may take (None: an
        epoch); returns how many it took, None if it does not know. Each time begins
        without momentum.
    as_good, cap, check_every
        As `relearn_time`; a training that takes more batches than it may is counted as
        it says. Where batches are not known epochs are counted, and checked each.
    epoch : int
        Batches of an epoch, to know how many epochs `cap` stands for, at least one.
    """
    whole("cap", cap, minimum=1)
    whole("check_every", check_every, minimum=1)
    if as_good():
        return RelearnTime(0, True)
    done, number = 0, 0
    while done < cap:
        steps = train(number, min(check_every, cap - done, epoch))
        number += 1
        if steps is None:
            return _by_epochs(train, as_good, most=max(1, cap // epoch))
        done += max(1, round(steps))
        if as_good():
            return RelearnTime(min(done, cap), True)
    return RelearnTime(cap, False)


def _by_epochs(
    train: Callable[[int, int | None], float | None],
    as_good: Callable[[], bool],
    *,
    most: int,
) -> RelearnTime:
    """Go on after a first epoch that did not count its batches."""
    for done in range(1, most + 1):
        if done > 1:
            train(done - 1, None)
        if as_good():
            return RelearnTime(done, True, "epochs")
    return RelearnTime(most, False, "epochs")
