"""Subtracting what would not have been there, and running the last rounds again.

Let w be the model that was trained with the leaving clients, v the one that would have
been trained without them, p their joint weight in a round, u their mean update, dw the
server's step and U(.) the others' mean update. Then the difference of the two models,
delta = w - v, grows in every round by exactly

    [U(w_t) - U(v_t)] + s_t,        s_t = p / (1 - p) (u_t - dw_t).

* What the clients brought in is the *source* s_t, and not p u_t: without them the
  others' updates would have had the whole weight.
* The others have been pushing back ever since, U(w) - U(v) = -A delta: what was brought
  in e rounds ago is smaller today. Subtracting all of it overshoots.

How much they push back is measured, in one round (the *probe*): some who stay train
from a model that lacks what is to be subtracted, on the very batches of the round of
the training that began with the model that does not lack it. With D what was taken out
and R the difference of their mean updates, a neuron has a = <D, R> / <D, D>. Since the
directions within a neuron are pushed back at different rates, a source decays as a
power of its age and not exponentially:

    D* = sum_t (1 + e_t g)^(-1/2) s_t,          g = (1 - a)^(-2) - 1.

The model goes back to what it was `rewind` rounds ago, less D* as of then, and these
rounds are run again without the clients: so it has had as many rounds as a retrained
one, and needs no repair.

The others must be online for one round (a share of them) and for `rewind` rounds. The
server stores every update of the training.

The derivation and the probe are ours; what is subtracted by `negative_gradient` is
p u_t, all of it (arXiv:2201.09441, section 3).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedneg.core.checks import number, whole
from fedneg.core.errors import FedNegError
from fedneg.core.parameters import Vector, weights_of
from fedneg.core.settings import Config
from fedneg.strategies.base import LedgerFedAvg
from fedneg.strategies.compensated import units_of
from fedneg.strategies.method import About, Needs
from fedneg.strategies.replies import Reply

Floats = NDArray[np.float64]
# At a rate of 1 nothing would be left of a source after one round.
FASTEST = 0.95
# One client's answer is noise, mostly.
FEWEST_PROBED = 3


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


def left_of(sources: Sequence[Floats], rates: Floats) -> Floats:
    """Return D*: what is left of sources, the last one of the round before.

    Parameters
    ----------
    sources : sequence of float64 arrays, shape (d,)
        In the order of rounds.
    rates : float64 array, shape (d,)
        Of each parameter, from 0 to below 1.
    """
    total = np.zeros_like(rates)
    slowing = (1 - rates) ** -2 - 1
    for age, source in enumerate(reversed(sources)):
        total += source / np.sqrt(1 + age * slowing)
    return total


class Counterfactual(LedgerFedAvg):
    """FedAvg that goes back some rounds, less what would not have been there."""

    about = About("subtracting what would not be there without {whom}", place=12)

    keeps_updates = 1

    @dataclass(frozen=True)
    class Options:
        """`rewind` (rounds that are run again), and `probe` (share of those who stay).

        `rate`: of the pushing back where it is not measured: `probe` is 0, or nobody
        answered; and in what the probe takes out.
        """

        rewind: int = 1
        probe: float = 0.34
        rate: float = 0.3

        def __post_init__(self) -> None:
            whole("strategy.rewind", self.rewind, minimum=1)
            number("strategy.probe", self.probe, minimum=0, maximum=1)
            number("strategy.rate", self.rate, minimum=0, maximum=FASTEST)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._sources: list[Floats] = []
        # Of the first round that is run again: the parameters before it, who took part
        # with which weight, and what their updates were.
        self._start = np.empty(0)
        self._updates: dict[int, Vector] = {}
        self._weights: dict[int, float] = {}
        self._streams: list[int] = []
        self._units = np.empty(0, dtype=np.intp)

    @classmethod
    def parse_options(cls, config: Config) -> Options:
        """Check the options against the training."""
        options: Counterfactual.Options = super().parse_options(config)
        if config.state is not None:
            raise FedNegError(
                "strategy=counterfactual cannot have state=DIR, which could not prove "
                "the updates gone that it keeps; use strategy=negative_gradient"
            )
        if config.strategy.server_momentum:
            raise FedNegError(
                "strategy=counterfactual needs strategy.server_momentum=0, got "
                f"{config.strategy.server_momentum}"
            )
        if options.rewind > config.rounds:
            raise FedNegError(
                f"strategy.rewind must be at most rounds={config.rounds}, got "
                f"{options.rewind}"
            )
        return options

    @classmethod
    def unlearn_rounds(cls, config: Config) -> int:
        """Return the rounds that are run again, and the probe before them."""
        options = cls.parse_options(config)
        return int(options.probe > 0) + options.rewind

    def needs(self) -> Needs:
        """Return the rounds of those who stay, and every update."""
        ledger = self.ledger
        return Needs(
            remaining_rounds=self.unlearn_rounds(self.config),
            server_bytes=ledger.initial.nbytes + ledger.updates.rows.nbytes,
        )

    def rounds_beyond(self, ran: int, rounds: int) -> int:
        """Return none: its rounds are the training's last ones, again."""
        return 0

    # -- on the server ---------------------------------------------------------------

    def rectify(self, before: Vector, client_ids: tuple[int, ...]) -> Vector:
        """Return the parameters of `rewind` rounds ago, less what is left at `rate`.

        From these the probe starts, and the rounds that are run again where it says
        nothing.
        """
        self._look_back(before, client_ids)
        rates = np.full(before.size, self.options.rate)
        self.method_report = {
            "form": "rewound, less what would not have been there",
            "rewound": len(self._streams),
            "probed": [],
            "rates": None,
            "remains": "what the others had not undone of it, if that was mismeasured",
        }
        return self._less(rates)

    def _look_back(self, before: Vector, client_ids: tuple[int, ...]) -> None:
        """Take out of the ledger what the method needs of it, and its last rounds."""
        ledger = self.ledger
        rewind = min(self.options.rewind, len(ledger.participation))
        kept = len(ledger.participation) - rewind
        self._units = units_of(self._shapes, "neuron")
        self._sources, self._streams = [], []
        self._updates, self._weights = {}, {}
        model = (ledger.initial.astype(np.float64)) + ledger.correction
        for place, entry in enumerate(ledger.participation):
            updates = self._updates_of(place, entry.weights)
            if place < kept:
                self._sources.append(
                    ledger.learning_rate * source_of(updates, entry.weights, client_ids)
                )
                for client_id, update in updates.items():
                    model += ledger.learning_rate * entry.weights[client_id] * update
                continue
            self._streams.append(entry.server_round)
            if place == kept:
                self._updates = {k: u.copy() for k, u in updates.items()}
                self._weights = dict(entry.weights)
            for client_id, update in updates.items():
                share = ledger.learning_rate * entry.weights[client_id]
                ledger.contributions[client_id] -= np.float32(share) * update
        self._start = model
        del ledger.participation[kept:]
        # Until the clients go, the ledger stands for the model as it was.
        ledger.correction += (before - model).astype(np.float32)

    def _updates_of(
        self, place: int, weights: Mapping[int, float]
    ) -> dict[int, Vector]:
        """Return the updates of all who took part in a round of the ledger."""
        found = {}
        for client_id in weights:
            row = self.ledger.updates.row(place, client_id, self.ledger.clients)
            if row is None:
                raise FedNegError(
                    "strategy=counterfactual needs the updates of every round, and "
                    f"the ledger has none of the round at place {place + 1}"
                )
            found[client_id] = row
        return found

    def _less(self, rates: Floats) -> Vector:
        """Return the parameters where the rewound rounds begin, less what is left."""
        if not self._sources:
            return self._start.astype(np.float32)
        return (self._start - left_of(self._sources, rates)).astype(np.float32)

    # -- in rounds -------------------------------------------------------------------

    @property
    def _probes(self) -> int:
        """How many rounds the probe has: 1 or 0."""
        return int(self.options.probe > 0)

    def unlearn_clients(self, number: int) -> tuple[int, ...]:
        """Return who is probed, or has a part in a round that is run again."""
        if number > self._probes:
            return self.sampled(number)
        there = [k for k in self.remaining if k in self._updates]
        count = max(FEWEST_PROBED, ceil(self.options.probe * len(there)))
        return tuple(there[:count])

    def unlearn_stream(self, number: int) -> int:
        """Return the round of the training that is done again; the probe's: its first.

        On the same batches only the models make the updates differ.
        """
        return self._streams[max(0, min(number - self._probes, len(self._streams)) - 1)]

    def combine(self, number: int, good: Mapping[int, Reply]) -> Vector:
        """Return the parameters to start from after the probe; else those of FedAvg."""
        if number > self._probes:
            return super().combine(number, good)
        before = self._global
        shares = weights_of([self._weights[k] for k in good])
        response = np.zeros(before.size)
        for share, (client_id, reply) in zip(shares, good.items(), strict=True):
            update = reply.local.astype(np.float64) - before
            response += share * (update - self._updates[client_id])
        rates = rates_of(self._start - before, response, self._units)
        after = self._less(rates[self._units])
        self.drop((), before=before, after=after)
        self.method_report |= {
            "probed": sorted(good),
            "rates": {
                name: float(value)
                for name, value in (
                    ("min", rates.min()),
                    ("mean", rates.mean()),
                    ("max", rates.max()),
                )
            },
        }
        return after
