"""Small networks and the settings to train them."""

from itertools import pairwise

import torch
from torch import nn

from fedneg.core.seeding import torch_generator
from fedneg.core.settings import ClientSettings


def network(sizes: list[int], seed: int) -> nn.Sequential:
    """Return a dense network, drawn from a stream of its own."""
    generator = torch_generator(seed, "test")
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layer = nn.Linear(fan_in, fan_out)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.uniform_(-0.5, 0.5, generator=generator)
        layers += [nn.ReLU(), layer] if layers else [layer]
    return nn.Sequential(*layers)


def settings(**changes: object) -> ClientSettings:
    """Return client settings of a short training."""
    values = {
        "local_epochs": 2,
        "learning_rate": 0.05,
        "momentum": 0.9,
        "batch_size": 8,
        "device": "cpu",
        "evaluate_after_fit": False,
    }
    return ClientSettings(**(values | changes))
