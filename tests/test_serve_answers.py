"""What a served app answers about a model, by its owner's task."""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.clientapp import ClientApp
from torch import nn

from builders import own_tasks
from builders.federations import FIRST_NODE_ID
from builders.own_tasks import ColourNet, Pairs
from builders.served import ORDER, TASK, app_of, federation, first, record
from fedneg import ClientRef, Split, Task, serve
from fedneg.core.errors import FedNegError
from fedneg.evaluation.relearn import RelearnTime
from fedneg.serving.asking import Asking
from fedneg.serving.models import load_model
from fedneg.serving.question import Question

# -- answers ---------------------------------------------------------------------------


def test_a_client_answers_what_the_task_says_of_its_data():
    held, grid = federation()
    model = held.arrays
    said = Asking(held, grid, order=ORDER).answers([1, 3], model)
    assert sorted(said) == [1, 3]
    net = TASK.model()
    net.load_state_dict(model.to_torch_state_dict())
    for client_id, found in said.items():
        split = TASK.data(ClientRef(client_id, 4))
        # By hand: log(p / (1 - p)) where the loss is -log(p).
        for part, got in ((split.train, found.members), (split.unseen, found.unseen)):
            assert isinstance(part, Pairs)
            with torch.no_grad():
                p = net(part.x).double().softmax(1)[torch.arange(len(part)), part.y]
            np.testing.assert_allclose(got, torch.logit(p), atol=1e-5)
        right = TASK.quality(net, split.train)
        assert found.as_trained_accuracy == pytest.approx(float(right))
        assert found.relearn is None
        assert found.check_loss == pytest.approx(found.as_trained_loss)


def test_who_was_forgotten_is_asked_and_nobody_else():
    held, grid = federation()
    model = held.forget([2])
    grid.sent.clear()
    assert sorted(Asking(held, grid).answers([2], model)) == [2]
    assert grid.sent == [("evaluate.fedneg", 2)]


def test_it_learns_again_by_the_task_s_own_training():
    held, grid = federation(rounds=4)
    asking = Asking(held, grid, order=ORDER)
    original = held.arrays
    target = {2: asking.answers([2], original)[2].check_loss}
    knows = asking.answers([2], original, targets=target)[2].relearn
    assert knows == RelearnTime(0, True)
    never = asking.answers([2], first(TASK, 5), targets=target, check_every=2)[2]
    assert never.relearn is not None
    assert never.relearn.batches > 0
    assert never.relearn.reached
    again = asking.answers([2], first(TASK, 5), targets=target, check_every=2)[2]
    assert again.to_json() == never.to_json()


def test_clients_measure_parts_of_their_data():
    held, grid = federation()
    found = Asking(held, grid).measured([0, 1], held.arrays, ("train", "test"))
    net = TASK.model()
    net.load_state_dict(held.arrays.to_torch_state_dict())
    for client_id, numbers in found.items():
        split = TASK.data(ClientRef(client_id, 4))
        assert numbers["test_accuracy"] == pytest.approx(
            float(TASK.quality(net, split.tested))
        )
        assert numbers["num_train"] == len(split.train)
        assert numbers["train_loss"] > 0


def test_the_task_is_told_which_client_it_is_of_how_many():
    seen: list[ClientRef] = []

    def data(ref: ClientRef) -> Split:
        seen.append(ref)
        return TASK.data(replace(ref, client_id=1))

    held, grid = federation()
    for context in grid.contexts.values():  # a real node does not know
        del context.node_config["num-partitions"]
    grid.client_app = serve(app_of(TASK), replace(TASK, data=data))
    place = FIRST_NODE_ID + 1
    config = {"partition-id": 1, "client-id": 7, "data": "/srv/mine"}
    grid.contexts[place].node_config = config
    # The strategy knows the node by what it said first; the task hears its own name.
    Asking(held, grid).answers([1], held.arrays)
    (ref,) = seen
    assert (ref.client_id, ref.clients) == (7, 4)
    assert ref.node_config == config
    seen.clear()
    grid.contexts[place].node_config = {"num-partitions": 9}
    Asking(held, grid).answers([1], held.arrays)
    assert (seen[0].client_id, seen[0].clients) == (1, 9)


