"""A torch module says what of a stranger's arrays is trained."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import FedAvg, FedAvgM
from torch import nn

from builders.strangers import Watched, read
from builders.waiting import PATIENCE_S
from fedneg import Forgettable
from fedneg.core.errors import FedNegError


def network(fill: float = 0.5) -> nn.Sequential:
    """Return one with a frozen layer, a tied one, and buffers of two kinds."""
    model = nn.Sequential(
        nn.Linear(3, 3),
        nn.Linear(3, 3),
        nn.BatchNorm1d(3, affine=False),
        nn.Linear(3, 3),
    )
    model.append(model[3])  # the same tensors under two names
    model.register_buffer("scale", torch.full((2,), 3.0))
    model[1].requires_grad_(False)
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(
                fill + number + torch.arange(parameter.numel()).view_as(parameter) / 10
            )
    return model


def named() -> ArrayRecord:
    return ArrayRecord(network().state_dict())


def numbered() -> ArrayRecord:
    return ArrayRecord([v.numpy() for v in network().state_dict().values()])


@pytest.mark.parametrize("initial", [named, numbered])
@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_what_is_frozen_is_in_no_row_and_stays(
    initial: Callable[[], ArrayRecord], momentum: float
):
    """Whatever the clients send of it; a mean of it would be off by its rounding."""
    record = initial()
    of = dict(zip(network().state_dict(), record, strict=True))
    inner = FedAvgM(fraction_evaluate=0.0, server_momentum=momentum)
    held = Forgettable(inner, model=network)
    grid = Watched()
    result = held.start(grid, record, num_rounds=3, timeout=PATIENCE_S)
    assert held.ledger.contributions.shape == (4, 4 * (9 + 3) - 12)
    gone = held.clients[2]
    for arrays in (read(result.arrays), read(held.forget([gone], result.arrays))):
        assert list(arrays) == list(record)
        for name in ("1.weight", "1.bias"):
            np.testing.assert_array_equal(arrays[of[name]], read(record)[of[name]])
    # A buffer of another name is a statistic too: the mean of those who stay.
    last = {n: found for n, found in grid.rounds[-1][1].items() if n != gone}
    total = sum(count for _, count in last.values())
    expected = sum(a[of["scale"]] * c / total for a, c in last.values())
    np.testing.assert_allclose(arrays[of["scale"]], expected, rtol=1e-6)
    # Both names of a tensor go on alike where clients keep them alike.
    state = dict(zip(of, map(torch.from_numpy, arrays.values()), strict=True))
    network().load_state_dict(state)


def test_what_is_saved_takes_the_frozen_from_the_model_again(tmp_path: Path):
    held = Forgettable(FedAvg(fraction_evaluate=0.0), model=network())
    arrays = held.start(Watched(), named(), num_rounds=2).arrays
    held.save(tmp_path)
    again = Forgettable.load(tmp_path, FedAvg(), model=network)
    for name, array in read(again.arrays).items():
        np.testing.assert_allclose(array, read(arrays)[name], rtol=1e-6)
    with pytest.raises(FedNegError, match="1\\.weight is frozen, and in no file: give"):
        Forgettable.load(tmp_path, FedAvg())
    with pytest.raises(FedNegError, match="what is frozen in the model is not what it"):
        Forgettable.load(tmp_path, FedAvg(), model=network(0.75))
    with pytest.raises(FedNegError, match="the model has no 1\\.bias"):
        Forgettable.load(tmp_path, FedAvg(), model=nn.Linear(2, 2))


def test_another_model_is_a_line():
    cases = [
        (nn.Linear(3, 3), "array scale of initial_arrays is not in the model"),
        (network().requires_grad_(False), "must have an array of floats to train"),
    ]
    for model, said in cases:
        with pytest.raises(FedNegError, match=said):
            Forgettable(FedAvg(), model=model).start(Watched(), named(), num_rounds=1)
    with pytest.raises(
        FedNegError, match="model must be a torch module, or make one, got"
    ):
        Forgettable(FedAvg(), model=3)
