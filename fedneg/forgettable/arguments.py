"""What the public methods of a forgettable strategy are given: checked, in one line."""

import os
from collections.abc import Mapping
from inspect import signature
from operator import index
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord

from fedneg.core import checks
from fedneg.core.errors import FedNegError


def share(name: str, value: object) -> float:
    """Return a number in (0, 1], of whatever type of float."""
    is_number = hasattr(value, "__float__") and not isinstance(value, bool | str)
    try:
        found = float(value) if is_number else None  # type: ignore[arg-type]
    except (TypeError, ValueError):  # an array of several
        found = None
    if found is None or not 0 < found <= 1:
        raise FedNegError(f"{name} must be a number in (0, 1], got {value!r}")
    return found


def path(name: str, value: object) -> Path:
    """Return the path of a folder or a file."""
    try:
        found = os.fspath(value)  # type: ignore[call-overload]
    except TypeError:
        found = None
    if not isinstance(found, str) or not found:
        raise FedNegError(f"{name} must be a path, got {value!r}")
    return Path(found)


def record(name: str, value: object) -> ArrayRecord:
    """Return a model as Flower has it."""
    if not isinstance(value, ArrayRecord):
        kind = type(value).__name__
        raise FedNegError(f"{name} must be a flwr.app.ArrayRecord, got {kind}")
    return value


def options(value: object) -> Mapping[str, Any] | None:
    """Return a method's options, or none."""
    if value is not None and not (
        isinstance(value, Mapping) and all(isinstance(name, str) for name in value)
    ):
        raise FedNegError(f"options must say of names what they are, got {value!r}")
    return value


def method(value: object) -> str:
    """Return the name of a method."""
    if not isinstance(value, str) or not value:
        raise FedNegError(f"method must be the name of one, got {value!r}")
    return value


def module(model: Any) -> Any:
    """Return a model that was given as such, or as a function that makes one."""
    found, is_made = model, isinstance(model, type) or not hasattr(model, "state_dict")
    if callable(model) and is_made:
        try:
            signature(model).bind()
        except TypeError:
            raise FedNegError(
                "model must be a torch module, or make one without being given "
                f"anything, and {getattr(model, '__name__', model)!r} wants arguments"
            ) from None
        except ValueError:
            pass  # of some types nothing is known
        found = model()
    if found is not None and not hasattr(found, "named_parameters"):
        raise FedNegError(
            f"model must be a torch module, or make one, got {type(found).__name__}"
        )
    return found


def check_start(given: Mapping[str, Any]) -> None:
    """Raise FedNegError for what Flower's `start()` cannot be given, by name.

    Flower itself takes what comes, and ends somewhere in a round.
    """
    for name in ("send_and_receive", "get_node_ids"):
        if not hasattr(given["grid"], name):
            kind = type(given["grid"]).__name__
            raise FedNegError(f"grid must be a flwr.serverapp.Grid, got {kind}")
    record("initial_arrays", given["initial_arrays"])
    rounds = given["num_rounds"]
    if not isinstance(rounds, bool) and hasattr(rounds, "__index__"):
        rounds = index(rounds)  # NumPy's are whole numbers too
    checks.whole("num_rounds", rounds, minimum=0)
    if given["timeout"] is not None:
        checks.number("timeout", given["timeout"], minimum=0)
    for name in ("train_config", "evaluate_config"):
        if not isinstance(given[name], ConfigRecord | None):
            kind = type(given[name]).__name__
            raise FedNegError(f"{name} must be a flwr.app.ConfigRecord, got {kind}")
    if not (given["evaluate_fn"] is None or callable(given["evaluate_fn"])):
        kind = type(given["evaluate_fn"]).__name__
        raise FedNegError(f"evaluate_fn must be a function, got {kind}")
