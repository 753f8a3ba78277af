"""Local SGD, evaluation and the model, against slow twins."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from builders.federations import Bench, data_of, small_config
from builders.networks import initial_parameters
from fedneg.clients.trainer import TrainingClient
from fedneg.core.assignment import Assignment
from fedneg.core.parameters import flatten, shapes_of, unflatten
from fedneg.core.seeding import torch_generator
from fedneg.core.settings import Config
from fedneg.data.datasets import Dataset, load_dataset
from fedneg.data.partition import ClientSplit, partition_by_writer
from fedneg.tasks import training
from fedneg.tasks.device import as_input, choose_device
from fedneg.tasks.model import build_mlp, get_parameters, set_parameters
from fedneg.tasks.training import evaluate, predict, train_epochs
from reference import cross_entropy, forward, gradient, plain_sgd


@pytest.fixture(scope="module")
def digits() -> Dataset:
    """Return the embedded data set."""
    return load_dataset("digits")


def rows_of(data: Dataset, images: np.ndarray) -> np.ndarray:
    """Return the model's input, in float64."""
    flat = images.reshape(len(images), -1).astype(np.float64)
    return (flat - data.scaling.mean) / data.scaling.std


def real_bench(*overrides: str) -> tuple[Bench, list[ClientSplit], Config]:
    """Return a federation of the real clients on the digits, and who holds what."""
    config = small_config("forget=null", *overrides)
    data = load_dataset("digits")
    initial = initial_parameters(64, config.model.hidden, 10, seed=config.seed)
    made = Bench(config, initial, assignment=Assignment.of(config, root=None).to_json())
    splits = partition_by_writer(data.writers, clients=config.clients, seed=config.seed)
    return made, list(splits), config


def model_of(arrays: list[np.ndarray]) -> torch.nn.Module:
    """Return the module with these parameters."""
    sizes = [a.shape[0] for a in arrays[1::2]]
    model = build_mlp(arrays[0].shape[1], sizes[:-1], sizes[-1])
    set_parameters(model, arrays)
    return model


def test_federation_of_one_client_is_plain_sgd(digits: Dataset):
    """Two rounds of two epochs; momentum starts at zero in each round.

    Float32 against float64 over 4 epochs of 20 small steps: 1e-5.
    """
    made, (split,), config = real_bench(
        "clients=1", "client.local_epochs=2", "client.batch_size=50"
    )
    found = made.train(2)
    arrays: list[np.ndarray] = list(
        unflatten(made.strategy.ledger.initial, made.shapes)
    )
    for server_round in (1, 2):
        stream = torch_generator(config.seed, "shuffle", server_round, 0)
        arrays = plain_sgd(
            arrays,
            rows_of(digits, digits.images[split.train]),
            digits.labels[split.train],
            orders=[
                torch.randperm(len(split.train), generator=stream).numpy()
                for _ in range(2)
            ],
            batch_size=50,
            learning_rate=config.client.learning_rate,
            momentum=config.client.momentum,
        )
    np.testing.assert_allclose(found, flatten(arrays), rtol=0, atol=1e-5)


def test_full_batch_step_of_clients_is_a_gradient_step_on_the_union(digits: Dataset):
    """The clients' sizes differ, so this fails if all weigh the same."""
    made, splits, config = real_bench(
        "clients=3", "client.batch_size=100000", "client.momentum=0"
    )
    assert len({len(s.train) for s in splits}) > 1
    found = made.train(1)
    union = np.concatenate([s.train for s in splits])
    initial = unflatten(made.strategy.ledger.initial, made.shapes)
    slope = gradient(
        initial, rows_of(digits, digits.images[union]), digits.labels[union]
    )
    expected = made.strategy.ledger.initial - config.client.learning_rate * flatten(
        slope
    )
    assert np.abs(found - made.strategy.ledger.initial).max() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_one_round_renormalised_is_retraining_without_the_client():
    """After one round the method's closed form is exact: FedAvg of the rest."""
    made, _, _ = real_bench("clients=3", "strategy.renormalise=true")
    made.train(1)
    unlearned = made.unlearn(1)
    other, _, _ = real_bench("clients=3")
    np.testing.assert_allclose(
        unlearned, other.train(1, clients=[0, 2]), rtol=0, atol=1e-6
    )


