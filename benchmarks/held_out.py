"""Whether a classifier can tell models that forgot a client from retrained ones.

Residual influence looks along one direction. A classifier that has seen how other
forgotten models differ from retrained ones may find what that does not: it is given a
few numbers of a model's losses on the client's examples, measured by retrained models
(`marks_of`), learns on models of all other settings and seeds, and is asked about those
of the setting and seed that were held out. Where it is at chance (0.5), nothing that it
could learn elsewhere gives the method away.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

Floats = NDArray[np.float64]
# Which share of the examples is called hard: of those that retrained models know least.
HARD = 0.25
MARKS = ("mean", "length", "spread", "hard", "easy", "along")
RETRAINED = "retrained"


def marks_of(scores: Floats, others: Sequence[Floats], client: Floats) -> Floats:
    """Return what a classifier is given of a model, in the order of `MARKS`.

    Parameters
    ----------
    scores : float64 array, shape (N,)
        log(p / (1 - p)) of the client's examples.
    others : sequence of the same
        Of retrained models, at least two; not of this one.
    client : the same
        The mean of models that were trained with the client.

    Returns
    -------
    float64 array, shape (6,)
        Of z, the distance from the retrained models' mean in their deviations: its
        mean, mean size and deviation, its mean over hard and other examples; and how
        far it points to models with the client.
    """
    centre, variance = np.mean(others, axis=0), np.var(others, axis=0, ddof=1)
    noise = np.sqrt(variance + variance.mean())
    z, delta = (scores - centre) / noise, (client - centre) / noise
    order = np.argsort(centre, kind="stable")
    hard, easy = np.split(order, [max(1, round(HARD * len(order)))])
    along = z @ delta / (delta @ delta)
    return np.array(
        [z.mean(), np.abs(z).mean(), z.std(), z[hard].mean(), z[easy].mean(), along]
    )


def of_each(outs: Sequence[Floats], client: Floats) -> list[Floats]:
    """Return the marks of retrained models, each measured by the others."""
    return [
        marks_of(one, [*outs[:place], *outs[place + 1 :]], client)
        for place, one in enumerate(outs)
    ]


def auc_of(rows: pd.DataFrame, method: str, *, repaired: bool) -> float:
    """Return how well a method's models are told from retrained ones, 0.5: not at all.

    Parameters
    ----------
    rows : DataFrame
        With ``setting``, ``seed``, ``client``, ``method`` (also `RETRAINED`),
        ``repaired``, ``after`` (rounds after the training) and `MARKS`.
    method : str
    repaired : bool
        Which of its models; retrained ones are those with as many rounds.

    Returns
    -------
    float
        The mean over settings of the area under the curve of held-out models; NaN if
        there are not two groups with marks.
    """
    names = list(MARKS)
    marked = rows.dropna(subset=names)
    judged = marked[(marked["method"] == method) & (marked["repaired"] == repaired)]
    whose = ["setting", "seed", "client", "after"]
    retrained = marked[marked["method"] == RETRAINED]
    retrained = retrained.merge(judged[whose].drop_duplicates(), on=whose)
    both = pd.concat([judged, retrained], ignore_index=True)
    label = (both["method"] == method).to_numpy()
    groups = both.groupby(["setting", "seed"], sort=True).ngroup().to_numpy()
    if len(set(groups.tolist())) < 2:
        return float("nan")
    said = np.empty(len(both))
    for group in sorted(set(groups.tolist())):
        out = groups == group
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced")
        )
        model.fit(both.loc[~out, names], label[~out])
        said[out] = model.decision_function(both.loc[out, names])
    settings = both["setting"].to_numpy()
    areas = [
        roc_auc_score(label[settings == name], said[settings == name])
        for name in sorted(set(settings.tolist()))
    ]
    return float(np.mean(areas))
