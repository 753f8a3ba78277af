"""What clients brought into a model, what is left of it, and both from a bank's sums.

The mathematics of `fedneg.strategies.counterfactual`, whose docstring has the words and
the letters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import hypot

import numpy as np
from numpy.typing import NDArray

from fedneg.core.parameters import Vector
from fedneg.ledger.bank import DECAYS, fitted
from fedneg.ledger.ledger import Ledger, Participation

Floats = NDArray[np.float64]
# At a rate of 1 nothing would be left of a source after one round.
FASTEST = 0.95
POWER = 0.25
# The smaller of the two parts of D that can be probed: about as long as one source.
SMALL = 0.1


def source_of(
    updates: Mapping[int, Vector], weights: Mapping[int, float], leave: Sequence[int]
) -> Floats:
    """Return what leaving clients brought into a round's model, shape (d,).

    Parameters
    ----------
    updates : mapping of int to Vector, shape (d,)
        Of all who took part in the round, by client id: local minus global.
    weights : mapping of int to float
        Theirs in the server's step; they sum to 1.
    leave : sequence of int
        Who leaves; some may have had no part in the round.
    """
    there = [k for k in sorted(updates) if k in leave]
    size = next(iter(updates.values())).size
    step, theirs = np.zeros(size), np.zeros(size)
    for client_id in sorted(updates):
        step += weights[client_id] * updates[client_id].astype(np.float64)
    for client_id in there:
        theirs += weights[client_id] * updates[client_id].astype(np.float64)
    share = sum(weights[k] for k in there)
    # Alone in a round, they brought in all of its step.
    return step if share == 1 else (theirs - share * step) / (1 - share)


def rates_of(taken_out: Floats, response: Floats, units: NDArray[np.intp]) -> Floats:
    """Return the share of what was taken out that a round puts back, per unit.

    Parameters
    ----------
    taken_out, response : float64 arrays, shape (d,)
        D and R of the module docstring.
    units : int array, shape (d,)
        The unit, 0, 1, .., of each parameter.

    Returns
    -------
    float64 array, shape (units,)
        0 to `FASTEST`; 0 where nothing was taken out.
    """
    square = np.bincount(units, taken_out * taken_out)
    along = np.bincount(units, taken_out * response)
    found: Floats = np.clip(along / np.where(square, square, 1.0), 0.0, FASTEST)
    return found


def kernel(rates: Floats, rounds: int, power: float = POWER) -> Floats:
    """Return what is left of a source by its age 0, 1, ..

    Parameters
    ----------
    rates : float64 array
        Shares that a round puts back, from 0 to below 1.
    rounds : int
    power : float
        Of age. The smaller it is, the more is left in the end of what a round has put
        back a given share of.

    Returns
    -------
    float64 array, shape (rounds, *rates.shape)
    """
    slowing = (1 - rates) ** (-1 / power) - 1
    ages = np.arange(rounds).reshape(-1, *(1 for _ in rates.shape))
    found: Floats = (1 + ages * slowing) ** -power
    return found


def left_of(sources: Sequence[Floats], rates: Floats, power: float = POWER) -> Floats:
    """Return D*: what is left of sources, the last one of the round before.

    As it is printed above; the method has sums of sources only.

    Parameters
    ----------
    sources : sequence of float64 arrays, shape (d,)
        In the order of rounds.
    rates : float64 array, shape (d,)
        Of each parameter, from 0 to below 1.
    power : float
        As of `kernel`.
    """
    total = np.zeros_like(rates)
    shares = kernel(rates, len(sources), power)
    for share, source in zip(shares, reversed(sources), strict=True):
        total += share * source
    return total


def factors_of(
    rounds: Sequence[Mapping[int, float]], leave: Sequence[int]
) -> tuple[Floats, Floats]:
    """Return what makes weighted updates sources, in each round.

    Parameters
    ----------
    rounds : sequence of mapping of int to float
        The weights; where others were forgotten since, they sum to less than 1.
    leave : sequence of int

    Returns
    -------
    tuple of float64 arrays, shape (rounds,)
        The factor of the updates of those who leave, and that of all updates, which is
        to be taken off.
    """
    own, off = np.zeros(len(rounds)), np.zeros(len(rounds))
    for place, weights in enumerate(rounds):
        total = sum(weights.values())
        share = sum(weights[k] for k in leave if k in weights)
        # Alone in a round, they brought in all of its step.
        alone = all(k in leave for k in weights)
        own[place] = 1 / total if alone else 1 / (total - share)
        off[place] = 0.0 if alone else share / total / (total - share)
    return own, off


@dataclass(frozen=True)
class Summand:
    """Weighted updates of many rounds, as a bank sums them; all (rounds,) by age.

    Attributes
    ----------
    factors : float64 array, shape (rounds,)
        What would make each round's the source.
    sizes : float64 array, shape (rounds,)
        How large they are.
    sums : list of arrays, shape (d,)
        In the order of `fitted`.
    """

    factors: Floats
    sizes: Floats
    sums: Sequence[NDArray[np.floating]]


def summands(ledger: Ledger, leave: Sequence[int]) -> list[Summand]:
    """Return of what the sum of sources is the sum.

    Parameters
    ----------
    ledger : Ledger
        With a bank of all its rounds, none of them kept whole.
    leave : sequence of int
    """
    there = [k for k in leave if ledger.last_round(k)]
    entries = ledger.participation[::-1]
    own, off = factors_of([entry.weights for entry in entries], there)
    # Of each client's weighted update.
    sizes = {
        k: np.array([_size(entry, k) for entry in entries])
        for k in range(ledger.clients)
    }
    found = []
    for k in there:
        rows = [ledger.bank.sum_of(b, k).copy() for b in range(len(DECAYS))]
        rows.append(ledger.contributions[k].copy())
        found.append(Summand(own, sizes[k], rows))
    if there:
        totals = [*ledger.bank.totals(), ledger.contribution(range(ledger.clients))]
        found.append(Summand(-off, sum(sizes.values(), np.zeros(len(own))), totals))
    return found


def _size(entry: Participation, client_id: int) -> float:
    """Return the length of a client's weighted update in a round; 0 without one."""
    norms = entry.norms.get(client_id, (1.0,))
    return entry.weights.get(client_id, 0.0) * hypot(*norms)


def left_in(
    found: Sequence[Summand],
    rates: Floats,
    units: NDArray[np.intp],
    power: float = POWER,
) -> Floats:
    """Return D*, as `left_of` does of all sources, from sums.

    Parameters
    ----------
    found : sequence of Summand
        At least one.
    rates : float64 array, shape (units,)
    units : int array, shape (d,)
        The unit, 0, 1, .., of each parameter.
    power : float
        As of `kernel`.
    """
    total = np.zeros(units.size)
    for one in found:
        wanted = kernel(rates, len(one.factors), power) * one.factors[:, None]
        for share, row in zip(fitted(wanted, one.sizes), one.sums, strict=True):
            total += share[units] * row
    return total
