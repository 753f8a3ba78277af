"""What sets runs apart, by hand."""

from fedneg.core.formats import as_overrides, leaves
from fedneg.reports.compare.apart import apart, varying

ROWS = [
    {"seed": 0, "rate": 0.1, "form": "update"},
    {"seed": 1, "rate": 0.1, "form": "update"},
    {"seed": 0, "rate": 0.1},
]


def test_what_differs_is_named_in_the_order_of_the_alphabet_or_as_asked():
    assert varying(ROWS) == ["form", "seed"]
    assert varying(ROWS, ("seed", "rate", "form")) == ["seed", "form"]
    assert varying(ROWS[:1]) == varying([]) == []


def test_each_row_has_its_own_values_and_none_for_what_it_lacks():
    assert apart(ROWS) == [
        {"form": "update", "seed": 0},
        {"form": "update", "seed": 1},
        {"form": None, "seed": 0},
    ]
    assert apart(ROWS, ("rate", "seed")) == [{"seed": 0}, {"seed": 1}, {"seed": 0}]


def test_nan_is_no_value_of_its_own():
    """It equals nothing, itself included: each row would be another."""
    assert varying([{"x": float("nan")}, {"x": float("nan")}, {"x": None}]) == []


def test_a_nested_mapping_has_dotted_keys_and_an_empty_one_is_a_value():
    values = {"a": {"b": {"c": 1}, "d": {}}, "e": "x y", "f": [1, None]}
    assert list(leaves(values)) == [
        *(("a.b.c", 1), ("a.d", {}), ("e", "x y"), ("f", [1, None])),
    ]
    assert as_overrides(values) == "a.b.c=1\na.d={}\ne=x y\nf=[1, null]"
