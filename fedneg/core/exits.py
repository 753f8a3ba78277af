"""How a program ends on a full disk, a closed pipe: one line, and never a traceback.

What `write` and `flush` raise names no file, and neither do the libraries that write
for us (Hydra, its logging): the file is found where the error came from.
"""

import errno
import io
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from fedneg.core.errors import FedNegError
from fedneg.core.texts import one_line

MISTAKE, CLOSED_PIPE = 2, 128 + 13  # what a shell says of who died of SIGPIPE
MAX_LINE = 4000  # characters of a mistake
# What nobody but the owner of a disk can mend, whoever was writing.
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def mistake_of(error: BaseException) -> FedNegError | None:
    """Return what a user can mend, in a line; None for a defect of the program."""
    if isinstance(error, FedNegError):
        return error
    if not isinstance(error, OSError):
        return None
    name = _name_in(error)
    if name is None:
        return None
    if isinstance(name, str | bytes):
        name = os.fsencode(name).decode(errors="backslashreplace")
    verb = "write" if error.errno in DISK else "use"
    return FedNegError(f"cannot {verb} {name}: {error.strerror}")


@contextmanager
def mistakes_in(*folders: Path) -> Iterator[None]:
    """Let an error of the system be a user's mistake, if it is of these folders.

    For who is called by a program of somebody else's: an error of its own files, in the
    same block, is left to it as it is.

    Parameters
    ----------
    folders : Path
        Whole paths. Files in them count, and the folders on the way to them.

    Raises
    ------
    FedNegError
        In the place of an OSError; it names the file.
    """
    try:
        yield
    except OSError as error:
        mistake, name = mistake_of(error), _name_in(error)
        if mistake is None or not isinstance(name, str | bytes | os.PathLike):
            raise
        path = Path(os.path.abspath(os.fsdecode(name)))
        if not any(path.is_relative_to(f) or f.is_relative_to(path) for f in folders):
            raise
        raise mistake from error


def is_of_disk(error: BaseException | None) -> bool:
    """Return whether a full, read-only or broken disk is behind an error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK:
            return True
        error = error.__cause__ or error.__context__
    return False


def _name_in(error: OSError) -> Any:
    """Return the file that an error is about, in whatever form; None: unknown."""
    if error.filename is None and error.errno in DISK:
        return _file_behind(error)
    return error.filename


def _file_behind(error: OSError) -> str:
    """Return the name of the file that was being written when an error came up.

    What is printed is written from no frame that has the file.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame in reversed(frames):
        for value in frame.f_locals.values():
            if isinstance(value, io.IOBase):
                name = getattr(value, "name", None)
                if isinstance(name, str) and name[:1] != "<":  # <stdout>
                    return name
    return "to the standard output"


def fail(error: FedNegError) -> NoReturn:
    """Say a mistake in one line on stderr, if it can be said, and end with its code.

    Not by an exception that Hydra would wrap: a sweep stops here too.
    """
    with suppress(OSError):
        # The name of a file may have line breaks and escape codes in it.
        line = one_line(str(error), MAX_LINE)
        print(f"fedneg: error: {line}", file=sys.stderr, flush=True)
    _silence()
    sys.exit(MISTAKE)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Give a user's mistake its line and its exit code, and an interrupt its own."""
    try:
        yield
    except KeyboardInterrupt:
        print("fedneg: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        mistake = mistake_of(error)
        if mistake is None:
            raise
        fail(mistake)


def _silence() -> None:
    """Let streams that take nothing more not spoil the end: Python flushes them."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with suppress(OSError, ValueError):  # a stream of a test has no number
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)


@contextmanager
def whole_output() -> Iterator[None]:
    """Let a command end well only when all that it printed has gone out.

    A reader who has gone (``| head -1``) is no mistake: the command ends as other
    programs do, without a word.
    """
    try:
        try:
            yield
        except SystemExit as end:
            if isinstance(end.__context__, BrokenPipeError):  # how Rich ends
                _end_of_pipe()
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    except BrokenPipeError:
        _end_of_pipe()
    except OSError as error:
        mistake = mistake_of(error)
        if mistake is None:
            raise
        fail(mistake)


def _end_of_pipe() -> NoReturn:
    _silence()
    sys.exit(CLOSED_PIPE)


class LogFile(logging.FileHandler):
    """A log that is as important as any file: a full disk ends the run."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Raise what went wrong, by name, unless something worse is being told."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError) and error.__context__ is None:
            raise OSError(error.errno, error.strerror, self.baseFilename) from error
