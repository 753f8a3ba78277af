"""One whole run, in this process: models, phases, files and numbers."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from flwr.app import Context, RecordDict
from safetensors.numpy import load_file

from builders.federations import RecordingGrid, small_config
from fedneg.client_app import app as real_clients
from fedneg.clients.trainer import TrainingClient
from fedneg.core.errors import FedNegError
from fedneg.core.settings import Config
from fedneg.data.attacks import attack_probe
from fedneg.data.datasets import load_dataset
from fedneg.data.kinds import DIGITS
from fedneg.data.partition import partition_by_writer
from fedneg.engines.simulate import simulate
from fedneg.evaluation.judgement import Judgement
from fedneg.server_app import app, run

MODELS = ("original", "unlearned", "recovered", "retrained")


@dataclass(frozen=True)
class Done:
    """What a run left behind."""

    config: Config
    out: Path
    results: dict[str, Any]
    history: pd.DataFrame
    clients: pd.DataFrame

    def model(self, name: str) -> bytes:
        """Return the bytes of a model file."""
        return (self.out / f"model_{name}.safetensors").read_bytes()

    @property
    def phases(self) -> list[tuple[str, int]]:
        """Return (phase, round) of every row of the history."""
        table = self.history[["phase", "server_round"]]
        return [(str(p), int(r)) for p, r in table.itertuples(index=False)]


def do(out: Path, *overrides: str) -> Done:
    """Do a run inline and read what it wrote."""
    config = small_config("clients=3", *overrides)
    simulate(
        lambda grid, context: run(grid, config, out),
        clients=config.clients,
        engine=config.engine,
    )
    return Done(
        config,
        out,
        json.loads((out / "results.json").read_text()),
        pd.read_csv(out / "history.csv"),
        pd.read_csv(out / "clients.csv"),
    )


@pytest.fixture(scope="module")
def backdoored(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Return a run with everything in it: attack, forgetting, recovery, reference."""
    return do(
        tmp_path_factory.mktemp("run"),
        *("forget=[1]", "attack=backdoor", "retrain=remaining", "retrain_rounds=1"),
        "client.local_epochs=4",
    )


def logits(path: Path, images: np.ndarray) -> np.ndarray:
    """Return a stored model's answers, by NumPy in float64."""
    tensors = load_file(path)
    layers = sorted({int(name.split(".")[0]) for name in tensors})
    scaling = load_dataset("digits").scaling
    x = (
        images.reshape(len(images), -1).astype(np.float64) - scaling.mean
    ) / scaling.std
    for layer in layers:
        x = x @ tensors[f"{layer}.weight"].T + tensors[f"{layer}.bias"]
        if layer != layers[-1]:
            x = np.maximum(x, 0)
    return x


