"""A task is somebody else's code: each of its mistakes is one line that names it."""

import random
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from builders.federations import small_config
from fedneg.core.errors import FedNegError
from fedneg.core.seeding import rng
from fedneg.tasks import calls
from fedneg.tasks.calls import Metrics
from fedneg.tasks.confidence import confidence_of_losses
from fedneg.tasks.task import ClientRef, Extras, Order, Split, Task

DATA = [0.0, 1.0, 2.0]
REF = ClientRef(1, 4)
MODEL = nn.Linear(2, 1)
ORDER = Order(1, 0.1, 2, 7, "cpu")
BACKDOOR = small_config("attack=backdoor").attack
CANARIES = small_config("attack=canaries").attack


def fails(error: Exception) -> Callable[..., Any]:
    """Return a function that raises."""

    def function(*arguments: object) -> None:
        raise error

    return function


class SpeechlessError(Exception):
    """An error that cannot be told."""

    def __str__(self) -> str:
        raise ValueError


class Stream:
    """Data without an end."""

    def __len__(self) -> int:
        raise TypeError("a stream has no length")


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
        ({"name": "a" * 41}, "a task's name must have at most 40 characters, got 41"),
        ({"quality_name": "a" * 41}, "quality_name must have at most 40 characters"),
        ({"quality_name": "loss"}, "quality_name must be no other column's .*got loss"),
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
        (
            *("losses", lambda m, d: torch.ones(3, device="meta")),
            "losses: must return numbers, got Tensor",
        ),
        ("losses", lambda m, d: [10**400] * 3, "losses: must return numbers, got list"),
        ("train", lambda m, d, o: {"f": 10**400}, "train: must be a number, got int"),
        (
            *("train", lambda m, d, o: {"f": np.eye(2)}),
            r"metric 'f' must be a number, got array\(\[\[1",
        ),
        ("train", lambda m, d, o: sys.exit(3), "train: SystemExit: 3"),
        ("train", fails(SpeechlessError()), "train: SpeechlessError: no message"),
        ("data", lambda ref: Split(Stream(), DATA), "train must have a length, got S"),
        ("model", lambda: nn.LazyLinear(3), "must know the shape of weight: call the"),
        (
            *("model", lambda: nn.Linear(2, 1, device="meta")),
            "must have values, and weight is on meta",
        ),
        ("quality", lambda m, d: 1 + 1e-9, "in .0, 1., got 1.000000001"),
        ("quality", lambda m, d: 1.5, r"quality: must be in \[0, 1\], got 1.5"),
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


def test_the_line_of_a_mistake_is_of_the_tasks_own(task: Task):
    """Not of torch's, in which it shows."""

    def train(model: nn.Module, data: list[float], order: Order) -> dict[str, float]:
        model(torch.ones(7, 9))
        return {}

    first = train.__code__.co_firstlineno
    with pytest.raises(FedNegError, match=rf"\(line {first + 1} of train\)$"):
        calls.train(replace(task, train=train), nn.Linear(2, 1), DATA, ORDER)
    with pytest.raises(FedNegError, match=r"missing 2 required .* 'out_features'$"):
        calls.make_model(replace(task, model=nn.Linear), seed=0)


def test_an_engine_that_ends_its_process_is_no_mistake_of_the_task(task: Task):
    """Flower's own handler of a signal raises SystemExit wherever a task is."""
    handler: dict[str, Any] = {"__name__": "flwr.supercore.exit", "sys": sys}
    exec("def handle(*signal): sys.exit(0)", handler)
    with pytest.raises(SystemExit):
        calls.train(replace(task, train=handler["handle"]), MODEL, DATA, ORDER)


def test_what_is_set_for_all_of_torch_is_put_back(task: Task):
    def train(*arguments: object) -> dict[str, float]:
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        return {}

    calls.train(replace(task, train=train), MODEL, DATA, ORDER)
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()


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


# -- what is measured -----------------------------------------------------------------


def extra(task: Task, **functions: Callable[..., Any] | None) -> Task:
    """Return the task with these extras, and with fields of other names."""
    names = Extras.__dataclass_fields__
    extras = {k: v for k, v in functions.items() if k in names}
    others = {k: v for k, v in functions.items() if k not in names}
    return replace(task, extras=replace(task.extras, **extras), **others)


