"""A stranger's ClientApp, served: who its nodes are, and what they answer."""

import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.app import RecordDict as Records
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from builders.federations import FIRST_NODE_ID, RecordingGrid
from builders.waiting import PATIENCE_S
from fedneg import Forgettable, serve
from fedneg.core.errors import FedNegError

INITIAL = np.zeros(3, np.float32)


class Seen(FedAvg):
    """A stranger's strategy, which keeps what its hooks get."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**{"fraction_evaluate": 0.0, **more})
        self.names: list[set[str]] = []
        self.asked: list[list[int]] = []

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Keep what the replies hold, and of whom they are."""
        replies = list(replies)
        self.names += [set(reply.content) for reply in replies if reply.has_content()]
        self.asked.append(sorted(r.metadata.src_node_id for r in replies))
        return super().aggregate_train(server_round, replies)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Keep what the replies hold."""
        replies = list(replies)
        self.names += [set(reply.content) for reply in replies if reply.has_content()]
        return super().aggregate_evaluate(server_round, replies)


def handlers(app: ClientApp, calls: list[str] | None = None) -> None:
    """Register a stranger's handlers: node k moves the model by k + 1."""
    calls = [] if calls is None else calls

    @app.train()
    def train(message: Message, context: Context) -> Message:
        calls.append("train")
        k = int(str(context.node_config["partition-id"]))
        (array,) = message.content.array_records["arrays"].to_numpy_ndarrays()
        content = Records(
            {
                "arrays": ArrayRecord([array + k + 1]),
                "metrics": MetricRecord({"num-examples": 10, "place": 100 + k}),
            }
        )
        return Message(content, reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        calls.append("evaluate")
        metrics = MetricRecord({"num-examples": 10, "accuracy": 0.5})
        return Message(Records({"metrics": metrics}), reply_to=message)


def served() -> ClientApp:
    app = ClientApp()
    handlers(app)
    return serve(app)


def grid_of(app: ClientApp, configs: Mapping[int, Mapping[str, Any]]) -> RecordingGrid:
    """Return a grid whose nodes were started with these configs."""
    grid = RecordingGrid(app, len(configs))
    for place, config in configs.items():
        grid.contexts[FIRST_NODE_ID + place].node_config = dict(config)
    return grid


def trained(
    grid: RecordingGrid, rounds: int = 2, inner: FedAvg | None = None, **more: Any
) -> Forgettable:
    held = Forgettable(inner or Seen(), **more)
    held.start(grid, ArrayRecord([INITIAL]), rounds, timeout=PATIENCE_S)
    return held


def again(held: Forgettable, grid: RecordingGrid, rounds: int = 1) -> None:
    """Go on, with the strategy that was there."""
    held.start(grid, held.arrays, rounds, timeout=PATIENCE_S)


def value(arrays: ArrayRecord) -> float:
    return float(next(iter(arrays.values())).numpy()[0])


# -- who is who ------------------------------------------------------------------------


@pytest.mark.parametrize("served_first", [True, False])
def test_ids_reach_the_wrapper_whenever_the_app_was_served(served_first: bool):
    """And nothing else changes: handlers, replies as the strategy sees them, count."""
    app, calls, inner = ClientApp(), list[str](), Seen(fraction_evaluate=1.0)
    if served_first:
        assert serve(app) is app
        handlers(app, calls)
    else:
        handlers(app, calls)
        assert serve(app) is app
    grid = RecordingGrid(app, 3)
    held = trained(grid, rounds=2, inner=inner)
    assert held.clients == (0, 1, 2)
    assert calls == ["train"] * 3 + ["evaluate"] * 3 + ["train"] * 3 + ["evaluate"] * 3
    assert [kind for kind, _ in grid.sent] == calls
    assert {frozenset(names) for names in inner.names} == {
        frozenset({"arrays", "metrics"}),
        frozenset({"metrics"}),
    }
    assert value(held.forget([2])) == pytest.approx(2 * (1 + 2) / 3)


def test_what_its_operator_calls_a_node_comes_before_its_partition():
    configs = {
        0: {"partition-id": 0, "client-id": 7},
        1: {"partition-id": 1},
        2: {"partition-id": 2, "client-id": 0},
    }
    assert trained(grid_of(served(), configs)).clients == (0, 1, 7)


def test_a_node_without_an_id_is_its_node():
    app = ClientApp()
    serve(app)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        metrics = MetricRecord({"num-examples": 1})
        content = Records({"arrays": ArrayRecord([INITIAL + 1]), "metrics": metrics})
        return Message(content, reply_to=message)

    assert trained(grid_of(app, {0: {}, 1: {}})).clients == (
        FIRST_NODE_ID,
        FIRST_NODE_ID + 1,
    )


@pytest.mark.parametrize(
    ("clients", "expected"),
    [({FIRST_NODE_ID: 50, FIRST_NODE_ID + 1: 51}, (2, 50, 51)), ("place", None)],
)
def test_what_the_user_says_comes_first(clients: Any, expected: tuple[int] | None):
    held = trained(RecordingGrid(served(), 3), clients=clients)
    assert held.clients == (expected or (100, 101, 102))


def test_a_client_that_comes_back_under_another_node_is_the_one_it_was():
    grid = RecordingGrid(served(), 3)
    held = trained(grid)
    before = value(held.arrays)
    context = grid.contexts.pop(FIRST_NODE_ID + 1)
    grid.contexts[FIRST_NODE_ID + 9] = context
    again(held, grid)
    assert held.clients == (0, 1, 2)
    # Both of its nodes' updates are forgotten: of three rounds' mean of 1, 2 and 3.
    assert value(held.arrays) == pytest.approx(before + 2)
    assert value(held.forget([1])) == pytest.approx(3 * (1 + 3) / 3)


def test_once_forgotten_it_enters_no_aggregate_under_whichever_node():
    grid, inner = RecordingGrid(served(), 3), Seen()
    held = trained(grid, inner=inner)
    left = value(held.forget([1]))
    grid.contexts[FIRST_NODE_ID + 9] = grid.contexts.pop(FIRST_NODE_ID + 1)
    inner.asked.clear()
    again(held, grid, rounds=2)
    # It is asked once, for nobody knows the node; then it is known, and asked no more.
    assert inner.asked == [[FIRST_NODE_ID, FIRST_NODE_ID + 2]] * 2
    assert grid.asked("train").count(9) == 1
    assert held.clients == (0, 1, 2)
    assert value(held.arrays) == pytest.approx(left + 2 * 2)


def test_who_measures_before_it_trains_is_known_by_that():
    grid = RecordingGrid(served(), 3)
    held = trained(grid)
    held.forget([1])
    grid.contexts[FIRST_NODE_ID + 9] = grid.contexts.pop(FIRST_NODE_ID + 1)
    messages = [
        Message(
            Records({"arrays": held.arrays, "config": ConfigRecord()}),
            dst_node_id=FIRST_NODE_ID + 9,
            message_type="evaluate",
        )
    ]
    inner = held.strategy
    assert isinstance(inner, Seen)
    inner.names.clear()
    held.aggregate_evaluate(1, grid.send_and_receive(messages))
    assert inner.names == []
    again(held, grid)
    assert grid.asked("train").count(9) == 0


def test_a_node_says_who_it_is_once():
    grid = RecordingGrid(served(), 3)
    held = trained(grid)
    grid.contexts[FIRST_NODE_ID + 1].node_config["client-id"] = 2
    again(held, grid)
    assert held.clients == (0, 1, 2)
    held.forget([1])
    grid.contexts[FIRST_NODE_ID + 1].node_config["client-id"] = 77
    again(held, grid)
    assert held.clients == (0, 1, 2)


@pytest.mark.parametrize("loaded", [False, True])
def test_who_was_forgotten_under_its_node_stays_so_when_it_is_served(
    loaded: bool, tmp_path: Path
):
    app = ClientApp()
    handlers(app)
    grid = RecordingGrid(app, 3)
    held = trained(grid)
    node = FIRST_NODE_ID + 1
    assert node in held.clients
    left = value(held.forget([node]))
    if loaded:
        held.save(tmp_path)
        held = Forgettable.load(tmp_path, Seen())
    serve(app)
    again(held, grid)
    assert held.clients == (FIRST_NODE_ID, node, FIRST_NODE_ID + 2)
    assert value(held.arrays) == pytest.approx(left + 2)


@pytest.mark.parametrize("wrong", ["ward 3", -1, 1.5, True, 2**63])
def test_an_id_that_is_none_is_one_line(wrong: Any, caplog: pytest.LogCaptureFixture):
    app, configs = served(), {k: {"partition-id": k} for k in range(3)}
    inner = Seen()
    held = trained(grid_of(app, {**configs, 1: {"client-id": wrong}}), inner=inner)
    assert held.clients == (0, 2)
    assert (
        "client-id in the node config must be a whole number of at least 0, got "
        f"{wrong!r}" in caplog.text
    )
    assert "Traceback" not in caplog.text


def test_what_is_no_id_is_not_believed():
    """Whoever sends a record of that name itself."""
    app = ClientApp()
    handlers(app)

    class Lying(RecordingGrid):
        def send_and_receive(self, *arguments: Any, **more: Any) -> list[Message]:
            replies = super().send_and_receive(*arguments, **more)
            for reply in replies:
                reply.content["fedneg"] = ConfigRecord({"client-id": -5})
            return replies

    inner = Seen()
    held = trained(Lying(app, 2), inner=inner)
    assert held.clients == (FIRST_NODE_ID, FIRST_NODE_ID + 1)
    assert all(names == {"arrays", "metrics"} for names in inner.names)


# -- the app ---------------------------------------------------------------------------


class Legacy(NumPyClient):
    """A client of the way before handlers."""

    def fit(self, parameters: Any, config: Any) -> Any:
        """Move the model by one."""
        return [parameters[0] + 1], 10, {}


class Mine(ClientApp):
    """A stranger's own class of apps."""

    def __call__(self, message: Message, context: Context) -> Message:
        """Add something of its own."""
        reply = super().__call__(message, context)
        reply.content["mine"] = ConfigRecord({"a": 1})
        return reply


def ask(app: ClientApp, kind: str, content: Records | None = None) -> Message:
    """Return node 1's reply to a message."""
    grid = RecordingGrid(app, 3)
    message = Message(
        content or Records({"arrays": ArrayRecord([INITIAL])}),
        dst_node_id=FIRST_NODE_ID + 1,
        message_type=kind,
    )
    (reply,) = grid.send_and_receive([message])
    return reply


def test_an_app_with_a_client_fn_is_served_too():
    app = serve(ClientApp(client_fn=lambda context: Legacy().to_client()))
    assert ask(app, "query.fedneg").content["fedneg"] == {"client-id": 1}
    content = ask(app, "train", legacy_content()).content
    assert content["fedneg"] == {"client-id": 1}
    assert set(content) > {"fedneg"}


def legacy_content() -> Records:
    from flwr.common import FitIns, ndarrays_to_parameters
    from flwr.compat.common.recorddict_compat import fitins_to_recorddict

    ins = FitIns(ndarrays_to_parameters([INITIAL]), {})
    return fitins_to_recorddict(ins, keep_input=True)


def test_an_app_of_another_class_stays_one():
    app = Mine()
    serve(app)
    handlers(app)
    assert isinstance(app, Mine)
    assert set(ask(app, "train").content) == {"arrays", "metrics", "mine", "fedneg"}


@pytest.mark.parametrize("kind", [ClientApp, Mine])
def test_a_served_app_travels_to_other_processes(kind: type[ClientApp]):
    app = kind()
    handlers(app)
    serve(app)
    there = cloudpickle.loads(cloudpickle.dumps(app))
    assert ask(there, "train").content["fedneg"] == {"client-id": 1}


def test_who_asks_is_told_who_it_is():
    assert ask(served(), "query.fedneg").content["fedneg"] == {"client-id": 1}


def test_its_owner_s_errors_are_its_owner_s():
    reply = ask(served(), "query")
    assert reply.has_error()
    assert "No query function registered" in reply.error.reason


def test_only_an_app_is_served_and_once():
    with pytest.raises(FedNegError, match=r"takes a flwr.clientapp.ClientApp, got int"):
        serve(3)  # type: ignore[type-var]
    with pytest.raises(FedNegError, match="served already: call serve"):
        serve(served())
    with pytest.raises(FedNegError, match=r"takes a fedneg.Task, got function"):
        serve(ClientApp(), served)  # type: ignore[arg-type]


def test_a_served_app_needs_no_torch():
    code = (
        "import sys; from flwr.clientapp import ClientApp; from fedneg import serve; "
        "serve(ClientApp()); print('torch' in sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    assert ran.stdout.strip() == "False"
