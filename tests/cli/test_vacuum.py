"""A database that was vacuumed holds nothing of what was deleted."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from fedneg.cli.application import run as run_words
from fedneg.cli.vacuum import vacuum
from fedneg.core.errors import FedNegError

SECRET = b"what a client once sent" * 40


def everything(folder: Path) -> bytes:
    """Return the bytes of all files, the write-ahead log included."""
    return b"".join(path.read_bytes() for path in folder.iterdir())


def test_deleted_rows_are_gone_from_file_and_log_while_somebody_has_it_open(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "superlink.db"
    with closing(sqlite3.connect(path)) as superlink:
        superlink.execute("PRAGMA journal_mode=WAL")
        superlink.execute("CREATE TABLE objects (content BLOB)")
        superlink.execute("INSERT INTO objects VALUES (?), (?)", (SECRET, b"stays"))
        superlink.commit()
        superlink.execute("DELETE FROM objects WHERE content = ?", (SECRET,))
        superlink.commit()
        assert SECRET in everything(tmp_path)
        run_words(["vacuum", str(path)])
        assert SECRET not in everything(tmp_path)
        assert superlink.execute("SELECT * FROM objects").fetchall() == [(b"stays",)]
    assert capsys.readouterr().out.startswith(f"{path}: ")


def test_a_reader_that_holds_the_log_is_named(tmp_path: Path):
    """Its snapshot keeps the old pages: nothing may be claimed of them."""
    path = tmp_path / "superlink.db"
    with (
        closing(sqlite3.connect(path, isolation_level=None)) as superlink,
        closing(sqlite3.connect(path, isolation_level=None)) as reader,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr("fedneg.cli.vacuum.BUSY_TIMEOUT_S", 0.1)
        superlink.execute("PRAGMA journal_mode=WAL")
        superlink.execute("CREATE TABLE objects (content BLOB)")
        superlink.execute("INSERT INTO objects VALUES (?)", (SECRET,))
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM objects").fetchall()
        superlink.execute("DELETE FROM objects")
        with pytest.raises(FedNegError, match=r"is in use|cannot be rewritten"):
            vacuum(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read: No such file"), (b"text", "is no SQLite database")],
)
def test_what_is_no_database_is_named_and_kept(
    tmp_path: Path, content: bytes | None, message: str
):
    path = tmp_path / "other"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FedNegError, match=message):
        vacuum(path)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == (
        [content] if content else []
    )
