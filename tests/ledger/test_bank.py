"""A bank of updates: by hand, against the history that it stands for, and kept."""

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest

from fedneg.ledger.bank import DECAYS, Bank, aged, fitted
from fedneg.ledger.checkpoint import Checkpoints
from fedneg.ledger.ledger import Ledger

CLIENTS, SIZE = 3, 5


def trained(recent: int, rounds: int) -> tuple[Ledger, list[dict[int, np.ndarray]]]:
    """Return a ledger after some rounds, and each one's weighted updates."""
    bank = Bank(recent, clients=CLIENTS, size=SIZE)
    start = np.zeros(SIZE, np.float32)
    ledger = Ledger(start, clients=CLIENTS, learning_rate=0.5, bank=bank)
    rng, model, parts = np.random.default_rng(1), start, []
    for number in range(1, rounds + 1):
        there = [k for k in range(CLIENTS) if (k + number) % 3 or number > 4]
        local = {k: model + rng.normal(size=SIZE).astype(np.float32) for k in there}
        before = model
        model = ledger.record(number, model, local, {k: k + 1 for k in there})
        weights = ledger.participation[-1].weights
        parts.append({k: 0.5 * weights[k] * (local[k] - before) for k in there})
    return ledger, parts


def expected(parts: list[dict[int, np.ndarray]], decay: float, client: int):
    """Return what a sum is, from the history of the rounds that are in it."""
    ages = range(len(parts) - 1, -1, -1)
    zero = np.zeros(SIZE)
    return sum(decay**a * p.get(client, zero) for a, p in zip(ages, parts, strict=True))


@pytest.mark.parametrize("recent", [1, 3])
@pytest.mark.parametrize("rounds", [2, 9])
def test_sums_age_and_begin_behind_what_is_recent(recent: int, rounds: int):
    ledger, parts = trained(recent, rounds)
    old = parts[:-recent]
    for place, decay in enumerate(DECAYS):
        for k in range(CLIENTS):
            found = ledger.bank.sum_of(place, k)
            np.testing.assert_allclose(found, expected(old, decay, k), atol=1e-6)
    assert ledger.bank.streams == list(range(max(1, rounds - recent + 1), rounds + 1))
    for ago in range(1, min(recent, rounds) + 1):
        weights = ledger.participation[-ago].weights
        for k, part in parts[-ago].items():
            found = 0.5 * weights[k] * ledger.bank.update_of(ago, k)
            np.testing.assert_allclose(found, part, atol=1e-6)


def test_what_is_recent_can_be_undone_and_other_rounds_come_in_its_place():
    ledger, parts = trained(2, 6)
    ledger.bank.undo()
    del ledger.participation[4:]
    assert (ledger.bank.rounds, ledger.bank.streams) == (4, [])
    model = np.zeros(SIZE, np.float32)
    for number in (7, 8, 9):
        local = {0: model + np.float32(number)}
        ledger.record(number, model, local, {0: 1})
    old = [*parts[:4], {0: np.full(SIZE, 3.5)}]
    found = ledger.bank.sum_of(1, 0)
    np.testing.assert_allclose(found, expected(old, DECAYS[1], 0), atol=1e-6)
    assert ledger.bank.streams == [8, 9]
    assert ledger.bank.update_of(1, 0).tolist() == [9] * SIZE
    assert ledger.bank.update_of(2, 0).tolist() == [8] * SIZE


def test_of_who_is_forgotten_no_row_is_left_and_the_others_keep_theirs():
    ledger, parts = trained(2, 6)
    model = ledger.rebuilt()
    assert all(row.any() for _, row in ledger.bank.rows_of(1))
    ledger.forget([1], before=model, after=model, spread=2.0)
    assert len(list(ledger.bank.rows_of(1))) == len(DECAYS) + 2
    assert not any(row.any() for _, row in ledger.bank.rows_of(1))
    for k in (0, 2):
        found = ledger.bank.sum_of(2, k)
        np.testing.assert_allclose(
            found, 2 * expected(parts[:-2], DECAYS[2], k), atol=1e-6
        )


