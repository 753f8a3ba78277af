"""Forgettable with many names, unusual types, and rows that lie on the disk."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import FedAvg, FedAvgM, FedMedian
from hypothesis import given
from hypothesis import strategies as st

from builders.strangers import INITIAL, Watched, contributions, read, written
from builders.waiting import PATIENCE_S
from fedneg import Forgettable
from fedneg.core.errors import FedNegError
from fedneg.forgettable.views import Difference, norm, view_of


def started(
    initial: Mapping[str, np.ndarray] = INITIAL,
    rounds: int = 2,
    strategy: Any = None,
    grid: Watched | None = None,
    **more: Any,
) -> tuple[Forgettable, ArrayRecord, Watched]:
    """Return a strategy that has trained, its model, and who watched."""
    grid = grid or Watched()
    held = Forgettable(strategy or FedAvg(fraction_evaluate=0.0), **more)
    found = held.start(grid, written(initial), num_rounds=rounds, timeout=PATIENCE_S)
    return held, found.arrays, grid


# -- names and types -------------------------------------------------------------------


def by_hand(
    grid: Watched, arrays: ArrayRecord, gone: int, names: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Return the model without a client's weighted updates, from the messages."""
    found = {name: a.astype(np.float64) for name, a in read(arrays).items()}
    for before, replies in grid.rounds:
        total = sum(count for _, count in replies.values())
        local, count = replies[gone]
        for name in names:
            found[name] = found[name] - count / total * (local[name] - before[name])
    return found


def test_a_model_of_a_thousand_arrays_forgets():
    """Every third is a matrix, a vector, or has no axes at all."""
    shapes = ((2, 3), (4,), ())
    initial = {
        f"blocks.{k}.weight": np.full(shapes[k % 3], k / 100, np.float32)
        for k in range(1000)
    }
    held, arrays, grid = started(initial)
    expected = by_hand(grid, arrays, held.clients[1], tuple(initial))
    after = read(held.forget([held.clients[1]], arrays))
    assert list(after) == list(initial)
    for name, array in after.items():
        assert (array.shape, array.dtype) == (initial[name].shape, np.float32)
        np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-6)


def test_a_single_number_is_a_model():
    held, arrays, grid = started({"w": np.array(0.25, np.float32)})
    expected = by_hand(grid, arrays, held.clients[0], ("w",))
    after = read(held.forget([held.clients[0]], arrays))["w"]
    assert after.shape == ()
    assert float(after) == pytest.approx(float(expected["w"]), abs=1e-6)


def test_adapters_alone_are_a_model():
    """Of a network whose other arrays never travel, by the names that PEFT gives."""
    initial = {
        "base_model.model.q_proj.lora_A.weight": np.zeros((4, 32), np.float32),
        "base_model.model.q_proj.lora_B.weight": np.ones((32, 4), np.float32),
    }
    held, arrays, grid = started(initial)
    assert held.ledger is not None
    assert held.ledger.contributions.shape == (4, 256)
    expected = by_hand(grid, arrays, held.clients[3], tuple(initial))
    after = read(held.forget([held.clients[3]], arrays))
    for name in initial:
        np.testing.assert_allclose(after[name], expected[name], atol=1e-6)


def test_bfloat16_is_carried_by_flower_as_float32():
    """NumPy has no such type, and so Flower's records have none, in 1.39 and in 1.42.

    A state_dict that is told as float32 is taken back by the network, in its own type.
    """
    torch.manual_seed(0)
    network = torch.nn.Linear(5, 3).to(torch.bfloat16)
    with pytest.raises(TypeError, match="BFloat16"):
        ArrayRecord(network.state_dict())
    state = {name: tensor.float() for name, tensor in network.state_dict().items()}
    held, arrays, grid = started({n: t.numpy() for n, t in state.items()})
    expected = by_hand(grid, arrays, held.clients[0], tuple(state))
    after = held.forget([held.clients[0]], arrays)
    network.load_state_dict(after.to_torch_state_dict())
    for name, tensor in network.state_dict().items():
        assert tensor.dtype == torch.bfloat16
        np.testing.assert_allclose(tensor.float(), expected[name], rtol=2**-8)


def test_an_array_of_a_type_that_numpy_has_not_is_named():
    """As bfloat16 looks where a package of its own made it an array."""
    raw = Array(np.zeros(3, np.dtype("V2")))
    record = ArrayRecord({"w": Array(np.zeros(2, np.float32)), "half": raw})
    held = Forgettable(FedAvg())
    with pytest.raises(FedNegError, match="array half must be of floats or whole nu"):
        held.start(Watched(), record, num_rounds=1)


# -- read by blocks --------------------------------------------------------------------


def test_an_array_is_read_where_it_lies():
    """Of any type, with axes or none; what is laid out by columns is copied."""
    for made in (
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.array(2.5, np.float16),
        np.arange(4),
        np.empty((0, 3)),
    ):
        carried = Array(made)
        found = view_of(carried)
        np.testing.assert_array_equal(found, made)
        assert (found.shape, found.dtype) == (made.shape, made.dtype)
        assert found.base is not None
        assert not found.flags.owndata
    columns = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(view_of(Array(columns)), columns)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=5), st.data())
def test_a_slice_of_a_difference_is_that_of_the_whole(
    sizes: list[int], data: st.DataObject
):
    """Wherever arrays begin and end in it, and where one is empty."""
    before = [np.arange(n, dtype=np.float32) for n in sizes]
    after = [array * 3 + k for k, array in enumerate(before)]
    expected = np.concatenate([b - a for a, b in zip(before, after, strict=True)])
    found = Difference(after, before)
    assert found.size == expected.size
    low = data.draw(st.integers(0, expected.size))
    high = data.draw(st.integers(low, expected.size))
    np.testing.assert_array_equal(found[low:high], expected[low:high])
    assert norm(found) == pytest.approx(float(np.linalg.norm(expected)))


