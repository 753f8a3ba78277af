"""What a person would want to know of a client's data, before a task trains on them."""

from collections.abc import Mapping, Sequence, Sized
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedneg.core.formats import human_bytes
from fedneg.tasks import calls
from fedneg.tasks.checked import call, kind_of, mistake, sized
from fedneg.tasks.prototype import Prototype
from fedneg.tasks.task import ClientRef, Split, Task

# Where a task can take some of its examples, losses are asked of so many.
MOST = 256
# Of a collection, so many members are looked at; and so deep.
SHOWN, DEPTH = 6, 3


def describe_client(task: Task, client: ClientRef) -> list[str]:
    """Call a task's functions as a client and a server would, and tell what came.

    `data` and `model` twice each, `losses` twice on each part. Nothing is trained.

    Parameters
    ----------
    task : Task
    client : ClientRef
        Whose data.

    Returns
    -------
    list of str
        A fact a line.

    Raises
    ------
    FedNegError
        In one line what is wrong: the task, its function, value and rule.
    """
    split = calls.split_of(task, client)
    prototype = Prototype(task)
    arrays = prototype.initial(seed=0)
    model = calls.make_model(task, seed=0)
    size = sum(array.size for array in arrays)
    found = {
        name: _losses(task, model, part, name)
        for name, part in _parts(split).items()
        if len(part)
    }
    _check_steady(task, model, client, found)
    sent = sum(array.nbytes for array in arrays)
    return [
        f"good: task {task.name}, client {client.client_id} of {client.clients}",
        *(f"{name}: {_about(part)}" for name, part in _parts(split).items()),
        *(["test: as unseen"] if split.test is None else []),
        f"model: {size} numbers in {len(arrays)} arrays, {human_bytes(sent)} to send",
        "mean loss before any training: "
        + ", ".join(f"{values.mean():.4g} of {name}" for name, values in found.items()),
        *_advice(task, split),
    ]


def _parts(split: Split) -> dict[str, Sized]:
    """Return the parts of a client's data, by name; test only where it is its own."""
    parts = {"train": split.train, "unseen": split.unseen, "test": split.test}
    return {name: part for name, part in parts.items() if part is not None} | {
        str(name): part for name, part in split.more.items()
    }


def _losses(
    task: Task, model: nn.Module, part: Sized, name: str
) -> NDArray[np.float64]:
    """Return the losses of a part, of its first examples where a task can take them."""
    if task.extras.take is not None and len(part) > MOST:
        first = call(task, "take", task.extras.take, part, np.arange(MOST))
        part = sized(task, "take", first)
    values = calls.steady_losses(task, model, part)
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        raise mistake(
            task,
            "losses" if task.losses is not None else "loss",
            "must be finite before any training, got "
            f"{values[wrong[0]]:g} at place {wrong[0]} of {name}",
        )
    return values


def _check_steady(
    task: Task,
    model: nn.Module,
    client: ClientRef,
    found: Mapping[str, NDArray[np.float64]],
) -> None:
    """Raise unless `data` gives the same examples when it is called again."""
    again = _parts(calls.split_of(task, client))
    for name, values in found.items():
        other = again.get(name)
        others = np.empty(0)
        if other is not None and len(other):
            others = _losses(task, model, other, name)
        if values.shape != others.shape or not np.allclose(
            values, others, rtol=calls.SAME["rtol"], atol=calls.SAME["atol"]
        ):
            raise mistake(
                task, "data", f"must give the same each time, and {name} is another"
            )


def _about(part: Sized) -> str:
    """Return how many examples a part has, and what they are made of."""
    count = len(part)
    return f"{count} example{'s' * (count != 1)}, {_made_of(part, len(part))}"


def _made_of(found: Any, count: int, depth: int = 0) -> str:
    """Return types and shapes of data; what cannot be looked into is named."""
    kind, shape = kind_of(found), getattr(found, "shape", None)
    if shape is not None:
        dtype = str(getattr(found, "dtype", kind)).removeprefix("torch.")
        return f"{dtype} ({', '.join(map(str, shape))})"
    if isinstance(found, str | bytes | int | float) or depth == DEPTH:
        return kind
    members = _members(found, count)
    if not members:
        return kind
    inside = [
        (f"{name} " if name else "") + _made_of(one, count, depth + 1)
        for name, one in members[:SHOWN]
    ]
    more = ", ..." if len(members) > SHOWN else ""
    return f"{kind} of {', '.join(inside)}{more}"


def _members(found: Any, count: int) -> list[tuple[str, Any]]:
    """Return what data are made of, with names where there are any."""
    try:
        if isinstance(found, Mapping):
            return [(str(name), one) for name, one in found.items()]
        if is_dataclass(found):
            return [(f.name, getattr(found, f.name)) for f in fields(found)]
        if isinstance(getattr(found, "tensors", None), Sequence):  # a TensorDataset
            return [("", one) for one in found.tensors]
        if isinstance(found, tuple) and len(found) != count:
            return [("", one) for one in found]
        return [("", found[0])]
    except Exception:  # somebody else's class
        return []


def _advice(task: Task, split: Split) -> list[str]:
    """Return what works, and less well than it could."""
    said = []
    if not len(split.unseen):
        said.append("warning: nothing unseen, so membership is not judged")
    if task.test is None:
        said.append("warning: the task has no test, which real clients' server needs")
    return said
