"""Write a file so that a reader sees the old one or the new one, never a part.

Files and folders are their owner's alone, whatever the umask: most of what is kept
holds updates, models, or who asked to be forgotten. What people pass on (tables, pages,
public keys, data sets) is `shared`, and then as open as the umask says.
"""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from fedneg.core.reading import kind_of

PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700
OTHERS = 0o077


@contextmanager
def naming(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Give an OSError the name of the file that it is about, where it has none.

    Those of `write`, `fsync` and `close` have none: on a full disk nobody would learn
    which. `temporary` is a name that means nothing to a reader.
    """
    try:
        yield
    except OSError as error:
        known = error.filename
        if known is not None and (temporary is None or Path(known) != temporary):
            raise
        said = error.strerror or str(error)
        raise OSError(error.errno, said, os.fspath(path)) from error


def make_folder(path: Path, *, shared: bool = False) -> Path:
    """Make a folder, with those above it, unless it is there; return `path`.

    Raises OSError if it cannot be made, or is a link to what is not there.
    """
    if path.is_symlink() and not path.exists():
        said = f"it is a link to {os.readlink(path)}, which is not there"
        raise OSError(errno.ENOENT, said, os.fspath(path))
    if shared:
        path.mkdir(parents=True, exist_ok=True)
    else:
        # Not `mkdir(parents=True)`, which gives those above the umask's mode.
        missing = [p for p in (path, *path.parents) if not p.exists()]
        for folder in reversed(missing):
            folder.mkdir(PRIVATE_FOLDER, exist_ok=True)
        path.mkdir(exist_ok=True)  # an error if something else has the name
    return path


@contextmanager
def replacing(path: Path, *, shared: bool = False) -> Iterator[IO[bytes]]:
    """Open a temporary file that becomes `path` when the block ends without an error.

    It is flushed to the disk before it is renamed. Missing folders are made. After an
    error nothing of it is left, and the old file is as it was. A link stays one: the
    file that it leads to is replaced, so that no old content is left behind there.

    Raises
    ------
    OSError
        If it cannot be written, or is a link to a device or the like, which is nobody's
        to replace; it names `path`.
    """
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    if path.is_symlink() and target.exists() and not target.is_file():
        what = "a folder" if target.is_dir() else kind_of(target.stat().st_mode)
        raise OSError(None, f"it is a link to {what}", os.fspath(path))
    temporary = target.parent / f".{target.name}.{secrets.token_hex(8)}"
    with naming(path, temporary):
        make_folder(target.parent, shared=shared)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        handle = os.open(temporary, flags, 0o666 if shared else PRIVATE_FILE)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_bytes(path: Path, content: bytes, *, shared: bool = False) -> Path:
    """Write under a temporary name, flush to the disk, rename; return `path`.

    Missing folders are made. Raises OSError, which names `path`, and then leaves the
    old file as it was.
    """
    with replacing(path, shared=shared) as file:
        file.write(content)
    return path


def remove(path: Path) -> None:
    """Remove a file if it is there; of a link, what it leads to first.

    Without its link, what was meant to be gone would be searched by nobody. A device or
    the like that it leads to holds nothing, and stays.
    """
    if path.is_symlink() and path.is_file():
        Path(os.path.realpath(path)).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def leftovers(folder: Path, pattern: str) -> Iterator[Path]:
    """Yield what a killed writer may have left in a folder: ordinary files only.

    Links and folders of such a name are somebody else's, and stay for a scan to find.
    """
    for path in sorted(folder.glob(pattern)):
        if not path.is_symlink() and path.is_file():
            yield path


def tighten(folder: Path, *, below: bool = True) -> None:
    """Take from other users what they may do with a folder or file, and all in it.

    Links in it are not followed; it may be one itself, or not be there. Raises OSError,
    which names what is not this user's to change.
    """
    walk = os.walk(folder) if below else ()
    names = ((at, name) for at, inner, files in walk for name in (*inner, *files))
    for path in (folder.resolve(), *(Path(at, name) for at, name in names)):
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            continue
        if mode & OTHERS and not stat.S_ISLNK(mode):
            path.chmod(stat.S_IMODE(mode) & ~OTHERS)
