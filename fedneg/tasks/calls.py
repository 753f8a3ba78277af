"""Calls of a task's functions: what goes wrong in one is one line that names it.

A task is somebody else's code. Its errors are told as such, what it returns is checked
before anything is made of it, and what it draws from the global generators is drawn
from a stream of ours, which are put back afterwards.
"""

import logging
import random
import traceback
from collections.abc import Callable, Iterator, Mapping, Sized
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedneg.core.errors import FedNegError
from fedneg.core.seeding import seed_of
from fedneg.core.texts import one_line
from fedneg.tasks.task import ClientRef, Order, Split, Task

T = TypeVar("T")
log = logging.getLogger(__name__)
# Two answers to the same question may differ by what rounding leaves on a GPU.
SAME = {"rtol": 1e-3, "atol": 1e-6}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of torch, NumPy and Python; put them back at the end.

    Parameters
    ----------
    seed : int
        Non-negative, below 2^63.
    """
    python, numpy = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def make_model(task: Task, *, seed: int, draw: int = 0) -> nn.Module:
    """Return a model with initial parameters from the stream (seed, "init", draw).

    Raises
    ------
    FedNegError
        If the task's ``model`` fails or returns no module.
    """
    with seeded(seed_of(seed, "init", draw)):
        found = _call(task, "model", task.model)
    if not isinstance(found, nn.Module):
        raise _error(task, "model", f"must return an nn.Module, got {_kind(found)}")
    return found


def split_of(task: Task, client: ClientRef) -> Split:
    """Return a client's data.

    Raises
    ------
    FedNegError
        If the task's ``data`` fails, or a part of what it returns has no length, or
        there is nothing to train on.
    """
    found = _call(task, "data", task.data, client)
    if not isinstance(found, Split):
        raise _error(task, "data", f"must return a Split, got {_kind(found)}")
    for name in ("train", "unseen", "test"):
        part = getattr(found, name)
        if part is None and name == "test":
            continue
        if not isinstance(part, Sized):
            raise _error(task, "data", f"{name} must have a length, got {_kind(part)}")
    if not len(found.train):
        raise _error(task, "data", f"client {client.client_id} has nothing to train on")
    return found


def train(task: Task, model: nn.Module, data: Any, order: Order) -> dict[str, float]:
    """Train a model in place; return the task's metrics.

    Raises
    ------
    FedNegError
        If the task's ``train`` fails, or a metric is no number.
    """
    with seeded(order.seed):
        found = _call(task, "train", task.train, model, data, order)
    if not isinstance(found, Mapping):
        raise _error(task, "train", f"must return metrics by name, got {_kind(found)}")
    metrics = {}
    for name, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float | np.number):
            raise _error(
                task, "train", f"metric {name!r} must be a number, got {value!r}"
            )
        metrics[str(name)] = float(value)
    return metrics


def losses(task: Task, model: nn.Module, data: Sized) -> NDArray[np.float64]:
    """Return the loss of each example, shape (N,); not finite where a model diverged.

    Raises
    ------
    FedNegError
        If the task's function fails, or returns another number of losses than there are
        examples, or one below 0.
    """
    name = "losses" if task.losses is not None else "loss"
    model.eval()
    with torch.no_grad():
        found = _call(task, name, getattr(task, name), model, data)
    values = _array(task, name, found)
    if values.shape != (len(data),):
        raise _error(
            task,
            name,
            f"must return one number per example, shape ({len(data)},), "
            f"got shape {values.shape}",
        )
    if (values < 0).any():
        place = int(np.flatnonzero(values < 0)[0])
        raise _error(
            task, name, f"must be at least 0, got {values[place]:g} at place {place}"
        )
    return values


def steady_losses(task: Task, model: nn.Module, data: Sized) -> NDArray[np.float64]:
    """Return `losses`, asked for twice: a loader that shuffles is found by that.

    Raises
    ------
    FedNegError
        As `losses`, and if the two answers differ.
    """
    first, second = losses(task, model, data), losses(task, model, data)
    if np.allclose(first, second, equal_nan=True, **SAME):
        return first
    name = "losses" if task.losses is not None else "loss"
    if np.allclose(np.sort(first), np.sort(second), equal_nan=True, **SAME):
        raise _error(
            task, name, "must keep the order of the examples, and shuffles them"
        )
    raise _error(task, name, "must answer the same when asked twice, and does not")


def quality(task: Task, model: nn.Module, data: Sized) -> float:
    """Return how good a model is on data, in [0, 1].

    Raises
    ------
    FedNegError
        If the task has no ``quality``, or it fails or returns anything else.
    """
    task.require("quality", of="measuring a model")
    assert task.quality is not None
    model.eval()
    with torch.no_grad():
        found = _call(task, "quality", task.quality, model, data)
    try:
        value = float(found)
    except (TypeError, ValueError):
        raise _error(task, "quality", f"must be a number, got {_kind(found)}") from None
    if not 0 <= value <= 1:  # NaN too
        raise _error(task, "quality", f"must be in [0, 1], got {value:g}")
    return value


def _call(task: Task, name: str, function: Callable[..., T], *arguments: Any) -> T:
    """Call a function of the task; its exception becomes one line."""
    try:
        return function(*arguments)
    except FedNegError:
        raise
    except Exception as error:
        log.debug("%s", traceback.format_exc())
        text = one_line(str(error)) or "no message"
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise _error(
            task,
            name,
            f"{type(error).__name__}: {text} (line {frame.lineno} of {frame.name})",
        ) from error


def _array(task: Task, name: str, found: Any) -> NDArray[np.float64]:
    """Return numbers that a task returned as an array."""
    if isinstance(found, torch.Tensor):
        found = found.detach().cpu().double().numpy()
    try:
        return np.asarray(found, dtype=np.float64)
    except (TypeError, ValueError):
        raise _error(task, name, f"must return numbers, got {_kind(found)}") from None


def _kind(value: object) -> str:
    return f"{type(value).__name__}"


def _error(task: Task, name: str, text: str) -> FedNegError:
    return FedNegError(f"task {task.name}, {name}: {text}")
