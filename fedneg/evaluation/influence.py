"""Residual influence: how much of what a client taught can still be seen in a model.

Models that were trained with the client (*in*) and models that were trained without it
(*out*), with other seeds, differ on the client's own examples in one direction:

    delta = mean of the in models' scores - mean of the out models' scores.

An example's score is its scaled confidence, damped (scores.py).

A model's influence rho is how far it has gone from the out models to the in models
along delta. 0: as if the client had never been there. 1: as in another model that was
trained with it. Below 0: overshot, so that one can see that somebody was taken out.

The in models' own chance is in the direction too, and in no other model. It is taken
off what is called 1; where there is more chance than client in the direction, nothing
is said at all.

That few are accused rests on the out models alone: in models turn the direction to
where the client shows, and buy power. So models of which only some have the same other
clients are in models enough. Out models must share nothing with the judged one but the
data: fresh initial parameters, and as many rounds after as it had. An acquittal rests
on the in models, too: along what failed ones show all others lie near 0, and where they
had other rounds delta is also how models change as they are trained on, so that one
that was merely trained on lies nearer to the out models.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

Floats = NDArray[np.float64]
# Out models: the interval's degrees of freedom are one less. Of two, which are measured
# by each other alone, the spread is too small to tell of a third.
MIN_OUT = 3
# Where nearly all of the direction lies in examples that the out models contradict (a
# planted trick, flipped labels), the others are measured by themselves: a model from
# which the trick alone was taken can be near 0 along all together. (Of an ordinary
# client about half of it does: examples that are hard without it.) A tenth of the
# examples at least is to be there.
MOST, LEAST_REST = 0.8, 0.1
# Of these others again a few can hold nearly all: examples with the trick that the out
# models happen to answer as the client would. So many at most are left out, too.
FEW = 0.1
# In models that differ so much less than the out models do are no chance of their own:
# copies of one, or one training's models of several rounds.
COPIES = 0.25
# What is called 1 is to be so many times the in models' own chance.
BEYOND = 1.25


@dataclass(frozen=True)
class Influence:
    """Residual influence of one client on one model.

    Attributes
    ----------
    rho : float
        The estimate.
    low, high : float
        A two-sided t prediction interval: another model that was trained without the
        client would lie at 0, so far from `rho` as chance takes it, in 1 - alpha of the
        cases.
    n_in, n_out : int
        Models that it rests on.
    alpha : float
        The interval's.
    sd : float
        Of the out models, in units of rho.
    out, in_ : tuple of float
        Where each out model lies, about 0, and each in model, about 1, in units of rho
        and in the order in which they were given: the chance that the in models brought
        into the direction themselves is taken off.
    doubts : dict of str to float
        The p of the same test by other scores (scores.py), by what these are called,
        the least where ordinary examples are measured by themselves; without those that
        say nothing. They decide no finding: what they say against a model acquits it
        not.
    """

    rho: float
    low: float
    high: float
    n_in: int
    n_out: int
    alpha: float
    sd: float
    out: tuple[float, ...] = ()
    in_: tuple[float, ...] = ()
    rest: "Influence | None" = None
    is_partial: bool = False
    doubts: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, `p_value` among them."""
        found = asdict(self) | {"p_value": self.p_value, "out": list(self.out)}
        found["rest"] = None if self.rest is None else self.rest.to_json()
        return found | {"in": list(found.pop("in_"))}

    @property
    def p_value(self) -> float:
        """Two-sided, of 'this model was trained without the client'."""
        spread = self.sd * sqrt(1 + 1 / self.n_out)
        if not spread:
            return float(self.rho == 0)
        return float(2 * student.sf(abs(self.rho) / spread, self.n_out - 1))


