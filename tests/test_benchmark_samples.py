"""The benchmark of some examples: prices by hand, and how its table is made."""

import pandas as pd
import pytest

from benchmarks.judge import COMMON
from benchmarks.samples import METHODS, table
from benchmarks.traces import models_of

TINY = (
    *(*COMMON, "data=digits", "clients=4", "rounds=4", "model.hidden=[8]"),
    *("client.local_epochs=1", "forget_samples={1:[0,4,9]}", "cache=false"),
)


@pytest.mark.parametrize(
    ("method", "beyond", "price"),
    [
        # Retraining is four clients in four rounds.
        ("retrain", 0, 1.0),
        # What goes, and then all four on the rest.
        ("puf", 1, (1 + 4) / 16),
        ("gradient_ascent", 0, 1 / 16),
        ("fine_tune", 2, 8 / 16),
    ],
)
def test_rounds_and_prices(method: str, beyond: int, price: float):
    first, second = models_of([*TINY, *METHODS[method]])
    assert [first[:2], second[:2]] == [(False, beyond), (True, beyond + 2)]
    assert first[2] == pytest.approx(price)
    assert second[2] == pytest.approx(price + 2 / 4)
    assert {k: len(losses) for k, losses in first[3].losses.items()} == {1: 3}


def test_the_table_has_means_before_and_after_repair_and_the_trick():
    rows = pd.DataFrame(
        {
            "setting": ["half of its examples", "its poisoned half (backdoor)"] * 2,
            "method": "puf",
            "repaired": [False, False, True, True],
            "rho": [0.5, 1.0, -0.25, 0.05],
            "sd": 0.1,
            "quality_lost": [9, 9, 0.01, 0.03],
            "marker": [None, 0.9, None, 0.125],
            "price": [0.1, 0.3, 1, 1],
        }
    )
    lines = table(rows).splitlines()
    assert lines[2] == "| puf | +0.50 / -0.25 | +1.00 / +0.05 | 0.125 | 0.030 | 20% |"
    assert "0.10 / 0.10" in lines[-1]
