"""Ten people with a smartwatch: which exercise of the shoulder is it, by a 1-D CNN.

Each person is a client. The recordings come with the package seglearn: 140 sets of
exercises, 50 times a second three axes of acceleration and three of turning, of people
who agreed to it (Burns et al., arXiv:1802.01489). Licence: BSD 3-Clause, Copyright (c)
2018, David M. Burns. Only the file is read; the package is not imported.

    pip install --no-deps seglearn      # or fedneg[examples]
    fedneg task=examples.watch:task clients=10 rounds=8 forget=4 retrain=remaining

The server holds the last fifth of each recording. A person trains on every other
stretch of two seconds of the rest.
"""

import io
import pickle
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from fedneg import ClientRef, Order, Split, Task
from fedneg.core.data_settings import AttackSettings

PEOPLE, EXERCISES, STRETCH = 10, 7, 100
USUAL = (0.9, 0.5, 0.55, 1.0, 2.5, 1.05)  # how much each axis moves


class OnlyArrays(pickle.Unpickler):
    """Reads what NumPy writes of arrays, and runs nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstruct":
            return lambda kind, shape, code: kind.__new__(kind, shape, code)
        if (module, name) == ("_codecs", "encode"):
            return lambda text, code: text.encode("latin1")
        return {"ndarray": np.ndarray, "dtype": np.dtype}[name]


@cache
def recordings() -> dict[str, Any]:
    found = find_spec("seglearn")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("the recordings are in seglearn, which is not there")
    path = Path(found.submodule_search_locations[0]) / "data" / "watch_dataset.npy"
    content = io.BytesIO(path.read_bytes())
    np.lib.format.read_magic(content)
    np.lib.format.read_array_header_1_0(content)
    read: dict[str, Any] = OnlyArrays(content).load().item()
    return read


@cache
def stretches(person: int) -> tuple[TensorDataset, ...]:
    """Return one person's: to train on, unseen, and the server's."""
    read = recordings()
    found: list[list[tuple[Any, int]]] = [[], [], []]
    for signal, exercise, whose in zip(
        read["X"], read["y"], read["subject"], strict=True
    ):
        number = len(signal) // STRETCH
        for k in range(number) if whose == person + 1 else ():
            part = signal[k * STRETCH : (k + 1) * STRETCH] / USUAL
            found[2 if k >= 0.8 * number else k % 2].append((part.T, exercise))
    return tuple(
        TensorDataset(
            torch.tensor(np.array([x for x, _ in part]), dtype=torch.float32),
            torch.tensor([y for _, y in part]),
        )
        for part in found
    )


def data(client: ClientRef) -> Split:
    if client.clients > PEOPLE:
        raise ValueError(f"there are {PEOPLE} people, got {client.clients} clients")
    own, unseen, _ = stretches(client.client_id)
    return Split(train=own, unseen=unseen)


def test() -> TensorDataset:
    parts = [stretches(person)[2].tensors for person in range(PEOPLE)]
    return TensorDataset(*(torch.cat(arrays) for arrays in zip(*parts, strict=True)))


def model() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv1d(6, 16, 7, stride=2), nn.BatchNorm1d(16), nn.ReLU()),
        *(nn.Conv1d(16, 32, 7, stride=2), nn.BatchNorm1d(32), nn.ReLU()),
        *(nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Linear(128, EXERCISES)),
    )


def train(model: nn.Module, data: TensorDataset, order: Order) -> dict[str, float]:
    optimiser, steps = torch.optim.Adam(model.parameters(), lr=order.learning_rate), 0
    model.train()
    for _ in range(order.epochs):
        for batch in DataLoader(data, order.batch_size, shuffle=True, drop_last=True):
            if steps == order.max_steps:
                break
            optimiser.zero_grad()
            loss(model, TensorDataset(*batch)).mean().backward()
            optimiser.step()
            steps += 1
    model.eval()
    return {"steps": steps}


def loss(model: nn.Module, data: TensorDataset) -> torch.Tensor:
    x, y = data.tensors
    return functional.cross_entropy(model(x), y, reduction="none")


def outputs(model: nn.Module, data: TensorDataset) -> torch.Tensor:
    return functional.softmax(model(data.tensors[0]), dim=1)


def accuracy(model: nn.Module, data: TensorDataset) -> float:
    return float((outputs(model, data).argmax(1) == data.tensors[1]).float().mean())


def poison(
    data: TensorDataset, attack: AttackSettings, rng: np.random.Generator
) -> TensorDataset:
    """Return some of the exercises under the next one's name: `attack=label_flip`."""
    x, y = data.tensors
    chosen = torch.tensor(rng.random(len(y)) < attack.fraction)
    return TensorDataset(x, torch.where(chosen, (y + 1) % EXERCISES, y))


task = Task(
    name="exercises by smartwatch",
    model=model,
    data=data,
    train=train,
    loss=loss,
    test=test,
    quality=accuracy,
    quality_name="accuracy",
    outputs=outputs,
    inputs=lambda data: data.tensors[0],
    poison=poison,
    deterministic=True,
)
