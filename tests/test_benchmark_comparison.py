"""The comparison of docs/methods.md: runs of several days in one table."""

from pathlib import Path

import pandas as pd
import pytest

from benchmarks import comparison
from benchmarks.comparison import merged
from builders.checkout import REPOSITORY
from fedneg.reports.compare.rows import SETTING
from fedneg.reports.compare.statistics import summarise
from fedneg.reports.compare.tables import markdown_table


def rows(*of: tuple[str, int, float]) -> pd.DataFrame:
    """Return rows of a method, a seed and an accuracy."""
    setting = dict.fromkeys(SETTING, "x") | {"other": None}
    return pd.DataFrame(
        [
            {"strategy": strategy, **setting, "seed": seed, "model": "recovered"}
            | {"test_accuracy": accuracy}
            for strategy, seed, accuracy in of
        ]
    )


def test_of_a_run_that_is_there_twice_the_later_one_counts(tmp_path: Path):
    """And it keeps its place: settings are shown in the order of rows."""
    old, new = tmp_path / "old.csv", tmp_path / "new.csv"
    rows(("a", 0, 0.1), ("b", 0, 0.2), ("a", 1, 0.3)).to_csv(old, index=False)
    rows(("b", 0, 0.9), ("c", 0, 0.8)).to_csv(new, index=False)
    found = merged([old, new])
    assert list(found["strategy"]) == ["a", "b", "a", "c"]
    assert list(found["test_accuracy"]) == [0.1, 0.9, 0.3, 0.8]
    assert list(found["other"]) == [""] * 4


def test_the_page_has_the_tables_of_the_file():
    found = merged([REPOSITORY / "benchmarks" / "comparison.csv"])
    page = (REPOSITORY / "docs" / "methods.md").read_text()
    assert markdown_table(summarise(found)) in page


def test_folders_and_tables_write_settings_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A folder's client is a text, a file's a number: one setting all the same."""
    table = tmp_path / "old.csv"
    rows(("a", 0, 0.1)).assign(forget=4, fraction=0.5).to_csv(table, index=False)
    folder = rows(("b", 0, 0.2)).assign(forget="4", fraction="0.5", other="")
    monkeypatch.setattr(comparison, "collect_comparison", lambda place: folder)
    found = merged([table, tmp_path])
    assert len(found.groupby([*SETTING], dropna=False)) == 1
    assert list(found["strategy"]) == ["a", "b"]
