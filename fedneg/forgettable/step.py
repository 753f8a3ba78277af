"""Whose the server's step is: each client's part of it, or a refusal.

A step is tried against what could have made it: the server's optimiser
(`fedneg.forgettable.moments`) on updates that are weighed by one rule after the other
(`fedneg.forgettable.weighing`), and last with whatever weights come closest. The first
that makes this very step, but for rounding (`fedneg.forgettable.leeway`), says whose it
is. If none does, the strategy is refused: there is no list of strategies that are not.

A little longer than most: what is tried, in which order, and by how much each is off is
one search.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import local

import numpy as np
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from fedneg.core.errors import FedNegError
from fedneg.core.parameters import Vector
from fedneg.forgettable.fitting import arrays_of, fitted, shares_of
from fedneg.forgettable.leeway import (
    Magnitudes,
    gain_at,
    in_momentum,
    in_parts,
    in_step,
    ratio,
)
from fedneg.forgettable.moments import Server, depends_on_state, momentum_of
from fedneg.forgettable.names import Names
from fedneg.forgettable.parts import Attributed, Round
from fedneg.forgettable.refusals import NotLinearError, refusal
from fedneg.forgettable.views import Difference, dot, is_finite
from fedneg.forgettable.weighing import CHOSEN, Weighing, fixed, rules
from fedneg.ledger.ledger import Ledger
from fedneg.ledger.steps import Step

# A weighing that comes so near, of what rounding may leave, is taken at once; else the
# first that comes as near as four times the nearest.
CLEAR, AS_NEAR = 0.25, 4.0


@dataclass(frozen=True)
class Carried:
    """What a momentum brings from the rounds before, by blocks."""

    ledger: Ledger
    momentum: float

    def __getitem__(self, block: slice) -> NDArray[np.float64]:
        """Return it, of all rows together."""
        return self.momentum * momentum_of(self.ledger, block)

    def rows(self, block: slice) -> NDArray[np.float64]:
        """Return how large its rows are, all together."""
        return self.momentum * momentum_of(self.ledger, block, absolute=True)


@dataclass(frozen=True)
class Tried:
    """How near a weighing comes to a step.

    Attributes
    ----------
    ratio : float
        Of the array that it fits least, how much of what rounding may leave: up to 1.
    off : float
        As a share of the step of that array.
    array : str
        Its name.
    server : Server
        Its gain is known, factor and all.
    allowed : dict of str to float
        What rounding may leave, by array.
    """

    ratio: float
    off: float
    array: str
    server: Server
    weighing: Weighing
    allowed: dict[str, float]


def attribute(
    strategy: Strategy, ledger: Ledger, names: Names, found: Round
) -> Attributed:
    """Return each client's part of a step.

    The ledger is only looked at: what is refused has changed nothing in it.

    Raises
    ------
    FedNegError
        If a number is not finite.
    NotLinearError
        If nothing that is known here makes this step.
    """
    if not is_finite(found.step):
        raise FedNegError(
            f"round {found.number} ended in numbers that are not finite: the model "
            "diverged, or the strategy made such"
        )
    if not found.replies:
        raise NotLinearError(refusal(strategy, "its replies hold no client's model"))
    tried, doubts = list[Tried](), list[str]()
    for one in _tries(strategy, names, ledger, found, tried, doubts):
        if one.ratio <= CLEAR:
            return _parts(strategy, names, found, one)
    best = min(tried, key=lambda one: one.ratio)
    if best.ratio <= 1:
        near = (o for o in tried if o.ratio <= min(1, AS_NEAR * best.ratio))
        return _parts(strategy, names, found, next(near))
    best = min(tried, key=lambda one: one.off)
    if doubts:
        raise NotLinearError(refusal(strategy, doubts[0]))
    raise NotLinearError(
        refusal(
            strategy,
            f"its step in round {found.number} is off by {best.off:.2g} of the "
            f"nearest weighted sum of its clients' updates, in array {best.array}",
        )
    )


def _tries(
    strategy: Strategy,
    names: Names,
    ledger: Ledger,
    found: Round,
    tried: list[Tried],
    doubts: list[str],
) -> Iterator[Tried]:
    """Yield how far each weighing is from the step, and keep it.

    And why weights were not looked for, where they could not be told.
    """
    for server, carried, weighing in _weighings(
        strategy, names, ledger, found, tried, doubts
    ):
        gain = server.gain
        if isinstance(gain, np.ndarray):
            gain = gain * np.float32(_factor(names, server, found, carried, weighing))
        by_all = replace(server, gain=gain)
        sums: dict[str, NDArray[np.float64]] = {}
        for block, name, moved, momentum, rest in _moved(
            names, by_all, found, carried, weighing
        ):
            step = found.step[block]
            allowed = np.abs(gain_at(gain, block)) * momentum + rest
            moved -= step
            squares = dot(moved, moved), dot(allowed, allowed), dot(step, step)
            sums[name] = sums.get(name, np.zeros(3)) + squares
        sizes = {name: np.sqrt(squares) for name, squares in sums.items()}
        name = max(sizes, key=lambda n: ratio(sizes[n][0], sizes[n][1]))
        off, most, step_size = map(float, sizes[name])
        by = off / step_size if step_size else float("inf")
        bounds = {n: float(size[1]) for n, size in sizes.items()}
        tried.append(Tried(ratio(off, most), by, name, by_all, weighing, bounds))
        yield tried[-1]


def _factor(
    names: Names,
    server: Server,
    found: Round,
    carried: Carried | None,
    weighing: Weighing,
) -> float:
    """Return what a gain that is known up to a factor is to be multiplied with.

    Of the arrays, those count most that tell it most exactly.
    """
    sums: dict[str, NDArray[np.float64]] = {}
    for block, name, moved, momentum, rest in _moved(
        names, server, found, carried, weighing
    ):
        if server.made is not None:
            moved = server.made[block].astype(np.float64)
            moved *= gain_at(server.gain, block)
        of_gain = np.abs(gain_at(server.gain, block)) * momentum
        squares = (
            dot(moved, moved),
            dot(found.step[block], moved),
            dot(of_gain, of_gain),
            dot(rest, rest),
        )
        sums[name] = sums.get(name, np.zeros(4)) + squares
    length, product, of_gains, rests = np.array(list(sums.values())).T
    if not length.any():
        return 1.0
    first = product.sum() / length.sum()
    noise = first**2 * of_gains + rests
    weights = 1 / np.maximum(noise, np.finfo(float).tiny)
    return float((weights * product).sum() / (weights * length).sum())


def _moved(
    names: Names,
    server: Server,
    found: Round,
    carried: Carried | None,
    weighing: Weighing,
) -> Iterator[
    tuple[slice, str, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
]:
    """Yield blocks of an array, its name, and the step that a weighing would have made.

    And how far what the gain is multiplied with may be off, and what is beside that.
    """
    count, shares = len(found.replies), shares_of(found)
    for block, name, weights, updates in _weighed(names, found, weighing):
        dtype = names.dtypes[name]
        parts = weights * updates
        moved = server.share * parts.sum(axis=0)
        before = found.before[block].astype(np.float64)
        # What a strategy weighs less than by examples it has mostly made smaller.
        by = np.abs(weights)
        by = by if weighing.column is None else np.maximum(by, shares)
        size = Magnitudes(
            (by * np.abs(before + updates)).sum(axis=0),
            np.abs(parts).sum(axis=0),
            0.0 if carried is None else carried.rows(block),
            np.abs(before) + np.abs(found.step[block]),
        )
        if carried is not None:
            moved += carried[block]
        moved *= gain_at(server.gain, block)
        momentum = in_momentum(
            size,
            dtype,
            replies=count,
            share=server.share,
            momentum=server.momentum,
            rounds=found.number,
        )
        rest = in_step(size, dtype) + in_parts(found.step[block])
        yield block, name, moved, momentum, rest


def _weighings(
    strategy: Strategy,
    names: Names,
    ledger: Ledger,
    found: Round,
    tried: Sequence[Tried],
    doubts: list[str],
) -> Iterator[tuple[Server, Carried | None, Weighing]]:
    """Yield what may have made a step: the known rules first, by all settings."""
    servers = list[tuple[Server, Carried | None, int]]()
    is_sure = len({one.momentum for one in found.settings}) == 1
    for settings in found.settings:
        server = Server.of(strategy, names, settings, is_sure=is_sure)
        carried = None if ledger.buffers is None else Carried(ledger, server.momentum)
        servers.append((server, carried, len(tried)))
        for weighing in rules(strategy, found.kept):
            yield server, carried, weighing
    for server, carried, first in servers:
        allowed = tried[first].allowed
        weights = _closest(names, server, found, carried, allowed, doubts)
        if weights is not None:
            yield server, carried, fixed(weights, CHOSEN)


def _closest(
    names: Names,
    server: Server,
    found: Round,
    carried: Carried | None,
    allowed: Mapping[str, float],
    doubts: list[str],
) -> NDArray[np.float64] | None:
    """Return the weights that come closest to a step, where a gain is one number."""
    if isinstance(server.gain, np.ndarray) or not server.gain:
        return None
    gain = server.gain

    def aggregate(block: slice) -> NDArray[np.float64]:
        total = found.step[block] / gain
        if carried is not None:
            total -= carried[block]
        return np.asarray(total / server.share)

    return fitted(names, found, aggregate, allowed, doubts)


def _weighed(
    names: Names, found: Round, weighing: Weighing, inside: slice | None = None
) -> Iterator[tuple[slice, str, NDArray[np.floating], NDArray[np.float64]]]:
    """Yield blocks of an array, its name, and the weights and updates of all there."""
    for block, name in arrays_of(names, inside):
        updates = np.stack([reply.update[block] for reply in found.replies])
        weights = weighing.column
        if weights is None:
            values = np.stack(
                [
                    reply.update.local(block, names.dtypes[name])
                    if isinstance(reply.update, Difference)
                    else found.before[block] + reply.update[block]
                    for reply in found.replies
                ]
            )
            weights = weighing.of(values.astype(names.dtypes[name], copy=False))
        yield block, name, weights, updates.astype(np.float64)


def _parts(strategy: Strategy, names: Names, found: Round, tried: Tried) -> Attributed:
    """Return the parts by client."""
    server, weighing = tried.server, tried.weighing
    means = np.zeros(len(found.replies))
    if weighing.column is not None:
        means += weighing.column[:, 0]
    else:
        for _, _, weights, updates in _weighed(names, found, weighing):
            wide = np.broadcast_to(weights, updates.shape)
            means += wide.sum(axis=1) / found.before.size
    shares = dict[int, float]()
    for reply, mean in zip(found.replies, means, strict=True):
        shares[reply.row] = shares.get(reply.row, 0.0) + float(mean)
    parts = Parts(names, server, found, weighing)
    depends = depends_on_state(strategy) | {weighing.depends} - {""}
    step = Step({row: Part(parts, row) for row in shares}, shares, server.gain)
    return Attributed(step, server.momentum, frozenset(depends))


class Parts:
    """All clients' parts of a step, computed by blocks as the ledger enters them."""

    def __init__(
        self, names: Names, server: Server, found: Round, weighing: Weighing
    ) -> None:
        self.size = found.before.size
        self._of = names, server, found, weighing
        # The ledger reads each client's part of a block before the next, in threads.
        self._last = local()

    def of(self, row: int, block: slice) -> Vector:
        """Return a client's part of a block, float32."""
        start, stop, _ = block.indices(self.size)
        if getattr(self._last, "block", None) != (start, stop):
            self._last.found = self._compute(slice(start, stop))
            self._last.block = (start, stop)
        part: Vector = self._last.found[row]
        return part

    def _compute(self, inside: slice) -> dict[int, Vector]:
        """Return all parts of a block, by rows."""
        names, server, found, weighing = self._of
        parts = dict[int, Vector]()
        for block, _, weights, updates in _weighed(names, found, weighing, inside):
            here = slice(block.start - inside.start, block.stop - inside.start)
            seen = set[int]()
            for reply, part in zip(
                found.replies,
                (server.share * weights * updates).astype(np.float32),
                strict=True,
            ):
                row = parts.setdefault(
                    reply.row, np.empty(inside.stop - inside.start, np.float32)
                )
                if reply.row in seen:  # another node of the same client
                    row[here] += part
                else:
                    row[here] = part
                seen.add(reply.row)
        return parts


@dataclass(frozen=True)
class Part:
    """One client's part of a step."""

    parts: Parts
    row: int

    @property
    def size(self) -> int:
        """How many parameters there are."""
        return self.parts.size

    def __getitem__(self, block: slice) -> Vector:
        """Return a part of it, float32."""
        return self.parts.of(self.row, block)
