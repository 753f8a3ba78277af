"""Tasks of one's own, unlike the built-in one in every way that a task can be."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from fedneg.core.data_settings import AttackSettings
from fedneg.tasks.task import ClientRef, Order, Split, Task
from fedneg.tasks.training import SGD, Rows

Loss = Callable[[nn.Module, "Pairs"], torch.Tensor]


@dataclass(frozen=True)
class Pairs:
    """Inputs and what they should give."""

    x: torch.Tensor
    y: torch.Tensor

    def __len__(self) -> int:
        return len(self.x)


def descend(
    model: nn.Module, data: Pairs, order: Order, loss: Loss
) -> Mapping[str, float]:
    """Train by torch's own SGD, as somebody who knows nothing of fedneg would."""
    optimiser = torch.optim.SGD(model.parameters(), lr=order.learning_rate)
    model.train()
    steps = 0
    for _ in range(order.epochs):
        for places in torch.randperm(len(data)).split(order.batch_size):
            if steps == order.max_steps:
                break
            optimiser.zero_grad()
            loss(model, Pairs(data.x[places], data.y[places])).mean().backward()
            optimiser.step()
            steps += 1
    return {"steps": steps, "width": float(order.options.get("width", 0))}


# -- a regression: no classes, no outputs, quality is R^2 ------------------------------


def _points(seed: int, count: int) -> Pairs:
    draws = torch.Generator().manual_seed(seed)
    x = torch.randn((count, 4), generator=draws)
    noise = 0.1 * torch.randn(count, generator=draws)
    return Pairs(x, (2 * x[:, 0] - x[:, 1]).tanh() + noise)


def _squares(model: nn.Module, data: Pairs) -> torch.Tensor:
    return (model(data.x).squeeze(1) - data.y).square()


def _r2(model: nn.Module, data: Pairs) -> float:
    spread = (data.y - data.y.mean()).square().sum()
    return float((1 - _squares(model, data).sum() / spread).clamp(min=0))


def _negate(data: Pairs, attack: AttackSettings, draws: np.random.Generator) -> Pairs:
    count = round(attack.fraction * len(data))
    chosen = torch.from_numpy(draws.permutation(len(data))[:count])
    y = data.y.clone()
    y[chosen] *= -1
    return Pairs(data.x, y)


regression = Task(
    name="regression",
    model=lambda: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)),
    data=lambda ref: Split(
        _points(10 + ref.client_id, 24 + 8 * ref.client_id),
        _points(110 + ref.client_id, 20),
    ),
    train=lambda model, data, order: descend(model, data, order, _squares),
    losses=lambda model, data: _squares(model, data).detach().numpy(),
    test=lambda: _points(1, 60),
    quality=_r2,
    quality_name="R^2",
    poison=_negate,
    deterministic=True,
)
# As little as a task may be: nothing optional.
bare = Task(
    name="bare",
    model=regression.model,
    data=regression.data,
    train=lambda model, data, order: dict.fromkeys(
        ["mine"], descend(model, data, order, _squares)["steps"]
    ),
    losses=regression.losses,
)

# -- 32x32 colour in bytes, 100 classes, BatchNorm, one of its layers frozen -----------


def _pictures(seed: int, count: int) -> Pairs:
    draws = np.random.default_rng(seed)
    patterns = np.random.default_rng(0).integers(0, 256, (100, 32, 32, 3))
    labels = draws.integers(0, 100, count)
    noisy = patterns[labels] + draws.normal(0, 20, (count, 32, 32, 3))
    images = np.clip(noisy, 0, 255).astype(np.uint8)
    return Pairs(torch.from_numpy(images), torch.from_numpy(labels))


class ColourNet(nn.Module):
    """Takes bytes, channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1 / 255), requires_grad=False)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 4, stride=4),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(8 * 64, 100),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (N, 100)."""
        found: torch.Tensor = self.layers(images.permute(0, 3, 1, 2) * self.scale)
        return found


def _entropies(model: nn.Module, data: Pairs) -> torch.Tensor:
    return functional.cross_entropy(model(data.x), data.y, reduction="none")


def _top5(model: nn.Module, data: Pairs) -> float:
    best = model(data.x).topk(5).indices
    return float((best == data.y[:, None]).any(1).float().mean())


colours = Task(
    name="colours",
    model=ColourNet,
    data=lambda ref: Split(
        _pictures(10 + ref.client_id, 90), _pictures(110 + ref.client_id, 30)
    ),
    train=lambda model, data, order: descend(model, data, order, _entropies),
    loss=_entropies,
    test=lambda: _pictures(1, 100),
    quality=_top5,
    quality_name="top-5 accuracy",
    outputs=lambda model, data: model(data.x).softmax(1),
    inputs=lambda data: data.x,
)

