"""The figures of a run: accuracy over rounds, every client, the attack."""

import math
from collections.abc import Collection, Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from fedneg.core.formats import number
from fedneg.core.quality import ACCURACY
from fedneg.reports.html.figures import (
    LIGHT,
    MODELS,
    Picture,
    bar_style,
    dot_style,
    draw_picture,
)

MAX_CLIENTS_AS_BARS = 20


def accuracy_over_rounds(
    history: pd.DataFrame, *, quality: str = ACCURACY
) -> Picture | None:
    """Return accuracy on the server test set by round, or None without any value.

    Parameters
    ----------
    history : DataFrame
        ``server_round``, ``phase`` and ``accuracy``; phase 'retrain' counts its own
        rounds and is drawn as the dashed reference.
    quality : str
        What people read for accuracy.
    """
    series: dict[str, list[tuple[int, float]]] = {}
    for row in history.to_dict("records"):
        accuracy = number(row["accuracy"])
        if accuracy is not None:
            point = (int(row["server_round"]), accuracy)
            series.setdefault(str(row["phase"]), []).append(point)
    series = {phase: sorted(points) for phase, points in series.items()}
    if not series:
        return None
    names = {"train": MODELS[0], "unlearn": MODELS[1], "recover": MODELS[2]}
    names["retrain"] = MODELS[3]
    order = [p for p in (*names, *sorted(series)) if p in series]
    order = list(dict.fromkeys(order))

    def draw(figure: Figure, narrow: bool) -> None:
        axes = figure.subplots()
        axes.grid(axis="x", visible=False)
        ends: list[tuple[Line2D, str, float]] = []
        before: tuple[int, float] | None = None
        for place, phase in enumerate(order):
            points = series[phase]
            model = names.get(phase, "")
            colour = LIGHT["ink" if model == "retrained" else model or "muted"]
            if phase != "retrain":
                _shade_phase(axes, phase, points, place)
                if before is not None:
                    x, y = zip(before, points[0], strict=True)
                    axes.plot(x, y, color=LIGHT["muted"], lw=1.0, zorder=2)
                before = points[-1]
            x, y = zip(*points, strict=True)
            dashes = "--" if phase == "retrain" else "-"
            mark = "o" if len(points) <= 30 and phase != "retrain" else ""
            (line,) = axes.plot(x, y, dashes, marker=mark, color=colour, ms=4, zorder=3)
            ends.append((line, f"{model or phase} {points[-1][1]:.3f}", points[-1][1]))
        axes.set_ylim(0, 1)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.margins(x=0)
        axes.set_xlabel("server round (0 is the initial model)")
        axes.set_ylabel("test accuracy (fraction correct)")
        if narrow:
            lines, labels = [e[0] for e in ends], [e[1] for e in ends]
            figure.legend(lines, labels, loc="outside lower center", ncols=2)
        else:
            _label_ends(axes, ends)

    said = "; ".join(f"{names.get(p, p)} ends at {series[p][-1][1]:.3f}" for p in order)
    alt = f"Line chart of test accuracy over server rounds: {said}."
    return draw_picture(
        "accuracy_over_rounds", draw, alt=alt, height_narrow=3.3, quality=quality
    )


def _shade_phase(
    axes: Axes, phase: str, points: Sequence[tuple[int, float]], place: int
) -> None:
    """Shade the rounds of a phase and name it above the axes."""
    left, right = points[0][0] - 0.5, points[-1][0] + 0.5
    tone = "mark" if phase == "unlearn" else ("surface", "band")[place % 2]
    axes.axvspan(left, right, color=LIGHT[tone], lw=0, zorder=0)
    # The unlearn band is one round wide: its name runs to the left, over the long train
    # band, so that it cannot meet the next name.
    backwards = phase == "unlearn"
    axes.annotate(
        phase,
        (right if backwards else left, 1.0),
        xytext=(-2 if backwards else 2, 3),
        xycoords=axes.get_xaxis_transform(),
        textcoords="offset points",
        ha="right" if backwards else "left",
        color=LIGHT["muted"],
    )


