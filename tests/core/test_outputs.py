"""Files of a run: whole or not there, and the same bytes for the same content."""

import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedneg.core.errors import FedNegError
from fedneg.core.outputs import prepare_folder, write_bytes, write_json, write_model


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = write_bytes(tmp_path / "file", b"old")

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_has_no_nan(tmp_path: Path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_model_file_holds_the_arrays_whatever_their_layout(tmp_path: Path):
    """A transposed view is written as what it shows; the same twice, the same bytes."""
    arrays = [np.arange(6, dtype=np.float32).reshape(2, 3).T, np.ones(2, np.float32)]
    one, two = (
        write_model(tmp_path / name, ["w", "b"], arrays) for name in ("one", "two")
    )
    assert one.read_bytes() == two.read_bytes()
    np.testing.assert_array_equal(load_file(one)["w"], arrays[0])


def test_a_folder_below_a_file_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FedNegError, match=r"file/out cannot be written: Not a dir"):
        prepare_folder(tmp_path / "file" / "out")