def accuracy(path: Path, images: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of right answers of a stored model."""
    return float((logits(path, images).argmax(1) == labels).mean())


def test_results_hold_the_contract(backdoored: Done):
    results = backdoored.results
    fixed = {
        *("schema", "seed", "strategy", "forget", "retrain", "data", "models", "cost")
    }
    assert fixed <= set(results)
    assert (results["schema"], results["seed"], results["forget"]) == (1, 0, [1])
    assert results["strategy"] == "negative_gradient"
    assert results["retrain"] == "remaining"
    assert set(results["models"]) == set(MODELS)
    for model in results["models"].values():
        assert len(model["client_test_accuracy"]) == 3
        rates = [
            model[key]
            for key in (
                *("test_accuracy", "forget_accuracy", "retain_accuracy"),
                *("attack_success_rate", "forget_accuracy_as_trained"),
            )
        ]
        assert all(0 <= rate <= 1 for rate in rates + model["client_test_accuracy"])
        assert 0 < model["test_loss"] < math.inf
    cost = results["cost"]
    assert {
        *("train_seconds", "unlearn_seconds", "recover_seconds", "retrain_seconds"),
        *("bytes_up", "bytes_down", "ledger_bytes", "reused_training"),
        "resumed_from_round",
    } <= set(cost)
    assert cost["unlearn_seconds"] < cost["train_seconds"]
    assert cost["reused_training"] is False
    assert cost["resumed_from_round"] == 0


def test_results_say_who_holds_what(backdoored: Done):
    data = load_dataset("digits")
    found = backdoored.results["data"]
    assert (found["name"], found["writers"]) == ("digits", data.num_writers)
    assert found["test_examples"] == len(data.test_labels)
    splits = partition_by_writer(data.writers, clients=3, seed=0)
    for split, client in zip(splits, found["clients"], strict=True):
        assert client == {
            "client_id": split.client_id,
            "num_writers": len(split.writers),
            "num_train": len(split.train),
            "num_val": len(split.val),
            "num_test": len(split.test),
        }


def test_bytes_are_parameters_up_and_down_without_the_reference(backdoored: Done):
    """3 clients in 2 training rounds and 2 in 1 recovery round: 8 models each way."""
    size = sum(
        a.nbytes
        for a in load_file(backdoored.out / "model_original.safetensors").values()
    )
    cost = backdoored.results["cost"]
    assert cost["bytes_up"] == cost["bytes_down"] == 8 * size
    # The rows of 3 clients and the correction; the update form needs no last models.
    assert cost["ledger_bytes"] == 4 * size


@pytest.mark.parametrize("name", MODELS)
def test_numbers_follow_from_the_model_files(backdoored: Done, name: str):
    """Recomputed with NumPy from the stored parameters alone, in float64."""
    path = backdoored.out / f"model_{name}.safetensors"
    data, config = load_dataset("digits"), backdoored.config
    found = backdoored.results["models"][name]
    assert accuracy(path, data.test_images, data.test_labels) == pytest.approx(
        found["test_accuracy"], abs=1e-9
    )
    x = logits(path, data.test_images)
    true = x[np.arange(len(x)), data.test_labels]
    loss = float((np.log(np.exp(x).sum(1)) - true).mean())
    assert loss == pytest.approx(found["test_loss"], rel=1e-5)
    probe = attack_probe(
        data.test_images, data.test_labels, attack=config.attack, kind=DIGITS
    )
    assert probe is not None
    assert accuracy(path, *probe) == pytest.approx(found["attack_success_rate"])
    splits = partition_by_writer(data.writers, clients=3, seed=0)
    retain = np.concatenate([splits[0].train, splits[2].train])
    for part, key in ((splits[1].train, "forget"), (retain, "retain")):
        assert accuracy(path, data.images[part], data.labels[part]) == pytest.approx(
            found[f"{key}_accuracy"]
        )
    for split, rate in zip(splits, found["client_test_accuracy"], strict=True):
        assert accuracy(
            path, data.images[split.test], data.labels[split.test]
        ) == pytest.approx(rate)


def test_history_has_a_row_for_every_round(backdoored: Done):
    assert backdoored.phases == [
        *(("train", 0), ("train", 1), ("train", 2), ("unlearn", 3)),
        *(("recover", 4), ("retrain", 1), ("retrain", 2)),
    ]
    table = backdoored.history
    assert {"accuracy", "loss", "seconds", "bytes_up", "bytes_down"} <= set(table)
    assert table["clients"].tolist() == [0, 3, 3, 0, 2, 2, 2]
    assert not table["failures"].any()
    last = dict(zip(table["phase"], table["accuracy"], strict=True))
    for phase, name in zip(
        ("train", "unlearn", "recover", "retrain"), MODELS, strict=True
    ):
        assert last[phase] == backdoored.results["models"][name]["test_accuracy"]


def test_clients_table_has_a_row_for_every_client_and_model(backdoored: Done):
    table = backdoored.clients
    assert list(zip(table["model"], table["client_id"], strict=True)) == [
        (name, k) for name in MODELS for k in range(3)
    ]
    assert table["role"].tolist() == ["retain", "forget", "retain"] * 4


def test_a_run_leaves_report_and_figures(backdoored: Done):
    page = (backdoored.out / "report.html").read_text()
    assert "negative_gradient" in page or "negative gradient" in page.lower()
    assert {p.suffix for p in (backdoored.out / "figures").iterdir()} == {
        ".svg",
        ".png",
    }
    assert not [p for p in backdoored.out.iterdir() if p.name.startswith(".")]


def test_unlearning_moves_the_model_and_recovery_repairs_it(backdoored: Done):
    models = backdoored.results["models"]
    found = {name: models[name]["test_accuracy"] for name in MODELS}
    assert found["recovered"] > found["unlearned"]
    assert found["recovered"] > 0.5
    assert len({backdoored.model(name) for name in MODELS}) == 4


def test_scratch_recovers_by_retraining(backdoored: Done, tmp_path: Path):
    """And equals the reference of any other run with that seed, bit for bit."""
    made = do(
        tmp_path,
        *("forget=[1]", "attack=backdoor", "retrain=scratch", "client.local_epochs=4"),
    )
    assert made.model("recovered") == made.model("retrained")
    assert made.model("retrained") == backdoored.model("retrained")
    assert made.model("unlearned") == backdoored.model("unlearned")
    assert made.phases == [
        *(("train", 0), ("train", 1), ("train", 2), ("unlearn", 3)),
        *(("recover", 4), ("recover", 5)),
    ]
    # Scratch is the run's own work: two rounds of three clients, then of two.
    one = made.results["cost"]["bytes_up"] // 10
    replies = (made.history["bytes_up"] / one).tolist()
    assert replies == [0, 3, 3, 0, 2, 2]
    assert set(made.results["models"]) == set(MODELS)


def test_retraining_on_the_forgotten_is_local_training(tmp_path: Path):
    """The paper's section 4.2: a round of one client is local SGD, no averaging."""
    made = do(
        tmp_path, *("forget=2", "retrain=forgotten", "reference=false", "rounds=1")
    )
    assert made.phases == [
        *(("train", 0), ("train", 1), ("unlearn", 2), ("recover", 3), ("recover", 4))
    ]
    assert made.history["clients"].tolist() == [0, 3, 0, 1, 1]
    assert set(made.results["models"]) == {"original", "unlearned", "recovered"}
    assert not (tmp_path / "model_retrained.safetensors").exists()
    models = made.results["models"]
    assert models["recovered"]["forget_loss"] < models["unlearned"]["forget_loss"]
    assert models["original"]["attack_success_rate"] is None


def test_nothing_to_forget_gives_the_original_only(tmp_path: Path):
    made = do(tmp_path, "forget=null", "rounds=1")
    assert set(made.results["models"]) == {"original"}
    assert made.results["models"]["original"]["forget_accuracy"] is None
    assert [p.name for p in sorted(tmp_path.glob("*.safetensors"))] == [
        "model_original.safetensors"
    ]


def test_one_client_alone_is_a_federation(tmp_path: Path):
    made = do(tmp_path, "clients=1", "forget=null", "rounds=1")
    assert len(made.results["data"]["clients"]) == 1


def test_no_retraining_and_no_reference_gives_two_models(tmp_path: Path):
    made = do(tmp_path, "reference=false", "rounds=1", "forget=[0,2]")
    assert set(made.results["models"]) == {"original", "unlearned"}
    assert made.phases == [("train", 0), ("train", 1), ("unlearn", 2)]
    assert made.results["forget"] == [0, 2]


def test_recovery_draws_streams_of_its_own_and_retraining_those_of_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    seen: list[tuple[int, int]] = []
    fit = TrainingClient.fit

    def watched(self: TrainingClient, *arguments: Any) -> Any:
        seen.append((self.server_round, self.client_id))
        return fit(self, *arguments)

    monkeypatch.setattr(TrainingClient, "fit", watched)
    do(tmp_path, "forget=1", "retrain=remaining", "retrain_rounds=1")
    assert seen == [
        *((1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)),
        *((4, 0), (4, 2)),
        *((1, 0), (1, 2), (2, 0), (2, 2)),
    ]


def test_a_client_that_fails_is_in_results_and_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Client 1 cannot train at all; the rest go on and it is said."""
    fit = TrainingClient.fit

    def broken(self: TrainingClient, *arguments: Any) -> Any:
        if self.client_id == 1:
            raise RuntimeError("out of memory")
        return fit(self, *arguments)

    monkeypatch.setattr(TrainingClient, "fit", broken)
    made = do(tmp_path, "forget=1", "reference=false", "rounds=1")
    (failure,) = made.results["failures"]
    assert (failure["client_id"], failure["server_round"]) == (1, 1)
    assert "out of memory" in failure["reason"]
    assert made.history["failed"].tolist()[1] == 1
    assert made.history["clients"].tolist() == [0, 2, 0]
    assert made.model("unlearned") == made.model("original")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"overrides": "data=mnist clients=2 forget=0 data.root=../data"},
            "data.root must be an absolute folder, got '../data'",
        ),
        ({"overrides": "data=digits", "out": "here"}, "out must be .* got 'here'"),
    ],
)
def test_what_flwr_run_starts_refuses_a_relative_folder(
    config: dict[str, bool | float | int | str], message: str
):
    """It would lie wherever the SuperLink was started."""
    context = Context(
        run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=config
    )
    with pytest.raises(FedNegError, match=message):
        app(RecordingGrid(real_clients, 2), context)


def test_more_clients_than_writers_is_a_mistake_before_training(tmp_path: Path):
    with pytest.raises(FedNegError, match="11, got 12"):
        do(tmp_path, "clients=12", "forget=0")
    assert list(tmp_path.iterdir()) == []


def test_a_round_without_any_reply_is_a_notice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of paper")

    monkeypatch.setattr(TrainingClient, "fit", fails)
    done = do(tmp_path, "forget=null", "rounds=1")
    assert done.results["notices"] == [
        "round 1 (train): no usable reply from any client; the model stayed as it was"
    ]
    assert "no usable reply" in (tmp_path / "report.html").read_text()


def test_a_second_run_leaves_nothing_of_the_first(tmp_path: Path):
    (tmp_path / "mine.csv").write_text("kept")
    do(tmp_path, "forget=2", "retrain=remaining", "rounds=1")
    do(tmp_path, "forget=null", "rounds=1")
    assert {p.name for p in tmp_path.glob("*.safetensors")} == {
        "model_original.safetensors"
    }
    assert (tmp_path / "mine.csv").read_text() == "kept"


# -- nothing to forget, and what stays when judging fails -----------------------------


def test_a_client_that_took_part_in_no_round_is_said_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """One of six is drawn, in one round, and it is not client 1: the models are one."""
    done = do(
        tmp_path,
        *("clients=6", "rounds=1", "strategy.client_fraction=0.1", "forget=1"),
        *("verdict.retrainings=1", "verdict.relearn_cap=20"),
    )
    assert done.history["clients"].tolist() == [0, 1, 0, 1]
    assert len({done.model(name) for name in ("original", "retrained")}) == 1
    first = "client 1 took part in no round"
    assert done.results["notices"][0].startswith(first)
    found = done.results["verdict"]
    assert (found["outcome"], found["finding"], found["absent"]) == (
        *("inconclusive", "took part in no round"),
        [1],
    )
    assert set(found["outcomes"].values()) == {"inconclusive"}
    shown = capsys.readouterr().out
    assert f"verdict (unlearned): inconclusive. {first.capitalize()}" in shown
    assert "control failed" not in shown
    page = (tmp_path / "report.html").read_text()
    assert page.index(first) < page.index("Evidence for the verdict")
    assert "show no trace" not in page


def test_a_method_that_changes_the_model_has_nothing_to_forget_either(tmp_path: Path):
    done = do(
        tmp_path,
        *("clients=6", "rounds=1", "strategy.client_fraction=0.1", "forget=1"),
        *("strategy=random_init", "verdict.relearn_cap=0", "report=false"),
    )
    assert done.results["verdict"]["finding"] == "took part in no round"
    assert "changed the model all the same" in done.results["notices"][0]


def test_of_several_clients_it_is_said_who_took_no_part(tmp_path: Path):
    """Clients 0 and 2 are drawn of three; of the two that leave, only 2 is judged."""
    done = do(
        tmp_path,
        *("forget=[1,2]", "rounds=1", "strategy.client_fraction=0.67", "report=false"),
        *("verdict.retrainings=1", "verdict.relearn_cap=0"),
    )
    assert done.history["clients"].tolist()[1] == 2
    found = done.results["verdict"]
    assert (found["absent"], found["finding"]) == ([1], "cannot tell")
    assert list(found["influence"]) == ["2"]
    notice = done.results["notices"][0]
    assert notice.startswith("client 1 took part in no round")
    assert "judged are the others" in notice
    alone = do(
        tmp_path / "alone",
        *("forget=2", "rounds=1", "strategy.client_fraction=0.67", "report=false"),
        *("reference=true", "verdict.relearn_cap=0"),
    )
    # Client 1's examples are no members: the attack is that on client 2 alone.
    value = [d.results["evidence"]["original"]["membership_auc"] for d in (done, alone)]
    assert value[0] == value[1]


def test_a_run_in_which_every_reply_was_refused_ends_with_its_results(tmp_path: Path):
    done = do(
        tmp_path,
        *("forget=1", "rounds=1", "client.learning_rate=1e30"),
        *("verdict.retrainings=1", "verdict.relearn_cap=20"),
    )
    assert done.results["notices"][0].startswith("client 1 took part in no round")
    assert "no usable reply" in done.results["notices"][1]
    assert done.results["verdict"]["outcome"] == "inconclusive"
    assert len(done.results["failures"]) == 3 + 2 + 2


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (ValueError("a sum is\noff"), ValueError),
        (FedNegError("js must be at most 1, got 1"), FedNegError),
        (OSError(28, "No space left on device"), FedNegError),
    ],
)
@pytest.mark.parametrize("step", ["judging", "writing the report"])
def test_what_was_measured_stays_when_a_later_step_fails(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    step: str,
    error: Exception,
    raised: type[Exception],
):
    def fails(*_: Any, **__: Any) -> None:
        raise error

    if step == "judging":
        monkeypatch.setattr("fedneg.evaluation.judgement.Judgement.to_json", fails)
    else:
        monkeypatch.setattr("fedneg.reports.run.writing.write_report", fails)
    with pytest.raises(raised) as caught:
        do(tmp_path, "forget=1", "rounds=1", "verdict.relearn_cap=0")
    said = str(caught.value)
    if raised is ValueError:
        said = capsys.readouterr().err.splitlines()[-1]
    assert f"{step} failed: " in said
    assert said.endswith(f"what was trained and measured is in {tmp_path}")
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept >= {
        *("history.csv", "clients.csv", "results.json"),
        *(f"model_{name}.safetensors" for name in ("original", "unlearned")),
        "model_retrained.safetensors",
    }
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["notices"][0].startswith(f"{step} failed: ")
    assert (results["verdict"] is None) == (step == "judging")
    assert results["models"]["original"]["test_accuracy"] is not None


def test_results_are_on_the_disk_before_anybody_judges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A run that is killed while it judges leaves results without a verdict."""
    seen: list[dict[str, Any]] = []
    judge = Judgement.to_json

    def watched(self: Judgement) -> dict[str, Any]:
        seen.append(json.loads((tmp_path / "results.json").read_text()))
        return judge(self)

    monkeypatch.setattr(Judgement, "to_json", watched)
    done = do(tmp_path, "forget=1", "rounds=1", "verdict.relearn_cap=0")
    (before,) = seen
    assert before["verdict"] is None
    assert before["notices"] == [
        "the models were not judged: the run ended before that"
    ]
    assert before["models"] == done.results["models"]
    assert done.results["notices"] == []


def test_a_number_that_is_none_is_null_in_the_results(tmp_path: Path):
    """A student that diverged: its loss is NaN, and no reason to lose the rest."""
    done = do(
        tmp_path,
        *("forget=1", "rounds=1", "strategy=distillation", "reference=false"),
        *("strategy.learning_rate=1e30", "report=false"),
    )
    assert None in done.results["method"].values()
    assert done.results["models"]["original"]["test_accuracy"] > 0


def test_the_paper_names_the_client_whose_model_it_lacks(tmp_path: Path):
    with pytest.raises(FedNegError, match=r"in round 1 client 0 was left out: param"):
        do(tmp_path, "experiment=paper", "forget=1", "client.learning_rate=1e30")
