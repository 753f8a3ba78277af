"""Around a sweep: every job is checked before one starts, one table comes after.

Hydra calls these by duck typing (conf/config.yaml, hydra.callbacks); nothing of Hydra
is imported here.
"""

import sys
from pathlib import Path
from typing import Any

from fedneg.compare_command import write_page
from fedneg.config import check_sweep
from fedneg.errors import FedNegError
from fedneg.sweep import collect_sweep, write_sweep


class SweepCallback:
    """Hydra's callback of a multirun."""

    def on_multirun_start(self, config: Any, **_: Any) -> None:
        """Refuse a sweep with a job that cannot work, before any work is done."""
        try:
            check_sweep(list(config.hydra.overrides.task))
        except FedNegError as error:
            # Hydra swallows exceptions of callbacks, but not a SystemExit.
            print(f"fedneg: error: {error}", file=sys.stderr)
            sys.exit(2)

    def on_multirun_end(self, config: Any, **_: Any) -> None:
        """Collect the jobs' results: the sweep, and methods if there are several."""
        folder = Path(config.hydra.sweep.dir)
        if not folder.is_dir():  # no job came so far as to write anything
            return
        _csv, page = write_sweep(folder)
        print(f"sweep: {page.resolve()}")
        if collect_sweep(folder)["strategy"].nunique() > 1:
            write_page(folder)

    def __getattr__(self, name: str) -> Any:
        """Ignore every other event."""
        if name.startswith("on_"):
            return lambda **_: None
        raise AttributeError(name)
