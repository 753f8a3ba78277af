"""What forgetting costs, by hand."""

import json
from typing import Any

import pytest

from fedneg.core.errors import FedNegError
from fedneg.evaluation.cost import COSTS, Cost, Curve, cost_of, curve_of, speed_up
from fedneg.history import HISTORY_COLUMNS


def row(phase: str, clients: int, accuracy: float | None, **changed: Any) -> Any:
    """Return a row of history.csv: 10 bytes up and 20 down for each client, 2 s."""
    values = {
        "server_round": 1,
        "phase": phase,
        "accuracy": accuracy,
        "loss": 0.1,
        "seconds": 2.0,
        "bytes_up": 10 * clients,
        "bytes_down": 20 * clients,
        "clients": clients,
        "failures": 0,
        "failed": "",
    }
    assert tuple(values) == HISTORY_COLUMNS
    return values | changed


# Forgotten on the server alone, then two rounds of four clients.
UNLEARN = [
    row("unlearn", 0, 0.80),
    row("recover", 4, 0.95),
    row("recover", 4, 0.97, bytes_down=90),
]
# Five rounds of four clients from an untrained model.
RETRAIN = [row("retrain", 4, a) for a in (0.5, 0.8, 0.9, 0.95, 0.97)]
FINE_TUNE = [row("recover", 4, 0.975)]


def test_cost_by_hand():
    """Two rounds of 4 clients with 3 epochs each; 80 bytes up; 80 + 90 down; 6 s."""
    found = cost_of(
        UNLEARN,
        local_epochs=3,
        participants={"unlearn": [4], "recover": [3, 0, 1, 2], "retrain": [9]},
    )
    assert found == Cost(2, 24, 80, 170, 6.0, (0, 1, 2, 3))
    assert json.loads(json.dumps(found.to_json()))["online"] == [0, 1, 2, 3]


def test_forgetting_on_the_server_alone_asks_nobody():
    found = cost_of(UNLEARN[:1], local_epochs=1, participants={"unlearn": [4]})
    assert found == Cost(0, 0, 0, 0, 2.0, ())


def test_an_unlearn_round_with_the_client_in_it_needs_it_online():
    """Methods of ascent ask the client that leaves."""
    rows = [row("unlearn", 1, 0.9)]
    assert cost_of(rows, local_epochs=1, participants={"unlearn": [4]}).online == (4,)


def test_rows_as_read_from_a_file_cost_the_same():
    text = [{k: str(v) for k, v in r.items()} for r in UNLEARN]
    assert cost_of(text, local_epochs=2) == cost_of(UNLEARN, local_epochs=2)


def test_curves_add_up_by_hand():
    assert curve_of(UNLEARN, local_epochs=2).points == ((0, 0.8), (8, 0.95), (16, 0.97))
    rounds = curve_of(UNLEARN, local_epochs=2, cost="rounds", start_accuracy=0.99)
    assert rounds.points == ((0, 0.99), (0, 0.8), (1, 0.95), (2, 0.97))
    ends = {c: curve_of(UNLEARN, local_epochs=2, cost=c).points[-1][0] for c in COSTS}
    assert list(ends.values()) == [2, 16, 80, 170, 6.0]


def test_a_round_without_accuracy_costs_all_the_same():
    rows = [row("recover", 4, None), row("recover", 4, 0.9)]
    assert curve_of(rows, local_epochs=1).points == ((8, 0.9),)


def test_speed_up_against_retraining_at_equal_accuracy():
    """Both reach .97: after 8 of their client epochs and after 20."""
    ours = curve_of(UNLEARN, local_epochs=1)
    theirs = curve_of(RETRAIN, local_epochs=1)
    found = speed_up(ours, theirs)
    assert (found.accuracy, found.method, found.reference) == (0.97, 8, 20)
    assert found.ratio == pytest.approx(2.5)
    # At .95 one round against four.
    assert speed_up(ours, theirs, accuracy=0.95).ratio == pytest.approx(4)


def test_speed_up_is_at_the_accuracy_that_both_reach():
    """The method stops at .95, so retraining is measured there: 16, not 20."""
    found = speed_up(
        curve_of(UNLEARN[:2], local_epochs=1), curve_of(RETRAIN, local_epochs=1)
    )
    assert (found.accuracy, found.method, found.reference) == (0.95, 4, 16)


def test_fine_tuning_starts_where_the_original_is():
    """It has the accuracy before it begins: against it there is no speed-up."""
    tuned = curve_of(FINE_TUNE, local_epochs=1, start_accuracy=0.975)
    found = speed_up(curve_of(UNLEARN, local_epochs=1), tuned)
    assert (found.reference, found.ratio) == (0, 0)


def test_what_is_not_reached_or_costs_nothing_has_no_ratio():
    retrain = curve_of(RETRAIN, local_epochs=1)
    at_once = speed_up(curve_of(UNLEARN[:1], local_epochs=1), retrain)
    assert (at_once.method, at_once.reference, at_once.ratio) == (0, 8, None)
    never = speed_up(curve_of(UNLEARN, local_epochs=1), retrain, accuracy=0.99)
    assert (never.method, never.reference, never.ratio) == (None, None, None)


def test_accuracy_that_falls_again_was_reached_first():
    assert Curve(((1, 0.9), (2, 0.8), (3, 0.9))).cost_to(0.85) == 1


def test_bad_questions_are_refused():
    with pytest.raises(FedNegError, match="local_epochs must be at least 1, got 0"):
        cost_of(UNLEARN, local_epochs=0)
    with pytest.raises(ValueError, match=r"cost must be one of rounds.*got 'joules'"):
        curve_of(UNLEARN, local_epochs=1, cost="joules")
    with pytest.raises(ValueError, match="at least 1 row with an accuracy"):
        curve_of([row("recover", 4, None)], local_epochs=1)