def _label_ends(axes: Axes, ends: Sequence[tuple[Line2D, str, float]]) -> None:
    """Write each line's name and last value right of the axes, none over another."""
    heights: list[float] = []
    for _, _, value in sorted(ends, key=lambda end: end[2]):
        heights.append(max(value, heights[-1] + 0.08 if heights else 0.02))
    for index in range(len(heights) - 1, -1, -1):
        ceiling = heights[index + 1] - 0.08 if index + 1 < len(heights) else 0.98
        heights[index] = min(heights[index], ceiling)
    for (line, text, _), height in zip(
        sorted(ends, key=lambda end: end[2]), heights, strict=True
    ):
        # Colour carries nothing alone: a dash of the line stands before its name.
        axes.plot(
            [1.01, 1.045],
            [height, height],
            transform=axes.transAxes,
            clip_on=False,
            color=line.get_color(),
            linestyle=line.get_linestyle(),
        )
        axes.text(1.055, height, text, transform=axes.transAxes, va="center")


def client_accuracy(
    clients: pd.DataFrame,
    forget: Collection[int],
    *,
    column: str = "test_accuracy",
    quality: str = ACCURACY,
) -> Picture | None:
    """Return each client's accuracy under each model, or None without any value.

    Up to `MAX_CLIENTS_AS_BARS` clients are bars from 0; more are a strip of dots.
    """
    values: dict[str, dict[int, float]] = {}
    for row in clients.to_dict("records"):
        value = number(row.get(column))
        if value is not None and row["model"] in MODELS:
            values.setdefault(str(row["model"]), {})[int(row["client_id"])] = value
    models = [model for model in MODELS if model in values]
    if not models:
        return None
    ids = sorted({client_id for by_id in values.values() for client_id in by_id})
    said = "; ".join(
        f"{model} from {min(values[model].values()):.3f} "
        f"to {max(values[model].values()):.3f}"
        for model in models
    )
    alt = f"Test accuracy of {len(ids)} clients by model: {said}."
    if len(ids) > MAX_CLIENTS_AS_BARS:

        def strip(figure: Figure, narrow: bool) -> None:
            _draw_strip(figure, values, models, forget)

        height = 0.9 + 0.62 * len(models)
        return draw_picture(
            "client_accuracy",
            strip,
            alt=alt,
            height_wide=height,
            height_narrow=height,
            quality=quality,
        )

    def bars(figure: Figure, narrow: bool) -> None:
        _draw_bars(figure, values, models, ids, forget, sideways=narrow)

    height = max(1.8, 1.0 + len(ids) * (0.12 + 0.085 * len(models)))
    return draw_picture(
        "client_accuracy", bars, alt=alt, height_narrow=height, quality=quality
    )


def _draw_bars(
    figure: Figure,
    values: Mapping[str, Mapping[int, float]],
    models: Sequence[str],
    ids: Sequence[int],
    forget: Collection[int],
    *,
    sideways: bool,
) -> None:
    """Draw one group of bars per client, lying down where the column is narrow."""
    axes = figure.subplots()
    axes.grid(axis="y" if sideways else "x", visible=False)
    thick = 0.8 / len(models)
    for place, client_id in enumerate(ids):
        if client_id in forget:
            span = axes.axhspan if sideways else axes.axvspan
            span(place - 0.5, place + 0.5, color=LIGHT["mark"], lw=0, zorder=0)
        for rank, model in enumerate(models):
            if client_id in values[model]:
                at = place - 0.4 + (rank + 0.5) * thick
                bar = axes.barh if sideways else axes.bar
                bar(at, values[model][client_id], thick * 0.82, **bar_style(model))
    names = [str(client_id) for client_id in ids]
    if sideways:
        axes.set_yticks(range(len(ids)), names)
        axes.set(xlim=(0, 1), ylim=(len(ids) - 0.5, -0.5))
        axes.set(ylabel="client id", xlabel="test accuracy (fraction correct)")
        axes.tick_params(axis="y", length=0)
    else:
        axes.set_xticks(range(len(ids)), names)
        axes.set(ylim=(0, 1), xlim=(-0.5, len(ids) - 0.5))
        axes.set(xlabel="client id", ylabel="test accuracy (fraction correct)")
        axes.tick_params(axis="x", length=0)
    ticks = axes.get_yticklabels() if sideways else axes.get_xticklabels()
    for client_id, tick in zip(ids, ticks, strict=True):
        tick.set_fontweight("bold" if client_id in forget else "normal")
    handles = [Patch(**bar_style(model), label=model) for model in models]
    if any(client_id in forget for client_id in ids):
        handles.append(Patch(color=LIGHT["mark"], label="forgotten client"))
    columns = 2 if sideways else len(handles)
    figure.legend(handles=handles, loc="outside upper left", ncols=columns)