# -- fedneg's own SGD on rows of floats, 3 classes -------------------------------------


def _flowers(seed: int, count: int) -> Pairs:
    points = _points(seed, count)
    return Pairs(points.x, (points.y > -0.3).long() + (points.y > 0.3).long())


dense = Task(
    name="dense",
    model=lambda: nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)),
    data=lambda ref: Split(
        _flowers(10 + ref.client_id, 30 + ref.client_id),
        _flowers(110 + ref.client_id, 20),
    ),
    train=SGD(lambda data, device: Rows(data.x.to(device), data.y.to(device))),
    loss=_entropies,
    test=lambda: _flowers(1, 60),
    quality=lambda model, data: (model(data.x).argmax(1) == data.y).float().mean(),
    outputs=lambda model, data: model(data.x).softmax(1),
    inputs=lambda data: data.x,
    deterministic=True,
)
# The same by the autograd loop of somebody who does not know of fedneg's.
plain = replace(
    dense, train=lambda model, data, order: descend(model, data, order, _entropies)
)


# One of its clients has another input set, and calls all that it is there by a wrong
# class: what only this client teaches.
ODD = 2


def _with_mark(seed: int, count: int, *, odd: bool) -> Pairs:
    flowers = _flowers(seed, count)
    mark = torch.full((count, 1), 3.0 if odd else 0.0)
    y = (flowers.y + 1) % 3 if odd else flowers.y
    return Pairs(torch.cat([flowers.x, mark], 1), y)


def _of_marked(ref: ClientRef) -> Split:
    k, odd = ref.client_id, ref.client_id == ODD
    count = 120 if odd else 40
    return Split(_with_mark(10 + k, count, odd=odd), _with_mark(110 + k, 60, odd=odd))


marked = replace(
    plain,
    name="marked",
    model=lambda: nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3)),
    data=_of_marked,
    test=lambda: _with_mark(1, 60, odd=False),
)

# -- data from elsewhere ---------------------------------------------------------------

file_of_data = [0.0]


def _read(ref: ClientRef) -> Split:
    """Return data that another file decides about than this one."""
    points = _points(10 + ref.client_id, 24)
    return Split(Pairs(points.x + file_of_data[0], points.y), [])


reading = replace(regression, name="reading", data=_read)

# -- tasks that leave something behind ------------------------------------------------


def _with_moments(model: nn.Module, data: Pairs, order: Order) -> Mapping[str, float]:
    """Train by an optimiser that stays with the model, moments and all."""
    if not hasattr(model, "optimiser"):
        optimiser = torch.optim.Adam(model.parameters(), lr=order.learning_rate)
        model.optimiser = optimiser  # type: ignore[assignment]
    torch.set_default_dtype(torch.float64)
    for _ in range(order.epochs):
        model.optimiser.zero_grad()  # type: ignore[operator]
        _squares(model, data).mean().backward()
        model.optimiser.step()  # type: ignore[operator]
    torch.set_grad_enabled(False)
    return {}


lasting = replace(regression, name="lasting", train=_with_moments)

# -- tasks with a mistake --------------------------------------------------------------


def _stumble(model: nn.Module, data: Pairs, order: Order) -> Mapping[str, float]:
    raise RuntimeError("no such column: age")


def _end(model: nn.Module, data: Pairs, order: Order) -> Mapping[str, float]:
    sys.exit(0)


def _shuffled(model: nn.Module, data: Pairs) -> torch.Tensor:
    return _squares(model, data)[torch.randperm(len(data))].detach()


_made: list[nn.Module] = []


def _growing() -> nn.Module:
    """Return another model each time."""
    _made.append(nn.Linear(4, 1))
    return nn.Sequential(*_made)


grows = replace(regression, name="grows", model=_growing)
frozen = replace(
    regression, name="frozen", model=lambda: nn.Linear(4, 1).requires_grad_(False)
)
ends = replace(regression, name="ends", train=_end)
one_model = nn.Linear(4, 1)
always = replace(regression, name="always", model=lambda: one_model)
logits = replace(
    regression, name="logits", outputs=lambda model, data: model(data.x).expand(-1, 2)
)
stumbles = replace(regression, name="stumbles", train=_stumble)
shuffles = replace(regression, name="shuffles", losses=_shuffled)
too_short = replace(
    regression, name="short", losses=lambda model, data: np.zeros(len(data) - 1)
)
negative = replace(
    regression, name="negative", losses=lambda model, data: np.full(len(data), -1.0)
)


def _ref(client_id: int) -> ClientRef:
    return ClientRef(client_id, 3)


no_task = _ref(0)
