"""Gather the runs of a sweep into one table, one figure and one page.

The one job: a folder of run folders in, ``sweep.csv`` and ``sweep.html`` out. A run
that left no readable ``results.json`` is named in the page, never silently dropped.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fedneg.core.files import write_bytes
from fedneg.core.formats import (
    MISSING,
    human_bytes,
    human_seconds,
    number,
    rate,
    whole_percent,
)
from fedneg.core.quality import ACCURACY
from fedneg.reports.compare.apart import apart, varying
from fedneg.reports.html.figures import MODELS, Picture, dot_style, draw_picture
from fedneg.reports.html.page import Page, link
from fedneg.reports.run_folders import (
    not_begun,
    quality_name,
    scan_runs,
    with_failures,
)
from fedneg.reports.verdict_values import is_earlier, verdict_of, worst_of
from fedneg.reports.whom import short

METRICS = (
    "test_accuracy",
    "test_loss",
    "forget_accuracy",
    "retain_accuracy",
    "attack_success_rate",
)
SETTINGS = ("seed", "forget", "retrain", "strategy", "data", "attack")
VERDICT = ("outcome", "finding", "rho")
COSTS = (
    "train_seconds",
    "unlearn_seconds",
    "recover_seconds",
    "retrain_seconds",
    "bytes_up",
    "bytes_down",
    "ledger_bytes",
)
_PANELS = {
    "test_accuracy": "test accuracy",
    "forget_accuracy": "forget accuracy",
    "attack_success_rate": "attack success rate",
}


def collect_sweep(sweep_dir: Path) -> pd.DataFrame:
    """Return one row per readable run below `sweep_dir`, in the order of the jobs.

    Parameters
    ----------
    sweep_dir : Path
        Searched in full depth for ``results.json``; hidden folders are left out.

    Returns
    -------
    DataFrame
        ``run`` (path below `sweep_dir`), ``seed forget retrain strategy data attack``,
        ``outcome finding rho`` of the verdict, then ``<model>_<metric>`` for each of
        the four models, then the costs (seconds and bytes). `forget` is '1 4' for two
        clients and '' for none; null where a run did not measure something.
    """
    return _scan(sweep_dir).frame


def write_sweep(sweep_dir: Path) -> tuple[Path, Path]:
    """Write ``sweep.csv`` and ``sweep.html`` into `sweep_dir` and return their paths.

    Parameters
    ----------
    sweep_dir : Path
        The folder of a multirun; the page links each run's ``report.html``.

    Returns
    -------
    tuple of Path
        The table and the page, each written in one step.
    """
    found = _scan(sweep_dir)
    frame = found.frame
    table = sweep_dir / "sweep.csv"
    write_bytes(table, with_failures(frame, found.skipped).encode(), shared=True)
    quality = quality_name(sweep_dir)
    page = Page("Sweep", _summary(frame), quality=quality)
    for text, runs in found.notices.items():
        page.notice(f"{text} (In {_name_runs(runs, len(frame))}.)")
    for run, reason in found.skipped.items():
        page.notice(f"Run {run} is left out: {reason}.")
    if unfinished := not_begun(sweep_dir):
        page.notice(unfinished)
    if len(frame):
        page.section("Every run at a glance")
        page.figure(
            draw_runs(frame, quality=quality),
            "One line per run, one mark per model. Hollow is the retrained reference: "
            "the closer the others are to it, the better.",
        )
        _add_table(page, frame, sweep_dir)
    return table, page.write(sweep_dir / "sweep.html")


def draw_runs(frame: pd.DataFrame, *, quality: str = ACCURACY) -> Picture:
    """Return each run's models as dots: accuracy, forget accuracy, attack success."""
    known = {
        (model, metric): [
            (value, row)
            for row, value in enumerate(map(number, frame[f"{model}_{metric}"]))
            if value is not None
        ]
        for metric in _PANELS
        for model in MODELS
    }
    panels = [m for m in _PANELS if any(known[model, m] for model in MODELS)]
    models = [m for m in MODELS if any(known[m, metric] for metric in panels)]

    def draw(figure: Figure, narrow: bool) -> None:
        shape = (len(panels) or 1, 1) if narrow else (1, len(panels) or 1)
        grid = figure.subplots(*shape, squeeze=False, sharey=not narrow)
        for axes, metric in zip(grid.flat, panels, strict=False):
            axes.grid(axis="x", visible=False)
            for model in models:
                # Each model has its own height within a run's line, so that equal
                # values stand above one another instead of hiding one another.
                lift = (MODELS.index(model) - 1.5) * 0.17
                points = known[model, metric]
                if not points:  # an empty line would upset the layout
                    continue
                axes.plot(
                    [x for x, _ in points],
                    [row + lift for _, row in points],
                    ms=4,
                    clip_on=False,
                    **dot_style(model),
                )
            labels = _run_labels(frame, 18 if narrow else 28)
            axes.set_yticks(range(len(frame)), labels)
            axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
            axes.tick_params(axis="y", length=0, pad=7)
            axes.set(xlim=(0, 1), ylim=(len(frame) - 0.5, -0.5))
            axes.set_xlabel(f"{_PANELS[metric]} (fraction)")
        handles = [Line2D([], [], **dot_style(model)) for model in models]
        columns = 2 if narrow else 4
        figure.legend(handles, models, loc="outside upper left", ncols=columns)

    tall = max(0.5, 0.3 * len(frame))
    return draw_picture(
        "runs",
        draw,
        alt=f"Dot plot by run: {', '.join(_PANELS[p] for p in panels)}.",
        height_wide=1.1 + tall,
        height_narrow=0.9 + max(1, len(panels)) * (0.65 + tall),
        quality=quality,
    )


