"""`fedneg check-data`: what an operator is told about a client's data."""

import sys
from pathlib import Path

import numpy as np
import pytest

from builders.programs import Put
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
        ([], "fedneg check-data: needs PATH or --task module:name"),
        (["mine.npz", "--clients=3"], "--clients is for --task, got 3"),
        (["mine.npz", "--task=a:b"], "a path is not for --task, got 'mine.npz'"),
        (["--task=a"], "--task must be of the form module:name, got 'a'"),
        (["--task=a:b", "--clients=3"], "--client-id is required with --task"),
        (["--task=a:b", "--client-id=0"], "--clients is required with --task"),
        (
            ["--task=a:b", "--client-id=3", "--clients=3"],
            "--client-id must be 0 to 2, with --clients 3, got 3",
        ),
        (
            ["--task=a:b", "--client-id=1", "--node-config=client-id=2"],
            "--client-id must be that of --node-config, got 1 and 2",
        ),
        (["--task=a:b", "--node-config=client-id 2"], "be key=value, got 'client-id'"),
        (["--task=a:b", "--node-config=data=/srv"], "texts in quotes, as in 'site=3"),
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


# -- a task of somebody's own ----------------------------------------------------------

# Reads what a node has, as real clients do: 32x32 colour in bytes from a file.
PHOTOS = """
import numpy as np, torch
from torch import nn
from torch.nn.functional import cross_entropy
from fedneg import Split, Task
calls = []

def data(client):
    calls.append(client)
    with np.load(client.node_config["photos"]) as found:
        images, labels = (torch.tensor(found[name]) for name in ("images", "labels"))
    half = len(images) // 2
    return Split([*zip(images[:half], labels[:half])], images[half:])

def pairs(data):
    if not isinstance(data, torch.Tensor):
        data = torch.stack([image for image, _ in data])
    return data.float() / 255, (data[:, 0, 0, 0] > 99).long()

def loss(model, data):
    images, labels = pairs(data)
    return cross_entropy(model(images), labels, reduction="none")

task = Task(
    name="photos", model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 2)),
    data=data, train=lambda model, data, order: {}, loss=loss,
)
"""
# A text for an example, and its own part to test on.
WORDS = """
from dataclasses import replace
import numpy as np
from torch import nn
from fedneg import Split, Task
from fedneg.tasks.task import Extras

def losses(model, data):
    return np.array([len(text) / 10 for text in data])

def task_of(data=lambda client: Split(["a b", "c"], ["d"], ["e", "f", "gh"]), **more):
    return Task(
        "words", more.get("model", lambda: nn.Linear(2, 1)), data,
        lambda model, data, order: {}, more.get("losses", losses),
        test=lambda: ["h"],
    )

task = task_of()
nan = task_of(losses=lambda model, data: np.full(len(data), np.nan))
short = task_of(losses=lambda model, data: losses(model, data)[:-1])
below = task_of(losses=lambda model, data: -losses(model, data))
draws = task_of(losses=lambda model, data: np.random.rand(len(data)))
no_file = task_of(lambda client: Split(open("/nowhere/x").readlines(), []))
def few(model, data):
    assert 0 < len(data) <= 256
    return losses(model, data)

few = replace(
    task_of(lambda client: Split(["ab"] * 300, []), losses=few),
    extras=Extras(take=lambda data, places: [data[k] for k in places]),
)
nothing = task_of(lambda client: Split([], ["a"]))
stuck = task_of(model=lambda: nn.Linear(2, 1).requires_grad_(False))
many = iter(range(100))
grows = task_of(lambda client: Split(["a" * (1 + next(many))], ["b"]))
unsized = task_of(lambda client: Split(["a"], iter("b")))
"""
CLIENT = ("--client-id", "1", "--clients", "2")