def test_nodes_that_the_strategy_does_not_know_are_asked_who_they_are():
    held, grid = federation()
    model = held.forget([2])
    grid.contexts[FIRST_NODE_ID + 9] = grid.contexts.pop(FIRST_NODE_ID + 2)
    grid.sent.clear()
    asking = Asking(held, grid)
    assert sorted(asking.answers([2], model)) == [2]
    assert sorted(asking.answers([2, 3], model)) == [2, 3]
    once = [("query.fedneg", 9), ("evaluate.fedneg", 9)]
    assert grid.sent == [*once, *[("evaluate.fedneg", k) for k in (9, 3)]]


def test_answers_are_within_what_the_owner_does_before_and_after():
    held, grid = federation()
    said: list[str] = []

    @grid.client_app.lifespan()
    def around(context: Context) -> Iterator[None]:
        said.append("before")
        yield
        said.append("after")

    Asking(held, grid).answers([0], held.arrays)
    assert said == ["before", "after"]


# -- mistakes --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "line"),
    [
        (
            replace(TASK, loss=None, losses=own_tasks.too_short.losses),
            "task marked, losses: must return one number per example, shape (40,), got",
        ),
        (
            replace(TASK, loss=None, losses=own_tasks.negative.losses),
            "task marked, losses: must be at least 0, got -1",
        ),
        (
            replace(TASK, data=lambda ref: 3),
            "task marked, data: must return a Split, got int",
        ),
        (
            replace(TASK, model=lambda: nn.Linear(5, 3)),
            "task marked, model: has no 0.weight, 0.bias, 2.weight, ..",
        ),
        (None, "this ClientApp has no task to answer by"),
    ],
)
def test_a_mistake_is_one_line_at_the_server(task: Task | None, line: str):
    held, grid = federation()
    grid.client_app = serve(app_of(TASK), task)
    asking = Asking(held, grid)
    assert asking.answers([1], held.arrays) == {}
    (reason,) = asking.unanswered.values()
    assert line in reason
    assert "\n" not in reason
    assert "Traceback" not in reason


def test_a_model_that_diverged_is_no_answer():
    held, grid = federation()
    broken = ArrayRecord(
        {
            name: torch.full_like(tensor, torch.nan)
            for name, tensor in held.arrays.to_torch_state_dict().items()
        }
    )
    asking = Asking(held, grid)
    assert asking.answers([1], broken) == {}
    assert "client 1 cannot answer about this model" in asking.unanswered[1]


def test_who_is_not_online_or_not_served_is_named():
    held, grid = federation()
    del grid.contexts[FIRST_NODE_ID + 1]
    asking = Asking(held, grid)
    assert sorted(asking.answers([1, 2], held.arrays)) == [2]
    assert asking.unanswered == {1: "not online"}
    grid.client_app = app_of(TASK)
    assert asking.answers([2], held.arrays) == {}
    assert "No evaluate function registered with name 'fedneg'" in asking.unanswered[2]


def test_a_question_to_nobody_or_of_an_order_that_is_none_is_refused():
    held, grid = federation()
    with pytest.raises(FedNegError, match="at least one client is asked"):
        Asking(held, grid).answers([], held.arrays)
    for wrong, line in (
        ({"epochs": 0}, "order.epochs must be at least 1, got 0"),
        ({"device": "tpu"}, "order.device must be one of auto, cpu, cuda, got 'tpu'"),
        ({"options": {"f": print}}, "order.options must be what JSON holds"),
    ):
        asking = Asking(held, grid, order=replace(ORDER, **wrong))  # type: ignore[arg-type]
        with pytest.raises(FedNegError, match=line):
            asking.answers([1], held.arrays)


@pytest.mark.parametrize(
    "sent",
    [{}, {"question": "no JSON"}, {"question": "[]"}, {"question": '{"order": 3}'}],
)
def test_what_is_no_question_is_refused(sent: dict[str, Any]):
    with pytest.raises(FedNegError, match="has no question; is it of another version"):
        Question.of(ConfigRecord(sent))


def test_a_question_travels():
    order = replace(ORDER, options={"width": 8}, max_steps=4)
    asked = Question("answers", 2**62, 9, order, relearn_target=0.25)
    assert Question.of(asked.to_record()) == asked


# -- the model that is asked about -----------------------------------------------------

COLOURS = own_tasks.colours


def changed(seed: int = 1) -> nn.Module:
    """Return a network with BatchNorm and a frozen part, all arrays its own."""
    torch.manual_seed(seed)
    net = ColourNet()
    for name, tensor in net.state_dict().items():
        if name != "scale":
            tensor.copy_(torch.rand(tensor.shape) * 9 + 1)
    return net


