"""Residual influence: how much of what a client taught can still be seen in a model.

Models that were trained with the client (*in*) and models that were trained without it
(*out*), with other seeds, differ on the client's own examples in one direction:

    delta = mean of the in models' scores - mean of the out models' scores.

A model's influence rho is how far it has gone from the out models to the in models
along delta, an example counting by how little it says of a seed. 0: as if the client
had never been there. 1: as in another model that was trained with it. Below 0:
overshot, so that one can see that somebody was taken out.

The in models' own chance is in the direction too, and in no other model. It is taken
off what is called 1; where there is more chance than client in the direction, nothing
is said at all.

Validity rests on the out models alone: in models only turn the direction to where the
client shows, and buy power. So models of which only some have the same other clients
are in models enough. Out models must share nothing with the judged one but the data:
fresh initial parameters, and as many rounds after as it had.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

Floats = NDArray[np.float64]
# Out models: the interval's degrees of freedom are one less. Of two, which are measured
# by each other alone, the spread is too small to tell of a third.
MIN_OUT = 3


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

    def to_json(self) -> dict[str, Any]:
        """Return plain values, `p_value` among them."""
        found = asdict(self) | {"p_value": self.p_value, "out": list(self.out)}
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
        Scores of the client's N training examples in the models that are judged:
        log(p / (1 - p)) of a loss -log(p), as
        `fedneg.tasks.confidence.confidence_of_losses` gives them.
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
    With an example's noise s2 = its variance over out models + the mean of these,

        T(m) = sum((c_m - mean_out) delta / s2) / sum(delta^2 / s2).

    Each out model is measured against the mean of the other out models, and every other
    model against all these means in turn, of which its T is the mean: so an out model
    is no nearer to the means than a model that is none. T is then shifted and scaled so
    that out models have mean 0 and another in model would have 1. The in models have
    the mean of sum(variance / s2) / sum(delta^2 / s2) / n_in more than that, from the
    chance that they brought into delta themselves.
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
    variance = outs.var(axis=0, ddof=1)
    noise = variance + variance.mean()
    # Where all out models agree to the last bit every example counts alike.
    noise = noise if noise.any() else np.ones_like(noise)
    total, mean_in = outs.sum(axis=0), ins.mean(axis=0)

    def direction(left_out: int) -> tuple[Floats, Floats, float]:
        """Return the out models' mean without one, delta, and delta's square length."""
        mean_out = (total - outs[left_out]) / (n_out - 1)
        delta = mean_in - mean_out
        return mean_out, delta, float((delta * delta / noise).sum())

    def along(scores: Floats, left_out: int) -> Floats:
        """Return T of models, by the out models without one."""
        mean_out, delta, length = direction(left_out)
        if not length:
            return np.zeros(len(scores))
        found: Floats = (scores - mean_out) @ (delta / noise) / length
        return found

    turns = range(n_out)
    at_out = np.array([along(outs[[k]], k)[0] for k in turns])
    at_in = np.mean([along(ins, k) for k in turns], axis=0)
    at = np.mean([along(judged, k) for k in turns], axis=0)
    shift = at_out.mean()
    lengths = np.array([direction(k)[2] for k in turns])
    if not lengths.all():
        return None
    chance = float((variance / noise).sum() / n_in * (1 / lengths).mean())
    scale = at_in.mean() - shift - chance
    if not scale > chance:
        return None
    sd = float(at_out.std(ddof=1) / scale)
    half = float(student.ppf(1 - alpha / 2, n_out - 1)) * sd * sqrt(1 + 1 / n_out)
    out = tuple(((at_out - shift) / scale).tolist())
    in_ = tuple(((at_in - shift - chance) / scale).tolist())
    return [
        Influence(rho, rho - half, rho + half, n_in, n_out, alpha, sd, out, in_)
        for rho in ((at - shift) / scale).tolist()
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
