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

    D* = sum_t (1 + e_t g)^(-q) s_t,            g = (1 - a)^(-1/q) - 1.

The exponent is an option, `power`: models by 1/4 are nearer to retrained ones, once
repaired, than those by 1/2, which takes less out of what is old (docs/methods.md). The
a is that of a fresh source, and D is a sum of fresh ones, weighted by numbers: nothing
in it has been pushed back yet, so its a is theirs, and not that of delta, of which
little but flat directions is left (a tenth of it).

U bends, and so a hangs on how much is taken out. Taken out whole, D may go past where
the others would be, and there nobody pushes: under cross-entropy an example that is
learned has hardly a gradient, however sure of it a model is. Of flipped labels in a
network of one hidden layer a is then a third of what it is in the small, D* is too
large, and the model overshoots. With ``probes=2`` a tenth of D is probed as well, and
of the two a the larger one counts: as a whole D takes with it what layers have learned
together, which the others put back too, so that in deep networks the other one is the
larger. There less is taken out than has been left, with two probes more so.

The model goes back to what it was `rewind` rounds ago, less D* as of then, and these
rounds are run again without the clients: so it has had as many rounds as a retrained
one, and needs no repair.

The server keeps no history. The sums over t are combinations of a few that age
exponentially (fedneg/ledger/bank.py), one row each for every client and entry, of that
client's own updates alone: a source is made of them when somebody leaves, and nobody
else's row holds anything of who left. What the combination is to be, p / (1 - p)
and the power of age in each round, is fitted by least squares: to .006 of 1 where all
clients take part in every round; where some do, and p is another in every round, by as
much as five sums can follow it. The last `rewind` rounds are kept
whole: to undo them, and for the probe.

The others must be online for one round or two (a share of them) and for `rewind`
rounds.

The derivation and the probe are ours; what is subtracted by `negative_gradient` is
p u_t, all of it (arXiv:2201.09441, section 3).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedneg.core.checks import choice, number, whole
from fedneg.core.errors import FedNegError
from fedneg.core.parameters import Vector, weights_of
from fedneg.core.settings import Config
from fedneg.strategies.base import LedgerFedAvg
from fedneg.strategies.compensated import units_of
from fedneg.strategies.federaser import norms_of
from fedneg.strategies.method import About, Needs
from fedneg.strategies.replies import Reply
from fedneg.strategies.sources import (
    FASTEST,
    POWER,
    SMALL,
    Floats,
    Summand,
    left_in,
    rates_of,
    summands,
)

# One client's answer is noise, mostly. Whoever is asked twice is asked for less.
FEWEST_PROBED, FEWEST_TWICE = 3, 2
# Of D, in this order.
PROBED_PARTS = (1.0, SMALL)
AGAIN = (ALL, PROBED) = ("all", "probed")


