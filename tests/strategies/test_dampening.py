"""Dampening, number by number, against loops; and what its receipt says."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.federations import Answer, Behaviour, Bench, small_config
from builders.lives import ask, go_on, receipt_of
from fedneg.core.errors import FedNegError
from fedneg.core.parameters import NDArrays
from fedneg.reports.conclusions import describe_request
from fedneg.strategies.method import Needs

SHAPES = ((3, 2), (3,), (2, 3), (2,))
D = 17


def bench(rows: list[list[float]], *overrides: str) -> Bench:
    """Return clients of one example that add a row each to 17 ones, in any round."""

    def adds(row: list[float]) -> Behaviour:
        def train(arrays: NDArrays, server_round: int) -> Answer:
            flat = np.concatenate([a.reshape(-1) for a in arrays])
            flat = flat + np.array(row, np.float32)
            ends = np.cumsum([a.size for a in arrays])[:-1]
            parts = np.split(flat, ends)
            return [p.reshape(a.shape) for p, a in zip(parts, arrays, strict=True)], 1

        return train

    config = small_config(
        f"clients={len(rows)}", "forget=null", "strategy=dampening", *overrides
    )
    initial = [np.ones(shape, np.float32) for shape in SHAPES]
    return Bench(config, initial, {k: adds(row) for k, row in enumerate(rows)})


def slowly(
    model: list[float],
    rows: list[list[float]],
    leave: tuple[int, ...],
    constant: float = 0.5,
    bound: float = 0.5,
    cutoff: float = 0.5,
) -> list[float]:
    """Return the dampened parameters, one at a time; rows are what clients put in."""
    took_part = [k for k, row in enumerate(rows) if any(row)]
    found = []
    for i, value in enumerate(model):
        mine = [abs(rows[k][i]) for k in took_part if k in leave]
        others = [abs(rows[k][i]) for k in took_part if k not in leave]
        moved = sum(mine) / len(mine) if mine else 0.0
        ratio = (sum(others) / len(others) if others else 0.0) / moved if moved else 1e9
        found.append(value * min(constant * ratio, bound) if ratio < cutoff else value)
    return found


def test_by_hand():
    """Client 1 moves 8, then 4, 2 and 0; both others 1 each: ratios 1/8, 1/4, 1/2.

    The weights are 1/4 each, so w = 1 + (8 + 1 + 1) / 4 = 3.5, then -0.5, 2 and 1.5;
    client 3 stands still. The factors are half of the ratios, the third is no less
    than the cutoff, and of the fourth there is no ratio.
    """
    still = [0.0] * D
    one = [1.0, -1.0, 1.0, 1.0, *still[4:]]
    made = bench([one, [8.0, -4.0, 2.0, 0.0, 3.0, *still[5:]], one, still])
    assert made.train(1)[:5].tolist() == [3.5, -0.5, 2.0, 1.5, 1.75]
    after = made.unlearn(1)
    assert after[:5].tolist() == [3.5 / 16, -0.5 / 8, 2.0, 1.5, 0.0]
    assert after[5:].tolist() == [1.0] * (D - 5)
    ledger = made.strategy.ledger
    assert not ledger.contributions[1].any()
    assert ledger.rebuilt() == pytest.approx(after)
    report = made.strategy.method_report
    assert report["dampened_share"] == 3 / D
    assert report["remains"].endswith("not dampened, 0.824 of them")
    assert made.strategy.parts()[:5].tolist() == [1, 1, 0, 0, 1]


@given(
    st.lists(
        st.lists(st.sampled_from([0.0, -3.0, 0.5, 1.0, 8.0]), min_size=D, max_size=D),
        min_size=3,
        max_size=4,
    ),
    st.sampled_from([(0,), (1, 2)]),
    st.sampled_from([(0.5, 0.5, 0.5), (1.0, 1.0, 1.0), (2.0, 0.25, 3.0)]),
)
def test_any_number_of_clients_as_the_loops_have_it(
    rows: list[list[float]],
    leave: tuple[int, ...],
    options: tuple[float, float, float],
):
    names = ("constant", "bound", "cutoff")
    made = bench(
        rows, *(f"strategy.{n}={v}" for n, v in zip(names, options, strict=True))
    )
    before = made.train(1)
    kept = made.strategy.ledger.contributions.tolist()
    expected = slowly(before.tolist(), kept, leave, *options)
    assert made.unlearn(*leave) == pytest.approx(expected, rel=1e-6)


def test_who_never_took_part_leaves_the_very_bytes():
    row = [1.0] * D
    made = bench([row, [0.0] * D, row])
    before = made.train(1)
    assert made.unlearn(1).tobytes() == before.tobytes()


def test_who_has_left_is_nobodys_other():
    """Twice: the second time with two rows that count, of four."""
    rows = [[float(k + 1 + i % 3 * k) for i in range(D)] for k in range(4)]
    made = bench(rows)
    made.train(1)
    before = made.unlearn(3)
    kept = made.strategy.ledger.contributions.tolist()
    assert made.unlearn(2) == pytest.approx(slowly(before.tolist(), kept, (2,)))


def test_it_reads_one_row_of_each_client():
    made = bench([[1.0] * D] * 3)
    assert made.strategy.needs() == Needs(server_bytes=3 * D * 4)


@pytest.mark.parametrize(
    ("option", "value"), [("constant", -1), ("bound", 1.5), ("cutoff", "x")]
)
def test_options_are_checked(option: str, value: object):
    with pytest.raises(FedNegError, match=rf"strategy\.{option} must be"):
        bench([[1.0] * D] * 2, f"strategy.{option}={value}")


def test_people_are_told_how_it_forgets():
    results = {"strategy": "dampening", "forget": [1], "clients": 3, "rounds": 2}
    said = "by dampening what it moved more than the others did; no repair"
    assert said in describe_request(results)


def test_a_receipt_says_that_arithmetic_gives_the_rest_back(tmp_path: Path):
    """In what was not dampened the whole contribution is left."""
    state = tmp_path / "state"
    options = ("strategy=dampening", "strategy.gate=0", "retrain=none")
    go_on(state, *options)
    ask(state, 1)
    go_on(state, *options)
    receipt = receipt_of(state, 1)
    assert receipt["remains"].startswith("all of it in the parameters that were not")
    assert receipt["purged"]["isolable"] is True
