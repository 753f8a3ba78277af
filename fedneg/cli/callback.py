"""Around a sweep: every job is checked before one starts, and what became of it noted.

Hydra calls these by duck typing (conf/config.yaml, hydra.callbacks); nothing of Hydra
is imported here. It swallows what a callback raises, so that the table is not written
here at the end, but by `finish_sweep`, when Hydra is done or was interrupted.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedneg.config import check_sweep
from fedneg.core.errors import FedNegError
from fedneg.overrides import search_path
from fedneg.reports.compare.sweep import collect_sweep, write_sweep
from fedneg.reports.compare.sweep_jobs import Jobs


@dataclass
class Sweep:
    """The sweep of this process, once it has begun.

    `reasons` holds why the job that runs now failed; `defects` counts jobs that ended
    in a traceback.
    """

    folder: Path
    jobs: Jobs
    reason: str | None = None
    defects: int = 0


@dataclass
class _Process:
    """What this process does."""

    sweep: Sweep | None = field(default=None)


PROCESS = _Process()


class SweepCallback:
    """Hydra's callback of a multirun."""

    def on_multirun_start(self, config: Any, **_: Any) -> None:
        """Refuse a sweep with a job that cannot work, before any work is done."""
        try:
            overrides = config.hydra.overrides
            given = [*search_path(overrides.hydra), *overrides.task]
            planned = check_sweep(given, Path.cwd())
        except FedNegError as error:
            # Hydra swallows exceptions of callbacks, but not a SystemExit.
            print(f"fedneg: error: {error}", file=sys.stderr)
            sys.exit(2)
        # Jobs may have working directories of their own.
        folder = Path(config.hydra.sweep.dir).absolute()
        PROCESS.sweep = Sweep(folder, Jobs(planned, []))

    def on_job_start(self, config: Any, **_: Any) -> None:
        """Enter a job of a sweep."""
        sweep = PROCESS.sweep
        if sweep is not None:
            sweep.reason = None
            folder = Path(config.hydra.runtime.output_dir)
            overrides = list(config.hydra.overrides.task)
            sweep.jobs.begin(sweep.folder, folder, overrides)

    def on_job_end(self, config: Any, **_: Any) -> None:
        """Note what became of it."""
        sweep = PROCESS.sweep
        if sweep is not None:
            sweep.jobs.end(sweep.folder, sweep.reason)

    def __getattr__(self, name: str) -> Any:
        """Ignore every other event."""
        if name.startswith("on_"):
            return lambda **_: None
        raise AttributeError(name)


def finish_sweep(folder: Path, *, comparing: bool = False) -> None:
    """Collect the jobs' results: the sweep, and methods if there are several.

    Parameters
    ----------
    comparing : bool
        Whether a comparison was asked for, however few methods are left of it.
    """
    _csv, page = write_sweep(folder)
    print(f"sweep: {page.resolve()}")
    if comparing or collect_sweep(folder)["strategy"].nunique() > 1:
        write_page(folder)


def write_page(folder: Path) -> None:
    """Write the comparison of the runs below a folder, and say where."""
    from fedneg.reports.compare.page import (
        write_comparison,  # imports matplotlib
    )

    _table, page = write_comparison(folder)
    print(f"comparison: {page.resolve()}")
