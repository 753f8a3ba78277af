"""Every file below some folders, links followed; and what is there that is no file.

A link is followed wherever it leads, to another disk too, and each file and folder is
come to once, by its real path: so no circle is walked. Not by device and inode: while a
federation writes, the inode of a file that has gone is soon another's.
"""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from fedneg.core.errors import FedNegError

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# What the kernel makes up while it is read, some of it without an end.
_KERNEL = ("/proc", "/sys")


def shown(path: Path) -> str:
    """Return a path as text that can be encoded, whatever bytes its name is made of."""
    return os.fsencode(path).decode(errors="backslashreplace")


class NotSearched(NamedTuple):
    """What a walk came to and could not look into, and why."""

    path: Path
    why: str


class Followed(NamedTuple):
    """A link that leads out of the folders that were named, and where to."""

    link: Path
    target: Path


class Walk:
    """A walk through folders and files; `files` does it, once.

    Parameters
    ----------
    roots : sequence of Path
        Folders or files; one that is a link stands for what it names.

    Attributes
    ----------
    not_searched : list of NotSearched
        Pipes, sockets, devices, links to nothing, and what cannot be read outside the
        roots.
    followed : list of Followed

    Raises
    ------
    FedNegError
        If a root is missing, or neither a folder nor a file.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        self.not_searched: list[NotSearched] = []
        self.followed: list[Followed] = []
        self._tops: list[Path] = []
        for root in roots:
            try:
                top = root.resolve(strict=True)
            except (OSError, RuntimeError) as error:
                said = getattr(error, "strerror", None) or str(error)
                raise FedNegError(f"{root} cannot be scanned: {said}") from None
            if not (top.is_dir() or top.is_file()):
                raise FedNegError(f"{root} must be a folder or a regular file")
            self._tops.append(top)
        self._seen: set[Path] = set()
        self._folders: list[Path] = []
        self._kernel = {os.stat(p).st_dev for p in _KERNEL if os.path.ismount(p)}

    def files(self) -> Iterator[Path]:
        """Yield the real path of every regular file once, in order.

        What vanishes meanwhile is passed over.

        Raises
        ------
        FedNegError
            If a folder below a root cannot be read.
        """
        for top in self._tops:
            yield from self._entry(top)
            while self._folders:
                yield from self._folder(self._folders.pop())

    def refuse(self, path: Path, error: OSError) -> None:
        """Note that a file or folder could not be read, unless it has gone.

        Raises
        ------
        FedNegError
            If it lies below a root: what was not read is not clean.
        """
        try:
            path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError:
            pass
        if any(path.is_relative_to(top) for top in self._tops):
            raise FedNegError(f"{path} cannot be read: {error.strerror}") from None
        self._pass_over(path, f"cannot be read: {error.strerror}")

    def _pass_over(self, path: Path, why: str) -> None:
        self.not_searched.append(NotSearched(path, why))

    def _folder(self, folder: Path) -> Iterator[Path]:
        """Yield the files in a folder; the folders in it are kept for later."""
        try:
            with os.scandir(folder) as entries:
                names = sorted(entry.name for entry in entries)
        except OSError as error:
            self.refuse(folder, error)
            return
        before = len(self._folders)
        for name in names:
            yield from self._entry(folder / name)
        self._folders[before:] = self._folders[before:][::-1]

    def _entry(self, path: Path) -> Iterator[Path]:
        """Yield a path if it is a file, or what it leads to if that is one."""
        try:
            found = path.lstat()
            if stat.S_ISLNK(found.st_mode):
                path = self._led_to(path)
                found = path.lstat()
        except FileNotFoundError:
            return
        except OSError as error:
            self.refuse(path, error)
            return
        if path in self._seen:
            return
        self._seen.add(path)
        kind = stat.S_IFMT(found.st_mode)
        if found.st_dev in self._kernel and path not in self._tops:
            self._pass_over(path, "the kernel's own")
        elif kind == stat.S_IFREG:
            yield path
        elif kind == stat.S_IFDIR:
            self._folders.append(path)
        else:
            self._pass_over(path, _KINDS.get(kind, "no file"))

    def _led_to(self, link: Path) -> Path:
        """Return the real path that a link leads to.

        Raises
        ------
        FileNotFoundError
            If it leads nowhere, which is noted, or has gone.
        """
        try:
            target = Path(os.path.realpath(link, strict=True))
        except OSError as error:
            if link.is_symlink():
                why = f"cannot be followed: {error.strerror}"
                if error.errno == errno.ENOENT:
                    why = "is not there"
                self._pass_over(
                    link, f"a link to {shown(link.readlink())}, which {why}"
                )
            raise FileNotFoundError(link) from None
        if not any(target.is_relative_to(top) for top in self._tops):
            self.followed.append(Followed(link, target))
        return target


def disk_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder, behind links too."""
    total = 0
    for path in Walk([folder]).files():
        try:
            total += path.lstat().st_size
        except OSError:  # it has just gone
            continue
    return total
