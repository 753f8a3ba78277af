"""A task is somebody else's code: each of its mistakes is one line that names it."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedneg.core.errors import FedNegError
from fedneg.tasks import calls
from fedneg.tasks.task import ClientRef, Order, Split, Task

DATA = [0.0, 1.0, 2.0]
REF = ClientRef(1, 4)
MODEL = nn.Linear(2, 1)
ORDER = Order(1, 0.1, 2, 7, "cpu")


def fails(error: Exception) -> Callable[..., Any]:
    """Return a function that raises."""

    def function(*arguments: object) -> None:
        raise error

    return function


@pytest.fixture
def task() -> Task:
    return Task(
        name="lines",
        model=lambda: nn.Linear(2, 1),
        data=lambda ref: Split(DATA, DATA[ref.client_id :]),
        train=lambda model, data, order: {"steps": 2},
        losses=lambda model, data: np.arange(len(data)) / 4,
        quality=lambda model, data: 0.5,
    )


def test_a_good_task_is_answered_as_it_says(task: Task):
    model = calls.make_model(task, seed=0)
    split = calls.split_of(task, REF)
    assert (split.train, split.tested) == (DATA, [1.0, 2.0])
    assert calls.train(task, model, DATA, ORDER) == {"steps": 2.0}
    assert calls.steady_losses(task, model, DATA).tolist() == [0, 0.25, 0.5]
    assert calls.quality(task, model, DATA) == 0.5
    assert not model.training


def test_losses_may_come_from_the_differentiable_loss(task: Task):
    task = replace(
        task, losses=None, loss=lambda model, data: torch.ones(3, requires_grad=True)
    )
    found = calls.losses(task, nn.Linear(2, 1), DATA)
    assert found.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": " "}, "a task's name must be a text, got ' '"),
        ({"name": "a\nb"}, "a task's name must be text in one line"),
        ({"train": 3}, "task lines: train must be a function, got 3"),
        ({"quality": "f1"}, "task lines: quality must be a function or None, got 'f1'"),
        ({"losses": None}, r"task lines needs losses \(or loss\)"),
        ({"deterministic": 1}, "deterministic must be true or false, got 1"),
    ],
)
def test_a_field_of_another_kind_is_named(
    task: Task, fields: dict[str, Any], message: str
):
    with pytest.raises(FedNegError, match=message):
        replace(task, **fields)


@pytest.mark.parametrize(
    ("field", "function", "message"),
    [
        ("model", fails(OSError("no file")), r"task lines, model: OSError: no file \("),
        ("model", lambda: 3, "task lines, model: must return an nn.Module, got int"),
        ("data", lambda ref: (DATA, DATA), "data: must return a Split, got tuple"),
        ("data", lambda ref: Split([], DATA), "client 1 has nothing to train on"),
        ("data", lambda ref: Split(iter(DATA), DATA), "train must have a length, got"),
        ("train", fails(ValueError("a\nb\x1b")), r"train: ValueError: a b\\x1b \("),
        ("train", lambda *a: None, "must return metrics by name, got NoneType"),
        ("train", lambda *a: {"f": "x"}, "metric 'f' must be a number, got 'x'"),
        ("losses", fails(KeyError("x")), "losses: KeyError: 'x'"),
        ("losses", lambda m, d: [1, 2], r"shape \(3,\), got shape \(2,\)"),
        ("losses", lambda m, d: 1.5, r"shape \(3,\), got shape \(\)"),
        ("losses", lambda m, d: [1, -2, 3], "at least 0, got -2 at place 1"),
        ("losses", lambda m, d: ["a"] * 3, "losses: must return numbers, got list"),
        ("quality", lambda m, d: 1.5, r"quality: must be in \[0, 1\], got 1.5"),
        ("quality", lambda m, d: float("nan"), r"must be in \[0, 1\], got nan"),
        ("quality", lambda m, d: "good", "quality: must be a number, got str"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_function(
    task: Task, field: str, function: Callable[..., Any], message: str
):
    task = replace(task, **{field: function})
    ask = {
        "model": lambda: calls.make_model(task, seed=0),
        "data": lambda: calls.split_of(task, REF),
        "train": lambda: calls.train(task, nn.Linear(2, 1), DATA, ORDER),
        "losses": lambda: calls.losses(task, nn.Linear(2, 1), DATA),
        "quality": lambda: calls.quality(task, nn.Linear(2, 1), DATA),
    }
    with pytest.raises(FedNegError, match=message) as caught:
        ask[field]()
    assert "\n" not in str(caught.value)


def test_losses_in_another_order_are_found_by_asking_twice(task: Task):
    order = iter(([1, 2, 3], [3, 1, 2], [1, 2, 3], [1, 2, 4]))
    task = replace(task, losses=lambda model, data: next(order))
    with pytest.raises(FedNegError, match="keep the order of the examples"):
        calls.steady_losses(task, nn.Linear(2, 1), DATA)
    with pytest.raises(FedNegError, match="answer the same when asked twice"):
        calls.steady_losses(task, nn.Linear(2, 1), DATA)


def test_a_model_that_diverged_is_no_mistake_of_the_task(task: Task):
    task = replace(task, losses=lambda model, data: [np.nan, np.inf, 1])
    found = calls.steady_losses(task, nn.Linear(2, 1), DATA)
    assert np.isnan(found[0])
    assert np.isinf(found[1])


def test_what_is_missing_is_named_with_who_needs_it(task: Task):
    with pytest.raises(
        FedNegError,
        match="strategy=gradient_ascent needs a task with loss, and task lines has",
    ):
        task.require("loss", of="strategy=gradient_ascent")
    task.require("losses", of="anything")


def test_each_seed_gives_a_convolution_of_its_own(task: Task):
    task = replace(task, model=lambda: nn.Conv2d(1, 2, 3))
    keys = ((0, 0), (0, 0), (1, 0), (0, 1))
    found = [
        calls.make_model(task, seed=seed, draw=draw).state_dict()["weight"]
        for seed, draw in keys
    ]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[3])


def test_global_generators_are_seeded_and_put_back(task: Task):
    def train(*arguments: object) -> dict[str, float]:
        return {"r": random.random(), "n": np.random.rand(), "t": float(torch.rand(1))}

    def draws() -> tuple[float, ...]:
        return random.random(), np.random.rand(), float(torch.rand(1))

    task = replace(task, train=train)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = draws()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    first = calls.train(task, MODEL, DATA, ORDER)
    assert draws() == expected
    assert calls.train(task, MODEL, DATA, ORDER) == first
    other = calls.train(task, MODEL, DATA, replace(ORDER, seed=8))
    assert all(other[name] != value for name, value in first.items())


def test_an_exception_puts_them_back_too(task: Task):
    before = random.getstate(), torch.get_rng_state()
    with pytest.raises(FedNegError):
        calls.train(replace(task, train=fails(ValueError())), MODEL, DATA, ORDER)
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
