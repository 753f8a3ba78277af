"""Of one client: its influence on a model, and what may speak against an acquittal."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import sqrt

import numpy as np
from scipy.stats import t as student

from fedneg.evaluation.influence import MIN_OUT, Influence, influences
from fedneg.evaluation.scores import DOUBTS, scores_of_losses
from fedneg.evaluation.seen import Losses, Seen, are_as
from fedneg.tasks.confidence import confidence_of_losses

# A model that was trained with a client and knows its examples worse than those that
# were not: of sound ones hardly one in fifty, where the client teaches nothing at all.
WORSE_ALPHA = 0.02


def influence_of(
    client_id: int,
    model: Seen,
    trained_with: Sequence[Seen],
    trained_without: Sequence[Seen],
    *,
    alpha: float,
    is_whole: bool = False,
) -> tuple[Influence | None, bool]:
    """Return a client's influence on a model, and whether models with it failed.

    Parameters
    ----------
    client_id : int
    model, trained_with, trained_without : Seen, sequences of Seen
        As of `fedneg.evaluation.judge.judge`, each once.
    alpha : float
        1 minus the interval's coverage.
    is_whole : bool
        Whether ordinary examples are not to be measured by themselves.

    Returns
    -------
    Influence or None, bool
        None where models are missing or too much alike, and where a model with the
        client knows its examples worse than models without it do (True): trained too
        little or not at all, or given in the wrong list. Along a direction that such a
        model has turned an original lies near 0.

    Raises
    ------
    ValueError
        If models have other examples.
    """
    ins, outs = (
        [m.losses[client_id] for m in models if client_id in m.losses]
        for models in (trained_with, trained_without)
    )
    if client_id not in model.losses or not len(model.losses[client_id]):
        return None, False
    judged = model.losses[client_id]
    if len({len(one) for one in (judged, *ins, *outs)}) > 1:
        raise ValueError(f"every model needs the same examples of client {client_id}")
    # Given twice as well where they differ in what was seen of others.
    confidences = _by(confidence_of_losses, outs)
    outs = [
        one
        for k, one in enumerate(outs)
        if not any(are_as(confidences[k], other) for other in confidences[:k])
    ]
    if not ins or len(outs) < MIN_OUT:
        return None, False

    def measured(score: Callable[[Losses], Losses]) -> Influence | None:
        found = influences(
            _by(score, [judged]),
            with_client=_by(score, ins),
            without_client=_by(score, outs),
            alpha=alpha,
        )
        if found is None or not is_whole:
            return found[0] if found else None
        return replace(found[0], rest=None, is_partial=False)

    if know_less(_by(scores_of_losses, ins), _by(scores_of_losses, outs)):
        return None, True
    deciding = measured(scores_of_losses)
    if deciding is None:
        return None, False
    doubts = {}
    for name, score in DOUBTS.items():
        if (one := measured(score)) is not None:
            both = (one, one.rest)
            doubts[name] = min(some.p_value for some in both if some is not None)
    return replace(deciding, doubts=doubts), False


def know_less(with_client: Sequence[Losses], without_client: Sequence[Losses]) -> bool:
    """Return whether a model with the client knows it worse than those without it do.

    By its mean score, one-sided, beside the spread of theirs (t).

    Parameters
    ----------
    with_client, without_client : sequences of float64 arrays, shape (N,)
        Scores; at least 2 models without the client.
    """
    means = np.mean(without_client, axis=1)
    spread = float(means.std(ddof=1)) * sqrt(1 + 1 / len(means))
    below = means.mean() - np.mean(with_client, axis=1)
    if not spread:
        return bool((below > 0).any())
    p_values = student.sf(below / spread, len(means) - 1)
    return bool((p_values < WORSE_ALPHA / len(with_client)).any())


def _by(score: Callable[[Losses], Losses], some: Sequence[Losses]) -> list[Losses]:
    return [score(np.asarray(one, np.float64)) for one in some]
