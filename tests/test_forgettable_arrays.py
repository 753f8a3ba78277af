"""Whatever is changed in the arrays that a ledger stands for is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, MetricRecord
from flwr.serverapp.strategy import FedAvg

from builders.strangers import INITIAL, Watched, read, trained, written
from builders.waiting import PATIENCE_S
from fedneg import Forgettable
from fedneg.core.errors import FedNegError

REFUSED = "not those that the ledger stands for: {} is another"
KINDS = {
    "parameter": "conv.weight",
    "0-d parameter": "temperature",
    "mean": "bn.running_mean",
    "variance": "bn.running_var",
    "counter": "bn.num_batches_tracked",
    "frozen": "frozen",
}
FROZEN = {**INITIAL, "frozen": np.full(3, 7, np.float32)}
CLIENTS = {1000 + k: 100 + k for k in range(4)}


class Partly(torch.nn.Module):
    """A network of the strangers' arrays, of which one is frozen."""

    def __init__(self) -> None:
        super().__init__()
        for name, array in FROZEN.items():
            path, _, last = name.rpartition(".")
            module = self
            if path:
                if not hasattr(self, path):
                    self.add_module(path, torch.nn.Module())
                module = getattr(self, path)
            tensor = torch.tensor(array)
            if "bn." in name:
                module.register_buffer(last, tensor)
            else:
                is_trained = name != "frozen"
                module.register_parameter(
                    last, torch.nn.Parameter(tensor, requires_grad=is_trained)
                )


def fedavg() -> FedAvg:
    return FedAvg(fraction_evaluate=0.0)


def of_types(dtype: Any) -> dict[str, np.ndarray]:
    """Return the initial arrays with their floats in another type."""
    return {
        n: a.astype(dtype) if a.dtype.kind == "f" else a for n, a in INITIAL.items()
    }


def edited(record: ArrayRecord, name: str) -> ArrayRecord:
    """Return a copy in which one number is the next one of its type."""
    arrays = {n: a.copy() for n, a in read(record).items()}
    array = arrays[name].reshape(-1)
    one = array[-1]
    array[-1] = one + 1 if one.dtype.kind in "iu" else np.nextafter(one, np.inf)
    return written(arrays)


@pytest.mark.parametrize("name", KINDS.values(), ids=KINDS)
def test_whatever_is_edited_after_forgetting_is_refused(name: str, tmp_path: Path):
    """By the next start, by the next forgetting, and after files."""
    grid = Watched()
    held, _ = trained(fedavg(), grid, initial=FROZEN, model=Partly, clients=CLIENTS)
    arrays = held.forget([101])
    held.save(tmp_path)
    loaded = Forgettable.load(tmp_path, fedavg(), model=Partly, clients=CLIENTS)
    other, said = edited(arrays, name), REFUSED.format(name)
    for one in (held, loaded):
        with pytest.raises(FedNegError, match=said):
            one.start(grid, other, num_rounds=1)
        with pytest.raises(FedNegError, match=said):
            one.forget([102], other)
        assert len(grid.rounds) == 3
    for one in (held, loaded):
        one.start(grid, arrays, num_rounds=1, timeout=PATIENCE_S)


@pytest.mark.parametrize("name", KINDS.values(), ids=KINDS)
def test_in_a_program_with_a_state_it_is_refused_too(name: str, tmp_path: Path):
    grid = Watched()
    held = Forgettable(fedavg(), model=Partly, clients=CLIENTS, state=tmp_path / "s")
    held.start(grid, written(FROZEN), 2, PATIENCE_S)
    said = "not those that the ledger stands for"
    if name == "frozen":  # which no start of the folder may have otherwise
        said = f"frozen is .* in the federation in {tmp_path}"
    for arrays in (held.arrays, written(FROZEN)):
        with pytest.raises(FedNegError, match=said):
            held.start(grid, edited(arrays, name), 3, PATIENCE_S)
    held.start(grid, written(FROZEN), 3, PATIENCE_S)
    assert len(grid.rounds) == 3


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
@pytest.mark.parametrize("name", ["conv.weight", "bn.running_var"])
def test_arrays_of_other_types_are_compared_to_their_last_bit(
    dtype: Any, name: str, tmp_path: Path
):
    """Finer ones as they were given out, though files have them in float32."""
    grid = Watched()
    held, arrays = trained(fedavg(), grid, initial=of_types(dtype), clients=CLIENTS)
    for is_forgotten in (False, True):
        left = held.forget([101]) if is_forgotten else arrays
        held.save(tmp_path)
        loaded = Forgettable.load(tmp_path, fedavg(), clients=CLIENTS)
        with pytest.raises(FedNegError, match=REFUSED.format(name)):
            held.start(grid, edited(left, name), num_rounds=1)
        with pytest.raises(FedNegError, match="not those that the ledger stands for"):
            loaded.start(grid, edited(left, name), num_rounds=1)
        loaded.start(grid, left, num_rounds=1, timeout=PATIENCE_S)
    first = Forgettable.load(tmp_path, fedavg(), clients=CLIENTS)
    first.start(grid, first.arrays, num_rounds=1, timeout=PATIENCE_S)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_with_a_state_what_start_and_forget_return_goes_on(dtype: Any, tmp_path: Path):
    grid, initial = Watched(), written(of_types(dtype))
    held = Forgettable(fedavg(), clients=CLIENTS, state=tmp_path / "state")
    arrays = held.start(grid, initial, 2, PATIENCE_S).arrays
    arrays = held.start(grid, arrays, 3, PATIENCE_S).arrays
    held.start(grid, held.forget([102], arrays), 4, PATIENCE_S)
    again = Forgettable(fedavg(), clients=CLIENTS, state=tmp_path / "state")
    again.start(grid, held.arrays, 5, PATIENCE_S)
    for name, array in read(again.arrays).items():
        np.testing.assert_array_equal(read(held.arrays)[name], array)
    again.start(grid, held.arrays, 6, PATIENCE_S)
    assert len(grid.rounds) == 6
    for one, other in zip(
        read(held.arrays).values(), grid.rounds[-1][0].values(), strict=True
    ):
        assert one.dtype == other.dtype


