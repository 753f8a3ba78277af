"""Whose the server's step is: each client's part of it, or a refusal.

A step is tried against what could have made it: the server's optimiser
(`fedneg.forgettable.moments`) on updates that are weighed by one rule after the other
(`fedneg.forgettable.weighing`), and last with whatever weights come closest. The first
that makes this very step says whose it is. If none does, the strategy is refused: there
is no list of strategies that are not.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import prod
from threading import local
from typing import Any

import numpy as np
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from fedneg.core.errors import FedNegError
from fedneg.core.parameters import Vector
from fedneg.forgettable.moments import Server, depends_on_state, momentum_of
from fedneg.forgettable.names import Names
from fedneg.forgettable.parts import Attributed, Round
from fedneg.forgettable.refusals import NotLinearError, refusal
from fedneg.forgettable.views import blocks, dot, is_finite, norm
from fedneg.forgettable.weighing import CHOSEN, Weighing, fixed, rules
from fedneg.ledger.ledger import BLOCK, Ledger
from fedneg.ledger.steps import Step

# How far a step may be from what is said to have made it: a share of the step, and what
# rounding leaves of the parameters themselves, in units of their type's epsilon. First
# all are tried with the smaller share.
OF_STEP, OF_EPSILON = (1e-5, 1e-3), 8.0
# Weights are looked for only where there are so many more parameters than replies: with
# fewer, some would always be found.
MORE = 8
# What a step has beside the aggregate, or an aggregate itself, by blocks.
Carried = Callable[[slice], NDArray[np.float64]]


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
    size = norm(found.step)
    sent = (reply.update for reply in found.replies)
    if not (np.isfinite(size) and all(is_finite(one) for one in sent)):
        raise FedNegError(
            f"round {found.number} ended in numbers that are not finite: the model "
            "diverged, or a client sent such"
        )
    if not found.replies:
        raise NotLinearError(refusal(strategy, "its replies hold no client's model"))
    server = Server.of(strategy, names)
    tried = list[tuple[float, float | Vector, Weighing]]()
    carried = _carried(ledger, found.momentum)
    for share in OF_STEP:
        for off, gain, weighing in tried or _tries(
            strategy, names, server, found, carried, tried
        ):
            if off <= share * size:
                return _parts(strategy, names, server, found, gain, weighing)
    best = min(off for off, *_ in tried)
    by = f"{best / size:.2g}" if size else "inf"
    raise NotLinearError(
        refusal(
            strategy,
            f"its step in round {found.number} is off by {by} of the nearest weighted "
            "sum of its clients' updates",
        )
    )


def _tries(
    strategy: Strategy,
    names: Names,
    server: Server,
    found: Round,
    carried: Carried | None,
    tried: list[tuple[float, float | Vector, Weighing]],
) -> Iterator[tuple[float, float | Vector, Weighing]]:
    """Yield how far each weighing is from the step, and keep it."""
    scale = np.maximum(np.abs(server.gain) * server.share, 1)
    rounding = _rounding(names, found, scale)
    for weighing in _weighings(strategy, server, found, carried):
        gain = server.gain
        if isinstance(gain, np.ndarray):
            length = product = 0.0
            for block, moved in _moved(names, server, found, carried, weighing):
                length += dot(moved, moved)
                product += dot(found.step[block], moved)
            gain = gain * np.float32(product / length if length else 1.0)
        off = dict.fromkeys(rounding, 0.0)
        made = _moved(names, replace(server, gain=gain), found, carried, weighing)
        for (block, moved), (_, dtype) in zip(made, _typed(names), strict=True):
            moved -= found.step[block]
            off[dtype] += dot(moved, moved)
        # What a coarse type rounds excuses its own arrays, and no others.
        beyond = [max(0.0, off[d] ** 0.5 - OF_EPSILON * r) for d, r in rounding.items()]
        tried.append((float(np.linalg.norm(beyond)), gain, weighing))
        yield tried[-1]


def _rounding(
    names: Names, found: Round, scale: float | Vector
) -> dict[np.dtype[Any], float]:
    """Return what rounding leaves of parameters and step, by the arrays' type."""
    squares: dict[np.dtype[Any], float] = {}
    for block, dtype in _typed(names):
        by = scale[block] if isinstance(scale, np.ndarray) and scale.ndim else scale
        epsilon = max(np.finfo(dtype).eps, np.finfo(np.float32).eps)
        two = (by * one[block].astype(np.float64) for one in (found.before, found.step))
        size = sum(dot(part, part) ** 0.5 for part in two)
        squares[dtype] = squares.get(dtype, 0.0) + float(epsilon * size) ** 2
    return {dtype: square**0.5 for dtype, square in squares.items()}


