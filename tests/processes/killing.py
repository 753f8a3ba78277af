"""Processes that are killed at a chosen step of writing to the disk."""

import json
import os
import signal
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Executioner:
    """Counts steps, and kills this process before step `last`."""

    def __init__(self, last: int) -> None:
        self.last, self.steps = last, 0

    def step(self) -> None:
        """Count a step."""
        self.steps += 1
        if self.steps == self.last:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self) -> None:
        """Count whatever touches the disk from now on."""
        for owner, name in (
            *(
                (os, name)
                for name in (
                    *("fsync", "replace", "rename", "unlink", "open", "mkdir"),
                    "ftruncate",
                )
            ),
            (tempfile, "mkstemp"),
        ):
            setattr(owner, name, self._counted(getattr(owner, name)))
        os.write = self._halved(os.write)
        plain = os.fdopen
        os.fdopen = lambda *a, **k: _Halves(plain(*a, **k), self)  # type: ignore[assignment,return-value]

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            self.step()
            return function(*arguments, **options)

        return counted

    def _halved(self, write: Callable[[int, Any], int]) -> Callable[[int, Any], int]:
        def halved(handle: int, data: Any) -> int:
            half = len(data) // 2
            self.step()
            done = write(handle, data[:half])
            self.step()
            return done + write(handle, data[half:])

        return halved


class _Halves:
    """A file that is flushed, and may be killed, in the middle of each write."""

    def __init__(self, file: Any, executioner: Executioner) -> None:
        self.file, self.executioner = file, executioner

    def __enter__(self) -> "_Halves":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, part: bytes | memoryview) -> None:
        """Write the first half, flush, and then the second."""
        half = len(part) // 2
        self.executioner.step()
        self.file.write(part[:half])
        self.file.flush()
        self.executioner.step()
        self.file.write(part[half:])


def forked(work: Callable[[], None]) -> int:
    """Do work in a child; return its exit code, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at_every(
    folder: Path,
    stride: int,
    life: Callable[[Path], None],
    outcome: Callable[[Path], dict[str, Any]],
) -> None:
    """Print a JSON line for each kill of a life: what it came to when it went on.

    The first is of a life that nobody killed; the last kill is before its end.

    Parameters
    ----------
    folder : Path
        Gets a folder for each life, with a ``state`` in it.
    stride : int
        Every so many steps of writing there is a kill.
    life : callable
        Lives in a state folder, from wherever that stands.
    outcome : callable
        What a state folder has come to.
    """

    def lived(step: int) -> tuple[int, Path]:
        state = folder / f"step{step}" / "state"
        state.parent.mkdir()

        def watched() -> None:
            Executioner(step).watch()
            life(state)

        return forked(watched), state

    code, state = lived(0)
    assert code == 0
    print(json.dumps({"step": 0, **outcome(state)}), flush=True)
    step = 1
    while True:
        code, state = lived(step)
        if code == 0:
            return
        again = forked(lambda state=state: life(state))  # type: ignore[misc]
        found = {"step": step, "code": code, "again": again, **outcome(state)}
        print(json.dumps(found), flush=True)
        step += stride
