"""Distillation: its loss by hand, and what the server makes of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from builders.federations import Bench, small_config
from builders.networks import initial_parameters, prototype_of
from fedneg.core.assignment import Assignment
from fedneg.core.errors import FedNegError
from fedneg.core.seeding import torch_generator
from fedneg.data.datasets import load_dataset
from fedneg.strategies import make_strategy
from fedneg.tasks.device import as_input
from fedneg.tasks.distillation import distil
from fedneg.tasks.model import build_mlp, get_parameters, set_parameters
from fedneg.tasks.prototype import Prototype
from fedneg.tasks.training import predict
from reference import forward


def bench(*overrides: str) -> Bench:
    """Return real clients on the digits that have trained four rounds."""
    config = small_config(
        *("clients=4", "rounds=4", "strategy=distillation", "forget=1"),
        *("client.local_epochs=5", "strategy.images=200", "strategy.epochs=2"),
        *overrides,
    )
    assignment = Assignment.of(config, root=None).to_json()
    arrays = initial_parameters(64, config.model.hidden, 10, seed=config.seed)
    made = Bench(config, arrays, assignment=assignment)
    made.train(4)
    return made


def network(draw: int) -> torch.nn.Module:
    """Return a small network of its own."""
    model = build_mlp(3, [4], 2)
    set_parameters(model, initial_parameters(3, [4], 2, seed=0, draw=draw))
    return model


def test_a_step_descends_the_soft_loss_written_out():
    """T^2 times the mean of sum p (log p - log q), with p, q at temperature 3."""
    student, teacher = network(0), network(1)
    rows = torch.randn((5, 3), generator=torch.Generator().manual_seed(1))
    leaves = [
        torch.tensor(a, dtype=torch.float64, requires_grad=True)
        for a in get_parameters(student)
    ]
    old = [torch.tensor(a, dtype=torch.float64) for a in get_parameters(teacher)]
    p = (forward(old, rows.double()) / 3).softmax(1)
    q = (forward(leaves, rows.double()) / 3).softmax(1)
    loss = 9 * (p * (p.log() - q.log())).sum() / 5
    loss.backward()
    found = distil(
        student,
        teacher,
        rows,
        temperature=3,
        epochs=1,
        learning_rate=0.5,
        momentum=0.9,
        batch_size=5,
        generator=torch_generator(0, "distil"),
    )
    assert found == pytest.approx(float(loss.detach()), rel=1e-5)
    for after, leaf in zip(get_parameters(student), leaves, strict=True):
        expected = (leaf - 0.5 * leaf.grad).detach().numpy()
        np.testing.assert_allclose(after, expected, atol=1e-6)


@pytest.mark.parametrize("forget", [(1,), (1, 3)])
@pytest.mark.parametrize("proxy", ["noise", "test"])
def test_the_student_answers_more_like_the_old_model_than_what_was_subtracted(
    forget: tuple[int, ...], proxy: str
):
    made = bench(f"strategy.proxy={proxy}")
    ledger, strategy = made.strategy.ledger, made.strategy
    before = made.model.copy()
    damaged = (before - ledger.contribution(forget)).astype(np.float32)
    made.grid.sent.clear()
    after = made.unlearn(*forget)
    assert made.grid.sent == []
    rows = strategy.proxy_inputs()
    logits = [strategy.network_with(m)(rows) for m in (before, damaged, after)]
    far, near = ((logits[0] - z).pow(2).mean() for z in logits[1:])
    assert near < far
    assert not ledger.contributions[list(forget)].any()
    np.testing.assert_allclose(ledger.rebuilt(), after, atol=1e-6)
    report = strategy.method_report
    assert report["transductive"] is (proxy == "test")
    assert report["proxy_images"] == len(rows) == (200 if proxy == "noise" else 382)


def test_proxy_images_are_input_of_the_right_scale():
    strategy = bench("strategy.images=3000").strategy
    noise = strategy.proxy_inputs()
    assert noise.shape == (3000, 64)
    assert float(noise.mean()) == pytest.approx(0, abs=0.02)
    assert float(noise.std()) == pytest.approx(1, abs=0.02)
    assert torch.equal(noise, strategy.proxy_inputs())


def test_test_images_are_scaled_as_where_they_are_measured():
    strategy = bench("strategy.proxy=test").strategy
    data = load_dataset("digits")
    model = strategy.network_with(strategy.ledger.rebuilt())
    expected = predict(model, data.test_images, scaling=data.scaling)
    with torch.no_grad():
        found = model(strategy.proxy_inputs())
    torch.testing.assert_close(found, expected)
    images = torch.from_numpy(data.test_images.copy())
    assert torch.equal(strategy.proxy_inputs(), as_input(images, data.scaling))


def test_the_same_seed_gives_the_same_student():
    assert bench().unlearn(1).tobytes() == bench().unlearn(1).tobytes()


def test_a_client_without_contribution_leaves_the_very_bytes():
    made = bench()
    made.unlearn(1)
    before = made.model.tobytes()
    assert made.unlearn(1).tobytes() == before


@pytest.mark.parametrize("missing", ["test", "inputs", "outputs"])
def test_a_task_that_lacks_what_is_needed_is_told(missing: str):
    config = small_config("strategy=distillation", "forget=1")
    task = replace(prototype_of(config).task, **{missing: None})
    with pytest.raises(
        FedNegError,
        match=f"^strategy=distillation needs a task with {missing}, and task digits",
    ):
        make_strategy(config, "").use_task(Prototype(task))


def test_noise_is_for_float_inputs_alone():
    strategy = bench().strategy
    task = replace(
        strategy.prototype.task,
        inputs=lambda data: torch.zeros((len(data), 64), dtype=torch.int64),
    )
    strategy.prototype = Prototype(task)
    with pytest.raises(FedNegError, match=r"float inputs, got torch.int64 of task dig"):
        strategy.proxy_inputs()


@pytest.mark.parametrize(
    ("last", "got"),
    [
        (nn.Linear(64, 1), r"\(1, 1\)"),
        (nn.Unflatten(1, (8, 8)), r"\(1, 8, 8\)"),
        (nn.LSTM(64, 3), "tuple"),
    ],
)
def test_a_model_that_gives_no_logits_is_told(last: nn.Module, got: str):
    made = bench()
    model = nn.Sequential(last)
    made.strategy.network_with = lambda parameters: model
    with pytest.raises(
        FedNegError, match=f"at least 2; that of task digits gives {got}"
    ):
        made.unlearn(1)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("proxy=mnist", "must be one of noise, test"),
        ("temperature=0", "must be greater than 0"),
        ("images=0", "must be at least 1"),
        ("epochs=0.5", "must be a whole number"),
    ],
)
def test_options_are_checked(override: str, said: str):
    with pytest.raises(FedNegError, match=f"strategy.{override.split('=')[0]} {said}"):
        small_config("strategy=distillation", f"strategy.{override}")
