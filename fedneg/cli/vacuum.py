"""`fedneg vacuum`: a SuperLink's database without what it only says it deleted.

Flower deletes a message once it was received, but SQLite leaves the bytes of deleted
rows in the file until they are overwritten, and in its write-ahead log: a forgotten
client's updates among them. Vacuuming writes the file anew from what still counts.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from fedneg.cli.parsing import Command, application
from fedneg.core.errors import FedNegError
from fedneg.core.formats import human_bytes
from fedneg.core.reading import open_regular
from fedneg.core.texts import one_line

BUSY_TIMEOUT_S = 30.0
MAX_SHOWN = 4000  # characters of a path
MAGIC = b"SQLite format 3\0"


app = application()


@app.command("vacuum", cls=Command, epilog="fedneg vacuum superlink.db")
def vacuum_all(
    database: Annotated[
        list[Path], typer.Argument(metavar="DATABASE ..", help="E.g. superlink.db.")
    ],
) -> None:
    """Rewrite a SuperLink's database without deleted messages; it may be running.

    Raises
    ------
    FedNegError
        If a file is no such database, or somebody else is writing it all the time.
    """
    for path in database:
        before = _size(path)
        vacuum(path)
        shown = one_line(str(path), MAX_SHOWN)
        print(f"{shown}: {human_bytes(before)} -> {human_bytes(_size(path))}")


def vacuum(path: Path) -> None:
    """Rewrite one database and empty its write-ahead log."""
    try:
        with open_regular(path) as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise FedNegError(f"{path} is no SQLite database")
    except OSError as error:
        raise FedNegError(f"{path} cannot be read: {error.strerror}") from None
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S)) as database:
            database.execute("VACUUM")
            busy, *_ = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.Error as error:
        raise FedNegError(f"{path} cannot be rewritten: {error}") from None
    if busy:
        raise FedNegError(
            f"{path} is in use: its write-ahead log still holds what was deleted; "
            "try again"
        )


def _size(path: Path) -> int:
    """Return the bytes of a database and of its write-ahead log."""
    files = (path, path.with_name(path.name + "-wal"))
    return sum(file.stat().st_size for file in files if file.exists())
