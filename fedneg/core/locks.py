"""Locks between processes; the system gives them back however a process ends."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedneg.core.errors import FedNegError
from fedneg.core.files import PRIVATE_FILE, make_folder

# `is_locked` holds a lock for an instant, and must put nobody off.
INSTANT_S = 0.2


@contextmanager
def locked(path: Path, what: str, *, timeout_s: float = 30.0) -> Iterator[None]:
    """Hold the lock of a file, which is made if need be, and stays.

    Parameters
    ----------
    what : str
        What the lock guards, for the error.
    timeout_s : float
        How long to wait for who has it; 0: an instant.

    Raises
    ------
    FedNegError
        If somebody else still has it then.
    """
    make_folder(path.parent)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
    try:
        deadline = time.monotonic() + max(timeout_s, INSTANT_S)
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    waited = f" (waited {timeout_s:g} s)" if timeout_s else ""
                    raise FedNegError(
                        f"somebody else is using {what}, {path.parent}{waited}"
                    ) from None
            time.sleep(0.02)
        yield
    finally:
        os.close(handle)


def is_locked(path: Path) -> bool:
    """Return whether somebody holds the lock of a file; for whoever may read it."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # Shared: over NFS an exclusive lock needs a file that may be written.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