def as_list(tensors: Mapping[str, torch.Tensor]) -> ArrayRecord:
    return ArrayRecord([tensor.numpy() for tensor in tensors.values()])


@pytest.mark.parametrize(
    "sent",
    [
        record,
        lambda net: as_list(net.state_dict()),
        lambda net: ArrayRecord(dict(reversed(net.state_dict().items()))),
        # Without what is frozen, which is the task's own.
        lambda net: ArrayRecord(
            {k: v for k, v in net.state_dict().items() if k != "scale"}
        ),
        # Trained first, then what is averaged, then what is counted.
        lambda net: as_list(
            {
                **{n: p.data for n, p in net.named_parameters() if n != "scale"},
                **{n: b for n, b in net.named_buffers() if b.is_floating_point()},
                **{n: b for n, b in net.named_buffers() if not b.is_floating_point()},
            }
        ),
        # Averaging adds an axis to what has none.
        lambda net: ArrayRecord(
            {k: v if v.dim() else v[None] for k, v in net.state_dict().items()}
        ),
        # And may make doubles of all, and of what is counted nearly whole numbers.
        lambda net: ArrayRecord(
            {
                k: v.double() - (0.0 if v.is_floating_point() else 1e-3)
                for k, v in net.state_dict().items()
            }
        ),
    ],
)
def test_arrays_find_their_place(sent: Callable[[nn.Module], ArrayRecord]):
    net = changed()
    found = load_model(COLOURS, sent(net)).state_dict()
    for name, tensor in net.state_dict().items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


class Tied(nn.Module):
    """Two names for one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.b.weight = self.a.weight


def test_a_tensor_with_two_names_needs_one():
    task, weight = replace(COLOURS, model=Tied), torch.rand(3, 3)
    found = load_model(task, ArrayRecord({"b.weight": weight}))
    assert torch.equal(found.state_dict()["a.weight"], weight)


@pytest.mark.parametrize(
    ("sent", "line"),
    [
        (
            ArrayRecord({"w": torch.zeros(3)}),
            "task colours, model: has no w, which was sent; it has scale, "
            "layers.0.weight, layers.0.bias, ..",
        ),
        (
            ArrayRecord(
                {k: v for k, v in changed().state_dict().items() if "4.w" not in k}
            ),
            "task colours, model: has layers.4.weight, which was not sent",
        ),
        (
            ArrayRecord({**changed().state_dict(), "layers.4.bias": torch.zeros(99)}),
            r"task colours, model: layers.4.bias must have shape \(100,\), "
            r"got \(99,\)",
        ),
        (
            as_list(nn.Linear(3, 3).state_dict()),
            "task colours, model: 2 arrays without names must be those of its "
            r"state_dict in their order \(10 arrays\), and have other shapes",
        ),
    ],
)
def test_arrays_that_are_not_the_model_s_are_one_line(sent: ArrayRecord, line: str):
    with pytest.raises(FedNegError, match=line):
        load_model(COLOURS, sent)


def test_a_node_that_fails_to_say_who_it_is_is_asked_again():
    """A client that comes back under another node, which is busy at first."""
    held, grid = federation()
    context = grid.contexts.pop(FIRST_NODE_ID + 1)
    grid.contexts[FIRST_NODE_ID + 70] = context
    asking, served = Asking(held, grid), grid.client_app
    grid.client_app = ClientApp()
    assert asking.answers([1], held.arrays) == {}
    grid.client_app = served
    assert sorted(asking.answers([1], held.arrays)) == [1]


def test_data_are_split_among_as_many_for_every_model():
    """Also where a client is there for one of them only."""
    counts: list[int] = []

    def data(ref: ClientRef) -> Split:
        counts.append(ref.clients)
        return TASK.data(ref)

    held, grid = federation()
    for context in grid.contexts.values():  # a real node does not know
        del context.node_config["num-partitions"]
    grid.client_app = serve(app_of(TASK), replace(TASK, data=data))
    asking = Asking(held, grid)
    asking.answers([0], held.arrays)
    context = copy.copy(grid.contexts[FIRST_NODE_ID])
    context.node_config = {"client-id": 9}
    grid.contexts[FIRST_NODE_ID + 90] = context
    asking.answers([0], held.arrays)
    assert len(set(counts)) == 1
