"""A browser, for the tests that look at pages; a Ray and `flwr`, for those that run."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from builders.checkout import REPOSITORY
from builders.programs import Flwr
from builders.waiting import PATIENCE_S, no_longer_than_patience, until
from fedneg.engines.deployed.processes import free_ports

if TYPE_CHECKING:
    from playwright.sync_api import Browser


ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """Yield headless Chromium, or skip and say what is missing."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.skip("playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"no browser on PATH: looked for {', '.join(names)}")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=found, args=ARGUMENTS, timeout=PATIENCE_S * 1000
        )
        for name in ("new_page", "new_context"):
            setattr(chromium, name, _patient(getattr(chromium, name)))
        yield chromium
        chromium.close()


def _patient(make: Callable[..., Any]) -> Callable[..., Any]:
    """Return what makes pages that wait longer than Playwright's half minute."""

    def made(**options: Any) -> Any:
        view = make(**options)
        view.set_default_timeout(PATIENCE_S * 1000)
        return view

    return made


def processes_of(home: Path) -> list[int]:
    """Return the process ids whose command line or environment names this FLWR_HOME.

    The folder is a temporary one of this test, so nobody else's process can match.
    """
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            said = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue
        if str(home).encode() in said:
            found.append(int(entry.name))
    return found


def stop_all_of(home: Path) -> None:
    """End what this test has started: politely, then, after 10 s, for good."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in processes_of(home):
            try:
                os.kill(process, number)
            except ProcessLookupError:
                continue
        deadline = time.monotonic() + 10
        while processes_of(home) and time.monotonic() < deadline:
            time.sleep(0.2)
    until("the SuperLink's processes to end", lambda: not processes_of(home))


RAY = """
import logging, sys
import ray
ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def one_ray() -> Iterator[None]:
    """Keep a Ray for all runs: to start it takes a third of a small one."""
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    process = subprocess.Popen(
        [sys.executable, "-c", RAY],
        env=os.environ | quiet,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        with no_longer_than_patience(process):
            address = process.stdout.readline().strip()
        assert address, "Ray did not start"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_ADDRESS", address)
            yield
    finally:
        process.communicate(timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def flwr(one_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flwr]:
    """Return the `flwr` command with a SuperLink of its own, stopped at the end."""
    home = tmp_path_factory.mktemp("flwr-home")
    http, control = free_ports(2)
    bin_folder = Path(sys.executable).parent
    environment = os.environ | {
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "FLWR_HOME": str(home),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(http),
        "FLWR_LOCAL_CONTROL_API_PORT": str(control),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        # As if what lies there were installed.
        "PYTHONPATH": str(REPOSITORY / "examples"),
    }

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        for _ in range(10):
            done = once(*arguments)
            # It is given 15 s, too few on a busy machine, and starts all the same.
            if "Failed to start local SuperLink" not in done.stdout + done.stderr:
                break
            time.sleep(5)
        return done

    def once(*arguments: str) -> subprocess.CompletedProcess[str]:
        # To files: the SuperLink that this starts would hold a pipe open for ever.
        with (home / "out").open("w+") as out, (home / "err").open("w+") as err:
            done = subprocess.run(
                [str(bin_folder / "flwr"), *arguments],
                cwd=REPOSITORY,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                timeout=PATIENCE_S,
                check=False,
            )
        texts = ((home / name).read_text() for name in ("out", "err"))
        return subprocess.CompletedProcess(done.args, done.returncode, *texts)

    try:
        yield call
    finally:
        stop_all_of(home)
