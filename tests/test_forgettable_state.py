"""A stranger's app that lasts: requests, purge, receipts, and a kill at any moment."""

import json
from pathlib import Path

import numpy as np
import pytest

from builders.app_lives import (
    Meddled,
    live,
    model_in,
    model_of,
    same,
    with_momentum,
)
from builders.lives import receipt_of
from builders.strangers import INITIAL, TRAINED, contributions
from fedneg.cli.application import run as run_words
from fedneg.engines.inline import FIRST_NODE_ID
from fedneg.records.state import State

EVERYBODY = [100, 101, 102, 103]


def command(*words: object) -> None:
    """Do what `fedneg WORDS` does; a refusal is an error."""
    run_words([str(word) for word in words])


def by_hand(grid: Meddled, *, without: dict[int, set[int]]) -> dict[str, np.ndarray]:
    """Return the trained arrays without what clients sent, in all rounds or in some.

    `without` has the rounds, from 0, in which what a node sent never counted.
    """
    for number, (_, by_node) in enumerate(grid.rounds):
        for node, rounds in without.items():
            if number in rounds:
                by_node.pop(node, None)
    rows = contributions(grid)
    gone = without.keys()
    return {
        name: INITIAL[name]
        + sum(r[name] for node, r in rows.items() if node not in gone)
        for name in TRAINED
    }


# -- a life ----------------------------------------------------------------------------


def test_a_request_in_the_middle_is_carried_out_repaired_and_purged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    state, grid = tmp_path / "state", Meddled()
    grid.during[3] = lambda: command("request", "forget", 101, "--state", state)
    held, result = live(state, 6, grid)
    # Asked in round 3, and what it sent then counts no more.
    others = [100, 102, 103]
    assert grid.trained() == [EVERYBODY] * 3 + [others] * 3
    assert held.forgotten == (101,)
    assert list(result.train_metrics_clientapp) == [1, 2, 3, 4, 5, 6]
    expected = by_hand(grid, without={FIRST_NODE_ID + 1: {2}})
    for name in TRAINED:
        np.testing.assert_allclose(model_of(result)[name], expected[name], atol=1e-6)
    assert same(model_in(state), model_of(result))

    receipt = receipt_of(state, 101)
    assert receipt["client"] == 101
    assert receipt["federation"] == State(state).known_facts().id
    assert receipt["done"]["around"] == "FedAvg"
    assert receipt["done"]["method"] == {
        "form": "update",
        "scale": {"101": 1.0},
        "strategy": "negative_gradient",
    }
    # Of steps, forgetting is one: it came after three rounds.
    assert receipt["done"]["unlearn_round"] == 4
    assert receipt["done"]["recovery_rounds"] == [
        {"server_round": number, "clients": 3, "failures": 0} for number in (5, 6)
    ]
    assert receipt["remains"] == "nothing of the client's summed updates"
    assert receipt["purged"]["isolable"] is False
    assert receipt["purged"]["matches"] == 0
    assert receipt["purged"]["fingerprints"] > 5
    assert len(set(receipt["models"].values())) == 3

    capsys.readouterr()
    command("audit", "--state", state)
    assert "good receipts: 1" in capsys.readouterr().out
    path, key = state / "receipts/forget-101.json", f"{state}-keys/operator.pub"
    command("verify", path, "--key", key)
    assert "the signature is good" in capsys.readouterr().out
    command("status", "--state", state, "--json")
    status = json.loads(capsys.readouterr().out)
    assert (status["trained"], status["excluded"]) == (6, [101])
    assert status["app"] == "FedAvg"


def test_a_start_goes_on_where_the_last_one_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As one start would have, momentum too; what is told of is counted on."""
    said: list[str] = []
    monkeypatch.setattr("fedneg.forgettable.standing.say", said.append)
    once, twice = tmp_path / "once", tmp_path / "twice"
    _, whole = live(once, 5, strategy=with_momentum())
    live(twice, 3, strategy=with_momentum())
    assert said == []
    grid = Meddled()
    _, rest = live(twice, 5, grid, with_momentum())
    assert said == [
        f"the federation in {twice} has gone on to round 3: its model goes on, and not "
        "the initial arrays"
    ]
    assert grid.told == [4, 5]
    assert list(rest.train_metrics_clientapp) == [4, 5]
    for name, array in model_of(whole).items():
        np.testing.assert_allclose(model_of(rest)[name], array, atol=1e-6)
    # And when nothing is missing.
    grid = Meddled()
    _, nothing = live(twice, 5, grid, with_momentum())
    assert grid.rounds == []
    assert same(model_of(nothing), model_of(rest))
