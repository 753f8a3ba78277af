"""The built-in task as a task: what its functions give, against plain torch."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from builders.federations import data_of, small_config
from builders.networks import prototype_of
from builders.own_data import some
from fedneg.core.assignment import Assignment
from fedneg.core.data_settings import AttackSettings
from fedneg.core.errors import FedNegError
from fedneg.core.seeding import rng, torch_generator
from fedneg.data.attacks import poison, stamp
from fedneg.data.canaries import make_canaries
from fedneg.data.datasets import load_dataset
from fedneg.data.kinds import DIGITS
from fedneg.tasks import calls, training
from fedneg.tasks.images import Images, images_task
from fedneg.tasks.model import get_parameters, set_parameters
from fedneg.tasks.task import ClientRef, Order, Task

DATA = load_dataset("digits")


def task_of(*overrides: str) -> Task:
    """Return the task of a small run."""
    return prototype_of(small_config(*overrides)).task


def attack_of(*overrides: str) -> AttackSettings:
    return small_config(*overrides).attack


@pytest.fixture
def task() -> Task:
    return task_of()


@pytest.fixture
def model(task: Task) -> nn.Module:
    return calls.make_model(task, seed=0)


@pytest.fixture
def images(task: Task) -> Images:
    """Return some of client 2's images, in an order of their own."""
    return task.data(ClientRef(2, 5)).train.take(np.array([7, 3, 3, 20, 0]))


def logits_of(model: nn.Module, images: Images) -> torch.Tensor:
    """Return the logits in float64, scaled by hand, one image after another."""
    pixels, _ = images.arrays()
    model.double()
    try:
        with torch.no_grad():
            return torch.stack(
                [
                    model(torch.tensor((image.ravel() - 4.89) / 6.01)[None])[0]
                    for image in pixels
                ]
            )
    finally:
        model.float()


# -- data -----------------------------------------------------------------------------


def test_a_client_has_the_same_data_each_time_it_is_asked(task: Task):
    first, again = (task.data(ClientRef(3, 5)) for _ in range(2))
    expected = data_of(3, small_config())
    parts = {
        "train": expected.train,
        "val": expected.val,
        "test": expected.test,
        "unseen": np.concatenate([expected.val, expected.test]),
    }
    assert list(first.measured) == ["train", "val", "test"]
    for split in (first, again):
        found = split.measured | {"unseen": split.unseen}
        assert found.keys() == parts.keys()
        for name, index in parts.items():
            np.testing.assert_array_equal(found[name].index, index)
            np.testing.assert_array_equal(found[name].arrays()[0], DATA.images[index])
            np.testing.assert_array_equal(found[name].arrays()[1], DATA.labels[index])
            assert found[name].images is DATA.images
    assert first.counts == {"num_writers": expected.num_writers}


def test_no_two_clients_share_an_image(task: Task):
    splits = [task.data(ClientRef(k, 5)) for k in range(5)]
    places = [np.concatenate([s.train.index, s.unseen.index]) for s in splits]
    assert len(np.unique(np.concatenate(places))) == sum(map(len, places))


def test_images_of_ones_own_are_found_by_the_node_config(task: Task, tmp_path: Path):
    """In the same split each time; none of the data set's is among them."""
    mine = some(36)
    np.savez(tmp_path / "mine.npz", **mine)
    ref = ClientRef(1, 5, {"data": str(tmp_path / "mine.npz")})
    first, again = task.data(ref), task.data(ref)
    assert [len(p) for p in (first.train, *first.more.values(), first.test)] == [
        *(30, 3, 3)
    ]
    for name, part in first.measured.items():
        np.testing.assert_array_equal(part.index, again.measured[name].index)
        np.testing.assert_array_equal(part.arrays()[0], mine["images"][part.index])
        np.testing.assert_array_equal(part.arrays()[1], mine["labels"][part.index])
    other = task.data(ClientRef(2, 5, ref.node_config))
    assert not np.array_equal(first.train.index, other.train.index)
    assert first.counts == {"num_writers": 1}


