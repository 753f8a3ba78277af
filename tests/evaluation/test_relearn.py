"""Relearn time on a quadratic by hand, and on networks that remember noise."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from builders.federations import small_config
from builders.networks import initial_parameters
from fedneg.core.errors import FedNegError
from fedneg.core.seeding import rng, torch_generator
from fedneg.data.kinds import Scaling
from fedneg.evaluation.relearn import (
    RelearnTime,
    Target,
    relearn_by_sgd,
    relearn_by_training,
    relearn_time,
)
from fedneg.tasks.device import as_input
from fedneg.tasks.model import build_mlp, set_parameters
from fedneg.tasks.training import Rows, evaluate

# -- a quadratic ----------------------------------------------------------------------


class Quadratic:
    """Minimises w^2; a step of gradient descent at rate 1/4 halves w."""

    def __init__(self, w: float, good: float) -> None:
        self.w, self.good = w, good
        self.steps: list[int] = []
        self.questions = 0

    def step(self, number: int) -> None:
        """Take a step."""
        self.steps.append(number)
        self.w -= 2 * self.w / 4

    def as_good(self) -> bool:
        """Return whether w^2 is small enough."""
        self.questions += 1
        return self.w**2 <= self.good

    def time(self, *, cap: int, check_every: int = 1) -> RelearnTime:
        """Return the relearn time."""
        return relearn_time(self.step, self.as_good, cap=cap, check_every=check_every)


def test_relearn_time_of_a_quadratic_by_hand():
    """8, 4, 2, 1: w^2 <= 1 after 3 steps, and no step more."""
    quadratic = Quadratic(8, 1)
    assert quadratic.time(cap=10) == RelearnTime(3, True)
    assert quadratic.steps == [1, 2, 3]


def test_a_model_that_knows_needs_no_batch():
    quadratic = Quadratic(1, 1)
    assert quadratic.time(cap=10) == RelearnTime(0, True)
    assert quadratic.steps == []


def test_the_cap_ends_it_and_says_so():
    """2 steps leave w = 2; the third would do, and is in time when the cap is 3."""
    assert Quadratic(8, 1).time(cap=2) == RelearnTime(2, False)
    assert Quadratic(8, 1).time(cap=3) == RelearnTime(3, True)


def test_checks_are_as_rare_as_told_but_for_the_cap():
    """Good after 3; asked after 2 and 4. With a cap of 3 the last is asked at 3."""
    quadratic = Quadratic(8, 1)
    assert quadratic.time(cap=10, check_every=2) == RelearnTime(4, True)
    assert quadratic.questions == 3
    assert Quadratic(8, 1).time(cap=3, check_every=2) == RelearnTime(3, True)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"cap": 0}, "cap must be at least 1, got 0"),
        ({"cap": 5, "check_every": 0}, "check_every must be at least 1, got 0"),
    ],
)
def test_a_cap_and_a_check_are_needed(values: dict[str, int], match: str):
    with pytest.raises(FedNegError, match=match):
        Quadratic(8, 1).time(**values)


# -- the target -----------------------------------------------------------------------


def test_target_is_a_loss_or_an_accuracy():
    assert Target("loss", 0.3).met_by(0.3)
    assert not Target("loss", 0.29).met_by(0.3)
    assert Target("accuracy", 0.9).met_by(0.9)
    assert not Target("accuracy", 0.91).met_by(0.9)


def test_a_model_that_diverged_meets_no_target():
    assert not Target("loss", 9.0).met_by(float("nan"))
    assert not Target("accuracy", 0.0).met_by(float("nan"))


def test_other_targets_are_refused():
    with pytest.raises(FedNegError, match="metric must be one of loss, accuracy"):
        Target("auc", 0.5)
    with pytest.raises(FedNegError, match="value must be at least 0, got -1"):
        Target("loss", -1)


# -- networks -------------------------------------------------------------------------

SCALING = Scaling(mean=127.5, std=127.5)
IMAGES = rng(0, "noise").integers(0, 256, (64, 8, 8), dtype=np.uint8)
# Random labels: only memory gives them.
LABELS = rng(0, "labels").integers(0, 10, 64)
SETTINGS = small_config("client.learning_rate=0.05", "client.batch_size=24").client


def untrained() -> nn.Sequential:
    """Return a network that saw nothing."""
    model = build_mlp(64, [32], 10)
    set_parameters(model, initial_parameters(64, [32], 10, seed=0))
    return model


ROWS = Rows(torch.from_numpy(IMAGES), torch.from_numpy(LABELS), SCALING)


def relearn(
    model: nn.Module, value: float, cap: int = 600, rows: Rows = ROWS, checked: int = 64
) -> RelearnTime:
    """Return the relearn time of the noise to a loss, on so many of it; of a copy."""
    learner = copy.deepcopy(model)

    def as_good() -> bool:
        found = evaluate(learner, IMAGES[:checked], LABELS[:checked], scaling=SCALING)
        return Target("loss", value).met_by(found.loss)

    return relearn_by_sgd(
        learner,
        rows,
        settings=SETTINGS,
        generator=torch_generator(0, "relearn"),
        as_good=as_good,
        cap=cap,
    )


def slow_losses(model: nn.Module, batches: int) -> list[float]:
    """Return the loss after each of some batches, with torch's own SGD."""
    model = copy.deepcopy(model)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    generator = torch_generator(0, "relearn")
    x, y = as_input(torch.from_numpy(IMAGES), SCALING), torch.from_numpy(LABELS)
    losses: list[float] = []
    while len(losses) < batches:
        order = torch.randperm(64, generator=generator)
        for start in (0, 24, 48):
            chosen = order[start : start + 24]
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[chosen]), y[chosen]).backward()
            optimiser.step()
            losses.append(float(nn.functional.cross_entropy(model(x), y).detach()))
    return losses


