"""What a person sees while a run works, and at its end.

On a terminal: one live table with phase, round, accuracy and time left. Elsewhere:
plain lines, one per round.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from fedneg.forgetting.decision import FORGOTTEN, NOT_FORGOTTEN
from fedneg.run_log import LOG, visible
from fedneg.verdict_words import control_warnings, describe_reason, verdict_of

_STYLES = {FORGOTTEN: "bold green", NOT_FORGOTTEN: "bold red"}


def _seconds(value: float) -> str:
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes}:{seconds:02d}"


class Progress:
    """Shows phases and rounds of one run as they happen; a context manager.

    Parameters
    ----------
    title : str
        What is being done, in a few words.
    planned_rounds : int
        Rounds of all phases together, for the time left.
    """

    def __init__(
        self, title: str, planned_rounds: int, console: Console | None = None
    ) -> None:
        self.console = console or Console(stderr=True)
        self.title, self.planned = title, planned_rounds
        self.done = 0
        self.start = time.monotonic()
        self.rows: list[tuple[str, str, str, str]] = []
        self._step = ""
        self._live: Live | None = None
        self._begun = False
        self._last_clients = 0.0

    def __enter__(self) -> Self:
        return self

    def _begin(self) -> None:
        """Show the title with the first news: a mistake before it stays one line."""
        if self._begun:
            return
        self._begun = True
        LOG.info("%s", self.title)
        if self.console.is_terminal:
            self._live = Live(self._table(), console=self.console, refresh_per_second=4)
            self._live.start()
        else:
            self._line(self.title)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._step = "" if kind is None else "stopped"
            self._live.update(self._table(), refresh=True)
            self._live.stop()

    def _line(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def step(self, text: str) -> None:
        """Say what is going on between rounds."""
        self._begin()
        LOG.info("%s", text)
        self._step = text
        if self._live is not None:
            self._live.update(self._table())
        else:
            self._line(f"  {text}")

    def round(
        self,
        phase: str,
        number: int,
        of: int,
        *,
        accuracy: float,
        loss: float,
        failures: Sequence[str] = (),
    ) -> None:
        """Enter a finished round; `failures` are shown at once and stay visible."""
        self._begin()
        self.done += 1
        left = self._left()
        said = f"{phase} {number}/{of}  accuracy {accuracy:.4f}  loss {loss:.4f}"
        LOG.info("%s", said)
        for failure in failures:
            LOG.warning("%s", failure)
        if self._live is None:
            self._line(
                f"  {said}"
                + (f"  about {_seconds(left)} left" if self.done < self.planned else "")
            )
            for failure in failures:
                self._line(f"    {failure}")
            return
        row = (phase, f"{number}/{of}", f"{accuracy:.4f}", f"{loss:.4f}")
        if self.rows and self.rows[-1][0] == phase:
            self.rows[-1] = row
        else:
            self.rows.append(row)
        for failure in failures:
            self._live.console.print(failure, style="yellow", markup=False)
        self._live.update(self._table())

    def skip(self, rounds: int) -> None:
        """Take rounds out of the plan: somebody did them before."""
        self.planned -= rounds

    def clients(self, done: int, of: int) -> None:
        """Show how many clients of a round have answered; on a terminal only."""
        now = time.monotonic()
        if self._live is None or (now - self._last_clients < 0.25 and done < of):
            return
        self._last_clients = now
        self._step = f"{done} of {of} clients have answered"
        self._live.update(self._table())

    def _left(self) -> float:
        """Return the seconds left, from the mean of the rounds so far."""
        spent = time.monotonic() - self.start
        return spent / self.done * max(self.planned - self.done, 0)

    def _table(self) -> Group:
        """Return title, table and time as they stand now."""
        table = Table(box=None, pad_edge=False)
        for name in ("phase", "round", "accuracy", "loss"):
            table.add_column(name, justify="left" if name == "phase" else "right")
        for row in self.rows:
            table.add_row(*row)
        line = f"{_seconds(time.monotonic() - self.start)} so far"
        if 0 < self.done < self.planned:
            line += f", about {_seconds(self._left())} left"
        return Group(Text(self.title), table, Text(f"{line}  {self._step}".rstrip()))


def show_notice(text: str, console: Console | None = None) -> None:
    """Print a notice that nobody can miss."""
    LOG.warning("%s", text)
    console = console or Console(stderr=True)
    console.print(Panel(text, title="NOTICE", border_style="bold yellow"), markup=False)


def say(text: str, console: Console | None = None) -> None:
    """Print a line on standard output, as it is."""
    LOG.info("%s", text)
    console = console or Console()
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def show_error(text: str, console: Console | None = None) -> None:
    """Print an error in its one line, without what would steer a terminal."""
    LOG.error("%s", text)
    console = console or Console(stderr=True)
    console.print(
        f"fedneg: error: {visible(text)}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


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
    for heading in columns.values():
        table.add_column(heading, justify="right")
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
    """Print the verdict in a line, and a line for each control that failed."""
    verdict = verdict_of(results)
    if verdict is None:
        return
    outcome = str(verdict["outcome"])
    reason = describe_reason(results, most=1)
    line = Text(f"verdict ({visible(str(verdict.get('model') or '?'))}): ")
    line.append(visible(outcome), style=_STYLES.get(outcome, "bold yellow"))
    line.append(visible(f": {reason}" if reason else ""))
    LOG.info("%s", line.plain)
    console.print(line, soft_wrap=True)
    for warning in control_warnings(verdict):
        LOG.warning("%s", warning)
        said = Text(f"warning: {warning}", style="bold yellow")
        console.print(said, soft_wrap=True)


def _asked(results: Mapping[str, Any]) -> str:
    forget = ", ".join(map(str, results["forget"])) or "nobody"
    return (
        f"{results['data']['name']}, {results['clients']} clients, "
        f"{results['rounds']} rounds; forget {forget} "
        f"({results['strategy']}), retrain {results['retrain']}"
    )
