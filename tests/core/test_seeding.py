"""Random streams: keyed, unrelated, and nobody else's."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fedneg.core.seeding import rng, torch_generator

KEYS = [
    (0, "shuffle", 1, 0),
    (1, "shuffle", 1, 0),
    (0, "init", 1, 0),
    (0, "shuffle", 2, 0),
    (0, "shuffle", 1, 1),
    (0, "shuffle", 11, 0),
    (0, "shuffle", 1, 10),
]


def numpy_draw(*key: Any) -> tuple[float, ...]:
    return tuple(rng(*key).random(4).tolist())


def torch_draw(*key: Any) -> tuple[float, ...]:
    return tuple(torch.rand(4, generator=torch_generator(*key)).tolist())


@pytest.mark.parametrize("draw", [numpy_draw, torch_draw])
def test_each_key_has_a_stream_of_its_own(draw: Callable[..., tuple[float, ...]]):
    found = [draw(*key) for key in KEYS]
    assert len(set(found)) == len(KEYS)
    assert [draw(*key) for key in KEYS] == found


@pytest.mark.parametrize("draw", [numpy_draw, torch_draw])
def test_streams_leave_global_generators_alone(
    draw: Callable[..., tuple[float, ...]],
):
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    draw(*KEYS[0])
    assert random.getstate() == before[0]
    for one, two in zip(np.random.get_state(), before[1], strict=True):
        np.testing.assert_array_equal(one, two)
    assert torch.equal(torch.get_rng_state(), before[2])


def test_streams_are_the_same_on_every_machine():
    """The first draws; another value here means that no old result can be repeated."""
    assert rng(0, "init").integers(1000, size=4).tolist() == [155, 158, 895, 492]
