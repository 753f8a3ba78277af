"""Figures of residual influence: the models of a run on one axis, and over rounds."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from fedneg.core.formats import whole_percent
from fedneg.reports.html.figures import (
    LIGHT,
    MODELS,
    Picture,
    dot_style,
    draw_picture,
    method_style,
)
from fedneg.reports.verdict_values import (
    Residual,
    Whose,
    dots_of,
    in_order,
    later_of,
    margins_of,
    models_of,
    name_whose,
    residuals_of,
    short_interval,
)

MAX_PANELS = 6  # drawn; the worst clients
# In hundredths: what lies beyond is drawn at the edge, with its number.
_EDGE = 600.0
_DOTS = {"out": "without it", "in": "with it"}
Rows = list[tuple[str, "Residual | list[float]"]]


def draw_influence(verdict: Mapping[str, Any]) -> Picture | None:
    """Return the models of a run on an axis of residual influence, a panel per client.

    Parameters
    ----------
    verdict : mapping
        ``verdict`` of results.json.

    Returns
    -------
    Picture or None
        None where no influence is known. Retrained models are dots around 0, models
        trained with the client dots around 100, the models of the run bars with their
        intervals, and the margins are shaded.
    """
    wanted = [one.whose for one in in_order(verdict)]
    wanted += [
        whose
        for found in models_of(verdict).values()
        for whose, one in residuals_of(found).items()
        if one is not None
    ]
    wanted = list(dict.fromkeys(wanted))[:MAX_PANELS]
    panels = {whose: _rows(verdict, whose) for whose in wanted}
    if not panels:
        return None
    margins = margins_of(verdict)
    limits = _limits(panels.values(), margins)
    tallest = [len(rows) for rows in panels.values()]

    def draw(figure: Figure, narrow: bool) -> None:
        grid = figure.subplots(
            len(panels), 1, squeeze=False, height_ratios=[n + 0.5 for n in tallest]
        )
        for place, (whose, rows) in enumerate(panels.items()):
            axes = grid[place, 0]
            _draw_panel(axes, rows, margins, limits)
            if len(panels) > 1:
                axes.set_title(name_whose(whose), loc="left")
            if place == len(panels) - 1:
                axes.set_xlabel(
                    "residual influence (%)"
                    if narrow
                    else "residual influence (%): 0 as if never there, 100 as trained "
                    "with it"
                )

    height = 0.75 + sum(0.3 * n + (0.45 if len(panels) > 1 else 0.15) for n in tallest)
    said = " ".join(_described(k, rows) for k, rows in panels.items())
    return draw_picture(
        "influence",
        draw,
        alt=f"Residual influence in percent. {said}",
        height_wide=height,
        height_narrow=height,
    )


def _rows(verdict: Mapping[str, Any], whose: Whose) -> Rows:
    """Return what a panel shows, from top to bottom."""
    rows: Rows = [(_DOTS[name], dots) for name, dots in dots_of(verdict, whose)]
    models = {**models_of(verdict)}
    if (own := str(verdict.get("model"))) in MODELS:
        models[own] = verdict
    for name in MODELS:
        one = residuals_of(models.get(name) or {}).get(whose)
        if one is not None:
            rows.append((name, one))
    return rows


def _limits(
    panels: Sequence[Rows] | Any, margins: tuple[float, float]
) -> tuple[float, float]:
    """Return what all panels show, in hundredths."""
    values = [100 * margins[0], 100 * margins[1], 0.0, 100.0]
    for rows in panels:
        for _, found in rows:
            ends = [found.low, found.high] if isinstance(found, Residual) else found
            values += [100 * value for value in ends]
    low, high = max(min(values), -_EDGE), min(max(values), _EDGE)
    room = 0.04 * (high - low)
    return low - room, high + room


def _draw_panel(
    axes: Axes, rows: Rows, margins: tuple[float, float], limits: tuple[float, float]
) -> None:
    axes.grid(axis="y", visible=False)
    low, high = (min(max(100 * m, limits[0]), limits[1]) for m in margins)
    axes.axvspan(low, high, color=LIGHT["band"], lw=0, zorder=0)
    for at in (0, 100):
        axes.axvline(at, color=LIGHT["muted"], lw=0.9, zorder=1)
    for row, (name, found) in enumerate(rows):
        if isinstance(found, Residual):
            _draw_bar(axes, row, name, found, limits)
        else:
            values = [_inside(100 * value, limits) for value in found]
            style: dict[str, Any] = {
                "mfc": LIGHT["surface"],
                "mec": LIGHT["ink"],
                "ls": "none",
            }
            axes.plot(values, [row] * len(values), marker="o", ms=5, mew=1.0, **style)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.tick_params(axis="y", length=0)
    axes.set(xlim=limits, ylim=(len(rows) - 0.4, -0.6))


def _draw_bar(
    axes: Axes, row: int, name: str, one: Residual, limits: tuple[float, float]
) -> None:
    """Draw a model's influence; what lies beyond the axis says its number there."""
    colour = LIGHT["ink" if name == "retrained" else name]
    ends = [100 * one.low, 100 * one.high]  # which the axis cuts off
    axes.plot(ends, [row, row], color=colour, lw=2.2, solid_capstyle="butt", zorder=2)
    at = 100 * one.rho
    axes.plot(_inside(at, limits), row, ms=7, zorder=3, **dot_style(name))
    if at != _inside(at, limits):
        side = "right" if at > 0 else "left"
        text = f"{whole_percent(one.rho)} "
        axes.text(_inside(at, limits), row - 0.2, text, ha=side, va="bottom")


