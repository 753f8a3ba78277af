"""The paper's experiment on digits: what it measures, says and shows."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from builders.federations import INITIAL, Bench, honest, small_config
from fedneg.config import load_config
from fedneg.engines.simulate import simulate
from fedneg.reports.paper.answers import influence_answer, performance_answer
from fedneg.reports.paper.figures import all_pictures
from fedneg.reports.paper.state import PaperMeasurements, Snapshot, remove
from fedneg.server_app import run

FORMS = ["update", "parameters", "parameters_nearest"]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of one small experiment."""
    out = tmp_path_factory.mktemp("paper")
    overrides = ["experiment=paper", "data=digits", "rounds=2", "retrain_rounds=2"]
    # An attack asked for beside the experiment must not reach its honest federation:
    # the scan's test would find an attack success rate in it.
    overrides += ["model.hidden=[16]", "attack=backdoor", "attack.clients=0"]
    config, _ = load_config([*overrides, "reference=true"])
    simulate(
        lambda grid, context: run(grid, config, out),
        clients=config.clients,
        engine=config.engine,
    )
    return out


def test_table1_has_every_form_partition_and_removal(done: Path):
    table = pd.read_csv(done / "table1.csv")
    assert table["form"].unique().tolist() == [*FORMS, "paper"]
    for form in FORMS:
        rows = table[table["form"] == form]
        assert rows["partition"].tolist() == ["0", "1", "2", "3", "4", "all"]
        scores = rows.filter(regex="model|removed")
        assert scores.shape == (6, 7)
        assert scores.to_numpy().min() >= 0
        assert scores.to_numpy().max() <= 1
    paper = table[table["form"] == "paper"].set_index("partition")
    assert paper.loc["1", "removed_1"] == 0.9444
    assert paper.loc["4", "removed_4"] == 0.7166


def test_all_is_the_pooled_score_of_the_partitions(done: Path):
    """Test parts differ in size: the pooled score lies within theirs, weighted."""
    table = pd.read_csv(done / "table1.csv")
    rows = table[table["form"] == "update"].set_index("partition")["removed_2"]
    local = pd.read_csv(done / "local.csv")
    counts = local[local["epoch"] == 2].sort_values("client_id")["num_test"]
    assert counts.nunique() > 1
    expected = np.average(rows.drop("all"), weights=counts)
    assert rows["all"] == pytest.approx(expected)


def test_every_figure_of_the_paper_is_there(done: Path):
    names = {path.name for path in (done / "figures").iterdir()}
    for figure in (
        "fig2_central",
        "fig3_central_federated",
        "fig4_local_train",
        "fig4_local_test",
        "fig5_removal",
        "fig6_7_retraining",
        "scan_scale",
    ):
        assert {f"{figure}.svg", f"{figure}.png"} <= names


def test_scan_covers_both_forms_and_starts_at_the_federated_model(done: Path):
    scan = pd.read_csv(done / "scan.csv")
    honest_scan = scan[scan["federation"] == "honest"]
    assert len(honest_scan) == 5 * 21
    federated = json.loads((done / "results.json").read_text())["federated"]
    at_zero = honest_scan[honest_scan["scale"] == 0]["accuracy"]
    assert at_zero.tolist() == pytest.approx([federated["accuracy"]] * 5)
    backdoor = scan[scan["federation"] == "backdoor"]
    assert set(backdoor["form"]) == {"update", "parameters"}
    assert backdoor["attack_success_rate"].notna().all()
    assert honest_scan["attack_success_rate"].isna().all()


def test_retraining_starts_at_the_removal_of_each_of_four_clients(done: Path):
    retraining = pd.read_csv(done / "retraining.csv")
    removal = pd.read_csv(done / "removal.csv")
    assert sorted(retraining["client_id"].unique()) == [0, 1, 2, 3]
    assert sorted(retraining["epoch"].unique()) == [0, 1, 2]
    last = removal[(removal["epoch"] == 2) & (removal["form"] == "update")]
    start = retraining[(retraining["epoch"] == 0) & (retraining["form"] == "update")]
    expected = last.set_index("client_id")["accuracy"].loc[[0, 1, 2, 3]]
    assert start["accuracy"].tolist() == expected.tolist()


def test_history_holds_the_federation_only(done: Path):
    history = pd.read_csv(done / "history.csv")
    assert history["server_round"].tolist() == [0, 1, 2]


def test_results_answer_both_questions_in_three_sentences(done: Path):
    answers = json.loads((done / "results.json").read_text())["answers"]
    assert [len(answers[k]) for k in ("1", "2")] == [3, 3]
    page = (done / "report.html").read_text()
    assert "The two research questions" in page
    assert "this run used digits" in page


