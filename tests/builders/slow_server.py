"""Flower's strategies again, slowly and in float64: whose the server's step is.

From the messages alone: what went to whom, and what came back. One loop per client and
per number, nothing of fedneg, nothing of Flower.
"""

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

import numpy as np

from builders.strangers import INITIAL, TRAINED, Arrays, Watched, loss_of
from fedneg.engines.inline import FIRST_NODE_ID

Replies = Mapping[int, tuple[Arrays, float]]
# What each node's update weighs in an array: of the array's shape, or one number.
Weights = dict[int, Any]
Weigh = Callable[[str, Arrays, Replies], Weights]


def by_examples(name: str, before: Arrays, replies: Replies) -> Weights:
    """Weigh as FedAvg does."""
    total = sum(count for _, count in replies.values())
    return {node: count / total for node, (_, count) in replies.items()}


def by_rank(share: float | None) -> Weigh:
    """Return how the trimmed mean weighs, or for None the median: number by number."""

    def weigh(name: str, before: Arrays, replies: Replies) -> Weights:
        nodes = list(replies)
        count = len(nodes)
        cut = (count - 1) // 2 if share is None else int(share * count)
        found = {node: np.zeros(INITIAL[name].shape) for node in nodes}
        for place in np.ndindex(INITIAL[name].shape):
            ranked = sorted(nodes, key=lambda n: float(replies[n][0][name][place]))
            for node in ranked[cut : count - cut]:
                found[node][place] = 1 / (count - 2 * cut)
        return found

    return weigh


def nearest(replies: Replies, *, bad: int, wanted: int) -> list[int]:
    """Return the nodes that Krum would choose: of all arrays, measured as one."""
    nodes = list(replies)
    flat = {
        node: np.concatenate([np.ravel(a).astype(np.float64) for a in arrays.values()])
        for node, (arrays, _) in replies.items()
    }
    squares = {node: {node: 0.0} for node in nodes}
    for a, b in combinations(nodes, 2):
        squares[a][b] = squares[b][a] = float(((flat[a] - flat[b]) ** 2).sum())
    near = max(1, len(nodes) - bad - 2)
    scores = {node: sum(sorted(squares[node].values())[1 : near + 1]) for node in nodes}
    return sorted(nodes, key=scores.__getitem__)[:wanted]


def by_krum(bad: int, wanted: int) -> Weigh:
    """Return how MultiKrum weighs: the chosen by their examples."""

    def weigh(name: str, before: Arrays, replies: Replies) -> Weights:
        chosen = nearest(replies, bad=bad, wanted=wanted)
        return by_examples(name, before, {node: replies[node] for node in chosen})

    return weigh


def by_bulyan(bad: int) -> Weigh:
    """Return how Bulyan weighs; fewer than 4 * bad + 3 replies make no step."""

    def weigh(name: str, before: Arrays, replies: Replies) -> Weights:
        wanted = len(replies) - 2 * bad
        chosen = nearest(replies, bad=bad, wanted=wanted)
        found = {node: np.zeros(INITIAL[name].shape) for node in chosen}
        for place in np.ndindex(INITIAL[name].shape):
            values = {n: float(replies[n][0][name][place]) for n in chosen}
            middle = np.median(list(values.values()))
            ranked = sorted(chosen, key=lambda n: abs(values[n] - middle))
            for node in ranked[: wanted - 2 * bad]:
                found[node][place] = 1 / (wanted - 2 * bad)
        return found

    return weigh


def by_loss(q: float, rate: float) -> Weigh:
    """Return how QFedAvg weighs: by losses, over a bound of the curvature."""

    def weigh(name: str, before: Arrays, replies: Replies) -> Weights:
        powers, total = {}, 0.0
        for node, (local, _) in replies.items():
            loss = loss_of(node - FIRST_NODE_ID) + 1e-10
            square = sum(
                (((before[n].astype(np.float64) - local[n]) / rate) ** 2).sum()
                for n in before
            )
            powers[node] = loss**q / rate
            total += q * loss ** (q - 1) * square + loss**q / rate
        return {node: power / total for node, power in powers.items()}

    return weigh


def length_of(before: Arrays, local: Arrays) -> float:
    """Return how long an update is, all arrays as one."""
    squares = (((local[n].astype(np.float64) - before[n]) ** 2).sum() for n in before)
    return float(np.sqrt(sum(squares)))


