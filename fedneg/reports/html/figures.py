"""Draw figures, each once wide and once narrow, as SVG and PNG.

The one job: numbers in, bytes out. Text stays text, and the same numbers give the same
bytes (no date, fixed salt for ids, no setting taken from the user's matplotlibrc).
Colours come from `THEME` only, so that a page can swap them for its dark variant.

References
----------
Hues after Okabe and Ito, Color Universal Design (2008); the reference model has no hue
of its own but an outline or a dashed line, which also survives printing in grey.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from fedneg.core.quality import ACCURACY, told

MODELS = ("original", "unlearned", "recovered", "retrained")

# name: (on a light page, on a dark page)
THEME: dict[str, tuple[str, str]] = {
    "surface": ("#ffffff", "#171b21"),
    "ink": ("#1f2730", "#e7ebf0"),
    "muted": ("#5b6673", "#a3afbc"),
    "grid": ("#e3e7ec", "#2d343d"),
    "band": ("#f0f3f6", "#20262e"),
    "mark": ("#fce2cb", "#4d3420"),
    "original": ("#6b7580", "#8f9ba8"),
    "unlearned": ("#c8500a", "#f0914d"),
    "recovered": ("#0069a8", "#5fb4ee"),
    # Of methods, where several are compared; each has a marker of its own as well.
    "method_0": ("#0072b2", "#56b4e9"),
    "method_1": ("#b84a00", "#ff9a52"),
    "method_2": ("#007a5a", "#3cc9a0"),
    "method_3": ("#a0408a", "#e08cc8"),
    "method_4": ("#8a6d00", "#e6c84a"),
    "method_5": ("#4b4fc4", "#9aa0ff"),
    "method_6": ("#b3213b", "#ff7b8d"),
    "method_7": ("#3d7a1f", "#8ccf66"),
    "method_8": ("#6d6d6d", "#a8a8a8"),
    "method_9": ("#80502f", "#d0a080"),
}
LIGHT = {name: pair[0] for name, pair in THEME.items()}
SIZE_PT = {"wide": 9.0, "narrow": 8.5}
WIDTH_IN = {"wide": 8.6, "narrow": 3.6}
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fedneg",
    "text.parse_math": False,
    "font.family": ["DejaVu Sans"],
    "figure.facecolor": LIGHT["surface"],
    "axes.facecolor": LIGHT["surface"],
    "axes.edgecolor": LIGHT["muted"],
    "axes.labelcolor": LIGHT["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.linewidth": 0.7,
    "grid.color": LIGHT["grid"],
    "grid.linewidth": 0.7,
    "text.color": LIGHT["ink"],
    "xtick.color": LIGHT["muted"],
    "ytick.color": LIGHT["muted"],
    "xtick.labelcolor": LIGHT["ink"],
    "ytick.labelcolor": LIGHT["ink"],
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "legend.frameon": False,
    "legend.fontsize": "medium",
    "lines.linewidth": 1.8,
    "savefig.dpi": 160,
}


@dataclass(frozen=True)
class Picture:
    """One figure: `svg` maps 'wide' and 'narrow' to bytes, `png` is the wide one."""

    name: str
    alt: str
    svg: Mapping[str, bytes]
    png: bytes

    def files(self) -> dict[str, bytes]:
        """Return file name to content: the wide one bare, the narrow one suffixed."""
        stem = {"wide": self.name, "narrow": f"{self.name}_narrow"}
        vector = {f"{stem[width]}.svg": self.svg[width] for width in stem}
        return vector | {f"{self.name}.png": self.png}


def draw_picture(
    name: str,
    draw: Callable[[Figure, bool], None],
    *,
    alt: str,
    height_wide: float = 3.4,
    height_narrow: float = 3.2,
    quality: str = ACCURACY,
) -> Picture:
    """Return the figure that `draw` paints, once wide and once narrow.

    Parameters
    ----------
    name : str
        File stem, and prefix of every id once the figure stands in a page.
    draw : callable
        Called twice with an empty figure and whether that one is narrow. It should
        use the colours of `LIGHT`, no others, else dark pages cannot swap them.
    alt : str
        What a reader who cannot see the figure should know.
    height_wide, height_narrow : float
        Inches; the widths are `WIDTH_IN`.
    quality : str
        What the figure says for accuracy.

    Returns
    -------
    Picture
        The same inputs give the same bytes on one matplotlib version.
    """
    svg: dict[str, bytes] = {}
    png = b""
    for width, height in (("wide", height_wide), ("narrow", height_narrow)):
        size = {"font.size": SIZE_PT[width], "axes.titlesize": SIZE_PT[width]}
        with matplotlib.style.context(["default", {**_STYLE, **size}]):
            figure = Figure(figsize=(WIDTH_IN[width], height), layout="constrained")
            draw(figure, width == "narrow")
            if quality != ACCURACY:
                _rename(figure, quality)
            svg[width] = _saved(figure, "svg", Date=None)
            if width == "wide":
                figure.set_layout_engine("none")  # found once, and good for both files
                png = _saved(figure, "png", Software=None)
    return Picture(name, told(alt, quality), svg, png)


def panels(figure: Figure, count: int, columns: int) -> Iterator[Axes]:
    """Yield axes of so many panels, row after row; the rest of the grid is hidden."""
    rows = -(-count // columns)
    grid = figure.subplots(rows, columns, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place < count:
            yield axes
        else:
            axes.set_visible(False)


def _rename(figure: Figure, quality: str) -> None:
    """Call accuracy what the task calls it; only of that is it a fraction correct."""
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        plain = text.get_text().replace("fraction correct", "from 0 to 1")
        text.set_text(told(plain, quality))


def _saved(figure: Figure, kind: str, **metadata: None) -> bytes:
    """Return a figure as a file of this kind, without what would vary."""
    stream = io.BytesIO()
    figure.savefig(stream, format=kind, metadata=metadata)
    return stream.getvalue()


def method_style(place: int) -> dict[str, Any]:
    """Return colour and marker of the method at a place; both differ for the first ten.

    Beyond these a marker comes back with another colour.
    """
    hues = [name for name in LIGHT if name.startswith("method_")]
    colour = LIGHT[hues[place % len(hues)]]
    return {"color": colour, "marker": "osD^vP<X>h*"[place % 11]}


def bar_style(model: str) -> dict[str, Any]:
    """Return fill and outline of a model's bar; the reference is hollow."""
    if model == "retrained":
        return {"facecolor": LIGHT["surface"], "edgecolor": LIGHT["ink"], "lw": 1.0}
    return {"facecolor": LIGHT[model], "edgecolor": LIGHT[model], "lw": 1.0}


def dot_style(model: str) -> dict[str, Any]:
    """Return marker and colours of a model's dot; the reference is hollow."""
    shape = dict(zip(MODELS, "osDo", strict=True))[model]
    style = bar_style(model)
    return {
        "marker": shape,
        "markerfacecolor": style["facecolor"],
        "markeredgecolor": style["edgecolor"],
        "linestyle": "none",
    }
