"""Draw what methods give up in accuracy for what they forget: one panel per setting."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from fedneg.core.formats import number
from fedneg.core.quality import ACCURACY
from fedneg.reports.compare.statistics import (
    REFERENCES,
    about_of,
    setting_labels,
    settings_of,
    strategies_of,
)
from fedneg.reports.html.figures import (
    LIGHT,
    Picture,
    draw_picture,
    method_style,
    panels,
)

# Within it the axes are linear, beyond it logarithmic: fractions.
_LINEAR = 0.01
_TICKS = (-1.0, -0.1, -0.01, 0.0, 0.01, 0.1, 1.0)
_SMALLEST, _LARGEST = 26.0, 150.0  # areas of markers, in square points


def draw_pareto(summary: pd.DataFrame, *, quality: str = ACCURACY) -> Picture | None:
    """Return forgetting gap against accuracy lost, a panel per setting.

    Parameters
    ----------
    summary : DataFrame
        `fedneg.reports.compare.statistics.summarise`'s; judged models are drawn.

    Returns
    -------
    Picture or None
        None where no method has both numbers. Bars are half widths over seeds; a
        marker's area grows with client-epochs.
    """
    points = summary[
        summary["judged"].astype(bool)
        & ~summary["strategy"].isin(REFERENCES)
        & summary["forgetting_gap"].notna()
        & summary["accuracy_lost"].notna()
    ]
    if points.empty:
        return None
    groups = settings_of(points)
    labels = setting_labels([key for key, _ in groups])
    strategies = strategies_of(points["strategy"])
    styles = dict(zip(strategies, method_styles(strategies), strict=True))
    limits = _limits(points)
    most = max(map(_epochs, points["client_epochs"]))

    def draw(figure: Figure, narrow: bool) -> None:
        columns = 1 if narrow else min(3, len(groups))
        for place, axes in enumerate(panels(figure, len(groups), columns)):
            _draw_panel(axes, groups[place][1], styles, most=most)
            _scale(axes, limits)
            axes.set_title(wrapped(labels[place], 42 if narrow else 34), loc="left")
            below = place + columns >= len(groups)
            if below:
                axes.set_xlabel(_axis_name(groups[place][1], points))
            if place % columns == 0:
                axes.set_ylabel("accuracy lost")
        _draw_legend(figure, styles, columns=2 if narrow else 5)

    rows_wide = math.ceil(len(groups) / 3)
    legend = math.ceil(len(strategies) / 5), math.ceil(len(strategies) / 2)
    return draw_picture(
        "pareto",
        draw,
        alt=(
            "Scatter plots by setting: forgetting gap from left to right, accuracy "
            f"lost from bottom to top; {', '.join(strategies)}."
        ),
        height_wide=0.5 + 0.2 * legend[0] + 2.35 * rows_wide,
        height_narrow=0.5 + 0.19 * legend[1] + 2.35 * len(groups),
        quality=quality,
    )


def method_styles(strategies: list[str]) -> list[dict[str, Any]]:
    """Return each strategy's colour and marker: the method's own if all have one."""
    places = [about_of(name).place for name in strategies]
    own = [place for place in places if place is not None]
    return [method_style(p) for p in (own if own == places else range(len(places)))]


def _epochs(value: object) -> float:
    """Return client-epochs, 0 where they are unknown."""
    return number(value) or 0.0


def _draw_panel(
    axes: Axes,
    rows: pd.DataFrame,
    styles: Mapping[str, Mapping[str, Any]],
    *,
    most: float,
) -> None:
    """Draw the points of one setting, large ones first so that they hide no others."""
    axes.axhline(0, color=LIGHT["muted"], lw=0.8, zorder=1)
    axes.axvline(0, color=LIGHT["muted"], lw=0.8, zorder=1)
    ordered = sorted(
        rows.to_dict("records"), key=lambda r: -_epochs(r["client_epochs"])
    )
    for row in ordered:
        style = styles[row["strategy"]]
        x, y = row["forgetting_gap"], row["accuracy_lost"]
        share = _epochs(row["client_epochs"]) / most if most else 0.0
        x_half = number(row["forgetting_gap_half"]) or 0.0
        y_half = number(row["accuracy_lost_half"]) or 0.0
        axes.errorbar(
            [x],
            [y],
            # A gap's size is never below 0, whatever its interval says.
            xerr=[[min(x_half, x)], [x_half]],
            yerr=y_half,
            ecolor=style["color"],
            elinewidth=0.7,
            fmt="none",
            zorder=2,
        )
        axes.scatter(
            [x],
            [y],
            s=_SMALLEST + (_LARGEST - _SMALLEST) * share,
            color=style["color"],
            marker=style["marker"],
            edgecolor=LIGHT["surface"],
            linewidth=0.6,
            zorder=3,
        )


def _limits(points: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """Return what all panels show, so that they can be compared by eye."""
    x, x_half = points["forgetting_gap"], points["forgetting_gap_half"].fillna(0)
    y, y_half = points["accuracy_lost"], points["accuracy_lost_half"].fillna(0)
    high = float(np.max(x + x_half))
    low_y, high_y = float(np.min(y - y_half)), float(np.max(y + y_half))
    return {
        "x": (-_LINEAR / 4, max(high * 1.5, 2 * _LINEAR)),
        "y": (min(low_y * 1.5, -_LINEAR), max(high_y * 1.5, 2 * _LINEAR)),
    }


def _scale(axes: Axes, limits: Mapping[str, tuple[float, float]]) -> None:
    """Set both axes to a scale that shows thousandths and halves alike."""
    for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        low, high = limits[name]
        getattr(axes, f"set_{name}scale")("symlog", linthresh=_LINEAR, linscale=0.6)
        getattr(axes, f"set_{name}lim")(low, high)
        ticks = [tick for tick in _TICKS if low <= tick <= high]
        texts = [f"{tick:g}".replace("-", "\N{MINUS SIGN}") for tick in ticks]
        axis.set_ticks(ticks, texts)
        axis.set_minor_locator(NullLocator())


def _draw_legend(
    figure: Figure, styles: Mapping[str, Mapping[str, Any]], *, columns: int
) -> None:
    """Name the methods above all panels."""
    handles = [
        Line2D([], [], linestyle="none", markersize=6, **style)
        for style in styles.values()
    ]
    figure.legend(handles, list(styles), loc="outside upper left", ncols=columns)


def _axis_name(rows: pd.DataFrame, points: pd.DataFrame) -> str:
    """Return the x axis' name, with the measure where all panels share one."""
    if points["forgetting_measure"].nunique() == 1:
        return f"forgetting gap ({rows['forgetting_measure'].iloc[0]})"
    return "forgetting gap"


def wrapped(label: str, width: int) -> str:
    """Return a label in at most two lines, broken between its parts."""
    lines = [""]
    for part in label.split(" · "):
        longer = f"{lines[-1]} · {part}" if lines[-1] else part
        if len(longer) > width and lines[-1] and len(lines) == 1:
            lines.append(part)
        else:
            lines[-1] = longer
    return "\n".join(x if len(x) <= width else f"{x[: width - 1]}…" for x in lines)
