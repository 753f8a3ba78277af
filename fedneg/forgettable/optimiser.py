"""A server's optimiser: which strategy has it, how it is set, and what it has moved.

What it is set to may change while a training goes on, by a schedule of the strategy's
or by its owner between two starts: rows hold the steps as they were made. What may not
change is whether there is a momentum, since without one the ledger has no rows of it.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import Strategy

from fedneg.core.errors import FedNegError
from fedneg.forgettable.inner import layers
from fedneg.ledger.ledger import Ledger

MOMENTS = ("m_t", "v_t", "momentum_vector")
ADAPTIVE = ("eta", "beta_1", "beta_2", "tau")
PLAIN = ("server_learning_rate", "server_momentum")


def optimiser_of(strategy: Strategy) -> Any | None:
    """Return that of the strategies in one another which has an optimiser."""
    for one in layers(strategy):
        if is_adaptive(one) or hasattr(one, "momentum_vector"):
            return one
    return None


def is_adaptive(strategy: Any) -> bool:
    """Return whether a strategy divides its steps by second moments."""
    return all(hasattr(strategy, name) for name in ("m_t", "v_t", "beta_1", "tau"))


def server_optimiser(strategy: Strategy) -> tuple[float, float]:
    """Return the learning rate and the momentum of the server's step."""
    inner: Any = optimiser_of(strategy) or strategy
    if is_adaptive(inner):
        return float(inner.eta), float(inner.beta_1)
    if not getattr(inner, "server_opt", True):
        return 1.0, 0.0  # Flower's FedAvgM then does as FedAvg, whatever these are
    rate = getattr(inner, "server_learning_rate", 1.0)
    return float(rate), float(getattr(inner, "server_momentum", 0.0))


@dataclass(frozen=True)
class AsSet:
    """What a step of a server's optimiser goes by, beside its moments.

    Attributes
    ----------
    rate : float
        The learning rate; of an adaptive one, eta.
    momentum : float
        Of an adaptive one, beta_1.
    tau : float
        Of an adaptive one.
    """

    rate: float
    momentum: float
    tau: float = 0.0

    @classmethod
    def of(cls, strategy: Strategy) -> "AsSet":
        """Return what a strategy's is set to now."""
        inner = optimiser_of(strategy)
        tau = float(inner.tau) if is_adaptive(inner) else 0.0  # type: ignore[union-attr]
        return cls(*server_optimiser(strategy), tau)


def settings_of(strategy: Strategy) -> dict[str, float]:
    """Return what a server's optimiser is set to, by the names of its attributes."""
    inner: Any = optimiser_of(strategy) or strategy
    names = ADAPTIVE if is_adaptive(inner) else PLAIN
    return {
        name: float(value)
        for name in names
        if isinstance(value := getattr(inner, name, None), int | float)
    }


def differing(was: Mapping[str, float], now: Mapping[str, float]) -> str:
    """Return how settings differ, for people; empty: they do not."""
    return ", ".join(
        f"{name} was {was[name]:g} and is {now[name]:g}"
        for name in was
        if name in now and was[name] != now[name]
    )


def settings_for(ledger: Ledger, strategy: Strategy, before: AsSet) -> list[AsSet]:
    """Return what a step may have gone by, the likelier first.

    A schedule may set the next round's after the step, or this round's just before it.

    Parameters
    ----------
    before : AsSet
        As it was set when the strategy was asked for the step.

    Raises
    ------
    FedNegError
        As `check_momentum`, if none fits the ledger.
    """
    either = dict.fromkeys((before, AsSet.of(strategy)))
    found = [one for one in either if _fits(ledger, one.momentum)]
    if not found:
        check_momentum(ledger, strategy)
    return found


def _fits(ledger: Ledger, momentum: float) -> bool:
    """Return whether a ledger has what it needs for a momentum, and no more."""
    return (momentum != 0) == (ledger.buffers is not None)


def check_momentum(ledger: Ledger, strategy: Strategy) -> None:
    """Check that a strategy can make the next step of a ledger.

    Raises
    ------
    FedNegError
        If it has a momentum now, and the ledger began without; or the other way round.
    """
    _, momentum = server_optimiser(strategy)
    if not _fits(ledger, momentum):
        name = "beta_1" if is_adaptive(optimiser_of(strategy)) else "server_momentum"
        was = "0" if ledger.buffers is None else f"{ledger.momentum:g}"
        raise FedNegError(
            f"{name} of {type(strategy).__name__} was {was} in the rounds before and "
            f"is {momentum:g}: a training goes on with a momentum or without one; set "
            "it back, or begin anew by reset()"
        )


def has_moments(strategy: Strategy) -> bool:
    """Return whether an optimiser remembers earlier rounds."""
    return any(np.any(array) for _, array in _moments(strategy))


def digest_of_moments(strategy: Strategy) -> str:
    """Return a sha256 of what an optimiser remembers, to the last bit."""
    found = hashlib.sha256()
    for name, array in _moments(strategy):
        found.update(f"{name}\0{array.dtype}\0{array.shape}\0".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def _moments(strategy: Strategy) -> list[tuple[str, Any]]:
    """Return the moments of an optimiser, array by array."""
    inner = optimiser_of(strategy)
    found = []
    for name in MOMENTS:
        value = getattr(inner, name, None) or {}
        named = value.items() if isinstance(value, Mapping) else enumerate(value)
        found += [(f"{name} {key}", np.asarray(array)) for key, array in named]
    return found


def clear_moments(strategy: Strategy) -> None:
    """Let a strategy begin anew: no moments, no copy of a model."""
    for one in layers(strategy):
        for name in (*MOMENTS, "current_arrays"):
            if getattr(one, name, None) is not None:
                setattr(one, name, None)


def put_model(strategy: Strategy, arrays: ArrayRecord) -> None:
    """Replace copies of the model, of the kind that is there: a record, or arrays."""
    for one in layers(strategy):
        old = getattr(one, "current_arrays", None)
        if isinstance(old, ArrayRecord):
            one.current_arrays = arrays
        elif isinstance(old, dict):
            one.current_arrays = {n: array.numpy() for n, array in arrays.items()}
