"""Clients and servers that fail in the middle of things: the federation goes on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from safetensors.numpy import load_file

from builders.lives import Meddling, ask, go_on
from fedneg.core.errors import FedNegError
from fedneg.engines.inline import FIRST_NODE_ID
from fedneg.records.state import State

PATIENT = ("rounds=3", "strategy.min_clients=2", "strategy.wait_for_clients_s=0")


class Failing(Meddling):
    """A grid whose nodes may go and come back, and that may itself be lost."""

    def __init__(self, clients: int = 3) -> None:
        super().__init__(clients)
        self.lost_at = 0
        self.timeouts: list[float | None] = []

    def leave(self, client_id: int) -> None:
        """Let a node die: what is on the way to it is lost."""
        self.gone = self.contexts.pop(FIRST_NODE_ID + client_id)

    def come_back(self) -> None:
        """Let the node that died be started again, under a new node id."""
        self.gone.node_id += 100
        self.contexts[self.gone.node_id] = self.gone

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Any:
        """Answer for those nodes that are there."""
        self.timeouts.append(timeout)
        found: list[Message] = []
        for message in list(messages):
            kind = message.metadata.message_type
            if kind == "train":
                number = int(message.content["config"]["server-round"])
                if number == self.lost_at:
                    raise ConnectionError("the SuperLink is gone")
                client_id = message.metadata.dst_node_id - FIRST_NODE_ID
                self.before(client_id % 100, number)
            if message.metadata.dst_node_id in self.contexts:
                self.sent.append((kind, message.metadata.dst_node_id - FIRST_NODE_ID))
                found += super(Meddling, self).send_and_receive([message])
        return found


def weights(folder: Path) -> dict[str, np.ndarray]:
    """Return what the last checkpoint holds."""
    return load_file(max((folder / "checkpoints").glob("*.safetensors")))


def rounds(folder: Path) -> list[tuple[str, str, str]]:
    """Return phase, number of clients and who failed, of every round."""
    lines = (folder / "history.csv").read_text().splitlines()[2:]
    cells = [line.split(",") for line in lines]
    return [(row[1], row[7], row[9]) for row in cells]


def test_a_node_that_dies_in_a_round_is_left_out_and_taken_back(tmp_path: Path):
    """It dies in round 1, is away in round 2, and is a new node in round 3."""
    grid = Failing()

    def before(client_id: int, server_round: int) -> None:
        if (client_id, server_round) == (0, 1):
            grid.leave(1)
        if (client_id, server_round) == (2, 2):
            grid.come_back()

    grid.before = before
    go_on(tmp_path / "state", *PATIENT, grid=grid)
    assert rounds(tmp_path / "state") == [
        ("train", "2", "1"),
        ("train", "2", "1"),
        ("train", "3", ""),
    ]
    assert 101 in grid.asked("train")


def test_the_same_clients_give_the_same_bytes_however_they_failed(tmp_path: Path):
    """One that hangs, and one whose node died."""
    hanging, dead = Failing(), Failing()
    hanging.silent = {1}
    dead.before = lambda k, n: dead.leave(1) if (k, n) == (0, 1) else None
    one, two = tmp_path / "one", tmp_path / "two"
    go_on(one, *PATIENT, grid=hanging)
    go_on(two, *PATIENT, grid=dead)
    assert State(one).model.read_bytes() == State(two).model.read_bytes()


def test_every_wait_for_clients_has_an_end(tmp_path: Path):
    """Each message says how long it may take: nothing waits for ever."""
    grid = Failing()
    go_on(tmp_path / "state", "strategy.round_timeout_s=7", grid=grid)
    ask(tmp_path / "state", 1)
    go_on(tmp_path / "state", "strategy.round_timeout_s=7", grid=grid)
    assert None not in grid.timeouts
    assert 7 in grid.timeouts


def test_too_few_clients_stop_the_run_which_then_goes_on(tmp_path: Path):
    """The error says how long was waited, for how many, and who was not there."""
    grid, state = Failing(), tmp_path / "state"
    grid.before = lambda k, n: grid.leave(1) if (k, n) == (0, 2) else None
    wait = "strategy.wait_for_clients_s=0.3"
    with pytest.raises(
        FedNegError, match=r"waited 0\.3 s for all 3 clients; client 1 is not online"
    ):
        go_on(state, "rounds=3", wait, grid=grid)
    assert "client 1 is not online" in State(state).read_status()["error"]
    grid.before = lambda k, n: None
    grid.come_back()
    go_on(state, "rounds=3", wait, grid=grid)
    assert [row[1] for row in rounds(state)] == ["3", "2", "3"]


@pytest.mark.parametrize("lost_at", [2, 4], ids=["training", "repair"])
def test_a_superlink_that_is_lost_costs_no_more_than_a_round(
    tmp_path: Path, lost_at: int
):
    """Round 4 is the repair after the request; all goes on to the same bytes."""
    undisturbed, state = tmp_path / "undisturbed", tmp_path / "state"
    go_on(undisturbed)
    ask(undisturbed, 1)
    go_on(undisturbed)
    grid = Failing()
    grid.lost_at = lost_at
    for asks in (False, True):
        if asks:
            ask(state, 1)
        try:
            go_on(state, grid=grid)
        except ConnectionError:
            grid.lost_at = 0
            go_on(state, grid=grid)
    assert grid.lost_at == 0
    assert State(state).model.read_bytes() == State(undisturbed).model.read_bytes()
    one, other = weights(state), weights(undisturbed)
    for name in other:
        np.testing.assert_array_equal(one[name], other[name])