def _draw_strip(
    figure: Figure,
    values: Mapping[str, Mapping[int, float]],
    models: Sequence[str],
    forget: Collection[int],
) -> None:
    """Draw one row of dots per model, its median, and the forgotten clients."""
    axes = figure.subplots()
    axes.grid(axis="y", visible=False)
    lowest = min(min(by_id.values()) for by_id in values.values())
    start = max(0.0, math.floor((lowest - 0.02) * 10) / 10)
    for row, model in enumerate(models):
        kept = {k: v for k, v in values[model].items() if k not in forget}
        # A fixed spread by client id, not a random one: same clients, same picture.
        heights = [row + 0.22 * math.sin(2.4 * (k + 1)) for k in kept]
        axes.plot(list(kept.values()), heights, ms=3, **dot_style(model) | {"mew": 0.6})
        median = float(pd.Series(list(values[model].values())).median())
        axes.plot([median] * 2, [row - 0.3, row + 0.3], color=LIGHT["ink"], lw=1.4)
        side = "right" if median > (1 + start) / 2 else "left"
        axes.text(median, row - 0.33, f"median {median:.3f}", ha=side)
        for client_id in sorted(set(values[model]) & set(forget)):
            axes.plot(
                values[model][client_id],
                row,
                marker="X",
                ms=8,
                color=LIGHT["ink"],
                mec=LIGHT["surface"],
                mew=0.8,
                zorder=4,
            )
    axes.set_yticks(range(len(models)), models)
    axes.tick_params(axis="y", length=0)
    axes.set(ylim=(len(models) - 0.5, -0.62), xlim=(start, 1.005))
    note = f", axis from {start:.1f}" if start else ""
    axes.set_xlabel(f"test accuracy (fraction correct{note})")
    handles = [Line2D([], [], ls="none", marker="o", color=LIGHT["muted"], ms=4)]
    labels = ["one client"]
    if forget:
        handles.append(
            Line2D([], [], ls="none", marker="X", color=LIGHT["ink"], ms=8, mec="none")
        )
        labels.append("forgotten client")
    figure.legend(handles, labels, loc="outside upper left", ncols=2)


def attack_success(rates: Mapping[str, float | None]) -> Picture | None:
    """Return attack success rate by model as bars, or None without any value."""
    known = {m: v for m in MODELS if (v := number(rates.get(m))) is not None}
    if not known:
        return None

    def draw(figure: Figure, narrow: bool) -> None:
        axes = figure.subplots()
        axes.grid(axis="y", visible=False)
        for row, (model, rate) in enumerate(known.items()):
            axes.barh(row, rate, 0.62, **bar_style(model))
            inside = rate > 0.85
            ink = LIGHT["ink" if not inside or model == "retrained" else "surface"]
            x, side = (rate - 0.015, "right") if inside else (rate + 0.015, "left")
            axes.text(x, row, f"{rate:.3f}", va="center", ha=side, color=ink)
        axes.set_yticks(range(len(known)), list(known))
        axes.tick_params(axis="y", length=0)
        axes.set(xlim=(0, 1), ylim=(len(known) - 0.5, -0.5))
        axes.set_xlabel("attack success rate (fraction of test inputs)")

    said = "; ".join(f"{model} {rate:.3f}" for model, rate in known.items())
    height = 0.7 + 0.36 * len(known)
    return draw_picture(
        "attack_success",
        draw,
        alt=f"Bar chart of attack success rate by model: {said}.",
        height_wide=height,
        height_narrow=height,
    )