def influences(
    models: Sequence[Floats],
    *,
    with_client: Sequence[Floats],
    without_client: Sequence[Floats],
    alpha: float = 0.05,
) -> list[Influence] | None:
    """Return a client's residual influence on each of several models.

    Parameters
    ----------
    models : sequence of float64 arrays, shape (N,)
        Scores of the client's N training examples in the models that are judged, as
        `fedneg.evaluation.scores` gives them.
    with_client, without_client : sequences of such arrays
        In models, at least 1, and out models, at least 3; the examples in one order.
    alpha : float
        1 minus the interval's coverage.

    Returns
    -------
    list of Influence
        None where in and out models differ by no more than chance: then nothing can be
        said of any model.

    Raises
    ------
    ValueError
        If there are too few models, shapes differ, a score is not finite, or alpha is
        none.

    Notes
    -----
    With the sums over examples,

        T(m) = sum((c_m - mean_out) d) / sum(delta d),

    where d is delta, drawn towards what is to be expected of an example of which the
    out models are so sure (`_turns`): few in models say little of a single example, and
    more of all that are as hard.

    Each out model is measured against the mean of the other out models, and every other
    model against all these means in turn, of which its T is the mean: so an out model
    has no part in the direction that it is measured along, nor is it nearer to the
    means than a model that is none. From the mean of the other n - 1 it lies
    n / (n - 1) times as far as from the mean of all, which is taken off. T is then
    shifted and scaled so that out models have mean 0 and another in model would have 1:
    the in models have more than that, by the chance that they brought into d
    themselves.

    Every example counts alike. Weights by how much an example varies over few out
    models would look better than they are: an out model itself takes the weight from
    where it deviates, and the judged one does not (false alarms where many examples
    vary by themselves: tests/evaluation/test_influence.py).

    References
    ----------
    James and Stein, 'Estimation with Quadratic Loss', 1961: how far d is drawn.
    """
    outs, ins = (
        _rows("without_client", without_client),
        _rows("with_client", with_client),
    )
    judged = _rows("models", models)
    n_out, n_in = len(outs), len(ins)
    if n_out < MIN_OUT or not n_in:
        raise ValueError(
            f"at least 1 model with the client and {MIN_OUT} without it are needed, "
            f"got {n_in} and {n_out}"
        )
    if len({outs.shape[1], ins.shape[1], judged.shape[1]}) != 1:
        raise ValueError("every model needs the same examples")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be in (0, 1), got {alpha!r}")
    turns = _turns(ins, outs)
    found = _along(turns, judged, ins, outs, alpha)
    if found is None or not _is_elsewhere(turns):
        return found
    rest = _along(_ordinary(turns), judged, ins, outs, alpha)
    if rest is None:
        return [replace(one, is_partial=True) for one in found]
    return [replace(one, rest=other) for one, other in zip(found, rest, strict=True)]


@dataclass(frozen=True)
class _Turn:
    """The direction as it is seen without one of the out models, of shapes (N,).

    The other out models' mean, delta, each example's weight d in T, and how much longer
    the in models' own chance makes the direction.
    """

    mean_out: Floats
    delta: Floats
    weights: Floats
    own: Floats

    @property
    def contradicted(self) -> NDArray[np.bool_]:
        """Which examples the out models answer otherwise than the client."""
        return self.mean_out < 0

    def only(self, kept: NDArray[np.bool_]) -> "_Turn":
        """The same, with weight on some examples alone."""
        return replace(self, weights=self.weights * kept, own=self.own * kept)

    @property
    def held(self) -> Floats:
        """How far each example brings in models from out models, chance taken off."""
        return self.weights * self.delta - self.own

    @property
    def length(self) -> float:
        """How far in models are from out models."""
        return float(self.weights @ self.delta)


def _turns(ins: Floats, outs: Floats) -> list[_Turn]:
    """Return the directions, each with one out model left out."""
    n_in, found = _independent(ins, outs), []
    for left_out in range(len(outs)):
        others = np.delete(outs, left_out, axis=0)
        mean_out, variance = others.mean(axis=0), others.var(axis=0, ddof=1)
        delta = ins.mean(axis=0) - mean_out
        # What a client teaches is more where others say less: three numbers, a line
        # with a knee, by least squares.
        given = np.stack([np.ones_like(mean_out), mean_out, np.minimum(mean_out, 0)], 1)
        back = np.linalg.pinv(given)
        fit = given @ (back @ delta)
        in_fit = (given * back.T).sum(axis=1)
        # The rest is chance or the client's own: it counts by what is beyond chance.
        beyond = ((delta - fit) ** 2).sum()
        chance = ((1 - in_fit) * variance).sum() * (1 / n_in + 1 / len(others))
        share = float(np.clip(1 - chance / beyond, 0, 1)) if beyond else 0.0
        weights = fit + share * (delta - fit)
        own = (in_fit + share * (1 - in_fit)) * variance / n_in
        found.append(_Turn(mean_out, delta, weights, own))
    return found


