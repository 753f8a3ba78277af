"""Locks between processes: the one place that asks the system for them (flock).

A lock belongs to an open file, not to a name or a process:

* Who opens a file twice has two that shut each other out, in one process too.
* It goes with its descriptor: closed, or its process ended in whatever way, it is free.
  A child that inherits the descriptor would hold it on; Python's are not inherited.
* It binds those who ask for it, and keeps nobody from reading or writing.
* A file that was removed keeps its lock, which is then nobody else's: who may be
  removed compares the file afterwards (`ledger.training_cache.Entry.locked`).
* Many may share a lock, or one has it alone. Over NFS only who may write a file can
  have it alone.

The file stays when the lock is given back: to remove it would give two processes two
files of one name.
"""

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
PAUSE_S = 0.02  # between two looks


def take(handle: int, *, shared: bool = False, timeout_s: float | None = None) -> bool:
    """Take the lock of an open file; return whether it was had.

    Parameters
    ----------
    handle : int
        The file's descriptor; its end gives the lock back.
    shared : bool
        With others who share it, not alone.
    timeout_s : float, optional
        How long to wait for who has it; 0: not at all. None: as long as that takes.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    if timeout_s is None:
        fcntl.flock(handle, kind)
        return True
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
        time.sleep(PAUSE_S)


def give_back(handle: int) -> None:
    """Give the lock of a file back that stays open."""
    fcntl.flock(handle, fcntl.LOCK_UN)


@contextmanager
def open_locked(path: Path, flags: int = 0) -> Iterator[int]:
    """Yield a file's descriptor, to read and write, once nobody else has its lock.

    File and folder are made if need be. Raises OSError.

    Parameters
    ----------
    flags : int
        Further ones of `os.open`.
    """
    make_folder(path.parent)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | flags, PRIVATE_FILE)
    try:
        take(handle)
        yield handle
    finally:
        os.close(handle)


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
    handle = os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE_FILE)
    try:
        if not take(handle, timeout_s=max(timeout_s, INSTANT_S)):
            waited = f" (waited {timeout_s:g} s)" if timeout_s else ""
            raise FedNegError(f"somebody else is using {what}, {path.parent}{waited}")
        yield
    finally:
        os.close(handle)


def is_locked(path: Path) -> bool:
    """Return whether somebody holds the lock of a file; for whoever may read it."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    try:
        # Shared: over NFS an exclusive lock needs a file that may be written.
        return not take(handle, shared=True, timeout_s=0)
    finally:
        os.close(handle)