def test_totals_are_the_sums_of_all_clients():
    ledger, parts = trained(1, 5)
    for decay, found in zip(DECAYS, ledger.bank.totals(), strict=True):
        total = sum(expected(parts[:-1], decay, k) for k in range(CLIENTS))
        np.testing.assert_allclose(found, total, atol=1e-6)


@pytest.mark.parametrize("rounds", [5, 9, 30, 100])
@pytest.mark.parametrize(("power", "bound"), [(0.25, 0.006), (0.5, 0.01)])
def test_the_sums_follow_powers_of_age(rounds: int, power: float, bound: float):
    left = 1 - np.linspace(0, 0.95, 96)
    slowing = left ** (-1 / power) - 1
    wanted = (1 + np.arange(rounds)[:, None] * slowing) ** -power
    found = aged(np.arange(rounds)) @ fitted(wanted)
    assert np.abs(found - wanted).max() < (1e-12 if rounds == 5 else bound)


def test_where_nothing_is_summed_the_weights_need_not_be_right():
    """Of thirty ages five count, and there are five sums: any weights of these."""
    wanted, sizes = np.zeros((30, 1)), np.zeros(30)
    there = [0, 2, 3, 11, 29]
    wanted[there, 0], sizes[there] = [1.0, 0.0, 2.0, 0.5, 1.5], [3, 1, 2, 2, 1]
    found = aged(np.arange(30)) @ fitted(wanted, sizes)
    np.testing.assert_allclose(found[there], wanted[there], atol=1e-9)


def same(one: Bank, other: Bank) -> bool:
    """Return whether two banks hold the same."""
    arrays = zip(one.arrays().values(), other.arrays().values(), strict=True)
    return one.facts() == other.facts() and all(np.array_equal(a, b) for a, b in arrays)


def empty(recent: int) -> Ledger:
    """Return the ledger of `trained` before its first round."""
    return trained(recent, 0)[0]


def test_it_goes_into_a_checkpoint_and_goes_on(tmp_path: Path):
    ledger, _ = trained(2, 6)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.write(6, ledger.rebuilt(), ledger, {})
    restored = empty(2)
    assert checkpoints.restore(restored) is not None
    assert same(restored.bank, ledger.bank)
    rows = checkpoints.rows(6, 1)
    assert rows["bank 4"].tolist() == ledger.bank.sum_of(1, 1).tolist()
    assert rows["recent 1"].tolist() == ledger.bank.whole[1].tolist()
    kept = {name for name in rows if name.split()[0] in ("bank", "recent")}
    assert kept == {*(f"bank {n}" for n in (1, 4, 7, 10)), "recent 1", "recent 4"}


@pytest.mark.parametrize("recent", [1, 3])
def test_another_bank_begins_empty_where_a_checkpoint_has_none(
    recent: int, tmp_path: Path
):
    """And so does none at all: whoever needs it finds that rounds are missing."""
    ledger, _ = trained(2, 6)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.write(6, ledger.rebuilt(), ledger, {})
    restored = empty(recent)
    assert checkpoints.restore(restored) is not None
    assert (restored.bank.rounds, len(restored.participation)) == (0, 6)
    assert not any(rows.any() for rows in restored.bank.arrays().values())
    without = empty(0)
    assert checkpoints.restore(without) is not None
    assert without.bank.nbytes == 0


def test_a_copy_is_its_own_and_counts_its_bytes(tmp_path: Path):
    bank = Bank(1, clients=CLIENTS, size=SIZE, folder=tmp_path)
    ledger = Ledger(
        np.zeros(SIZE, np.float32),
        clients=CLIENTS,
        keep_local=False,
        bank=bank,
        folder=tmp_path,
    )
    local = {k: np.full(SIZE, k, np.float32) for k in range(CLIENTS)}
    for number in (1, 2):
        ledger.record(number, ledger.initial, local, dict.fromkeys(local, 1))
    copy = deepcopy(ledger)
    assert isinstance(copy.bank.sums, np.memmap)
    assert same(copy.bank, ledger.bank)
    copy.bank.start_over()
    assert ledger.bank.sum_of(0, 2).any()
    assert ledger.num_bytes == (CLIENTS * (1 + len(DECAYS) + 1) + 1) * SIZE * 4
