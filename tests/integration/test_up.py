"""`fedneg up`: a federation of Flower's own programs, and how it ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from builders.programs import processes_in
from builders.waiting import PATIENCE_S, until_it_says
from fedneg.cli.application import run as run_words
from fedneg.core.errors import FedNegError
from fedneg.engines.deployed.federation import LocalFederation
from fedneg.engines.deployed.processes import marked
from fedneg.engines.releases import flower_release, speaks_grpc


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--clients", "0"], "at least 1, got '0'"),
        (["--data", "/nowhere"], "--data must be a folder, got /nowhere"),
        (["--secure"], "unknown option --secure; did you mean --insecure"),
    ],
)
def test_words_that_mean_nothing_start_nothing(
    tmp_path: Path, words: list[str], message: str
):
    with pytest.raises(FedNegError, match=message):
        run_words(["up", "--dir", str(tmp_path / "new"), *words])
    assert not (tmp_path / "new").exists()


def start_up(folder: Path, *words: str, **environment: str) -> subprocess.Popen[bytes]:
    """Start `fedneg up` with its output in a file beside the folder."""
    with folder.with_suffix(".out").open("wb") as output:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "fedneg", "up", "--dir", str(folder)),
                *("--timeout", f"{PATIENCE_S:.0f}", *words),
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
        )


@pytest.mark.nodes
@pytest.mark.slow
def test_up_reports_what_ends_and_ends_with_the_superlink(tmp_path: Path):
    """With --insecure, which says so; meanwhile the folder is taken.

    Behind proxies that nobody answers at, which are not for this machine.
    """
    folder, said = tmp_path / "fed", tmp_path / "fed.out"
    proxies = {"http_proxy": CLOSED, "HTTPS_PROXY": CLOSED, "ALL_PROXY": "socks5://x:9"}
    up = start_up(folder, "--insecure", "--clients", "1", **proxies)
    try:
        text = until_it_says(said, "Ctrl-C stops everything")
        assert "nobody is authenticated and nothing is encrypted" in text
        spoken = "gRPC" if speaks_grpc(flower_release()) else "HTTP"
        assert f"1 clients are online and speak {spoken}; logs are in" in text
        flwr = Path(sys.executable).parent / "flwr"
        before = f"  no_proxy={HERE} all_proxy='' FLWR_HOME={folder}/flwr"
        assert f"{before} {flwr} run" in text
        with pytest.raises(FedNegError, match=f"{folder} has a federation that runs"):
            LocalFederation(folder, 1).start()
        for name, reported in (("node0", "client 0 ended"), ("superlink", "error:")):
            for process in marked(f"{folder}:{name}"):
                os.kill(process, signal.SIGKILL)
            text = until_it_says(said, reported)
            assert f"{folder}/logs/{name}.log:" in text
        assert "fedneg: error: the SuperLink ended (exit code -9)" in text
        assert up.wait(PATIENCE_S) == 2
        assert processes_in(folder) == []
    finally:
        up.kill()
        up.wait()


@pytest.mark.nodes
@pytest.mark.slow
def test_sigterm_stops_up_while_it_waits(tmp_path: Path):
    folder = tmp_path / "fed"
    up = start_up(folder, "--insecure", "--clients", "1")
    try:
        until_it_says(tmp_path / "fed.out", "waiting for 1 clients to be online")
        up.terminate()
        assert up.wait(PATIENCE_S) == 0
        assert processes_in(folder) == []
        assert "stopped" in (tmp_path / "fed.out").read_text()
    finally:
        up.kill()
        up.wait()


CLOSED = "http://127.0.0.1:9"
HERE = "127.0.0.1,localhost,::1"
