"""The scan finds what bytes.find finds, wherever it lies, and nothing else."""

import errno
import hashlib
import json
import os
import random
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from fedneg.core.errors import FedNegError
from fedneg.records import scan as scan_module
from fedneg.records.scan import Match, ScanResult, scan
from fedneg.records.scan_windows import BASE, ScanWindow, scan_windows


def vector(seed: int = 0, size: int = 400) -> np.ndarray:
    """Return numbers as a trained model has them."""
    draw = np.random.default_rng(seed)
    return (draw.normal(size=size) * 0.1).astype(np.float32)


def of_bytes(name: str, window: bytes) -> ScanWindow:
    """Return a scan window by its definition, one byte after the other."""
    rolling = 0
    for number, byte in enumerate(window):
        rolling = (rolling + byte * pow(BASE, number, 1 << 64)) % (1 << 64)
    sha256 = hashlib.sha256(window).hexdigest()
    return ScanWindow(name, len(window), rolling, sha256)


def slow_scan(files: Mapping[Path, bytes], windows: Mapping[str, bytes]) -> list[Match]:
    """Return the matches that bytes.find gives, overlapping ones too."""
    found = []
    for path, data in files.items():
        for name, window in windows.items():
            at = data.find(window)
            while at >= 0:
                found.append(Match(path, name, at))
                at = data.find(window, at + 1)
    return sorted(found)


# -- scan windows ---------------------------------------------------------------------


def test_a_scan_window_is_the_digests_of_a_window_of_the_vector():
    """With one window: the first, which is telling as all of a trained vector is."""
    numbers = vector()
    assert scan_windows({"a": numbers}, windows=1) == [
        of_bytes("a", numbers[:16].tobytes())
    ]


def test_windows_are_spread_over_the_whole_vector():
    numbers = vector(size=16 * 100)
    found = scan_windows({"a": numbers}, windows=10)
    firsts = [of_bytes("a", numbers[k : k + 16].tobytes()) for k in range(0, 1600, 160)]
    assert found == firsts


def test_the_bytes_are_little_endian_whatever_the_array_is():
    numbers = vector(size=64)
    expected = scan_windows({"a": numbers})
    assert scan_windows({"a": numbers.reshape(8, 8)}) == expected
    assert scan_windows({"a": numbers.astype(">f4")}) == expected
    wide = np.zeros((64, 2), np.float32)
    wide[:, 0] = numbers
    assert scan_windows({"a": wide[:, 0]}) == expected


@pytest.mark.parametrize(
    "numbers",
    [
        np.zeros(4096, np.float32),
        np.full(4096, 0.1, np.float32),
        np.tile(np.array([0.1, -0.2, 0.3], np.float32), 2000),
        np.where(np.arange(4096) % 20, 0, 1.5).astype(np.float32),
        np.zeros(0, np.float32),
        vector(size=15),
    ],
    ids=["zeros", "constant", "three numbers", "a few ones", "empty", "short"],
)
def test_what_innocent_files_hold_has_no_scan_window(numbers: np.ndarray):
    assert scan_windows({"a": numbers}) == []


def test_windows_avoid_the_zeros_of_a_vector():
    """In each stretch the first window that is telling, not one of zeros."""
    numbers = np.zeros(16 * 1024, np.float32)
    numbers[16 * 700 : 16 * 800] = vector(size=1600)
    found = scan_windows({"a": numbers}, windows=1)
    assert found == [of_bytes("a", numbers[16 * 700 : 16 * 701].tobytes())]


def test_scan_windows_come_back_from_json_and_hold_no_bytes_of_the_vector():
    numbers = vector()
    found = scan_windows({"a": numbers, "b": vector(1)}, windows=3)
    text = json.dumps([f.to_json() for f in found])
    assert [ScanWindow.from_json(c) for c in json.loads(text)] == found
    assert set(found[0].to_json()) == {"name", "width", "rolling", "sha256"}
    assert len(text) < len(found) * 200


@pytest.mark.parametrize(
    "change",
    [
        {"width": 0},
        {"width": "64"},
        {"width": 1 << 40},
        {"rolling": "1"},
        {"rolling": 5},
        {"rolling": "-000000000000001"},
        {"sha256": "ab"},
        {"name": 3},
        {"more": 1},
    ],
)
def test_what_is_no_scan_window_is_refused(change: dict):
    (found,) = scan_windows({"a": vector()}, windows=1)
    with pytest.raises(ValueError, match="not a scan window"):
        ScanWindow.from_json(found.to_json() | change)
    with pytest.raises(ValueError, match="not a scan window"):
        ScanWindow.from_json({"name": "a"})