@pytest.mark.parametrize("form", ["update", "parameters"])
@pytest.mark.parametrize("client_id", [0, 3])
def test_removal_equals_the_strategys_unlearn_round(form: str, client_id: int):
    """The experiment's arithmetic is the method's own, bit for bit."""
    made = Bench(
        small_config(
            *("clients=4", "forget=null", f"strategy.form={form}", "experiment=paper")
        ),
        INITIAL,
        {k: honest(k) for k in range(4)},
    )
    parameters = made.train(3)
    ledger = made.strategy.ledger
    state = Snapshot(
        parameters,
        ledger.contributions.copy(),
        tuple(ledger.local[k].copy() for k in range(4)),
        tuple(ledger.last_weight(k) for k in range(4)),
    )
    expected = made.unlearn(client_id)
    assert remove(state, form, client_id, {}).tobytes() == expected.tobytes()


def scan(update: tuple[float, float], parameters: tuple[float, float]) -> pd.DataFrame:
    """Return a backdoor scan: attack success at scale 0 and 1, linear between."""
    rows: list[dict[str, Any]] = [
        {
            "federation": "backdoor",
            "form": form,
            "client_id": 4,
            "scale": scale,
            "accuracy": 0.9,
            "attack_success_rate": ends[0] + scale * (ends[1] - ends[0]),
        }
        for form, ends in (("update", update), ("parameters", parameters))
        for scale in (0.0, 0.2, 0.5, 1.0)
    ]
    return pd.DataFrame(rows)


def made_up(**changes: Any) -> PaperMeasurements:
    """Return measurements with only what the answers read."""
    table = pd.DataFrame(
        [
            {"form": f, "partition": "all", "federated_model": 0.97, "removed_0": a}
            for f, a in zip(FORMS, (0.95, 0.96, 0.8), strict=True)
        ]
    )
    retraining = pd.DataFrame(
        [
            {"form": "update", "client_id": 0, "epoch": e, "accuracy": a}
            for e, a in ((0, 0.9), (10, 0.95))
        ]
    )
    empty = pd.DataFrame()
    values = PaperMeasurements(
        central=empty,
        federated=pd.DataFrame({"accuracy": [0.5, 0.97]}),
        local=empty,
        table1=table,
        nearest=pd.DataFrame({"client_id": [0], "scale": [0.6], "gap": [0.01]}),
        scan=scan((0.98, 0.0), (0.98, 0.9)),
        removal=empty,
        retraining=retraining,
        retrained_attack_success=None,
        history=empty,
        seconds={},
    )
    return replace(values, **changes)


def test_influence_answer_follows_the_numbers():
    first, second, third = influence_answer(made_up())
    assert "from 0.980 to 0.000, which removes nearly all" in first
    assert "from 0.980 to 0.964, which hardly removes" in second
    assert "No scale of the parameters form" in third
    turned = made_up(scan=scan((0.98, 0.975), (0.98, 0.0)))
    first, _, third = influence_answer(turned)
    assert "which hardly removes" in first
    assert "needs a scale of 1 to bring" in third
    assert "retrained" not in first
    with_reference = influence_answer(made_up(retrained_attack_success=0.004))
    assert "retrained without it: 0.004" in with_reference[0]


def test_performance_answer_follows_the_numbers():
    first, second, third = performance_answer(made_up())
    assert "from 0.970 to between 0.950 and 0.950" in first
    assert "holds for both forms" in second
    assert "raises mean test accuracy from 0.900 to 0.950, still below" in third
    table = made_up().table1.assign(removed_0=[0.5, 0.96, 0.8])
    assert "parameters form only" in performance_answer(made_up(table1=table))[1]
    worse = table.assign(removed_0=[0.5, 0.6, 0.8])
    assert "holds for neither form" in performance_answer(made_up(table1=worse))[1]


def test_figures_are_drawn_for_other_than_five_clients():
    """Twenty clients: no legend hides the lines, and nothing needs the paper."""
    lines = pd.DataFrame(
        [
            {"form": f, "client_id": k, "epoch": e, "accuracy": 0.5, "loss": 1.0}
            for f in FORMS
            for k in range(20)
            for e in (1, 2)
        ]
    )
    scores = ("train_accuracy", "train_loss", "test_accuracy", "test_loss")
    epochs = pd.DataFrame(
        {"epoch": [1, 2], "accuracy": [0.5, 0.6], "loss": [1.0, 0.9]}
    ).assign(train_accuracy=0.5, train_loss=1.0)
    found = made_up(
        central=epochs,
        federated=epochs,
        local=lines.assign(**dict.fromkeys(scores, 0.5)),
        removal=lines,
        retraining=lines,
        scan=pd.concat(
            [
                made_up().scan,
                lines.rename(columns={"epoch": "scale"}).assign(federation="honest"),
            ]
        ),
    )
    assert len(all_pictures(found)) == 7
