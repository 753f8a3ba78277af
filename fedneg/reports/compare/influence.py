"""Draw what can still be seen of the client, by method: one panel per setting."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fedneg.core.formats import number, whole_percent
from fedneg.reports.compare.figures import method_styles, wrapped
from fedneg.reports.compare.statistics import (
    REFERENCES,
    setting_labels,
    settings_of,
    strategies_of,
)
from fedneg.reports.html.figures import LIGHT, Picture, draw_picture, panels

# In hundredths: what lies beyond is drawn at the edge, as an arrow.
EDGE = 300.0


def draw_influences(
    frame: pd.DataFrame, margins: tuple[float, float] | None
) -> Picture | None:
    """Return residual influence by method, a panel per setting and a mark per run.

    Parameters
    ----------
    frame : DataFrame
        `fedneg.reports.compare.rows.collect_comparison`'s; judged models are drawn.
    margins : tuple of float, optional
        Shaded, where all runs have the same.

    Returns
    -------
    Picture or None
        None where it was never measured.
    """
    points = frame[frame["judged"].astype(bool) & frame["rho"].notna()]
    if points.empty:
        return None
    groups = settings_of(points)
    labels = setting_labels([key for key, _ in groups])
    strategies = strategies_of(points["strategy"])
    # As in the other figure, where references are none.
    methods = [name for name in strategies if name not in REFERENCES]
    styles = dict(zip(methods, method_styles(methods), strict=True))
    styles |= {key: {"color": LIGHT["ink"], "marker": "o"} for key in REFERENCES}
    limits = _limits(points, margins)
    tall = [len(strategies_of(rows["strategy"])) for _, rows in groups]

    def draw(figure: Figure, narrow: bool) -> None:
        columns = 1 if narrow else min(2, len(groups))
        for place, axes in enumerate(panels(figure, len(groups), columns)):
            _draw_panel(axes, groups[place][1], styles, limits, margins)
            axes.set_title(wrapped(labels[place], 40), loc="left")
            if place + columns >= len(groups):
                axes.set_xlabel("residual influence (%)")

    rows_wide = math.ceil(len(groups) / 2)
    said = " ".join(
        f"{label}: {'; '.join(_described(rows))}."
        for label, (_, rows) in zip(labels, groups, strict=True)
    )
    return draw_picture(
        "influence",
        draw,
        alt=f"Residual influence by method, in percent, means over runs. {said}",
        height_wide=0.4 + rows_wide * (0.75 + 0.24 * max(tall)),
        height_narrow=0.4 + sum(0.75 + 0.24 * n for n in tall),
    )


def _described(rows: pd.DataFrame) -> Sequence[str]:
    """Return each method's mean in words."""
    found = rows.groupby("strategy")["rho"].mean()
    return [
        f"{name} {whole_percent(float(found[name]))}"
        for name in strategies_of(rows["strategy"])
    ]


def _limits(
    points: pd.DataFrame, margins: tuple[float, float] | None
) -> tuple[float, float]:
    """Return what all panels show, in hundredths."""
    ends = [100 * value for name in ("rho_low", "rho_high") for value in points[name]]
    known = [v for v in map(number, ends) if v is not None]
    known += [0.0, 100.0, *(100 * margin for margin in margins or ())]
    low, high = max(min(known), -EDGE), min(max(known), EDGE)
    room = 0.04 * (high - low)
    return low - room, high + room


def _draw_panel(
    axes: Axes,
    rows: pd.DataFrame,
    styles: Mapping[str, Mapping[str, Any]],
    limits: tuple[float, float],
    margins: tuple[float, float] | None,
) -> None:
    axes.grid(axis="y", visible=False)
    if margins is not None:
        axes.axvspan(100 * margins[0], 100 * margins[1], color=LIGHT["band"], lw=0)
    for at in (0, 100):
        axes.axvline(at, color=LIGHT["muted"], lw=0.9, zorder=1)
    names = strategies_of(rows["strategy"])
    for row, name in enumerate(names):
        runs = rows[rows["strategy"] == name].to_dict("records")
        for place, run in enumerate(runs):
            height = row + 0.5 * ((place + 0.5) / len(runs) - 0.5)
            _draw_run(axes, height, run, styles[name], limits)
    axes.set_yticks(range(len(names)), [wrapped(name, 24) for name in names])
    axes.tick_params(axis="y", length=0)
    axes.set(xlim=limits, ylim=(len(names) - 0.5, -0.5))