def _inside(value: float, limits: tuple[float, float]) -> float:
    return min(max(value, limits[0]), limits[1])


def _described(whose: Whose, rows: Rows) -> str:
    """Return a panel in words, with its numbers."""
    parts = []
    for name, found in rows:
        if isinstance(found, Residual):
            parts.append(f"{name} {short_interval(found)}")
        else:
            ends = f"from {whole_percent(min(found))} to {whole_percent(max(found))} %"
            models = "model" if len(found) == 1 else "models"
            parts.append(f"{len(found)} {models} {name} {ends}")
    name = name_whose(whose)
    return f"{name[:1].upper()}{name[1:]}: {'; '.join(parts)}."


def draw_later(verdict: Mapping[str, Any]) -> Picture | None:
    """Return residual influence after further rounds, or None without any.

    Parameters
    ----------
    verdict : mapping
        Its ``later``: entries of ``rounds_after`` and ``influence`` by client.
    """
    series: dict[Whose, list[tuple[int, Residual]]] = {}
    for rounds, found in later_of(verdict):
        for whose, one in residuals_of(found).items():
            if one is not None:
                series.setdefault(whose, []).append((rounds, one))
    if not series:
        return None
    ordered = sorted(series, key=lambda k: -max(abs(one.rho) for _, one in series[k]))
    shown = {k: series[k] for k in ordered[:MAX_PANELS]}
    steps = sorted({rounds for points in shown.values() for rounds, _ in points})
    margins = margins_of(verdict)

    def draw(figure: Figure, narrow: bool) -> None:
        axes = figure.subplots()
        axes.grid(axis="x", visible=False)
        axes.axhspan(100 * margins[0], 100 * margins[1], color=LIGHT["band"], lw=0)
        for at in (0, 100):
            axes.axhline(at, color=LIGHT["muted"], lw=0.9, zorder=1)
        for place, (_, points) in enumerate(shown.items()):
            # Beside each other, so that no interval hides another.
            shift = 0.12 * (place - (len(shown) - 1) / 2)
            x = [steps.index(rounds) + shift for rounds, _ in points]
            y = [100 * one.rho for _, one in points]
            half = [100 * one.half for _, one in points]
            style = method_style(place)
            axes.errorbar(x, y, yerr=half, lw=1.6, ms=6, **style)
        axes.set_xticks(range(len(steps)), [str(rounds) for rounds in steps])
        axes.set_xlim(-0.5, len(steps) - 0.5)
        axes.set_xlabel("rounds of the remaining clients after the verdict")
        axes.set_ylabel("residual influence (%)")
        handles: list[Line2D | Patch] = [
            Line2D([], [], ls="none", ms=6, label=name_whose(k), **method_style(place))
            for place, k in enumerate(shown)
        ]
        handles.append(Patch(color=LIGHT["band"], label="margins"))
        columns = 2 if narrow else 4
        figure.legend(handles=handles, loc="outside upper left", ncols=columns)

    said = " ".join(
        f"{name_whose(k)}: "
        + "; ".join(f"after {rounds} {short_interval(one)}" for rounds, one in points)
        + "."
        for k, points in shown.items()
    )
    return draw_picture(
        "influence_later", draw, alt=f"Residual influence by later round. {said}"
    )