def fit(digits: Dataset, count: int = 50, **changes: float) -> list[np.ndarray]:
    """Return the parameters after training on a few digits."""
    settings = replace(small_config().client, momentum=0.0, **changes)
    model = model_of(initial_parameters(64, [8], 10, seed=0))
    train_epochs(
        model,
        digits.images[:count].copy(),
        digits.labels[:count].copy(),
        scaling=digits.scaling,
        settings=settings,
        generator=torch_generator(0, "shuffle"),
    )
    return get_parameters(model)


@pytest.mark.parametrize(
    ("count", "batch_size", "epochs", "steps"),
    [(50, 50, 1, 1), (50, 20, 1, 3), (50, 20, 2, 6), (50, 100, 3, 3), (1, 32, 1, 1)],
)
def test_epochs_and_batches_make_so_many_steps(
    digits: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    batch_size: int,
    epochs: int,
    steps: int,
):
    """50 examples in batches of 20 are 3 steps: the last has 10. No example is lost."""
    seen: list[int] = []

    def watch(images: torch.Tensor, scaling: object) -> torch.Tensor:
        seen.append(len(images))
        return as_input(images, digits.scaling)

    monkeypatch.setattr(training, "as_input", watch)
    fit(digits, count, batch_size=batch_size, local_epochs=epochs)
    assert len(seen) == steps
    assert sum(seen) == count * epochs


def test_training_learns(digits: Dataset):
    model = model_of(fit(digits, 500, local_epochs=20))
    found = evaluate(
        model, digits.images[:500], digits.labels[:500], scaling=digits.scaling
    )
    assert found.accuracy > 0.9
    other = evaluate(
        model, digits.test_images, digits.test_labels, scaling=digits.scaling
    )
    assert 0.5 < other.accuracy < 1


def test_training_changes_neither_images_nor_labels(digits: Dataset):
    images, labels = digits.images[:50].copy(), digits.labels[:50].copy()
    settings = small_config().client
    train_epochs(
        model_of(initial_parameters(64, [8], 10, seed=0)),
        images,
        labels,
        scaling=digits.scaling,
        settings=settings,
        generator=torch_generator(0, "shuffle"),
    )
    np.testing.assert_array_equal(images, digits.images[:50])
    np.testing.assert_array_equal(labels, digits.labels[:50])


@pytest.mark.parametrize("batch", [2000, 7])
def test_evaluation_is_the_naive_loop(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch, batch: int
):
    monkeypatch.setattr(training, "EVALUATION_BATCH", batch)
    arrays = initial_parameters(64, [16, 8], 10, seed=5)
    images, labels = digits.images[:101], digits.labels[:101]
    found = evaluate(model_of(arrays), images, labels, scaling=digits.scaling)
    tensors = [torch.tensor(a, dtype=torch.float64) for a in arrays]
    right, loss = 0, 0.0
    for row, label in zip(rows_of(digits, images), labels, strict=True):
        logits = forward(tensors, torch.tensor(row[None]))
        right += int(logits[0].argmax()) == label
        loss += float(cross_entropy(logits, torch.tensor([label])))
    assert found.accuracy == right / 101
    assert found.loss == pytest.approx(loss / 101, rel=1e-6)
    assert found.num_examples == 101


def test_threads_change_no_bit_of_an_evaluation(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
):
    """Batches are the same, whoever computes them."""
    monkeypatch.setattr(training, "EVALUATION_BATCH", 37)
    model = build_mlp(64, (16,), 10)
    set_parameters(model, initial_parameters(64, (16,), 10, seed=3))
    found = {
        predict(model, digits.images, scaling=digits.scaling, threads=n)
        .numpy()
        .tobytes()
        for n in (1, 2, 5)
    }
    assert len(found) == 1


def test_evaluation_of_nothing_is_zeros(digits: Dataset):
    model = model_of(initial_parameters(64, [8], 10, seed=0))
    found = evaluate(
        model, digits.images[:0], digits.labels[:0], scaling=digits.scaling
    )
    assert (found.accuracy, found.loss, found.num_examples) == (0, 0, 0)


def test_evaluation_leaves_the_model_alone(digits: Dataset):
    arrays = initial_parameters(64, [8], 10, seed=0)
    model = model_of(arrays)
    predict(model, digits.images, scaling=digits.scaling)
    assert flatten(get_parameters(model)).tobytes() == flatten(arrays).tobytes()


