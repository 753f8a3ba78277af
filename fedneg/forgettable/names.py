"""What of an ArrayRecord is a sum over clients, where there is no model to ask.

A little longer than most: whoever reads a record, compares two or writes one has to
agree on which arrays are parameters, statistics, counters and frozen ones.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from fedneg.core.errors import FedNegError
from fedneg.core.layout import MAX_COUNTER, Kind, Layout, Part
from fedneg.core.parameters import Vector
from fedneg.forgettable.views import (
    Difference,
    Joined,
    blocks,
    digest_of,
    view_of,
)

# The kind of what nobody trains, in files.
FROZEN = "frozen"


@dataclass(frozen=True)
class Names:
    """The layout of an ArrayRecord, from names and types alone, and the record's order.

    Attributes
    ----------
    layout : Layout
        Of the record that it was made of.
    order : tuple of str
        The names in that record's order.
    frozen : mapping of str to Array
        What of the record nobody trains, and everybody has.
    """

    layout: Layout
    order: tuple[str, ...]
    frozen: Mapping[str, Array] = field(default_factory=dict)

    @classmethod
    def of(cls, record: ArrayRecord, model: Any = None) -> "Names":
        """Return the layout of a record.

        Parameters
        ----------
        record : ArrayRecord
        model : torch module, optional
            Says what is trained. By default names and types do.

        Raises
        ------
        FedNegError
            If it has an array of another type than floats and whole numbers, or no
            parameter; or one that the model does not have.
        """
        arrays = {name: array.numpy() for name, array in record.items()}
        found = {name: (a.shape, a.dtype.name) for name, a in arrays.items()}
        kinds = None if model is None else _kinds_in(model, found)
        layout = Layout.by_name(found, kinds)
        known = set(layout.names)
        frozen = {name: record[name] for name in record if name not in known}
        return cls(layout, tuple(record), frozen)

    def digest_of_frozen(self) -> str:
        """Return a sha256 of what nobody trains."""
        return digest_of(self.frozen)

    def to_json(self) -> list[dict[str, Any]]:
        """Return each array's name, kind, shape and type, in the record's order."""
        kinds = {part.name: str(part.kind) for part in self.layout.parts}
        return [
            {
                "name": name,
                "kind": kinds.get(name, FROZEN),
                "shape": list(self.shapes[name]),
                "dtype": self.dtypes[name].name,
            }
            for name in self.order
        ]

    @classmethod
    def from_json(
        cls, values: Sequence[Mapping[str, Any]], frozen: Mapping[str, Array]
    ) -> "Names":
        """Return what `to_json` gave, with what is frozen."""
        parts = [
            Part(
                str(one["name"]),
                tuple(one["shape"]),
                Kind(one["kind"]),
                np.dtype(one["dtype"]).name,
            )
            for one in values
            if one["kind"] != FROZEN
        ]
        by_kind = tuple(part for kind in Kind for part in parts if part.kind is kind)
        return cls(Layout(by_kind), tuple(str(one["name"]) for one in values), frozen)

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """The names of what is trained, in the vector's order."""
        return self._of(Kind.PARAMETER)

    @cached_property
    def statistics(self) -> tuple[str, ...]:
        """The names of what is measured."""
        return self._of(Kind.STATISTIC)

    @cached_property
    def counters(self) -> tuple[str, ...]:
        """The names of whole numbers."""
        return self._of(Kind.COUNTER)

    def _of(self, kind: Kind) -> tuple[str, ...]:
        return tuple(part.name for part in self.layout.of_kind(kind))

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each array, in the record's order."""
        found = {part.name: part.shape for part in self.layout.parts}
        found |= {name: tuple(array.shape) for name, array in self.frozen.items()}
        return {name: found[name] for name in self.order}

    @cached_property
    def dtypes(self) -> dict[str, np.dtype[Any]]:
        """The type of each array."""
        found = {part.name: np.dtype(part.dtype) for part in self.layout.parts}
        return found | {n: np.dtype(array.dtype) for n, array in self.frozen.items()}

    def read(self, record: ArrayRecord) -> tuple[Vector, Vector]:
        """Return a record's parameters, and what of it is not trained, as float32.

        Raises
        ------
        FedNegError
            If an array is missing, is not expected, or has another shape.
        """
        arrays = self.views(record)
        return joined([arrays[name] for name in self.parameters]), self.rest(arrays)

    def check_finite(self, record: ArrayRecord) -> None:
        """Raise FedNegError if a parameter is not finite."""
        arrays = self.views(record)
        for name in self.parameters:
            if not np.isfinite(arrays[name]).all():
                raise FedNegError(
                    f"array {name} of the initial arrays has a number that is not "
                    "finite"
                )

    def rest(self, arrays: Mapping[str, NDArray[Any]]) -> Vector:
        """Return what of `views` is not trained, as float32.

        Raises
        ------
        FedNegError
            If a number is not finite, or a counter is no float32.
        """
        for name in (*self.statistics, *self.counters):
            if not np.isfinite(arrays[name]).all():
                raise FedNegError(f"array {name} has a number that is not finite")
        for name in self.counters:
            largest = int(
                max(arrays[name].max(initial=0), -arrays[name].min(initial=0))
            )
            if largest > MAX_COUNTER:
                raise FedNegError(
                    f"array {name} has whole numbers up to {largest}, and beyond "
                    f"{MAX_COUNTER} a float32 does not hold every one: send without it"
                )
        return joined([arrays[name] for name in (*self.statistics, *self.counters)])

    def views(self, record: ArrayRecord) -> dict[str, NDArray[Any]]:
        """Return a record's arrays by name, copied only where they must be.

        Raises
        ------
        FedNegError
            As `read`.
        """
        self.check_same_names(record)
        arrays = {name: view_of(record[name]) for name in self.shapes}
        for name, array in arrays.items():
            # What is averaged may come back without the axes that it had, or with one.
            if array.size != prod(self.shapes[name]):
                raise FedNegError(
                    f"array {name} must have shape {self.shapes[name]}, got "
                    f"{array.shape}"
                )
        return arrays

    def check_same_names(self, record: ArrayRecord) -> None:
        """Raise FedNegError, naming one, unless a record has arrays of these names."""
        if set(record) != set(self.shapes):
            one = sorted(set(record) ^ set(self.shapes))[0]
            raise FedNegError(
                f"array {one} is {'not ' if one in self.shapes else ''}in the record, "
                "and the initial arrays say otherwise"
            )

    def joined(self, record: ArrayRecord) -> Joined:
        """Return a record's parameters as one vector, which is read by blocks."""
        return Joined([view_of(record[name]) for name in self.parameters])

    def difference(
        self, after: ArrayRecord, before: ArrayRecord, dtype: Any = np.float64
    ) -> Difference:
        """Return what was added to the parameters, in the records' own precision."""
        return Difference(
            [view_of(after[name]) for name in self.parameters],
            [view_of(before[name]) for name in self.parameters],
            dtype,
        )

    def record(
        self, parameters: NDArray[np.floating], rest: NDArray[np.floating]
    ) -> ArrayRecord:
        """Return a record of these names and types, in the order of the first one."""
        found = {}
        for name, array in self.arrays(parameters, rest).items():
            dtype = self.dtypes[name]
            whole = np.rint(array) if dtype.kind in "iu" else array
            found[name] = self.frozen.get(name) or Array(np.asarray(whole, dtype))
        return ArrayRecord(found)

    def moved(
        self,
        record: ArrayRecord,
        by: Callable[[slice], NDArray[np.float64]],
        rest: Vector,
    ) -> ArrayRecord:
        """Return a record with something added to its parameters, a block at a time.

        Parameters
        ----------
        record : ArrayRecord
        by : callable
            From a block of the parameters to what is added there.
        rest : Vector
            What is not trained, and stands for itself.

        Returns
        -------
        ArrayRecord
            Of the names and types of the first one.
        """
        found, start = self.untrained(rest), 0
        for name in self.parameters:
            old = view_of(record[name]).reshape(-1)
            new = np.empty(old.size, self.dtypes[name])
            for block in blocks(old.size):
                there = slice(start + block.start, start + block.stop)
                new[block] = old[block].astype(np.float64) + by(there)
            found[name] = Array(new.reshape(self.shapes[name]))
            start += old.size
        return ArrayRecord({name: found[name] for name in self.order})

    def kept(self, record: ArrayRecord) -> ArrayRecord:
        """Return a record as files give it back: of no finer type than float32."""
        found = {}
        for name, array in record.items():
            dtype, shape = self.dtypes[name], self.shapes[name]
            is_exact = dtype.kind != "f" or dtype.itemsize <= np.float32().itemsize
            is_same = (array.dtype, tuple(array.shape)) == (dtype.name, shape)
            if name not in self.frozen and not (is_exact and is_same):
                values = view_of(array).reshape(shape)
                whole = np.rint(values) if dtype.kind in "iu" else values
                array = Array(np.asarray(whole.astype(np.float32), dtype))
            found[name] = array
        return ArrayRecord(found)

    def with_whole(self, record: ArrayRecord) -> ArrayRecord:
        """Return a record with what is frozen as it is, and counters whole again.

        Of whole numbers a strategy makes a mean too; as floats they would be taken for
        parameters where the record goes next.
        """
        found = dict(record) | dict(self.frozen)
        for name in self.counters:
            dtype, values = self.dtypes[name], view_of(record[name])
            if values.dtype != dtype:
                found[name] = Array(np.asarray(np.rint(values), dtype))
        return ArrayRecord({name: found[name] for name in self.order})

    def untrained(self, rest: Vector) -> dict[str, Array]:
        """Return what of a record is not trained, by name; `rest` has no frozen."""
        found, start = dict(self.frozen), 0
        for name in (*self.statistics, *self.counters):
            shape, dtype = self.shapes[name], self.dtypes[name]
            array = rest[start : start + prod(shape)].reshape(shape)
            whole = np.rint(array) if dtype.kind in "iu" else array
            found[name] = Array(np.asarray(whole, dtype))
            start += prod(shape)
        return found

    def arrays(
        self, parameters: NDArray[np.floating], rest: NDArray[np.floating]
    ) -> dict[str, NDArray[np.floating]]:
        """Return the arrays of two vectors, by name, in the order of the first record.

        `rest` are statistics, and counters after them. What is frozen is all zeros.
        """
        nothing = np.zeros((), np.float32)
        found: dict[str, NDArray[np.floating]] = {
            name: np.broadcast_to(nothing, self.shapes[name]) for name in self.frozen
        }
        start = 0
        for part in self.layout.parts:
            if part.kind is Kind.PARAMETER:
                values, first = parameters, 0
            else:
                values, first = rest, self.layout.size
            stop = start + prod(part.shape)
            found[part.name] = values[start - first : stop - first].reshape(part.shape)
            start = stop
        return {name: found[name] for name in self.order}


