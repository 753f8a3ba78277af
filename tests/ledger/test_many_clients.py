"""Many clients: rows on the disk, a fraction in a round, memory that is bounded."""

import errno
import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from builders.federations import INITIAL, Bench, RecordingGrid, honest, small_config
from builders.waiting import PATIENCE_S, until
from fedneg.client_app import app as client_app
from fedneg.core.errors import FedNegError
from fedneg.core.progress import Progress
from fedneg.federation import Federation
from fedneg.ledger import rows
from fedneg.ledger.ledger import Ledger
from fedneg.ledger.rows import Vectors, make_rows, release
from fedneg.strategies.hooks import NO_HOOKS, Hooks
from fedneg.strategies.replies import Reply, _median_of_others, _update_norms, absurd
from fedneg.strategies.sampling import sample

EMPTY = np.empty(0, np.float32)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a cache folder of this test's own."""
    monkeypatch.setenv("FEDNEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def large_bench(*overrides: str, hooks: Hooks = NO_HOOKS) -> Bench:
    """Return a federation of 12 made-up clients."""
    config = small_config("clients=12", "forget=null", *overrides)
    return Bench(config, INITIAL, {k: honest(k) for k in range(12)}, hooks=hooks)


# -- rows -----------------------------------------------------------------------------


def test_rows_on_the_disk_are_zeros_that_keep_what_is_written(tmp_path: Path):
    made = make_rows(3, 5, tmp_path / "new")
    assert isinstance(made, np.memmap)
    assert not made.any()
    made[1] = 7
    release(made)
    assert made.tolist() == [[0] * 5, [7] * 5, [0] * 5]
    # The file has no name, so that nothing is left however the process ends.
    assert list((tmp_path / "new").iterdir()) == []


def test_rows_that_the_disk_cannot_hold_are_refused_before_they_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A map of a file that finds the disk full later would end the process."""

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(FedNegError, match=r"2 rows .* No space left on device"):
            make_rows(2, 2, tmp_path)
    with pytest.raises(FedNegError, match=r"cannot hold 1000000000 rows .* bytes: "):
        make_rows(10**9, 10**9, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(FedNegError, match="cannot hold 2 rows of 2 numbers, 16 bytes"):
        make_rows(2, 2, tmp_path / "file")


def test_vectors_are_a_mapping_that_forgets_thoroughly():
    store = make_rows(2, 3)
    made = Vectors(store)
    made[7] = np.array([1, 2, 3], np.float32)
    made[4] = np.array([4, 5, 6], np.float32)
    made[7] = np.array([7, 8, 9], np.float32)
    assert {k: v.tolist() for k, v in made.items()} == {4: [4, 5, 6], 7: [7, 8, 9]}
    del made[4]
    assert list(made) == [7]
    assert sorted(store.sum(1).tolist()) == [0, 24]
    made[5] = np.ones(3, np.float32)
    assert made[5].tolist() == [1, 1, 1]
    with pytest.raises(KeyError):
        made[4]


# -- a ledger beyond memory -----------------------------------------------------------


@pytest.mark.parametrize("momentum", ["0", "0.9"])
@pytest.mark.parametrize("form", ["update", "parameters"])
def test_a_ledger_on_the_disk_gives_the_same_bytes(
    cache: Path, momentum: str, form: str
):
    found = []
    for mib in (2048, 0):
        made = large_bench(
            f"strategy.ledger_memory_mib={mib}",
            f"strategy.server_momentum={momentum}",
            f"strategy.form={form}",
        )
        is_map = isinstance(made.strategy.ledger.contributions, np.memmap)
        assert is_map == (mib == 0)
        made.train(3)
        made.unlearn(2, 5)
        ledger = made.strategy.ledger
        found.append(
            (
                [a.tobytes() for a in made.after],
                {k: a.tobytes() for k, a in ledger.arrays().items() if k != "local"},
                {k: v.tobytes() for k, v in ledger.local.items()},
            )
        )
    assert found[0] == found[1]


def test_blocks_change_no_bit(monkeypatch: pytest.MonkeyPatch):
    """However the numbers are dealt out to blocks and threads."""
    found = set()
    for block in (1, 3, 1 << 15):
        monkeypatch.setattr("fedneg.ledger.ledger.BLOCK", block)
        made = large_bench("strategy.server_momentum=0.5")
        found.add(made.train(2).tobytes())
    assert len(found) == 1


def test_forgetting_reads_the_rows_of_the_forgotten_only():
    """Whatever lies in the other rows."""
    made = large_bench()
    before = made.train(2)
    row = made.strategy.ledger.contributions[3].copy()
    made.strategy.ledger.contributions[[k for k in range(12) if k != 3]] = np.nan
    np.testing.assert_allclose(made.unlearn(3), before - row, rtol=1e-6, atol=1e-7)


MEASURE = """
import os, sys
from pathlib import Path
import numpy as np
from fedneg.ledger.ledger import Ledger
from fedneg.ledger.rows import make_rows, release

clients, size, rounds, folder = int(sys.argv[1]), 400_000, int(sys.argv[2]), sys.argv[3]

def resident():
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

ledger = Ledger(
    np.zeros(size, np.float32), clients=clients, keep_local=False, folder=Path(folder)
)
waiting = make_rows(clients, size, Path(folder))
model = ledger.initial
for number in range(1, rounds + 1):
    for k in range(clients):
        waiting[k] = model + np.float32(k + 1)
        release(waiting)
    local = {k: waiting[k] for k in range(clients)}
    model = ledger.record(number, model, local, dict.fromkeys(range(clients), 1))
    release(waiting)
assert abs(ledger.contributions[1, 5] - rounds * 2 / clients) < 1e-4
ledger.release()
print(resident())
"""


def test_resident_memory_grows_neither_with_rounds_nor_with_clients(tmp_path: Path):
    """30 more clients are 96 MB of rows, 8 more rounds 512 MB of updates."""

    def resident(clients: int, rounds: int) -> int:
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(clients), str(rounds), str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=True,
        )
        return int(done.stdout)

    few = resident(10, 2)
    assert resident(40, 2) - few < 16e6
    assert resident(10, 10) - few < 16e6


def test_a_release_in_the_middle_loses_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch
):
    """Pages are given back after every block, while other threads write theirs."""
    counted = []
    plain = rows.release
    monkeypatch.setattr(
        "fedneg.ledger.ledger.release", lambda r: (counted.append(1), plain(r))
    )
    monkeypatch.setattr("fedneg.ledger.ledger.BLOCK", 1)
    made = large_bench("strategy.ledger_memory_mib=0")
    made.train(2)
    assert len(counted) > 16
    np.testing.assert_allclose(
        made.strategy.ledger.rebuilt(), made.model, rtol=0, atol=1e-5
    )


# -- a fraction of the clients --------------------------------------------------------


@pytest.mark.parametrize(
    ("fraction", "size"), [(0.25, 3), (0.01, 1), (0.3, 4), (0.99, 12), (1.0, 12)]
)
def test_so_many_clients_train_in_a_round(fraction: float, size: int):
    made = large_bench(f"strategy.client_fraction={fraction}")
    made.train(3)
    asked = made.grid.asked("train")
    rounds = [asked[k : k + size] for k in range(0, len(asked), size)]
    assert len(rounds) == 3
    assert all(len(set(ids)) == size for ids in rounds)
    for report, entry in zip(
        made.strategy.reports, made.strategy.ledger.participation, strict=True
    ):
        assert report.clients == size
        assert report.bytes_down == report.bytes_up == size * made.model.nbytes
        assert sum(entry.weights.values()) == pytest.approx(1)


def test_samples_depend_on_seed_and_round_only():
    def sampled(*overrides: str) -> list[int]:
        made = large_bench("strategy.client_fraction=0.25", *overrides)
        made.train(4)
        return made.grid.asked("train")

    first = sampled()
    assert sampled() == first
    assert sampled("seed=1") != first
    assert len({tuple(sorted(first[k : k + 3])) for k in range(0, 12, 3)}) > 1


@given(
    st.sets(st.integers(0, 11), min_size=1, max_size=12),
    st.integers(1, 50),
    st.floats(0.01, 1),
)
def test_a_retraining_samples_the_others_as_the_training_did(
    clients: set[int], stream: int, fraction: float
):
    """Who stays is asked again, but for the places of those who left."""
    settings = replace(SAMPLED.strategy, client_fraction=fraction)
    config = replace(SAMPLED, strategy=settings)
    everybody = sample(config, range(12), stream)
    remaining = sample(config, sorted(clients), stream)
    assert set(remaining) <= clients
    assert len(remaining) == max(1, round(fraction * len(clients)))
    kept = [k for k in everybody if k in clients]
    if len(kept) <= len(remaining):
        assert set(kept) <= set(remaining)
    else:
        assert set(remaining) <= set(kept)


SAMPLED = small_config("clients=12", "forget=null")


def test_hundreds_of_clients_with_failures_and_a_split_of_writers(cache: Path):
    """More clients than writers, a tenth of them in a round, and one that fails."""
    config = small_config(
        *("clients=200", "data.split_writers=true", "forget=[7]", "rounds=2"),
        *("strategy.client_fraction=0.1", "strategy.ledger_memory_mib=0"),
    )
    grid = RecordingGrid(client_app, 200)
    federation = Federation(grid, config, Progress("", 0, Console(file=io.StringIO())))
    first = sample(federation.config, range(200), 1)
    grid.silent = {first[0]}
    original = federation.train()
    reports = federation.strategy.reports
    assert reports[0].clients == 19
    assert [f.client_id for f in reports[0].failures] == [first[0]]
    ledger = federation.strategy.ledger
    took_part = {k for entry in ledger.participation for k in entry.weights}
    assert {k for k in range(200) if ledger.contributions[k].any()} == took_part
    unlearned = federation.unlearn(original, sorted(took_part)[:1])
    assert unlearned.tobytes() != original.tobytes()


# -- what is believed of many ---------------------------------------------------------


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=30))
def test_medians_of_others_are_those_of_the_naive_way(values: list[float]):
    norms = np.array(values)
    naive = [np.median(np.delete(norms, k)) for k in range(len(norms))]
    np.testing.assert_array_equal(_median_of_others(norms), naive)


def test_thousands_of_norms_are_judged_without_a_square_of_work():
    norms = np.ones(3000)
    norms[17] = 1e4
    replies = {
        k: Reply(EMPTY, EMPTY, 1, {}, (norm,)) for k, norm in enumerate(norms.tolist())
    }
    assert list(absurd(replies, 100)) == [17]


@given(st.integers(-44, 37), st.integers(1, 40))
def test_norms_are_right_from_the_shortest_to_the_longest_update(power: int, size: int):
    """float32 cannot hold the square of either."""
    update = np.full(size, 10.0**power, np.float32)
    expected = float(np.linalg.norm(update.astype(np.float64)))
    found = _update_norms(update, np.zeros(size, np.float32), ((size,),))
    assert found == (pytest.approx(expected, rel=1e-5, abs=0),)


def test_an_updates_norm_is_known_of_each_array_and_of_the_whole():
    local = np.array([3, 4, 1, 12], np.float32)
    before = np.array([0, 0, 1, 0], np.float32)
    norms = _update_norms(local, before, ((2, 1), (1,), (1,)))
    assert norms == (5, 0, 12)
    assert Reply(local, EMPTY, 1, {}, norms).norm == 13


# -- what a person sees of a long round -----------------------------------------------


def test_a_terminal_shows_how_many_clients_have_answered():
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Progress("many", 1, console) as progress:
        progress.step("training")
        progress.clients(3, 12)
        progress.clients(4, 12)
        progress.clients(12, 12)
        said = "12 of 12 clients have answered"
        assert until(said, lambda: said in console.file.getvalue())


def test_plain_lines_do_not_tell_every_client():
    console = Console(file=io.StringIO())
    with Progress("many", 1, console) as progress:
        progress.clients(3, 12)
    assert console.file.getvalue() == ""


def test_every_reply_is_told():
    told: list[tuple[int, int]] = []
    hooks = Hooks(on_reply=lambda done, of: told.append((done, of)))
    made = large_bench("strategy.client_fraction=0.25", hooks=hooks)
    made.train(1)
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_ledger_keeps_no_local_models_unless_asked():
    ledger = Ledger(np.zeros(4, np.float32), clients=3, keep_local=False)
    ledger.record(1, ledger.initial, {0: np.ones(4, np.float32)}, {0: 1})
    assert (len(ledger.local), ledger.num_bytes) == (0, (3 + 1) * 16)
