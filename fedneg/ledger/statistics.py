"""What of a model is no sum over clients: running statistics and counters.

BatchNorm's running mean and variance are not trained; each client measures its own. A
sum of differences of them is no variance of anything (a forgotten client left one below
zero). So the last that each client sent is kept, a row a client, and the global ones
are the mean of the rows, weighted by their clients' examples; of counters, the maximum.
Forgetting drops a row, and is exact.

Where somebody else's strategy makes the global ones, they are what it made
(`Statistics.made`), and only forgetting comes back to the rows.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedneg.core.parameters import Vector, weights_of
from fedneg.ledger.rows import grown, make_rows, release


class Statistics:
    """The last statistics of K clients.

    Parameters
    ----------
    initial : Vector, shape (w,)
        Those of the model before round 1: the global ones while no client has any.
    clients : int
        K.
    means : int
        How many of the w are statistics, of which the mean is taken; the others are
        counters.
    folder : Path, optional
        Hold the rows in a memory map of a nameless file here.
    keep_initial : bool
        Whether the initial ones are among the ledger's arrays: where no seed gives them
        again.

    Attributes
    ----------
    rows : float32 array, shape (K, w)
    examples : dict of int to float
        By client id, of how many examples the row was made; who is not there has none.
    made : Vector, shape (w,), optional
        The global ones, where they are not the mean of the rows.
    """

    def __init__(
        self,
        initial: Vector,
        *,
        clients: int,
        means: int,
        folder: Path | None = None,
        keep_initial: bool = False,
    ) -> None:
        self.initial, self.means = initial.astype(np.float32), means
        self.folder, self.keep_initial = folder, keep_initial
        self.rows = make_rows(clients if initial.size else 0, initial.size, folder)
        self.examples: dict[int, float] = {}
        self.made: Vector | None = None

    @property
    def current(self) -> Vector:
        """The global statistics, shape (w,); sums run in the order of client ids."""
        if self.made is not None:
            return self.made.copy()
        if not self.examples:
            return self.initial.copy()
        order = sorted(self.examples)
        weights = weights_of([self.examples[k] for k in order])
        found = np.empty_like(self.initial)
        total = np.zeros(self.means)
        for client_id, weight in zip(order, weights, strict=True):
            total += weight * self.rows[client_id, : self.means].astype(np.float64)
        found[: self.means] = total
        found[self.means :] = self.rows[order, self.means :].max(axis=0)
        release(self.rows)
        return found

    def grow(self, clients: int) -> None:
        """Have rows for so many clients, at least."""
        if self.initial.size and clients > len(self.rows):
            self.rows = grown(self.rows, clients - len(self.rows), self.folder)

    def record(
        self, local: Mapping[int, Vector], num_examples: Mapping[int, float]
    ) -> None:
        """Enter what clients sent in a round."""
        if not self.initial.size:
            return
        for client_id, row in local.items():
            self.rows[client_id] = row
            self.examples[client_id] = float(num_examples[client_id])
        release(self.rows)

    def forget(self, client_ids: Iterable[int]) -> None:
        """Drop the rows of some clients."""
        for client_id in client_ids:
            if self.examples.pop(client_id, None) is not None:
                self.rows[client_id] = 0

    def start_over(self, initial: Vector | None = None) -> None:
        """Drop all rows; another lineage begins, with other initial statistics."""
        if initial is not None:
            self.initial = initial.astype(np.float32)
        self.rows[...] = 0
        self.examples.clear()
        self.made = None

    def facts(self) -> dict[str, Any]:
        """Return what belongs to the rows, as JSON can hold it."""
        return {str(k): count for k, count in sorted(self.examples.items())}

    def restore_facts(self, facts: Mapping[str, Any]) -> None:
        """Take back what `facts` gave, after the rows have been filled."""
        self.examples = {int(k): float(count) for k, count in facts.items()}
