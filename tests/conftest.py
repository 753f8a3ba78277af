"""What all tests run under, and the fixtures that several rooms ask for."""

import gc
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore
from hypothesis import HealthCheck, settings

from builders.checkout import REPOSITORY
from builders.federations import small_config
from builders.lives import go_on
from builders.programs import Put, Said
from fedneg import config
from fedneg.__main__ import main
from fedneg.core import named
from fedneg.core.settings import Config

# A busy machine is no failure.
settings.register_profile(
    "fedneg", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("fedneg")

# Ray's workers are polite (15), and would get next to nothing beside other tests. Every
# Ray that a test starts is told so.
os.environ.setdefault("RAY_worker_niceness", "0")

# The longest first.
LONGEST = (
    "test_real_clients.py",
    "test_examples.py",
    "test_flwr_run.py",
    "test_app_state.py",
    "test_up.py",
    "test_serve_nodes.py",
    "test_story.py",
    "test_agreement.py",
    "test_job.py",
    "test_checkpoint.py",
    "test_purge.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that none of them is left to the end.

    For `make test`, whose workers take a file at a time in this order.
    """
    order = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterable[None]:
    """Keep fedneg's cache out of the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDNEG_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def small_heap() -> Iterator[None]:
    """Let garbage be looked for in the test's own objects alone.

    Some of Flower's strategies do it for every reply.
    """
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    """Return the folder of the real MNIST files, or skip the test by name."""
    places = [os.environ.get("FEDNEG_DATA"), REPOSITORY.parent / "shared" / "data"]
    for place in places:
        if place and (Path(place) / "MNIST" / "raw").is_dir():
            return Path(place).resolve()
    pytest.skip("no MNIST: set FEDNEG_DATA to a folder that holds MNIST/raw")


@pytest.fixture
def tiny() -> Config:
    """Return a run that takes a second: digits, two rounds, one small layer."""
    return small_config()


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """Return a federation of three that was trained for two rounds."""
    go_on(tmp_path / "state")
    return tmp_path / "state"


@pytest.fixture
def flower_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> pytest.LogCaptureFixture:
    """Return the log with Flower's lines in it."""
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)
    caplog.set_level(logging.WARNING, logger="flwr")
    return caplog


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Put]:
    """Return what writes a file of a user's below `tmp_path`, to be imported by fedneg.

    Afterwards the import path, modules and what Hydra was told are as before.
    """
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(named, "_folders", [])
    monkeypatch.setattr(ConfigStore.instance(), "repo", {**ConfigStore.instance().repo})
    before = set(sys.modules)

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    yield write
    for name in set(sys.modules) - before:
        path = getattr(sys.modules[name], "__file__", None) or ""
        if path.startswith(str(tmp_path)):
            del sys.modules[name]
    config._checked_once.cache_clear()


@pytest.fixture
def fedneg(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Iterator[Callable[..., Said]]:
    """Return a function that runs the command line in this process, in a new folder.

    Hydra configures logging; the log files that it opens are closed at the end.
    """
    root, own = logging.getLogger(), logging.getLogger("fedneg")
    handlers, level = list(root.handlers), root.level
    kept = list(own.handlers), own.level, own.propagate
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # main sets it; this puts it back

    def call(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["fedneg", *arguments])
        capfd.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        out, err = capfd.readouterr()
        return Said(code, out, err)

    yield call
    for handler in {*root.handlers, *own.handlers} - {*handlers, *kept[0]}:
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    own.handlers[:], own.level, own.propagate = kept
