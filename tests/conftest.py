"""What the core tests share: small federations, with real and with made-up clients."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.app import RecordDict as Records
from flwr.clientapp import ClientApp
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import HealthCheck, settings
from waiting import PATIENCE_S

from fedneg.client_app import app as real_clients
from fedneg.config import load_config
from fedneg.core.parameters import NDArrays, Vector, shapes_of
from fedneg.core.settings import Config
from fedneg.engines.inline import FIRST_NODE_ID, RUN_ID, SERVER_NODE_ID, InlineGrid
from fedneg.strategies import make_strategy
from fedneg.strategies.base import LedgerFedAvg
from fedneg.strategies.hooks import NO_HOOKS, Hooks
from fedneg.strategies.phases import Phase
from fedneg.strategies.roster import Roster

# A busy machine is no failure.
settings.register_profile(
    "fedneg", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("fedneg")

REPOSITORY = Path(__file__).resolve().parent.parent
LONGEST = ("test_grpc.py", "test_flwr_run.py", "test_story.py", "test_survive.py")
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
Answer = tuple[Sequence[np.ndarray], float] | Records
Behaviour = Callable[[NDArrays, int], Answer]


@lru_cache
def small_config(*overrides: str) -> Config:
    """Return a shrunken run on the digits; later overrides win."""
    return load_config([*SMALL, *overrides])[0]


def command(
    *arguments: str, cwd: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own; results go below `cwd`."""
    return subprocess.run(
        [sys.executable, "-m", "fedneg", *arguments],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def processes_in(folder: Path) -> list[str]:
    """Return the command lines of processes whose working directory is `folder`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "cwd").readlink() == folder:
                    found.append((entry / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
    return found


def processes_left_in(folder: Path) -> list[str]:
    """Return what `processes_in` still finds after giving it time to end."""
    deadline = time.monotonic() + PATIENCE_S
    while processes_in(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    return processes_in(folder)


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

    def asked(self, message_type: str) -> list[int]:
        """Return the client ids that messages of a type went to, in order."""
        return [k for kind, k in self.sent if kind == message_type]

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
        task: str = "no task",
        hooks: Hooks = NO_HOOKS,
        roster: Roster | None = None,
    ) -> None:
        self.config = config
        clients = real_clients if behaviours is None else acting_clients(behaviours)
        self.grid = RecordingGrid(clients, config.clients)
        self.strategy: LedgerFedAvg = make_strategy(config, task, hooks, roster)
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that none of them is left to the end.

    For `make test`, whose workers take a file at a time in this order.
    """
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterable[None]:
    """Keep fedneg's cache out of the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDNEG_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    """Return the folder of the real MNIST files, or skip the test by name."""
    places = [os.environ.get("FEDNEG_DATA"), REPOSITORY.parent / "shared" / "data"]
    for place in places:
        if place and (Path(place) / "MNIST" / "raw").is_dir():
            return Path(place).resolve()
    pytest.skip("no MNIST: set FEDNEG_DATA to a folder that holds MNIST/raw")


@pytest.fixture
def tiny() -> Config:
    """Return a run that takes a second: digits, two rounds, one small layer."""
    return small_config()


@pytest.fixture
def flower_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> pytest.LogCaptureFixture:
    """Return the log with Flower's lines in it."""
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)
    caplog.set_level(logging.WARNING, logger="flwr")
    return caplog
