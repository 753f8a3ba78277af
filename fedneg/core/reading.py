"""Open what a user names: regular files only, so that nothing is waited for.

A pipe or a socket in the place of a file would let a reader wait for ever, and a device
may have no end.
"""

import errno
import json
import os
import stat
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import Any

_KINDS = {
    stat.S_IFIFO: "a pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: str | Path) -> BufferedReader:
    """Return a regular file, open for reading; a link stands for what it names.

    Raises
    ------
    OSError
        If it cannot be opened; for anything else than a file, too, and its `strerror`
        then says what it is.
    """
    _check(os.stat(path), path)  # opening a device may already do something
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _check(os.fstat(handle), path)  # another may have come in its place
        return os.fdopen(handle, "rb")
    except BaseException:
        with suppress(OSError):
            os.close(handle)
        raise


def read_regular(path: str | Path) -> bytes:
    """Return what is in a regular file; raises OSError as `open_regular` does."""
    with open_regular(path) as file:
        return file.read()


def read_json(path: str | Path) -> Any:
    """Return what a JSON file says; raises as `read_regular` does, or ValueError."""
    try:
        return json.loads(read_regular(path))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def kind_of(mode: int) -> str:
    """Return what a file that is not regular is, from its mode."""
    return _KINDS.get(stat.S_IFMT(mode), "something else")


def _check(found: os.stat_result, path: str | Path) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        # No errno: Python would make another class of error of some.
        raise OSError(None, f"it is no file but {kind_of(found.st_mode)}", str(path))
