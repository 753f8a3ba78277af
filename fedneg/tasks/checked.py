"""A call of a task's function, checked: a mistake is a line that names it."""

import logging
import traceback
from collections.abc import Callable, Sized
from types import FrameType
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray

from fedneg.core.errors import FedNegError
from fedneg.core.texts import one_line
from fedneg.tasks.task import Task

T = TypeVar("T")
log = logging.getLogger(__name__)
# Who ends a process by SystemExit, wherever in a task it is.
ENGINES = ("flwr", "ray")


def call(task: Task, name: str, function: Callable[..., T], *arguments: Any) -> T:
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
        raise mistake(
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


def length_of(found: object) -> int | None:
    """Return how many examples data have; None of what has no length."""
    try:
        return len(found)  # type: ignore[arg-type]
    except Exception:  # somebody else's __len__: a stream has one that raises
        return None


def array(task: Task, name: str, found: Any) -> NDArray[np.float64]:
    """Return numbers that a task returned as an array."""
    kind = kind_of(found)
    try:
        if isinstance(found, torch.Tensor):
            found = found.detach().cpu().double().numpy()
        return np.asarray(found, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise mistake(task, name, f"must return numbers, got {kind}") from None


def one_each(
    task: Task, name: str, values: NDArray[np.float64], data: Sized
) -> NDArray[np.float64]:
    """Return values if there is one of each example."""
    if values.shape != (len(data),):
        raise mistake(
            task,
            name,
            f"must return one number per example, shape ({len(data)},), "
            f"got shape {values.shape}",
        )
    return values


def pair(task: Task, name: str, found: Any) -> tuple[Any, Any]:
    """Return what a task returned if it is a pair."""
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise mistake(task, name, f"must return a pair, got {kind_of(found)}")
    return found[0], found[1]


def sized(task: Task, name: str, found: Any, *, least: int = 1) -> Sized:
    """Return data if that is what a task returned."""
    count = length_of(found)
    if count is None or count < least:
        raise mistake(task, name, f"must return examples, got {kind_of(found)}")
    return cast(Sized, found)


def number(task: Task, name: str, found: Any) -> float:
    """Return what a task returned as a number; a tensor or array of one is one."""
    try:
        return float(found)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise mistake(task, name, f"must be a number, got {kind_of(found)}") from None


def fraction(task: Task, name: str, found: Any) -> float:
    """Return a quality as a fraction."""
    value = number(task, name, found)
    if not 0 <= zero_if_nan(value) <= 1:
        raise mistake(task, name, f"must be in [0, 1], got {value}")
    return zero_if_nan(value)


def zero_if_nan(value: float) -> float:
    """Return a number; 0 of a model that diverged."""
    return 0.0 if np.isnan(value) else float(value)


def kind_of(value: object) -> str:
    """Return what a value is, for people."""
    return f"{type(value).__name__}"


def mistake(task: Task, name: str, text: str) -> FedNegError:
    """Return the error that names the task and its function, to be raised."""
    return FedNegError(f"task {task.name}, {name}: {text}")
