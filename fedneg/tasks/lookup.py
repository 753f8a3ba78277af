"""Which task a run trains: the built-in one, or ``module:name`` of somebody's own."""

from pathlib import Path

from fedneg.core.assignment import Assignment
from fedneg.core.errors import FedNegError
from fedneg.core.named import load_named
from fedneg.tasks.task import Task


def task_of(
    assignment: Assignment, *, threads: int = 1, download: bool = False
) -> Task:
    """Return the task of a run.

    Parameters
    ----------
    assignment : Assignment
    threads, download
        As of `fedneg.tasks.images.images_task`; a task of one's own has none of them.

    Raises
    ------
    FedNegError
        If it cannot be found, or what is found is no `Task`.
    """
    if assignment.task is None:
        # Whoever has a task of their own needs neither the built-in one nor its data.
        from fedneg.tasks.images import images_task

        return images_task(assignment, threads=threads, download=download)
    return own_task(assignment.task)


def own_task(name: str, folder: Path | None = None) -> Task:
    """Return the task that ``module:name`` is.

    Parameters
    ----------
    folder : Path, optional
        Where modules are looked for, too: where the command was typed.

    Raises
    ------
    FedNegError
        If it cannot be found, or what is found is no `Task`.
    """
    found = load_named(name, what="task", folder=folder)
    if not isinstance(found, Task):
        raise FedNegError(
            f"task={name} must be a fedneg.Task, got {type(found).__name__}"
        )
    return found


def code_of(name: str | None) -> tuple[str, ...]:
    """Return the modules that a task is made of, beyond fedneg's own."""
    return () if name is None else (name.partition(":")[0],)
