"""Models to compare with: trained anew, without those who were forgotten and with them.

    found = references(strategy, grid, make_initial, num_rounds=7)
    found.retrained, found.trained_with

`fedneg.serving.verdict.verdicts` takes both. They are trained as the strategy trains,
in lineages of their own: its ledger stays as it is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from logging import INFO
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from flwr.common import log
from flwr.serverapp import Grid

from fedneg.core.checks import whole
from fedneg.core.errors import FedNegError
from fedneg.core.formats import name_clients
from fedneg.evaluation.influence import MIN_OUT
from fedneg.forgettable.strategy import Forgettable

# One more than the judge wants at least: then one of them can be judged by the others.
N_OUT, N_IN = MIN_OUT + 1, 1


@dataclass(frozen=True)
class References:
    """Models to compare with.

    Attributes
    ----------
    retrained : list of ArrayRecord
        Trained without those who were forgotten, each from initial arrays of its own.
    trained_with : list of ArrayRecord
        Trained by everybody, from others.
    """

    retrained: list[ArrayRecord]
    trained_with: list[ArrayRecord]


def references(
    strategy: Forgettable,
    grid: Grid,
    make_initial: Callable[[int], ArrayRecord],
    num_rounds: int,
    *,
    n_out: int = N_OUT,
    n_in: int = N_IN,
    **more: Any,
) -> References:
    """Train models without those who were forgotten, and with them.

    Parameters
    ----------
    strategy : Forgettable
        Which has forgotten. It stays as it is.
    grid : Grid
        The forgotten clients' nodes must be online: they train the models with them.
    make_initial : callable
        Gives initial arrays of a seed, 1, 2, ..; other ones each time.
    num_rounds : int
        As many as the model had that is to be judged, its repair included.
    n_out, n_in : int
        How many without, at least 3, and with, at least 1.
    **more
        What else `start` takes, as ``train_config``.

    Raises
    ------
    FedNegError
        If nobody was forgotten, a number is too small, two initial arrays are the same,
        or a forgotten client is not there to train.
    """
    out = strategy.forgotten
    if not out:
        raise FedNegError("nobody was forgotten: there is nothing to compare with")
    whole("num_rounds", num_rounds, minimum=1)
    whole("n_out", n_out, minimum=MIN_OUT)
    whole("n_in", n_in, minimum=1)
    initial = [make_initial(seed) for seed in range(1, n_out + n_in + 1)]
    _check_differ(initial)
    found: list[ArrayRecord] = []
    # Those with everybody first: who is not there is missed at once.
    for k in (*range(n_out, n_out + n_in), *range(n_out)):
        log(INFO, "model %d of %d to compare with", len(found) + 1, len(initial))
        lineage = strategy.fresh(with_forgotten=k >= n_out)
        arrays = lineage.start(grid, initial[k], num_rounds, **more).arrays
        missing = sorted(set(out) - set(lineage.clients))
        if k >= n_out and missing:
            raise FedNegError(
                f"{name_clients(missing)} took no part, and a model that was trained "
                "with the forgotten clients is needed: let their nodes be online"
            )
        found.append(arrays)
    return References(retrained=found[n_in:], trained_with=found[:n_in])


def _check_differ(initial: list[ArrayRecord]) -> None:
    """Raise FedNegError if two models begin alike: they tell nothing of chance."""
    seen: dict[bytes, int] = {}
    for seed, record in enumerate(initial, 1):
        arrays = record.to_numpy_ndarrays()
        key = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
        first = seen.setdefault(key, seed)
        if first != seed:
            raise FedNegError(
                "make_initial must give other arrays for each seed, and those of "
                f"{first} and {seed} are the same"
            )
