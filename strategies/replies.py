"""What the server believes of a client's answer, before it touches the ledger."""

from collections.abc import Mapping
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
    arrays = message.content.array_records["arrays"].to_numpy_ndarrays()
    if shapes_of(arrays) != shapes:
        raise ValueError(f"arrays of shapes {shapes} expected, got {shapes_of(arrays)}")
    if any(array.dtype.kind != "f" for array in arrays):
        raise ValueError("arrays must be floating point")
    local = flatten(arrays)
    if not np.isfinite(local).all():
        raise ValueError("parameters are not finite")
    return Reply(local, int(count), metrics)


def absurd(
    replies: Mapping[int, Reply], before: Vector, max_ratio: float
) -> dict[int, str]:
    """Return, with reasons, whose update is far longer than the round's others.

    An update is absurd when its norm exceeds `max_ratio` times the median norm of the
    others; alone in a round, nothing is.
    """
    norms = {
        k: float(np.linalg.norm(reply.local - before)) for k, reply in replies.items()
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
