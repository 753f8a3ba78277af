"""What nobody trains: the strategy's own while rounds run, and then of who stays."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, Context, Message, RecordDict
from flwr.serverapp.strategy import (
    Bulyan,
    FedAvg,
    FedMedian,
    FedTrimmedAvg,
    Krum,
    MultiKrum,
    Strategy,
)

from builders.flower_strategies import ATTRIBUTED, HELD, Case
from builders.strangers import INITIAL, Arrays, Watched, flat, read, trained, written
from builders.waiting import PATIENCE_S
from fedneg import Forgettable

RUNNING = ("bn.running_mean", "bn.running_var")
COUNTER = "bn.num_batches_tracked"
TABLE = HELD | ATTRIBUTED
# Whose statistics are far off, and what they are.
LIAR, LIE = 1, 1e4


pytestmark = pytest.mark.usefixtures("small_heap")


def lying(message: Message, context: Context, call_next: Any) -> Message:
    """Let one client send statistics that it made up."""
    reply: Message = call_next(message, context)
    if context.node_config["partition-id"] == LIAR and reply.has_content():
        arrays = next(iter(reply.content.array_records.values()))
        for name in RUNNING:
            lie = np.full(arrays[name].shape, LIE, arrays[name].dtype)
            arrays[name] = Array(lie)
    return reply


def loading(message: Message, context: Context, call_next: Any) -> Message:
    """Let clients have whole numbers in their own type, as load_state_dict does."""
    sent = message.content
    arrays = read(sent.array_records["arrays"])
    if COUNTER in arrays:
        arrays[COUNTER] = arrays[COUNTER].astype(INITIAL[COUNTER].dtype)
    message.content = RecordDict({**sent, "arrays": written(arrays)})
    reply: Message = call_next(message, context)
    message.content = sent
    return reply


def liar_in(clients: int, mods: tuple[Any, ...] = ()) -> Watched:
    return Watched(clients, mods=(*mods, loading, lying))


def bytes_of(arrays: Arrays) -> dict[str, tuple[Any, ...]]:
    return {n: (a.dtype, a.shape, a.tobytes()) for n, a in arrays.items()}


@pytest.mark.parametrize("fraction", [0.5, 1.0])
@pytest.mark.parametrize("case", TABLE.values(), ids=TABLE)
def test_what_is_handed_out_is_what_the_plain_strategy_hands_out(
    case: Case, fraction: float
):
    """Byte for byte, every round, of a network with BatchNorm; counters rounded."""
    handed_out = []
    for wrapped in (lambda one: one, Forgettable):
        grid = liar_in(case.clients, case.mods)
        random.seed(5)  # Flower samples by it
        inner = case.strategy(fraction_train=fraction)
        arrays = written(case.initial)
        result = wrapped(inner).start(grid, arrays, 3, PATIENCE_S)
        models = [before for before, _ in grid.rounds] + [read(result.arrays)]
        handed_out.append(models)
    for expected, found in zip(*handed_out, strict=True):
        if COUNTER in expected:
            whole = np.rint(expected[COUNTER])
            expected[COUNTER] = np.asarray(whole, INITIAL[COUNTER].dtype)
        assert bytes_of(found) == bytes_of(expected)


def test_with_a_state_it_is_that_to_rounding(tmp_path: Path):
    """Files hold float32; after a restart, too."""
    plain, held = liar_in(4), liar_in(4)
    FedMedian(fraction_evaluate=0.0).start(plain, written(INITIAL), 3, PATIENCE_S)
    for rounds in (1, 3):
        Forgettable(FedMedian(fraction_evaluate=0.0), state=tmp_path / "state").start(
            held, written(INITIAL), rounds, PATIENCE_S
        )
    for (expected, _), (found, _) in zip(plain.rounds, held.rounds, strict=True):
        assert found[COUNTER] == np.rint(expected[COUNTER])
        for name in RUNNING:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-6)


def rows_of(grid: Watched, gone: int) -> dict[str, np.ndarray]:
    """Return what each client that stays sent last, in the order of the nodes."""
    last = grid.rounds[-1][1]
    return {
        name: np.stack([last[k][0][name] for k in sorted(last) if k != gone])
        for name in (*RUNNING, COUNTER)
    }


def median(grid: Watched, gone: int, name: str) -> np.ndarray:
    return np.median(rows_of(grid, gone)[name], axis=0)


def trimmed(grid: Watched, gone: int, name: str) -> np.ndarray:
    """Three stay, or seven, of which three tenths are cut at each end."""
    rows = np.sort(rows_of(grid, gone)[name], axis=0)
    cut = int(0.3 * len(rows))
    return rows[cut : len(rows) - cut].mean(axis=0)


def mean(grid: Watched, gone: int, name: str) -> np.ndarray:
    last = grid.rounds[-1][1]
    stay = [last[k] for k in sorted(last) if k != gone]
    total = sum(count for _, count in stay)
    return np.asarray(sum(local[name] * count / total for local, count in stay))


@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        (FedAvg(fraction_evaluate=0.0), mean),
        (FedMedian(fraction_evaluate=0.0), median),
        (FedTrimmedAvg(fraction_evaluate=0.0, beta=0.3), trimmed),
        (Bulyan(fraction_evaluate=0.0, num_malicious_nodes=1), median),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, Strategy) else "",
)
def test_after_forgetting_it_is_made_as_before_of_who_stays(
    inner: Strategy, expected: Callable[[Watched, int, str], np.ndarray], tmp_path: Path
):
    """Computed again from the messages; what goes on from files is told the same."""
    grid = liar_in(8)
    held, arrays = trained(inner, grid)
    gone = sorted(held.clients)[0]
    held.save(tmp_path)
    loaded = Forgettable.load(tmp_path, inner)
    after = read(held.forget([gone], arrays))
    for name in RUNNING:
        np.testing.assert_allclose(after[name], expected(grid, gone, name), rtol=1e-5)
        is_believed = bool(np.abs(after[name]).max() > LIE / 100)
        assert is_believed == isinstance(inner, FedAvg) & (expected is mean)
    assert after[COUNTER].dtype == INITIAL[COUNTER].dtype
    assert after[COUNTER] == np.rint(expected(grid, gone, COUNTER))
    same = read(loaded.forget([gone], arrays))
    assert {n: a.tobytes() for n, a in same.items()} == {
        n: a.tobytes() for n, a in after.items()
    }


@pytest.mark.parametrize("count", [1, 2], ids=["Krum", "MultiKrum"])
def test_who_is_not_chosen_has_no_say_in_it_afterwards(count: int):
    """The mean of the last that were chosen of each who stays, weighed as then."""
    grid = liar_in(8)
    inner: Strategy = (
        Krum(fraction_evaluate=0.0, num_malicious_nodes=1)
        if count == 1
        else MultiKrum(
            fraction_evaluate=0.0, num_malicious_nodes=1, num_nodes_to_select=2
        )
    )
    held, arrays = trained(inner, grid, rounds=6)
    # By hand: who of a round was chosen, by what came of it.
    last: dict[int, tuple[Arrays, float]] = {}
    models = [*[before for before, _ in grid.rounds][1:], read(arrays)]
    for (_, replies), after in zip(grid.rounds, models, strict=True):
        chosen = chosen_in(replies, after, count)
        examples = sum(replies[node][1] for node in chosen)
        last |= {k: (replies[k][0], replies[k][1] / examples) for k in chosen}
    assert len(last) > 1
    gone = chosen[0]  # of the last round, so that what is left is of earlier ones
    after = read(held.forget([gone], arrays))
    stay = [last[k] for k in sorted(last) if k != gone]
    total = sum(share for _, share in stay)
    for name in RUNNING:
        expected = sum(local[name] * share / total for local, share in stay)
        np.testing.assert_allclose(after[name], expected, rtol=1e-4, atol=1e-6)


def chosen_in(
    replies: dict[int, tuple[Arrays, float]], after: Arrays, count: int
) -> tuple[int, ...]:
    """Return the one or two nodes of whose models another one is the mean."""
    found = []
    for one in replies:
        for two in replies if count == 2 else (one,):
            (a, n), (b, m) = replies[one], replies[two]
            share = m / (n + m)
            by = [a[k] + share * (b[k] - a[k].astype(np.float64)) for k in RUNNING]
            is_it = all(
                np.allclose(x, after[k], rtol=1e-5)
                for x, k in zip(by, RUNNING, strict=True)
            )
            if is_it and (one < two or count == 1):
                found.append((one, two) if count == 2 else (one,))
    (chosen,) = found
    return chosen


def test_where_nobody_chosen_stays_nobody_else_is_believed_alone():
    """Krum chose one, who leaves: then it is the median of the others."""
    grid = liar_in(8)
    held, arrays = trained(
        Krum(fraction_evaluate=0.0, num_malicious_nodes=1), grid, rounds=1
    )
    (chosen,) = chosen_in(grid.rounds[0][1], read(arrays), 1)
    after = read(held.forget([chosen], arrays))
    for name in RUNNING:
        expected = median(grid, chosen, name)
        np.testing.assert_allclose(after[name], expected, rtol=1e-6)


def test_the_model_of_a_folder_from_before_is_the_mean_of_its_rows(tmp_path: Path):
    """A ledger whose files do not say what the strategy made of it."""
    held, arrays = trained(FedAvg(fraction_evaluate=0.0), Watched())
    assert held.ledger is not None
    held.ledger.statistics.made = None
    held.save(tmp_path)
    found = Forgettable.load(tmp_path, FedAvg(fraction_evaluate=0.0)).arrays
    np.testing.assert_allclose(flat(found), flat(arrays), rtol=1e-6)
    for name in RUNNING:
        np.testing.assert_allclose(read(found)[name], read(arrays)[name], rtol=1e-5)
