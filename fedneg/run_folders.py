"""Find the runs below a folder, and read what each has left.

The one job: a folder in, its readable runs out, with a reason for each of the others.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from fedneg.reading import read_regular

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
        In the order of the jobs; the dict maps a run's name to half a sentence.
    """
    found: list[T] = []
    skipped: dict[str, str] = {}
    for folder in _run_folders(sweep_dir):
        name = folder.relative_to(sweep_dir).as_posix()
        try:
            results = json.loads(read_regular(folder / "results.json"))
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


def _run_folders(sweep_dir: Path) -> list[Path]:
    """Return the folders that hold a run, or should, sorted by job number.

    A folder straight below `sweep_dir` that has no run anywhere in it counts as a run
    that left nothing; so does any folder with Hydra's ``.hydra`` in it.
    """
    found = {path.parent for path in sweep_dir.rglob("results.json")}
    found |= {path.parent for path in sweep_dir.rglob(".hydra") if path.is_dir()}
    for child in sweep_dir.iterdir():
        if child.is_dir() and not any(child in (f, *f.parents) for f in found):
            found.add(child)

    def hidden(folder: Path) -> bool:
        return any(p.startswith(".") for p in folder.relative_to(sweep_dir).parts)

    return sorted(
        (folder for folder in found - {sweep_dir} if not hidden(folder)),
        key=lambda folder: _natural(folder.relative_to(sweep_dir).as_posix()),
    )


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a sort key under which '10' comes after '9'."""
    parts = re.split(r"(\d+)", name)
    return [(int(p), "") if p.isdigit() else (-1, p) for p in parts if p]
