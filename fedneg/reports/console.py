"""What a run says at its end, in the terminal: its models and its verdict."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedneg.core.progress import say
from fedneg.core.quality import ACCURACY, told
from fedneg.core.run_log import LOG, visible
from fedneg.evaluation.decision import FORGOTTEN, NOT_FORGOTTEN
from fedneg.reports.verdict_text import (
    control_warnings,
    describe_finding,
    describe_outcome,
)
from fedneg.reports.verdict_values import verdict_of
from fedneg.reports.whom import short

_STYLES = {FORGOTTEN: "bold green", NOT_FORGOTTEN: "bold red"}


def _cell(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def show_summary(
    results: Mapping[str, Any], report: str, console: Console | None = None
) -> None:
    """Print the models, the verdict, and where the report or the results lie."""
    console = console or Console()
    table = Table(
        title=Text(_asked(results)), title_justify="left", caption_justify="left"
    )
    table.add_column("model")
    columns = {
        "test_accuracy": "test accuracy",
        "forget_accuracy": "forget accuracy",
        "retain_accuracy": "retain accuracy",
    }
    if any(m["attack_success_rate"] is not None for m in results["models"].values()):
        columns["attack_success_rate"] = "attack success"
    quality = str(results.get("quality_name", ACCURACY))
    columns = {key: told(words, quality) for key, words in columns.items()}
    for heading in columns.values():
        table.add_column(Text(heading), justify="right")
    table.add_column("seconds", justify="right")
    seconds = {
        "original": "train_seconds",
        "unlearned": "unlearn_seconds",
        "recovered": "recover_seconds",
        "retrained": "retrain_seconds",
    }
    for name, model in results["models"].items():
        cost = results["cost"]
        spent = f"{cost[seconds[name]]:.2f}"
        reused = {"original": "reused_training", "retrained": "reused_retraining"}
        if name in reused and cost[reused[name]]:
            spent = f"({spent})"
            table.caption = "in brackets: of the run that trained it; it was reused"
        cells = [_cell(model[c]) for c in columns]
        table.add_row(name, *cells, spent)
        pairs = (f"{columns[c]} {cell}" for c, cell in zip(columns, cells, strict=True))
        LOG.info("%s model: %s, seconds %s", name, ", ".join(pairs), spent)
    console.print(table)
    _show_verdict(results, console)
    kind = Path(report).stem  # report or results
    say(f"{kind}: {report}", console)


def _show_verdict(results: Mapping[str, Any], console: Console) -> None:
    """Print the verdict with its sentences, and a line for each control that failed."""
    verdict = verdict_of(results)
    if verdict is None:
        return
    outcome = str(verdict["outcome"])
    quality = str(results.get("quality_name", ACCURACY))
    reason = told(" ".join(describe_finding(results)), quality)
    head = f"verdict ({visible(str(verdict.get('model') or '?'))}): "
    told_outcome = visible(describe_outcome(verdict))
    line = head + told_outcome + visible(f". {reason}" if reason else "")
    LOG.info("%s", line)
    shown = Text(_filled(line, console))
    style = _STYLES.get(outcome, "bold yellow")
    shown.stylize(style, len(head), len(head) + len(told_outcome))
    console.print(shown, soft_wrap=True)
    for warning in control_warnings(verdict):
        warning = told(warning, quality)
        LOG.warning("%s", warning)
        said = Text(_filled(f"warning: {warning}", console), style="bold yellow")
        console.print(said, soft_wrap=True)


def _filled(line: str, console: Console) -> str:
    """Return a line broken between words for people, whole for a pipe.

    A number stays with its percent sign, which Rich would part.
    """
    if not console.is_terminal:
        return line
    # One character for each: places in the line stay what they are.
    kept = line.replace(" %", "\N{NO-BREAK SPACE}%")
    return textwrap.fill(kept, console.width, break_on_hyphens=False)


def _asked(results: Mapping[str, Any]) -> str:
    forget = short(results, ", ") or "nobody"
    return (
        f"{results['data']['name']}, {results['clients']} clients, "
        f"{results['rounds']} rounds; forget {forget} "
        f"({results['strategy']}), retrain {results['retrain']}"
    )
