"""How much more memory a strategy takes that can forget, in models."""

import copy
import gc
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.serverapp.strategy import FedAvg, FedAvgM, Strategy

from benchmarks.forgettable_memory import train
from builders.strangers import Watched, trained
from fedneg import Forgettable

PARAMETERS, CLIENTS = 1_000_000, 3


def in_models(act: Callable[[], object]) -> float:
    """Return the most memory that something has, beyond what there is before it.

    Flower's messages lie in circles: when they are collected is left to nobody.
    """
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1] / (4 * PARAMETERS)
    finally:
        tracemalloc.stop()
        gc.enable()


def peak(kind: str, strategy: Callable[[], Strategy]) -> float:
    return in_models(lambda: train(strategy(), kind, PARAMETERS, CLIENTS))


def fedavg() -> Strategy:
    return FedAvg(fraction_evaluate=0.0)


def with_momentum() -> Strategy:
    return FedAvgM(fraction_evaluate=0.0, server_momentum=0.9)


@pytest.mark.parametrize(
    ("strategy", "rows"),
    [(fedavg, CLIENTS), (with_momentum, 2 * CLIENTS)],
    ids=["FedAvg", "momentum"],
)
def test_beside_the_rows_there_are_two_models(
    strategy: Callable[[], Strategy], rows: int, cache: Path
):
    """The initial one, and what rounding left; here blocks are half of one."""
    alone = peak("FedAvg", strategy)
    assert peak("Forgettable", strategy) - alone < rows + 3
    assert peak("on the disk", strategy) - alone < 3


def test_forgetting_takes_no_more_than_a_round():
    held, arrays = train(fedavg(), "Forgettable", PARAMETERS, CLIENTS)
    assert isinstance(held, Forgettable)
    assert in_models(lambda: held.forget(held.clients[:1], arrays)) < 1.5


def test_a_copy_has_its_rows_on_the_disk_too(cache: Path):
    held, _ = train(with_momentum(), "on the disk", PARAMETERS, CLIENTS)
    assert isinstance(held, Forgettable)
    ledger = held.ledger
    assert ledger is not None
    copies: list[Forgettable] = []
    assert in_models(lambda: copies.append(copy.deepcopy(held))) < 6
    (other,) = copies
    assert other.ledger is not None
    assert isinstance(other.ledger.contributions, np.memmap)
    assert isinstance(other.ledger.buffers, np.memmap)
    np.testing.assert_array_equal(other.ledger.contributions, ledger.contributions)
    other.forget(held.clients[:1])
    assert not other.ledger.contributions[0].any()
    assert ledger.contributions[0].any()


def test_a_copy_of_a_small_ledger_is_a_copy():
    held, arrays = trained(fedavg(), Watched())
    other = copy.deepcopy(held)
    other.forget(held.clients[:1])
    assert other.ledger is not None
    assert held.ledger is not None
    assert held.ledger.contributions[0].any()
    np.testing.assert_array_equal(
        other.ledger.contributions[1:], held.ledger.contributions[1:]
    )
    held.forget(held.clients[1:2], arrays)
