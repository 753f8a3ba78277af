"""Find the runs below a folder, and read what each has left.

The one job: a folder in, its readable runs out, with a reason for each of the others.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from fedneg.core.quality import ACCURACY
from fedneg.core.reading import read_json
from fedneg.reports.compare.sweep_jobs import MANIFEST, Job, Jobs

T = TypeVar("T")


class LeftOutError(Exception):
    """A run that has results, but not those that were asked for; its text says why."""


def scan_runs(
    sweep_dir: Path, read: Callable[[str, Path, Mapping[str, Any]], T]
) -> tuple[list[T], dict[str, str]]:
    """Return what `read` makes of each run, and why other runs are left out.

    Parameters
    ----------
    sweep_dir : Path
        Searched in full depth for ``results.json``; hidden folders are left out.
    read : callable
        Takes a run's name (its path below `sweep_dir`), its folder and its results.
        `LeftOutError`, or what a missing or wrong value raises, leaves the run out.

    Returns
    -------
    list, dict
        In the order of the jobs; the dict maps a run's name to half a sentence. Where a
        sweep says which jobs are its own (sweep_jobs.py), runs that lie beside them are
        none of it, and one that failed is left out for the reason it gave.
    """
    found: list[T] = []
    sweeps = _sweeps(sweep_dir)
    skipped: dict[str, str] = {}
    for folder in _run_folders(sweep_dir, sweeps):
        name = folder.relative_to(sweep_dir).as_posix()
        job = _job_of(folder, sweep_dir, sweeps)
        if job is not None and job.reason is not None:
            skipped[name] = job.reason
            continue
        try:
            results = read_json(folder / "results.json")
            found.append(read(name, folder, results))
        except FileNotFoundError:
            skipped[name] = "it has no results.json"
        except LeftOutError as error:
            skipped[name] = str(error)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            skipped[name] = (
                f"its results.json cannot be read ({type(error).__name__}: {error})"
            )
    return found, skipped


def quality_name(sweep_dir: Path) -> str:
    """Return what the runs below a folder call the quality of their models.

    Runs of several tasks, which name it differently, have a 'quality'.
    """
    names = set()
    for path in sweep_dir.rglob("results.json"):
        try:
            found = read_json(path)
            names.add(str(found.get("quality_name", ACCURACY)))
        except (OSError, ValueError, AttributeError):
            continue  # it is left out of the page, too
    return "quality" if len(names) > 1 else next(iter(names), ACCURACY)


def with_failures(frame: pd.DataFrame, skipped: Mapping[str, str]) -> str:
    """Return a table as CSV, and below it a row for each run that was left out.

    Its column ``error`` says why; it is empty for every run that could be read.
    """
    names = [*frame.columns, "error"]
    rows = pd.DataFrame(
        [{"run": run, "error": reason} for run, reason in skipped.items()],
        columns=names,
        dtype=object,
    )
    tables = [
        frame.assign(error=None).to_csv(index=False),
        rows.to_csv(index=False, header=False),
    ]
    return "".join(map(str, tables))


def not_begun(sweep_dir: Path) -> str:
    """Return a sentence on jobs that a sweep did not come to; '' if it did to all."""
    jobs = Jobs.read(sweep_dir)
    missing = 0 if jobs is None else jobs.planned - len(jobs.jobs)
    if jobs is None or missing <= 0:
        return ""
    return f"The sweep ended before {missing} of its {jobs.planned} jobs had begun."


def _sweeps(folder: Path) -> dict[Path, Jobs]:
    """Return the sweeps whose folder this is, or lies below it."""
    found = {path.parent: Jobs.read(path.parent) for path in folder.rglob(MANIFEST)}
    return {path: jobs for path, jobs in found.items() if jobs is not None}


def _job_of(folder: Path, top: Path, sweeps: Mapping[Path, Jobs]) -> Job | None:
    """Return the job whose folder this is; None if it is none's."""
    for above in (folder, *folder.parents):
        if above in sweeps:
            # One folder may be given to two jobs: the later one's run lies in it.
            for job in reversed(sweeps[above].jobs):
                if above / job.folder in (folder, *folder.parents):
                    return job
        if above == top:
            break
    return None


def _is_other(folder: Path, top: Path, sweeps: Mapping[Path, Jobs]) -> bool:
    """Return whether a run lies in a sweep's folder and is no job of it."""
    below = {p for p in (folder, *folder.parents) if p == top or top in p.parents}
    return bool(below & set(sweeps)) and _job_of(folder, top, sweeps) is None


def _run_folders(sweep_dir: Path, sweeps: Mapping[Path, Jobs]) -> list[Path]:
    """Return the folders that hold a run, or should, sorted by job number.

    A folder straight below `sweep_dir` that has no run anywhere in it counts as a run
    that left nothing; so does any folder with Hydra's ``.hydra`` in it.
    """
    found = {path.parent for path in sweep_dir.rglob("results.json")}
    found |= {path.parent for path in sweep_dir.rglob(".hydra") if path.is_dir()}
    for child in sweep_dir.iterdir():
        if child.is_dir() and not any(child in (f, *f.parents) for f in found):
            found.add(child)
    # A job may have failed before it had a folder.
    found |= {above / job.folder for above, s in sweeps.items() for job in s.jobs}
    found -= set(sweeps)

    def hidden(folder: Path) -> bool:
        return any(p.startswith(".") for p in folder.relative_to(sweep_dir).parts)

    return sorted(
        (
            folder
            for folder in found - {sweep_dir}
            if not hidden(folder) and not _is_other(folder, sweep_dir, sweeps)
        ),
        key=lambda folder: _natural(folder.relative_to(sweep_dir).as_posix()),
    )


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a sort key under which '10' comes after '9'."""
    parts = re.split(r"(\d+)", name)
    return [(int(p), "") if p.isdigit() else (-1, p) for p in parts if p]
