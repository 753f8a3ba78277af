"""The layout of torch models: which of their arrays is of which kind, to and fro."""

import numpy as np
import torch
from torch import nn

from fedneg.core.errors import FedNegError
from fedneg.core.layout import Kind, Layout, Part
from fedneg.core.parameters import NDArrays


def layout_of(model: nn.Module) -> Layout:
    """Return the layout of a model.

    A tensor that has several names is there once, under the first.

    Raises
    ------
    FedNegError
        If there is nothing to train, or a type that float32 cannot stand for.
    """
    found = [
        _part(name, p, Kind.PARAMETER)
        for name, p in model.named_parameters()
        if p.requires_grad
    ]
    if not found:
        raise FedNegError("the model has no parameter that is trained")
    kept = model.state_dict().keys()
    buffers = [(n, b) for n, b in model.named_buffers() if n in kept]
    for kind, is_float in ((Kind.STATISTIC, True), (Kind.COUNTER, False)):
        found += [
            _part(name, b, kind)
            for name, b in buffers
            if b.is_floating_point() is is_float
        ]
    return Layout(tuple(found))


def _part(name: str, tensor: torch.Tensor, kind: Kind) -> Part:
    if tensor.dtype.is_complex:
        raise FedNegError(f"the model's {name} is complex, and must be real")
    dtype = str(tensor.dtype).removeprefix("torch.")
    return Part(name, tuple(tensor.shape), kind, dtype)


def read_model(layout: Layout, model: nn.Module) -> NDArrays:
    """Return copies of a model's arrays as float32, on the CPU, in this order."""
    tensors = _tensors(model)
    return [
        tensors[name].detach().cpu().to(torch.float32).numpy().copy()
        for name in layout.names
    ]


def write_model(layout: Layout, model: nn.Module, arrays: NDArrays) -> None:
    """Copy arrays into a model of this layout, each in the model's own type.

    Raises
    ------
    ValueError
        If the number of arrays or a shape differs.
    """
    got = tuple(tuple(a.shape) for a in arrays)
    if got != layout.shapes:
        raise ValueError(f"parameters of shapes {layout.shapes} expected, got {got}")
    tensors = _tensors(model)
    with torch.no_grad():
        for part, array in zip(layout.parts, arrays, strict=True):
            target = tensors[part.name]
            if target.device.type == "cpu" and target.dtype == torch.float32:
                # NumPy copies straight into the parameter; the array may be
                # read-only, which torch does not take without a copy of its own.
                np.copyto(target.numpy(), array)
            elif part.kind is Kind.COUNTER:
                target.copy_(torch.tensor(np.rint(array)))
            else:
                target.copy_(torch.tensor(array))


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return parameters and buffers themselves, by name."""
    found: dict[str, torch.Tensor] = {n: p.data for n, p in model.named_parameters()}
    return found | dict(model.named_buffers())