@pytest.mark.parametrize("strategy", [FedAvg, FedMedian])
def test_arrays_of_two_types_that_end_within_a_block_are_forgotten(
    strategy: type[FedAvg],
):
    """70,000 numbers are three blocks of the ledger's, and of seven arrays."""
    initial = {
        f"layers.{k}": np.zeros(10_000, np.float64 if k % 2 else np.float32)
        for k in range(7)
    }
    held, arrays, grid = started(initial, strategy=strategy(fraction_evaluate=0.0))
    gone = held.clients[1]
    after = read(held.forget([gone], arrays))
    expected = by_hand(grid, arrays, gone, tuple(initial))
    for name, array in after.items():
        assert array.dtype == initial[name].dtype
        if strategy is FedAvg:
            np.testing.assert_allclose(array, expected[name], atol=1e-6)
    rows = held.ledger.contributions if held.ledger else np.empty(0)
    total = np.concatenate([read(arrays)[name] for name in initial])
    others = np.delete(np.arange(4), 1)
    left = np.concatenate([after[name] for name in initial])
    assert rows[others].any(axis=1).all()
    np.testing.assert_allclose(rows.sum(axis=0), left, atol=1e-6)
    assert np.abs(total - left).max() > 1e-3


# -- rows on the disk ------------------------------------------------------------------


def is_mapped(rows: np.ndarray) -> bool:
    return isinstance(rows, np.memmap)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDNEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_rows_on_the_disk_are_those_in_memory(
    momentum: float, cache: Path, tmp_path: Path
):
    """Trained, saved, read again, forgotten; and their file has no name."""

    def inner() -> FedAvg:
        return FedAvgM(fraction_evaluate=0.0, server_momentum=momentum)

    held, arrays, _ = started(strategy=inner(), rounds=3, memory_mib=0)
    assert held.ledger is not None
    assert is_mapped(held.ledger.contributions)
    assert held.ledger.buffers is None or is_mapped(held.ledger.buffers)
    assert list((cache / "scratch").iterdir()) == []
    there, same, _ = started(strategy=inner(), rounds=3)
    assert there.ledger is not None
    assert not is_mapped(there.ledger.contributions)
    np.testing.assert_allclose(
        there.ledger.contributions, held.ledger.contributions, atol=1e-6
    )
    held.save(tmp_path / "saved")
    gone = held.clients[1]
    found = read(there.forget([gone], same))
    read_again = Forgettable.load(tmp_path / "saved", inner(), memory_mib=0)
    assert read_again.ledger is not None
    assert is_mapped(read_again.ledger.contributions)
    for one in (held, read_again):
        after = read(one.forget([gone], arrays if one is held else None))
        for name, array in after.items():
            np.testing.assert_allclose(array, found[name], rtol=0, atol=1e-6)
        assert one.ledger is not None
        assert not one.ledger.contributions[1].any()


def test_rows_move_to_the_disk_when_there_are_too_many(cache: Path):
    """75,000 numbers of 4 bytes: 3 rows are 0.86 MiB, and 4 are 1.14."""
    initial = {"w": np.zeros((300, 250), np.float32)}
    grid = Watched()
    late = grid.get_node_ids()[-1]
    context = grid.contexts.pop(late)
    inner = FedAvg(min_train_nodes=1, min_available_nodes=1, fraction_evaluate=0.0)
    held, arrays, _ = started(initial, 1, inner, grid, memory_mib=1)
    assert held.ledger is not None
    assert not is_mapped(held.ledger.contributions)
    before = held.ledger.contributions.copy()
    grid.contexts[late] = context
    held.start(grid, arrays, num_rounds=1, timeout=PATIENCE_S)
    assert held.clients[-1] == late
    assert is_mapped(held.ledger.contributions)
    _, replies = grid.rounds[-1]
    start, total = grid.rounds[-1][0]["w"], sum(n for _, n in replies.values())
    for row, client in enumerate(held.clients):
        local, count = replies[client]
        expected = count / total * (local["w"] - start).reshape(-1)
        if row < len(before):
            expected = expected + before[row]
        np.testing.assert_allclose(held.ledger.contributions[row], expected, atol=1e-6)


def test_a_life_goes_on_with_rows_on_the_disk(cache: Path, tmp_path: Path):
    """With `state=`, after its process has ended."""
    state = tmp_path / "state"
    grid = Watched()
    first, *_ = started(rounds=1, grid=grid, state=state, memory_mib=0)
    again, *_ = started(rounds=2, grid=grid, state=state, memory_mib=0)
    for held in (first, again):
        assert held.ledger is not None
        assert is_mapped(held.ledger.contributions)
    assert again.ledger is not None
    assert again.ledger.contributions.any()


@pytest.mark.parametrize("value", [-1, 0.5, "1"])
def test_a_bound_is_a_whole_number(value: Any):
    with pytest.raises(FedNegError, match="memory_mib must be"):
        Forgettable(FedAvg(), memory_mib=value)


def test_contributions_by_hand_are_those_of_the_builders():
    """Two ways of the same sum, so that the one used above can be believed."""
    held, arrays, grid = started()
    gone = held.clients[2]
    expected = by_hand(grid, arrays, gone, ("conv.weight",))["conv.weight"]
    other = read(arrays)["conv.weight"] - contributions(grid)[gone]["conv.weight"]
    np.testing.assert_allclose(expected, other, atol=1e-6)
