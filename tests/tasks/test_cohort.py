"""Clients trained at once are what they would be alone, and fail alone."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType
from flwr.app import RecordDict as Records
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from builders.federations import small_config
from builders.networks import initial_parameters, network, settings
from builders.trainings import files_of
from fedneg.client_app import app as client_app
from fedneg.clients import trainer
from fedneg.core.assignment import Assignment
from fedneg.core.errors import FedNegError
from fedneg.core.seeding import torch_generator
from fedneg.core.settings import ClientSettings, Config
from fedneg.data.kinds import Scaling
from fedneg.engines.inline import InlineGrid
from fedneg.engines.simulate import simulate
from fedneg.engines.workers import WorkerPool
from fedneg.federation import Federation
from fedneg.ledger.training_cache import training_identity
from fedneg.tasks import cohort as cohort_module
from fedneg.tasks import training
from fedneg.tasks.cohort import Cohort, Examples, Step, train_cohort
from fedneg.tasks.device import DeviceArrays, as_input, rows_on
from fedneg.tasks.training import train_epochs

SCALING = Scaling(8.0, 5.0)
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"),
    ),
]


def examples(counts: Sequence[int], pixels: int, classes: int, seed: int, device: str):
    """Return made-up examples for each client."""
    draw = np.random.default_rng(seed)
    return [
        Examples(
            torch.from_numpy(draw.integers(0, 17, (n, pixels), dtype=np.uint8)).to(
                device
            ),
            torch.from_numpy(draw.integers(0, classes, n)).to(device),
            torch_generator(seed, "order", k),
        )
        for k, n in enumerate(counts)
    ]


def vector(model: nn.Module) -> torch.Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach().clone()


def slowly(
    model: nn.Module, client: Examples, settings: ClientSettings
) -> tuple[torch.Tensor, float]:
    """Train by torch's autograd and SGD, batch by batch; return parameters and loss."""
    optimiser = torch.optim.SGD(
        model.parameters(), lr=settings.learning_rate, momentum=settings.momentum
    )
    dtype = next(model.parameters()).dtype
    losses: list[float] = []
    for _ in range(settings.local_epochs):
        order = torch.randperm(len(client.labels), generator=client.generator)
        losses = []
        for batch in order.to(client.labels.device).split(settings.batch_size):
            optimiser.zero_grad()
            x = as_input(client.images[batch], SCALING).to(dtype)
            loss = functional.cross_entropy(model(x), client.labels[batch])
            loss.backward()
            optimiser.step()
            losses += [float(loss.detach())] * len(batch)
    return vector(model), float(np.mean(losses))


