"""Write a file so that a reader sees the old one or the new one, never a part."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def replacing(path: Path, *, mode: int = 0o644) -> Iterator[IO[bytes]]:
    """Open a temporary file that becomes `path` when the block ends without an error.

    It is flushed to the disk before it is renamed. Missing folders are made. After an
    error nothing of it is left, and the old file is as it was. `mode` is given just
    before the renaming; until then only this user can read it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(mode)  # mkstemp's 0600 shuts out other users
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_bytes(path: Path, content: bytes, *, mode: int = 0o644) -> Path:
    """Write under a temporary name, flush to the disk, rename; return `path`.

    Missing folders are made. Raises OSError, and then leaves the old file as it was.
    """
    with replacing(path, mode=mode) as file:
        file.write(content)
    return path
