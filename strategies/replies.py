"""What the server believes of a client's answer, before it touches the ledger."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message
from numpy.typing import NDArray

from fedneg.core.layout import MAX_COUNTER, Kind, Layout
from fedneg.core.parameters import Shapes, Vector, flatten, from_npy, shapes_of
from fedneg.core.settings import StrategySettings
from fedneg.strategies.claims import believed, count, shown

# Beside its numbers, of at most eight bytes each, an array says what it is.
HEADER_BYTES = 4096


@dataclass(frozen=True)
class Reply:
    """A validated answer to a training message.

    Attributes
    ----------
    local : Vector, shape (d,)
    statistics : Vector, shape (w,)
        What of the client's model is not trained (`fedneg.core.layout`).
    num_examples : int
    metrics : dict of str to float
        The client's own, of those that are known by name.
    norms : tuple of float
        Euclidean norm of the update, local minus global, in each of the model's
        parameters.
    """

    local: Vector
    statistics: Vector
    num_examples: int
    metrics: dict[str, float]
    norms: tuple[float, ...]

    @property
    def weight(self) -> float:
        """What the reply is to be weighed by."""
        return self.num_examples

    @property
    def norm(self) -> float:
        """Euclidean norm of the whole update."""
        return math.hypot(*self.norms)


def claims_of(message: Message, client_id: int) -> dict[str, object]:
    """Return what a reply claims, unchecked, once it is this client's.

    Raises
    ------
    ValueError
        If it is an error reply, or another client's.
    KeyError
        If the record is missing.
    """
    if message.has_error():
        raise ValueError(f"error: {message.error.reason}")
    metrics: dict[str, object] = dict(message.content.metric_records["metrics"])
    if "client-id" not in metrics:
        raise ValueError("the reply has no client-id")
    claimed = metrics.pop("client-id")
    if isinstance(claimed, bool) or claimed != client_id:
        raise ValueError(f"claims to be client {shown(claimed)}")
    return metrics


def examples_of(metrics: dict[str, object], max_num_examples: int) -> int:
    """Return how many examples a reply says that it is made of, and take it out.

    Raises
    ------
    ValueError
        If it is not a whole number from 1 to `max_num_examples`.
    """
    if "num-examples" not in metrics:
        raise ValueError("the reply has no num-examples")
    found = metrics.pop("num-examples")
    return count("num-examples", found, least=1, most=max_num_examples)


def read_reply(
    message: Message,
    client_id: int,
    *,
    layout: Layout,
    before: Vector,
    settings: StrategySettings,
    out: Vector,
) -> Reply:
    """Return a reply's content, checked.

    Parameters
    ----------
    message : Message
        From the node that was asked as `client_id`.
    layout : Layout
        Of the global model.
    before : Vector, shape (d,)
        The global parameters that the client started from.
    out : Vector, shape (layout.width,)
        Where the local model goes.

    Raises
    ------
    ValueError
        What is wrong: an error reply, another client's id, a count that is not a
        whole number from 1 to `settings.max_num_examples`, a metric that is not what
        its name says, other names, shapes or types, or a value that is not finite.
    KeyError
        If a record or an entry is missing.
    """
    claims = claims_of(message, client_id)
    num_examples = examples_of(claims, settings.max_num_examples)
    record = message.content.array_records["arrays"]
    shapes = layout.shapes
    most = HEADER_BYTES * len(shapes) + 8 * layout.width
    size = sum(len(array.data) for array in record.values())
    if size > most:
        raise ValueError(f"arrays of at most {most} bytes expected, got {size}")
    if list(record) != layout.names:
        raise ValueError(_other_names(list(record), layout))
    try:
        arrays = read_arrays(record, shapes)
        found = shapes_of(arrays)
    except Exception as error:
        # NumPy's reader raises EOFError, MemoryError and more on bytes of its
        # sender's choice; none of them is the server's failure.
        raise ValueError(f"arrays cannot be read: {error}") from error
    if found != shapes:
        raise ValueError(f"arrays of shapes {shapes} expected, got {found}")
    for array, part in zip(arrays, layout.parts, strict=True):
        if (array.dtype.kind == "f") is (part.kind is Kind.COUNTER):
            kind = "whole" if part.kind is Kind.COUNTER else "floating point"
            raise ValueError(f"{part.name} must be {kind}, got {array.dtype}")
    with np.errstate(over="ignore"):  # what overflows is not finite, and refused
        flatten(arrays, out)
    local, statistics = out[: layout.size], out[layout.size :]
    norms = _update_norms(local, before, layout.parameter_shapes)
    # One number tells of all: nothing infinite has a finite norm.
    if not all(map(math.isfinite, norms)):
        raise ValueError("parameters are not finite")
    if not np.isfinite(statistics).all():
        raise ValueError("statistics are not finite")
    counters = out[layout.counters]
    if counters.size and not 0 <= counters.min() <= counters.max() <= MAX_COUNTER:
        raise ValueError(
            f"counters must be 0 to {MAX_COUNTER}, got {counters.min():g} to "
            f"{counters.max():g}"
        )
    # Last: a training that diverged is better told by its parameters.
    metrics = believed(claims, max_num_examples=settings.max_num_examples)
    return Reply(local, statistics, num_examples, metrics, norms)


def _other_names(found: list[str], layout: Layout) -> str:
    """Return what is wrong with the names of arrays, in one line."""
    if len(found) != len(layout.names):
        return f"{len(layout.names)} arrays expected, got {len(found)}"
    first = next(k for k, name in enumerate(layout.names) if found[k] != name)
    return f"array {layout.names[first]} expected, got {shown(found[first])}"


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
    message: Message,
    client_id: int,
    parts: Sequence[str],
    *,
    max_num_examples: int,
    own_task: bool = False,
) -> dict[str, float]:
    """Return what a client measured of a model on `parts` of its data, checked.

    What nobody knows by name is not among it. Of a task of one's own (`own_task`) only
    train and test must be there: it may have no other part, and no writers.

    Raises
    ------
    ValueError
        If it is an error reply, another client's, lacks a number, or has one that is
        not what its name says.
    KeyError
        If the record is missing.
    """
    there = [part for part in parts if part in ("train", "test") or not own_task]
    wanted = [
        *(() if own_task else ("num_writers",)),
        *(f"{part}_{what}" for part in there for what in ("accuracy", "loss")),
        *(f"num_{part}" for part in there),
    ]
    if "train" in parts:
        wanted.append("trained_accuracy")
    claims = claims_of(message, client_id)
    return believed(claims, wanted=wanted, max_num_examples=max_num_examples)


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