def test_quality_and_mean_loss_are_measured(task: Task):
    """Losses 0, 1/4 and 1/2: mean 1/4."""
    assert calls.measure(task, MODEL, DATA) == Metrics(0.5, 0.25, 3)


def test_without_a_quality_it_is_exp_of_minus_the_loss(task: Task):
    task = replace(task, quality=None)
    assert calls.measure(task, MODEL, DATA).accuracy == pytest.approx(np.exp(-0.25))
    assert (task.shown_quality, replace(task, quality=fails).shown_quality) == (
        *("exp(-loss)", "accuracy"),
    )
    for loss, expected in ((0.0, 1.0), (np.inf, 0.0), (np.nan, 0.0)):
        diverged = replace(task, losses=lambda m, d, x=loss: np.full(len(d), x))
        assert calls.measure(diverged, MODEL, DATA).accuracy == expected


def test_a_quality_that_is_no_number_any_more_counts_as_nothing(task: Task):
    """Of a model that diverged; not of one whose quality is beyond 1."""
    alone = replace(task, quality=lambda model, data: float("nan"))
    assert calls.quality(alone, MODEL, DATA) == 0
    both = extra(task, measure=lambda model, data: (np.nan, np.nan))
    found = calls.measure(both, MODEL, DATA)
    assert (found.accuracy, found.num_examples) == (0, 3)
    assert np.isnan(found.loss)


def test_what_measures_both_at_once_is_asked_alone(task: Task):
    task = extra(
        task,
        measure=lambda model, data: (np.float32(0.75), torch.tensor(2.0)),
        quality=fails(ValueError()),
        losses=fails(ValueError()),
    )
    assert calls.measure(task, MODEL, DATA) == Metrics(0.75, 2.0, 3)


def test_without_data_nobody_is_asked(task: Task):
    broken = fails(ValueError())
    task = extra(task, measure=broken, quality=broken, losses=broken)
    assert calls.measure(task, MODEL, []) == Metrics(0, 0, 0)
    assert calls.quality(task, MODEL, []) == 0
    assert calls.measure_parts(task, MODEL, [[], []]) == Metrics(0, 0, 0)


def test_parts_count_by_their_size(task: Task):
    """Quality 1 of one example and 0 of three: 1/4. Losses 0, and 0, 1/4, 1/2."""
    task = replace(task, quality=lambda model, data: float(len(data) == 1))
    found = calls.measure_parts(task, MODEL, [[1.0], DATA, []])
    assert found == Metrics(0.25, pytest.approx(0.75 / 4), 4)
    assert calls.measure_parts(task, MODEL, [DATA]) == calls.measure(task, MODEL, DATA)


def test_scores_are_those_of_the_losses_unless_the_task_knows_better(task: Task):
    found = calls.scores(task, MODEL, DATA)
    np.testing.assert_array_equal(
        found, confidence_of_losses(np.array([0.0, 0.25, 0.5]))
    )
    task = extra(task, scores=lambda m, d: torch.tensor([3.0, -np.inf, np.nan]))
    found = calls.scores(task, MODEL, DATA)
    np.testing.assert_array_equal(found, [3, -np.inf, np.nan])
    assert found.dtype == np.float64


def test_scores_of_losses_that_are_shuffled_are_refused(task: Task):
    order = iter(([1, 2, 3], [3, 1, 2]))
    task = replace(task, losses=lambda model, data: next(order))
    with pytest.raises(FedNegError, match="keep the order of the examples"):
        calls.scores(task, MODEL, DATA)


def test_probabilities_of_all_parts_come_in_order(task: Task):
    """Of a tensor or of an array; rows may miss 1 as float32 does."""
    rows = {1: [[0.5, 0.5]], 3: torch.tensor([[1, 0], [0.3, 0.7 + 5e-7], [0, 1]])}
    task = replace(task, outputs=lambda model, data: rows[len(data)])
    found = calls.probabilities(task, MODEL, [[0.0], DATA])
    assert found is not None
    np.testing.assert_allclose(
        found, [[0.5, 0.5], [1, 0], [0.3, 0.7], [0, 1]], atol=1e-6
    )
    assert found.dtype == np.float64


