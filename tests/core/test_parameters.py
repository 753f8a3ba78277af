"""Arithmetic on parameters, by hand."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedneg.core.parameters import (
    add,
    flatten,
    from_npy,
    shapes_of,
    to_npy,
    unflatten,
    weights_of,
)

shapes = st.lists(st.lists(st.integers(0, 3), max_size=3).map(tuple), max_size=4)


@given(shapes)
def test_unflatten_is_the_inverse_of_flatten(given_shapes: list[tuple[int, ...]]):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=s).astype(np.float32) for s in given_shapes]
    again = unflatten(flatten(arrays), shapes_of(arrays))
    assert shapes_of(again) == tuple(given_shapes)
    for one, two in zip(arrays, again, strict=True):
        np.testing.assert_array_equal(one, two)


def test_flatten_reads_transposed_arrays_in_c_order():
    array = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.float32).T
    assert flatten([array]).tolist() == [1, 4, 2, 5, 3, 6]


def test_flatten_returns_a_copy():
    array = np.zeros(2, dtype=np.float32)
    flatten([array])[0] = 1
    assert array[0] == 0


@pytest.mark.parametrize("shape", [(3, 2), (5,), (), (0, 4)])
def test_npy_bytes_are_those_of_numpy(shape: tuple[int, ...]):
    array = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
    expected = io.BytesIO()
    np.save(expected, array)
    assert to_npy(array) == expected.getvalue()
    found = from_npy(to_npy(array), shape)
    assert found is not None
    np.testing.assert_array_equal(found, array)
    assert not found.flags.writeable


def test_npy_is_written_in_c_order():
    turned = np.arange(6, dtype=np.float32).reshape(2, 3).T
    np.testing.assert_array_equal(from_npy(to_npy(turned), (3, 2)), turned)


def test_npy_of_anything_else_is_left_to_numpy():
    right = to_npy(np.ones((2, 3), np.float32))
    others = [np.ones((2, 3)), np.ones((3, 2), np.float32), np.ones((2, 3), "<i4")]
    others.append(np.asfortranarray(np.ones((2, 3), np.float32)))
    for array in others:
        content = io.BytesIO()
        np.save(content, array)
        assert from_npy(content.getvalue(), (2, 3)) is None
    for content in (b"", right[:-1], right + b"x", b"x" + right[1:]):
        assert from_npy(content, (2, 3)) is None


def test_flatten_fills_what_it_is_given():
    out = np.full(5, 9, np.float32)
    arrays = [np.ones((2, 2), np.float32).T, np.zeros(1, np.float64)]
    assert flatten(arrays, out) is out
    assert out.tolist() == [1, 1, 1, 1, 0]


def test_unflatten_refuses_another_number_of_parameters():
    with pytest.raises(ValueError, match="3 parameters expected, got 2"):
        unflatten(np.zeros(2, np.float32), ((3,),))


def test_weights_are_shares_of_the_examples_by_hand():
    """1, 3 and 0 of 4 examples are 1/4, 3/4 and nothing."""
    assert weights_of([1, 3, 0]) == [0.25, 0.75, 0.0]


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([], "at least one client is needed, got none"),
        ([3, -1], "must not be negative, got -1"),
        ([0, 0], "all have 0"),
    ],
)
def test_weights_refuse(counts: list[int], message: str):
    with pytest.raises(ValueError, match=message):
        weights_of(counts)


def test_add_rounds_once_by_hand():
    """1 + 2**-24 + 2**-24 is 1 in float32 if rounded twice, 1 + 2**-23 if once."""
    tiny = np.array([2.0**-24], dtype=np.float32)
    found = add(np.ones(1, np.float32), [(1.0, tiny), (1.0, tiny)])
    assert found.dtype == np.float32
    assert found[0] == np.float32(1 + 2.0**-23)


def test_add_takes_unequal_scales_by_hand():
    """[1, 2] - 0.5 * [4, 0] + 3 * [0, 1] = [-1, 5]."""
    vectors = [np.array(v, np.float32) for v in ([1, 2], [4, 0], [0, 1])]
    assert add(vectors[0], [(-0.5, vectors[1]), (3, vectors[2])]).tolist() == [-1, 5]
