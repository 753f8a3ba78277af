"""What results.json says of a model, by hand."""

import io
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from builders import own_tasks
from builders.federations import RecordingGrid, small_config
from builders.networks import prototype_of
from fedneg.client_app import app as client_app
from fedneg.core.parameters import flatten
from fedneg.core.progress import Progress
from fedneg.evaluation.evidence import KeptEvidence, ModelEvidence, ServerTest
from fedneg.federation import Federation
from fedneg.tasks.calls import Metrics
from fedneg.tasks.model import set_parameters
from fedneg.tasks.prototype import Prototype
from fedneg.tasks.task import ClientRef


def evidence(loss: float = 0.5) -> ModelEvidence:
    """Return a model on three clients of 1, 3 and 4 examples; client 3 is silent."""
    clients = {
        k: {
            "num_train": n,
            "train_accuracy": accuracy,
            "trained_accuracy": 0.0,
            "train_loss": 1.0,
            "test_accuracy": 0.1 * k,
        }
        for k, n, accuracy in ((0, 1, 1.0), (1, 3, 0.0), (2, 4, 0.5))
    }
    return ModelEvidence("original", Metrics(0.9, loss, 100), None, clients)


def test_accuracy_over_clients_counts_examples_by_hand():
    """(1 * 1 + 3 * 0) / 4 = 1/4; (1 * 1 + 4 * 0.5) / 5 = 3/5."""
    assert evidence().pooled([0, 1], "train_accuracy") == 0.25
    assert evidence().pooled([0, 2], "train_accuracy") == 0.6


def test_silent_clients_have_no_value():
    assert evidence().pooled([3], "train_accuracy") is None
    assert evidence().pooled([], "train_accuracy") is None
    assert evidence().pooled([0, 1, 3], "train_accuracy") == 0.25
    summary = evidence().summary(forget=[3], clients=4)
    assert summary["forget_accuracy"] is None
    assert summary["client_test_accuracy"] == [0.0, 0.1, 0.2, None]


def test_summary_splits_forget_from_retain_by_hand():
    """Forget client 1: nothing right; retain 0 and 2: 3/5."""
    summary = evidence().summary(forget=[1], clients=3)
    assert (summary["forget_accuracy"], summary["retain_accuracy"]) == (0.0, 0.6)


def test_a_model_that_diverged_has_no_loss():
    assert evidence(math.nan).summary(forget=[1], clients=3)["test_loss"] is None


def test_the_server_measures_what_it_is_given(monkeypatch: pytest.MonkeyPatch):
    """The latest model is remembered, not the latest array."""
    config = small_config()
    prototype = prototype_of(config)
    test = ServerTest(prototype, config.attack)
    model = flatten(prototype.initial(seed=0))
    first = test.measure(model)
    assert test.measure(model.copy()) is first
    model *= -1
    assert test.measure(model) != first


def test_a_task_without_probe_is_attacked_by_its_poison_whole():
    """Whatever the fraction: success is the quality on all that the server holds."""
    shifted = replace(
        own_tasks.dense,
        poison=lambda data, attack, draws: own_tasks.Pairs(
            data.x,
            torch.where(
                torch.arange(len(data)) < round(attack.fraction * len(data)),
                (data.y + 1) % 3,
                data.y,
            ),
        ),
    )
    prototype = Prototype(shifted)
    attack = small_config("attack=label_flip", "attack.fraction=0.1").attack
    test = ServerTest(prototype, attack)
    arrays = prototype.initial(seed=0)
    model = prototype.build()
    set_parameters(model, arrays)
    held = own_tasks.dense.test()
    right = model(held.x).argmax(1) == (held.y + 1) % 3
    assert test.attack_success_rate(flatten(arrays)) == pytest.approx(
        float(right.float().mean())
    )
    assert test.attack_base(flatten(arrays)) is None


def test_several_data_count_by_their_sizes():
    """As where the server holds nothing, and clients' own are measured on."""
    prototype = Prototype(own_tasks.dense)
    few, many = (own_tasks.dense.data(ClientRef(k, 9)).train for k in (0, 8))
    arrays = flatten(prototype.initial(seed=1))
    attack = small_config().attack
    one, other, both = (
        ServerTest(prototype, attack, parts=parts).measure(arrays)
        for parts in ([few], [many], [few, many])
    )
    a, b = len(few), len(many)
    assert (a, b) == (30, 38)
    assert both.num_examples == 68
    expected = (a * one.accuracy + b * other.accuracy) / 68
    assert both.accuracy == pytest.approx(expected)
    assert both.loss == pytest.approx((a * one.loss + b * other.loss) / 68)


# -- evidence that is kept ------------------------------------------------------------

MODEL = np.arange(5, dtype=np.float32)


def kept(folder: Path, model: np.ndarray = MODEL, **attack: object) -> KeptEvidence:
    """Return where the evidence of a made-up model lies."""
    settings = replace(small_config("attack=backdoor").attack, **attack)
    return KeptEvidence(folder, model, settings)


def test_evidence_comes_back_under_another_name(tmp_path: Path):
    assert kept(tmp_path).read("original") is None
    kept(tmp_path).write(evidence())
    found = kept(tmp_path).read("retrained")
    assert found == replace(evidence(), name="retrained")


@pytest.mark.parametrize(
    "attack", [{"fraction": 0.4}, {"target": 1}, {"clients": (1,)}, {"name": "none"}]
)
def test_evidence_under_another_attack_is_other_evidence(
    tmp_path: Path, attack: dict[str, object]
):
    kept(tmp_path).write(evidence())
    assert kept(tmp_path, **attack).read("original") is None
    assert kept(tmp_path, MODEL + 1).read("original") is None


def test_damaged_evidence_is_measured_again(tmp_path: Path):
    kept(tmp_path).write(evidence())
    (path,) = tmp_path.iterdir()
    text = path.read_text()
    for damaged in ("", text[:-9], text.replace("0.9", "0.8"), "x", "\n{"):
        path.write_text(damaged)
        assert kept(tmp_path).read("original") is None
    path.write_bytes(b"\xff\xfe")
    assert kept(tmp_path).read("original") is None


def test_evidence_that_cannot_be_written_is_no_error(tmp_path: Path):
    """It is measured again, and what stands in the way stays as it was."""
    (tmp_path / "file").write_text("in the way")
    kept(tmp_path / "file").write(evidence())
    assert kept(tmp_path / "file").read("original") is None
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_trained_model_is_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Of the clients too; a model that nobody trained is measured every time."""
    monkeypatch.setenv("FEDNEG_CACHE", str(tmp_path))
    config = small_config("clients=3", "forget=1", "cache=true")
    asked: list[int] = []
    found = []
    for _ in range(2):
        grid = RecordingGrid(client_app, 3)
        federation = Federation(
            grid, config, Progress("", 0, Console(file=io.StringIO()))
        )
        original = federation.train()
        found.append(federation.evaluate("original", original))
        unlearned = federation.unlearn(original, (1,))
        federation.evaluate("unlearned", unlearned)
        asked.append(len(grid.asked("evaluate")))
    assert found[0] == found[1]
    assert asked == [6, 3]
