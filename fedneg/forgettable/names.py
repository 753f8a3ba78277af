"""What of an ArrayRecord is a sum over clients, where there is no model to ask."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from fedneg.core.errors import FedNegError
from fedneg.core.parameters import Vector

# The names that torch gives to what a client measures and nobody trains.
STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True)
class Names:
    """What of an ArrayRecord is a sum over clients, from names and types alone.

    Float arrays are parameters, but for those that are called as torch's running
    statistics are; whole numbers are counters.

    Attributes
    ----------
    parameters, statistics, counters : tuple of str
    shapes : mapping of str to tuple of int
    dtypes : mapping of str to NumPy's type
        Of the record that it was made of.
    """

    parameters: tuple[str, ...]
    statistics: tuple[str, ...]
    counters: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, np.dtype[Any]]

    @classmethod
    def of(cls, record: ArrayRecord) -> "Names":
        """Return the layout of a record.

        Raises
        ------
        FedNegError
            If it has an array of another type, or no parameter.
        """
        kinds: dict[str, list[str]] = {"f": [], "running": [], "iu": []}
        arrays = {name: array.numpy() for name, array in record.items()}
        for name, array in arrays.items():
            if array.dtype.kind == "f":
                is_running = name.rpartition(".")[2] in STATISTICS
                kinds["running" if is_running else "f"].append(name)
            elif array.dtype.kind in "iu":
                kinds["iu"].append(name)
            else:
                raise FedNegError(
                    f"array {name} must be of floats or whole numbers, got "
                    f"{array.dtype}"
                )
        if not kinds["f"]:
            raise FedNegError("initial_arrays must have an array of floats to train")
        return cls(
            tuple(kinds["f"]),
            tuple(kinds["running"]),
            tuple(kinds["iu"]),
            {name: array.shape for name, array in arrays.items()},
            {name: array.dtype for name, array in arrays.items()},
        )

    def to_json(self) -> list[dict[str, Any]]:
        """Return each array's name, kind, shape and type, in their order."""
        kinds = dict.fromkeys(self.parameters, "parameter")
        kinds |= dict.fromkeys(self.statistics, "statistic")
        kinds |= dict.fromkeys(self.counters, "counter")
        return [
            {
                "name": name,
                "kind": kinds[name],
                "shape": list(shape),
                "dtype": self.dtypes[name].str,
            }
            for name, shape in self.shapes.items()
        ]

    @classmethod
    def from_json(cls, values: Sequence[Mapping[str, Any]]) -> "Names":
        """Return what `to_json` gave."""

        def named(kind: str) -> tuple[str, ...]:
            return tuple(str(one["name"]) for one in values if one["kind"] == kind)

        return cls(
            named("parameter"),
            named("statistic"),
            named("counter"),
            {str(one["name"]): tuple(one["shape"]) for one in values},
            {str(one["name"]): np.dtype(one["dtype"]) for one in values},
        )

    @property
    def epsilon(self) -> float:
        """What rounding leaves of a number of the coarsest of the parameters' types."""
        found = [float(np.finfo(self.dtypes[name]).eps) for name in self.parameters]
        return max(*found, float(np.finfo(np.float32).eps))

    def read(self, record: ArrayRecord) -> tuple[Vector, Vector]:
        """Return a record's parameters, and what of it is not trained, as float32.

        Raises
        ------
        FedNegError
            If an array is missing, is not expected, or has another shape.
        """
        if set(record) != set(self.shapes):
            one = sorted(set(record) ^ set(self.shapes))[0]
            raise FedNegError(
                f"array {one} is {'not ' if one in self.shapes else ''}in the record, "
                "and the initial arrays say otherwise"
            )
        arrays = {name: record[name].numpy() for name in self.shapes}
        for name, array in arrays.items():
            # What is averaged may come back without the axes that it had, or with one.
            if array.size != prod(self.shapes[name]):
                raise FedNegError(
                    f"array {name} must have shape {self.shapes[name]}, got "
                    f"{array.shape}"
                )
        return (
            joined([arrays[name] for name in self.parameters]),
            joined([arrays[name] for name in (*self.statistics, *self.counters)]),
        )

    def size_of(self, names: Iterable[str]) -> int:
        """Return how many numbers some of the arrays have."""
        return sum(prod(self.shapes[name]) for name in names)

    def record(
        self, parameters: NDArray[np.floating], rest: NDArray[np.floating]
    ) -> ArrayRecord:
        """Return a record of these names and types, in the order of the first one."""
        found = {}
        for name, array in self.arrays(parameters, rest).items():
            dtype = self.dtypes[name]
            whole = np.rint(array) if dtype.kind in "iu" else array
            found[name] = Array(np.asarray(whole, dtype))
        return ArrayRecord(found)

    def arrays(
        self, parameters: NDArray[np.floating], rest: NDArray[np.floating]
    ) -> dict[str, NDArray[np.floating]]:
        """Return the arrays of two vectors, by name, in the order of the first record.

        `rest` are statistics, and counters after them.
        """
        found: dict[str, NDArray[np.floating]] = {}
        for names, values in (
            (self.parameters, parameters),
            ((*self.statistics, *self.counters), rest),
        ):
            start = 0
            for name in names:
                stop = start + prod(self.shapes[name])
                found[name] = values[start:stop].reshape(self.shapes[name])
                start = stop
        return {name: found[name] for name in self.shapes}


def joined(arrays: Sequence[NDArray[Any]], dtype: Any = np.float32) -> NDArray[Any]:
    """Return arrays as one vector."""
    if not arrays:
        return np.empty(0, dtype)
    return np.concatenate([np.asarray(array, dtype).reshape(-1) for array in arrays])