@pytest.mark.parametrize("device", DEVICES)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=2, max_size=5),
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    batch_size=st.integers(1, 9),
    epochs=st.integers(1, 3),
    momentum=st.sampled_from([0.0, 0.9]),
    seed=st.integers(0, 1000),
)
def test_each_client_is_trained_as_by_autograd(
    device: str,
    sizes: list[int],
    counts: list[int],
    batch_size: int,
    epochs: int,
    momentum: float,
    seed: int,
):
    """Whatever the shapes: smaller last batches, clients that are done before others.

    In float64, where what differs is an error, not rounding.
    """
    client = settings(batch_size=batch_size, local_epochs=epochs, momentum=momentum)
    model = network(sizes, seed).double().to(device)
    start = vector(model)
    found = train_cohort(
        model,
        start,
        examples(counts, sizes[0], sizes[-1], seed, device),
        scaling=SCALING,
        settings=client,
    )
    assert torch.equal(vector(model), start)
    for k, its in enumerate(examples(counts, sizes[0], sizes[-1], seed, device)):
        nn.utils.vector_to_parameters(start.clone(), model.parameters())
        parameters, loss = slowly(model, its, client)
        torch.testing.assert_close(
            found.parameters[k], parameters, atol=1e-10, rtol=1e-10
        )
        assert found.losses[k] == pytest.approx(loss, abs=1e-9)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_in_float32_it_is_the_ordinary_training_to_a_millionth(
    device: str, momentum: float
):
    """Long enough that a GPU replays a recorded step; the reference is on the CPU."""
    counts, sizes = (90, 450, 33), [6, 20, 10, 4]
    client = settings(momentum=momentum)
    model = network(sizes, 1)
    start = vector(model)
    found = train_cohort(
        model,
        start.to(device),
        examples(counts, 6, 4, 2, device),
        scaling=SCALING,
        settings=client,
    )
    steps = client.local_epochs * -(-max(counts) // client.batch_size)
    assert steps > cohort_module.RECORD_FROM
    for k, its in enumerate(examples(counts, 6, 4, 2, "cpu")):
        nn.utils.vector_to_parameters(start.clone(), model.parameters())
        loss = train_epochs(
            model,
            its.images,
            its.labels,
            scaling=SCALING,
            settings=client,
            generator=its.generator,
        )
        torch.testing.assert_close(
            found.parameters[k].cpu(), vector(model), atol=2e-6, rtol=1e-5
        )
        assert found.losses[k] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("fails", [False, True])
def test_no_step_before_a_recording_counts(
    fails: bool, caplog: pytest.LogCaptureFixture
):
    """Whatever steps a recording takes; if there is none, steps stay as they are."""
    replayed = []

    def record(step: Step) -> Step:
        for _ in range(3):
            step()
        if fails:
            raise RuntimeError("cannot be captured")

        def replay() -> None:
            replayed.append(1)
            step()

        return replay

    found = []
    for how in (None, record):
        parameters = vector(network([6, 5, 4], 1)).repeat(2, 1)
        cohort = Cohort(
            [6, 5, 4],
            parameters,
            examples((9, 40), 6, 4, 2, "cpu"),
            scaling=SCALING,
            settings=settings(),
        )
        found.append((cohort.train(how), parameters))
    assert len(replayed) == (0 if fails else cohort.num_steps)
    assert ("graph of a training step: cannot be captured" in caplog.text) == fails
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
def test_a_model_on_a_gpu_is_trained_as_on_the_cpu():
    """Through `train_epochs`, in place, a cohort of one."""
    trained = []
    for device in ("cpu", "cuda"):
        (its,) = examples([450], 6, 4, 2, device)
        model = network([6, 20, 4], 1).to(device)
        loss = train_epochs(
            model,
            its.images,
            its.labels,
            scaling=SCALING,
            settings=settings(),
            generator=its.generator,
        )
        trained.append((vector(model).cpu(), loss))
    torch.testing.assert_close(trained[0][0], trained[1][0], atol=2e-6, rtol=1e-5)
    assert trained[0][1] == pytest.approx(trained[1][1], rel=1e-5)


def test_a_client_without_examples_is_refused():
    model = network([6, 4], 1)
    with pytest.raises(ValueError, match="at least 1 example, got 0"):
        train_cohort(
            model,
            vector(model),
            examples([3, 0], 6, 4, 0, "cpu"),
            scaling=SCALING,
            settings=settings(),
        )


def message(node: int, config: Config, parameters: Sequence[np.ndarray], **also: int):
    """Return the message by which a strategy asks a node to train."""
    assignment = Assignment.of(config, root=None).to_json()
    content = Records(
        {
            "arrays": ArrayRecord(list(parameters)),
            "config": ConfigRecord(
                {"assignment": assignment, "server-round": 1, **also}
            ),
        }
    )
    return Message(content, node, MessageType.TRAIN)


def ask(
    config: Config, cohort: int, nodes: Sequence[int] | None = None, scale: float = 1.0
) -> dict[int, Message]:
    """Return every node's reply after a round of training."""
    simulate(lambda *_: None, clients=1, engine=small_config().engine)
    grid = InlineGrid(client_app, config.clients, cohort)
    arrays = initial_parameters(64, config.model.hidden, 10, seed=config.seed)
    one = message(0, config, [a * np.float32(scale) for a in arrays])
    messages = [
        Message(one.content, node, MessageType.TRAIN)
        for node in nodes or grid.get_node_ids()
    ]
    replies = list(grid.send_and_receive(messages))
    return {reply.metadata.src_node_id: reply for reply in replies}


def numbers(reply: Message) -> tuple[list[np.ndarray], dict[str, float]]:
    """Return what a reply brings."""
    arrays = [a.numpy() for a in reply.content["arrays"].values()]
    return arrays, dict(reply.content["metrics"])


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """Return how many clients trained at once, and how many each alone."""
    seen: dict[str, list[int]] = {"together": [], "alone": []}

    def spy_cohort(
        model: nn.Module, start: torch.Tensor, its: list, **rest: object
    ) -> cohort_module.Trained:
        seen["together"].append(len(its))
        return train_cohort(model, start, its, **rest)

    def spy_alone(*given: object, **rest: object) -> float:
        seen["alone"].append(1)
        return train_epochs(*given, **rest)

    monkeypatch.setattr(trainer, "train_cohort", spy_cohort)
    monkeypatch.setattr(training, "train_epochs", spy_alone)
    return seen


@pytest.mark.parametrize(
    "overrides",
    [
        ("attack=none",),
        ("attack=backdoor", "forget=2"),
        ("attack=model_replacement", "forget=2"),
        ("attack=canaries", "forget=2"),
        ("attack=sybils", "forget=[1,2]"),
        ("client.evaluate_after_fit=true", "client.local_epochs=2"),
    ],
    ids=lambda o: " ".join(o),
)
def test_every_client_answers_as_it_would_alone(
    overrides: tuple[str, ...], trained: dict[str, list[int]]
):
    """Attackers too: 7 clients in cohorts of 3, and one that is left over."""
    config = small_config("clients=7", *overrides)
    alone = ask(config, 1)
    assert trained == {"together": [], "alone": [1] * 7}
    trained["alone"].clear()
    found = ask(config, 3)
    assert trained == {"together": [3, 3], "alone": [1]}
    assert found.keys() == alone.keys()
    for node, reply in alone.items():
        arrays, metrics = numbers(reply)
        its_arrays, its_metrics = numbers(found[node])
        for array, its in zip(arrays, its_arrays, strict=True):
            np.testing.assert_allclose(its, array, atol=1e-5, rtol=1e-5)
        assert its_metrics == pytest.approx(metrics, rel=1e-4)
    assert not trainer._ahead


def test_only_training_goes_together(trained: dict[str, list[int]]):
    config = small_config("clients=3", "forget=1")
    simulate(lambda *_: None, clients=1, engine=config.engine)
    grid = InlineGrid(client_app, 3, 3)
    arrays = initial_parameters(64, config.model.hidden, 10, seed=0)
    content = message(0, config, arrays).content
    content["config"]["parts"] = "test"
    replies = list(
        grid.send_and_receive(
            [Message(content, n, MessageType.EVALUATE) for n in grid.get_node_ids()]
        )
    )
    assert all(reply.content["metrics"]["num_test"] for reply in replies)
    assert trained == {"together": [], "alone": []}


def test_what_nobody_asks_for_is_forgotten():
    """Else a later round might find it."""
    config = small_config("clients=2", "forget=1")
    assignment = Assignment.of(config, root=None)
    clients = [trainer.TrainingClient(k, assignment, 1) for k in range(2)]
    arrays = initial_parameters(64, config.model.hidden, 10, seed=0)
    with trainer.trained_together(clients, arrays):
        assert len(trainer._ahead) == 2
    assert not trainer._ahead


def test_which_clients_go_together_does_not_hang_on_the_order_of_messages():
    config = small_config("clients=5")
    forwards = ask(config, 2)
    backwards = ask(config, 2, sorted(forwards, reverse=True))
    for node, reply in forwards.items():
        for one, other in zip(
            numbers(reply)[0], numbers(backwards[node])[0], strict=True
        ):
            np.testing.assert_array_equal(one, other)


def test_a_client_that_fails_fails_alone(trained: dict[str, list[int]]):
    """Then the others of its cohort train one by one, as they would have."""
    config = small_config("clients=3", "forget=1")
    expected = ask(config, 1)
    trained["alone"].clear()
    first = min(expected)
    grid = InlineGrid(client_app, 3, 3)
    grid.contexts[first + 1].node_config["partition-id"] = 8
    arrays = initial_parameters(64, config.model.hidden, 10, seed=config.seed)
    content = message(0, config, arrays).content
    replies = list(
        grid.send_and_receive(
            [Message(content, node, MessageType.TRAIN) for node in grid.get_node_ids()]
        )
    )
    failed = [reply for reply in replies if reply.has_error()]
    assert [reply.metadata.src_node_id for reply in failed] == [first + 1]
    assert "client-id must be 0 to 2, got 8" in failed[0].error.reason
    assert trained == {"together": [], "alone": [1, 1]}
    for reply in replies:
        if not reply.has_error():
            for one, other in zip(
                numbers(reply)[0],
                numbers(expected[reply.metadata.src_node_id])[0],
                strict=True,
            ):
                np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("device", DEVICES)
def test_same_bytes_inline_and_in_worker_processes(tmp_path: Path, device: str):
    """And other bytes than without cohorts: that is why one has to ask for them."""
    base = (
        f"client.device={device}",
        *("clients=5", "forget=1", "attack=backdoor", "engine.cohort=2"),
        "strategy.client_fraction=0.8",
    )
    inline = files_of(small_config(*base), tmp_path / "inline")
    local = files_of(
        small_config(*base, "engine=local", "engine.workers=2"), tmp_path / "local"
    )
    assert inline == local
    plain = files_of(small_config(*base, "engine.cohort=1"), tmp_path / "plain")
    assert plain["original"] != inline["original"]


def test_a_dead_worker_takes_its_cohort_with_it_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
):
    from fedneg.engines.local import LocalGrid

    pool = WorkerPool(1, "fedneg.engines.local:serve")
    try:
        grid = LocalGrid(client_app, 4, pool, 2)
        monkeypatch.setattr(
            pool, "run", lambda shared, requests, timeout: [(1, "it died")]
        )
        simulate(lambda *_: None, clients=1, engine=small_config().engine)
        config = small_config("clients=4", "forget=1")
        content = message(0, config, []).content
        replies = list(
            grid.send_and_receive(
                [Message(content, n, MessageType.TRAIN) for n in grid.get_node_ids()]
            )
        )
        assert {reply.error.reason for reply in replies} == {"it died"}
        nodes = list(grid.get_node_ids())
        assert [reply.metadata.src_node_id for reply in replies] == nodes[2:]
    finally:
        pool.close()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("engine.cohort=0",), "engine.cohort must be at least 1, got 0"),
        (
            ("engine=ray", "+engine.cohort=4"),
            "engine.cohort needs engine to be inline or local, got engine.cohort=4",
        ),
    ],
)
def test_a_wrong_cohort_is_refused(overrides: tuple[str, ...], said: str):
    with pytest.raises(FedNegError, match=said):
        small_config(*overrides)


