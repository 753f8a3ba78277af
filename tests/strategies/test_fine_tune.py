"""Going on without the forgotten: rounds, streams and who is asked, by hand."""

import numpy as np
import pytest

from builders.federations import Answer, Behaviour, Bench, small_config
from fedneg.core.errors import FedNegError
from fedneg.core.parameters import NDArrays

SEEN: list[tuple[int, int]] = []


def adds(client_id: int, num_examples: int, step: float) -> Behaviour:
    """Return a client that adds a number to both parameters, and is seen to."""

    def train(arrays: NDArrays, server_round: int) -> Answer:
        SEEN.append((server_round, client_id))
        return [arrays[0] + np.float32(step)], num_examples

    return train


def bench(*overrides: str) -> Bench:
    """Return three clients with 1, 4 and 3 examples that add 4, 8 and 16."""
    SEEN.clear()
    config = small_config("clients=3", "forget=null", "strategy=fine_tune", *overrides)
    steps = ((1, 4), (4, 8), (3, 16))
    return Bench(
        config,
        [np.zeros(2, np.float32)],
        {k: adds(k, n, step) for k, (n, step) in enumerate(steps)},
    )


def test_two_rounds_of_the_remaining_clients_by_hand():
    """Round 1: (4 + 4 * 8 + 3 * 16) / 8 = 10.5; then twice (4 + 3 * 16) / 4 = 13.

    The ledger keeps client 1's share 4 * 8 / 8 = 4 as correction.
    """
    made = bench()
    assert made.train(1).tolist() == [10.5, 10.5]
    assert made.unlearn(1).tolist() == [36.5, 36.5]
    assert [m.tolist() for m in made.after[1:]] == [[23.5, 23.5], [36.5, 36.5]]
    ledger = made.strategy.ledger
    assert not ledger.contributions[1].any()
    assert ledger.correction.tolist() == [4, 4]
    assert ledger.rebuilt().tolist() == [36.5, 36.5]
    assert made.grid.asked("train") == [0, 1, 2, 0, 2, 0, 2]
    assert [(r.phase, r.clients) for r in made.strategy.reports[1:]] == [
        ("unlearn", 2),
        ("unlearn", 2),
    ]
    assert all(r.bytes_up == r.bytes_down == 16 for r in made.strategy.reports[1:])


def test_several_clients_at_once_and_another_number_of_rounds():
    made = bench("strategy.rounds=3")
    made.train(1)
    assert made.unlearn(0, 1).tolist() == [10.5 + 3 * 16] * 2
    assert made.strategy.method_report["rounds"] == 3


def test_the_fraction_of_clients_that_trains_is_drawn_as_in_training():
    made = bench("strategy.client_fraction=0.5")
    made.train(1)
    made.unlearn(1)
    assert all(report.clients == 1 for report in made.strategy.reports[1:])


@pytest.mark.parametrize("value", ["0", "1.5", "x"])
def test_rounds_must_be_a_whole_number(value: str):
    with pytest.raises(FedNegError, match=r"strategy\.rounds must be"):
        bench(f"strategy.rounds={value}")
