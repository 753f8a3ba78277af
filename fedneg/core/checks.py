"""Checks of single values: return what is good, raise one line for what is not."""

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import TypeVar

from fedneg.core.errors import FedNegError
from fedneg.core.texts import did_you_mean

T = TypeVar("T")


def whole(name: str, value: object, *, minimum: int) -> int:
    """Return `value` if it is a whole number of at least `minimum`, else raise."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise FedNegError(f"{name} must be a whole number, got {value!r}")
    if value < minimum:
        raise FedNegError(f"{name} must be at least {minimum}, got {value}")
    return value


def number(
    name: str,
    value: object,
    *,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    above: float = -math.inf,
    below: float = math.inf,
) -> float:
    """Return `value` as a finite float within the bounds, else raise."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FedNegError(f"{name} must be a number, got {value!r}")
    try:
        finite = math.isfinite(value)
    except OverflowError:  # whole, and longer than any float
        raise FedNegError(
            f"{name} must be a number, got one of {int(value).bit_length()} bits"
        ) from None
    if not finite:
        raise FedNegError(f"{name} must be finite, got {value}")
    for bad, rule in (
        (value < minimum, f"at least {minimum:g}"),
        (value > maximum, f"at most {maximum:g}"),
        (value <= above, f"greater than {above:g}"),
        (value >= below, f"less than {below:g}"),
    ):
        if bad:
            raise FedNegError(f"{name} must be {rule}, got {value:g}")
    return float(value)


def flag(name: str, value: object) -> bool:
    """Return `value` if it is true or false, else raise."""
    if not isinstance(value, bool):
        raise FedNegError(f"{name} must be true or false, got {value!r}")
    return value


def choice(name: str, value: object, allowed: tuple[str, ...]) -> str:
    """Return `value` if it is one of `allowed`, else raise."""
    if value not in allowed:
        raise FedNegError(
            f"{name} must be one of {', '.join(allowed)}, got {value!r}"
            + did_you_mean(str(value), allowed)
        )
    return str(value)


def client_ids(name: str, value: object, *, clients: int) -> tuple[int, ...]:
    """Return sorted client ids from one id, a list of ids, or None (no id)."""
    if value is None:
        return ()
    given = list(value) if isinstance(value, list | tuple) else [value]
    ids: list[int] = []
    for client_id in given:
        if isinstance(client_id, bool) or not isinstance(client_id, int):
            raise FedNegError(
                f"{name} must be one client id, a list of them, or null, "
                f"got {client_id!r}"
            )
        if not 0 <= client_id < clients:
            raise FedNegError(
                f"{name} must name client ids from 0 to {clients - 1} "
                f"(clients={clients}), got {client_id}"
            )
        ids.append(client_id)
    if len(set(ids)) != len(ids):
        raise FedNegError(f"{name} must name each client once, got {given}")
    return tuple(sorted(ids))


def build(cls: type[T], name: str, values: object) -> T:
    """Make the dataclass `cls` from a mapping, refusing unknown and missing keys."""
    if not isinstance(values, Mapping):
        raise FedNegError(f"{name} must be a group of values, got {values!r}")
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    unknown = [str(key) for key in values if key not in known]
    if unknown:
        prefix = f"{name}." if name else ""
        raise FedNegError(
            f"unknown key {prefix}{unknown[0]}; known are "
            + ", ".join(prefix + key for key in known)
            + did_you_mean(prefix + unknown[0], [prefix + key for key in known])
        )
    missing = [
        key
        for key, f in known.items()
        if key not in values and f.default is MISSING and f.default_factory is MISSING
    ]
    if missing:
        raise FedNegError(f"{name}.{missing[0]} is missing".lstrip("."))
    return cls(**values)
