"""Who has a federation's folder, and the end of all processes in it if that one ends.

They are in sessions of their own, and no signal of the system's reaches those that
Flower starts in turn. `fedneg up` stops them itself when it is asked to end; if it is
killed, a process that it started for this does.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from fedneg.core.children import LOOK_S, python_command
from fedneg.core.errors import FedNegError
from fedneg.core.files import make_folder
from fedneg.core.locks import take
from fedneg.engines.deployed.processes import KILL_S, POLL_S, marked, send_to

# Whoever ends what a killed federation left has the folder for a moment.
PATIENCE_S = 2.0


class Hold:
    """A folder that this process has for itself; what a killed one left is ended.

    Where there is no /proc, nobody finds what was left.

    Raises
    ------
    FedNegError
        If another process has the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_folder(folder)
        lock = _locked(folder, PATIENCE_S)
        if lock is None:
            raise FedNegError(f"{folder} has a federation that runs")
        self._lock = lock
        command = python_command("fedneg.engines.deployed.hold", outlives=True)
        self._watcher = subprocess.Popen(
            [*command, str(folder), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # what ends a whole group must not end this
        )
        _end_all(folder)

    def release(self) -> None:
        """End what is left, and give the folder back."""
        _end_all(self.folder)
        self._watcher.kill()
        self._watcher.wait()
        self._lock.close()


def _locked(folder: Path, patience_s: float) -> IO[bytes] | None:
    """Return the folder's lock, None if somebody keeps it."""
    lock = (folder / "lock").open("ab")
    if take(lock.fileno(), timeout_s=patience_s):
        return lock
    lock.close()
    return None


def _end_all(folder: Path) -> None:
    """End all processes of a folder at once."""
    send_to(marked(f"{folder}:"), signal.SIGKILL)


def main() -> None:
    """Wait for the end of whoever has the folder; then end what it left."""
    folder, parent = Path(sys.argv[1]), int(sys.argv[2])
    while os.getppid() == parent:
        time.sleep(LOOK_S)
    # If another has the folder by now, it has ended what was left.
    if (lock := _locked(folder, 0.0)) is None:
        return
    deadline = time.monotonic() + KILL_S
    while marked(f"{folder}:") and time.monotonic() < deadline:
        _end_all(folder)
        time.sleep(POLL_S)
    lock.close()