def test_relearn_time_of_a_network_is_that_of_plain_sgd():
    """Each new low of the loss is met by the batch that gave it, and no more than met.

    So the batches are the same ones, in the same order.
    """
    losses = slow_losses(untrained(), 14)
    lows = [k for k in range(1, 10) if losses[k] < min(losses[:k]) - 1e-3]
    assert len(lows) > 4
    for k in lows:
        for value in (losses[k] + 1e-5, losses[k] - 1e-5):
            expected = next(i for i, loss in enumerate(losses, 1) if loss <= value)
            assert relearn(untrained(), value) == RelearnTime(expected, True)


def test_relearning_leaves_the_rows_and_the_global_stream_alone():
    state = torch.random.get_rng_state()
    images, labels = ROWS.images.clone(), ROWS.labels.clone()
    relearn(untrained(), 0.0, cap=4)
    assert torch.equal(ROWS.images, images)
    assert torch.equal(ROWS.labels, labels)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_rows_that_are_input_already_are_taken_as_they_are():
    value = slow_losses(untrained(), 8)[-1]
    scaled = Rows(as_input(ROWS.images, SCALING), ROWS.labels)
    found = relearn(untrained(), value, rows=scaled)
    assert found == relearn(untrained(), value)
    assert found.batches > 4


def test_the_learner_is_trained_in_place_and_no_further_than_it_must():
    """After one batch it has the parameters of a step of plain SGD."""
    model, twin = untrained(), untrained()
    relearn_by_sgd(
        model,
        ROWS,
        settings=SETTINGS,
        generator=torch_generator(0, "relearn"),
        as_good=lambda: False,
        cap=1,
    )
    first = torch.randperm(64, generator=torch_generator(0, "relearn"))[:24]
    x = as_input(ROWS.images[first], SCALING)
    nn.functional.cross_entropy(twin(x), ROWS.labels[first]).backward()
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter -= 0.05 * parameter.grad
    for found, expected in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(found, expected)


def test_knowledge_that_is_only_hidden_comes_back_sooner():
    """A network learns the noise; then its last layer alone is wiped."""
    original = untrained()
    optimiser = torch.optim.SGD(original.parameters(), lr=0.05, momentum=0.9)
    x, y = as_input(torch.from_numpy(IMAGES), SCALING), torch.from_numpy(LABELS)
    for _ in range(300):
        optimiser.zero_grad()
        nn.functional.cross_entropy(original(x), y).backward()
        optimiser.step()
    loss = evaluate(original, IMAGES, LABELS, scaling=SCALING).loss
    hidden = copy.deepcopy(original)
    for parameter in hidden[-1].parameters():
        parameter.data.zero_()
    assert relearn(original, loss) == RelearnTime(0, True)
    found, never_knew = relearn(hidden, loss), relearn(untrained(), loss)
    assert found.reached
    assert 0 < found.batches < never_knew.batches


def test_without_examples_there_is_nothing_to_relearn():
    nothing = Rows(ROWS.images[:0], ROWS.labels[:0], SCALING)
    with pytest.raises(ValueError, match="at least 1 example, got 0"):
        relearn(untrained(), 1.0, rows=nothing)


def test_a_check_passes_over_its_own_examples_and_training_over_all():
    """On 5 the same training is judged by another loss."""
    loss = evaluate(untrained(), IMAGES[:5], LABELS[:5], scaling=SCALING).loss
    assert relearn(untrained(), loss, checked=5) == RelearnTime(0, True)
    assert loss != evaluate(untrained(), IMAGES, LABELS, scaling=SCALING).loss


# -- a training of a task's own -------------------------------------------------------


