"""The app's methods on a stranger's strategy, each by hand from the messages."""

import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from flwr.serverapp.strategy import FedAvg, FedAvgM

from builders.strangers import (
    INITIAL,
    TRAINED,
    Arrays,
    Watched,
    contributions,
    read,
    written,
)
from builders.waiting import PATIENCE_S
from fedneg import Forgettable
from fedneg.core.errors import FedNegError
from fedneg.strategies.compensated import Compensated


def trained(
    method: str,
    grid: Watched,
    rounds: int = 3,
    momentum: float = 0.0,
    **options: object,
) -> tuple[Forgettable, Arrays]:
    """Return a strategy that has trained, and its model."""
    inner = FedAvgM(fraction_evaluate=0.0, server_momentum=momentum)
    held = Forgettable(inner, method=method, options=options)
    result = held.start(grid, written(INITIAL), num_rounds=rounds, timeout=PATIENCE_S)
    return held, read(result.arrays)


def joined(arrays: Arrays) -> np.ndarray:
    """Return the trained arrays as one vector of float64."""
    return np.concatenate([np.ravel(arrays[n]).astype(np.float64) for n in TRAINED])


def mean(replies: dict[int, tuple[Arrays, float]]) -> np.ndarray:
    total = sum(count for _, count in replies.values())
    return sum(joined(local) * count / total for local, count in replies.values())


def test_compensated_subtracts_what_the_others_have_not_undone():
    grid = Watched()
    held, before = trained("compensated", grid, unit="model", chance=0)
    gone = held.clients[1]
    theirs = joined(contributions(grid)[gone])
    others = joined(before) - joined(INITIAL) - theirs
    share = np.clip(1 + others @ theirs / (theirs @ theirs), 0, 1)
    after = read(held.forget([gone]))
    np.testing.assert_allclose(
        joined(after), joined(before) - share * theirs, atol=1e-6
    )
    assert held.unlearn_rounds == 0
    assert held.report["form"] == "compensated"
    assert held.ledger.deviation(joined(after).astype(np.float32)) < 1e-6
    # What it left is nobody's row: another is forgotten as if there were no first.
    second = held.clients[0]
    assert held.ledger.contributions[held.clients.index(gone)].any() == 0
    held.forget([second])
    assert held.forgotten == tuple(sorted([gone, second]))


def test_parameters_are_subtracted_by_the_last_weight():
    grid = Watched()
    held, before = trained("negative_gradient", grid, form="parameters")
    gone = held.clients[2]
    last = grid.rounds[-1][1]
    local, count = last[gone]
    weight = count / sum(count for _, count in last.values())
    after = read(held.forget([gone]))
    np.testing.assert_allclose(
        joined(after), joined(before) - weight * joined(local), atol=1e-6
    )


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_renormalised_is_a_training_with_the_others_weights(momentum: float):
    """Momentum rows grow as the weights do: the next round goes on so."""
    grid = Watched()
    held, _ = trained("negative_gradient", grid, momentum=momentum, renormalise=True)
    gone = held.clients[0]
    rows = contributions(grid, momentum=momentum)
    _, replies = grid.rounds[0]
    share = replies[gone][1] / sum(count for _, count in replies.values())
    rest = sum(joined(row) for node, row in rows.items() if node != gone)
    after = held.forget([gone])
    expected = joined(INITIAL) + rest / (1 - share)
    np.testing.assert_allclose(joined(read(after)), expected, atol=2e-6)
    found = held.start(grid, after, num_rounds=1).arrays
    assert held.ledger.deviation(joined(read(found)).astype(np.float32)) < 1e-6


def test_fine_tune_goes_on_without_the_client():
    grid = Watched()
    held, before = trained("fine_tune", grid, rounds=2)
    gone = held.clients[3]
    after = held.forget([gone])
    np.testing.assert_array_equal(joined(read(after)), joined(before))
    assert held.unlearn_rounds == 2
    arrays = held.start(grid, after, num_rounds=1).arrays
    assert held.unlearn_rounds == 1
    held.start(grid, arrays, num_rounds=3)
    assert held.unlearn_rounds == 0
    assert all(gone not in replies for _, replies in grid.rounds[2:])


