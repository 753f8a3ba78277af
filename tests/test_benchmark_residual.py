"""The benchmark of what methods leave: prices by hand, and how its table is made."""

import pandas as pd
import pytest

from benchmarks import residual, traces
from benchmarks.held_out import MARKS, RETRAINED
from benchmarks.judge import COMMON
from benchmarks.residual import METHODS, rows_of, table
from benchmarks.traces import models_of

TINY = (
    *(*COMMON, "data=digits", "clients=4", "rounds=4", "model.hidden=[8]"),
    "forget=1",
)


@pytest.mark.parametrize(
    ("method", "beyond", "price"),
    [
        ("negative_gradient", 0, 0.0),
        # Retraining is three clients in four rounds; the probe asks all three.
        ("counterfactual", 0, (3 + 3) / 12),
        # Two of them, twice.
        ("counterfactual, again=probed", 0, (2 + 2) / 12),
        ("counterfactual, power=0.5, rewind=2", 0, (3 + 6) / 12),
        ("puf", 1, 4 / 12),
        ("fine_tune", 2, 6 / 12),
        ("federaser", -2, 6 / 12),
    ],
)
def test_rounds_and_prices(method: str, beyond: int, price: float):
    first, second = models_of([*TINY, "cache=false", *METHODS[method]])
    assert [first[:2], second[:2]] == [(False, beyond), (True, beyond + 2)]
    assert first[2] == pytest.approx(price)
    assert second[2] == pytest.approx(price + 2 / 4)
    assert list(first[3].losses) == [1]
    # Of these four rounds; else there is nothing to hold it against.
    assert {beyond, beyond + 2} <= {*residual.rounds_after(4)}


def test_the_table_has_means_before_and_after_repair():
    rows = pd.DataFrame(
        {
            "setting": "5 clients",
            "seed": 501,
            "client": 0,
            "after": 1,
            "method": "puf",
            "repaired": [False, False, True, True],
            "rho": [0.5, 1.0, -0.25, 0.05],
            "sd": 0.1,
            "quality_lost": [9, 9, 0.01, 0.03],
            "price": [0.1, 0.3, 1, 1],
            **dict.fromkeys(MARKS, float("nan")),
        }
    )
    lines = table(rows).splitlines()
    assert lines[2] == "| puf | +0.75 / -0.10 | - / - | 0.020 | 20% |"
    assert "0.10 / 0.10" in lines[-1]


def test_a_row_for_every_model_and_what_a_classifier_is_given_of_it(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(residual, "METHODS", {"any": METHODS["negative_gradient"]})
    monkeypatch.setattr(residual, "rounds_after", lambda rounds: (0, 2))
    monkeypatch.setattr(traces, "WITHOUT", 3)
    monkeypatch.setattr(traces, "WITH", 1)
    rows = pd.DataFrame(rows_of([*TINY, "attack=backdoor", "cache=false"]))
    found = [(m, int(a)) for m, a in zip(rows["method"], rows["after"], strict=True)]
    assert found == [(RETRAINED, 0)] * 3 + [(RETRAINED, 2)] * 3 + [
        ("any", 0),
        ("any", 2),
    ]
    assert rows[list(MARKS)].notna().all(axis=None)
    judged = rows[rows["method"] == "any"]
    assert judged["marker_retrained"].notna().all()
    assert judged["repaired"].tolist() == [False, True]


def test_a_method_measured_anew_replaces_its_rows_in_that_federation_alone():
    def rows(*of: tuple[int, str, float]) -> pd.DataFrame:
        frame = pd.DataFrame(of, columns=["seed", "method", "rho"])
        return frame.assign(setting="5 clients", client=0)

    found = rows(
        (1, "puf", 0.1), (1, "puf", 0.2), (1, "fine_tune", 0.3), (2, "puf", 0.4)
    )
    new = residual.renewed(found, rows((1, "puf", 0.9)))
    assert list(zip(new["seed"], new["method"], new["rho"], strict=True)) == [
        (1, "fine_tune", 0.3),
        (2, "puf", 0.4),
        (1, "puf", 0.9),
    ]
    assert len(residual.renewed(pd.DataFrame(), found)) == 4
