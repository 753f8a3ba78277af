"""Relearn time on a quadratic by hand, and on networks that remember noise."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from builders.federations import small_config
from fedneg.core.errors import FedNegError
from fedneg.core.seeding import rng, torch_generator
from fedneg.data.datasets import Scaling
from fedneg.evaluation.relearn import (
    RelearnTime,
    Target,
    relearn_module,
    relearn_time,
)
from fedneg.tasks.device import as_input
from fedneg.tasks.model import build_mlp, initial_parameters, set_parameters
from fedneg.tasks.training import Metrics, evaluate

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
    found = Metrics(accuracy=0.9, loss=0.3, num_examples=10)
    assert Target("loss", 0.3).met_by(found)
    assert not Target("loss", 0.29).met_by(found)
    assert Target("accuracy", 0.9).met_by(found)
    assert not Target("accuracy", 0.91).met_by(found)


def test_a_model_that_diverged_meets_no_loss():
    assert not Target("loss", 9.0).met_by(Metrics(0.1, float("nan"), 10))


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


def relearn(model: nn.Module, value: float, cap: int = 600) -> RelearnTime:
    """Return the relearn time of the noise to a loss."""
    return relearn_module(
        model,
        IMAGES,
        LABELS,
        scaling=SCALING,
        settings=SETTINGS,
        generator=torch_generator(0, "relearn"),
        target=Target("loss", value),
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


def test_relearning_leaves_the_model_and_the_global_stream_alone():
    model = untrained()
    before = copy.deepcopy(model.state_dict())
    state = torch.random.get_rng_state()
    relearn(model, 0.0, cap=4)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)


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
    with pytest.raises(ValueError, match="at least 1 example, got 0"):
        relearn_module(
            untrained(),
            IMAGES[:0],
            LABELS[:0],
            scaling=SCALING,
            settings=SETTINGS,
            generator=torch_generator(0, "relearn"),
            target=Target("loss", 1.0),
            cap=1,
        )


def relearn_checked(
    images: np.ndarray | None, labels: np.ndarray | None, value: float
) -> RelearnTime:
    """Return the relearn time of the noise, judged on some of it."""
    return relearn_module(
        untrained(),
        IMAGES,
        LABELS,
        scaling=SCALING,
        settings=SETTINGS,
        generator=torch_generator(0, "relearn"),
        target=Target("loss", value),
        cap=600,
        check_images=images,
        check_labels=labels,
    )


def test_a_check_passes_over_its_own_examples_and_training_over_all():
    """All of them are the default; on 5 the same training is judged by another loss."""
    value = slow_losses(untrained(), 20)[-1]
    assert relearn_checked(IMAGES, LABELS, value) == relearn(untrained(), value)
    loss = evaluate(untrained(), IMAGES[:5], LABELS[:5], scaling=SCALING).loss
    assert relearn_checked(IMAGES[:5], LABELS[:5], loss) == RelearnTime(0, True)
    assert loss != evaluate(untrained(), IMAGES, LABELS, scaling=SCALING).loss


def test_half_a_check_and_an_empty_one_are_refused():
    with pytest.raises(ValueError, match="go together, got one of them"):
        relearn_checked(IMAGES, None, 1.0)
    with pytest.raises(ValueError, match="go together, got one of them"):
        relearn_checked(None, LABELS, 1.0)
    with pytest.raises(ValueError, match="a check needs at least 1 example, got 0"):
        relearn_checked(IMAGES[:0], LABELS[:0], 1.0)