def by_clipping(norm: float) -> Weigh:
    """Return how FedAvg weighs updates that the server has clipped before."""

    def weigh(name: str, before: Arrays, replies: Replies) -> Weights:
        found = by_examples(name, before, replies)
        for node, (local, _) in replies.items():
            found[node] *= min(1.0, norm / length_of(before, local))
        return found

    return weigh


def by_adaptive_clipping(norm: float, *, rate: float, wanted: float) -> Weigh:
    """Return the same, with a norm that follows the share of those it clips."""
    norms: dict[int, float] = {}  # by round, in their order
    after = [norm]

    def weigh(name: str, before: Arrays, replies: Replies) -> Weights:
        if id(replies) not in norms:
            norms[id(replies)] = used = after[0]
            lengths = [length_of(before, local) for local, _ in replies.values()]
            share = sum(length > used for length in lengths) / len(lengths)
            after[0] = used * float(np.exp(-rate * (share - wanted)))
        return by_clipping(norms[id(replies)])(name, before, replies)

    return weigh


class Optimiser:
    """A server's optimiser with a row of momentum per node.

    Parameters
    ----------
    kind : str
        plain, adam, yogi or adagrad.
    """

    def __init__(
        self,
        kind: str = "plain",
        *,
        rate: float = 1.0,
        momentum: float = 0.0,
        beta_2: float = 0.0,
        tau: float = 0.0,
    ) -> None:
        self.kind, self.rate, self.momentum = kind, rate, momentum
        self.beta_2, self.tau = beta_2, tau
        self.second = {name: np.zeros(INITIAL[name].shape) for name in TRAINED}
        self.rows: dict[int, Arrays] = {}

    def parts(
        self, name: str, aggregate: Mapping[int, np.ndarray], number: int
    ) -> dict[int, np.ndarray]:
        """Return each node's part of a step in an array."""
        share = 1.0 if self.kind == "plain" else 1 - self.momentum
        gain = np.asarray(self.rate) * self._gain(name, sum(aggregate.values()), number)
        found = {}
        for node in {*self.rows, *aggregate}:
            row = self.rows.setdefault(node, {}).get(name, np.zeros(gain.shape))
            row = self.momentum * row + share * aggregate.get(node, 0.0)
            self.rows[node][name] = row
            found[node] = gain * row
        return found

    def _gain(self, name: str, total: Any, number: int) -> np.ndarray:
        if self.kind == "plain":
            return np.ones(INITIAL[name].shape)
        square, second = total**2, self.second[name]
        if self.kind == "adam":
            second = self.beta_2 * second + (1 - self.beta_2) * square
        elif self.kind == "yogi":
            sign = np.sign(second - square)
            second = second - (1 - self.beta_2) * square * sign
        else:
            second = second + square
        self.second[name] = second
        gain = 1 / (np.sqrt(second) + self.tau)
        if self.kind == "adam":
            gain = gain * np.sqrt(1 - self.beta_2 ** (number + 1))
            gain = gain / (1 - self.momentum ** (number + 1))
        return np.asarray(gain)


def contributions(
    grid: Watched,
    weigh: Weigh = by_examples,
    optimiser: Optimiser | None = None,
    *,
    at_least: int = 1,
    all_or_none: bool = False,
    found: dict[int, Arrays] | None = None,
    client_of: Callable[[int], int] = lambda node: node,
) -> dict[int, Arrays]:
    """Return the sum of each client's parts of all steps, as the messages say.

    Parameters
    ----------
    at_least : int
        A round with fewer replies makes no step.
    all_or_none : bool
        Nor does one in which somebody failed.
    found : dict, optional
        What was there before these rounds; it is added to.
    """
    optimiser = optimiser or Optimiser()
    found = {} if found is None else found
    for number, failures, (before, replies) in zip(
        grid.numbers, grid.failures, grid.rounds, strict=True
    ):
        if len(replies) < at_least or (all_or_none and failures):
            continue
        for name in TRAINED:
            weights = weigh(name, before, replies)
            aggregate: dict[int, np.ndarray] = {}
            for node, (local, _) in replies.items():
                client = client_of(node)
                update = local[name].astype(np.float64) - before[name]
                part = np.asarray(weights.get(node, 0.0) * update)
                aggregate[client] = aggregate.get(client, 0.0) + part
            for client, part in optimiser.parts(name, aggregate, number).items():
                row = found.setdefault(client, {})
                row[name] = row.get(name, 0.0) + part
    return found
