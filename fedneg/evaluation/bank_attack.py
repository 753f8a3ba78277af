"""LiRA with a bank: how well each example of a client can be told, by itself.

Carlini et al., arXiv:2112.03570, section V, online: an example's scaled confidence is
normal in models that were trained with it and in models that were not, and the score is
the log of the ratio of both. Here the first are the bank's, the second were retrained
without the client; false positives are those of retrained models. It shows where among
a client's examples what is left lies, of which residual influence is one mean. It
decides nothing.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedneg.evaluation.influence import MIN_OUT
from fedneg.evaluation.membership import MembershipInput, roc
from fedneg.evaluation.seen import Seen
from fedneg.tasks.confidence import confidence_of_losses

Floats = NDArray[np.float64]
# Of false positives: an attack is as good as its few sure hits.
GRID = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05),
    *(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
)
# With fewer models the mean of those with the client is mostly chance.
MIN_IN = 4
_LEAST_VARIANCE = 1e-6


def ratios(observed: Floats, with_it: Floats, without_it: Floats) -> Floats:
    """Return each example's log likelihood ratio, higher meaning 'trained on it'.

    Parameters
    ----------
    observed : array, shape (N,)
        Scaled confidences, log(p / (1 - p)), in the model under attack.
    with_it, without_it : arrays, shapes (I, N) and (O, N)
        In models that were trained on the examples, and in models that were not.

    Returns
    -------
    array, shape (N,)
        In nats. All examples and both kinds of models share one variance, the mean of
        those within an example and a kind: the paper takes one below 64 models.
    """
    middles, parts = [], []
    for kind in (with_it, without_it):
        middle = kind.mean(axis=0)
        middles.append(middle)
        parts.append((kind - middle) ** 2)
    free = len(with_it) + len(without_it) - 2
    variance = float(np.concatenate(parts).sum() / max(1, free * observed.size))
    far = (observed - middles[1]) ** 2 - (observed - middles[0]) ** 2
    found: Floats = far / (2 * max(variance, _LEAST_VARIANCE))
    return found


def curve(
    observed: Floats, with_it: Sequence[Floats], without_it: Sequence[Floats]
) -> dict[str, Any] | None:
    """Return the attack's ROC curve on a model; None with too few models.

    Parameters
    ----------
    observed, with_it, without_it
        As of `ratios`; at least `MIN_IN` and `MIN_OUT` models.

    Returns
    -------
    dict or None
        ``auc``, of telling the model's examples from those of retrained models, 0.5
        being chance; ``false_positives`` and ``true_positives``, shares: the most hits
        with at most so many false alarms, of `GRID`, as far down as there are examples.
    """
    if len(with_it) < MIN_IN or len(without_it) < MIN_OUT or not observed.size:
        return None
    ins, outs = np.stack(with_it), np.stack(without_it)
    # Every retrained model is scored by the others, and the judged one by as many: a
    # model that was retrained, too, would have scores of the same distribution.
    left = [np.delete(outs, k, axis=0) for k in range(len(outs))]
    others = [ratios(outs[k], ins, rest) for k, rest in enumerate(left)]
    own = [ratios(observed, ins, rest) for rest in left]
    found = roc(MembershipInput(np.concatenate(own), np.concatenate(others)))
    points = [(at, found.tpr_at(at)) for at in GRID]
    known = [(at, hits) for at, hits in points if hits is not None]
    return {
        "auc": found.auc,
        "false_positives": [at for at, _ in known],
        "true_positives": [hits for _, hits in known],
    }


def curves(
    model: Seen, trained_with: Sequence[Seen], trained_without: Sequence[Seen]
) -> dict[str, Any]:
    """Return `curve`'s by client id, as text; without those that have none.

    Models that have no losses of a client are none of its.
    """
    found = {}
    for client_id, losses in model.losses.items():
        ins, outs = (
            [
                confidence_of_losses(one.losses[client_id])
                for one in models
                if client_id in one.losses
            ]
            for models in (trained_with, trained_without)
        )
        one = curve(confidence_of_losses(losses), ins, outs)
        if one is not None:
            found[str(client_id)] = one
    return found
