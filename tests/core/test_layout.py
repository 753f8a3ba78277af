"""The layout of named arrays, where no model says what is trained."""

import pytest

from fedneg.core.errors import FedNegError
from fedneg.core.layout import Kind, Layout


def test_names_and_types_say_what_is_a_sum():
    found = Layout.by_name(
        {
            "bn.num_batches_tracked": ((), "int64"),
            "bn.running_var": ((4,), "float16"),
            "conv.weight": ((2, 3), "float64"),
            "running_mean_of_all": ((5,), "float32"),
            "head": ((7,), "bfloat16"),
        }
    )
    assert [(part.name, part.kind) for part in found.parts] == [
        ("conv.weight", Kind.PARAMETER),
        ("running_mean_of_all", Kind.PARAMETER),
        ("head", Kind.PARAMETER),
        ("bn.running_var", Kind.STATISTIC),
        ("bn.num_batches_tracked", Kind.COUNTER),
    ]
    assert (found.size, found.means, found.width) == (18, 4, 23)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"w": ((2,), "bool")}, "array w must be of floats or whole numbers, got bool"),
        ({"w": ((2,), "complex64")}, "got complex64"),
        ({"step": ((), "int64")}, "must have an array of floats to train"),
    ],
)
def test_what_is_none_is_refused(
    arrays: dict[str, tuple[tuple[int, ...], str]], said: str
):
    with pytest.raises(FedNegError, match=said):
        Layout.by_name(arrays)
