"""What a person sees while a run works: progress, notices, errors.

On a terminal: one live table with phase, round, accuracy and time left. Elsewhere:
plain lines, one per round.
"""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from fedneg.core.quality import ACCURACY
from fedneg.core.run_log import LOG, visible


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
        self.quality = ACCURACY  # what people read for it
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
        name = self.quality
        said = f"{phase} {number}/{of}  {name} {accuracy:.4f}  loss {loss:.4f}"
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
        for name in ("phase", "round", self.quality, "loss"):
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
