"""Questions that a client did not answer: said in files, console and report."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from builders.federations import RecordingGrid, small_config
from fedneg.client_app import app as real_clients
from fedneg.clients.answering import AnsweringClient
from fedneg.clients.trainer import TrainingClient
from fedneg.core.errors import FedNegError
from fedneg.core.unanswered import Unanswered, notices_of
from fedneg.server_app import run

OPTIONS = ("clients=3", "rounds=1", "forget=1", "reference=true", "retrain=none")
WHY = "the <b>disk</b> is [/red] gone"


def broken(client_id: int, name: str, patch: pytest.MonkeyPatch, cls: type) -> None:
    """Let a client fail whenever it is asked one kind of question."""
    whole = getattr(cls, name)

    def asked(self: Any, *arguments: Any, **settings: Any) -> Any:
        if self.client_id == client_id:
            raise FedNegError(WHY)
        return whole(self, *arguments, **settings)

    patch.setattr(cls, name, asked)


def test_who_does_not_evaluate_is_named_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Client 2 measures no model: three of them are asked about."""
    broken(2, "evaluate", monkeypatch, TrainingClient)
    run(RecordingGrid(real_clients, 3), small_config(*OPTIONS), tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    models = ("original", "unlearned", "retrained")
    expected = [(2, "evaluate", f"the {name} model: error: {WHY}") for name in models]
    failures = results["failures"]
    assert [(f["client_id"], f["phase"], f["reason"]) for f in failures] == expected
    assert [f["server_round"] for f in failures] == [1, 2, 1]
    assert results["notices"] == [
        f"no answer when asked to evaluate the {name} model: client 2 (error: {WHY})"
        for name in models
    ]
    assert results["models"]["original"]["client_test_accuracy"][2] is None
    table = pd.read_csv(tmp_path / "clients.csv")
    assert table["client_id"].tolist() == [0, 1, 2] * 3
    missing = table[table["client_id"] == 2].drop(
        columns=["model", "client_id", "role"]
    )
    assert missing.isna().all(axis=None)
    lines = (tmp_path / "clients.csv").read_text().splitlines()
    assert lines[3] == "original,2,retain" + "," * 11
    assert lines[1].startswith("original,0,retain,4,420,42,42,0.")  # counts are whole
    said = capsys.readouterr().err
    assert f"client 2 did not evaluate (the original model): error: {WHY}" in said
    assert "no answer when asked to evaluate the original" in said
    page = (tmp_path / "report.html").read_text()
    assert "the &lt;b&gt;disk&lt;/b&gt; is [/red] gone" in page
    assert "<b>disk</b>" not in page
    assert "&lt;NA&gt;" not in page


def test_who_does_not_answer_is_named_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    broken(1, "answer", monkeypatch, AnsweringClient)
    config = small_config(*OPTIONS, "report=false", "verdict.retrainings=1")
    run(RecordingGrid(real_clients, 3), config, tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    about = ("the original", "the unlearned", "the retrained")
    assert [(f["phase"], f["client_id"]) for f in results["failures"]] == [
        ("testify", 1)
    ] * 4
    assert [n.partition(":")[0] for n in results["notices"]] == [
        f"no answer when asked to say what it knows of {model}"
        for model in (
            *(f"{name} model" for name in about),
            "a model retrained with another seed",
        )
    ]


def test_a_notice_names_the_first_and_counts_the_rest():
    found = [Unanswered("evaluate", "it", 3, k, "no reply") for k in range(9)]
    (line,) = notices_of(found)
    assert line.startswith("no answer when asked to evaluate it: client 0 (no reply), ")
    assert line.endswith("client 4 (no reply), and 4 more")
    assert notices_of([]) == []
