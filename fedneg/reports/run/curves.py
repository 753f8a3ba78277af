"""The figure of an attack on each example: ROC curves, where a run has a bank."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fedneg.core.formats import number
from fedneg.reports.html.figures import (
    LIGHT,
    MODELS,
    Picture,
    dot_style,
    draw_picture,
    panels,
)

MAX_PANELS = 4  # clients drawn
_LEAST = 0.001
_TICKS = (0.001, 0.01, 0.1, 1.0)
Points = list[tuple[float, float]]


def draw_curves(evidence: Mapping[str, Any]) -> Picture | None:
    """Return hits over false alarms of an attack on single examples, or None.

    Parameters
    ----------
    evidence : mapping
        ``evidence`` of results.json: ``bank_attack`` of each model, by client.

    Returns
    -------
    Picture or None
        A panel per client and a line per model, both axes logarithmic: few sure hits
        are what counts. None of a run without a bank.
    """
    found: dict[str, dict[str, tuple[float, Points]]] = {}
    for name in MODELS:
        for client, one in _curves_of(evidence.get(name)):
            found.setdefault(client, {})[name] = one
    clients = sorted(found, key=int)[:MAX_PANELS]
    if not clients:
        return None

    def draw(figure: Figure, narrow: bool) -> None:
        columns = 1 if narrow else min(2, len(clients))
        for place, axes in enumerate(panels(figure, len(clients), columns)):
            _draw_panel(axes, found[clients[place]])
            if len(clients) > 1:
                axes.set_title(f"client {clients[place]}", loc="left")
            axes.set_xlabel("false alarms, of examples in retrained models")
            axes.set_ylabel("hits")
        names = [name for name in MODELS if any(name in found[k] for k in clients)]
        handles = [Line2D([], [], **_style(name)) for name in names]
        handles.append(Line2D([], [], color=LIGHT["muted"], ls="--", lw=1))
        columns = 2 if narrow else 5
        labels = [*names, "chance"]
        figure.legend(handles, labels, loc="outside upper left", ncols=columns)

    said = " ".join(
        f"Client {k}: "
        + "; ".join(f"{name} AUC {auc:.2f}" for name, (auc, _) in found[k].items())
        + "."
        for k in clients
    )
    rows = -(-len(clients) // 2)
    return draw_picture(
        "bank_attack",
        draw,
        alt=f"ROC curves of an attack on single examples. {said}",
        height_wide=0.4 + 2.9 * rows,
        height_narrow=0.5 + 2.9 * len(clients),
    )


def _curves_of(evidence: object) -> list[tuple[str, tuple[float, Points]]]:
    """Return a model's curves by client; what is no curve is left out."""
    attack = evidence.get("bank_attack") if isinstance(evidence, Mapping) else None
    found = []
    for client, one in (attack or {}).items():
        alarms, hits = ((one or {}).get(f"{n}_positives") for n in ("false", "true"))
        auc = number((one or {}).get("auc"))
        alarms, hits = alarms or (), hits or ()
        if len(alarms) != len(hits):
            continue
        pairs = [(number(x), number(y)) for x, y in zip(alarms, hits, strict=True)]
        points = [(x, y) for x, y in pairs if x is not None and y is not None]
        if auc is not None and points and str(client).isdigit():
            found.append((str(client), (auc, [*points, (1.0, 1.0)])))
    return found


def _draw_panel(axes: Axes, lines: Mapping[str, tuple[float, Points]]) -> None:
    axes.plot([_LEAST, 1], [_LEAST, 1], color=LIGHT["muted"], ls="--", lw=1, zorder=1)
    for name, (_, points) in lines.items():
        # No hit at all is drawn at the edge.
        axes.plot(
            [x for x, _ in points],
            [max(y, _LEAST) for _, y in points],
            **_style(name),
        )
    for axis in ("x", "y"):
        getattr(axes, f"set_{axis}scale")("log")
        getattr(axes, f"set_{axis}lim")(_LEAST * 0.9, 1.1)
        getattr(axes, f"set_{axis}ticks")(_TICKS, [f"{t:g}" for t in _TICKS])
    axes.minorticks_off()


def _style(name: str) -> dict[str, Any]:
    colour = LIGHT["ink" if name == "retrained" else name]
    style = {**dot_style(name), "linestyle": "-"}
    return {"color": colour, "lw": 1.6, "ms": 3.5, **style}