def _moved(
    names: Names,
    server: Server,
    found: Round,
    carried: Carried | None,
    weighing: Weighing,
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Yield blocks of the step that a weighing would have made."""
    for block, weights, updates in _weighed(names, found, weighing):
        moved = server.share * (weights * updates).sum(axis=0)
        if carried is not None:
            moved += carried(block)
        gain = server.gain
        moved *= gain[block] if isinstance(gain, np.ndarray) else gain
        yield block, moved


def _weighings(
    strategy: Strategy,
    server: Server,
    found: Round,
    carried: Carried | None,
) -> Iterator[Weighing]:
    yield from rules(strategy, found.kept)
    if not isinstance(server.gain, np.ndarray) and server.gain:

        def aggregate(block: slice) -> NDArray[np.float64]:
            total = found.step[block] / server.gain
            if carried is not None:
                total -= carried(block)
            return np.asarray(total / server.share)

        weights = _fitted(found, aggregate)
        if weights is not None:
            yield fixed(weights, CHOSEN)


def _fitted(found: Round, aggregate: Carried) -> NDArray[np.float64] | None:
    """Return the weights of updates that come closest to an aggregate, if any can say.

    Of those whose updates are alike, each keeps its share by examples.
    """
    replies, count = found.replies, len(found.replies)
    if found.before.size < count + MORE:
        return None
    products, shares = np.zeros((count, count)), np.zeros(count)
    for block in blocks(found.before.size):
        updates = np.stack([r.update[block] for r in replies]).astype(np.float64)
        products += updates @ updates.T
        shares += updates @ aggregate(block)
    first = np.array([reply.weight for reply in replies])
    first = first / first.sum() if first.sum() else np.full(count, 1 / count)
    inverse = np.linalg.pinv(products, rcond=1e-12, hermitian=True)
    weights: NDArray[np.float64] = first + inverse @ (shares - products @ first)
    return weights


def _typed(
    names: Names, inside: slice | None = None
) -> Iterator[tuple[slice, np.dtype[np.floating]]]:
    """Yield blocks of the parameters, or of some of them, each of one type."""
    low, high = (
        (0, names.layout.size) if inside is None else (inside.start, inside.stop)
    )
    start = 0
    for name in names.parameters:
        stop = start + prod(names.shapes[name])
        for first in range(max(start, low), min(stop, high), BLOCK):
            yield slice(first, min(first + BLOCK, stop, high)), names.dtypes[name]
        start = stop


def _weighed(
    names: Names, found: Round, weighing: Weighing, inside: slice | None = None
) -> Iterator[tuple[slice, NDArray[np.floating], NDArray[np.float64]]]:
    """Yield blocks with the weights and updates there of all replies."""
    for block, dtype in _typed(names, inside):
        updates = np.stack([reply.update[block] for reply in found.replies])
        weights = weighing.column
        if weights is None:
            values = found.before[block] + updates
            weights = weighing.of(values.astype(dtype, copy=False))
        yield block, weights, updates.astype(np.float64)


def _carried(ledger: Ledger, momentum: float) -> Carried | None:
    """Return what the momentum brings from the rounds before, by blocks."""
    if ledger.buffers is None:
        return None
    return lambda block: momentum * momentum_of(ledger, block)


def _parts(
    strategy: Strategy,
    names: Names,
    server: Server,
    found: Round,
    gain: float | Vector,
    weighing: Weighing,
) -> Attributed:
    """Return the parts by client."""
    means = np.zeros(len(found.replies))
    if weighing.column is not None:
        means += weighing.column[:, 0]
    else:
        for _, weights, updates in _weighed(names, found, weighing):
            wide = np.broadcast_to(weights, updates.shape)
            means += wide.sum(axis=1) / found.before.size
    shares = dict[int, float]()
    for reply, mean in zip(found.replies, means, strict=True):
        shares[reply.row] = shares.get(reply.row, 0.0) + float(mean)
    parts = Parts(names, server, found, weighing)
    depends = depends_on_state(strategy) | {weighing.depends} - {""}
    step = Step({row: Part(parts, row) for row in shares}, shares, gain)
    return Attributed(step, frozenset(depends))


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
        for block, weights, updates in _weighed(names, found, weighing, inside):
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
