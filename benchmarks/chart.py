"""The figure of the benchmark: seconds of fedneg and its peers on a log axis."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from fedneg.reports.html.figures import LIGHT, Picture, draw_picture

Medians = Mapping[str, Mapping[str, float]]


def panels(medians: Medians, sizes: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return title to seconds by contestant, the fastest first; none that is empty."""
    few, many = f"{sizes['few']} clients", f"{sizes['many']} clients"
    wanted = {
        f"{few}, whole run of {sizes['rounds']} rounds": (few, "whole"),
        f"{few}, a round": (few, "round"),
        f"{many}, a round": (many, "round"),
    }
    found: dict[str, dict[str, float]] = {}
    for title, (clients, quantity) in wanted.items():
        bars = {
            name.removesuffix(f", {clients}"): values[quantity]
            for name, values in medians.items()
            if name.endswith(f", {clients}") and quantity in values
        }
        if bars:
            found[title] = dict(sorted(bars.items(), key=lambda item: item[1]))
    return found


def seconds_chart(medians: Medians, sizes: Mapping[str, Any]) -> Picture | None:
    """Return the figure, or None without anything to draw."""
    shown = panels(medians, sizes)
    if not shown:
        return None
    heights = [len(bars) + 0.6 for bars in shown.values()]

    def draw(figure: Figure, narrow: bool) -> None:
        grid = figure.subplots(
            len(shown), squeeze=False, gridspec_kw={"height_ratios": heights}
        )
        for axes, (title, bars) in zip(grid[:, 0], shown.items(), strict=True):
            _draw_panel(axes, title, bars)
        grid[-1, 0].set_xlabel("seconds (logarithmic)")

    said = "; ".join(
        f"{title}: " + ", ".join(f"{name} {s:.3g} s" for name, s in bars.items())
        for title, bars in shown.items()
    )
    height = 0.26 * sum(heights) + 0.35 * len(shown) + 0.4
    return draw_picture(
        "bench", draw, alt=said, height_wide=height, height_narrow=height
    )


def _draw_panel(axes: Axes, title: str, bars: Mapping[str, float]) -> None:
    """Draw one comparison; fedneg stands out, and every bar has its number."""
    names, seconds = list(bars), list(bars.values())
    colours = [LIGHT["recovered" if name == "fedneg" else "original"] for name in names]
    axes.barh(names, seconds, height=0.66, color=colours)
    axes.set_xscale("log")
    # A bar on a logarithmic axis begins somewhere: at half of the shortest.
    axes.set_xlim(seconds[0] / 2, seconds[-1] * 3)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_title(title, loc="left", color=LIGHT["ink"])
    ours = bars.get("fedneg")
    for place, number in enumerate(seconds):
        times = f" ({number / ours:.2g} x)" if ours and number != ours else ""
        axes.annotate(
            f"{number:.3g} s{times}",
            (number, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
        )