def test_no_probabilities_of_no_outputs_and_of_a_model_that_diverged(task: Task):
    assert calls.probabilities(task, MODEL, [DATA]) is None
    task = replace(task, outputs=lambda model, data: [[1, 0], [np.nan] * 2, [2, 2]])
    assert calls.probabilities(task, MODEL, [DATA]) is None


def test_whoever_measures_gets_a_model_that_is_not_trained(task: Task):
    """In evaluation mode, and without a gradient."""
    seen: list[tuple[bool, bool]] = []

    def watch(answer: Any) -> Callable[..., Any]:
        def function(model: nn.Module, data: list[float]) -> Any:
            seen.append((model.training, torch.is_grad_enabled()))
            return answer

        return function

    thirds = np.full((3, 3), 1 / 3)
    task = replace(
        task,
        quality=watch(0.5),
        losses=watch(np.ones(3)),
        outputs=watch(thirds),
        extras=Extras(scores=watch(np.ones(3))),
    )
    for ask in (
        lambda model: calls.measure(task, model, DATA),
        lambda model: calls.losses(task, model, DATA),
        lambda model: calls.scores(task, model, DATA),
        lambda model: calls.probabilities(task, model, [DATA]),
        lambda model: calls.measure(
            extra(task, measure=watch((0.5, 1.0))), model, DATA
        ),
    ):
        ask(nn.Linear(2, 1).train())
    assert seen == [(False, False)] * 6


def test_a_gradient_comes_from_the_differentiable_loss(task: Task):
    weight = torch.ones(3, requires_grad=True)
    task = replace(task, loss=lambda model, data: weight * 2)
    calls.differentiable_losses(task, MODEL, DATA).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [2, 2, 2]


def test_inputs_are_one_row_of_each_example(task: Task):
    task = replace(task, inputs=lambda data: torch.zeros(len(data), 2, 5))
    assert calls.inputs(task, DATA).shape == (3, 2, 5)


@pytest.mark.parametrize(
    ("attack", "purpose", "stream"),
    [
        (BACKDOOR, "poison", "poison"),
        (BACKDOOR, "poison unseen", "poison unseen"),
        (CANARIES, "poison", "canaries"),
    ],
)
def test_an_attack_draws_from_the_stream_of_the_client_whose_data_they_are(
    task: Task, attack: Any, purpose: str, stream: str
):
    """Canaries always from the one that the server knows them by."""
    task = replace(task, poison=lambda data, attack, draws: [*data, draws.random()])
    found = calls.poisoned(task, DATA, attack, seed=5, client_id=3, purpose=purpose)
    assert found == [*DATA, rng(5, stream, 0, 3).random()]
    assert len(DATA) == 3


def test_planted_and_held_out_canaries_draw_from_that_stream(task: Task):
    task = extra(
        task, canaries=lambda attack, draws: ([attack.canaries], [draws.random()])
    )
    found = calls.canaries(task, CANARIES, seed=5, client_id=3)
    expected = rng(5, "canaries", 0, 3).random()
    assert found == ([CANARIES.canaries], [expected])


ROWS = r"outputs: must return probabilities \(N, C\), N 3, got shape "