def test_a_task_is_called_as_a_client_will_call_it(
    put: Put,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """Its module lies in the folder of the command; 12 photos lie where the node says.

    3072 x 2 weights and 2 biases are 6146 numbers of 4 bytes, 24.0 KiB.
    """
    put("zzphotos.py", PHOTOS)
    draws = np.random.default_rng(0)
    images = draws.integers(0, 256, (12, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "my photos.npz", images=images, labels=np.arange(12) % 2)
    monkeypatch.chdir(tmp_path)
    place = f'photos="{tmp_path}/my photos.npz" client-id=4'
    words = ("--task", "zzphotos:task", "--clients", "5", "--node-config", place)
    assert check(monkeypatch, *words) == 0
    *first, mean, warning, last = capsys.readouterr().out.splitlines()
    assert first == [
        "good: task photos, client 4 of 5",
        "train: 6 examples, list of tuple of uint8 (32, 32, 3), int64 ()",
        "unseen: 6 examples, uint8 (6, 32, 32, 3)",
        "test: as unseen",
        "model: 6146 numbers in 2 arrays, 24.0 KiB to send",
    ]
    assert mean.startswith("mean loss before any training: 0.")
    assert "no test, which real clients' server needs" in warning
    assert last == f'node config: client-id=4 photos="{tmp_path}/my photos.npz"'
    for client in sys.modules["zzphotos"].calls:
        assert (client.client_id, client.clients) == (4, 5)
        assert client.node_config["client-id"] == 4


def test_texts_are_data_too(
    put: Put,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """Losses are a tenth of a text's length: (3 + 1) / 20, 1 / 10, (1 + 1 + 2) / 30."""
    put("zzwords.py", WORDS)
    monkeypatch.chdir(tmp_path)
    assert check(monkeypatch, "--task", "zzwords:task", *CLIENT) == 0
    assert capsys.readouterr().out.splitlines() == [
        "good: task words, client 1 of 2",
        "train: 2 examples, list of str",
        "unseen: 1 example, list of str",
        "test: 3 examples, list of str",
        "model: 3 numbers in 2 arrays, 12 B to send",
        "mean loss before any training: 0.2 of train, 0.1 of unseen, 0.1333 of test",
        "node config: client-id=1",
    ]


def test_losses_are_asked_of_few_examples_where_a_task_can_take_them(
    put: Put,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """256 of 300, and never of none."""
    put("zzwords.py", WORDS)
    monkeypatch.chdir(tmp_path)
    assert check(monkeypatch, "--task", "zzwords:few", *CLIENT) == 0
    said = capsys.readouterr().out.splitlines()
    assert "train: 300 examples, list of str" in said
    assert "mean loss before any training: 0.2 of train" in said
    assert "warning: nothing unseen, so membership is not judged" in said


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("nan", "losses: must be finite before any training, got nan at place 0 of tr"),
        ("short", "losses: must return one number per example, shape (2,), got shape"),
        ("below", "losses: must be at least 0, got -0.3 at place 0"),
        ("draws", "losses: must answer the same when asked twice, and does not"),
        (
            "no_file",
            "data: FileNotFoundError: [Errno 2] No such file or directory: '/n",
        ),
        ("nothing", "data: client 1 has nothing to train on"),
        ("stuck", "model: the model has no parameter that is trained"),
        ("grows", "data: must give the same each time, and train is another"),
        ("unsized", "data: unseen must have a length, got str_"),
    ],
)
def test_what_is_wrong_with_a_task_is_a_line_with_its_function(
    put: Put,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    part: str,
):
    put("zzwords.py", WORDS)
    monkeypatch.chdir(tmp_path)
    assert check(monkeypatch, "--task", f"zzwords:{name}", *CLIENT) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("fedneg: error: task words, ")
    assert part in line


def test_a_task_that_is_not_there_is_said(
    put: Put,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    put("zzwords.py", WORDS)
    monkeypatch.chdir(tmp_path)
    assert check(monkeypatch, "--task", "zzwords:tesk", *CLIENT) == 2
    assert "has no tesk; did you mean task" in capsys.readouterr().err