def test_a_place_that_is_no_text_is_one_line(task: Task):
    with pytest.raises(FedNegError, match=r"must be a path in quotes, .* got 5"):
        calls.split_of(task, ClientRef(1, 5, {"data": 5}))


def test_the_server_holds_the_test_images_and_knows_what_the_data_are(task: Task):
    found = calls.test_of(task)
    np.testing.assert_array_equal(found.arrays()[0], DATA.test_images)
    np.testing.assert_array_equal(found.arrays()[1], DATA.test_labels)
    assert task.extras.digest is not None
    assert task.extras.facts is not None
    assert task.extras.digest() == DATA.digest
    assert task.extras.facts() == {"writers": 11}


def test_what_cannot_be_split_is_found_by_the_server():
    with pytest.raises(FedNegError, match="clients"):
        calls.test_of(task_of("clients=60"))


def test_some_of_some_of_the_images_are_those(task: Task):
    whole = task.data(ClientRef(2, 5)).train
    take = task.extras.take
    assert take is not None
    one = take(whole, np.array([9, 4, 4, 0]))
    two = take(one, np.array([3, 1]))
    assert (len(one), len(two)) == (4, 2)
    np.testing.assert_array_equal(two.arrays()[0], whole.arrays()[0][[0, 4]])
    np.testing.assert_array_equal(two.arrays()[1], whole.arrays()[1][[0, 4]])
    held = take(calls.test_of(task), np.array([5]))
    np.testing.assert_array_equal(held.arrays()[0], DATA.test_images[[5]])


@pytest.mark.parametrize("index", [None, np.array([4, 1, 1])])
def test_tensors_of_images_are_copies(index: np.ndarray | None):
    images = Images(DATA.images, DATA.labels, DIGITS, index)
    pixels, labels = images.on(torch.device("cpu"))
    assert (pixels.dtype, labels.dtype) == (torch.uint8, torch.int64)
    np.testing.assert_array_equal(pixels.numpy(), images.arrays()[0])
    np.testing.assert_array_equal(labels.numpy(), images.arrays()[1])
    before = DATA.images.copy()
    pixels.fill_(3)
    np.testing.assert_array_equal(DATA.images, before)


def test_one_task_serves_all_that_differs_in_neither_data_nor_network():
    """Clients of a process keep what was made for it."""
    one, same, other = (
        images_task(Assignment.of(small_config(*options), root=None))
        for options in ((), ("attack=backdoor", "client.batch_size=8"), ("seed=1",))
    )
    assert one is same
    assert other is not one


