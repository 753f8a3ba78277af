"""Trainings of the reference with other seeds, which a verdict compares with.

They know of no method: FedAvg of a task's clients, so that every method of a sweep, and
every later request, takes the same ones from where they are kept. Only a method that
trains otherwise has its own.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

from fedneg.core.parameters import NDArrays, Vector, flatten
from fedneg.core.samples import ALL
from fedneg.federation.composition import Parts
from fedneg.federation.kept import KeptTrainings
from fedneg.federation.rounds import Rounds
from fedneg.strategies import make_strategy
from fedneg.strategies.base import LedgerFedAvg
from fedneg.strategies.phases import Phase, RoundReport

# What retrainings with other seeds draw, nobody else does.
REFERENCE_DRAWS = 1000
REFERENCE_ROUNDS = 10**6
# How FedAvg is trained where no method has a part in it.
PLAIN = "do_nothing"


class References:
    """Trains models from other initial parameters, with other streams.

    The clients hold what they held; initial parameters, order of the examples and
    sampling of clients are drawn anew. Its rounds are no part of the run's history.

    Parameters
    ----------
    parts : Parts
        Of the federation; its strategy is left alone.
    kept : KeptTrainings
        Of the federation: what was measured of a reference is kept beside it.

    Attributes
    ----------
    reports : list of RoundReport
        Of all references' rounds.
    """

    def __init__(self, parts: Parts, kept: KeptTrainings) -> None:
        self._whole, self._kept = parts, kept
        self.reports: list[RoundReport] = []

    def train(
        self,
        clients: Sequence[int],
        draw: int,
        *,
        after: Collection[int] = (0,),
        part: str = ALL,
    ) -> dict[int, Vector]:
        """Return a reference after as many rounds as the training had, and after more.

        Parameters
        ----------
        clients : sequence of int
            Who takes part in all of its rounds.
        draw : int
            1, 2, ..: which other seed.
        after : collection of int
            Rounds beyond those of the training, or fewer below 0: as many as each model
            had that is compared with it.
        part : str
            What of their examples they train on (`fedneg.core.samples`).

        Returns
        -------
        dict of int to Vector
            By these numbers of rounds.
        """
        whole = self._whole
        rounds = whole.config.rounds
        arrays = whole.prototype.initial(
            seed=whole.config.seed, draw=REFERENCE_DRAWS + draw
        )
        found = {-rounds: flatten(arrays)}
        for more in sorted(set(after) - {-rounds, 0}):
            if more < 0:  # of a model that had fewer rounds than the training
                found |= self._trained(arrays, clients, draw, [more], part)
        pieces = [more for more in sorted({0, *after}) if more >= 0]
        found |= self._trained(arrays, clients, draw, pieces, part)
        return {more: found[more] for more in after}

    def _trained(
        self,
        arrays: NDArrays,
        clients: Sequence[int],
        draw: int,
        ends: Sequence[int],
        part: str,
    ) -> dict[int, Vector]:
        """Train from the initial parameters; return the model at each of some ends.

        Each piece is kept: what another run wants longer goes on from there.
        """
        parts = self._parts()
        rounds = Rounds(parts)
        kept = KeptTrainings(parts, rounds, beside=self._kept)
        parts.strategy.reset(arrays)
        identity = kept.identity(tuple(clients), part) | {"draw": draw}
        # Streams hang on the round that clients are told, and no run has so many.
        first = 1 + draw * REFERENCE_ROUNDS
        model, begins, found = flatten(arrays), -parts.config.rounds, {}
        for end in ends:
            done = begins + parts.config.rounds
            phase = Phase(
                *("reference", tuple(clients), end - begins, done + 1, first + done),
                part=part,
            )
            which = identity | ({"from": begins, "to": end} if done or end else {})
            model = found[end] = kept.run(phase, model, which)
            begins = end
        self.reports += parts.strategy.reports
        return found

    def _parts(self) -> Parts:
        """Return the federation's parts, with a strategy of its own."""
        whole = self._whole
        own = whole.strategy
        strategy = type(own)(whole.config, own.assignment, own.hooks, own.roster)
        if "code" not in own.training_identity():
            strategy = self._plain()
        strategy.use_task(whole.prototype)
        return replace(whole, strategy=strategy)

    def _plain(self) -> LedgerFedAvg:
        """Return FedAvg that keeps no more of the clients than it needs."""
        whole = self._whole
        own = whole.strategy
        settings = replace(
            whole.config.strategy, name=PLAIN, options={}, keep_local_models=False
        )
        config = replace(whole.config, strategy=settings)
        return make_strategy(config, own.assignment, own.hooks, own.roster)


def rounds_beyond(after: Collection[int], rounds: int) -> int:
    """Return how many rounds `References.train` has beside those of the training."""
    return max(0, *after) + sum(rounds + more for more in after if more < 0)
