"""The layout of a model: what of it is a sum over clients, what is not, what is sent.

A model's arrays are of four kinds.

=====================  ===============================================================
trainable parameters   additive: the global model is initial + contributions
float buffers          statistics, as BatchNorm's running mean: never additive; the
                       last of each client is kept, and the global ones are the mean of
                       those who stay, weighted by their examples
integer buffers        counters: the maximum, in their own type
frozen, non-persistent nobody's to change: each side has them from the task's `model`
=====================  ===============================================================

In a model's vector the parameters come first, then statistics, then counters, all as
float32, each kind in the order of the model. So the ledger's rows are a beginning of
the vector: its first `size` entries.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedneg.core.errors import FedNegError
from fedneg.core.parameters import NDArrays, Shapes, size_of

# Beyond this a float32 does not hold every whole number.
MAX_COUNTER = 2**24


class Kind(StrEnum):
    """How an array of the global model follows from those of the clients."""

    PARAMETER = "parameter"
    STATISTIC = "statistic"
    COUNTER = "counter"


@dataclass(frozen=True)
class Part:
    """One array of a model: its name in the state_dict, its shape, kind and type."""

    name: str
    shape: tuple[int, ...]
    kind: Kind
    dtype: torch.dtype

    @property
    def dtype_name(self) -> str:
        """Its type as NumPy calls it."""
        return str(self.dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Layout:
    """The arrays of a model that travel, in the order of its vector.

    Attributes
    ----------
    parts : tuple of Part
        Parameters, then statistics, then counters.
    """

    parts: tuple[Part, ...]

    @classmethod
    def of(cls, model: nn.Module) -> "Layout":
        """Return the layout of a model.

        A tensor that has several names is there once, under the first.

        Raises
        ------
        FedNegError
            If there is nothing to train, or a type that float32 cannot stand for.
        """
        found = [
            Part(name, tuple(p.shape), Kind.PARAMETER, p.dtype)
            for name, p in model.named_parameters()
            if p.requires_grad
        ]
        if not found:
            raise FedNegError("the model has no parameter that is trained")
        kept = model.state_dict().keys()
        buffers = [(n, b) for n, b in model.named_buffers() if n in kept]
        for kind, is_float in ((Kind.STATISTIC, True), (Kind.COUNTER, False)):
            found += [
                Part(name, tuple(b.shape), kind, b.dtype)
                for name, b in buffers
                if b.is_floating_point() is is_float
            ]
        for part in found:
            if part.dtype.is_complex:
                raise FedNegError(
                    f"the model's {part.name} is complex, and must be real"
                )
        return cls(tuple(found))

    @cached_property
    def names(self) -> list[str]:
        """Names in the state_dict, in the order of the vector."""
        return [part.name for part in self.parts]

    @cached_property
    def shapes(self) -> Shapes:
        """The shape of every array."""
        return tuple(part.shape for part in self.parts)

    @cached_property
    def size(self) -> int:
        """How many trainable parameters, d: the ledger's columns."""
        return self._size(Kind.PARAMETER)

    @cached_property
    def width(self) -> int:
        """How many entries the whole vector has."""
        return size_of(self.shapes)

    @property
    def nbytes(self) -> int:
        """Bytes of the vector, as a message has them."""
        return 4 * self.width

    @cached_property
    def statistics(self) -> slice:
        """Where in the vector the float buffers are."""
        return slice(self.size, self.size + self._size(Kind.STATISTIC))

    @cached_property
    def counters(self) -> slice:
        """Where in the vector the integer buffers are: its end."""
        return slice(self.statistics.stop, self.width)

    @classmethod
    def of_arrays(cls, arrays: NDArrays) -> "Layout":
        """Return the layout of arrays without a model: parameters, by number."""
        return cls(
            tuple(
                Part(str(k), tuple(a.shape), Kind.PARAMETER, torch.float32)
                for k, a in enumerate(arrays)
            )
        )

    @cached_property
    def parameter_shapes(self) -> Shapes:
        """The shape of every trainable parameter."""
        return tuple(part.shape for part in self.of_kind(Kind.PARAMETER))

    def _size(self, kind: Kind) -> int:
        return sum(prod(part.shape) for part in self.parts if part.kind is kind)

    def of_kind(self, kind: Kind) -> Iterator[Part]:
        """Yield the parts of one kind."""
        return (part for part in self.parts if part.kind is kind)

    def read(self, model: nn.Module) -> NDArrays:
        """Return copies of a model's arrays as float32, on the CPU, in this order."""
        tensors = _tensors(model)
        return [
            tensors[name].detach().cpu().to(torch.float32).numpy().copy()
            for name in self.names
        ]

    def write(self, model: nn.Module, arrays: NDArrays) -> None:
        """Copy arrays into a model of this layout, each in the model's own type.

        Raises
        ------
        ValueError
            If the number of arrays or a shape differs.
        """
        got = tuple(tuple(a.shape) for a in arrays)
        if got != self.shapes:
            raise ValueError(f"parameters of shapes {self.shapes} expected, got {got}")
        tensors = _tensors(model)
        with torch.no_grad():
            for part, array in zip(self.parts, arrays, strict=True):
                target = tensors[part.name]
                if target.device.type == "cpu" and target.dtype == torch.float32:
                    # NumPy copies straight into the parameter; the array may be
                    # read-only, which torch does not take without a copy of its own.
                    np.copyto(target.numpy(), array)
                elif part.kind is Kind.COUNTER:
                    target.copy_(torch.tensor(np.rint(array)))
                else:
                    target.copy_(torch.tensor(array))

    def typed(self, arrays: NDArrays) -> list[NDArray[Any]]:
        """Return arrays as they travel and are kept: counters in their own type.

        All else is float32, which is what the ledger computes in; a state_dict takes
        it back.
        """
        return [
            np.asarray(np.rint(array), dtype=part.dtype_name)
            if part.kind is Kind.COUNTER
            else array
            for part, array in zip(self.parts, arrays, strict=True)
        ]


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return parameters and buffers themselves, by name."""
    found: dict[str, torch.Tensor] = {n: p.data for n, p in model.named_parameters()}
    return found | dict(model.named_buffers())