@pytest.mark.parametrize(("windows", "width"), [(0, 64), (1, 12), (1, 66)])
def test_windows_that_make_no_sense_are_refused(windows: int, width: int):
    with pytest.raises(ValueError, match=rf"got {windows} and {width}"):
        scan_windows({}, windows=windows, width=width)


# -- against bytes.find ---------------------------------------------------------------


@given(
    data=st.binary(max_size=300),
    cuts=st.lists(st.tuples(st.integers(0, 300), st.integers(1, 9)), max_size=6),
    other=st.lists(st.binary(min_size=1, max_size=9), max_size=3),
    block=st.integers(1, 40),
    few=st.booleans(),
)
def test_the_scan_finds_what_bytes_find_finds(
    tmp_path_factory: pytest.TempPathFactory,
    data: bytes,
    cuts: Sequence[tuple[int, int]],
    other: Sequence[bytes],
    block: int,
    few: bool,
):
    """Windows of several widths at once, repeated bytes, and blocks of every size.

    With few different bytes windows overlap themselves and each other.
    """
    if few:
        data = bytes(byte % 2 for byte in data)
    windows = {f"o{k}": w for k, w in enumerate(other)}
    for k, (start, width) in enumerate(cuts):
        if len(window := data[start : start + width]) == width:
            windows[f"c{k}"] = window
    path = tmp_path_factory.mktemp("scan") / "file"
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan_module, "BLOCK", block)
        found = scan([path], [of_bytes(name, w) for name, w in windows.items()])
    assert sorted(found.matches) == slow_scan({path: data}, windows)
    assert (found.files, found.bytes) == (1, len(data))


def test_a_window_is_found_at_the_borders_of_blocks_and_files(tmp_path: Path):
    """Over each byte of a border, at the start, at the end, and as the whole file."""
    window = vector(size=16).tobytes()
    wanted = scan_windows({"a": np.frombuffer(window, np.float32)})
    noise = random.Random(0).randbytes(3 * scan_module.BLOCK)
    files = {tmp_path / "whole": window}
    for border in (scan_module.BLOCK, 2 * scan_module.BLOCK):
        for shift in range(65):
            at = border - shift
            data = noise[:at] + window + noise[at : at + 200]
            files[tmp_path / f"{border}-{shift}"] = data
    files[tmp_path / "start"] = window + noise
    files[tmp_path / "end"] = noise + window
    for path, data in files.items():
        path.write_bytes(data)
    found = scan([tmp_path], wanted)
    assert sorted(found.matches) == slow_scan(files, {"a": window})
    assert len(found.matches) == len(files)
    assert found.bytes == sum(map(len, files.values()))


def test_a_hash_alone_is_no_match(tmp_path: Path):
    """The rolling hash of 64 zeros is 0 for any base; sha256 decides."""
    wanted = ScanWindow("a", 64, 0, "1" * 64)
    (tmp_path / "zeros").write_bytes(bytes(1000))
    assert scan([tmp_path], [wanted]).matches == []


# -- files as they come ---------------------------------------------------------------


def test_vectors_are_found_in_safetensors_files_of_any_name(tmp_path: Path):
    """Beside other arrays, in hidden folders, at offsets that are no multiple of 4."""
    mine, others = vector(1), {"b": vector(2), "c": vector(3, 77)}
    save_file({"a": mine, **others}, tmp_path / "model.safetensors")
    (tmp_path / ".hidden" / "deep").mkdir(parents=True)
    os.replace(tmp_path / "model.safetensors", tmp_path / ".hidden" / "deep" / ".x.txt")
    save_file(others, tmp_path / "clean.safetensors")
    (tmp_path / "odd").write_bytes(b"xyz" + mine[100:200].tobytes())
    wanted = scan_windows({"client 3": mine})
    found = scan([tmp_path], wanted)
    assert found.files == 3
    counts = {tmp_path / "odd": 0, tmp_path / ".hidden" / "deep" / ".x.txt": 0}
    for match in found.matches:
        counts[match.path] += 1
        assert match.name == "client 3"
    assert counts[tmp_path / ".hidden" / "deep" / ".x.txt"] == len(wanted) > 20
    assert counts[tmp_path / "odd"] > 3
    assert found.matches == sorted(found.matches, key=lambda m: (m.path, m.offset))
    assert all(m.offset % 4 == 3 for m in found.matches if m.path.name == "odd")