def test_flowers_own_engine_has_no_cohorts(tmp_path: Path):
    """Under `flwr run` the setting would change a digest, and nothing else."""

    class Flowers(InlineGrid):
        cohort = property(lambda self: 1, lambda self, value: None)

    config = small_config("engine.cohort=4")
    with pytest.raises(FedNegError, match=r"engine\.cohort must be 1 where"):
        Federation(Flowers(client_app, 5), config, None)


def test_a_training_in_cohorts_is_kept_as_another():
    def identity(*overrides: str) -> dict[str, object]:
        return training_identity(
            small_config(*overrides),
            clients=(0, 1),
            digest_of_data=lambda: "x",
            method={},
        )

    assert identity("engine.cohort=1") == identity()
    assert identity("engine.cohort=2") != identity()
    assert identity("engine.cohort=2") != identity("engine.cohort=3")


def test_a_device_is_handed_a_whole_array_once():
    """Rows are gathered there; the arrays that nobody asked for lately are let go."""
    held = DeviceArrays(torch.device("cpu"), most=2)
    arrays = [np.arange(12).reshape(6, 2) + k for k in range(3)]
    for array in arrays:
        array.flags.writeable = False
    index = np.array([4, 0, 4])
    found = held.rows(arrays[0], index)
    assert found.tolist() == arrays[0][index].tolist()
    whole = held._held[id(arrays[0])][1]
    held.rows(arrays[1], index)
    held.rows(arrays[0], index)
    assert held._held[id(arrays[0])][1] is whole
    held.rows(arrays[2], index)  # the second was asked for before the first
    assert len(held) == 2
    assert held._held.keys() == {id(arrays[0]), id(arrays[2])}
    found.zero_()
    assert held.rows(arrays[0], index).tolist() == arrays[0][index].tolist()


@pytest.mark.parametrize("device", DEVICES)
def test_rows_lie_on_the_device(device: str):
    array = np.arange(20, dtype=np.uint8).reshape(10, 2)
    array.flags.writeable = False
    found = rows_on(array, np.array([9, 1]), torch.device(device))
    assert found.device.type == device
    assert found.tolist() == [[18, 19], [2, 3]]
