"""What sets runs apart: the values that are not the same in all of them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def varying(
    rows: Sequence[Mapping[Any, Any]], names: Iterable[str] | None = None
) -> list[str]:
    """Return the names whose values differ among rows; a missing one counts as None.

    Parameters
    ----------
    names : iterable of str, optional
        Which to look at, in this order; None: all, in the order of the alphabet.
    """
    if names is None:
        names = sorted({name for row in rows for name in row})
    return [name for name in names if len({_value(row, name) for row in rows}) > 1]


def apart(
    rows: Sequence[Mapping[Any, Any]], names: Iterable[str] | None = None
) -> list[dict[str, Any]]:
    """Return of each row the values that differ among rows (`varying`)."""
    differing = varying(rows, names)
    return [{name: row.get(name) for name in differing} for row in rows]


def _value(row: Mapping[Any, Any], name: str) -> Any:
    """Return a value; a table's NaN, which equals nothing, as None."""
    value = row.get(name)
    return None if value != value else value
