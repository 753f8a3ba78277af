"""A classifier of forgotten and retrained models: by hand, and made-up models."""

import numpy as np
import pandas as pd
import pytest

from benchmarks.held_out import MARKS, RETRAINED, auc_of, marks_of, of_each


def test_marks_by_hand():
    """Others 0 +- sqrt(2) around hardness: noise is 2 for all of four examples.

    One is hard, the first; z = [2, 0, 0, -4] / 2, and the client's delta is [2, 0, 0,
    0] / 2: z points along it by 1.
    """
    centre = np.array([-3.0, 0.0, 1.0, 2.0])
    others = [centre - 1, centre + 1]
    moved, client = np.array([2.0, 0, 0, -4]), np.array([2.0, 0, 0, 0])
    found = marks_of(centre + moved, others, client=centre + client)
    length = np.array([1.0, 0, 0, -2])
    assert dict(zip(MARKS, found.tolist(), strict=True)) == pytest.approx(
        {
            "mean": -0.25,
            "length": 0.75,
            "spread": length.std(),
            "hard": 1.0,
            "easy": -2 / 3,
            "along": 1.0,
        }
    )


def test_each_retrained_model_is_measured_by_the_others():
    outs = [np.array([0.0, 1.0]), np.array([2.0, 3.0]), np.array([10.0, 5.0])]
    client = np.array([4.0, 4.0])
    found = of_each(outs, client)
    assert found[1].tolist() == marks_of(outs[1], [outs[0], outs[2]], client).tolist()


def made(shift: float, *, turned: bool = False) -> pd.DataFrame:
    """Return models of two settings: two seeds, two clients, six retrained of each.

    The method's lie off them in every mark; in one setting the other way, if turned.
    """
    draw, rows = np.random.default_rng(4), []
    for setting in ("a", "b"):
        for seed in (1, 2):
            for client in (0, 4):
                for method in [RETRAINED] * 6 + ["puf"] * 2:
                    marks = draw.normal(size=len(MARKS))
                    if method == "puf":
                        marks += -shift if turned and (seed == 1) else shift
                    which = {"setting": setting, "seed": seed, "client": client}
                    row = which | {"method": method, "repaired": False, "after": 1}
                    rows.append(row | dict(zip(MARKS, marks, strict=True)))
    return pd.DataFrame(rows)


def test_what_differs_alike_everywhere_is_told():
    assert auc_of(made(4.0), "puf", repaired=False) > 0.99


def test_what_does_not_differ_is_not():
    assert 0.2 < auc_of(made(0.0), "puf", repaired=False) < 0.8


def test_what_was_held_out_teaches_nothing():
    """With one seed's models off one way and the other's the other, it is misled."""
    assert auc_of(made(4.0, turned=True), "puf", repaired=False) < 0.1


def test_models_of_other_rounds_are_not_compared():
    rows = made(4.0)
    rows.loc[rows["method"] == RETRAINED, "after"] = 0
    with pytest.raises(ValueError, match="class"):
        auc_of(rows, "puf", repaired=False)
    assert np.isnan(auc_of(made(0.0), "puf", repaired=True))