class Trainer:
    """Minimises w^2: each batch halves w; an epoch has so many batches.

    Says how many batches it took, unless it does not count them.
    """

    def __init__(
        self, w: float, *, epoch: int, counts: bool = True, least: int = 1
    ) -> None:
        self.w, self.epoch, self.counts, self.least = w, epoch, counts, least
        self.asked: list[tuple[int, int | None]] = []
        self.questions = 0

    def train(self, number: int, steps: int | None) -> float | None:
        """Take batches: as many as it may, an epoch, or what it must at least."""
        self.asked.append((number, steps))
        taken = self.epoch
        if self.counts and steps is not None:
            taken = max(self.least, min(steps, self.epoch))
        self.w /= 2**taken
        return float(taken) if self.counts else None

    def as_good(self) -> bool:
        """Return whether w is small enough."""
        self.questions += 1
        return self.w <= 1

    def time(self, *, cap: int, check_every: int = 1) -> RelearnTime:
        """Return the relearn time."""
        return relearn_by_training(
            self.train,
            self.as_good,
            cap=cap,
            check_every=check_every,
            epoch=self.epoch,
        )


def slow_time(w: float, epoch: int, cap: int, check_every: int) -> RelearnTime:
    """Return the same, written out: as many batches as are allowed, then a look."""
    done = 0
    while w > 1 and done < cap:
        taken = min(check_every, cap - done, epoch)
        w, done = w / 2**taken, done + taken
    return RelearnTime(done, w <= 1)


def test_batches_of_a_training_are_counted_by_hand():
    """16, 8, 4, 2, 1: four batches, whoever asks, and the number of each training."""
    trainer = Trainer(16, epoch=10)
    assert trainer.time(cap=20) == RelearnTime(4, True)
    assert trainer.asked == [(0, 1), (1, 1), (2, 1), (3, 1)]
    assert trainer.questions == 5
    assert Trainer(16, epoch=10).time(cap=20, check_every=3) == RelearnTime(6, True)


def test_no_training_is_asked_for_more_than_an_epoch_or_than_is_left():
    trainer = Trainer(2.0**30, epoch=2)
    assert trainer.time(cap=5, check_every=3) == RelearnTime(5, False)
    assert trainer.asked == [(0, 2), (1, 2), (2, 1)]


@given(st.integers(0, 12), st.integers(1, 6), st.integers(1, 20), st.integers(1, 6))
def test_it_is_the_time_that_is_written_out(
    halvings: int, epoch: int, cap: int, check_every: int
):
    w = 2.0**halvings
    found = Trainer(w, epoch=epoch).time(cap=cap, check_every=check_every)
    assert found == slow_time(w, epoch, cap, check_every)


def test_an_original_needs_no_training():
    trainer = Trainer(1, epoch=3)
    assert trainer.time(cap=9) == RelearnTime(0, True)
    assert trainer.asked == []


def test_a_training_that_takes_more_than_it_may_counts_as_it_says():
    """Never more than the cap; one that says 0 ends too."""
    trainer = Trainer(16, epoch=3, least=3)
    assert trainer.time(cap=9) == RelearnTime(6, True)
    assert Trainer(16, epoch=3, least=3).time(cap=5) == RelearnTime(5, True)
    assert Trainer(2.0**9, epoch=3, least=3).time(cap=5) == RelearnTime(5, False)
    idle = relearn_by_training(
        lambda number, steps: 0.0, lambda: False, cap=4, check_every=2, epoch=9
    )
    assert idle == RelearnTime(4, False)


def test_where_batches_are_not_counted_epochs_are():
    """16, 4, 1: two epochs of two batches, and a look after each."""
    trainer = Trainer(16, epoch=2, counts=False)
    assert trainer.time(cap=20, check_every=5) == RelearnTime(2, True, "epochs")
    assert [number for number, _ in trainer.asked] == [0, 1]
    assert trainer.asked[1][1] is None
    assert trainer.questions == 3


def test_epochs_are_capped_by_the_batches_that_they_have():
    """A cap of 9 is four epochs of two; one of 1 is an epoch all the same."""
    trainer = Trainer(2.0**20, epoch=2, counts=False)
    assert trainer.time(cap=9) == RelearnTime(4, False, "epochs")
    assert len(trainer.asked) == 4
    trainer = Trainer(2.0**20, epoch=2, counts=False)
    assert trainer.time(cap=1) == RelearnTime(1, False, "epochs")
    assert len(trainer.asked) == 1


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"cap": 0}, "cap must be at least 1, got 0"),
        ({"cap": 5, "check_every": 0}, "check_every must be at least 1, got 0"),
    ],
)
def test_a_training_needs_a_cap_and_a_check_too(values: dict[str, int], match: str):
    with pytest.raises(FedNegError, match=match):
        Trainer(8, epoch=2).time(**values)