def test_other_numbers_are_no_match(tmp_path: Path):
    """Zeros, the same numbers with one bit changed in each window, and noise."""
    mine = vector(1)
    near = mine.copy().view(np.uint32)
    near[::4] ^= 1
    save_file({"near": near.view(np.float32)}, tmp_path / "near")
    save_file({"zeros": np.zeros(5000, np.float32)}, tmp_path / "zeros")
    (tmp_path / "noise").write_bytes(random.Random(1).randbytes(1 << 20))
    assert scan([tmp_path], scan_windows({"a": mine})).matches == []


def test_the_same_window_of_two_names_is_found_for_both(tmp_path: Path):
    (tmp_path / "f").write_bytes(vector().tobytes())
    wanted = scan_windows({"a": vector(), "b": vector()}, windows=1)
    assert scan([tmp_path], wanted).matches == [
        Match(tmp_path / "f", "a", 0),
        Match(tmp_path / "f", "b", 0),
    ]


def test_links_are_followed_once_wherever_they_lead(tmp_path: Path):
    """To a file, to a folder with links back, and from one folder outside to the next.

    Each file is read once, under its real path; what led out is told.
    """
    outside, state, far = (tmp_path / name for name in ("outside", "state", "far"))
    for folder in (outside / "deep", state / "in", far):
        folder.mkdir(parents=True)
    held = [outside / "deep" / "f", far / "g", state / "in" / "h"]
    for path in held:
        path.write_bytes(vector().tobytes())
    (state / "file").symlink_to(outside / "deep" / "f")
    (state / "folder").symlink_to(outside)
    (state / "again").symlink_to(state / "in")
    (outside / "back").symlink_to(state)
    (outside / "deep" / "up").symlink_to(outside)
    (outside / "away").symlink_to(far)
    wanted = scan_windows({"a": vector()})
    found = scan([state], wanted)
    assert found.files == 3
    assert {m.path for m in found.matches} == set(held)
    assert len(found.matches) == 3 * len(wanted)
    assert set(found.followed) == {
        (state / "file", outside / "deep" / "f"),
        (state / "folder", outside),
        (outside / "deep" / "up", outside),
        (outside / "away", far),
    }
    assert found.not_searched == ()
    (tmp_path / "link").symlink_to(outside)
    assert scan([tmp_path / "link"], wanted).files == 3


