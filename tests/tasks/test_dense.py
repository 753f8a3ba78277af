"""The step without autograd is torch's own step, and other models keep autograd."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from builders.networks import network, settings
from fedneg.core.seeding import torch_generator
from fedneg.data.kinds import Scaling
from fedneg.tasks import training
from fedneg.tasks.dense import DenseTrainer, dense_layers


@given(
    sizes=st.lists(st.integers(1, 12), min_size=2, max_size=5),
    batches=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    learning_rate=st.floats(0.001, 0.2),
    momentum=st.sampled_from([0.0, 0.5, 0.9]),
    seed=st.integers(0, 1000),
)
def test_steps_are_those_of_autograd(
    sizes: list[int],
    batches: list[int],
    learning_rate: float,
    momentum: float,
    seed: int,
):
    """Every parameter and every loss, to 1e-6, whatever the shapes; dead units too."""
    model = network(sizes, seed)
    reference = copy.deepcopy(model)
    optimiser = torch.optim.SGD(
        reference.parameters(), lr=learning_rate, momentum=momentum
    )
    trainer = DenseTrainer.of(
        model, learning_rate=learning_rate, momentum=momentum, batch_size=batches[0]
    )
    assert trainer is not None
    generator = torch_generator(seed, "data")
    for count in batches:
        x = torch.randn(count, sizes[0], generator=generator)
        y = torch.randint(0, sizes[-1], (count,), generator=generator)
        optimiser.zero_grad()
        loss = functional.cross_entropy(reference(x), y)
        loss.backward()
        optimiser.step()
        found = trainer.step(x, y)
        assert found == pytest.approx(float(loss.detach()) * count, abs=1e-5, rel=1e-5)
        for ours, theirs in zip(
            model.parameters(), reference.parameters(), strict=True
        ):
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


def train(model: nn.Module, momentum: float = 0.9) -> float:
    """Train on 30 made-up images in batches of 8, the last of 6."""
    draw = np.random.default_rng(5)
    return training.train_epochs(
        model,
        draw.integers(0, 17, (30, 3, 2), dtype=np.uint8),
        draw.integers(0, 4, 30),
        scaling=Scaling(8.0, 5.0),
        settings=settings(momentum=momentum),
        generator=torch_generator(0, "order"),
    )


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_whole_trainings_agree(momentum: float, monkeypatch: pytest.MonkeyPatch):
    """The same epochs, order and last smaller batch, through both ways."""
    fast, slow = network([6, 5, 4], 1).double(), network([6, 5, 4], 1).double()
    monkeypatch.setattr(
        training,
        "as_input",
        lambda images, scaling: images.double().sub(scaling.mean).div(scaling.std),
    )
    loss = train(fast, momentum)
    monkeypatch.setattr(DenseTrainer, "of", lambda *_, **__: None)
    assert train(slow, momentum) == pytest.approx(loss, rel=1e-12)
    for ours, theirs in zip(fast.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)


class Doubled(nn.Linear):
    """A layer that is not what its class promises."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return twice what a Linear would."""
        return 2 * super().forward(x)


def hooked() -> nn.Sequential:
    model = network([6, 5, 4], 1)
    model[0].register_forward_hook(lambda *_: None)
    return model


def frozen() -> nn.Sequential:
    model = network([6, 5, 4], 1)
    model[0].weight.requires_grad_(False)
    return model


def tied() -> nn.Sequential:
    layer = nn.Linear(6, 6)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(6, 4))


OTHERS = {
    "tanh": lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)),
    "no bias": lambda: nn.Sequential(nn.Linear(6, 4, bias=False)),
    "subclass": lambda: nn.Sequential(Doubled(6, 4)),
    "ends in ReLU": lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU()),
    "two Linear": lambda: nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)),
    "dropout": lambda: nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.0), nn.Linear(4, 4)),
    "not Sequential": lambda: nn.Linear(6, 4),
    "hook": hooked,
    "frozen": frozen,
    "tied": tied,
}


@pytest.mark.parametrize("name", OTHERS)
def test_any_other_model_is_trained_by_autograd(name: str):
    torch.manual_seed(0)
    model = OTHERS[name]()
    before = [p.detach().clone() for p in model.parameters()]
    assert dense_layers(model) is None
    assert np.isfinite(train(model))
    changed = [
        not torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True)
    ]
    assert any(changed)


def test_model_is_up_to_date_in_every_epoch():
    """Whoever measures the model between epochs measures the trained one."""
    model = network([6, 4], 1)
    seen: list[torch.Tensor] = []
    draw = np.random.default_rng(5)
    training.train_epochs(
        model,
        draw.integers(0, 17, (30, 3, 2), dtype=np.uint8),
        draw.integers(0, 4, 30),
        scaling=Scaling(8.0, 5.0),
        settings=settings(),
        generator=torch_generator(0, "order"),
        after_epoch=lambda _: seen.append(model[0].weight.detach().clone()),
    )
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[1], model[0].weight)
