"""Small networks and the settings to train them."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from fedneg.core.assignment import Assignment
from fedneg.core.parameters import NDArrays
from fedneg.core.seeding import seed_of, torch_generator
from fedneg.core.settings import ClientSettings, Config, ModelSettings
from fedneg.tasks.calls import seeded
from fedneg.tasks.images import images_task
from fedneg.tasks.model import Network, get_parameters
from fedneg.tasks.prototype import Prototype


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


def initial_parameters(
    input_size: int,
    hidden: Sequence[int],
    classes: int,
    *,
    seed: int,
    draw: int = 0,
) -> NDArrays:
    """Return a dense network's arrays before round 1, as a run has them."""
    found = Network(ModelSettings("mlp", tuple(hidden)), (input_size,), classes)
    with seeded(seed_of(seed, "init", draw)):
        return get_parameters(found.fresh())


def prototype_of(config: Config) -> Prototype:
    """Return the prototype of the built-in task, as clients and server of a run do."""
    return Prototype(images_task(Assignment.of(config, root=None)))
