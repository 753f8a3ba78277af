"""Data sets: what is read, what is refused, and how missing files are had."""

import gzip
import io
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import platformdirs
import pytest

from benchmarks.peers import vision
from builders.checkout import REPOSITORY
from builders.mnist_files import (
    EXTENDED,
    IMAGES,
    LABELS,
    TEST_IMAGES,
    TEST_LABELS,
    SmallMnist,
    md5_of,
)
from builders.waiting import PATIENCE_S
from fedneg.core.errors import FedNegError
from fedneg.data import download
from fedneg.data.datasets import default_root, load_dataset, resolve_auto
from fedneg.data.download import DataUnavailableError


@pytest.fixture
def mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallMnist:
    return SmallMnist.made(tmp_path, monkeypatch)


def set_mirrors(
    monkeypatch: pytest.MonkeyPatch, mirrors: dict[str, tuple[str, ...]]
) -> None:
    """Give the files of these folders other mirrors."""
    table = tuple(
        replace(f, mirrors=mirrors.get(f.folder, f.mirrors)) for f in download.FILES
    )
    monkeypatch.setattr(download, "FILES", table)


@dataclass
class Mirror:
    """A local mirror: serves ``files``, counts what it is asked for, or stalls."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    mode: str = "serve"
    released: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def mirror(mnist: SmallMnist, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked.append(self.path)
            content = served.files.get(self.path.rsplit("/", 1)[-1])
            if content is None:
                self.send_error(404)
                return
            if served.mode == "stall":
                served.released.wait(PATIENCE_S)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if served.mode == "cut":
                self.wfile.write(content[:-1])
                return
            for at in range(len(content)):
                if served.mode == "drip" and served.released.wait(0.01):
                    return
                self.wfile.write(content[at : at + 1])
                self.wfile.flush()

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    url = f"http://127.0.0.1:{server.server_port}"
    served = Mirror(url, {f"{n}.gz": c for n, c in mnist.packed.items()})
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("no_proxy", "*")
    two = (f"{url}/bad", f"{url}/good")
    set_mirrors(monkeypatch, {"MNIST": two, "QMNIST": (f"{url}/q",)})
    yield served
    served.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


# --- what is read


def test_digits_have_14_writers_of_whom_three_are_the_test_set():
    digits = load_dataset("digits", download=False)
    assert digits.images.shape == (1415, 8, 8)
    assert digits.test_images.shape == (1797 - 1415, 8, 8)
    assert digits.images.dtype == np.uint8
    assert (digits.images.max(), digits.pixel_max) == (16, 16)
    assert np.bincount(digits.writers).tolist() == [
        *(130, 126, 130, 130, 130, 130, 139),
        *(114, 128, 130, 128),
    ]
    assert digits.num_writers == 11
    assert digits.labels[:10].tolist() == list(range(10))
    assert digits.labels.dtype == digits.test_labels.dtype == np.int64


@pytest.mark.parametrize("packed", [False, True])
def test_mnist_is_read_plain_and_packed(mnist: SmallMnist, packed: bool):
    mnist.put_all(packed=packed)
    data = load_dataset("mnist", root=mnist.root, download=False)
    np.testing.assert_array_equal(data.images, np.arange(36).reshape(6, 2, 3))
    np.testing.assert_array_equal(data.test_images, np.arange(12).reshape(2, 2, 3))
    assert data.labels.tolist() == [5, 0, 4, 1, 9, 2]
    assert data.test_labels.tolist() == [8, 3]
    assert data.writers.tolist() == [7, 7, 300, 0, 0, 300]
    assert data.labels.dtype == data.writers.dtype == data.test_labels.dtype == np.int64
    assert (data.name, data.pixel_max, data.num_writers) == ("mnist", 255, 3)


def test_real_mnist_has_539_writers_of_19_to_131_images(mnist_root: Path):
    before = sorted(mnist_root.rglob("*"))
    data = load_dataset("mnist", root=mnist_root, download=False)
    counts = np.unique(data.writers, return_counts=True)[1]
    assert (len(counts), counts.min(), counts.max()) == (539, 19, 131)
    assert data.images.shape == (60_000, 28, 28)
    assert data.test_images.shape == (10_000, 28, 28)
    assert data.images.max() == 255
    assert data.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert data.test_labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert sorted(mnist_root.rglob("*")) == before


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_loaded_arrays_are_read_only_and_one_copy(mnist: SmallMnist, name: str):
    mnist.put_all()
    data = load_dataset(name, root=mnist.root)
    for array in (
        *(data.images, data.labels, data.writers),
        *(data.test_images, data.test_labels),
    ):
        assert not array.flags.writeable
    again = load_dataset(name, root=mnist.root / "MNIST" / "..")
    assert again is data


def test_images_are_mapped_so_that_processes_share_them(mnist: SmallMnist):
    mnist.put_all()
    data = load_dataset("mnist", root=mnist.root)
    assert isinstance(data.images.base, np.memmap)
    assert isinstance(data.test_images.base, np.memmap)


def test_another_root_is_another_copy(mnist: SmallMnist, tmp_path: Path):
    mnist.put_all()
    first = load_dataset("mnist", root=mnist.root)
    mnist.root.rename(tmp_path / "moved")
    assert load_dataset("mnist", root=tmp_path / "moved") is not first


def test_an_unknown_data_set_names_the_known_ones():
    with pytest.raises(FedNegError, match="one of mnist and digits, got cifar"):
        load_dataset("cifar")


def test_root_follows_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FEDNEG_DATA", "~/somewhere")
    monkeypatch.setenv("FEDNEG_CACHE", "/cache")
    assert default_root() == Path.home() / "somewhere"
    monkeypatch.setenv("FEDNEG_DATA", "")
    assert default_root() == Path("/cache/data")
    monkeypatch.delenv("FEDNEG_CACHE")
    assert default_root() == platformdirs.user_cache_path("fedneg") / "data"


def test_mnist_lies_under_the_default_root(
    mnist: SmallMnist, monkeypatch: pytest.MonkeyPatch
):
    mnist.put_all()
    monkeypatch.setenv("FEDNEG_DATA", str(mnist.root))
    assert load_dataset("mnist", download=False).num_writers == 3


# --- what is refused

DAMAGES = {
    "short": (lambda c: c[:-1], r"it has \d+ bytes, not \d+"),
    "long": (lambda c: c + b"x", r"it has \d+ bytes, not \d+"),
    "type": (lambda c: c[:2] + b"\x0d" + c[3:], "it starts with 00000d.*, not with"),
    "shape": (lambda c: c[:7] + b"\x01" + c[8:], "it starts with .*, not with"),
    "empty": (lambda c: b"", "it starts with nothing, not with"),
}


@pytest.mark.parametrize("name", [IMAGES, LABELS, TEST_IMAGES, TEST_LABELS, EXTENDED])
@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_file_is_an_error_and_no_reason_to_fall_back(
    mnist: SmallMnist, name: str, kind: str
):
    damage, what = DAMAGES[kind]
    mnist.put_all()
    path = mnist.put(name, damage(gzip.decompress(mnist.packed[name])))
    mnist.path(LABELS if name != LABELS else IMAGES).unlink()  # so one is missing too
    message = f"^{path} is damaged: {what}.*; delete it to have it downloaded again$"
    with pytest.raises(FedNegError, match=message) as caught:
        resolve_auto(root=mnist.root, download=False)
    assert not isinstance(caught.value, DataUnavailableError)


def test_a_packed_file_with_another_md5_is_damaged(mnist: SmallMnist):
    mnist.put_all(packed=True)
    # Byte 4 is the gzip time stamp: only the md5 can tell.
    content = bytearray(mnist.packed[EXTENDED])
    content[4] ^= 1
    path = mnist.put(EXTENDED, bytes(content), ".gz")
    with pytest.raises(
        FedNegError, match=f"^{path} is damaged: its md5 is {md5_of(content)}, not "
    ) as caught:
        resolve_auto(root=mnist.root, download=False)
    assert not isinstance(caught.value, DataUnavailableError)


def test_a_folder_in_place_of_a_file_is_named(mnist: SmallMnist):
    mnist.put_all()
    mnist.path(LABELS).unlink()
    mnist.path(LABELS).mkdir()
    with pytest.raises(FedNegError, match=f"{mnist.path(LABELS)} cannot be read: Is a"):
        load_dataset("mnist", root=mnist.root)


def test_a_root_that_cannot_be_looked_into_is_named(mnist: SmallMnist):
    too_long = mnist.root.parent / ("x" * 300)
    with pytest.raises(FedNegError, match=r"idx3-ubyte cannot be read: File name too"):
        load_dataset("mnist", root=too_long, download=False)


def test_writers_of_other_images_are_refused(mnist: SmallMnist):
    """QMNIST's class column must agree with every MNIST label."""
    mnist.put_all()
    content = bytearray(gzip.decompress(mnist.packed[LABELS]))
    content[-1] ^= 1
    mnist.put(LABELS, bytes(content))
    with pytest.raises(FedNegError, match=f"labels under {mnist.root} .* 1 of 6 class"):
        load_dataset("mnist", root=mnist.root)


