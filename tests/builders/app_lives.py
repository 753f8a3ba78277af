"""A stranger's app with a state folder: it goes on, and who watches meddles."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Message
from flwr.serverapp.strategy import FedAvg, FedAvgM, Result, Strategy
from safetensors.numpy import load_file

from builders.strangers import INITIAL, Arrays, Watched, read, written
from builders.waiting import PATIENCE_S
from fedneg import Forgettable
from fedneg.engines.inline import FIRST_NODE_ID
from fedneg.records.requests import Request
from fedneg.records.state import State


class Meddled(Watched):
    """A grid that lets a test act while a round's replies are on their way.

    Attributes
    ----------
    during : dict of int to callable
        What to do, by the number of the round that clients are told.
    told : list of int
        Those numbers.
    """

    def __init__(
        self, clients: int = 4, broken: Iterable[tuple[int, int]] = ()
    ) -> None:
        super().__init__(clients, broken)
        self.during: dict[int, Callable[[], object]] = {}
        self.told: list[int] = []

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Let clients train, and then the test act."""
        asked = list(messages)
        found = super().send_and_receive(asked, timeout=timeout)
        if asked and asked[0].metadata.message_type == "train":
            number = int(str(asked[0].content["config"]["server-round"]))
            self.told.append(number)
            self.during.pop(number, lambda: None)()
        return found

    def trained(self) -> list[list[int]]:
        """Return who trained in each round, by their ids (`place`)."""
        first = FIRST_NODE_ID - 100
        return [sorted(node - first for node in by_node) for _, by_node in self.rounds]


def live(
    state: Path,
    rounds: int,
    grid: Watched | None = None,
    strategy: Strategy | None = None,
    initial: Mapping[str, np.ndarray] = INITIAL,
    **more: Any,
) -> tuple[Forgettable, Result]:
    """Let an app start, as if its program had been run again."""
    inner = FedAvg(fraction_evaluate=0.0) if strategy is None else strategy
    # By hand, since a node of these says who it is once, and wrongly later.
    clients = {FIRST_NODE_ID + k: 100 + k for k in range(8)}
    held = Forgettable(inner, state=state, **{"clients": clients, **more})
    result = held.start(
        Meddled() if grid is None else grid,
        written(initial),
        num_rounds=rounds,
        timeout=PATIENCE_S,
    )
    return held, result


def with_momentum() -> FedAvgM:
    """Return a strategy that keeps something of every round."""
    return FedAvgM(fraction_evaluate=0.0, server_learning_rate=0.5, server_momentum=0.5)


def ask(state: Path, client_id: int) -> Request:
    """Accept a request, as the command does."""
    found = State(state)
    found.ready()
    return found.requests.accept(client_id, clients=None, due_days=30)[0]


def model_in(state: Path) -> Arrays:
    """Return the model in service."""
    return load_file(state / "model.safetensors")


def same(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    """Return whether two models are the same, bit for bit, with their types."""
    return {n: (a.dtype, a.shape, a.tobytes()) for n, a in one.items()} == {
        n: (a.dtype, a.shape, a.tobytes()) for n, a in other.items()
    }


def model_of(result: Result) -> Arrays:
    """Return a result's model."""
    return read(result.arrays)
