"""Small federations, with real and with made-up clients."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.app import RecordDict as Records
from flwr.clientapp import ClientApp
from flwr.supercore.task_identity import TaskIdentity

from builders.networks import prototype_of
from fedneg.client_app import app as real_clients
from fedneg.config import load_config
from fedneg.core.parameters import NDArrays, Vector, shapes_of
from fedneg.core.settings import Config
from fedneg.data.client_data import ClientData, partition_data
from fedneg.engines.inline import FIRST_NODE_ID, RUN_ID, SERVER_NODE_ID, InlineGrid
from fedneg.strategies import make_strategy
from fedneg.strategies.base import LedgerFedAvg
from fedneg.strategies.hooks import NO_HOOKS, Hooks
from fedneg.strategies.phases import Phase
from fedneg.strategies.roster import Roster

SMALL = (
    "data=digits",
    "rounds=2",
    "client.local_epochs=1",
    "model.hidden=[16]",
    "engine=inline",
    # Nearly all tests ask something else than the verdict.
    "verdict.retrainings=0",
    # A test that compares two trainings must not compare one with its copy.
    "cache=false",
)
# A run of a second, from the command line.
QUICK = (*SMALL, "clients=2", "forget=1", "rounds=1")
Answer = tuple[Sequence[np.ndarray], float] | Records
Behaviour = Callable[[NDArrays, int], Answer]


@lru_cache
def small_config(*overrides: str) -> Config:
    """Return a shrunken run on the digits; later overrides win."""
    return load_config([*SMALL, *overrides])[0]


def data_of(client_id: int, config: Config) -> ClientData:
    """Return a client's part of the built-in data."""
    return partition_data(
        client_id, config.data, clients=config.clients, seed=config.seed
    )


class RecordingGrid(InlineGrid):
    """An InlineGrid that remembers what was sent and may lose or double replies."""

    def __init__(self, client_app: ClientApp, clients: int) -> None:
        super().__init__(client_app, clients)
        # The identity that a SuperLink or `simulate` gives: without it, no Message.
        TaskIdentity.task_id, TaskIdentity.run_id = 1, RUN_ID
        TaskIdentity.node_id = SERVER_NODE_ID
        self.sent: list[tuple[str, int]] = []
        self.silent: set[int] = set()
        self.doubled: set[int] = set()
        self.backwards = False
        self.looks = 0

    def asked(self, message_type: str) -> list[int]:
        """Return the client ids that messages of a type went to, in order."""
        return [k for kind, k in self.sent if kind == message_type]

    def get_node_ids(self) -> list[int]:
        """Say who is online, and count how often somebody looks."""
        self.looks += 1
        return super().get_node_ids()

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Answer as told, only where clients are to train."""
        replies: list[Message] = []
        for message in list(messages):
            kind = message.metadata.message_type
            client_id = message.metadata.dst_node_id - FIRST_NODE_ID
            self.sent.append((kind, client_id))
            found = list(super().send_and_receive([message]))
            if kind == "train":
                found *= (client_id not in self.silent) + (client_id in self.doubled)
            replies += found
        return replies[::-1] if self.backwards else replies


def answer(
    arrays: Sequence[np.ndarray], num_examples: float, client_id: int
) -> Records:
    """Return the content of a reply to a training message."""
    metrics = MetricRecord({"num-examples": num_examples, "client-id": client_id})
    return Records({"arrays": ArrayRecord(list(arrays)), "metrics": metrics})


def acting_clients(behaviours: Mapping[int, Behaviour]) -> ClientApp:
    """Return a ClientApp whose client k trains as ``behaviours[k]`` says.

    A behaviour gets the global arrays and the server round and returns local arrays
    with a number of examples, or a whole reply; or it raises.
    """
    app = ClientApp()

    @app.query()
    def identify(message: Message, context: Context) -> Message:
        client_id = context.node_config["partition-id"]
        nodes = context.node_config["num-partitions"]
        found = ConfigRecord({"client-id": client_id, "num-partitions": nodes})
        return Message(Records({"identity": found}), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        client_id = int(str(context.node_config["partition-id"]))
        arrays = message.content.array_records["arrays"].to_numpy_ndarrays()
        number = message.content.config_records["config"]["server-round"]
        found = behaviours[client_id]([a.copy() for a in arrays], int(str(number)))
        if not isinstance(found, Records):
            found = answer(*found, client_id)
        return Message(found, reply_to=message)

    return app


class Bench:
    """A strategy and a grid, driven by hand; clients are made up or the real ones."""

    def __init__(
        self,
        config: Config,
        initial: NDArrays,
        behaviours: Mapping[int, Behaviour] | None = None,
        assignment: str = "no assignment",
        hooks: Hooks = NO_HOOKS,
        roster: Roster | None = None,
    ) -> None:
        self.config = config
        clients = real_clients if behaviours is None else acting_clients(behaviours)
        self.grid = RecordingGrid(clients, config.clients)
        self.strategy: LedgerFedAvg = make_strategy(config, assignment, hooks, roster)
        # Without its layout: made-up clients answer with arrays of any shape.
        self.strategy.prototype = prototype_of(config)
        self.strategy.reset(initial)
        self.shapes = shapes_of(initial)
        self.model: Vector = self.strategy.ledger.initial
        self.after: list[Vector] = []

    def _run(self, phase: Phase, forget: Sequence[int] = ()) -> Vector:
        def keep(_: Any, after: Vector) -> dict[str, float]:
            self.after.append(after.copy())
            return {}

        self.model = self.strategy.run_phase(
            self.grid, phase, self.model, forget=forget, after_round=keep
        )
        return self.model

    def train(self, rounds: int, clients: Sequence[int] | None = None) -> Vector:
        """Train and return the global parameters."""
        ids = tuple(range(self.config.clients)) if clients is None else tuple(clients)
        return self._run(Phase("train", ids, rounds))

    def unlearn(self, *forget: int) -> Vector:
        """Forget and return the global parameters; naming clients asks none."""
        everybody = tuple(range(self.config.clients))
        rounds = self.strategy.unlearn_rounds(self.config)
        return self._run(Phase("unlearn", everybody, rounds, first_round=9), forget)

    def failures(self) -> list[tuple[int, int, str]]:
        """Return (round, client id, reason) of every client that was left out."""
        reports = self.strategy.reports
        return [
            (f.server_round, f.client_id, f.reason)
            for report in reports
            for f in report.failures
        ]


INITIAL = [np.full((2, 3), 0.5, np.float32), np.array([1, -1], np.float32)]


def honest(client_id: int, num_examples: float | None = None) -> Behaviour:
    """Return a client that moves the model by a little that depends on who it is."""
    count = 10 * client_id + 5 if num_examples is None else num_examples

    def train(arrays: NDArrays, server_round: int) -> Answer:
        rng = np.random.default_rng([client_id, server_round])
        moved = [a + rng.normal(size=a.shape).astype(np.float32) for a in arrays]
        return moved, count

    return train
