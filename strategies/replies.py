"""What the server believes of a client's answer, before it touches the ledger."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from flwr.app import Message, RecordDict

from fedneg.parameters import Shapes, Vector, flatten, shapes_of
from fedneg.settings import StrategySettings


@dataclass(frozen=True)
class Reply:
    """A validated answer to a training message; `metrics` are the client's own."""

    local: Vector
    num_examples: int
    metrics: dict[str, float]


def numbers_of(content: RecordDict) -> dict[str, float]:
    """Return the plain numbers of a reply's metrics."""
    record = content.metric_records["metrics"]
    return {k: v for k, v in record.items() if isinstance(v, int | float)}


def read_reply(
    message: Message, client_id: int, shapes: Shapes, settings: StrategySettings
) -> Reply:
    """Return a reply's content, checked.

    Parameters
    ----------
    message : Message
        From the node that was asked as `client_id`.
    shapes : Shapes
        Of the global model's arrays.

    Raises
    ------
    ValueError
        What is wrong: an error reply, another client's id, a count that is not a
        whole number from 1 to `settings.max_num_examples`, other shapes or types, or
        a parameter that is not finite.
    KeyError
        If a record or an entry is missing.
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
    if not 0 < count <= settings.max_num_examples or int(count) != count:
        raise ValueError(
            f"num-examples must be a whole number from 1 to "
            f"{settings.max_num_examples}, got {count:g}"
        )
    record = message.content.array_records["arrays"]
    try:
        arrays = record.to_numpy_ndarrays()
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
        local = flatten(arrays)
    if not np.isfinite(local).all():
        raise ValueError("parameters are not finite")
    return Reply(local, int(count), metrics)


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


def absurd(
    replies: Mapping[int, Reply], before: Vector, max_ratio: float
) -> dict[int, str]:
    """Return, with reasons, whose update is far longer than the round's others.

    An update is absurd when its norm exceeds `max_ratio` times the median norm of the
    others; alone in a round, nothing is.
    """
    # In float64: a long float32 update has an infinite norm, and so would hide others.
    start = before.astype(np.float64)
    norms = {
        k: float(np.linalg.norm(reply.local - start)) for k, reply in replies.items()
    }
    found = {}
    for client_id, norm in norms.items():
        others = [n for k, n in norms.items() if k != client_id]
        median = float(np.median(others)) if others else 0.0
        if median > 0 and norm > max_ratio * median:
            found[client_id] = (
                f"update norm {norm:.3g} exceeds max_update_norm_ratio={max_ratio:g} "
                f"times the others' median {median:.3g}"
            )
    return found
