"""Find what a user names as ``module:name``: a task, or a method, of the user's own.

Modules are looked for among what is installed, in the folder where the command was
typed, and in those that $FEDNEG_PATH names, for the programs of a deployed federation,
which start in folders of their own. They are put last on the import path, and not
before something is named so: a user's `random.py` is never in front of Python's, nor is
anything of theirs imported that they did not ask for.
"""

import importlib
import os
import sys
import traceback
from collections.abc import Iterator
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from fedneg.core.errors import FedNegError
from fedneg.core.texts import did_you_mean, one_line

# Absolute folders, with os.pathsep between them.
FEDNEG_PATH = "FEDNEG_PATH"
_folders: list[str] = []


def add_folder(folder: str | Path) -> None:
    """Let modules be found in a folder too, after everything that is installed."""
    path = os.path.abspath(folder)
    if path not in _folders:
        _folders.append(path)
    if path not in sys.path:
        sys.path.append(path)
        importlib.invalidate_caches()  # a file may be younger than what is remembered


def folders() -> tuple[str, ...]:
    """Return the folders that were added, absolute, in their order.

    For `add_folder` in processes that were started before; those that are started
    afterwards have them on their path (`fedneg.core.children`).
    """
    return tuple(_folders)


def is_named(text: object) -> bool:
    """Return whether a text is of the form ``module:name``, dots allowed in both."""
    if not isinstance(text, str):
        return False
    module, colon, name = text.partition(":")
    parts = [*module.split("."), *name.split(".")]
    return bool(colon) and all(part.isidentifier() for part in parts)


def load_named(name: str, *, what: str, folder: str | Path | None = None) -> Any:
    """Return what ``module:name`` is; its module is imported.

    Parameters
    ----------
    name : str
        Such as ``"mine:Mine"``.
    what : str
        The key of the configuration that says so, for errors, e.g. ``"strategy"``.
    folder : path, optional
        Where the command was typed: added to the import path.

    Raises
    ------
    FedNegError
        If it is not of this form, there is no such module, it cannot be imported (with
        the exception and its line), or it has no such name.
    """
    if not is_named(name):
        raise FedNegError(f"{what} must be of the form module:name, got {name!r}")
    if folder is not None:
        add_folder(folder)
    for named in filter(None, os.environ.get(FEDNEG_PATH, "").split(os.pathsep)):
        add_folder(named)
    module, _, attribute = name.partition(":")
    return _loaded(module, attribute, f"{what}={name}")


def offered(group: str) -> tuple[str, ...]:
    """Return the names that installed packages offer as entry points of a group."""
    return tuple(sorted(_entry_points(group, tuple(sys.path))))


def load_offered(name: str, *, group: str, what: str) -> Any:
    """Return what an installed package offers under a name, one of `offered`.

    Raises
    ------
    FedNegError
        As `load_named`; and if two packages offer different things under this name.
    """
    first, *others = _entry_points(group, tuple(sys.path))[name]
    for other in others:
        if other.value != first.value:
            raise FedNegError(
                f"{what}={name} must be offered by one package, got {first.value} and "
                f"{other.value}, both entry points of {group}"
            )
    return _loaded(first.module, first.attr, f"{what}={name} ({first.value})")


@cache
def _entry_points(group: str, path: tuple[str, ...]) -> dict[str, list[EntryPoint]]:
    """Return a group's entry points by name; what there are hangs on the path."""
    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=group):
        found.setdefault(entry.name, []).append(entry)
    return found


def _loaded(module: str, attribute: str, said: str) -> Any:
    """Import a module and return what it has under a name; `said` begins errors."""
    found = _imported(module, said)
    for name in attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise FedNegError(f"{said}: {_lacks(found, name)}") from None
    return found


def _imported(module: str, said: str) -> Any:
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        frames = _frames_of(error)
        if isinstance(error, ModuleNotFoundError) and not frames:
            where = "".join(f", nor in {folder}" for folder in _folders)
            raise FedNegError(
                f"{said}: there is no module {module} among what is installed{where}"
            ) from None
        place = _place(error, frames, module)
        why = one_line(str(error))
        if not isinstance(error, FedNegError):
            why = f"{type(error).__name__}: {why}" if why else type(error).__name__
        raise FedNegError(f"{said}: {place}: {why}") from error


def _frames_of(error: BaseException) -> list[tuple[str, int, str]]:
    """Return file, line and module of each step to an error, without those of ours."""
    steps = (
        (frame.f_code.co_filename, line, str(frame.f_globals.get("__name__")))
        for frame, line in traceback.walk_tb(error.__traceback__)
    )
    return [step for step in steps if step[2].partition(".")[0] not in _NOT_SHOWN]


# Who imports, and is never at fault: Python, and this program.
_NOT_SHOWN = ("importlib", "fedneg")


def _place(
    error: BaseException, frames: list[tuple[str, int, str]], module: str
) -> str:
    """Return where a user looks for the reason of an error: the last line of theirs."""
    if isinstance(error, SyntaxError) and os.path.isfile(error.filename or ""):
        return f"{error.filename}, line {error.lineno}"
    top = module.partition(".")[0]
    theirs = [
        (file, line)
        for file, line, name in frames
        if name.partition(".")[0] == top or os.path.dirname(file) in _folders
    ]
    if not theirs:
        return f"{module} cannot be imported"
    return "{}, line {}".format(*theirs[-1])


def _lacks(found: object, name: str) -> str:
    """Return that a module, or what is in it, has not this name; and where it lies."""
    file = getattr(found, "__file__", None) if isinstance(found, ModuleType) else None
    where = f" ({file})" if file else ""
    own = getattr(found, "__name__", repr(found))
    return f"{own}{where} has no {name}{did_you_mean(name, _names(found))}"


def _names(found: object) -> Iterator[str]:
    return (name for name in dir(found) if name[:1] != "_")