def test_scaled_pixels_have_about_mean_0_and_deviation_1(digits: Dataset):
    rows = as_input(torch.tensor(digits.images), digits.scaling)
    assert rows.shape == (len(digits.images), 64)
    assert rows.dtype == torch.float32
    assert abs(float(rows.mean())) < 0.05
    assert abs(float(rows.std()) - 1) < 0.05


def test_initial_parameters_are_within_the_bounds_of_nn_linear():
    """Uniform in ±1/sqrt(fan_in): 1/8 for 64 inputs, 1/4 for 16; and near both ends."""
    arrays = initial_parameters(64, [16], 10, seed=0)
    assert shapes_of(arrays) == ((16, 64), (16,), (10, 16), (10,))
    for array, bound in zip(arrays, (1 / 8, 1 / 8, 1 / 4, 1 / 4), strict=True):
        assert np.abs(array).max() <= bound
    assert arrays[0].max() > 0.99 / 8
    assert arrays[0].min() < -0.99 / 8
    assert abs(arrays[0].mean()) < 0.01


def test_initial_parameters_hang_on_the_seed_alone():
    torch.manual_seed(7)
    first, again, other = (
        flatten(initial_parameters(64, [16], 10, seed=s)).tobytes() for s in (0, 0, 1)
    )
    assert first == again != other


def test_model_refuses_other_shapes():
    model = build_mlp(64, [16], 10)
    with pytest.raises(ValueError, match="expected, got"):
        set_parameters(model, initial_parameters(64, [17], 10, seed=0))


def test_parameters_of_a_model_are_copies():
    model = model_of(initial_parameters(64, [16], 10, seed=0))
    get_parameters(model)[0][:] = 9
    assert get_parameters(model)[0].max() < 1


def test_device_cuda_without_cuda_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto").type == choose_device("cpu").type == "cpu"
    with pytest.raises(RuntimeError, match="device=cuda was asked for"):
        choose_device("cuda")


def test_convolutions_on_a_gpu_are_deterministic(monkeypatch: pytest.MonkeyPatch):
    """Else two processes differ in their last bits."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    assert choose_device("cpu").type == "cpu"
    assert not torch.backends.cudnn.deterministic
    assert choose_device("auto").type == "cuda"
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark


@pytest.mark.parametrize("client_id", [0, 3])
def test_client_reports_the_examples_it_trained_on(client_id: int, tiny: Config):
    client = TrainingClient(client_id, Assignment.of(tiny, root=None), server_round=1)
    arrays = initial_parameters(64, tiny.model.hidden, 10, seed=0)
    before = [a.copy() for a in arrays]
    local, count, metrics = client.fit(arrays, {})
    assert count == len(client.split.train)
    assert set(metrics) == {"running_loss"}
    for a, b, c in zip(arrays, before, local, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)


def test_client_measures_each_part_on_its_original_labels():
    """An attacker's `trained_accuracy` is on poisoned data; its others are not."""
    config = small_config("attack=label_flip", "attack.fraction=1")
    arrays = initial_parameters(64, config.model.hidden, 10, seed=0)
    poisoned = TrainingClient(4, Assignment.of(config, root=None))
    honest = TrainingClient(4, Assignment.of(small_config(), root=None))
    _, _, found = poisoned.evaluate(arrays, {})
    _, _, expected = honest.evaluate(arrays, {})
    assert found["trained_accuracy"] != found["train_accuracy"]
    assert found["train_accuracy"] == expected["train_accuracy"]
    assert found["test_accuracy"] == expected["test_accuracy"]
    data = data_of(4, small_config())
    assert found["num_train"] == len(data.train)
    naive = evaluate(
        model_of(arrays),
        data.images[data.val],
        data.labels[data.val],
        scaling=data.kind.scaling,
    )
    assert (found["val_accuracy"], found["num_val"]) == (
        naive.accuracy,
        naive.num_examples,
    )


def test_local_evaluation_after_fit_is_of_the_local_model():
    config = small_config("client.evaluate_after_fit=true")
    client = TrainingClient(2, Assignment.of(config, root=None), server_round=1)
    local, _, metrics = client.fit(initial_parameters(64, [16], 10, seed=0), {})
    again = client.evaluate(local, {})[2]
    assert {k: v for k, v in metrics.items() if k in again} == {
        k: v for k, v in again.items() if k in metrics
    }
    assert "val_accuracy" in metrics