def test_what_is_forgotten_of_fine_arrays_is_so_to_their_precision():
    """Without the arrays, too: the model is held as it was handed out."""
    grid = Watched()
    held, arrays = trained(fedavg(), grid, initial=of_types(np.float64))
    assert held.ledger is not None
    row = held.ledger.contributions[1, :24].reshape(2, 3, 4).astype(np.float64)
    after = read(held.forget([held.clients[1]]))["conv.weight"]
    np.testing.assert_array_equal(after, read(arrays)["conv.weight"] - row)
    assert np.array_equal(read(held.arrays)["conv.weight"], after)
    assert not np.array_equal(after, after.astype(np.float32))


def replaced(arrays: ArrayRecord) -> None:
    arrays["bn.running_var"] = Array(np.full(2, 0.5, np.float32))


def rewritten(arrays: ArrayRecord) -> None:
    arrays["temperature"].data = Array(np.array(3, np.float32)).data


def emptied(arrays: ArrayRecord) -> None:
    arrays.to_torch_state_dict(keep_input=False)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (replaced, "of this round are not those .* bn.running_var is another; what ru"),
        (rewritten, "of this round are not those .*: temperature is another; what run"),
        (emptied, "array bn.num_batches_tracked is not in the record"),
    ],
)
@pytest.mark.parametrize("when", [0, 2])
def test_an_evaluation_that_changes_the_arrays_is_refused(
    change: Callable[[ArrayRecord], None], said: str, when: int
):
    """Before anybody trains from them; the model of the round before is there."""

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        if server_round == when:
            change(arrays)
        return MetricRecord()

    grid, held = Watched(), Forgettable(fedavg(), clients=CLIENTS)
    with pytest.raises(FedNegError, match=said):
        held.start(grid, written(INITIAL), 3, PATIENCE_S, evaluate_fn=evaluate)
    assert len(grid.rounds) == when
    held.start(grid, held.arrays, 3, PATIENCE_S)
    assert len(grid.rounds) == when + 3
    if not when:
        first = grid.rounds[0][0]
        assert all(np.array_equal(first[name], INITIAL[name]) for name in INITIAL)
    assert held.ledger is not None
    held.forget([101])


def test_a_record_that_was_given_is_the_owners_to_change():
    grid = Watched()
    held, arrays = trained(fedavg(), grid)
    for record in (arrays, held.arrays):
        emptied(record)
    before = read(held.arrays)
    assert set(before) == set(INITIAL)
    assert all(array.size == INITIAL[name].size for name, array in before.items())
    after = held.start(grid, held.arrays, num_rounds=1, timeout=PATIENCE_S).arrays
    assert (read(after)["conv.weight"] != before["conv.weight"]).any()


@pytest.mark.parametrize("shape", [(-1,), (4, 3, 2), (3, 2, 4), (6, 4)])
def test_the_same_numbers_in_other_places_are_another_array(shape: tuple[int, ...]):
    """Only axes of length 1 may come and go."""
    grid, name = Watched(), "conv.weight"
    held, _ = trained(fedavg(), grid, clients=CLIENTS)
    arrays = held.forget([101])
    numbers = read(arrays)[name]
    moved = written({**read(arrays), name: numbers.reshape(shape)})
    for call in (lambda: held.start(grid, moved), lambda: held.forget([102], moved)):
        with pytest.raises(FedNegError, match=REFUSED.format(name)):
            call()
    longer = written({**read(arrays), name: numbers[None]})
    held.start(grid, longer, num_rounds=1)