@pytest.mark.parametrize(
    ("field", "function", "message"),
    [
        ("measure", fails(KeyError("x")), "measure: KeyError: 'x'"),
        ("measure", lambda m, d: (1.5, 0), r"measure: must be in \[0, 1\], got 1.5"),
        ("measure", lambda m, d: (None, 0), "measure: must be a number, got NoneType"),
        ("quality", fails(KeyError("x")), "quality: KeyError: 'x'"),
        ("quality", lambda m, d: -0.1, r"quality: must be in \[0, 1\], got -0.1"),
        ("quality", lambda m, d: np.inf, r"quality: must be in \[0, 1\], got inf"),
        ("scores", fails(KeyError("x")), "scores: KeyError: 'x'"),
        ("scores", lambda m, d: [1, 2], r"scores: must return one .*got shape \(2,\)"),
        ("scores", lambda m, d: np.ones((3, 1)), r"\(3,\), got shape \(3, 1\)"),
        ("scores", lambda m, d: ["a"] * 3, "scores: must return numbers, got list"),
        ("outputs", fails(KeyError("x")), "outputs: KeyError: 'x'"),
        ("outputs", lambda m, d: np.ones(3), ROWS + r"\(3,\)"),
        ("outputs", lambda m, d: np.ones((2, 4)), ROWS + r"\(2, 4\)"),
        ("outputs", lambda m, d: np.ones((3, 0)), ROWS + r"\(3, 0\)"),
        ("outputs", lambda m, d: "p", "outputs: must return numbers, got str"),
        (
            *("outputs", lambda m, d: [[0.5, 0.5], [-0.1, 1.1], [0, 1]]),
            r"outputs: must return rows of .* got -0.1 at least and a sum of 1$",
        ),
        (
            *("outputs", lambda m, d: [[0.5, 0.5], [0.25, 0.5], [0, 1]]),
            "outputs: must return rows of .* got 0 at least and a sum of 0.75$",
        ),
        ("loss", None, "a gradient of the loss needs a task with loss, and task lines"),
        ("loss", fails(KeyError("x")), "loss: KeyError: 'x'"),
        ("loss", lambda m, d: [1.0] * 3, r"loss: .* shape \(3,\), got list"),
        ("loss", lambda m, d: torch.ones(3, 1), r"loss: .*\(3,\), got \(3, 1\)"),
        ("loss", lambda m, d: torch.tensor(1.0), r"loss: .*\(3,\), got \(\)"),
        ("loss", lambda m, d: torch.ones(3), "must be differentiable, and has no grad"),
        ("inputs", None, "asking a model about inputs needs a task with inputs, and"),
        ("inputs", fails(KeyError("x")), "inputs: KeyError: 'x'"),
        ("inputs", lambda d: d, "inputs: must return a tensor of 3 rows, got list"),
        ("inputs", lambda d: torch.ones(2, 7), r"tensor of 3 rows, got \(2, 7\)"),
        ("inputs", lambda d: torch.tensor(1.0), r"tensor of 3 rows, got \(\)"),
        ("poison", None, "attack=backdoor needs a task with poison, and task lines"),
        ("poison", fails(KeyError("x")), "poison: KeyError: 'x'"),
        ("poison", lambda *a: 3, "poison: must return examples, got int"),
        ("poison", lambda *a: [], "poison: must return examples, got list"),
        ("probe", None, "attack=backdoor needs a task with probe, and task lines"),
        ("probe", fails(KeyError("x")), "probe: KeyError: 'x'"),
        ("canaries", None, "attack=canaries needs a task with canaries, and task li"),
        ("canaries", fails(KeyError("x")), "canaries: KeyError: 'x'"),
        ("test", None, "a server that measures models needs a task with test, and"),
        ("test", fails(KeyError("x")), "test: KeyError: 'x'"),
        ("test", lambda: 3, "test: must have a length, got int"),
        ("test", list, "test: must have an example, got none"),
    ],
)
def test_a_mistake_of_what_is_measured_is_one_line_too(
    task: Task, field: str, function: Callable[..., Any] | None, message: str
):
    task = extra(task, **{field: function})
    ask = {
        "measure": lambda: calls.measure(task, MODEL, DATA),
        "quality": lambda: calls.measure(task, MODEL, DATA),
        "scores": lambda: calls.scores(task, MODEL, DATA),
        "outputs": lambda: calls.probabilities(task, MODEL, [DATA]),
        "loss": lambda: calls.differentiable_losses(task, MODEL, DATA),
        "inputs": lambda: calls.inputs(task, DATA),
        "poison": lambda: calls.poisoned(task, DATA, BACKDOOR, seed=0, client_id=1),
        "probe": lambda: calls.probe(task, DATA, BACKDOOR),
        "canaries": lambda: calls.canaries(task, CANARIES, seed=0, client_id=1),
        "test": lambda: calls.test_of(task),
    }
    with pytest.raises(FedNegError, match=message) as caught:
        ask[field]()
    assert "\n" not in str(caught.value)
    assert "lines" in str(caught.value)