def _independent(ins: Floats, outs: Floats) -> float:
    """Return as how many in models some count, at least 1: copies are one."""
    if len(ins) == 1:
        return 1.0
    between, chance = (float(m.var(axis=0, ddof=1).sum()) for m in (ins, outs))
    alike = float(np.clip(1 - between / (COPIES * chance), 0, 1)) if chance else 0.0
    return len(ins) / (1 + (len(ins) - 1) * alike)


def _is_elsewhere(turns: Sequence[_Turn]) -> bool:
    """Return whether most of the direction lies where out models contradict.

    And enough examples where they do not, to hold something else.
    """
    held = np.mean([(t.held[t.contradicted].sum(), t.held.sum()) for t in turns], 0)
    agreed = float(np.mean([~t.contradicted for t in turns]))
    return bool(held[0] > MOST * held[1]) and agreed >= LEAST_REST


def _ordinary(turns: Sequence[_Turn]) -> list[_Turn]:
    """Return the turns with no weight on what out models contradict, nor on few more.

    On these where they hold most of what is left.
    """
    kept = [~t.contradicted for t in turns]
    held = np.mean([t.only(k).held for t, k in zip(turns, kept, strict=True)], axis=0)
    few = np.argsort(-held)[: max(1, int(FEW * np.mean(kept) * len(held)))]
    if held[few].sum() > MOST * held.sum():
        for some in kept:
            some[few] = False
    return [turn.only(some) for turn, some in zip(turns, kept, strict=True)]


def _along(
    turns: Sequence[_Turn], judged: Floats, ins: Floats, outs: Floats, alpha: float
) -> list[Influence] | None:
    """Return the influence on models along the turns' weights."""
    lengths = np.array([t.length for t in turns])
    if not (lengths > 0).all():
        return None
    n_in, n_out = len(ins), len(outs)

    def at(scores: Floats, turn: _Turn) -> Floats:
        found: Floats = (scores - turn.mean_out) @ turn.weights / turn.length
        return found

    at_out = np.array([at(outs[[k]], turn)[0] for k, turn in enumerate(turns)])
    at_in = np.mean([at(ins, turn) for turn in turns], axis=0)
    at_judged = np.mean([at(judged, turn) for turn in turns], axis=0)
    shift = at_out.mean()
    at_out = shift + (at_out - shift) * (n_out - 1) / n_out
    chance = float(np.mean([t.own.sum() / t.length for t in turns]))
    scale = at_in.mean() - shift - chance
    if not scale > BEYOND * chance:
        return None
    sd = float(at_out.std(ddof=1) / scale)
    half = float(student.ppf(1 - alpha / 2, n_out - 1)) * sd * sqrt(1 + 1 / n_out)
    out = tuple(((at_out - shift) / scale).tolist())
    in_ = tuple(((at_in - shift - chance) / scale).tolist())
    return [
        Influence(rho, rho - half, rho + half, n_in, n_out, alpha, sd, out, in_)
        for rho in ((at_judged - shift) / scale).tolist()
    ]


def _rows(name: str, models: Sequence[Floats]) -> Floats:
    """Return scores as an array, a row a model."""
    found = [np.asarray(scores, np.float64) for scores in models]
    if any(scores.ndim != 1 or not scores.size for scores in found):
        raise ValueError(f"{name} needs scores of shape (N,), N at least 1")
    if len({scores.size for scores in found}) > 1:
        raise ValueError(f"{name}: every model needs the same examples")
    if not all(np.isfinite(scores).all() for scores in found):
        raise ValueError(f"{name} has a score that is not finite")
    return np.array(found).reshape(len(found), found[0].size if found else 0)
