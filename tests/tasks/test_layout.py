"""The layout of a model: which arrays are additive, and what comes back of them."""

import numpy as np
import pytest
import torch
from torch import nn

from fedneg.core.errors import FedNegError
from fedneg.core.layout import Kind
from fedneg.core.parameters import flatten, unflatten
from fedneg.tasks.layout import layout_of, read_model, write_model


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2)
    )


def test_parameters_come_first_then_statistics_then_counters():
    found = layout_of(network())
    assert found.names == [
        *("0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias"),
        *("1.running_mean", "1.running_var"),
        "1.num_batches_tracked",
    ]
    assert found.size == 4 * 3 * 9 + 4 + 4 + 4 + 8 + 2
    assert (found.statistics, found.counters) == (slice(130, 138), slice(138, 139))
    assert found.width == 139


def test_what_was_read_can_be_written_and_loaded():
    """Into another model, through a vector, every value and type as before."""
    before, after = network(), network()
    before[1](torch.randn(8, 4, 5, 5))
    layout = layout_of(before)
    vector = flatten(read_model(layout, before))
    write_model(layout, after, unflatten(vector, layout.shapes))
    expected = before.state_dict()
    for name, value in after.state_dict().items():
        assert torch.equal(value, expected[name])
        assert value.dtype == expected[name].dtype
    typed = {
        name: torch.tensor(array)
        for name, array in zip(
            layout.names, layout.typed(read_model(layout, before)), strict=True
        )
    }
    assert set(typed) == set(expected)
    assert all(typed[n].dtype == expected[n].dtype for n in expected)
    third = network()
    third.load_state_dict(typed)
    assert torch.equal(third[1].running_mean, before[1].running_mean)


def test_frozen_tied_and_unsaved_tensors():
    model = network()
    model[0].weight.requires_grad_(False)
    model.register_buffer("scratch", torch.zeros(5), persistent=False)
    model.append(nn.Linear(4, 2, bias=False))
    model[4].weight = model[3].weight
    names = layout_of(model).names
    assert "0.weight" not in names
    assert "scratch" not in names
    assert [n for n in names if n in ("3.weight", "4.weight")] == ["3.weight"]
    with pytest.raises(FedNegError, match="no parameter that is trained"):
        layout_of(model.requires_grad_(False))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_are_float32_in_between(dtype: torch.dtype):
    model = nn.Linear(3, 2).to(dtype)
    layout = layout_of(model)
    arrays = read_model(layout, model)
    assert {a.dtype for a in arrays} == {np.dtype(np.float32)}
    other = nn.Linear(3, 2).to(dtype)
    write_model(layout, other, arrays)
    assert other.weight.dtype == dtype
    # What float32 holds of it; of half precision that is all.
    expected = model.weight.detach().float().to(dtype)
    assert torch.equal(other.weight.detach(), expected)


def test_another_models_arrays_are_refused():
    layout = layout_of(nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"\(\(2, 3\), \(2,\)\) expected"):
        write_model(layout, nn.Linear(3, 2), [np.zeros((2, 3), np.float32)])


def test_counters_are_whole_again():
    model = network()
    layout = layout_of(model)
    arrays = read_model(layout, model)
    arrays[-1][...] = 6.9999995  # what a sum of floats may leave
    write_model(layout, model, arrays)
    assert int(model[1].num_batches_tracked) == 7
    assert [p.name for p in layout.of_kind(Kind.COUNTER)] == ["1.num_batches_tracked"]
