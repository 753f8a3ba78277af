"""The built-in networks, and a model's parameters as arrays in the layout's order.

The paper (section 3.2) names 'a 5-layer network with 3 fully connected hidden ReLU
layers'.

Differs from the paper: its hidden sizes are not stated; ours are in conf/model. The
convolutional networks are not of the paper: one with GroupNorm, whose every array is
trained, and one with BatchNorm, which has running statistics too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from weakref import WeakKeyDictionary

import torch
from torch import nn

from fedneg.core.errors import FedNegError
from fedneg.core.layout import Layout
from fedneg.core.parameters import NDArrays
from fedneg.core.settings import ModelSettings
from fedneg.tasks.layout import layout_of, read_model, write_model

# Channels of each group of GroupNorm; the settings say that they divide.
GROUPS = 4


@dataclass(frozen=True)
class Network:
    """A built-in network for images of one kind.

    Attributes
    ----------
    settings : ModelSettings
    shape : tuple of int
        Of an image: (height, width), or (channels, height, width). The network takes
        rows of float32 input, an image each.
    classes : int
        How many logits it gives.
    """

    settings: ModelSettings
    shape: tuple[int, ...]
    classes: int

    @property
    def input_size(self) -> int:
        """Numbers in one row of input."""
        return math.prod(self.shape)

    def fresh(self) -> nn.Module:
        """Return the network with parameters from torch's global generator."""
        if self.settings.name == "mlp":
            model = build_mlp(self.input_size, self.settings.hidden, self.classes)
            draw_dense(model)
            return model
        return self._convolutional()

    def _convolutional(self) -> nn.Module:
        channels, height, width = (1, *self.shape)[-3:]
        layers: list[nn.Module] = [nn.Unflatten(1, (channels, height, width))]
        for out in self.settings.channels:
            if min(height, width) < 2:
                raise FedNegError(
                    f"model.channels has {len(self.settings.channels)} convolutions, "
                    f"each of which halves an image: too many for one of {self.shape}"
                )
            norm = (
                nn.BatchNorm2d(out)
                if self.settings.name == "cnn_bn"
                else nn.GroupNorm(out // GROUPS, out)
            )
            convolution = nn.Conv2d(channels, out, 3, padding=1)
            layers += [convolution, norm, nn.ReLU(), nn.MaxPool2d(2)]
            channels, height, width = out, height // 2, width // 2
        layers += [nn.Flatten(), nn.Linear(channels * height * width, self.classes)]
        return nn.Sequential(*layers)


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


def draw_dense(model: nn.Sequential, generator: torch.Generator | None = None) -> None:
    """Draw a dense network's parameters in place, as torch's nn.Linear draws them.

    Weights and biases are uniform in ±1/sqrt(fan_in), from `generator` or the global
    one. Written out, so that the bytes hang on no version of torch.
    """
    for layer in model:
        if isinstance(layer, nn.Linear):
            bound = 1 / math.sqrt(layer.in_features)
            with torch.no_grad():
                layer.weight.uniform_(-bound, bound, generator=generator)
                layer.bias.uniform_(-bound, bound, generator=generator)


def get_parameters(model: nn.Module) -> NDArrays:
    """Return copies of a model's arrays, on the CPU, in the layout's order."""
    return read_model(_layout_of(model), model)


def set_parameters(model: nn.Module, arrays: NDArrays) -> None:
    """Copy arrays into the model, in the layout's order; shapes must be its own.

    Raises
    ------
    ValueError
        If the number of arrays or a shape differs.
    """
    write_model(_layout_of(model), model, arrays)


_layouts: WeakKeyDictionary[nn.Module, Layout] = WeakKeyDictionary()


def _layout_of(model: nn.Module) -> Layout:
    """Return a model's layout, made once: nothing of ours freezes a parameter later."""
    found = _layouts.get(model)
    if found is None:
        found = _layouts[model] = layout_of(model)
    return found
