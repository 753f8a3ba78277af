"""Every method in a federation that lives on: the same bytes, and an honest receipt."""

import json
from pathlib import Path

import pytest

from builders.federations import RecordingGrid, small_config
from builders.lives import ask, go_on, receipt_of
from fedneg.client_app import app as real_clients
from fedneg.core.errors import FedNegError
from fedneg.ledger.checkpoint import Checkpoints
from fedneg.records.scan_windows import loaded
from fedneg.records.state import State
from fedneg.server_app import run

METHODS = {
    "do_nothing": "all of it: a control",
    "fine_tune": "all of it, below 2 rounds of the others",
    "retrain": "nothing: trained from the initial parameters without it",
    "counterfactual": "what the others had not undone of it, if that was mismeasured",
    "compensated": "what the others had undone of it",
    "federaser": "its part in how long the others' updates were",
    "gradient_ascent": "what the ascents left of it",
    "puf": "what one more update of it, enlarged, does not point at",
    "distillation": "what the old model teaches of it",
}


@pytest.mark.parametrize("name", METHODS)
def test_it_ends_with_the_bytes_of_the_main_job_and_says_what_remains(
    name: str, tmp_path: Path
):
    options = ["clients=3", f"strategy={name}", "retrain_rounds=1", "strategy.gate=0"]
    more = ("forget=1", "retrain=remaining", "reference=false", "report=false")
    config = small_config(*options, *more)
    run(RecordingGrid(real_clients, 3), config, tmp_path)
    folder = tmp_path / "state"
    go_on(folder, *options)
    ask(folder, 1)
    go_on(folder)
    recovered = (tmp_path / "model_recovered.safetensors").read_bytes()
    assert (folder / "model.safetensors").read_bytes() == recovered
    receipt = receipt_of(folder, 1)
    assert receipt["remains"].startswith(METHODS[name])
    assert receipt["done"]["method"]["strategy"] == name
    assert receipt["done"]["forgotten_together"] == [1]


def test_who_climbs_is_forgotten_alone(tmp_path: Path):
    """Two requests wait; each has an unlearn round and a receipt to itself."""
    folder = tmp_path / "state"
    options = ("clients=4", "strategy=gradient_ascent", "strategy.gate=0")
    go_on(folder, *options)
    ask(folder, 1, clients=4)
    ask(folder, 3, clients=4)
    grid = go_on(folder, "clients=4")
    for client_id in (1, 3):
        done = receipt_of(folder, client_id)["done"]
        assert done["forgotten_together"] == [client_id]
    # 1 climbs, 0 and 2 repair; then 3. Nobody trains who has left or is to leave.
    assert grid.asked("train") == [1, 0, 2, 3, 0, 2]


def test_a_retrained_model_contains_whoever_took_part_in_any_round(tmp_path: Path):
    """With half of four clients a round, the last round alone would not tell."""
    folder = tmp_path / "state"
    options = ("clients=4", "rounds=3", "strategy=retrain", "retrain=none")
    go_on(folder, *options, "strategy.client_fraction=0.3", "strategy.gate=0")
    ask(folder, 1, clients=4)
    grid = go_on(folder, "clients=4", "rounds=3")
    asked = set(grid.asked("train"))
    assert len(asked) > 1
    checkpoints: Checkpoints = State(folder).checkpoints(every=1, encrypt=False)
    assert checkpoints.facts(checkpoints.rounds()[-1])["contains"] == sorted(asked)


@pytest.mark.parametrize("momentum", ["0", "0.5"])
def test_a_second_one_is_forgotten_with_renormalised_weights(
    momentum: str, tmp_path: Path
):
    """Rounds of the others lie between; their old weights are the renormalised ones."""
    folder = tmp_path / "state"
    options = ("clients=4", "strategy.renormalise=true", "retrain_rounds=1")
    go_on(folder, *options, f"strategy.server_momentum={momentum}")
    for client_id, rounds in ((1, 3), (2, 4)):
        ask(folder, client_id, clients=4)
        go_on(folder, "clients=4", f"rounds={rounds}")
        purged = receipt_of(folder, client_id)["purged"]
        assert (purged["isolable"], purged["matches"]) == (False, 0)
    checkpoints: Checkpoints = State(folder).checkpoints(every=1, encrypt=False)
    head = json.loads(
        (checkpoints.folder / f"round-{checkpoints.rounds()[-1]:06d}.json").read_bytes()
    )
    for _, weights, _ in head["ledger"]["participation"]:
        assert sum(weights.values()) == pytest.approx(1)


@pytest.mark.parametrize("sealed", ["true", "false"])
def test_sums_of_who_is_forgotten_go_and_those_of_the_others_last(
    sealed: str, tmp_path: Path
):
    """Over restarts, and the next to leave needs the sums of those before."""
    folder = tmp_path / "state"
    options = ("clients=4", "rounds=3", "strategy=counterfactual", "retrain=none")
    options = (*options, "strategy.gate=0", f"encrypt={sealed}")
    go_on(folder, *options)
    checkpoints = State(folder).checkpoints(every=1, encrypt=sealed == "true")
    names = {*(f"bank {k}" for k in (1, 5, 9, 13)), "recent 1"}
    if sealed == "true":
        names = {f"{name.replace(' ', '.')}.1" for name in names}
    assert names <= checkpoints.rows(3, 1).keys()
    ask(folder, 1, clients=4)
    grid = go_on(folder, "clients=4")
    # The probe, and the round that is run again.
    assert grid.asked("train") == [0, 2, 3, 0, 2, 3]
    receipt = receipt_of(folder, 1)
    assert receipt["purged"]["matches"] == 0
    assert receipt["purged"]["isolable"] is True
    sought = loaded((folder / "fingerprints" / "forget-1.json").read_bytes())[1]
    assert {"bank 3", "recent 0"} <= {window.name for window in sought}
    rows = checkpoints.rows(5, 1)
    assert not any(row.any() for name, row in rows.items() if name != "global")
    assert sum(name.startswith("bank") for name in checkpoints.rows(5, 2)) == 4
    ask(folder, 2, clients=4)
    grid = go_on(folder, "clients=4")
    assert grid.asked("train") == [0, 3, 0, 3]
    assert receipt_of(folder, 2)["done"]["method"]["probed"] == [0, 3]
    assert [found["matches"] for found in receipt_of(folder, 2)["rechecked"]] == [0]


def test_a_method_that_needs_sums_refuses_a_state_that_has_none(tmp_path: Path):
    folder = tmp_path / "state"
    go_on(folder, "rounds=2", "strategy.gate=0")
    ask(folder, 1)
    with pytest.raises(FedNegError, match="has those of 0 of 2 rounds; forget with"):
        go_on(folder, "rounds=2", "strategy=counterfactual")
    assert State(folder).requests.open()
