"""`fedneg up`: a federation of Flower's own programs, and how it ends."""

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from builders.checkout import REPOSITORY
from builders.lives import receipt_of
from builders.programs import Put, processes_in, processes_left_in
from builders.releases import on_the_newest
from builders.waiting import PATIENCE_S, until_it_says
from fedneg.cli.application import run as run_words
from fedneg.core.errors import FedNegError
from fedneg.engines.deployed.federation import LocalFederation
from fedneg.engines.deployed.processes import marked
from fedneg.engines.releases import flower_release, speaks_grpc
from fedneg.records.state import State


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--clients", "0"], "at least 1, got '0'"),
        (["--data", "/nowhere"], "--data must be a folder, got /nowhere"),
        (["--secure"], "unknown option --secure; did you mean --insecure"),
        (["--task", "mine"], "task must be of the form module:name, got 'mine'"),
        (["--task", "zzmine:tusk"], "has no tusk; did you mean task?"),
        (
            ["--task", "builders.own_tasks:bare"],
            "the server of real clients needs a task with test, and task bare has none",
        ),
    ],
)
def test_words_that_mean_nothing_start_nothing(
    tmp_path: Path,
    put: Put,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
):
    put("zzmine.py", "task = None\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FedNegError, match=message):
        run_words(["up", "--dir", str(tmp_path / "new"), *words])
    assert not (tmp_path / "new").exists()


def start_up(folder: Path, *words: str, **environment: str) -> subprocess.Popen[bytes]:
    """Start `fedneg up` beside its folder, with its output in a file there."""
    with folder.with_suffix(".out").open("wb") as output:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "fedneg", "up", "--dir", str(folder)),
                *("--timeout", f"{PATIENCE_S:.0f}", *words),
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder.parent,
            env=os.environ | environment,
        )


# What is trained: 32x32 colour in 5 classes, from a file that the node config names.
PHOTOS = """
import numpy as np, torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from fedneg import Split, Task

def photos(place):
    with np.load(place) as found:
        images, labels = torch.tensor(found["images"]), torch.tensor(found["labels"])
    return TensorDataset(images.permute(0, 3, 1, 2) / 255, labels)

def data(client):
    found = photos(client.node_config["photos"])
    return Split(*(TensorDataset(*found[k::2]) for k in (0, 1)))

def loss(model, data):
    return cross_entropy(model(data.tensors[0]), data.tensors[1], reduction="none")

def train(model, data, order):
    optimiser = torch.optim.SGD(model.parameters(), lr=order.learning_rate)
    for _ in range(order.epochs):
        for batch in DataLoader(data, order.batch_size, shuffle=True):
            optimiser.zero_grad()
            loss(model, TensorDataset(*batch)).mean().backward()
            optimiser.step()
    return {}

task = Task(
    name="photos",
    model=lambda: nn.Sequential(
        nn.Conv2d(3, 4, 8, stride=8), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 5)
    ),
    data=data, train=train, loss=loss, test=lambda: photos("TESTS"),
    quality=lambda model, data: (
        (model(data.tensors[0]).argmax(1) == data.tensors[1]).float().mean()
    ),
)
"""


def write_photos(place: Path, seed: int, count: int) -> None:
    """Write noisy pictures; each class has a colour of its own."""
    draws = np.random.default_rng(seed)
    colours = np.random.default_rng(0).integers(50, 200, (5, 1, 1, 3))
    labels = draws.integers(0, 5, count)
    images = colours[labels] + draws.integers(-40, 40, (count, 32, 32, 3))
    np.savez(place, images=images.astype(np.uint8), labels=labels)


