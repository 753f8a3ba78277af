"""The dense ReLU network, and its parameters as arrays in state_dict order.

The paper (section 3.2) names 'a 5-layer network with 3 fully connected hidden ReLU
layers'.

Differs from the paper: its hidden sizes are not stated; ours are in conf/model.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from fedneg.core.parameters import NDArrays, Shapes
from fedneg.core.seeding import torch_generator


def build_mlp(
    input_size: int, hidden: Sequence[int], num_classes: int
) -> nn.Sequential:
    """Return a dense network with arbitrary parameters; rows of input are images.

    torch's layers draw theirs from the global generator, whose state is put back:
    skipping that (`torch.nn.utils.skip_init`) takes half a second of imports.
    """
    sizes = [input_size, *hidden, num_classes]
    layers: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        for fan_in, fan_out in pairwise(sizes):
            if layers:
                layers.append(nn.ReLU())
            layers.append(nn.Linear(fan_in, fan_out))
    return nn.Sequential(*layers)


def initial_parameters(
    input_size: int,
    hidden: Sequence[int],
    num_classes: int,
    *,
    seed: int,
    draw: int = 0,
) -> NDArrays:
    """Return the parameters before round 1, drawn as torch's nn.Linear draws them.

    Weights and biases are uniform in ±1/sqrt(fan_in), from the stream (seed, "init");
    `draw` 1, 2, .. gives others, which no round of training ever saw.
    """
    generator = torch_generator(seed, "init", draw)
    model = build_mlp(input_size, hidden, num_classes)
    for layer in model:
        if isinstance(layer, nn.Linear):
            bound = 1 / math.sqrt(layer.in_features)
            with torch.no_grad():
                layer.weight.uniform_(-bound, bound, generator=generator)
                layer.bias.uniform_(-bound, bound, generator=generator)
    return get_parameters(model)


def get_parameters(model: nn.Module) -> NDArrays:
    """Return copies of the parameters, on the CPU, in state_dict order."""
    return [v.detach().cpu().numpy().copy() for v in model.state_dict().values()]


def set_parameters(model: nn.Module, arrays: NDArrays) -> None:
    """Copy arrays into the model; shapes must be the model's own.

    Raises
    ------
    ValueError
        If the number of arrays or a shape differs.
    """
    state = model.state_dict()
    expected: Shapes = tuple(tuple(v.shape) for v in state.values())
    got: Shapes = tuple(tuple(a.shape) for a in arrays)
    if got != expected:
        raise ValueError(f"parameters of shapes {expected} expected, got {got}")
    with torch.no_grad():
        for target, array in zip(state.values(), arrays, strict=True):
            if target.device.type == "cpu":
                # NumPy copies straight into the parameter; the array may be read-only,
                # which torch does not take without a copy of its own.
                np.copyto(target.numpy(), array)
            else:
                target.copy_(torch.tensor(array))
