"""The moments of a server's optimiser: what it makes of an aggregate, and remembers.

Of the aggregated update a_t a server with an optimiser makes the step

    m_t = momentum * m_{t-1} + share * a_t,    step = gain * m_t

FedAvgM has share 1 and for a gain its learning rate. FedAdam, FedYogi and FedAdagrad
have share 1 - beta_1 and, in each parameter, the gain eta / (sqrt(v_t) + tau): the
second moments v_t are of all clients together, but given these the step is linear in
m_t, and m_t in the updates. So each client has a row of m_t, and a part of every step.

v_t itself is no sum over clients: it is of the square of their sum. What it was made of
cannot be taken out of it.

References
----------
Reddi et al., Adaptive federated optimization, ICLR 2021, Algorithm 2. arXiv:2003.00295
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from fedneg.core.parameters import Vector
from fedneg.forgettable.inner import layers
from fedneg.forgettable.names import Names, joined
from fedneg.forgettable.optimiser import (
    AsSet,
    is_adaptive,
    optimiser_of,
    put_model,
)
from fedneg.forgettable.views import blocks
from fedneg.ledger.ledger import Ledger

# What of the server still depends on who was forgotten.
SECOND_MOMENTS = "the second moments that the server divides its steps by"
CLIPPING = "the norm that updates are clipped to"
# What a ledger has of it beside rows (`Ledger.shared`): all clients' v_t, the momentum
# of what is not trained, and that of rounds of which no part is anybody's.
SECOND, REST, INHERITED = "second moments", "momentum of the rest", "inherited momentum"
Named = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Server:
    """What a server makes of an aggregated update.

    Attributes
    ----------
    share : float
        How much of the aggregate enters the momentum, or is the step without one.
    gain : float or Vector, shape (d,)
        What that is multiplied with. A vector is known up to a factor for all
        parameters, since there are corrections of it by the number of the round.
    momentum : float
        How much of the momentum of the round before is in this one's.
    made : Vector, shape (d,), optional
        The momentum that it says it has made, where `momentum` may be another: by this
        the factor is found, or one of them would fit whatever the share is.
    """

    share: float = 1.0
    gain: float | Vector = 1.0
    momentum: float = 0.0
    made: Vector | None = None

    @classmethod
    def of(
        cls, strategy: Strategy, names: Names, settings: AsSet, *, is_sure: bool = True
    ) -> "Server":
        """Return what a strategy has just done by some settings, after it aggregated.

        Parameters
        ----------
        is_sure : bool
            Whether there are no others that it may have gone by.
        """
        inner = optimiser_of(strategy)
        if inner is None or not (is_adaptive(inner) and inner.v_t):
            return cls(1.0, settings.rate, settings.momentum)
        with np.errstate(invalid="ignore"):
            gains = [_gain(inner.v_t[n], settings.tau) for n in names.parameters]
        made = None if is_sure else _momentum(inner, names, names.parameters)
        return cls(
            1 - settings.momentum,
            joined(gains),
            settings.momentum,
            None if made is None else joined(list(made.values())),
        )


def _gain(second: NDArray[Any], tau: float) -> NDArray[np.float32]:
    """Return what a momentum is multiplied with, but for a factor, in an array."""
    wide = np.sqrt(np.asarray(second, np.float64)) + tau
    return np.asarray(1 / wide, np.float32)


def depends_on_state(strategy: Strategy) -> set[str]:
    """Return what a server remembers that forgetting cannot put right, for people."""
    found = {CLIPPING for one in layers(strategy) if hasattr(one, "clip_norm_lr")}
    if is_adaptive(optimiser_of(strategy)):
        found.add(SECOND_MOMENTS)
    return found


def momentum_of(
    ledger: Ledger, block: slice, *, absolute: bool = False
) -> NDArray[np.float64]:
    """Return a block of the momentum of a ledger with such rows, of updates.

    Or, `absolute`, the sum of how large the rows are.
    """
    assert ledger.buffers is not None, "a ledger with momentum has rows of it"
    total = np.zeros(ledger.initial[block].size)
    for row in ledger.buffers:
        total += np.abs(row[block]) if absolute else row[block]
    ledger.release()
    inherited = ledger.shared.get(INHERITED)
    if inherited is not None:
        total += np.abs(inherited[block]) if absolute else inherited[block]
    return total


def advance_moments(strategy: Strategy, names: Names, ledger: Ledger) -> None:
    """Let a ledger know of a round that has been entered."""
    if INHERITED in ledger.shared:
        ledger.shared[INHERITED] *= np.float32(ledger.momentum)
    remember_moments(strategy, names, ledger)


def inherit_moments(strategy: Strategy, names: Names, ledger: Ledger) -> None:
    """Let a ledger know of a round of which no part is anybody's.

    What the strategy's momentum has beyond the rows is nobody's then.
    """
    found = _momentum(optimiser_of(strategy), names, names.parameters)
    if ledger.buffers is not None and found is not None:
        ledger.shared.pop(INHERITED, None)
        vector = joined(list(found.values()), np.float64)
        vector -= momentum_of(ledger, slice(None))
        ledger.shared[INHERITED] = vector.astype(np.float32)
    remember_moments(strategy, names, ledger)


def remember_moments(strategy: Strategy, names: Names, ledger: Ledger) -> None:
    """Let a ledger know what of a strategy's optimiser is in no client's row."""
    inner = optimiser_of(strategy)
    if inner is None:
        return
    found = _momentum(inner, names, (*names.statistics, *names.counters))
    if found is not None and ledger.buffers is not None:
        rest = joined(list(found.values()))
        if rest.size:
            ledger.shared[REST] = rest
    if is_adaptive(inner) and inner.v_t:
        second = [inner.v_t[part.name] for part in names.layout.parts]
        ledger.shared[SECOND] = joined(second)


def take_momentum(
    strategy: Strategy, names: Names, arrays: ArrayRecord, gone: Vector | None
) -> None:
    """Take the forgotten out of a momentum, and put a copy of the model right.

    Parameters
    ----------
    arrays : ArrayRecord
        The model after forgetting.
    gone : Vector, shape (d,), optional
        The sum of the momentum rows of whoever was forgotten, of updates.
    """
    put_model(strategy, arrays)
    inner = optimiser_of(strategy)
    found = _momentum(inner, names, names.order)
    if found is not None and gone is not None:
        # There is one of running statistics too, of which nobody knows whose it is.
        theirs = _as_arrays(names, gone)
        _put_momentum(
            inner,
            {
                name: array - theirs[name].astype(array.dtype)
                if name in names.parameters
                else np.zeros_like(array)
                for name, array in found.items()
            },
        )


def give_moments(
    strategy: Strategy, names: Names, arrays: ArrayRecord, ledger: Ledger
) -> None:
    """Give a strategy the moments that a ledger tells of, and the model."""
    inner = optimiser_of(strategy)
    if inner is None:
        return
    layout, shared = names.layout, ledger.shared
    if not is_adaptive(inner):
        inner.current_arrays = arrays
    if ledger.buffers is not None:
        rest = shared.get(REST, np.zeros(layout.width - layout.size, np.float32))
        momentum = np.empty(layout.size, np.float32)
        for block in blocks(layout.size):
            momentum[block] = momentum_of(ledger, block)
        _put_momentum(inner, _typed(names, names.arrays(momentum, rest)))
    if is_adaptive(inner):
        second = shared.get(SECOND)
        inner.v_t = None
        if second is not None:
            found = names.arrays(second[: layout.size], second[layout.size :])
            inner.v_t = _typed(names, found)


def _momentum(inner: Any | None, names: Names, of: Sequence[str]) -> Named | None:
    """Return a momentum of updates by name; Flower's FedAvgM has one of gradients."""
    if inner is None:
        return None
    if is_adaptive(inner):
        return {name: inner.m_t[name] for name in of} if inner.m_t else None
    if inner.momentum_vector is None:
        return None
    vector = dict(zip(names.order, inner.momentum_vector, strict=True))
    return {name: -vector[name] for name in of}


def _put_momentum(inner: Any, found: Mapping[str, NDArray[Any]]) -> None:
    """Turn around what `_momentum` gave."""
    if is_adaptive(inner):
        inner.m_t = dict(found)
    else:
        inner.momentum_vector = [-array for array in found.values()]


def _as_arrays(names: Names, vector: Vector) -> dict[str, NDArray[np.floating]]:
    """Return what is of the parameters in the record's order; of the rest nothing."""
    layout = names.layout
    return names.arrays(vector, np.zeros(layout.width - layout.size, np.float32))


def _typed(names: Names, arrays: Mapping[str, NDArray[np.floating]]) -> Named:
    """Return arrays in the types that an aggregate of the model's arrays has."""
    return {
        name: np.array(
            array, np.float64 if names.dtypes[name].kind in "iu" else names.dtypes[name]
        )
        for name, array in arrays.items()
    }