def _draw_run(
    axes: Axes,
    row: float,
    run: Mapping[str, Any],
    style: Mapping[str, Any],
    limits: tuple[float, float],
) -> None:
    """Draw one run's influence and interval; an arrow where it lies beyond the axis."""
    low, high = (number(run[name]) for name in ("rho_low", "rho_high"))
    if low is not None and high is not None:
        axes.plot(
            [100 * low, 100 * high], [row, row], color=style["color"], lw=1.0, zorder=2
        )
    at = 100 * float(run["rho"])
    shown = min(max(at, limits[0]), limits[1])
    marker = style["marker"] if shown == at else "<" if at < 0 else ">"
    axes.plot(shown, row, ms=5, zorder=3, **(dict(style) | {"marker": marker}))


def draw_laters(
    later: pd.DataFrame, margins: tuple[float, float] | None
) -> Picture | None:
    """Return residual influence over further rounds, a panel per setting.

    Parameters
    ----------
    later : DataFrame
        `fedneg.reports.compare.rows.Found`'s; lines are means over runs.
    margins : tuple of float, optional
        Shaded, where all runs have the same.

    Returns
    -------
    Picture or None
        None where no model was judged again.
    """
    if later.empty:
        return None
    groups = settings_of(later)
    labels = setting_labels([key for key, _ in groups])
    strategies = strategies_of(later["strategy"])
    styles = dict(zip(strategies, method_styles(strategies), strict=True))
    steps = sorted(set(later["rounds_after"].astype(int)))
    means = [
        rows.groupby(["strategy", "rounds_after"])["rho"].mean() for _, rows in groups
    ]

    def draw(figure: Figure, narrow: bool) -> None:
        columns = 1 if narrow else min(2, len(groups))
        for place, axes in enumerate(panels(figure, len(groups), columns)):
            axes.grid(axis="x", visible=False)
            if margins is not None:
                axes.axhspan(*(100 * m for m in margins), color=LIGHT["band"], lw=0)
            for at in (0, 100):
                axes.axhline(at, color=LIGHT["muted"], lw=0.9, zorder=1)
            for name in strategies_of(groups[place][1]["strategy"]):
                line = means[place][name]
                x = [steps.index(int(rounds)) for rounds in line.index]
                y = [min(max(100 * rho, -EDGE), EDGE) for rho in line]
                axes.plot(x, y, ms=5, lw=1.5, **styles[name])
            axes.set_xticks(range(len(steps)), [str(rounds) for rounds in steps])
            axes.set_xlim(-0.4, len(steps) - 0.6)
            axes.set_title(wrapped(labels[place], 40), loc="left")
            axes.set_xlabel("further rounds of the remaining clients")
            axes.set_ylabel("residual influence (%)")
        handles = [Line2D([], [], ms=5, **style) for style in styles.values()]
        figure.legend(
            handles, list(styles), loc="outside upper left", ncols=2 if narrow else 5
        )

    said = " ".join(
        f"{label}: {'; '.join(_lines(line))}."
        for label, line in zip(labels, means, strict=True)
    )
    rows_wide = math.ceil(len(groups) / 2)
    return draw_picture(
        "influence_later",
        draw,
        alt=f"Residual influence over further rounds, in percent. {said}",
        height_wide=0.6 + 2.5 * rows_wide,
        height_narrow=0.4 + 0.2 * math.ceil(len(strategies) / 2) + 2.5 * len(groups),
    )


def _lines(means: "pd.Series[float]") -> Iterator[str]:
    """Yield each method's means by round, in words."""
    for name in strategies_of(means.index.get_level_values(0)):
        found = [f"{whole_percent(rho)} after {n}" for n, rho in means[name].items()]
        yield f"{name} {', '.join(found)}"
