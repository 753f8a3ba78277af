"""Processes that leave nobody behind: started, watched, and ended with their children.

Flower's SuperLink detaches its helper from its session, so that no process group holds
all of it. Every process is therefore marked by a variable in its environment, which its
children inherit; where there is no /proc to read it from, the session must do.
"""

import os
import random
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from fedneg.core.files import OTHERS, PRIVATE_FILE, make_folder

MARK = "FEDNEG_PROCESS"
PROC = Path("/proc")
POLL_S = 0.05
KILL_S = 5.0
# Below the range that systems hand out to outgoing connections by themselves, so that
# no such connection takes a port between its choice and its use.
PORTS = range(20_000, 32_000)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Process:
    """A program in a session of its own, with its output in a log file.

    Parameters
    ----------
    name : str
        What users call it.
    command : sequence of str
    folder : Path
        Its working directory, and whose process it is.
    log : Path
        Output is appended.
    environment : mapping of str to str
        All of it.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        folder: Path,
        log: Path,
        environment: Mapping[str, str],
    ) -> None:
        self.name, self.log, self.mark = name, log, f"{folder}:{name}"
        make_folder(log.parent)
        with open(log, "ab", opener=_private) as output:
            self._start = output.tell()
            self._popen = subprocess.Popen(
                command,
                cwd=folder,
                env={**environment, MARK: self.mark},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # Databases, and what runs leave, hold updates: Flower asks for no mode.
                umask=OTHERS,
            )

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._popen.poll()

    def output(self) -> str:
        """Return what it and its children have written since it was started."""
        with self.log.open("rb") as file:
            file.seek(self._start)
            return COLOUR.sub("", file.read().decode(errors="replace"))

    def last_lines(self, count: int = 8) -> str:
        """Return the end of its output, indented, under the name of its log."""
        lines = [line for line in self.output().splitlines() if line.strip()]
        return "\n".join([f"  {self.log}:", *(f"    {x}" for x in lines[-count:])])

    def family(self) -> list[int]:
        """Return the process ids of itself, if it runs, and of its children."""
        own = [] if self.exit_code is not None else [self._popen.pid]
        return sorted({*own, *marked(self.mark)})

    def send(self, number: signal.Signals) -> None:
        """Send a signal to itself and to its children.

        Once: Flower's programs say goodbye at the first SIGTERM, and break that off at
        the second.
        """
        if PROC.is_dir():
            send_to(self.family(), number)
        elif self.exit_code is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._popen.pid, number)

    def kill(self) -> None:
        """End it and its children at once, as when a machine loses power."""
        end([self], grace_s=0.0)


def _private(path: str, flags: int) -> int:
    """Open a file that only this user can read."""
    return os.open(path, flags, PRIVATE_FILE)


def end(processes: Iterable[Process], *, grace_s: float) -> None:
    """End processes with their children: politely, and for good after `grace_s`."""
    left = list(processes)
    for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, KILL_S)):
        deadline = time.monotonic() + patience_s
        if patience_s:
            for process in left:
                process.send(number)
        while left and time.monotonic() < deadline:
            left = [process for process in left if process.family()]
            if number == signal.SIGKILL:  # what was forked meanwhile
                for process in left:
                    process.send(number)
            time.sleep(POLL_S if left else 0)


def marked(mark: str) -> list[int]:
    """Return the ids of all processes with a mark; none where there is no /proc.

    A mark that ends in a colon finds every process of a folder.
    """
    wanted = f"\0{MARK}={mark}".encode() + (b"" if mark.endswith(":") else b"\0")
    found = []
    for entry in PROC.iterdir() if PROC.is_dir() else ():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if wanted in b"\0" + (entry / "environ").read_bytes():
                    found.append(int(entry.name))
    return found


def send_to(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to those of some processes that still run."""
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def free_ports(count: int) -> list[int]:
    """Return ports of this machine that nobody listens on now, all different."""
    found: list[int] = []
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise OSError(f"no {count} free ports from {PORTS.start} to {PORTS.stop}")


def listens(port: int) -> bool:
    """Return whether somebody accepts connections on a port of this machine."""
    with socket.socket() as one:
        one.settimeout(1.0)
        return one.connect_ex(("127.0.0.1", port)) == 0
