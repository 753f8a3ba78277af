"""Federations that live on, and what they leave."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Message

from builders.federations import SMALL, RecordingGrid
from fedneg.client_app import app as real_clients
from fedneg.config import load_config
from fedneg.engines.inline import FIRST_NODE_ID
from fedneg.records.receipts import read_receipt
from fedneg.records.requests import Request
from fedneg.records.state import State
from fedneg.server_app import live

THREE = (*SMALL, "clients=3", "retrain_rounds=1")


class Meddling(RecordingGrid):
    """A grid that lets a test act just before a client trains in a round."""

    def __init__(self, clients: int) -> None:
        super().__init__(real_clients, clients)
        self.before: Callable[[int, int], None] = lambda client_id, server_round: None

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Any:
        """Meddle, then train."""
        found: list[Message] = []
        for message in list(messages):
            if message.metadata.message_type == "train":
                number = int(message.content["config"]["server-round"])
                self.before(message.metadata.dst_node_id - FIRST_NODE_ID, number)
            found += super().send_and_receive([message], timeout=timeout)
        return found


def go_on(folder: Path, *overrides: str, grid: Meddling | None = None) -> Meddling:
    """Let a small federation of three live on until nothing is left to do."""
    return live_on(folder, *THREE, *overrides, grid=grid)


def live_on(folder: Path, *overrides: str, grid: Meddling | None = None) -> Meddling:
    """Let the federation in a folder live on as it said before, and as is said now."""
    given = [*overrides, f"state={folder}"]
    config, notices = load_config(given)
    grid = Meddling(config.clients) if grid is None else grid
    live(grid, config, given, notices)
    return grid


def copied(made: Path, to: Path) -> Path:
    """Copy a federation and its keys; return where it lies now."""
    for ending in ("", "-keys"):
        shutil.copytree(f"{made}{ending}", f"{to}{ending}")
    return to


def ask(folder: Path, client_id: int, clients: int = 3) -> Request:
    """Accept a client's request."""
    requests = State(folder).requests
    return requests.accept(client_id, clients=clients, due_days=30, reason="moved")[0]


def receipt_of(folder: Path, client_id: int) -> dict[str, Any]:
    """Return a receipt, after checking who signed it."""
    state = State(folder)
    path = state.receipts / f"forget-{client_id}.json"
    return read_receipt(path, state.operator.public)


def files_with(folder: Path, vector: np.ndarray) -> list[str]:
    """Return the files that hold the bytes of a vector, whole or in its middle half."""
    size = vector.size
    middle = vector[size // 4 : 3 * size // 4].astype("<f4").tobytes()
    return [p.name for p in folder.rglob("*") if p.is_file() and middle in _read(p)]


def _read(path: Path) -> bytes:
    return path.read_bytes()