def joined(arrays: Sequence[NDArray[Any]], dtype: Any = np.float32) -> NDArray[Any]:
    """Return arrays as one vector."""
    if not arrays:
        return np.empty(0, dtype)
    return np.concatenate([np.asarray(array, dtype).reshape(-1) for array in arrays])


def is_numbered(names: Sequence[str]) -> bool:
    """Return whether these are the names that Flower gives to a list of arrays."""
    return list(names) == [str(k) for k in range(len(names))]


def _kinds_in(
    model: Any, arrays: Mapping[str, tuple[tuple[int, ...], str]]
) -> dict[str, Kind | None]:
    """Return the kind of each array of a record, as a torch module says."""
    # Under every name that a tensor has: a record of the state_dict has all of them.
    known: dict[str, Kind | None] = {
        name: Kind.PARAMETER if tensor.requires_grad else None
        for name, tensor in model.named_parameters(remove_duplicate=False)
    }
    for name, tensor in model.named_buffers(remove_duplicate=False):
        known[name] = Kind.STATISTIC if tensor.is_floating_point() else Kind.COUNTER
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    named = {name: name for name in arrays}
    if is_numbered(list(arrays)) and len(arrays) == len(shapes):
        # A list of arrays is numbered: in the order of the state_dict, as usual.
        named = dict(zip(arrays, shapes, strict=True))
    for name, own in named.items():
        if own not in shapes:
            raise FedNegError(f"array {name} of initial_arrays is not in the model")
        if arrays[name][0] != shapes[own]:
            raise FedNegError(
                f"array {name} of initial_arrays must have shape {shapes[own]}, as in "
                f"the model, got {arrays[name][0]}"
            )
    return {name: known[own] for name, own in named.items()}
