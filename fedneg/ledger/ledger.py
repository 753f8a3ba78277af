"""What the server keeps so that it can forget: one contribution per client.

A client's *contribution* is the sum over rounds of its aggregation weight times its
update (local minus global), scaled by the server optimiser. Since FedAvg's server step
is linear in the updates, at every round, up to rounding,

    global = initial + sum of all contributions + correction,

where *correction* collects what forgetting changed beyond zeroing rows. Memory is K x d
numbers however many rounds are trained. This is the "historical parameter updates" of
Wu, Zhu and Mitra (arXiv:2201.09441, section 3), summed as they arrive.

Server momentum stays exact too: with one momentum row per client,
``buffer_k <- beta * buffer_k + weight_k * update_k`` and ``contribution_k += rate *
buffer_k``, for every client in every round in which anybody took part.

One class, and longer than most: every method keeps the identity above, and whoever
changes one has to have the others before their eyes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedneg.core.machine import cores
from fedneg.core.parameters import Vector, digest_of_model, weights_of
from fedneg.ledger.bank import Bank
from fedneg.ledger.rows import KeptUpdates, Vectors, grown, make_rows, release
from fedneg.ledger.statistics import Statistics
from fedneg.ledger.steps import Blocks, Step

# Numbers summed at a time: a block of every sum stays in the processor's cache.
BLOCK = 1 << 15
# Writes a block of what a client added to the aggregate into the vector given last.
WritePart = Callable[[int, slice, Vector], None]
# Takes a block of the parameters after a round.
TakeBlock = Callable[[slice, Vector], None]
# How far ledger and global parameters may be apart (`Ledger.deviation`).
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Participation:
    """Who took part in a round, with which aggregation weight.

    FedAvg's sum to 1; another server's to whatever it made of them. `norms` are those
    of each client's update in each of the model's arrays: some methods need no more of
    an update than how long it was.
    """

    server_round: int
    weights: Mapping[int, float]
    norms: Mapping[int, tuple[float, ...]] = field(default_factory=dict)

    def without(
        self, client_ids: Iterable[int], *, spread: float = 1.0
    ) -> "Participation":
        """Return the same without weights and norms of some clients.

        What FedAvg's other weights lack of 1 still is their joint share of the examples
        in that round: those weights are as they were, since some methods subtract by
        them.
        Unless a method made the others' weights `spread` times what they were.
        """
        ids = set(client_ids)
        weights = {
            k: found * spread for k, found in self.weights.items() if k not in ids
        }
        norms = {k: found for k, found in self.norms.items() if k not in ids}
        return Participation(self.server_round, weights, norms)


class Ledger:
    """Contributions of K clients to a model of d parameters.

    Parameters
    ----------
    initial : Vector, shape (d,)
        The parameters before round 1.
    clients : int
        K; client ids are 0..K-1.
    learning_rate, momentum : float
        The server optimiser; 1 and 0 are plain FedAvg.
    keep_local : bool
        Also keep the last local model of each client: another K rows.
    updates : KeptUpdates, optional
        Also keep every client's update in some rounds: K rows for each.
    bank : Bank, optional
        Also keep them all, whole or summed as they age.
    folder : Path, optional
        Hold the rows in memory maps of nameless files here, not in memory.
    limit : int
        Only once they are more bytes than this: rows grow as clients come.
    statistics : Statistics, optional
        Of a model that has some: they follow the parameters in its vector.

    Attributes
    ----------
    contributions : float32 array, shape (K, d)
    correction : Vector, shape (d,)
    local : mapping of client id to Vector
        The last local model of each client, as far as they are kept.
    participation : list of Participation
        One entry per round in which somebody took part.
    shared : dict of str to Vector
        What the server remembers of all clients together, which is nobody's row.
    origin : str
        A sha256 of the initial parameters, as they were given.
    """

    def __init__(
        self,
        initial: Vector,
        *,
        clients: int,
        learning_rate: float = 1.0,
        momentum: float = 0.0,
        keep_local: bool = True,
        updates: KeptUpdates | None = None,
        bank: Bank | None = None,
        folder: Path | None = None,
        limit: int = -1,
        statistics: Statistics | None = None,
    ) -> None:
        self.initial = initial.astype(np.float32)
        self.statistics = statistics or Statistics(
            np.empty(0, np.float32), clients=clients, means=0
        )
        self.origin = digest_of_model(self.initial)
        self.learning_rate, self.momentum = learning_rate, momentum
        self.keep_local, self.folder, self.limit = keep_local, folder, limit
        place = self._place(clients)
        self.contributions = make_rows(clients, initial.size, place)
        self.correction = np.zeros(initial.size, dtype=np.float32)
        # Rows exist only where a momentum has to be remembered.
        self.buffers = make_rows(clients, initial.size, place) if momentum else None
        rows = make_rows(clients if keep_local else 0, initial.size, place)
        self.local = Vectors(rows)
        self.updates = KeptUpdates() if updates is None else updates
        self.bank = Bank() if bank is None else bank
        self.participation: list[Participation] = []
        self.shared: dict[str, Vector] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> "Ledger":
        """Return a copy whose rows lie where these do: on the disk, if they are there.

        Raises
        ------
        FedNegError
            If the disk cannot hold them twice.
        """
        stores = [self.contributions, self.buffers, self.local.rows]
        stores += [self.updates.rows, self.bank.sums, self.bank.whole]
        for rows in (*stores, self.statistics.rows):
            if isinstance(rows, np.memmap):
                memo[id(rows)] = grown(rows, 0, self.folder)
        found = memo[id(self)] = type(self).__new__(type(self))
        for name, value in vars(self).items():
            setattr(found, name, deepcopy(value, memo))
        return found

    @property
    def clients(self) -> int:
        """K, the number of rows."""
        return len(self.contributions)

    def grow(self, clients: int) -> None:
        """Have rows for so many clients, at least; those that are there stay."""
        more = clients - self.clients
        if more <= 0:
            return
        place = self._place(clients)
        # All of them, or none: a disk may have room for some only.
        self.statistics.grow(clients)
        contributions = grown(self.contributions, more, place)
        buffers = None if self.buffers is None else grown(self.buffers, more, place)
        if self.keep_local:
            self.local.grow(more, place)
        self.contributions, self.buffers = contributions, buffers

    def _place(self, clients: int) -> Path | None:
        """Return the folder where the rows of so many clients lie; None: in memory."""
        each = 1 + bool(self.momentum) + self.keep_local
        large = clients * each * self.initial.nbytes > self.limit
        return self.folder if large else None

    @property
    def num_bytes(self) -> int:
        """Bytes held so that clients can be forgotten."""
        rows = self.contributions.nbytes + self.correction.nbytes
        buffers = 0 if self.buffers is None else self.buffers.nbytes
        local = sum(v.nbytes for v in self.local.values())
        own = self.statistics.rows.nbytes + sum(v.nbytes for v in self.shared.values())
        whole = self.updates.rows.nbytes + self.bank.nbytes
        return rows + buffers + local + whole + own

    @property
    def width(self) -> int:
        """How many entries the vector of a whole model has."""
        return self.initial.size + self.statistics.initial.size

    def whole(self, parameters: Vector) -> Vector:
        """Return parameters (d,) with the global statistics after them."""
        if not self.statistics.initial.size:
            return parameters
        return np.concatenate([parameters, self.statistics.current])

    def record(
        self,
        server_round: int,
        before: Vector,
        local: Mapping[int, Vector],
        num_examples: Mapping[int, float],
        norms: Mapping[int, tuple[float, ...]] | None = None,
    ) -> Vector:
        """Enter a round and return the new global parameters.

        Parameters
        ----------
        server_round : int
            1-based.
        before : Vector, shape (d,)
            The global parameters that the clients started from.
        local : mapping of client id to Vector
            Local parameters after training. Summed in the order of client ids, so
            that the result does not depend on who answered first.
        num_examples : mapping of client id to number
            Training examples of the same clients, or what their weights are to be
            proportional to.
        norms : mapping of client id to tuple of float, optional
            What to write down of how long their updates were (`Participation`).

        Returns
        -------
        Vector
            Parameters after the server step. An empty round returns `before` as it is
            and leaves every row, momentum included, untouched.
        """
        if not local:
            return before
        order = sorted(local)
        weights = dict(
            zip(order, weights_of([num_examples[k] for k in order]), strict=True)
        )

        def part(client_id: int, block: slice, out: Vector) -> None:
            np.subtract(local[client_id][block], before[block], out=out)
            out *= np.float32(weights[client_id])

        after = np.empty(before.size, dtype=np.float32)

        def take(block: slice, found: Vector) -> None:
            after[block] = found

        self._advance(before, order, part, np.float32(self.learning_rate), take)
        if self.keep_local:
            for client_id in order:
                self.local[client_id] = local[client_id]
        for client_id in order:
            kept = self.updates.row(len(self.participation), client_id, self.clients)
            if kept is not None:
                np.subtract(local[client_id], before, out=kept)
        recent = self.participation[-max(1, self.bank.recent) :]
        oldest = recent[0].weights if recent else {}
        rate = self.learning_rate
        self.bank.enter(server_round, before, local, oldest=oldest, rate=rate)
        self.participation.append(
            Participation(server_round, weights, dict(norms or {}))
        )
        self.release()
        return after

    def enter(
        self,
        server_round: int,
        before: Blocks,
        step: Step,
        *,
        take: TakeBlock | None = None,
    ) -> Vector:
        """Enter a round of which each client's part is known, and no one weight is.

        As `record`, for whoever computed the parts.

        Parameters
        ----------
        server_round : int
            1-based.
        before : Vector, shape (d,)
            The global parameters that the clients started from.
        step : Step
        take : callable, optional
            (block, parameters after the server step): given the result by blocks, in
            any order and in threads. Then none is returned whole.

        Returns
        -------
        Vector
            Parameters after the server step; empty if `take` had them.
        """
        after = np.empty(0 if take else before.size, dtype=np.float32)

        def part(client_id: int, block: slice, out: Vector) -> None:
            out[...] = step.parts[client_id][block]

        def keep(block: slice, found: Vector) -> None:
            after[block] = found

        gain = step.gain
        rate = gain if isinstance(gain, np.ndarray) else np.float32(gain)
        self._advance(before, sorted(step.parts), part, rate, take or keep)
        if self.keep_local:
            for client_id, vector in sorted(step.local.items()):
                self.local[client_id] = vector
        self.participation.append(
            Participation(server_round, dict(step.weights), dict(step.norms))
        )
        self.release()
        return after

    def correct(self, block: slice, after: Vector, expected: Vector) -> None:
        """Say that a step ended elsewhere than its parts do, by what is nobody's."""
        self.correction[block] += after - expected

    def _advance(
        self,
        before: Blocks,
        order: Sequence[int],
        part: WritePart,
        gain: np.float32 | Vector,
        take: TakeBlock,
    ) -> None:
        """Enter parts that `part` writes block by block; `take` has what they make."""

        def sum_block(start: int) -> None:
            block = slice(start, start + BLOCK)
            rate = gain[block] if isinstance(gain, np.ndarray) else gain
            old = before[block]
            step = self._step(block, old.size, order, part, rate)
            take(block, (old + step).astype(np.float32))
            self.release()  # not all rows at once, if they are maps

        # Blocks have nothing to do with each other: their order changes no bit.
        starts = range(0, before.size, BLOCK)
        with ThreadPoolExecutor(min(cores(), len(starts))) as pool:
            list(pool.map(sum_block, starts))

    def _step(
        self,
        block: slice,
        size: int,
        order: Sequence[int],
        part: WritePart,
        rate: np.float32 | Vector,
    ) -> NDArray[np.float64]:
        """Enter one block of a round and return the server's step there."""
        step = np.zeros(size, dtype=np.float64)
        rows, buffers = self.contributions, self.buffers
        change = np.empty(size, dtype=np.float32)
        present = set(order)
        for client_id in order:
            part(client_id, block, change)
            if buffers is None:
                if isinstance(rate, np.ndarray) or rate != 1:
                    change *= rate
                rows[client_id, block] += change
                step += change
            else:
                kept = buffers[client_id, block]
                kept *= np.float32(self.momentum)
                kept += change
        if buffers is not None:
            for client_id in range(self.clients):
                if client_id not in present:  # absent clients' momentum advances too
                    buffers[client_id, block] *= np.float32(self.momentum)
                np.multiply(buffers[client_id, block], rate, out=change)
                rows[client_id, block] += change
                step += change
        return step

    def release(self) -> None:
        """Give back what memory the rows' maps have filled."""
        release(self.contributions)
        if self.buffers is not None:
            release(self.buffers)
        self.local.release()
        release(self.updates.rows)

    def contribution(
        self, client_ids: Iterable[int], block: slice = slice(None)
    ) -> NDArray[np.float64]:
        """Return the summed contribution of several clients, shape (d,), or a block."""
        total = np.zeros(self.initial[block].size, dtype=np.float64)
        for client_id in sorted(client_ids):
            total += self.contributions[client_id, block]
        self.release()
        return total

    def forget(
        self,
        client_ids: Iterable[int],
        *,
        before: Blocks,
        after: Blocks,
        spread: float = 1.0,
    ) -> None:
        """Zero the rows of clients that a method has taken out of the model.

        What the method changed beyond those rows (after - before + contribution) goes
        into `correction`, so that the identity in the module docstring goes on to hold.

        Parameters
        ----------
        spread : float
            How many times their old weights the method gave to the clients that stay,
            in every round: their rows, momentum rows and weights are made so many times
            what they were, as if they had trained with these from the start.
        """
        ids = sorted(client_ids)
        for start in range(0, after.size, BLOCK):  # a few numbers of float64 at a time
            block = slice(start, start + BLOCK)
            beyond = after[block].astype(np.float64) - before[block]
            beyond += self.contribution(ids, block)
            self.contributions[ids, block] = 0
            if spread != 1:
                rest = self.contribution(range(self.clients), block)
                beyond -= (spread - 1) * rest
            self.correction[block] = self.correction[block] + beyond
        if self.buffers is not None:
            self.buffers[ids] = 0
        if spread != 1:
            for rows in (self.contributions, self.buffers):
                for row in () if rows is None else rows:
                    row *= np.float32(spread)
                    self.release()
        for client_id in ids:
            self.local.pop(client_id, None)
        self.updates.forget(ids, self.clients)
        self.bank.forget(ids, spread=spread)
        self.statistics.forget(ids)
        self.participation = [
            entry.without(ids, spread=spread) for entry in self.participation
        ]

    def last_round(self, client_id: int) -> int:
        """Return the last round in which a client took part, else 0."""
        for entry in reversed(self.participation):
            if client_id in entry.weights:
                return entry.server_round
        return 0

    def forget_local_before(self, server_round: int) -> list[int]:
        """Remove last local models of earlier rounds; return whose they were.

        A local model is the global one that it started from and an update: of a round
        before somebody was forgotten, it contains whoever that was.
        """
        old = [k for k in self.local if self.last_round(k) < server_round]
        for client_id in old:
            del self.local[client_id]
        return old

    def start_over(self, initial: Vector) -> None:
        """Empty every row, as before round 1: another lineage, from `initial`."""
        self.initial = initial.astype(np.float32)
        self.contributions[...] = 0
        self.correction[...] = 0
        if self.buffers is not None:
            self.buffers[...] = 0
        self.local.clear()
        self.updates.rows[...] = 0
        self.bank.start_over()
        self.statistics.start_over()
        self.participation.clear()
        self.shared.clear()
        self.release()

    def fold_correction(self) -> None:
        """Make what forgetting changed a part of the parameters to start from.

        Of a client that was forgotten with a scale below 1, `correction` is a multiple
        of its contribution: nobody should find that as a row of its own. The identity
        goes on to hold, up to rounding.
        """
        total = self.initial.astype(np.float64) + self.correction
        self.initial = total.astype(np.float32)
        self.correction[...] = 0

    def last_weight(self, client_id: int) -> float:
        """Return the weight of a client in the last round it took part in, else 0."""
        for entry in reversed(self.participation):
            if client_id in entry.weights:
                return entry.weights[client_id]
        return 0.0

    def weight_per_round(self, client_ids: Iterable[int]) -> list[float]:
        """Return the clients' joint weight in each round that anybody took part in."""
        ids = set(client_ids)
        return [
            sum(w for k, w in entry.weights.items() if k in ids)
            for entry in self.participation
        ]

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Return all numbers of the ledger, by name: what a checkpoint holds."""
        arrays = {
            "initial": self.initial,
            "correction": self.correction,
            "contributions": self.contributions,
        }
        if self.buffers is not None:
            arrays["buffers"] = self.buffers
        if self.keep_local:
            arrays["local"] = self.local.rows
        if self.updates.every:
            arrays["updates"] = self.updates.rows
        arrays |= self.bank.arrays()
        if self.statistics.initial.size:
            arrays["statistics"] = self.statistics.rows
            if self.statistics.keep_initial:
                arrays["statistics initial"] = self.statistics.initial
            if self.statistics.made is not None:
                arrays["statistics made"] = self.statistics.made
        return arrays | {f"shared {n}": v for n, v in self.shared.items()}

    def facts(self) -> dict[str, Any]:
        """Return what belongs to the arrays, as JSON can hold it."""
        return {
            "participation": [
                [
                    p.server_round,
                    {str(k): w for k, w in p.weights.items()},
                    {str(k): list(found) for k, found in p.norms.items()},
                ]
                for p in self.participation
            ],
            "local": {str(k): place for k, place in self.local.places.items()},
            **({"bank": self.bank.facts()} if self.bank.recent else {}),
            **(
                {"statistics": self.statistics.facts()}
                if self.statistics.initial.size
                else {}
            ),
        }

    def restore_facts(self, facts: Mapping[str, Any]) -> None:
        """Take back what `facts` gave, after the arrays have been filled."""
        self.participation = [
            Participation(
                server_round,
                {int(k): w for k, w in weights.items()},
                # Older checkpoints have none.
                {int(k): tuple(n) for found in norms for k, n in found.items()},
            )
            for server_round, weights, *norms in facts["participation"]
        ]
        # Another method may have kept them, and this one not.
        places = facts["local"] if self.keep_local else {}
        self.local.restore({int(k): place for k, place in places.items()})
        if self.bank.recent:
            self.bank.restore_facts(facts.get("bank", {}))
        self.statistics.restore_facts(facts.get("statistics", {}))

    def rebuilt(self, block: slice = slice(None)) -> Vector:
        """Return initial + all contributions + correction: the global parameters."""
        total = self.initial[block] + self.contribution(range(self.clients), block)
        return (total + self.correction[block]).astype(np.float32)

    def deviation(self, parameters: Vector) -> float:
        """Return how far global parameters are from `rebuilt`, relative to their norms.

        What rounding leaves grows with the root of the rounds: 5e-7 after a thousand of
        them, with momentum and without (`tests/ledger/test_ledger.py`). `TOLERANCE` is
        for two hundred thousand, and less than what a client leaves in a round.
        Infinite parameters, which tell nothing, deviate by 0.
        """
        squares = np.zeros(3)
        for start in range(0, self.initial.size, BLOCK):
            block = slice(start, min(start + BLOCK, self.initial.size))
            ours, theirs = self.rebuilt(block), parameters[block].astype(np.float64)
            vectors = ours - theirs, theirs, self.initial[block].astype(np.float64)
            squares += [np.einsum("i,i->", one, one) for one in vectors]
        difference, *sizes = np.sqrt(squares)
        if not np.isfinite(sizes[0]):
            return 0.0
        scale = sum(sizes)
        return float(difference / scale) if scale else 0.0
