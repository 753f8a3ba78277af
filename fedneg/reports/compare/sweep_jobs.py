"""Which jobs are a sweep's, and what became of each: ``sweep.json`` in its folder.

A folder may hold the runs of an earlier sweep too; the table is that of the jobs named
here. The file is written anew when a sweep begins, and after every step of a job: what
a killed sweep did is known.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fedneg.core.files import write_bytes
from fedneg.core.reading import read_json

MANIFEST = "sweep.json"
SCHEMA = 1
INTERRUPTED = "it was interrupted"


@dataclass
class Job:
    """One job: its folder below the sweep's, and why it has no results (None: it has).

    `overrides` are those of the job alone, and of the sweep.
    """

    folder: str
    overrides: list[str]
    reason: str | None = INTERRUPTED


@dataclass
class Jobs:
    """The jobs of a sweep that were begun, of so many that were planned."""

    planned: int
    jobs: list[Job]

    @property
    def failed(self) -> list[Job]:
        """Those that left no results."""
        return [job for job in self.jobs if job.reason is not None]

    def begin(self, sweep_dir: Path, folder: Path, overrides: Sequence[str]) -> None:
        """Enter a job; until `end` it counts as interrupted."""
        below = os.path.relpath(folder, sweep_dir)
        self.jobs.append(Job(below, list(overrides)))
        self.write(sweep_dir)

    def end(self, sweep_dir: Path, reason: str | None) -> None:
        """Say of the last job that it ended well, or why it did not."""
        self.jobs[-1].reason = reason
        self.write(sweep_dir)

    def write(self, sweep_dir: Path) -> None:
        """Write the file; raises OSError."""
        content = json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1) + "\n"
        write_bytes(sweep_dir / MANIFEST, content.encode(), shared=True)

    @classmethod
    def read(cls, sweep_dir: Path) -> "Jobs | None":
        """Return what a sweep wrote; None if there is no such file or it is damaged."""
        try:
            found = read_json(sweep_dir / MANIFEST)
            if found["schema"] != SCHEMA:
                return None
            jobs = [Job(**job) for job in found["jobs"]]
            if not all(isinstance(job.folder, str) for job in jobs):
                return None
            return cls(int(found["planned"]), jobs)
        except (OSError, ValueError, KeyError, TypeError):
            return None