# -- the model ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp", "cnn", "cnn_bn"])
def test_other_seeds_and_draws_give_other_parameters(name: str):
    prototype = prototype_of(small_config(f"model={name}"))
    state = torch.random.get_rng_state()
    first, again, *others = (
        prototype.initial(seed=seed, draw=draw)
        for seed, draw in ((0, 0), (0, 0), (1, 0), (0, 1))
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [a.tobytes() for a in first] == [a.tobytes() for a in again]
    weights = [n for n, a in enumerate(first) if a.ndim > 1]
    assert len(weights) > 1
    for other in others:
        assert all(not np.array_equal(first[n], other[n]) for n in weights)


@pytest.mark.parametrize(("seed", "draw"), [(0, 0), (3, 0), (0, 2)])
def test_a_dense_network_is_drawn_uniform_in_one_over_the_root_of_its_inputs(
    seed: int, draw: int
):
    """Weights, then biases, layer by layer, from the stream (seed, "init", draw)."""
    generator = torch_generator(seed, "init", draw)
    expected = []
    for fan_out, fan_in in ((16, 64), (10, 16)):
        bound = 1 / math.sqrt(fan_in)
        for shape in ((fan_out, fan_in), (fan_out,)):
            drawn = torch.empty(shape).uniform_(-bound, bound, generator=generator)
            expected.append(drawn.numpy())
    found = prototype_of(small_config()).initial(seed=seed, draw=draw)
    assert [a.tobytes() for a in found] == [a.tobytes() for a in expected]


def test_training_is_that_of_train_epochs(task: Task, images: Images):
    """Its momentum is an option of the order; batches are counted."""
    settings = small_config("client.batch_size=2", "client.local_epochs=3").client
    order = Order(3, settings.learning_rate, 2, 11, "cpu", {"momentum": 0.9})
    found, twin = (calls.make_model(task, seed=0) for _ in range(2))
    metrics = calls.train(task, found, images, order)
    loss = training.train_epochs(
        twin,
        *images.arrays(),
        scaling=DIGITS.scaling,
        settings=settings,
        generator=torch.Generator().manual_seed(11),
    )
    # Of 5 images batches of 2 are 3.
    assert metrics == {"running_loss": loss, "steps": 9}
    for a, b in zip(get_parameters(found), get_parameters(twin), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("steps", [1, 3, 4, 99])
def test_a_training_ends_after_so_many_batches(
    task: Task, images: Images, monkeypatch: pytest.MonkeyPatch, steps: int
):
    """Wherever in an epoch that is: of 2 epochs of 3 batches."""
    seen: list[int] = []
    real = training.as_input

    def watch(batch: torch.Tensor, scaling: object) -> torch.Tensor:
        seen.append(len(batch))
        return real(batch, DIGITS.scaling)

    monkeypatch.setattr(training, "as_input", watch)
    order = Order(2, 0.1, 2, 11, "cpu", max_steps=steps)
    metrics = calls.train(task, calls.make_model(task, seed=0), images, order)
    assert seen == [2, 2, 1, 2, 2, 1][:steps]
    assert metrics["steps"] == min(steps, 6)
    assert metrics["running_loss"] > 0


# -- what is measured -----------------------------------------------------------------


def test_losses_are_torchs_cross_entropies(
    task: Task, model: nn.Module, images: Images
):
    labels = torch.tensor(images.arrays()[1])
    expected = functional.cross_entropy(
        logits_of(model, images), labels, reduction="none"
    )
    found = calls.losses(task, model, images)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5)
    assert found[1] == found[2]  # the same image twice
    loss = calls.differentiable_losses(task, model, images)
    np.testing.assert_allclose(loss.detach().numpy(), expected.numpy(), rtol=1e-5)


def test_the_loss_has_torchs_gradient(task: Task, model: nn.Module, images: Images):
    calls.differentiable_losses(task, model, images).mean().backward()
    found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    pixels, labels = images.arrays()
    rows = torch.tensor((pixels.reshape(5, 64) - 4.89) / 6.01, dtype=torch.float32)
    functional.cross_entropy(model(rows), torch.tensor(labels)).backward()
    for gradient, parameter in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


def test_scores_and_outputs_are_those_of_the_probabilities(
    task: Task, model: nn.Module, images: Images
):
    p = logits_of(model, images).softmax(1).numpy()
    found = calls.probabilities(task, model, [images])
    assert found is not None
    np.testing.assert_allclose(found, p, rtol=1e-5)
    own = p[np.arange(5), images.arrays()[1]]
    scores = calls.scores(task, model, images)
    np.testing.assert_allclose(scores, np.log(own / (1 - own)), rtol=1e-4, atol=1e-5)


def test_quality_is_the_accuracy(task: Task, model: nn.Module):
    held = calls.test_of(task)
    logits, labels = logits_of(model, held), torch.tensor(held.arrays()[1])
    found = calls.measure(task, model, held)
    assert found.accuracy == float((logits.argmax(1) == labels).double().mean())
    assert found.loss == pytest.approx(
        float(functional.cross_entropy(logits, labels)), rel=1e-5
    )
    assert task.quality is not None
    assert task.quality(model, held) == found.accuracy
    assert task.shown_quality == "accuracy"


def test_threads_change_no_bit(monkeypatch: pytest.MonkeyPatch, model: nn.Module):
    monkeypatch.setattr(training, "EVALUATION_BATCH", 37)
    assignment = Assignment.of(small_config(), root=None)
    one, many = (images_task(assignment, threads=n) for n in (1, 3))
    held = calls.test_of(one)
    assert calls.measure(one, model, held) == calls.measure(many, model, held)
    np.testing.assert_array_equal(
        calls.losses(one, model, held), calls.losses(many, model, held)
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_of_a_model_that_diverged_nothing_is_finite_and_nothing_fails(
    task: Task, model: nn.Module, images: Images, value: float
):
    set_parameters(model, [np.full_like(a, value) for a in get_parameters(model)])
    assert np.isnan(calls.losses(task, model, images)).all()
    assert np.isnan(calls.scores(task, model, images)).all()
    assert calls.probabilities(task, model, [images]) is None
    found = calls.measure(task, model, images)
    assert not math.isfinite(found.loss)
    assert 0 <= found.accuracy <= 1


def test_inputs_are_scaled_rows(task: Task, images: Images):
    found = calls.inputs(task, images)
    expected = (images.arrays()[0].reshape(5, 64) - 4.89) / 6.01
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


# -- attacks --------------------------------------------------------------------------


def test_a_backdoor_is_probed_with_and_without_its_trigger(task: Task):
    attack = attack_of("attack=backdoor", "attack.target=3")
    marked, clean = calls.probe(task, calls.test_of(task), attack)
    others = DATA.test_images[DATA.test_labels != 3]
    assert clean is not None
    np.testing.assert_array_equal(clean.arrays()[0], others)
    np.testing.assert_array_equal(
        marked.arrays()[0],
        stamp(others, trigger_size=attack.trigger_size, pixel_max=16),
    )
    for part in (marked, clean):
        assert part.arrays()[1].tolist() == [3] * len(others)


def test_a_flip_is_probed_and_has_no_mark(task: Task):
    found, clean = calls.probe(
        task, calls.test_of(task), attack_of("attack=label_flip")
    )
    assert clean is None
    np.testing.assert_array_equal(found.arrays()[0], DATA.test_images)
    np.testing.assert_array_equal(found.arrays()[1], (DATA.test_labels + 1) % 10)


def test_where_all_is_of_the_target_class_nothing_is_left_to_probe(task: Task):
    images = Images(DATA.test_images[:4], np.full(4, 3), DIGITS)
    attack = attack_of("attack=backdoor", "attack.target=3")
    marked, clean = calls.probe(task, images, attack)
    assert (len(marked), clean) == (0, None)


@pytest.mark.parametrize("attack", ["backdoor", "label_flip", "model_replacement"])
def test_an_attackers_images_are_those_of_the_attack(
    task: Task, images: Images, attack: str
):
    settings = attack_of(f"attack={attack}")
    found = calls.poisoned(task, images, settings, seed=0, client_id=4)
    expected = poison(
        *images.arrays(), attack=settings, draws=rng(0, "poison", 0, 4), kind=DIGITS
    )
    np.testing.assert_array_equal(found.arrays()[0], expected[0])
    np.testing.assert_array_equal(found.arrays()[1], expected[1])
    assert not np.array_equal(found.arrays()[1], images.arrays()[1])


def test_the_server_knows_the_canaries_that_a_client_plants(task: Task, images: Images):
    attack = attack_of("attack=canaries", "attack.canaries=6")
    planted, held_out = calls.canaries(task, attack, seed=0, client_id=4)
    trained = calls.poisoned(task, images, attack, seed=0, client_id=4)
    made = make_canaries(DIGITS, count=6, draws=rng(0, "canaries", 0, 4))
    np.testing.assert_array_equal(planted.arrays()[0], made.planted)
    np.testing.assert_array_equal(held_out.arrays()[0], made.held_out)
    for part in (planted, held_out):
        np.testing.assert_array_equal(part.arrays()[1], made.labels)
    np.testing.assert_array_equal(trained.arrays()[0][:5], images.arrays()[0])
    np.testing.assert_array_equal(trained.arrays()[0][5:], made.planted)
    np.testing.assert_array_equal(trained.arrays()[1][5:], made.labels)