@dataclass(frozen=True)
class _Found:
    """The readable runs, why others were skipped, and the runs of each notice."""

    frame: pd.DataFrame
    skipped: Mapping[str, str]
    notices: Mapping[str, Sequence[str]]


def _scan(sweep_dir: Path) -> _Found:
    """Return what lies below the folder, readable or not."""
    notices: dict[str, list[str]] = {}

    def read(name: str, _: Path, results: Mapping[str, Any]) -> dict[str, object]:
        row = {"run": name} | _row(results)
        for text in results.get("notices") or ():
            notices.setdefault(str(text), []).append(name)
        return row

    rows, skipped = scan_runs(sweep_dir, read)
    metrics = [f"{m}_{k}" for m in MODELS for k in METRICS]
    names = ["run", *SETTINGS, *VERDICT, *metrics, *COSTS]
    return _Found(pd.DataFrame(rows, columns=names), skipped, notices)


def _name_runs(runs: Sequence[str], total: int) -> str:
    """Return 'every run', 'run 3', or 'runs 3, 4'."""
    if len(runs) == total:
        return "every run"
    return f"run{'s' if len(runs) > 1 else ''} {', '.join(runs)}"


def _row(results: Mapping[str, Any]) -> dict[str, object]:
    """Return the columns of one run; raises where the results are not a run's."""
    models: Mapping[str, Mapping[str, Any]] = results["models"]
    cost: Mapping[str, Any] = results["cost"]
    row: dict[str, object] = {
        "seed": results["seed"],
        "forget": short(results),
        "retrain": results["retrain"],
        "strategy": results["strategy"],
        "data": results["data"]["name"],
        "attack": (results.get("attack") or {}).get("name", "none"),
        **_verdict(results),
    }
    for model in MODELS:
        for metric in METRICS:
            row[f"{model}_{metric}"] = number(models.get(model, {}).get(metric))
    return row | {name: cost.get(name) for name in COSTS}


def _verdict(results: Mapping[str, Any]) -> dict[str, object]:
    """Return the columns of the verdict; rho is of the client that decides."""
    verdict = verdict_of(results) or {}
    worst = worst_of(verdict)
    earlier = not verdict or is_earlier(verdict)
    return {
        "outcome": verdict.get("outcome"),
        "finding": None if earlier else verdict.get("finding"),
        "rho": None if worst is None else worst.rho,
    }


def _varying(frame: pd.DataFrame) -> list[str]:
    """Return the settings that differ between the runs."""
    return varying(frame.to_dict("records"), SETTINGS)


def _run_labels(frame: pd.DataFrame, longest: int) -> list[str]:
    """Return a short name per run: its folder and what sets it apart."""
    own = apart(frame.to_dict("records"), _varying(frame)[:2])
    labels = []
    for run, values in zip(frame["run"], own, strict=True):
        settings = ", ".join(f"{name} {value}" for name, value in values.items())
        label = f"{run}: {settings}" if settings else str(run)
        labels.append(label if len(label) <= longest else f"{label[: longest - 1]}…")
    return labels


def _share(value: object) -> str:
    found = number(value)
    return MISSING if found is None else f"{whole_percent(found)} %"


def _summary(frame: pd.DataFrame) -> str:
    """Return in one or two sentences what was run and how far the models spread."""
    if frame.empty:
        return "No run left results that can be read."
    varying = _varying(frame)
    count = f"{len(frame)} run{'s' if len(frame) != 1 else ''}"
    apart = f", differing in {' and '.join(varying)}" if varying else ""
    spread = [
        f"{model} {_spread(frame[f'{model}_test_accuracy'])}"
        for model in MODELS
        if frame[f"{model}_test_accuracy"].notna().any()
    ]
    said = f" Test accuracy: {'; '.join(spread)}." if spread else ""
    return f"{count}{apart}.{said}"


def _spread(values: Iterable[object]) -> str:
    """Return the range of the known values."""
    known = [v for v in map(number, values) if v is not None]
    low, high = min(known), max(known)
    return rate(low) if low == high else f"{rate(low)} to {rate(high)}"


def _add_table(page: Page, frame: pd.DataFrame, sweep_dir: Path) -> None:
    """Add the constant settings as a line, and the rest as a table with links."""
    varying = _varying(frame)
    constant = {n: frame[n].iloc[0] for n in SETTINGS if n not in varying}
    fixed = {n: MISSING if v in ("", None) else v for n, v in constant.items()}
    page.section("The runs")
    if fixed:
        page.text("The same in every run:").facts(fixed)
    metrics = [
        f"{model}_{metric}"
        for metric in METRICS
        for model in MODELS
        if frame[f"{model}_{metric}"].notna().any()
    ]
    judged = [name for name in VERDICT if frame[name].notna().any()]
    shown = frame[["run", *varying, *judged, *metrics, *COSTS]].copy()
    shown["run"] = [
        link(run, f"{run}/report.html")
        if (sweep_dir / run / "report.html").is_file()
        else run
        for run in frame["run"]
    ]
    sizes = {n: human_seconds if n.endswith("seconds") else human_bytes for n in COSTS}
    page.table(
        shown,
        caption="Metrics of each model by run; a run's name opens its report",
        formats={**dict.fromkeys(metrics, rate), **sizes, "rho": _share},
        headers={name: name.replace("_", " ") for name in (*metrics, *COSTS)}
        | {"rho": "residual influence"},
    )
