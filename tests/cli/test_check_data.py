"""`fedneg check-data`: what an operator is told about a client's data."""

import sys
from pathlib import Path

import numpy as np
import pytest

from fedneg.__main__ import main


def check(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["fedneg", "check-data", *arguments])
    try:
        main()
    except SystemExit as stop:
        return int(str(stop.code))
    return 0


def halves(count: int) -> np.ndarray:
    """Return 8x8 images of which one half, above or below, has pixels of 8."""
    images = np.zeros((count, 8, 8), np.uint8)
    images[::2, :4] = images[1::2, 4:] = 8
    return images


def test_good_data_is_described(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """12 digits, 1 of them 9 and the rest 2, half of the pixels 8 of 16; two writers.

    The path may be relative here, and is shown as a node config needs it.
    """
    np.savez(
        tmp_path / "mine.npz",
        images=halves(12),
        labels=np.array([9] + [2] * 11),
        writers=np.arange(12) % 2,
    )
    monkeypatch.chdir(tmp_path)
    assert check(monkeypatch, "mine.npz", "--data", "digits") == 0
    assert capsys.readouterr().out.splitlines() == [
        "good for data=digits: 12 images of 8x8 pixels, 2 writers",
        "by class: 0: 0, 1: 0, 2: 11, 3: 0, 4: 0, 5: 0, 6: 0, 7: 0, 8: 0, 9: 1",
        "split: 10 train, 1 val, 1 test",
        "mean brightness: 0.25 of the range (digits: 0.31)",
        f'node config: client-id=N data="{tmp_path}/mine.npz"',
    ]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["none.npz"], "none.npz cannot be read: No such file or directory"),
        (["mine.npz"], "mine.npz: images must have the shape (N, 28, 28) of mnist"),
        (["mine.npz", "--data=letters"], "must be one of mnist, digits, got 'letters'"),
        ([], "fedneg check-data: PATH is required"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    part: str,
):
    images, labels = np.zeros((9, 8, 8), np.uint8), np.arange(9)
    np.savez(tmp_path / "mine.npz", images=images, labels=labels)
    monkeypatch.chdir(tmp_path)
    assert check(monkeypatch, *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("fedneg: error: ")
    assert part in line
