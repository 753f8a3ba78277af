"""Calls of a task's functions: what goes wrong in one is one line that names it.

A task is somebody else's code. Its errors are told as such, what it returns is checked
before anything is made of it, and what it draws from the global generators is drawn
from a stream of ours, which are put back afterwards.
"""

import logging
import random
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.parameter import is_lazy

from fedneg.core.data_settings import AttackSettings
from fedneg.core.errors import FedNegError
from fedneg.core.seeding import rng, seed_of
from fedneg.core.texts import one_line
from fedneg.tasks.task import ClientRef, Order, Split, Task

T = TypeVar("T")
log = logging.getLogger(__name__)
# Two answers to the same question may differ by what rounding leaves on a GPU.
SAME = {"rtol": 1e-3, "atol": 1e-6}
# Float32 softmax rows miss 1 by a few 1e-7.
SUM_TOLERANCE = 1e-4
# Who ends a process by SystemExit, wherever in a task it is.
ENGINES = ("flwr", "ray")


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
        If the task's ``model`` fails or returns no module, or one that has not all of
        its values yet.
    """
    with seeded(seed_of(seed, "init", draw)):
        found = _call(task, "model", task.model)
    if not isinstance(found, nn.Module):
        raise _error(task, "model", f"must return an nn.Module, got {_kind(found)}")
    for name, tensor in (*found.named_parameters(), *found.named_buffers()):
        if is_lazy(tensor):
            raise _error(
                task, "model", f"must know the shape of {name}: call the model once"
            )
        if tensor.is_meta:
            raise _error(task, "model", f"must have values, and {name} is on meta")
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
        if _length(part) is None:
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
    one_thread()
    with seeded(order.seed):
        found = _call(task, "train", task.train, model, data, order)
    if not isinstance(found, Mapping):
        raise _error(task, "train", f"must return metrics by name, got {_kind(found)}")
    metrics = {}
    for name, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float | np.number):
            raise _error(
                task,
                "train",
                f"metric {name!r} must be a number, got {one_line(repr(value))}",
            )
        metrics[str(name)] = _number(task, "train", value)
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
        found = _call(task, name, getattr(task, name), model, data)
    values = _one_each(task, name, _array(task, name, found), data)
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
            pair = _call(task, "measure", both, model, data)
            good, loss = _pair(task, "measure", pair)
            mean = _number(task, "measure", loss)
            return Metrics(_fraction(task, "measure", good), mean, len(data))
        mean = float(losses(task, model, data).mean())
        if alone is None:
            return Metrics(_zero_if_nan(np.exp(-mean)), mean, len(data))
        found = _call(task, "quality", alone, model, data)
        return Metrics(_fraction(task, "quality", found), mean, len(data))


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
        found = _array(task, "scores", _call(task, "scores", known, model, data))
    return _one_each(task, "scores", found, data)


def differentiable_losses(task: Task, model: nn.Module, data: Sized) -> torch.Tensor:
    """Return the loss of each example, shape (N,), with its gradient.

    Raises
    ------
    FedNegError
        If the task has no ``loss``, or it fails or returns anything else.
    """
    task.require("loss", of="a gradient of the loss")
    assert task.loss is not None
    found = _call(task, "loss", task.loss, model, data)
    if not isinstance(found, torch.Tensor) or found.shape != (len(data),):
        got = tuple(found.shape) if isinstance(found, torch.Tensor) else _kind(found)
        raise _error(
            task, "loss", f"must return a tensor of shape ({len(data)},), got {got}"
        )
    if not found.requires_grad:
        raise _error(task, "loss", "must be differentiable, and has no gradient")
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
            rows = _array(
                task, "outputs", _call(task, "outputs", task.outputs, model, part)
            )
        if rows.ndim != 2 or len(rows) != len(part) or not rows.shape[1]:
            raise _error(
                task,
                "outputs",
                f"must return probabilities (N, C), N {len(part)}, "
                f"got shape {rows.shape}",
            )
        if found and rows.shape[1] != found[0].shape[1]:
            raise _error(
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
        raise _error(
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
    found = _call(task, "test", task.test)
    if _length(found) is None:
        raise _error(task, "test", f"must have a length, got {_kind(found)}")
    if not len(found):
        raise _error(task, "test", "must have an example, got none")
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
    found = _call(task, "inputs", task.inputs, data)
    if not isinstance(found, torch.Tensor) or found.shape[:1] != (len(data),):
        got = tuple(found.shape) if isinstance(found, torch.Tensor) else _kind(found)
        raise _error(
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
    if attack.poison == "canaries":
        purpose = "canaries"
    draws = rng(seed, purpose, 0, client_id)
    found = _call(task, "poison", task.poison, data, attack, draws)
    return _sized(task, "poison", found)


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
    hoped, clean = _pair(
        task, "probe", _call(task, "probe", task.extras.probe, data, attack)
    )
    return (
        # None where all that the server holds is of the attacker's class.
        _sized(task, "probe", hoped, least=0),
        None if clean is None else _sized(task, "probe", clean, least=0),
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
    planted, held_out = _pair(
        task, "canaries", _call(task, "canaries", task.extras.canaries, attack, draws)
    )
    return _sized(task, "canaries", planted), _sized(task, "canaries", held_out)


def one_thread() -> None:
    """Let torch use one thread: sums must not depend on how many there are to spare."""
    torch.set_num_threads(1)


def _call(task: Task, name: str, function: Callable[..., T], *arguments: Any) -> T:
    """Call a function of the task; its exception becomes one line.

    What it sets for all of torch is put back: other clients are trained after it.
    """
    dtype, grad = torch.get_default_dtype(), torch.is_grad_enabled()
    try:
        return function(*arguments)
    except FedNegError:
        raise
    except (Exception, SystemExit) as error:
        frames = list(traceback.walk_tb(error.__traceback__))[1:]
        if isinstance(error, SystemExit) and _top(frames, -1) in ENGINES:
            raise  # a signal ends the process
        log.debug("%s", traceback.format_exc())
        # The last line of the task's own: in torch nobody looks for a mistake.
        module = str(getattr(function, "__module__", "")).partition(".")[0]
        own = [k for k in range(len(frames)) if _top(frames, k) == module]
        where = ""
        if frames:
            frame, line = frames[own[-1] if own else -1]
            where = f" (line {line} of {frame.f_code.co_name})"
        raise _error(
            task, name, f"{type(error).__name__}: {_text_of(error)}{where}"
        ) from error
    finally:
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)


def _top(frames: list[tuple[FrameType, int]], place: int) -> str:
    """Return the package that a step to an error is in; nothing where there is none."""
    if not frames:
        return ""
    return str(frames[place][0].f_globals.get("__name__")).partition(".")[0]


def _text_of(error: BaseException) -> str:
    try:
        return one_line(str(error)) or "no message"
    except Exception:  # somebody else's __str__
        return "no message"


def _length(found: object) -> int | None:
    """Return how many examples data have; None of what has no length."""
    try:
        return len(found)  # type: ignore[arg-type]
    except Exception:  # somebody else's __len__: a stream has one that raises
        return None


def _array(task: Task, name: str, found: Any) -> NDArray[np.float64]:
    """Return numbers that a task returned as an array."""
    kind = _kind(found)
    try:
        if isinstance(found, torch.Tensor):
            found = found.detach().cpu().double().numpy()
        return np.asarray(found, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise _error(task, name, f"must return numbers, got {kind}") from None


def _one_each(
    task: Task, name: str, values: NDArray[np.float64], data: Sized
) -> NDArray[np.float64]:
    """Return values if there is one of each example."""
    if values.shape != (len(data),):
        raise _error(
            task,
            name,
            f"must return one number per example, shape ({len(data)},), "
            f"got shape {values.shape}",
        )
    return values


def _pair(task: Task, name: str, found: Any) -> tuple[Any, Any]:
    """Return what a task returned if it is a pair."""
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise _error(task, name, f"must return a pair, got {_kind(found)}")
    return found[0], found[1]


def _sized(task: Task, name: str, found: Any, *, least: int = 1) -> Sized:
    """Return data if that is what a task returned."""
    count = _length(found)
    if count is None or count < least:
        raise _error(task, name, f"must return examples, got {_kind(found)}")
    return cast(Sized, found)


def _number(task: Task, name: str, found: Any) -> float:
    """Return what a task returned as a number; a tensor or array of one is one."""
    try:
        return float(found)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise _error(task, name, f"must be a number, got {_kind(found)}") from None


def _fraction(task: Task, name: str, found: Any) -> float:
    """Return a quality as a fraction."""
    value = _number(task, name, found)
    if not 0 <= _zero_if_nan(value) <= 1:
        raise _error(task, name, f"must be in [0, 1], got {value}")
    return _zero_if_nan(value)


def _zero_if_nan(value: float) -> float:
    """Return a number; 0 of a model that diverged."""
    return 0.0 if np.isnan(value) else float(value)


def _kind(value: object) -> str:
    return f"{type(value).__name__}"


def _error(task: Task, name: str, text: str) -> FedNegError:
    return FedNegError(f"task {task.name}, {name}: {text}")
