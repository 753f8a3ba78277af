"""Run a command as a user would: how long it took, what it said when, its memory."""

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from benchmarks.memory import PeakMemory

TIMEOUT_S = 1800.0


class NotMeasuredError(Exception):
    """A contestant that cannot be measured here; the text says why."""


@dataclass(frozen=True)
class Finished:
    """A command that ended well.

    Attributes
    ----------
    seconds : float
        From before the process was made until it had ended.
    said : tuple of (float, str)
        Lines of standard error, each with the seconds after which it came.
    output : str
        Standard output.
    memory : PeakMemory or None
        If it was asked for.
    """

    seconds: float
    said: tuple[tuple[float, str], ...]
    output: str
    memory: PeakMemory | None


def run(
    command: Sequence[str],
    *,
    cwd: Path,
    environment: Mapping[str, str],
    watch_memory: bool = False,
    timeout_s: float = TIMEOUT_S,
) -> Finished:
    """Run a command to its end.

    Raises
    ------
    NotMeasuredError
        If it fails or takes longer than `timeout_s`; with the last line it said.
    """
    said: list[tuple[float, str]] = []
    with tempfile.TemporaryFile("w+") as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            list(command),
            cwd=cwd,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            # A group of its own: what it started can be ended with it.
            start_new_session=True,
        )
        memory = PeakMemory(process.pid) if watch_memory else None
        assert process.stderr is not None
        reader = threading.Thread(
            target=_listen, args=(process.stderr, started, said), daemon=True
        )
        reader.start()
        try:
            process.wait(timeout_s)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise NotMeasuredError(f"not done after {timeout_s:g} s") from None
            raise
        finally:
            seconds = time.perf_counter() - started
            if memory is not None:
                memory.stop()
        # Daemons that a process leaves behind may hold its standard error open.
        reader.join(2)
        output.seek(0)
        text = output.read()
    if process.returncode:
        lines = [line for _, line in said if line.strip()] or ["nothing"]
        raise NotMeasuredError(f"code {process.returncode}: {lines[-1].strip()}")
    return Finished(seconds, tuple(said), text, memory)


def _listen(stream: IO[str], started: float, said: list[tuple[float, str]]) -> None:
    """Note every line of a stream and when it came."""
    with stream:
        for line in stream:
            said.append((time.perf_counter() - started, line.rstrip("\n")))