def test_retraining_is_the_training_without_the_client():
    """From the arrays it began with, in as many rounds, with an empty ledger."""
    grid = Watched()
    held, _ = trained("retrain", grid)
    gone, other = held.clients[:2]
    after = held.forget([gone])
    for name, array in read(after).items():
        np.testing.assert_array_equal(array, INITIAL[name])
    assert held.unlearn_rounds == 3
    grid.rounds.clear()
    again = read(held.start(grid, after, num_rounds=held.unlearn_rounds).arrays)
    only = Watched()
    only.contexts.pop(gone)
    alone = Forgettable(FedAvg(fraction_evaluate=0.0, min_train_nodes=1))
    expected = read(alone.start(only, written(INITIAL), num_rounds=3).arrays)
    for name in TRAINED:
        np.testing.assert_allclose(again[name], expected[name], atol=1e-6)
    left = read(held.forget([other]))
    np.testing.assert_array_equal(joined(left), joined(INITIAL))


def test_federaser_rebuilds_by_the_lengths_that_were():
    """Rounds 1 and 3 of three: anew, and then new ways of the old lengths."""
    grid = Watched(broken={(1, 1)})
    held, _ = trained("federaser", grid)
    gone, *stay = grid.get_node_ids()
    missed = stay[0]  # it failed in round 1
    kept = [dict(grid.rounds[0][1]), dict(grid.rounds[2][1])]
    starts = [grid.rounds[0][0], grid.rounds[2][0]]
    after = held.forget([gone])
    assert held.unlearn_rounds == 2
    grid.rounds.clear()
    grid.sent.clear()
    found = held.start(grid, after, num_rounds=1).arrays
    assert sorted(grid.asked("train")) == [2, 3]
    found = held.start(grid, found, num_rounds=1).arrays
    assert held.unlearn_rounds == 0
    (first, replies), (second, calibrated) = grid.rounds
    assert set(replies) == set(stay) - {missed}
    assert set(calibrated) == set(stay) - {missed}  # out of power again
    np.testing.assert_allclose(joined(first), joined(INITIAL))
    np.testing.assert_allclose(joined(second), mean(replies), atol=1e-6)
    step, total = 0.0, sum(count for _, count in calibrated.values())
    for node, (local, count) in calibrated.items():
        pieces = []
        for name in TRAINED:
            way = local[name].astype(np.float64) - second[name]
            was = kept[1][node][0][name].astype(np.float64) - starts[1][name]
            pieces.append(way / np.linalg.norm(way) * np.linalg.norm(was))
        step = step + count / total * np.concatenate([np.ravel(p) for p in pieces])
    np.testing.assert_allclose(joined(read(found)), joined(second) + step, atol=1e-5)
    # Rounds of repair are anybody's who stays.
    held.start(grid, found, num_rounds=2)
    assert set(grid.rounds[-1][1]) == set(stay)


def test_two_nodes_of_a_client_are_calibrated_as_one():
    grid = Watched()
    one, two, gone, last = grid.get_node_ids()
    inner = FedAvg(fraction_evaluate=0.0)
    held = Forgettable(inner, method="federaser", clients={one: 70, two: 70})
    held.start(grid, written(INITIAL), num_rounds=3)
    third = grid.rounds[2]
    after = held.forget([gone])
    grid.rounds.clear()
    found = read(held.start(grid, after, num_rounds=2).arrays)
    second, calibrated = grid.rounds[1]
    step, total = 0.0, sum(count for _, count in calibrated.values())
    for nodes in ([one, two], [last]):
        count = sum(calibrated[node][1] for node in nodes)
        way = mean({n: calibrated[n] for n in nodes}) - joined(second)
        was = mean({n: third[1][n] for n in nodes}) - joined(third[0])
        size = INITIAL["conv.weight"].size
        for part in (slice(0, size), slice(size, None)):
            way[part] *= np.linalg.norm(was[part]) / np.linalg.norm(way[part])
        step = step + count / total * way
    np.testing.assert_allclose(joined(found), joined(second) + step, atol=1e-5)


