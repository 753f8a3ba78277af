"""A disk that is full, from a chosen step of writing on."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from processes.killing import Executioner


class Full(Executioner):
    """From step `last` on there is no room: whatever takes some fails."""

    def step(self) -> None:
        """Count a step."""
        self.steps += 1
        if self.steps >= self.last:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _counted(self, function: Any) -> Any:
        if function in (os.unlink, os.replace, os.rename, os.ftruncate):
            return function
        if function is os.mkdir:
            return self._named(function)
        counted = super()._counted(function)
        if function is not os.open:
            return counted

        def opened(path: Any, flags: int, *more: Any, **options: Any) -> int:
            makes = flags & os.O_CREAT and not Path(path).exists()
            use = self._named(function) if makes else function
            found: int = use(path, flags, *more, **options)
            return found

        return opened

    def _named(self, function: Any) -> Any:
        """Return a function whose errors name the path, as the system's do."""

        def named(path: Any, *more: Any, **options: Any) -> Any:
            try:
                self.step()
            except OSError as error:
                raise OSError(error.errno, error.strerror, path) from None
            return function(path, *more, **options)

        return named


@contextmanager
def watched(disk: Executioner) -> Iterator[None]:
    """Have everything that touches the disk counted, for a while."""
    with pytest.MonkeyPatch.context() as patch:
        for name in (
            *("fsync", "replace", "rename", "unlink", "open", "mkdir", "fdopen"),
            *("write", "ftruncate"),
        ):
            patch.setattr(os, name, getattr(os, name))
        patch.setattr(tempfile, "mkstemp", tempfile.mkstemp)
        disk.watch()
        yield