class Counterfactual(LedgerFedAvg):
    """FedAvg that goes back some rounds, less what would not have been there."""

    about = About("subtracting what would not be there without {whom}", place=12)

    @dataclass(frozen=True)
    class Options:
        """`rewind` (rounds that are run again), and `probe` (share of those who stay).

        `rate`: of the pushing back where it is not measured: `probe` is 0, or nobody
        answered; and in what the probes take out. `probes`: 1, of all of it, or 2, of a
        tenth of it as well. `power`: with which a source decays
        as it ages. `again`: who trains in a round that is run again, ``all`` who stay,
        or as many of them as are probed (``probed``).
        """

        rewind: int = 1
        probe: float = 0.34
        probes: int = 1
        rate: float = 0.3
        power: float = POWER
        again: str = "all"

        def __post_init__(self) -> None:
            whole("strategy.rewind", self.rewind, minimum=1)
            number("strategy.probe", self.probe, minimum=0, maximum=1)
            whole("strategy.probes", self.probes, minimum=1)
            number("strategy.probes", self.probes, maximum=len(PROBED_PARTS))
            number("strategy.rate", self.rate, minimum=0, maximum=FASTEST)
            number("strategy.power", self.power, minimum=0.1, maximum=1)
            choice("strategy.again", self.again, AGAIN)
            if self.again == PROBED and not (self.probe and self.rewind == 1):
                raise FedNegError(
                    "strategy.again=probed needs strategy.probe above 0 and "
                    f"strategy.rewind=1, got {self.probe:g} and {self.rewind}"
                )

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._brought: list[Summand] = []
        # Of the first round that is run again: the parameters before it, who took part
        # with which weight, and what the updates were of those who are probed.
        self._start = np.empty(0)
        self._updates: dict[int, Vector] = {}
        self._weights: dict[int, float] = {}
        self._streams: list[int] = []
        self._units = np.empty(0, dtype=np.intp)
        # Of the units, as measured so far; and D.
        self._rates: Floats | None = None
        self._taken_out = np.empty(0)

    @classmethod
    def parse_options(cls, config: Config) -> Options:
        """Check the options against the training."""
        options: Counterfactual.Options = super().parse_options(config)
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
        """Return the rounds that are run again, and the probes before them."""
        options = cls.parse_options(config)
        return _probes(options) + options.rewind

    @property
    def keeps_recent(self) -> int:
        """The rounds that would be run again."""
        options: Counterfactual.Options = self.options
        return options.rewind

    def needs(self) -> Needs:
        """Return the rounds of those who stay, contributions, and the bank."""
        ledger = self.ledger
        return Needs(
            remaining_rounds=self.unlearn_rounds(self.config),
            server_bytes=ledger.contributions.nbytes + ledger.bank.nbytes,
        )

    def check_kept(self, client_ids: tuple[int, ...]) -> None:
        """Raise FedNegError if rounds were trained without a bank, or with another."""
        had, banked = len(self.ledger.participation), self.ledger.bank.rounds
        if had != banked:
            raise FedNegError(
                f"strategy=counterfactual with strategy.rewind={self.options.rewind} "
                f"needs sums of every round's updates, and the ledger has those of "
                f"{banked} of {had} rounds; forget with strategy=negative_gradient or "
                "retrain=scratch"
            )

    def parts(self) -> NDArray[np.intp]:
        """Return the units: each keeps a share of its own."""
        return units_of(self._shapes, "neuron")

    def rounds_beyond(self, ran: int, rounds: int) -> int:
        """Return none: its rounds are the training's last ones, again."""
        return 0

    # -- on the server ---------------------------------------------------------------

    def rectify(self, before: Vector, client_ids: tuple[int, ...]) -> Vector:
        """Return the parameters of `rewind` rounds ago, less what is left at `rate`.

        From these the first probe starts, and the rounds that are run again where the
        probes say nothing.
        """
        self._look_back(before, client_ids)
        self._rates = None
        self.method_report = {
            "form": "rewound, less what would not have been there",
            "rewound": len(self._streams),
            "probed": [],
            "rates": None,
            "remains": "what the others had not undone of it, if that was mismeasured",
        }
        self._taken_out = self._left()
        return self._less(self._taken_out)

    def _look_back(self, before: Vector, client_ids: tuple[int, ...]) -> None:
        """Sum up the sources, and take the last rounds out of the ledger."""
        self.check_kept(client_ids)
        ledger, bank = self.ledger, self.ledger.bank
        recent = ledger.participation[len(ledger.participation) - len(bank.streams) :]
        self._units = self.parts()
        self._streams, self._updates, self._weights = list(bank.streams), {}, {}
        self._start = before.astype(np.float64)
        for ago, entry in zip(range(len(recent), 0, -1), recent, strict=True):
            for client_id, weight in entry.weights.items():
                share = np.float32(ledger.learning_rate * weight)
                part = share * bank.update_of(ago, client_id)
                ledger.contributions[client_id] -= part
                self._start -= part
        if recent:
            self._weights = dict(recent[0].weights)
            for client_id in self._needed():
                update = bank.update_of(len(recent), client_id)
                self._updates[client_id] = update.copy()
        bank.undo()
        del ledger.participation[bank.rounds :]
        self._brought = summands(ledger, client_ids)
        # Until the clients go, the ledger stands for the model as it was.
        ledger.correction += (before - self._start).astype(np.float32)

    def _needed(self) -> tuple[int, ...]:
        """Return whose updates of the first round that is run again are needed."""
        if self.options.again == PROBED:
            return tuple(k for k in self.remaining if k in self._weights)
        return self.unlearn_clients(1) if self._probes else ()

    def _left(self) -> Floats:
        """Return what is left of the sources: D*, or D if nothing has been measured."""
        if not self._brought:
            return np.zeros(self._start.size)
        rates = self._rates
        if rates is None:
            rates = np.full(self._units.max() + 1, self.options.rate)
        return left_in(self._brought, rates, self._units, self.options.power)

    def _less(self, left: Floats) -> Vector:
        """Return where the rewound rounds begin, less what is left."""
        return (self._start - left).astype(np.float32)

    # -- in rounds -------------------------------------------------------------------

    @property
    def _probes(self) -> int:
        """How many rounds the probes have: 0, 1 or 2."""
        return _probes(self.options)

    def unlearn_clients(self, number: int) -> tuple[int, ...]:
        """Return who is probed, or has a part in a round that is run again."""
        if number > self._probes and self.options.again == ALL:
            return self.sampled(number)
        there = [k for k in self.remaining if k in self._weights]
        once = self.options.again == ALL and self._probes == 1
        fewest = FEWEST_PROBED if once else FEWEST_TWICE
        count = max(fewest, ceil(self.options.probe * len(there)))
        return tuple(there[:count])

    def unlearn_stream(self, number: int) -> int:
        """Return the round of the training that is done again; a probe's: its first.

        On the same batches only the models make the updates differ.
        """
        return self._streams[max(0, min(number - self._probes, len(self._streams)) - 1)]

    def combine(self, number: int, good: Mapping[int, Reply]) -> Vector:
        """Return the parameters to start from after a probe; else those of FedAvg."""
        if number > self._probes:
            after = self._again(number, good)
            # The batches were those of the round that was run again.
            self.ledger.bank.streams[-1:] = [self.unlearn_stream(number)]
            return after
        taken_out = (self._start.astype(np.float32) - self._global).astype(np.float64)
        rates = rates_of(taken_out, self._response(good), self._units)
        self._rates = rates if self._rates is None else np.maximum(self._rates, rates)
        self.method_report |= {
            "probed": sorted({*self.method_report["probed"], *good}),
            "rates": {
                name: float(value)
                for name, value in (
                    ("min", self._rates.min()),
                    ("mean", self._rates.mean()),
                    ("max", self._rates.max()),
                )
            },
        }
        return self._after_probe(number)

    def without_answers(self, number: int) -> Vector:
        """Return the parameters to go on from where a probe was not answered."""
        return self._after_probe(number) if number <= self._probes else self._global

    def _after_probe(self, number: int) -> Vector:
        """Return where the next probe starts, or after the last the rewound rounds."""
        before = self._global
        if number < self._probes:
            after = self._less(PROBED_PARTS[number] * self._taken_out)
        else:
            after = self._less(self._left())
        self.drop((), before=before, after=after)
        return after

    def _response(self, good: Mapping[int, Reply]) -> Floats:
        """Return by how much updates differ from those of the training, on average."""
        shares = weights_of([self._weights[k] for k in good])
        found = np.zeros(self._global.size)
        for share, (client_id, reply) in zip(shares, good.items(), strict=True):
            update = reply.local.astype(np.float64) - self._global
            found += share * (update - self._updates[client_id])
        return found

    def _again(self, number: int, good: Mapping[int, Reply]) -> Vector:
        """Return the parameters after a round that is run again.

        Who was not asked did what it did in the training, and by how much those who
        were do otherwise now.
        """
        if self.options.again == ALL or not self._updates:
            return super().combine(number, good)
        before, response = self._global, self._response(good)
        local = {
            k: (before + update + response).astype(np.float32)
            for k, update in self._updates.items()
        }
        local |= {k: reply.local for k, reply in good.items()}
        place = self.reports[-1].server_round
        norms = {k: norms_of(local[k] - before, self._shapes) for k in local}
        weights = {k: self._weights[k] for k in local}
        return self.enter_models(place, before, local, good, norms, weights=weights)


def _probes(options: Counterfactual.Options) -> int:
    """Return how many rounds the probes have."""
    return options.probes if options.probe else 0
