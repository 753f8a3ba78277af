"""Write the comparison of a sweep's methods: ``comparison.csv``, ``comparison.html``.

The one job: a folder of run folders in, a table and a page out. Runs that could not be
compared are named, and a control that came out wrong stands above everything else.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from markupsafe import Markup

from fedneg.core.files import write_bytes
from fedneg.core.formats import MISSING, number, rate, signed, whole_percent
from fedneg.reports.compare.controls import (
    control_warnings,
    controls_table,
    describe_all,
)
from fedneg.reports.compare.figures import draw_pareto
from fedneg.reports.compare.influence import draw_influences, draw_laters
from fedneg.reports.compare.rows import SETTING, Found, find_comparison
from fedneg.reports.compare.single import METRICS
from fedneg.reports.compare.statistics import (
    HOW,
    OUTCOMES,
    pool,
    setting_key,
    setting_labels,
    settings_of,
    summarise,
)
from fedneg.reports.compare.tables import glance, heading
from fedneg.reports.compare.text import (
    RULE,
    describe_settings,
    describe_winners,
    short_number,
)
from fedneg.reports.html.page import Format, Page, prose
from fedneg.reports.run_folders import not_begun, quality_name, with_failures

_MIB = 1024.0**2
_SIZES = {
    "bytes_up": "MiB up",
    "bytes_down": "MiB down",
    "server_bytes": "MiB on the server",
}
_SHARES = {
    "rho": "residual influence",
    "rho_low": "its interval from",
    "rho_high": "to",
}
_COUNTS = ("rounds", "client_epochs", "seconds", "online")
_RATIOS = ("relearn_ratio", "speed_up_retrain", "speed_up_fine_tune")
_HEADERS = {
    "accuracy_lost": "accuracy lost",
    "attack_success_gap": "attack success gap",
    "forget_accuracy_as_trained_gap": "as-trained accuracy gap",
    "js": "JS divergence (nats)",
    "client_epochs": "client-epochs",
    "online": "clients online",
    "speed_up_retrain": "speed-up, retraining",
    "speed_up_fine_tune": "speed-up, fine-tuning",
    **_SIZES,
    **_SHARES,
}
_COSTS = (
    "Costs are of forgetting and repair. A speed-up is how many times fewer "
    "client-epochs the method needs for the same test accuracy as retraining or plain "
    "fine-tuning; it is left out where the method needs none. Gaps are the model's "
    "value minus the retrained model's; accuracy lost is against the mean of all "
    "retrained models of the verdict."
)


def write_comparison(sweep_dir: Path) -> tuple[Path, Path]:
    """Write ``comparison.csv`` and ``comparison.html``, and return their paths.

    Parameters
    ----------
    sweep_dir : Path
        The folder of a multirun.

    Returns
    -------
    tuple of Path
        The table of every run and model (`collect_comparison`) and the page, each
        written in one step. The same runs give the same bytes.
    """
    found = find_comparison(sweep_dir)
    table = sweep_dir / "comparison.csv"
    write_bytes(table, with_failures(found.frame, found.skipped).encode(), shared=True)
    summary = summarise(found.frame)
    quality = quality_name(sweep_dir)
    page = Page(
        "Comparison of methods",
        describe_all(found.frame, summary),
        quality=quality,
    )
    for text in (*control_warnings(found.frame), *found.notices):
        page.notice(text)
    for run, reason in found.skipped.items():
        page.notice(f"Run {run} is left out: {reason}.")
    if unfinished := not_begun(sweep_dir):
        page.notice(unfinished)
    if len(summary):
        _fill(page, found, summary, quality)
    return table, page.write(sweep_dir / "comparison.html")


def _fill(page: Page, found: Found, summary: pd.DataFrame, quality: str) -> None:
    """Add everything that needs at least one run."""
    page.section("What the numbers say").bullets(describe_winners(summary)).text(RULE)
    same = _same_everywhere(summary)
    if same:
        page.text("The same in every setting:").facts(same)
    page.section("At a glance")
    for _, rows in pool(summary).groupby("attack", sort=False):
        table = glance(rows)
        numbers = [name for name in table.columns[1:] if name != "verdicts"]
        page.table(
            table.assign(verdicts=table["verdicts"].map(prose)),
            caption=f"{heading(rows)}: means of the settings' means, verdicts counted",
            formats=dict.fromkeys(numbers, str),
        )
    _add_influence(page, found)
    picture = draw_pareto(summary, quality=quality)
    if picture is not None:
        page.section("Forgetting against accuracy").figure(
            picture,
            "One panel per setting, one marker per method; the retrained model is at "
            "0, 0, where the lines cross, and upward is accuracy lost. Area grows with "
            "client-epochs, bars are 95 % intervals over seeds. Both axes are linear "
            "within 0.01 and logarithmic beyond.",
        )
    controls = controls_table(found.frame)
    if len(controls):
        page.section("The judge's controls").table(
            controls,
            caption="Models whose answer is known, over all runs. Repaired ones are "
            "fine-tuned by another name, and none",
        )
    page.section("Setting by setting").bullets(
        Markup("<strong>{}</strong><br>{}").format(label, " ".join(sentences))
        for label, sentences in describe_settings(summary)
    )
    page.section("Every method, setting and model").text(_COSTS)
    _add_table(page, summary)


def _add_influence(page: Page, found: Found) -> None:
    """Add the figure of what can still be seen, by method, where it was measured."""
    picture = draw_influences(found.frame, found.margins)
    if picture is None:
        return
    shaded = ""
    if found.margins is not None:
        low, high = map(whole_percent, found.margins)
        shaded = (
            f" Shaded: from {low} to {high}, where the whole interval must lie for a "
            "model to be forgotten."
        )
    page.section("What can still be seen of the client").figure(
        picture,
        "Residual influence of the judged models, of several clients the one that "
        "decides: a mark and an interval for each run. 0: as if the client had never "
        "been there. 100: as in the original. Below 0: overshot, so that one can see "
        f"that somebody was taken out. Arrows lie beyond the axis.{shaded}",
    )
    later = draw_laters(found.later, found.margins)
    if later is not None:
        page.figure(
            later,
            "The same models after further rounds of the remaining clients, beside "
            "references that went on as long: what comes back. Means over runs.",
        )


def _same_everywhere(summary: pd.DataFrame) -> dict[str, object]:
    """Return what does not differ between the settings."""
    keys = [key for key, _ in settings_of(summary)]
    return {
        name: keys[0][place]
        for place, name in enumerate(SETTING)
        if len({key[place] for key in keys}) == 1 and keys[0][place] not in (None, "")
    }


def _add_table(page: Page, summary: pd.DataFrame) -> None:
    """Add the table of every number, with its filters."""
    keys = [key for key, _ in settings_of(summary)]
    names = dict(zip(keys, setting_labels(keys), strict=True))
    rows = summary.to_dict("records")
    labels = [names[setting_key(row)] for row in rows]
    shown: dict[str, Sequence[object]] = {
        "method": [row["strategy"] for row in rows],
        "model": [row["model"] for row in rows],
        "setting": labels,
        "seeds": [row["seeds"] for row in rows],
        "outcomes": [row["outcomes"] or MISSING for row in rows],
    }
    metrics = [name for name in METRICS if summary[name].notna().any()]
    for name in metrics:
        shown[name] = [_cell(name, row) for row in rows]
    headers = {name: name.replace("_", " ") for name in metrics} | _HEADERS
    formats: dict[str, Format] = dict.fromkeys(metrics, str)
    page.filtered_table(
        pd.DataFrame(shown),
        caption="Means over seeds, ± the half width of a 95 % t-interval; a click on "
        "a heading sorts",
        choices={
            "Setting": [[label] for label in labels],
            "Attack": _choices(rows, "attack"),
            "Partition": _choices(rows, "partition"),
            "Clients": _choices(rows, "clients"),
            "Model": _choices(rows, "model"),
            "Outcome": [[o for o in (*OUTCOMES, *HOW) if row[o]] for row in rows],
        },
        search="Method contains",
        formats=formats,
        headers=headers,
    )


def _choices(rows: Sequence[Mapping[str, object]], name: str) -> list[list[str]]:
    """Return what each row answers to in a select box of one column."""
    return [[str(row[name])] for row in rows]


def _cell(name: str, row: Mapping[str, object]) -> str:
    """Return a mean and, if there is one, its half width."""
    value, half = number(row[name]), number(row[f"{name}_half"])
    if value is None:
        return MISSING
    if name in _SIZES:
        value, half = value / _MIB, None if half is None else half / _MIB
    if name in _SHARES:
        text = f"{whole_percent(value)} %"
        return text if half is None else f"{text} ± {whole_percent(half)}"
    if name in _COUNTS:
        # Costs hardly differ between seeds: an interval of 0 only takes space.
        text, width = short_number(value), short_number(half)
        return text if half is None or width == "0" else f"{text} ± {width}"
    if name in _SIZES or name in _RATIOS:
        text, width = f"{value:.2f}", f"{half or 0:.2f}"
        return text if half is None or width == "0.00" else f"{text} ± {width}"
    text = (
        signed(value)
        if name.endswith("_gap") and name != "forgetting_gap"
        else rate(value)
    )
    return text if half is None else f"{text} ± {rate(half)}"