def test_a_test_label_above_nine_is_refused(mnist: SmallMnist):
    mnist.put_all()
    content = gzip.decompress(mnist.packed[TEST_LABELS])[:-1] + b"\x0a"
    mnist.put(TEST_LABELS, content)
    with pytest.raises(FedNegError, match="greatest test label is 10 and must be at"):
        load_dataset("mnist", root=mnist.root)


# --- how missing files are had


def test_the_table_repeats_torchvision_s_addresses_and_checksums():
    known = vision.datasets()
    expected = {
        name: ([f"{mirror}{name}" for mirror in known.MNIST.mirrors], md5)
        for name, md5 in known.MNIST.resources
    }
    for url, md5 in known.QMNIST.resources["train"]:
        expected[url.rsplit("/", 1)[-1]] = ([url], md5)
    for file in download.FILES:
        assert (file.urls, file.md5) == expected[f"{file.name}.gz"]


def test_only_missing_files_are_downloaded(
    mnist: SmallMnist, mirror: Mirror, capsys: pytest.CaptureFixture[str]
):
    mnist.put_all()
    mnist.path(LABELS).unlink()
    mnist.path(EXTENDED).unlink()
    assert resolve_auto(root=mnist.root) == ("mnist", None)
    assert mirror.asked == [f"/bad/{LABELS}.gz", f"/q/{EXTENDED}.gz"]
    assert capsys.readouterr().err.splitlines() == [
        f"downloading {mirror.url}{path}" for path in mirror.asked
    ]
    for name in (LABELS, EXTENDED):
        path = mnist.path(name, ".gz")
        assert path.read_bytes() == mnist.packed[name]
        assert path.stat().st_mode & 0o777 == 0o644
        unpacked = gzip.decompress(mnist.packed[name])
        assert mnist.path(name).read_bytes() == unpacked
    # No temporary file stays behind; a second run finds everything.
    assert len([p for p in mnist.root.rglob("*") if p.is_file()]) == 5 + 2