@dataclass(frozen=True)
class Up:
    """`fedneg up` in a process of its own, and the file of what it says."""

    process: subprocess.Popen[bytes]
    folder: Path
    said: Path

    def run(self, more: str) -> str:
        """Type the line that it printed, with more overrides; return what came."""
        (line,) = [
            line for line in self.said.read_text().splitlines() if " run " in line
        ]
        assert line.count("task=zzphotos:task clients=2") == 1
        done = subprocess.run(
            line.replace(" rounds=2 ", " rounds=1 ").replace(
                "clients=2", f"clients=2 {more}"
            ),
            shell=True,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
            env=os.environ | PROXIES,
        )
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Start two clients with photos of their own; the task lies where one types.

    Without authentication, and behind proxies that nobody answers at, which are not
    for this machine. All tests below share it, in their order.
    """
    place = tmp_path_factory.mktemp("up")
    for name, seed, count in (("photos0", 1, 40), ("photos1", 2, 60), ("test", 3, 30)):
        write_photos(place / f"{name}.npz", seed, count)
    text = PHOTOS.replace("TESTS", f"{place}/test.npz")
    (place / "zzphotos.py").write_text(text)
    words = ("--insecure", "--clients", "2", "--task", "zzphotos:task")
    config = f'photos="{place}/photos{{id}}.npz"'
    folder = place / "fed"
    process = start_up(folder, *words, "--node-config", config, **PROXIES)
    try:
        until_it_says(folder.with_suffix(".out"), "Ctrl-C stops everything")
        yield Up(process, folder, folder.with_suffix(".out"))
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
    assert processes_left_in(folder) == []


@pytest.mark.nodes
@pytest.mark.slow
def test_up_says_what_is_there_and_how_to_start_a_run(up: Up):
    """With --insecure, which says so; the folder is taken."""
    text = up.said.read_text()
    assert "nobody is authenticated and nothing is encrypted" in text
    spoken = "gRPC" if speaks_grpc(flower_release()) else "HTTP"
    assert f"2 clients are online and speak {spoken}; logs are in" in text
    flwr = Path(sys.executable).parent / "flwr"
    before = f"  no_proxy={HERE} all_proxy='' FLWR_HOME={up.folder}/flwr"
    assert f"{before} {flwr} run" in text
    with pytest.raises(FedNegError, match=f"{up.folder} has a federation that runs"):
        LocalFederation(up.folder, 1).start()


@on_the_newest
@pytest.mark.nodes
@pytest.mark.slow
def test_a_task_of_ones_own_is_trained_and_forgets_with_a_receipt(
    up: Up, monkeypatch: pytest.MonkeyPatch
):
    """The line that was printed, then a request that starts the run that does it."""
    state = State(up.folder / "state")
    said = up.run(f"client.local_epochs=1 client.learning_rate=0.1 {REPAIR}")
    assert state.history.is_file(), said
    monkeypatch.setenv("FLWR_HOME", str(up.folder / "flwr"))
    words = ["--state", str(state.folder), "--app", str(REPOSITORY)]
    run_words(["request", "forget", "1", *words, "--now", "federation"])
    receipt = receipt_of(state.folder, 1)
    assert receipt["purged"]["matches"] == 0
    assert receipt["done"]["recovery_rounds"] == [
        {"server_round": 3, "clients": 1, "failures": 0}
    ]
    with state.history.open() as file:
        rounds = [(row["phase"], row["clients"]) for row in csv.DictReader(file)]
    assert rounds[-1] == ("recover", "1")
    assert ("train", "2") in rounds
    run_words(["audit", "--state", str(state.folder)])


@pytest.mark.nodes
@pytest.mark.slow
def test_up_reports_what_ends_and_ends_with_the_superlink(up: Up):
    for name, reported in (("node0", "client 0 ended"), ("superlink", "error:")):
        for process in marked(f"{up.folder}:{name}"):
            os.kill(process, signal.SIGKILL)
        text = until_it_says(up.said, reported)
        assert f"{up.folder}/logs/{name}.log:" in text
    assert "fedneg: error: the SuperLink ended (exit code -9)" in text
    assert up.process.wait(PATIENCE_S) == 2
    assert processes_in(up.folder) == []


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


REPAIR = "retrain=remaining retrain_rounds=1 reference=false"
CLOSED = "http://127.0.0.1:9"
PROXIES = {"http_proxy": CLOSED, "HTTPS_PROXY": CLOSED, "ALL_PROXY": "socks5://x:9"}
HERE = "127.0.0.1,localhost,::1"
