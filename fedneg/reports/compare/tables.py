"""The comparison at a glance: one small table per attack, for the page and a README.

The one job: the summary of statistics.py in, rows of text or Markdown out.
"""

from collections.abc import Iterator

import pandas as pd

from fedneg.core.formats import MISSING, number, rate, signed, whole_percent
from fedneg.reports.compare.single import INFLUENCE
from fedneg.reports.compare.statistics import count_outcomes, pool
from fedneg.reports.compare.text import short_number
from fedneg.reports.conclusions import count


def glance(pooled: pd.DataFrame) -> pd.DataFrame:
    """Return one attack's rows of `pool` as text, headers included.

    Residual influence is left out where nobody measured it.
    """
    measures = [m for m in pooled["forgetting_measure"].unique() if m]
    measure = f" ({measures[0]})" if len(measures) == 1 else ""
    rows = [
        {
            "method": row["strategy"],
            "accuracy before repair": rate(row["accuracy_at_once"]),
            "test accuracy (beside the retrained)": _accuracy(row),
            f"forgetting gap{measure}": rate(row["forgetting_gap"]),
            INFLUENCE: _influence(row["rho"]),
            "verdicts": count_outcomes(row) or MISSING,
            "client-epochs": short_number(row["client_epochs"]),
        }
        for row in pooled.to_dict("records")
    ]
    frame = pd.DataFrame(rows, dtype=object)
    return frame if pooled["rho"].notna().any() else frame.drop(columns=INFLUENCE)


def markdown_table(summary: pd.DataFrame, *, attack: str | None = None) -> str:
    """Return Markdown for a README: a table per attack, pooled over its settings.

    Parameters
    ----------
    summary : DataFrame
        `summarise`'s.
    attack : str, optional
        Only this attack's table; '' is returned where there is none.

    Returns
    -------
    str
        Rows are methods after the two reference models. Each setting counts alike;
        the accuracy's distance from the retrained model's stands beside it in brackets.
    """
    tables = []
    for name, rows in pool(summary).groupby("attack", sort=False):
        if attack is None or attack == name:
            tables.append("\n".join(_markdown(heading(rows), glance(rows))))
    return "\n\n".join(tables) + "\n" if tables else ""


def heading(pooled: pd.DataFrame) -> str:
    """Return what one attack's table shows."""
    name = str(pooled["attack"].iloc[0])
    title = "Without an attack" if name == "none" else f"Attack: {name}"
    return f"{title} ({count(int(pooled['settings'].max()), 'setting')})"


def _markdown(title: str, table: pd.DataFrame) -> Iterator[str]:
    yield f"**{title}**"
    yield ""
    columns = [str(name) for name in table.columns]
    yield f"| {' | '.join(columns)} |"
    places = ["---" if name in ("method", "verdicts") else "---:" for name in columns]
    yield f"| {' | '.join(places)} |"
    for row in table.to_numpy().tolist():
        cells = [str(cell).replace("\\", "\\\\").replace("|", "\\|") for cell in row]
        yield f"| {' | '.join(cells)} |"


def _influence(value: object) -> str:
    """Return residual influence in hundredths, a dash for null."""
    found = number(value)
    return MISSING if found is None else f"{whole_percent(found)} %"


def _accuracy(row: dict[str, object]) -> str:
    """Return an accuracy and how far it is from that of retrained models."""
    value, lost = rate(row["test_accuracy"]), number(row["accuracy_lost"])
    if lost is None or row["strategy"] == "retrained":
        return value
    return f"{value} ({signed(-lost)})"