def test_a_method_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """By module and class, where the program's own modules are found."""
    (tmp_path / "halving.py").write_text(
        "from fedneg.strategies.base import LedgerFedAvg\n"
        "class Half(LedgerFedAvg):\n"
        "    def rectify(self, before, client_ids):\n"
        "        self.method_report = {'stay': self.remaining}\n"
        "        return before - 0.5 * self.ledger.contributions[list(client_ids)[0]]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    grid = Watched()
    held, _ = trained("halving:Half", grid)
    held.forget([held.clients[3]])
    before, gone = read(held.arrays), held.clients[0]
    expected = joined(before) - 0.5 * joined(contributions(grid)[gone])
    np.testing.assert_allclose(joined(read(held.forget([gone]))), expected, atol=1e-6)
    assert held.report == {"stay": (1, 2)}  # rows, in the order of `clients`


def test_what_is_saved_says_by_which_method(tmp_path: Path):
    grid = Watched()
    held, before = trained("negative_gradient", grid, form="parameters")
    held.save(tmp_path)
    again = Forgettable.load(
        tmp_path, FedAvgM(fraction_evaluate=0.0, server_momentum=0)
    )
    gone = held.clients[1]
    np.testing.assert_allclose(
        joined(read(again.forget([gone]))), joined(read(held.forget([gone]))), atol=1e-6
    )
    assert not np.allclose(joined(read(again.arrays)), joined(before))


def test_rounds_that_are_to_come_are_not_saved(tmp_path: Path):
    grid = Watched()
    held, _ = trained("federaser", grid)
    after = held.forget([held.clients[0]])
    with pytest.raises(FedNegError, match="2 rounds of the last forgetting are still"):
        held.save(tmp_path)
    held.start(grid, after, num_rounds=2)
    held.save(tmp_path)


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        (
            "nothing_like_it",
            {},
            "must be one of compensated, dampening, do_nothing, federaser, fine_tune, ",
        ),
        ("random_init", {}, "needs a task, whose model it draws anew, which"),
        ("puf", {}, "method=puf needs the leaving clients' part"),
        (
            "compensated",
            {"unit": "moon"},
            r"d: options\['unit'\] must be one of model, layer",
        ),
        ("compensated", {"moon": 1}, r"compensated: unknown key options\['moon'\]$"),
        (
            "gradient_ascent",
            {},
            "method=gradient_ascent needs the leaving clients' part",
        ),
        ("federaser", {"storage": "updates"}, "needs updates of whole rounds"),
        ("counterfactual", {}, "needs the last rounds' updates"),
        ("distillation", {}, "method=distillation needs a task"),
    ],
)
def test_a_method_that_cannot_be_is_a_line(
    method: str, options: dict[str, object], said: str
):
    with pytest.raises(FedNegError, match=said) as caught:
        Forgettable(FedAvg(), method=method, options=options)
    assert "\n" not in str(caught.value)


def test_what_fails_while_forgetting_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object) -> NoReturn:
        raise FedNegError("halfway")

    grid = Watched()
    held, before = trained("compensated", grid)
    with monkeypatch.context() as patch:
        patch.setattr(Compensated, "rectify", broken)
        with pytest.raises(FedNegError, match="halfway"):
            held.forget([held.clients[0]])
    np.testing.assert_array_equal(joined(read(held.arrays)), joined(before))
    assert held.forgotten == ()
    with pytest.raises(FedNegError, match="scale is of a plain subtraction"):
        held.forget([held.clients[0]], scale=0.5)


def test_only_who_asks_for_a_method_imports_torch():
    code = (
        "import sys; from fedneg import Forgettable; from flwr.serverapp.strategy "
        "import FedAvg; Forgettable(FedAvg()); print('torch' in sys.modules)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert found.stdout == "False\n"
