"""What of a model nobody trains: after forgetting it is made anew of those who stay.

While rounds run the strategy itself makes it, and what it makes is handed out. Beside
it the last that counted of each client is kept, a row a client; when somebody leaves,
the rows of the others are put together as the strategy does: by rank, where it took
what is in the middle of each number, or else as a mean, in which a row weighs as much
as its reply did. What a strategy did not choose is not in that mean.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
from flwr.serverapp.strategy import Strategy

from fedneg.core.parameters import Vector, weights_of
from fedneg.forgettable.replies import Reply
from fedneg.forgettable.weighing import CHOSEN, IN_THE_MIDDLE, in_the_middle
from fedneg.ledger.statistics import Statistics

# What weighs less than this share of the heaviest was not chosen: weights are found to
# some digits only.
LIGHT = 1e-4


def counted(
    replies: Mapping[int, Reply],
    shares: Mapping[int, float],
    depends: Collection[str],
    known: Statistics,
) -> dict[int, Reply]:
    """Return the replies whose statistics are to be kept, with what they weighed.

    Parameters
    ----------
    replies : mapping of int to Reply
        Of a round, by row.
    shares : mapping of int to float
        Their weights in the step.
    depends : collection of str
        What of these weights hung on all clients.
    known : Statistics
        Of the rounds before. Of who was chosen there and is not now they stay.
    """
    if CHOSEN not in depends:
        return dict(replies)
    total = sum(reply.weight for reply in replies.values())
    least = LIGHT * max(shares.values())
    weights = {row: shares[row] if shares[row] > least else 0.0 for row in replies}
    return {
        row: replace(reply, weight=weights[row] * total)
        for row, reply in replies.items()
        if weights[row] or not known.examples.get(row)
    }


def remade(
    statistics: Statistics, strategy: Strategy, depends: Collection[str]
) -> Vector:
    """Return what those who stay make of what is not trained, shape (w,).

    Counters are whole.

    Parameters
    ----------
    statistics : Statistics
        With the rows of those who stay alone; without one it is the initial.
    strategy : Strategy
    depends : collection of str
        What of the strategy's steps hung on all clients.
    """
    rows = sorted(statistics.examples)
    if not rows:
        return statistics.initial.copy()
    values = statistics.rows[rows]
    weighed = [statistics.examples[row] for row in rows]
    if IN_THE_MIDDLE in depends:
        weights = in_the_middle(strategy, len(rows)).of(values)
    elif any(weighed):
        weights = np.asarray(weights_of(weighed))[:, None]
    else:  # of nobody who was chosen, so nobody is to be believed alone
        weights = in_the_middle(None, len(rows)).of(values)
    found = np.asarray((weights * values).sum(axis=0), np.float32)
    found[statistics.means :] = np.rint(found[statistics.means :])
    return found
