"""`fedneg judge`: what is said of anybody's model files, and which are refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_tensors

from builders.federations import SMALL, small_config
from fedneg.cli.application import run as run_words
from fedneg.core.errors import FedNegError
from fedneg.engines.simulate import simulate
from fedneg.server_app import run
from fedneg.strategies.base import LedgerFedAvg
from fedneg.strategies.phases import Phase

WORDS = (
    *SMALL,
    *("clients=3", "forget=1", "rounds=6", "client.local_epochs=5", "cache=true"),
    *("attack=backdoor", "attack.fraction=0.5", "verdict.retrainings=null"),
)


@pytest.fixture(scope="module", autouse=True)
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the folder of a run, whose trainings are kept."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDNEG_CACHE", str(folder / "cache"))
        config = small_config(*WORDS, "reference=false", "report=false")
        simulate(
            lambda grid, _: run(grid, config, folder),
            clients=config.clients,
            engine=config.engine,
        )
        yield folder


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[Phase]:
    """Return the phases that are trained."""
    found: list[Phase] = []
    real = LedgerFedAvg.run_phase

    def run_phase(self: Any, grid: Any, phase: Phase, *rest: Any, **more: Any) -> Any:
        found.append(phase)
        return real(self, grid, phase, *rest, **more)

    monkeypatch.setattr(LedgerFedAvg, "run_phase", run_phase)
    return found


def test_a_sentence_a_model_and_all_that_was_found(
    runs: Path, tmp_path: Path, begun: list[Phase], capsys: pytest.CaptureFixture[str]
):
    """Models are named as their files are; references are trained once."""
    original = str(runs / "model_original.safetensors")
    unlearned = str(runs / "model_unlearned.safetensors")
    out = tmp_path / "found.json"
    run_words(["judge", "--models", original, unlearned, *WORDS, "--out", str(out)])
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(out.read_text())
    assert lines[-1] == f"findings: {out}"
    for line, name in zip(lines[-3:-1], (original, unlearned), strict=True):
        assert line == f"{name}: {found['models'][name]['said']}"
    assert found["models"][original]["finding"] == "traces left"
    assert found["models"][original]["marker"]["judged"]["hits"] > 0
    assert (found["forget"], found["rounds_after"], found["retrainings"]) == ([1], 0, 4)
    assert [p.first_stream // 10**6 for p in begun] == [1, 2, 3, 501]
    begun.clear()
    run_words(["judge", unlearned, *WORDS, "--out", str(out)])
    assert begun == []
    assert json.loads(out.read_text())["models"] == {
        unlearned: found["models"][unlearned]
    }


def test_references_have_the_rounds_that_the_models_had(
    runs: Path, tmp_path: Path, begun: list[Phase]
):
    out = tmp_path / "found.json"
    model = str(runs / "model_unlearned.safetensors")
    run_words(["judge", model, *WORDS, "--rounds-after", "2", "--out", str(out)])
    assert json.loads(out.read_text())["rounds_after"] == 2
    further = [p for p in begun if p.first_round == 7]
    without, with_client = (2, (0, 2)), (2, (0, 1, 2))
    assert [(p.rounds, p.clients) for p in further] == [*[without] * 3, with_client]


def test_too_few_references_are_told(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    model = str(runs / "model_unlearned.safetensors")
    out = tmp_path / "found.json"
    words = [model, *WORDS[:-1], "verdict.retrainings=3", "--out", str(out)]
    run_words(["judge", *words])
    said = " ".join(capsys.readouterr().err.split())
    assert "takes at least 4 retrainings, got verdict.retrainings=3" in said
    assert json.loads(out.read_text())["models"][model]["influence"] == {"1": None}


def test_any_type_of_floats_and_arrays_beside_the_models_are_taken(
    runs: Path, tmp_path: Path
):
    model = load_file(runs / "model_unlearned.safetensors")
    other = tmp_path / "other.safetensors"
    tensors = {k: torch.from_numpy(v).to(torch.float64) for k, v in model.items()}
    save_tensors({**tensors, "of_mine": torch.zeros(3)}, other)
    out = tmp_path / "found.json"
    run_words(
        [
            *("judge", str(other), str(runs / "model_unlearned.safetensors")),
            *(*WORDS, "--out", str(out)),
        ]
    )
    one, same = json.loads(out.read_text())["models"].values()
    assert one == same


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("missing", r"cannot be read: No such file or directory"),
        ("text", "is no safetensors file: "),
        ("lacks", "is no model of task digits: it lacks 0.weight"),
        ("shape", r"0.weight must have shape \(16, 64\), got \(2, 64\)"),
        ("nan", "is no model of task digits: 0.weight has values that are not finite"),
        ("wide", "0.weight has values that are not finite"),
    ],
)
def test_what_is_no_model_of_the_task_is_refused_before_anything_is_trained(
    runs: Path, tmp_path: Path, begun: list[Phase], what: str, error: str
):
    path = tmp_path / "bad.safetensors"
    model = load_file(runs / "model_original.safetensors")
    if what == "text":
        path.write_text("a model")
    elif what == "lacks":
        save_file({k: v for k, v in model.items() if k != "0.weight"}, path)
    elif what == "shape":
        save_file({**model, "0.weight": np.zeros((2, 64), np.float32)}, path)
    elif what == "nan":
        model["0.weight"][3, 5] = np.nan
        save_file(model, path)
    elif what == "wide":  # beyond what a float32 holds
        save_file({**model, "0.weight": np.full((16, 64), 1e60)}, path)
    with pytest.raises(FedNegError, match=error) as caught:
        run_words(["judge", str(path), *WORDS])
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert begun == []


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ((), "needs a model, "),
        (("clients=3",), "needs a model, "),
        (("model.bin", "clients=3"), "takes models, .* got 'model.bin'"),
        (
            ("a.safetensors", "data=digits", "forget=null"),
            r"needs forget .* got forget=\[\]",
        ),
        (("a.safetensors", "--rounds-after", "-1"), "rounds-after"),
        (
            ("a.safetensors", "--task", "mine:task", "task=digits"),
            "takes one task, got --task mine:task and task=",
        ),
        (("a.safetensors", "--task", "nowhere:task", "forget=1"), "nowhere"),
        (
            ("a.safetensors", "data=digits", "forget=1", "reference=false"),
            "neither reference=false nor verdict.later, got reference=false",
        ),
        (
            ("a.safetensors", "data=digits", "forget=1", "verdict.later=[0,2]"),
            r"got reference=true and verdict.later=\[0, 2\]",
        ),
        (
            ("a.safetensors", "data=digits", "forget=1", "retrain=remaining"),
            "--rounds-after .* takes no retrain=remaining",
        ),
    ],
)
def test_words_that_make_no_question_are_refused(words: tuple[str, ...], error: str):
    with pytest.raises(FedNegError, match=error):
        run_words(["judge", *words])
