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

Which array is of which kind, a model says (`fedneg.tasks.layout`); where there is none
to ask, names and types do (`Layout.by_name`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedneg.core.errors import FedNegError
from fedneg.core.parameters import NDArrays, Shapes, size_of

# Beyond this a float32 does not hold every whole number.
MAX_COUNTER = 2**24
# The names that torch gives to what a client measures and nobody trains.
RUNNING = ("running_mean", "running_var")


class Kind(StrEnum):
    """How an array of the global model follows from those of the clients."""

    PARAMETER = "parameter"
    STATISTIC = "statistic"
    COUNTER = "counter"


@dataclass(frozen=True)
class Part:
    """One array of a model.

    Attributes
    ----------
    name : str
        In the state_dict.
    shape : tuple of int
    kind : Kind
    dtype : str
        As NumPy calls it; of torch's own types as torch does (bfloat16).
    """

    name: str
    shape: tuple[int, ...]
    kind: Kind
    dtype: str


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
    def of_arrays(cls, arrays: NDArrays) -> "Layout":
        """Return the layout of arrays without a model: parameters, by number."""
        return cls(
            tuple(
                Part(str(k), tuple(a.shape), Kind.PARAMETER, "float32")
                for k, a in enumerate(arrays)
            )
        )

    @classmethod
    def by_name(
        cls,
        arrays: Mapping[str, tuple[tuple[int, ...], str]],
        kinds: Mapping[str, Kind | None] | None = None,
    ) -> "Layout":
        """Return the layout of named arrays, where there is no model to read them from.

        Parameters
        ----------
        arrays : mapping of str to (shape, type)
            The type as in `Part`.
        kinds : mapping of str to Kind, optional
            Of each array; None: it is frozen, and not in the layout. By default floats
            are parameters, but for those that are called as torch's running statistics
            are, and whole numbers are counters.

        Raises
        ------
        FedNegError
            If one is of another type, or no number is a parameter.
        """
        found: dict[Kind, list[Part]] = {kind: [] for kind in Kind}
        for name, (shape, dtype) in arrays.items():
            if "float" in dtype:
                is_running = name.rpartition(".")[2] in RUNNING
                kind = Kind.STATISTIC if is_running else Kind.PARAMETER
            elif dtype.startswith(("int", "uint")):
                kind = Kind.COUNTER
            else:
                raise FedNegError(
                    f"array {name} must be of floats or whole numbers, got {dtype}"
                )
            if kinds is not None:
                said = kinds[name]
                if said is None:
                    continue
                kind = said
            found[kind].append(Part(name, tuple(shape), kind, dtype))
        if not any(prod(part.shape) for part in found[Kind.PARAMETER]):
            raise FedNegError(
                "initial_arrays must have an array of floats to train, with a number "
                "in it"
            )
        return cls(tuple(part for parts in found.values() for part in parts))

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

    @property
    def means(self) -> int:
        """How many entries the float buffers have, of which a mean is taken."""
        return self._size(Kind.STATISTIC)

    @cached_property
    def counters(self) -> slice:
        """Where in the vector the integer buffers are: its end."""
        return slice(self.statistics.stop, self.width)

    @cached_property
    def parameter_shapes(self) -> Shapes:
        """The shape of every trainable parameter."""
        return tuple(part.shape for part in self.of_kind(Kind.PARAMETER))

    def _size(self, kind: Kind) -> int:
        return sum(prod(part.shape) for part in self.parts if part.kind is kind)

    def of_kind(self, kind: Kind) -> Iterator[Part]:
        """Yield the parts of one kind."""
        return (part for part in self.parts if part.kind is kind)

    def typed(self, arrays: NDArrays) -> list[NDArray[Any]]:
        """Return arrays as they travel and are kept: counters in their own type.

        All else is float32, which is what the ledger computes in; a state_dict takes
        it back.
        """
        return [
            np.asarray(np.rint(array), dtype=part.dtype)
            if part.kind is Kind.COUNTER
            else array
            for part, array in zip(self.parts, arrays, strict=True)
        ]