def test_what_is_no_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Also below what a link leads to; none of it is opened."""
    state, outside = tmp_path / "state", tmp_path / "outside"
    state.mkdir()
    outside.mkdir()
    os.mkfifo(state / "pipe")
    os.mkfifo(outside / "pipe")
    (state / "gone").symlink_to(tmp_path / "unmounted")
    (state / "loop").symlink_to(state / "loop")
    (state / "null").symlink_to("/dev/null")
    (state / "out").symlink_to(outside)
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(state)  # its name may not be long
        server.bind("socket")
        found = scan([state], [])
    assert dict(found.not_searched) == {
        state / "pipe": "a pipe",
        outside / "pipe": "a pipe",
        state / "gone": f"a link to {tmp_path / 'unmounted'}, which is not there",
        state / "loop": f"a link to {state / 'loop'}, which cannot be followed: Too "
        "many levels of symbolic links",
        Path("/dev/null"): "a device",
        state / "socket": "a socket",
    }
    told = found.told(state)
    assert told["not_searched_count"] == 6
    assert "pipe (a pipe)" in told["not_searched"]
    assert f"out -> {outside}" in told["followed"]


def test_a_receipt_names_a_dozen_places_and_counts_the_others(tmp_path: Path):
    """Whatever bytes their names are made of."""
    for number in range(20):
        os.mkfifo(os.fsencode(tmp_path) + b"/\xff%02d" % number)
    told = scan([tmp_path], []).told(tmp_path)
    assert (len(told["not_searched"]), told["not_searched_count"]) == (12, 20)
    assert told["not_searched"][0] == r"\xff00 (a pipe)"


@pytest.mark.skipif(not os.path.ismount("/proc"), reason="there is no /proc")
def test_what_the_kernel_makes_up_is_not_read(tmp_path: Path):
    (tmp_path / "all").symlink_to("/proc")
    (tmp_path / "one").symlink_to("/proc/version")
    found = scan([tmp_path], [])
    assert found.files == 0
    assert {p for p, _ in found.not_searched} == {Path("/proc"), Path("/proc/version")}


def test_a_file_below_two_roots_is_read_once(tmp_path: Path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "f").write_bytes(b"abc")
    roots = [tmp_path, tmp_path / "in", tmp_path / "in" / "f"]
    assert scan(roots, []) == ScanResult(1, 3, [])


def test_a_pipe_is_no_root(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FedNegError, match="pipe must be a folder or a regular file"):
        scan([tmp_path / "pipe"], [])


def test_a_file_that_vanishes_meanwhile_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """After its folder was listed; or after it was looked at."""
    for name in "abc":
        (tmp_path / name).write_bytes(b"x")
    real = os.open

    def open_(path: Path, flags: int) -> int:
        (tmp_path / "a").unlink(missing_ok=True)
        (tmp_path / "b").unlink(missing_ok=True)
        return real(path, flags)

    monkeypatch.setattr(scan_module.os, "open", open_)
    assert scan([tmp_path], []) == ScanResult(1, 1, [])


def test_what_cannot_be_read_is_an_error_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Also for root, who may read everything: the system says no in its place."""
    with pytest.raises(FedNegError, match=r"missing cannot be scanned: No such"):
        scan([tmp_path / "missing"], [])
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "file").write_bytes(b"x")
    real_open, real_scandir = os.open, os.scandir

    def deny_open(path: Path, flags: int) -> int:
        if Path(path).name == "file":
            raise PermissionError(13, "Permission denied", str(path))
        return real_open(path, flags)

    def deny_scandir(path: str) -> object:
        if Path(path).name == "secret":
            raise PermissionError(13, "Permission denied", path)
        return real_scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", deny_open)
        with pytest.raises(FedNegError, match=r"secret/file cannot be read: Permis"):
            scan([tmp_path], [])
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", deny_scandir)
        with pytest.raises(FedNegError, match=r"secret cannot be read: Permission"):
            scan([tmp_path], [])


def test_what_cannot_be_read_behind_a_link_is_named_and_the_rest_is_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A disk that others own must not keep a purge from its end, nor be passed over.

    A stale handle, as of a server that has gone, is no file that has vanished.
    """
    (tmp_path / "state").mkdir()
    (tmp_path / "disk" / "secret").mkdir(parents=True)
    (tmp_path / "disk" / "file").write_bytes(b"x")
    (tmp_path / "disk" / "open").write_bytes(b"x")
    (tmp_path / "state" / "link").symlink_to(tmp_path / "disk")
    real_open, real_scandir = os.open, os.scandir

    def deny_open(path: Path, flags: int) -> int:
        if Path(path).name == "file":
            raise OSError(errno.ESTALE, "Stale file handle", str(path))
        return real_open(path, flags)

    def deny_scandir(path: Path) -> object:
        if Path(path).name == "secret":
            raise PermissionError(13, "Permission denied", str(path))
        return real_scandir(path)

    monkeypatch.setattr(os, "open", deny_open)
    monkeypatch.setattr(os, "scandir", deny_scandir)
    found = scan([tmp_path / "state"], [])
    monkeypatch.undo()
    assert found.files == 1
    assert set(found.not_searched) == {
        (tmp_path / "disk" / "file", "cannot be read: Stale file handle"),
        (tmp_path / "disk" / "secret", "cannot be read: Permission denied"),
    }


@pytest.mark.slow
def test_a_scan_costs_a_few_times_what_a_digest_of_the_same_bytes_does(
    tmp_path: Path,
):
    """With 1,280 scan windows: 170 MB/s were seen where sha256 makes 1,700."""
    wanted = scan_windows({str(k): vector(k, 2000) for k in range(40)})
    assert len(wanted) == 1280
    with (tmp_path / "large").open("wb") as file:
        for number in range(64):
            file.write(random.Random(number).randbytes(1 << 20))
        file.write(vector(7, 2000).tobytes())
    before = time.process_time()
    found = scan([tmp_path], wanted)
    scanned = time.process_time() - before
    content = (tmp_path / "large").read_bytes()
    before = time.process_time()
    hashlib.sha256(content)
    assert scanned < 40 * (time.process_time() - before)
    assert len(found.matches) == 32
