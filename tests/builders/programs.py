"""Commands in processes of their own, and what is left of them."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from builders.waiting import PATIENCE_S

# Writes a file of a user's: its name below the test's folder, and its text.
Put = Callable[[str, str], Path]
# The `flwr` command, with a SuperLink of its own.
Flwr = Callable[..., subprocess.CompletedProcess[str]]


@dataclass(frozen=True)
class Said:
    """What a command line gave back: exit code, and what it printed."""

    code: int
    out: str
    err: str


def command(
    *arguments: str, cwd: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own; results go below `cwd`."""
    return subprocess.run(
        [sys.executable, "-m", "fedneg", *arguments],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def processes_in(folder: Path) -> list[str]:
    """Return the command lines of processes whose working directory is `folder`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "cwd").readlink() == folder:
                    found.append((entry / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
    return found


def processes_left_in(folder: Path) -> list[str]:
    """Return what `processes_in` still finds after giving it time to end."""
    deadline = time.monotonic() + PATIENCE_S
    while processes_in(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    return processes_in(folder)
