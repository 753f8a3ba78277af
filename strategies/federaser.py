"""FedEraser: rebuild the model from how far the others went, and whither they go now.

Liu, Ma, Yang, Wang and Liu, 'FedEraser: Enabling Efficient Client-Level Data Removal
from Federated Learning Models', IWQoS 2021, Algorithm 1 (arXiv:2012.13891 as
'Federated Unlearning'). Of every `interval`-th round of the training, the server keeps
the clients' updates U_i. To forget, it starts from the initial parameters:

1. the first retained round is aggregated anew, without the clients that leave;
2. for every further one, the remaining clients train r = `calibration` of their epochs
   from the model so far, which gives directions V_i; each takes the length of the
   retained update, U~_i = |U_i| V_i / |V_i|, and the U~_i are averaged by examples.

Lengths are taken in each array of the model, as the authors' code does. With V_i = 0
there is no direction, and nothing is added.

Step 2 needs |U_i| only. With ``storage: norms`` the server keeps no more than that, one
number per array, client and round, and does step 1 by asking the remaining clients to
train their first round again, from the same parameters, with the same random stream
and all epochs: the same updates. With ``storage: updates`` it keeps all retained
updates, as the paper does; the result is the same up to rounding. Norms are part of
every ledger: a training serves this method and all others. `updates` needs its own.

Differs from the paper: the server's optimiser of the run applies to the rebuilt rounds
too; who did not answer in a retained round is not asked when it is rebuilt; the data of
the calibrating clients is drawn in the order of the round that is rebuilt. The lengths
are those of a training in which the leaving clients took part: that much of them stays.

The remaining clients must be online, for one round of all epochs (norms) and then for
one of a share of them for each further retained round. The server stores, per client
and retained round, one number per array (norms) or d numbers (updates).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fedneg.core.assignment import Assignment
from fedneg.core.checks import choice, number, whole
from fedneg.core.errors import FedNegError
from fedneg.core.parameters import Shapes, Vector, unflatten
from fedneg.core.settings import Config
from fedneg.ledger.ledger import Participation
from fedneg.strategies.base import LedgerFedAvg
from fedneg.strategies.method import About, Needs
from fedneg.strategies.replies import Reply

Norms = tuple[float, ...]


def norms_of(vector: Vector, shapes: Shapes) -> Norms:
    """Return the Euclidean norm of each array in a vector, in float64."""
    arrays = unflatten(vector, shapes)
    return tuple(float(np.linalg.norm(a.astype(np.float64))) for a in arrays)


def rescaled(vector: Vector, norms: Norms, shapes: Shapes) -> Vector:
    """Return a vector each of whose arrays has the given norm; zeros stay zeros."""
    scaled = vector.astype(np.float64)
    start = 0
    for shape, norm, own in zip(shapes, norms, norms_of(vector, shapes), strict=True):
        stop = start + math.prod(shape)
        scaled[start:stop] *= norm / own if own else 0.0
        start = stop
    return scaled.astype(np.float32)


class FedEraser(LedgerFedAvg):
    """FedAvg whose unlearn rounds rebuild the retained rounds, calibrated."""

    about = About(place=2)

    starts_over = rebuilds = True

    @dataclass(frozen=True)
    class Options:
        """`interval` (rounds), `calibration` (share of the epochs) and `storage`."""

        interval: int = 2
        calibration: float = 0.5
        storage: str = "norms"

        def __post_init__(self) -> None:
            whole("strategy.interval", self.interval, minimum=1)
            number("strategy.calibration", self.calibration, above=0, maximum=1)
            choice("strategy.storage", self.storage, ("norms", "updates"))

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._retained: list[Participation] = []
        self._first: dict[int, Vector] = {}

    @classmethod
    def parse_options(cls, config: Config) -> Options:
        """Check the options; whole updates have no place in a state folder."""
        options: FedEraser.Options = super().parse_options(config)
        if options.storage == "updates" and config.state is not None:
            raise FedNegError(
                "strategy.storage=updates cannot have state=DIR, which could not prove "
                "them gone; use strategy.storage=norms"
            )
        return options

    @classmethod
    def unlearn_rounds(cls, config: Config) -> int:
        """Return how many rounds of the training are retained."""
        return math.ceil(config.rounds / cls.parse_options(config).interval)

    @property
    def keeps_updates(self) -> int:
        """The interval, if whole updates are to be kept."""
        options: FedEraser.Options = self.options
        return options.interval if options.storage == "updates" else 0

    def needs(self) -> Needs:
        """Return the rounds, the initial parameters, and everybody's norms or updates.

        Of the norms, those of the rounds that would be rebuilt.
        """
        rounds, kept = self.unlearn_rounds(self.config), self.ledger.updates.rows.nbytes
        if self.keeps_updates:
            rounds -= 1  # the first is aggregated from what is kept
        else:
            entries = [self.ledger.participation[place] for place in self._places()]
            kept = sum(np.array([*e.norms.values()]).nbytes for e in entries)
        return Needs(remaining_rounds=rounds, server_bytes=self.initial.nbytes + kept)

    def rectify(self, before: Vector, client_ids: tuple[int, ...]) -> Vector:
        """Take what is retained out of the ledger; return the initial parameters."""
        options: FedEraser.Options = self.options
        self._retained, self._first = [], {}
        for place in self._places():
            self._retain(self.ledger.participation[place], place)
        self.method_report = {
            "form": "rebuilt from retained norms, calibrated",
            "storage": options.storage,
            "retained_rounds": [entry.server_round for entry in self._retained],
            "calibration_epochs": self._epochs(2),
            "remains": "its part in how long the others' updates were",
        }
        return self.initial

    def rounds_beyond(self, ran: int, rounds: int) -> int:
        """Return how many fewer are rebuilt; what is kept of a round is one, too."""
        return len(self._retained) - rounds

    def _places(self) -> range:
        """Return the places of the rounds to rebuild among the ledger's rounds."""
        count, most = len(self.ledger.participation), self.unlearn_rounds(self.config)
        # A federation that lives on has had more rounds than its unlearn phases have.
        return range(0, count, max(self.options.interval, math.ceil(count / most)))

    def _retain(self, entry: Participation, place: int) -> None:
        """Remember what a round's remaining clients did."""
        stay = [k for k in sorted(entry.weights) if k in self.remaining]
        norms = {k: entry.norms[k] for k in stay if k in entry.norms}
        for k in stay if self.keeps_updates else ():
            row = self.ledger.updates.row(place, k, self.ledger.clients)
            assert row is not None, "as many rounds as the training has"
            norms[k] = norms_of(row, self._shapes)
            if place == 0:
                self._first[k] = row.copy()
        if missing := sorted(set(stay) - set(norms)):
            raise FedNegError(
                f"strategy=federaser needs the norms of the updates of round "
                f"{entry.server_round}, and the ledger has none of client {missing[0]}"
            )
        weights = {k: entry.weights[k] for k in stay}
        self._retained.append(Participation(entry.server_round, weights, norms))

    def _epochs(self, number: int) -> int:
        """Return the local epochs of a rebuilt round."""
        every = self.config.client.local_epochs
        return every if number == 1 else math.ceil(self.options.calibration * every)

    def unlearn_clients(self, number: int) -> tuple[int, ...]:
        """Return who took part in the round that is rebuilt, and stays."""
        if number > len(self._retained) or (number == 1 and self._first):
            return ()
        return tuple(self._retained[number - 1].weights)

    def unlearn_stream(self, number: int) -> int:
        """Return the number of the round that is rebuilt."""
        return self._retained[number - 1].server_round

    def unlearn_settings(self, number: int) -> dict[str, int | float | str]:
        """Return the assignment, with fewer epochs after the first rebuilt round."""
        assignment = Assignment.from_json(self.assignment)
        client = replace(assignment.client, local_epochs=self._epochs(number))
        return {"assignment": replace(assignment, client=client).to_json()}

    def adjust(self, number: int, client_id: int, local: Vector) -> Vector:
        """Return the local parameters with an update of the retained length."""
        if number == 1:
            return local
        wanted = self._retained[number - 1].norms[client_id]
        return self._global + rescaled(local - self._global, wanted, self._shapes)

    def combine(self, number: int, good: Mapping[int, Reply]) -> Vector:
        """Return the parameters after a rebuilt round, entered into the ledger."""
        if number == 1 and not self._first:
            return super().combine(number, good)
        counts = {k: r.weight for k, r in good.items()}
        local: dict[int, Vector] = {}
        if number == 1:
            counts = dict(self._retained[0].weights)
            local = {k: self._global + update for k, update in self._first.items()}
        local |= {k: self.adjust(number, k, r.local) for k, r in good.items()}
        # What is forgotten later is rebuilt from these in turn.
        norms = {k: self._retained[number - 1].norms[k] for k in local}
        number = self.reports[-1].server_round
        return self.enter_models(
            number, self._global, local, good, norms, weights=counts
        )
