"""Every client's updates: the last ones whole, the older ones summed as they age.

A contribution is the plain sum of a client's weighted updates. Some methods want the
same sum with less of what is older. A bank keeps it for a few rates of ageing,

    R_b,k = sum over rounds of DECAYS[b]^age * weight * update,

a row of d numbers each, however many rounds are trained; the contribution is the one
that does not age. Any sum whose weights fall with age in a way that a few exponentials
can follow is a combination of these rows (`fitted`).

The last rounds are kept whole beside it: they can be undone, and done again. They are
not in R yet; age 0 is the last round before them.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedneg.core.parameters import Vector
from fedneg.ledger.rows import Rows, make_rows, release

Floats = NDArray[np.float64]
# With the sum that does not age they follow (1 + g * age)^(-1/4), for any g from 0 to
# 1.6e5 (after a round .05 is left), to .006 over a hundred rounds; other powers of
# age, to the 1/2, to .01. The first is the last round alone.
DECAYS = (0.0, 0.5, 0.875, 0.98)


def aged(ages: NDArray[np.intp]) -> Floats:
    """Return what each sum has of an update by age, shape (ages, 1 + len(DECAYS)).

    The last column is the sum that does not age.
    """
    found: Floats = np.power(np.array([*DECAYS, 1.0]), ages[:, None])
    return found


def fitted(wanted: Floats, sizes: Floats | None = None) -> Floats:
    """Return the combination of the sums that is nearest to other weights of ages.

    Parameters
    ----------
    wanted : float64 array, shape (rounds, m)
        m weightings of the ages 0, 1, ...
    sizes : float64 array, shape (rounds,), optional
        How large what is summed is at each age: where it is larger, the weights have to
        be right.

    Returns
    -------
    float64 array, shape (1 + len(DECAYS), m)
        Of each sum, the one that does not age last; least squares.
    """
    table = aged(np.arange(len(wanted)))
    if sizes is not None:
        table *= sizes[:, None]
        wanted = wanted * sizes[:, None]
    found = np.linalg.lstsq(table, wanted, rcond=1e-10)[0]
    return np.asarray(found, np.float64)


class Bank:
    """The updates of K clients to a model of d parameters.

    Parameters
    ----------
    recent : int
        How many rounds are kept whole; 0: nothing is kept at all.
    clients, size : int
        K and d.
    folder : Path, optional
        Hold the rows in nameless files here, not in memory.

    Attributes
    ----------
    sums : float32 array, shape (len(DECAYS) * K, d)
        R of the module docstring, row b * K + k.
    whole : float32 array, shape (recent * K, d)
        Updates of the last rounds.
    rounds : int
        How many have gone in.
    streams : list of int
        What the clients of each round that is kept whole were told: its random stream.
    """

    def __init__(
        self,
        recent: int = 0,
        *,
        clients: int = 0,
        size: int = 0,
        folder: Path | None = None,
    ) -> None:
        self.recent, self.clients = recent, clients
        count = clients if recent else 0
        self.sums = make_rows(len(DECAYS) * count, size, folder)
        self.whole = make_rows(recent * count, size, folder)
        self.rounds, self.streams = 0, list[int]()

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return self.sums.nbytes + self.whole.nbytes

    def sum_of(self, which: int, client_id: int) -> Vector:
        """Return a client's sum, by its place in `DECAYS`; a view, shape (d,)."""
        row: Vector = self.sums[which * self.clients + client_id]
        return row

    def update_of(self, ago: int, client_id: int) -> Vector:
        """Return a client's update, 1: of the last round; a view, shape (d,).

        It is zero, or another round's, where the client had no part.
        """
        slot = (self.rounds - ago) % self.recent
        row: Vector = self.whole[slot * self.clients + client_id]
        return row

    def enter(
        self,
        server_round: int,
        before: Vector,
        local: Mapping[int, Vector],
        *,
        oldest: Mapping[int, float],
        rate: float,
    ) -> None:
        """Take in a round; what is recent no longer goes into the sums.

        Parameters
        ----------
        server_round : int
            Its random stream.
        before, local
            As of `Ledger.record`.
        oldest : mapping of int to float
            The weights in the oldest round that is kept whole.
        rate : float
            The server's.
        """
        if not self.recent:
            return
        if len(self.streams) == self.recent:
            self._age(oldest, rate)
            del self.streams[0]
        self.streams.append(server_round)
        self.rounds += 1
        for client_id, vector in local.items():
            np.subtract(vector, before, out=self.update_of(1, client_id))
        self.release()

    def _age(self, weights: Mapping[int, float], rate: float) -> None:
        """Let the sums grow older by the oldest round that is kept whole."""
        for place, decay in enumerate(DECAYS):
            for client_id in range(self.clients):
                row = self.sum_of(place, client_id)
                row *= np.float32(decay)
                if client_id in weights:
                    share = np.float32(rate * weights[client_id])
                    row += share * self.update_of(self.recent, client_id)
        self.release()

    def undo(self) -> None:
        """Forget the rounds that are kept whole, as if they had not been."""
        self.whole[...] = 0
        self.rounds -= len(self.streams)
        self.streams.clear()

    def forget(self, client_ids: Sequence[int], *, spread: float = 1.0) -> None:
        """Zero the rows of clients; the others' sums become `spread` times theirs."""
        for client_id in client_ids if self.recent else ():
            self.sums[client_id :: self.clients] = 0
            self.whole[client_id :: self.clients] = 0
        if spread != 1:
            self.sums *= np.float32(spread)
        self.release()

    def start_over(self) -> None:
        """Empty it."""
        self.undo()
        self.sums[...] = 0
        self.rounds = 0
        self.release()

    def release(self) -> None:
        """Give back what memory the rows' maps have filled."""
        release(self.sums)
        release(self.whole)

    def arrays(self) -> dict[str, Rows]:
        """Return its numbers, by name; row i of each is client i mod K's."""
        return {"bank": self.sums, "recent": self.whole} if self.recent else {}

    def rows_of(self, client_id: int) -> Iterator[tuple[str, Vector]]:
        """Yield what it holds of a client, by name."""
        for name, rows in self.arrays().items():
            for place, row in enumerate(rows[client_id :: self.clients]):
                yield f"{name} {place}", row

    def totals(self) -> Iterator[Floats]:
        """Yield every sum, of all clients together."""
        for place in range(len(DECAYS) if self.recent else 0):
            rows = self.sums[place * self.clients : (place + 1) * self.clients]
            yield rows.sum(axis=0, dtype=np.float64)
            self.release()

    def facts(self) -> dict[str, Any]:
        """Return what belongs to the arrays, as JSON can hold it."""
        return {
            "rounds": self.rounds,
            "streams": list(self.streams),
            "kept": [self.recent, *DECAYS],
        }

    def restore_facts(self, facts: Mapping[str, Any]) -> None:
        """Take back what `facts` gave; nothing has gone in if that was kept otherwise.

        The arrays have been filled from what goes with it, or are emptied.
        """
        if facts.get("kept") != [self.recent, *DECAYS]:
            self.start_over()
            return
        self.rounds, self.streams = facts["rounds"], list(facts["streams"])
