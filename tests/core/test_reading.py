"""What a user names is opened only if it is a file: nothing is waited for.

A pipe that nobody writes to would let a reader wait for ever. Every wait here ends as
soon as the answer is there; a thread that hangs fails the test by name.
"""

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.common.serde import message_to_proto
from PIL import Image

from builders.federations import small_config
from builders.own_data import own_bench, some
from builders.waiting import promptly
from fedneg.__main__ import main
from fedneg.core.errors import FedNegError
from fedneg.core.reading import open_regular, read_regular
from fedneg.data.kinds import DIGITS, MNIST
from fedneg.data.own_data import constant_images, read_own_images


def fedneg(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[int, str, str]:
    """Run the command in this process; return exit code, and what it printed."""
    monkeypatch.setattr(sys, "argv", ["fedneg", *words])
    code = 0
    try:
        promptly(main)
    except SystemExit as stop:
        code = int(str(stop.code))
    return code, *capsys.readouterr()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Return a folder with a file, and with what is none, under the same endings."""
    (tmp_path / "file").write_bytes(b"content")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "to pipe").symlink_to("pipe")
    here = socket.socket(socket.AF_UNIX)
    try:
        # The path of a socket may have about a hundred characters.
        folder = os.open(tmp_path, os.O_RDONLY)
        here.bind(f"/proc/self/fd/{folder}/socket")
        os.close(folder)
        yield tmp_path
    finally:
        here.close()


NO_FILES = {
    "pipe": "a pipe",
    "to pipe": "a pipe",
    "socket": "a socket",
    "/dev/zero": "a device",
}


@pytest.mark.parametrize(("name", "kind"), NO_FILES.items(), ids=NO_FILES)
def test_only_files_are_opened(folder: Path, name: str, kind: str):
    with pytest.raises(OSError, match="it is no file but") as caught:
        promptly(lambda: open_regular(folder / name))
    assert caught.value.strerror.startswith(f"it is no file but {kind}")
    assert caught.value.filename == str(folder / name)


def test_a_file_is_read_also_through_a_link(folder: Path):
    for name in ("file", "link"):
        assert read_regular(folder / name) == b"content"
    with pytest.raises(FileNotFoundError):
        read_regular(folder / "none")
    with pytest.raises(IsADirectoryError, match="folder"):
        read_regular(folder / "folder")


COMMANDS = {
    "verify": ("verify", "{}", "--key", "{}"),
    "verify's key": ("verify", "file", "--key", "{}"),
    "audit's key": ("audit", "--state", "folder", "--key", "{}"),
    "vacuum": ("vacuum", "{}"),
    "check-data": ("check-data", "{}"),
}


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("name", ["pipe", "to pipe", "socket"])
def test_a_command_names_what_is_no_file(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    name: str,
):
    monkeypatch.chdir(folder)
    code, out, err = fedneg(monkeypatch, capsys, *(w.format(name) for w in words))
    (line,) = err.splitlines()
    assert (code, out) == (2, "")
    assert name in line
    assert NO_FILES[name] in line


# -- a client's own data ---------------------------------------------------------------


def image_folder(folder: Path, images: np.ndarray) -> Path:
    """Write images as <folder>/<k % 10>/<k>.png."""
    for k, image in enumerate(images):
        (folder / str(k % 10)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / str(k % 10) / f"{k}.png")
    return folder


@pytest.mark.parametrize("kind", ["pipe", "socket", "folder", "dangling link"])
def test_no_image_is_waited_for(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
):
    place = image_folder(folder / "data", some(12, MNIST)["images"])
    if kind == "dangling link":
        (place / "0" / "a.png").symlink_to("nowhere")
    else:
        (folder / kind).rename(place / "0" / "a.png")
    code, out, err = fedneg(monkeypatch, capsys, "check-data", str(place))
    (line,) = err.splitlines()
    assert (code, out) == (2, "")
    assert str(place / "0" / "a.png") in line


@pytest.mark.parametrize("inside", [False, True])
def test_no_archive_is_waited_for(tmp_path: Path, inside: bool):
    os.mkfifo(tmp_path / "mine.npz")
    place = str(tmp_path if inside else tmp_path / "mine.npz")
    with pytest.raises(FedNegError, match=r"mine\.npz must be .*, got a pipe"):
        promptly(lambda: read_own_images(place, DIGITS))


@pytest.mark.parametrize("value", [0, 7])
@pytest.mark.parametrize("packed", [False, True])
def test_blank_images_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    value: int,
    packed: bool,
):
    """All of one value each, the same or not: there is nothing to be learned."""
    images = np.full((12, 28, 28), value, np.uint8)
    images[3] = 9
    if packed:
        place = tmp_path / "mine.npz"
        np.savez(place, images=images, labels=np.arange(12) % 10)
    else:
        place = image_folder(tmp_path / "mine", images)
    code, _, err = fedneg(monkeypatch, capsys, "check-data", str(place))
    assert code == 2
    assert f"{place}: images must show something, got 12 whose pixels are all" in err


def test_the_same_image_again_and_again_is_refused(tmp_path: Path):
    images = some(12)["images"]
    images[:] = images[5]
    np.savez(tmp_path / "mine.npz", images=images, labels=np.arange(12) % 10)
    with pytest.raises(FedNegError, match="images must differ, got 12 times the same"):
        read_own_images(str(tmp_path / "mine.npz"), DIGITS)


def test_single_blank_images_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    images = some(40)["images"]
    images[[7, 31]] = 3
    assert constant_images(images).tolist() == [7, 31]
    place = str(tmp_path / "mine.npz")
    np.savez(place, images=images, labels=np.arange(40) % 10)
    code, out, _ = fedneg(monkeypatch, capsys, "check-data", place, "--data=digits")
    assert code == 0
    assert out.splitlines()[4] == (
        "warning: 2 of 40 images are blank (all pixels the same), in reading order "
        "from 0: 7, 31"
    )
    np.savez(place, images=images[:7], labels=np.arange(7))
    _, out, _ = fedneg(monkeypatch, capsys, "check-data", place, "--data=digits")
    assert "warning" not in out


def bad_data(kind: str, folder: Path) -> str:
    """Return where data lie that no client can train on."""
    place = image_folder(folder / "data", some(12)["images"])
    if kind == "pipe":
        os.mkfifo(place / "0" / "a.png")
    elif kind == "blank":
        image_folder(place, np.zeros((12, 8, 8), np.uint8))
    else:
        odd = b"a\xe9\x1b[31m\n" + b"x" * 200 + b".png"
        Path(os.fsdecode(os.fsencode(place) + b"/0/" + odd)).write_bytes(b"no image")
    return str(place)


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("pipe", "0/a.png: a class folder must hold only image files, got a pipe"),
        ("blank", "images must show something, got 12"),
        ("name", r"/0/a\udce9\x1b[31m x"),
    ],
)
def test_a_client_with_such_data_is_left_out_with_a_line_that_can_be_sent(
    tmp_path: Path, kind: str, part: str
):
    """The others train on."""
    place = bad_data(kind, tmp_path)
    bench = own_bench(small_config("clients=3", "forget=null"), {1: place})
    whole, sent = bench.grid.send_and_receive, []

    def send_and_receive(messages: Any, *, timeout: float | None = None) -> Any:
        replies = whole(messages, timeout=timeout)
        sent.extend(message_to_proto(reply).SerializeToString() for reply in replies)
        return replies

    bench.grid.send_and_receive = send_and_receive  # type: ignore[method-assign]
    promptly(lambda: bench.train(1))
    assert len(sent) == 6  # three said who they are, and then three were to train
    ((_, client_id, reason),) = bench.failures()
    assert client_id == 1
    assert part in reason
    assert reason.isprintable()
    assert bench.strategy.reports[0].clients == 2


def test_an_odd_name_is_one_line_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    place = bad_data("name", tmp_path)
    code, _, err = fedneg(monkeypatch, capsys, "check-data", place, "--data=digits")
    assert (code, err.count("\n")) == (2, 1)
    assert err.strip().isprintable()
    assert r"/0/a\udce9\x1b[31m x" in err
