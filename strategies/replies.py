"""What the server believes of a client's answer, before it touches the ledger."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message, RecordDict
from numpy.typing import NDArray

from fedneg.parameters import Shapes, Vector, flatten, from_npy, shapes_of
from fedneg.settings import StrategySettings

# Beside its numbers, of at most eight bytes each, an array says what it is.
HEADER_BYTES = 4096


@dataclass(frozen=True)
class Reply:
    """A validated answer to a training message.

    Attributes
    ----------
    local : Vector, shape (d,)
    num_examples : int
    metrics : dict of str to float
        The client's own.
    norms : tuple of float
        Euclidean norm of the update, local minus global, in each of the model's arrays.
    """

    local: Vector
    num_examples: int
    metrics: dict[str, float]
    norms: tuple[float, ...]

    @property
    def norm(self) -> float:
        """Euclidean norm of the whole update."""
        return math.hypot(*self.norms)


def numbers_of(content: RecordDict) -> dict[str, float]:
    """Return the plain numbers of a reply's metrics."""
    record = content.metric_records["metrics"]
    return {k: v for k, v in record.items() if isinstance(v, int | float)}


def claims_of(
    message: Message, client_id: int, *, max_num_examples: int
) -> tuple[dict[str, float], int]:
    """Return a reply's metrics and its number of examples, checked.

    Raises
    ------
    ValueError
        If it is an error reply, another client's, or its count is not a whole number
        from 1 to `max_num_examples`.
    KeyError
        If the record is missing.
    """
    if message.has_error():
        raise ValueError(f"error: {message.error.reason}")
    metrics = numbers_of(message.content)
    for entry in ("client-id", "num-examples"):
        if entry not in metrics:
            raise ValueError(f"the reply has no {entry}")
    claimed, count = metrics.pop("client-id"), metrics.pop("num-examples")
    if claimed != client_id:
        raise ValueError(f"claims to be client {claimed:g}")
    # A range test first: it is false for NaN, which int() would choke on.
    if not 0 < count <= max_num_examples or int(count) != count:
        raise ValueError(
            f"num-examples must be a whole number from 1 to {max_num_examples}, "
            f"got {count:g}"
        )
    return metrics, int(count)


def read_reply(
    message: Message,
    client_id: int,
    *,
    shapes: Shapes,
    before: Vector,
    settings: StrategySettings,
    out: Vector,
) -> Reply:
    """Return a reply's content, checked.

    Parameters
    ----------
    message : Message
        From the node that was asked as `client_id`.
    shapes : Shapes
        Of the global model's arrays.
    before : Vector, shape (d,)
        The global parameters that the client started from.
    out : Vector, shape (d,)
        Where the local parameters go.

    Raises
    ------
    ValueError
        What is wrong: an error reply, another client's id, a count that is not a
        whole number from 1 to `settings.max_num_examples`, other shapes or types, or
        a parameter that is not finite.
    KeyError
        If a record or an entry is missing.
    """
    metrics, count = claims_of(
        message, client_id, max_num_examples=settings.max_num_examples
    )
    record = message.content.array_records["arrays"]
    most = HEADER_BYTES * len(shapes) + 8 * before.size
    size = sum(len(array.data) for array in record.values())
    if size > most:
        raise ValueError(f"arrays of at most {most} bytes expected, got {size}")
    try:
        arrays = read_arrays(record, shapes)
        found = shapes_of(arrays)
    except Exception as error:
        # NumPy's reader raises EOFError, MemoryError and more on bytes of its
        # sender's choice; none of them is the server's failure.
        raise ValueError(f"arrays cannot be read: {error}") from error
    if found != shapes:
        raise ValueError(f"arrays of shapes {shapes} expected, got {found}")
    if any(array.dtype.kind != "f" for array in arrays):
        raise ValueError("arrays must be floating point")
    with np.errstate(over="ignore"):  # what overflows is not finite, and refused
        local = flatten(arrays, out)
    norms = _update_norms(local, before, shapes)
    # One number tells of all: nothing infinite has a finite norm.
    if not all(map(math.isfinite, norms)):
        raise ValueError("parameters are not finite")
    return Reply(local, count, metrics, norms)


def read_arrays(record: ArrayRecord, shapes: Shapes) -> list[NDArray[Any]]:
    """Return a record's arrays: at once where they are as expected, else by NumPy."""
    views = [
        from_npy(array.data, shape) if array.stype == "numpy.ndarray" else None
        for array, shape in zip(record.values(), shapes, strict=False)
    ]
    if len(record) == len(shapes) and all(view is not None for view in views):
        return [view for view in views if view is not None]
    return record.to_numpy_ndarrays()


def _update_norms(local: Vector, before: Vector, shapes: Shapes) -> tuple[float, ...]:
    """Return the norm of local - before in each of the arrays."""
    with np.errstate(over="ignore", invalid="ignore"):
        update = local - before
    norms, start = [], 0
    for shape in shapes:
        part = slice(start, start := start + math.prod(shape))
        with np.errstate(over="ignore", invalid="ignore"):
            square = float(np.dot(update[part], update[part]))
        if math.isfinite(square) and square > 1e-30:
            norms.append(math.sqrt(square))
        else:
            # float32 cannot hold the square of a very long update, nor of a very
            # short one.
            exact = local[part] - before[part].astype(np.float64)
            norms.append(float(np.linalg.norm(exact)))
    return tuple(norms)


def read_evaluation(
    message: Message, client_id: int, parts: Sequence[str]
) -> dict[str, float]:
    """Return what a client measured of a model on `parts` of its data, checked.

    Raises
    ------
    ValueError
        If it is an error reply, another client's, or lacks a number.
    KeyError
        If the record is missing.
    """
    if message.has_error():
        raise ValueError(f"error: {message.error.reason}")
    metrics = numbers_of(message.content)
    if metrics.pop("client-id", None) != client_id:
        raise ValueError("claims to be another client")
    counts = ["num_writers", *(f"num_{part}" for part in parts)]
    rates = [f"{part}_{what}" for part in parts for what in ("accuracy", "loss")]
    for name in (*counts, *rates):
        if name not in metrics:
            raise ValueError(f"the reply has no {name}")
    for name in counts:
        if not 0 <= metrics[name] < math.inf:
            raise ValueError(f"{name} must be a count, got {metrics[name]:g}")
    return metrics


def absurd(replies: Mapping[int, Reply], max_ratio: float) -> dict[int, str]:
    """Return, with reasons, whose update is far longer than the round's others.

    An update is absurd when its norm exceeds `max_ratio` times the median norm of the
    others; alone in a round, nothing is.
    """
    ids = list(replies)
    norms = np.array([replies[k].norm for k in ids])
    found: dict[int, str] = {}
    if len(ids) < 2:
        return found
    for place in np.flatnonzero(norms > max_ratio * _median_of_others(norms)):
        others = float(np.median(np.delete(norms, place)))
        if others > 0:
            found[ids[place]] = (
                f"update norm {norms[place]:.3g} exceeds max_update_norm_ratio="
                f"{max_ratio:g} times the others' median {others:.3g}"
            )
    return found


def _median_of_others(norms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return, for each of at least two numbers, the median of the rest."""
    order = np.argsort(norms, kind="stable")
    ranked, rest = norms[order], len(norms) - 1
    # Without the number of rank r, whatever stood behind it moves up by one.
    rank = np.arange(len(norms))
    low, high = (rest - 1) // 2, rest // 2
    medians = np.empty_like(norms)
    medians[order] = (ranked[low + (rank <= low)] + ranked[high + (rank <= high)]) / 2
    return medians