def test_the_second_mirror_is_tried_when_the_first_gives_other_bytes(
    mnist: SmallMnist, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
):
    mirrors = ("http://127.0.0.1:1", f"{mirror.url}/q", f"{mirror.url}/good")
    set_mirrors(monkeypatch, {"MNIST": mirrors})
    real = mirror.files[f"{IMAGES}.gz"]
    mirror.files[f"{IMAGES}.gz"] = real[:-1]
    with pytest.raises(DataUnavailableError) as caught:
        load_dataset("mnist", root=mnist.root)
    assert mirror.asked == [f"/q/{IMAGES}.gz", f"/good/{IMAGES}.gz"]
    said = str(caught.value)
    assert f"expected md5:{md5_of(real)} but got {md5_of(real[:-1])}." in said
    assert f"http://127.0.0.1:1/{IMAGES}.gz: [Errno 111] Connection refused;" in said
    assert "\n" not in said
    assert not mnist.root.exists()
    mirror.files[f"{IMAGES}.gz"] = real
    set_mirrors(monkeypatch, {"MNIST": (mirrors[0], mirrors[2])})
    assert load_dataset("mnist", root=mnist.root).num_writers == 3


def test_no_download_means_no_request(mnist: SmallMnist, mirror: Mirror):
    mnist.put_all()
    mnist.path(LABELS).unlink()
    with pytest.raises(
        DataUnavailableError,
        match=f"^{LABELS} not under {mnist.root} and data.download=false forbids .*; "
        "set FEDNEG_DATA to a folder .* or use data=digits$",
    ):
        load_dataset("mnist", root=mnist.root, download=False)
    name, notice = resolve_auto(root=mnist.root, download=False)
    assert name == "digits"
    assert notice is not None
    assert notice.startswith(f"MNIST could not be had: {LABELS} not under")
    assert "8x8 digits are used instead; set FEDNEG_DATA" in notice
    assert mirror.asked == []


