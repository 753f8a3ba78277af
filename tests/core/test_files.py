"""Files are whole, named when they fail, and their owner's alone unless shared."""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedneg.core import files
from fedneg.core.files import (
    leftovers,
    make_folder,
    remove,
    replacing,
    tighten,
    write_bytes,
)


@pytest.fixture(params=[0o022, 0o077, 0o000], ids="{:03o}".format)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """Set the umask for a test and return it."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_files_and_folders_are_private_whatever_the_umask(tmp_path: Path, umask: int):
    made = write_bytes(tmp_path / "a" / "b" / "f", b"x")
    assert [mode(p) for p in (made, made.parent, made.parent.parent)] == [
        0o600,
        0o700,
        0o700,
    ]
    made.chmod(0o644)
    assert mode(write_bytes(made, b"y")) == 0o600


def test_what_is_shared_is_as_open_as_the_umask_says(tmp_path: Path, umask: int):
    made = write_bytes(tmp_path / "a" / "b" / "f", b"x", shared=True)
    assert mode(made) == 0o666 & ~umask
    assert mode(made.parent.parent) == 0o777 & ~umask


def test_nobody_else_reads_a_private_file_before_it_has_its_name(tmp_path: Path):
    before = os.umask(0)
    try:
        with replacing(tmp_path / "f") as file:
            (temporary,) = tmp_path.iterdir()
            assert mode(temporary) == 0o600
            file.write(b"x")
    finally:
        os.umask(before)


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path):
    """No old content stays behind on the other disk."""
    (tmp_path / "disk").mkdir()
    there, link = tmp_path / "disk" / "model", tmp_path / "link"
    there.write_bytes(b"old")
    link.symlink_to(there)
    write_bytes(link, b"new")
    assert link.is_symlink()
    assert there.read_bytes() == b"new"
    assert os.listdir(tmp_path / "disk") == ["model"]
    remove(link)
    assert sorted(os.listdir(tmp_path)) == ["disk"]
    assert os.listdir(tmp_path / "disk") == []


def test_a_link_to_nowhere_in_place_of_a_folder_is_named(tmp_path: Path):
    (tmp_path / "in").symlink_to(tmp_path / "unmounted")
    with pytest.raises(OSError, match=r"it is a link to .*unmounted, which is not th"):
        make_folder(tmp_path / "in")


@pytest.mark.parametrize("call", ["fsync", "open", "replace"])
def test_an_error_names_the_file_and_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
):
    path = write_bytes(tmp_path / "f", b"old")

    def full(*given: object, **_: object) -> None:
        named = [str(given[0])] if call != "fsync" else []
        raise OSError(errno.ENOSPC, "No space left on device", *named)

    monkeypatch.setattr(files.os, call, full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_bytes(path, b"new")
    monkeypatch.undo()
    assert caught.value.filename == str(path)
    assert os.listdir(tmp_path) == ["f"]
    assert path.read_bytes() == b"old"


def test_an_error_about_another_file_keeps_its_name(tmp_path: Path):
    with (
        pytest.raises(FileNotFoundError) as caught,
        replacing(tmp_path / "f"),
    ):
        (tmp_path / "source").read_bytes()
    assert caught.value.filename == str(tmp_path / "source")


def test_leftovers_are_ordinary_files(tmp_path: Path):
    (tmp_path / ".a").write_bytes(b"")
    (tmp_path / ".b").mkdir()
    (tmp_path / ".c").symlink_to(tmp_path / ".a")
    os.mkfifo(tmp_path / ".d")
    assert list(leftovers(tmp_path, ".*")) == [tmp_path / ".a"]


def test_old_files_are_tightened_and_links_are_let_alone(tmp_path: Path):
    (tmp_path / "other").write_bytes(b"")
    (tmp_path / "other").chmod(0o644)
    folder = tmp_path / "state"
    (folder / "in").mkdir(parents=True)
    for path, old in (
        (folder, 0o755),
        (folder / "in", 0o775),
        (folder / "in/f", 0o755),
    ):
        path.touch()
        path.chmod(old)
    (folder / "link").symlink_to(tmp_path / "other")
    tighten(folder)
    assert [mode(p) for p in (folder, folder / "in", folder / "in" / "f")] == [
        0o700
    ] * 3
    assert mode(tmp_path / "other") == 0o644


@pytest.mark.parametrize("kind", ["pipe", "socket", "folder"])
def test_what_a_link_leads_to_is_replaced_only_if_it_is_a_file(
    tmp_path: Path, kind: str
):
    """Not a device: who runs as root would take it from everybody."""
    other, link = tmp_path / "other", tmp_path / "link"
    if kind == "pipe":
        os.mkfifo(other)
    elif kind == "folder":
        other.mkdir()
    else:
        os.mknod(other, stat.S_IFSOCK | 0o600)
    link.symlink_to(other)
    before = other.lstat()
    with pytest.raises(OSError, match=f"it is a link to a {kind}") as raised:
        write_bytes(link, b"new")
    assert raised.value.filename == str(link)
    assert link.is_symlink()
    remove(link)
    assert not link.is_symlink()
    assert other.lstat() == before
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
