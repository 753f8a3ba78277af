"""Calls of a task's functions: what goes wrong in one is one line that names it.

A task is somebody else's code. Its errors are told as such, what it returns is checked
before anything is made of it, and what it draws from the global generators is drawn
from a stream of ours, which are put back afterwards.

A little longer than most: one function for each field of a task.
"""

import random
from collections.abc import Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.parameter import is_lazy

from fedneg.core.data_settings import AttackSettings
from fedneg.core.seeding import rng, seed_of
from fedneg.core.texts import one_line
from fedneg.tasks.checked import (
    array,
    call,
    fraction,
    kind_of,
    length_of,
    mistake,
    number,
    one_each,
    pair,
    sized,
    zero_if_nan,
)
from fedneg.tasks.task import ClientRef, Order, Split, Task

# Two answers to the same question may differ by what rounding leaves on a GPU.
SAME = {"rtol": 1e-3, "atol": 1e-6}
# Float32 softmax rows miss 1 by a few 1e-7.
SUM_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Metrics:
    """What was measured of a model on data.

    Attributes
    ----------
    accuracy : float
        Its quality, in [0, 1]; of a classification as a rule the accuracy.
    loss : float
        Per example, of a cross-entropy in nats.
    num_examples : int
    """

    accuracy: float
    loss: float
    num_examples: int


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
        # torch.manual_seed takes the stack down for each kind of device that is not
        # there, which is longer than a small client trains.
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed_all(seed)
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
        If the task's ``model`` fails or returns no module, or one that has not all of
        its values yet.
    """
    with seeded(seed_of(seed, "init", draw)):
        found = call(task, "model", task.model)
    if not isinstance(found, nn.Module):
        raise mistake(task, "model", f"must return an nn.Module, got {kind_of(found)}")
    for name, tensor in (*found.named_parameters(), *found.named_buffers()):
        if is_lazy(tensor):
            raise mistake(
                task, "model", f"must know the shape of {name}: call the model once"
            )
        if tensor.is_meta:
            raise mistake(task, "model", f"must have values, and {name} is on meta")
    return found


def split_of(task: Task, client: ClientRef) -> Split:
    """Return a client's data.

    Raises
    ------
    FedNegError
        If the task's ``data`` fails, or a part of what it returns has no length, or
        there is nothing to train on.
    """
    found = call(task, "data", task.data, client)
    if not isinstance(found, Split):
        raise mistake(task, "data", f"must return a Split, got {kind_of(found)}")
    for name in ("train", "unseen", "test"):
        part = getattr(found, name)
        if part is None and name == "test":
            continue
        if length_of(part) is None:
            raise mistake(
                task, "data", f"{name} must have a length, got {kind_of(part)}"
            )
    if not len(found.train):
        raise mistake(
            task, "data", f"client {client.client_id} has nothing to train on"
        )
    return found


def train(task: Task, model: nn.Module, data: Any, order: Order) -> dict[str, float]:
    """Train a model in place; return the task's metrics.

    Raises
    ------
    FedNegError
        If the task's ``train`` fails, or a metric is no number.
    """
    one_thread()
    with seeded(order.seed):
        found = call(task, "train", task.train, model, data, order)
    if not isinstance(found, Mapping):
        raise mistake(
            task, "train", f"must return metrics by name, got {kind_of(found)}"
        )
    metrics = {}
    for name, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float | np.number):
            raise mistake(
                task,
                "train",
                f"metric {name!r} must be a number, got {one_line(repr(value))}",
            )
        metrics[str(name)] = number(task, "train", value)
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
    one_thread()
    model.eval()
    with torch.no_grad():
        found = call(task, name, getattr(task, name), model, data)
    values = one_each(task, name, array(task, name, found), data)
    if (values < 0).any():
        place = int(np.flatnonzero(values < 0)[0])
        raise mistake(
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
        raise mistake(
            task, name, "must keep the order of the examples, and shuffles them"
        )
    raise mistake(task, name, "must answer the same when asked twice, and does not")


def quality(task: Task, model: nn.Module, data: Sized) -> float:
    """Return how good a model is on data, in [0, 1]; 0 without data.

    Raises
    ------
    FedNegError
        If the task's ``quality`` fails, or returns anything else.
    """
    return measure(task, model, data).accuracy


def measure(task: Task, model: nn.Module, data: Sized) -> Metrics:
    """Return quality and mean loss on data; zeros without data.

    Raises
    ------
    FedNegError
        If one of the task's functions fails, or returns what it must not.
    """
    if not len(data):
        return Metrics(0.0, 0.0, 0)
    one_thread()
    model.eval()
    both, alone = task.extras.measure, task.quality
    with torch.no_grad():
        if both is not None:
            both_of = call(task, "measure", both, model, data)
            good, loss = pair(task, "measure", both_of)
            mean = number(task, "measure", loss)
            return Metrics(fraction(task, "measure", good), mean, len(data))
        mean = float(losses(task, model, data).mean())
        if alone is None:
            return Metrics(zero_if_nan(np.exp(-mean)), mean, len(data))
        found = call(task, "quality", alone, model, data)
        return Metrics(fraction(task, "quality", found), mean, len(data))


def measure_parts(task: Task, model: nn.Module, parts: Sequence[Sized]) -> Metrics:
    """Return quality and mean loss over several data, each counting by its size."""
    found = [measure(task, model, part) for part in parts]
    total = sum(one.num_examples for one in found)
    if len(found) == 1 or not total:
        return found[0]
    return Metrics(
        sum(one.accuracy * one.num_examples for one in found) / total,
        sum(one.loss * one.num_examples for one in found) / total,
        total,
    )


def scores(task: Task, model: nn.Module, data: Sized) -> NDArray[np.float64]:
    """Return how sure a model is of each example, shape (N,): log(p / (1 - p)).

    Not finite where a model diverged.

    Raises
    ------
    FedNegError
        As `steady_losses`.
    """
    from fedneg.tasks.confidence import confidence_of_losses

    known = task.extras.scores
    if known is None:
        return confidence_of_losses(steady_losses(task, model, data))
    one_thread()
    model.eval()
    with torch.no_grad():
        found = array(task, "scores", call(task, "scores", known, model, data))
    return one_each(task, "scores", found, data)


def differentiable_losses(task: Task, model: nn.Module, data: Sized) -> torch.Tensor:
    """Return the loss of each example, shape (N,), with its gradient.

    Raises
    ------
    FedNegError
        If the task has no ``loss``, or it fails or returns anything else.
    """
    task.require("loss", of="a gradient of the loss")
    assert task.loss is not None
    found = call(task, "loss", task.loss, model, data)
    if not isinstance(found, torch.Tensor) or found.shape != (len(data),):
        got = tuple(found.shape) if isinstance(found, torch.Tensor) else kind_of(found)
        raise mistake(
            task, "loss", f"must return a tensor of shape ({len(data)},), got {got}"
        )
    if not found.requires_grad:
        raise mistake(task, "loss", "must be differentiable, and has no gradient")
    return found


def probabilities(
    task: Task, model: nn.Module, parts: Sequence[Sized]
) -> NDArray[np.float64] | None:
    """Return class probabilities on several data, shape (N, C).

    None if the task has no ``outputs``, or where a model diverged.

    Raises
    ------
    FedNegError
        If ``outputs`` fails, or returns no rows of numbers, one per example.
    """
    if task.outputs is None:
        return None
    one_thread()
    model.eval()
    found: list[NDArray[np.float64]] = []
    for part in parts:
        with torch.no_grad():
            rows = array(
                task,
                "outputs",
                call(task, "outputs", task.outputs, model, part),
            )
        if rows.ndim != 2 or len(rows) != len(part) or not rows.shape[1]:
            raise mistake(
                task,
                "outputs",
                f"must return probabilities (N, C), N {len(part)}, "
                f"got shape {rows.shape}",
            )
        if found and rows.shape[1] != found[0].shape[1]:
            raise mistake(
                task,
                "outputs",
                f"must return as many classes each time, got {found[0].shape[1]} and "
                f"{rows.shape[1]}",
            )
        found.append(rows)
    rows = np.concatenate(found)
    if not np.isfinite(rows).all():
        return None
    sums = rows.sum(axis=1)
    if rows.min(initial=0) < 0 or np.abs(sums - 1).max(initial=0) > SUM_TOLERANCE:
        raise mistake(
            task,
            "outputs",
            "must return rows of probabilities, at least 0, whose sum is 1; got "
            f"{rows.min():g} at least and a sum of {sums[np.abs(sums - 1).argmax()]:g}",
        )
    return rows


def test_of(task: Task) -> Sized:
    """Return what the server holds.

    Raises
    ------
    FedNegError
        If the task has no ``test``, or it fails, or what it returns has no length.
    """
    task.require("test", of="a server that measures models")
    assert task.test is not None
    found = call(task, "test", task.test)
    if length_of(found) is None:
        raise mistake(task, "test", f"must have a length, got {kind_of(found)}")
    if not len(found):
        raise mistake(task, "test", "must have an example, got none")
    return found


test_of.__test__ = False  # type: ignore[attr-defined]  # no test of pytest's


def inputs(task: Task, data: Sized) -> torch.Tensor:
    """Return what the model takes of data, shape (N, ...).

    Raises
    ------
    FedNegError
        If the task has no ``inputs``, or it fails or returns anything else.
    """
    task.require("inputs", of="asking a model about inputs")
    assert task.inputs is not None
    found = call(task, "inputs", task.inputs, data)
    if not isinstance(found, torch.Tensor) or found.shape[:1] != (len(data),):
        got = tuple(found.shape) if isinstance(found, torch.Tensor) else kind_of(found)
        raise mistake(
            task, "inputs", f"must return a tensor of {len(data)} rows, got {got}"
        )
    return found


def poisoned(
    task: Task,
    data: Sized,
    attack: AttackSettings,
    *,
    seed: int,
    client_id: int,
    purpose: str = "poison",
) -> Sized:
    """Return what an attacker trains on in place of its data.

    Parameters
    ----------
    seed, client_id, purpose
        Of the stream that the attack draws from: the client whose data these are.

    Raises
    ------
    FedNegError
        If the task has no ``poison``, or it fails, or what it returns has no length.
    """
    task.require("poison", of=f"attack={attack.name}")
    assert task.poison is not None
    draws = _poisoner(attack, seed, purpose, client_id)
    found = call(task, "poison", task.poison, data, attack, draws)
    return sized(task, "poison", found)


def _poisoner(
    attack: AttackSettings, seed: int, purpose: str, client_id: int
) -> np.random.Generator:
    """Return what an attack draws from; canaries are known to the server, too."""
    if attack.poison == "canaries":
        purpose = "canaries"
    return rng(seed, purpose, 0, client_id)


def poisoned_places(
    task: Task, count: int, attack: AttackSettings, *, seed: int, client_id: int
) -> NDArray[np.int64]:
    """Return the places of an attacker's poisoned examples in what it trains on.

    Parameters
    ----------
    count : int
        How many examples it has of its own.
    seed, client_id : int
        As of `poisoned`.

    Raises
    ------
    FedNegError
        If the task has no ``poisoned``, or it fails, or returns no places.
    """
    task.require("poisoned", of="forget_samples of poisoned examples")
    assert task.extras.poisoned is not None
    draws = _poisoner(attack, seed, "poison", client_id)
    found = np.asarray(
        call(task, "poisoned", task.extras.poisoned, count, attack, draws)
    )
    if found.ndim != 1 or found.dtype.kind not in "iu" or len(set(found)) < len(found):
        raise mistake(task, "poisoned", "must return places of examples, each once")
    return found.astype(np.int64)


def probe(
    task: Task, data: Sized, attack: AttackSettings
) -> tuple[Sized, Sized | None]:
    """Return data as the attacker hopes that they are answered, and without its mark.

    Raises
    ------
    FedNegError
        If the task has no ``probe``, or it fails.
    """
    task.require("probe", of=f"attack={attack.name}")
    assert task.extras.probe is not None
    hoped, clean = pair(
        task, "probe", call(task, "probe", task.extras.probe, data, attack)
    )
    return (
        # None where all that the server holds is of the attacker's class.
        sized(task, "probe", hoped, least=0),
        None if clean is None else sized(task, "probe", clean, least=0),
    )


def canaries(
    task: Task, attack: AttackSettings, *, seed: int, client_id: int
) -> tuple[Sized, Sized]:
    """Return a client's canaries: those that it plants, and those held out.

    Raises
    ------
    FedNegError
        If the task has no ``canaries``, or they fail.
    """
    task.require("canaries", of="attack=canaries")
    assert task.extras.canaries is not None
    draws = rng(seed, "canaries", 0, client_id)
    planted, held_out = pair(
        task,
        "canaries",
        call(task, "canaries", task.extras.canaries, attack, draws),
    )
    return sized(task, "canaries", planted), sized(task, "canaries", held_out)


def one_thread() -> None:
    """Let torch use one thread: sums must not depend on how many there are to spare."""
    torch.set_num_threads(1)