def test_without_network_the_fallback_says_why_in_one_line(
    mnist: SmallMnist, mirror: Mirror
):
    mirror.files.clear()
    name, notice = resolve_auto(root=mnist.root)
    assert name == "digits"
    assert notice is not None
    assert f"{mirror.url}/good/{IMAGES}.gz: Not Found" in notice
    assert "\n" not in notice
    # One file that cannot be had is enough to know.
    assert mirror.asked == [f"/bad/{IMAGES}.gz", f"/good/{IMAGES}.gz"]


@pytest.mark.parametrize(
    ("mode", "limit", "message"),
    [("stall", "TIMEOUT_S", "timed out"), ("drip", "DEADLINE_S", "not complete after")],
)
def test_a_mirror_that_stalls_or_drips_is_given_up(
    mnist: SmallMnist,
    mirror: Mirror,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    limit: str,
    message: str,
):
    mirror.mode = mode
    monkeypatch.setattr(download, limit, 0.2)
    # Who waited longer would have the file, or never come back.
    with pytest.raises(DataUnavailableError, match=message):
        load_dataset("mnist", root=mnist.root)
    assert mirror.asked == [f"/bad/{IMAGES}.gz", f"/good/{IMAGES}.gz"]


def test_a_root_that_cannot_be_written_is_named(
    mnist: SmallMnist, mirror: Mirror, tmp_path: Path
):
    (tmp_path / "root").write_text("a file, no folder")
    with pytest.raises(
        DataUnavailableError, match=f"{mnist.root}/.* cannot be written"
    ):
        load_dataset("mnist", root=mnist.root)


def test_a_write_that_fails_leaves_nothing_behind(mnist: SmallMnist, mirror: Mirror):
    folder = mnist.path(IMAGES).parent
    folder.mkdir(parents=True)
    # A folder in the file's place, there only when the file is renamed.
    file = replace(download.FILES[0])
    mnist.path(IMAGES, ".gz").mkdir()
    with pytest.raises(DataUnavailableError, match="downloaded but cannot be written"):
        download.fetch(file, mnist.root)
    assert [p.name for p in folder.iterdir()] == [f"{IMAGES}.gz"]


def test_a_terminal_sees_a_progress_bar(
    mnist: SmallMnist, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    load_dataset("mnist", root=mnist.root)
    assert f"{IMAGES}.gz" in terminal.getvalue()
    assert "\x1b[" in terminal.getvalue()
    assert "downloading" not in terminal.getvalue()


def test_a_name_that_nobody_knows_is_said_in_a_few_words(
    mnist: SmallMnist, monkeypatch: pytest.MonkeyPatch
):
    """What `requests` says of it is five lines long and names its objects."""

    def unknown(*_: object, **__: object) -> list[object]:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setenv("no_proxy", "*")
    set_mirrors(monkeypatch, {"MNIST": ("http://nowhere.invalid",)})
    with pytest.raises(DataUnavailableError) as caught:
        load_dataset("mnist", root=mnist.root)
    assert str(caught.value).startswith(
        f"{IMAGES}.gz is not under {mnist.root} and could not be downloaded "
        f"(http://nowhere.invalid/{IMAGES}.gz: [Errno -3] Temporary failure in name "
        "resolution); set FEDNEG_DATA"
    )


def test_a_file_that_ends_too_early_is_not_taken(mnist: SmallMnist, mirror: Mirror):
    mirror.mode = "cut"
    with pytest.raises(DataUnavailableError, match="IncompleteRead") as caught:
        load_dataset("mnist", root=mnist.root)
    assert "\n" not in str(caught.value)
    assert not mnist.root.exists()


RUN_WITHOUT_TORCHVISION = """
import sys
sys.path.insert(0, sys.argv[1])
import pytest
from builders.mnist_files import SmallMnist
from fedneg.data.datasets import load_dataset
from pathlib import Path

with pytest.MonkeyPatch.context() as patch:
    mnist = SmallMnist.made(Path.cwd(), patch)
    mnist.put_all(packed=True)
    assert load_dataset("mnist", root=mnist.root).num_writers == 3

from fedneg.__main__ import main

sys.argv = ["fedneg", "data=digits", "clients=2", "forget=1", "rounds=1",
            "retrain=remaining", "retrain_rounds=1", "attack=backdoor", "cache=false",
            "engine=inline"]
assert not main()
print(sorted(m for m in sys.modules if m.partition(".")[0] == "torchvision"))
"""


def test_a_run_imports_no_torchvision(tmp_path: Path):
    """It takes seconds, and does not load beside every build of torch."""
    done = subprocess.run(
        [sys.executable, "-c", RUN_WITHOUT_TORCHVISION, str(REPOSITORY / "tests")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
