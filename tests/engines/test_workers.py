"""Worker processes: what is handed over, what happens when one dies."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict

from builders.checkout import TESTS
from builders.federations import SMALL, small_config
from builders.programs import command, processes_in, processes_left_in
from builders.waiting import no_longer_than_patience, until
from fedneg.cli.run import uses_workers
from fedneg.client_app import app as client_app
from fedneg.core.errors import FedNegError
from fedneg.engines import worker, workers
from fedneg.engines.channel import LARGE
from fedneg.engines.inline import InlineGrid
from fedneg.engines.local import LocalGrid
from fedneg.engines.simulate import simulate
from fedneg.engines.workers import WorkerPool
from fedneg.server_app import run

MODELS = ("original", "unlearned", "recovered", "retrained")


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    """Yield two workers that `act`."""
    made = WorkerPool(2, "processes.worker_actions:act")
    yield made
    made.close()


def is_alive(pid: int) -> bool:
    """Return whether a process is there and not a zombie."""
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def who_answers(pool: WorkerPool) -> set[int]:
    """Return the process ids of the workers, once all of them have come up."""
    found: set[int] = set()

    def all_answered() -> bool:
        answers = pool.run([b""], [[b"pid"]] * 4)
        found.update(int(answer[0]) for _, answer in answers)
        return found >= set(pool.pids)

    until("all workers to answer", all_answered)
    return found


def test_every_request_gets_its_own_answer(pool: WorkerPool):
    requests = [b"a", b"", b"c" * 3_000_000, b"d"]
    found = dict(pool.run([b"S"], [[request] for request in requests]))
    assert found == {k: [b"S|" + request] for k, request in enumerate(requests)}


def test_a_message_keeps_its_parts_apart(pool: WorkerPool):
    """Empty ones too, more than the system sends in one go, and very large ones."""
    parts = [b"", b"\0", *(bytes([k % 256]) * k for k in range(1500)), b"x" * 5_000_000]
    assert dict(pool.run([b""], [[b"a", *parts]])) == {0: [b"|a", *parts]}


def test_requests_are_spread_over_all_workers(pool: WorkerPool):
    """Each as soon as it has come up."""
    assert who_answers(pool) == set(pool.pids)


def test_shared_bytes_reach_a_worker_once(pool: WorkerPool):
    """However many requests: each worker counts one object, then two."""
    for shared, seen in (b"x", {b"1"}), (b"y", {b"1", b"2"}):
        answers = [answer[0] for _, answer in pool.run([shared], [[b"seen"]] * 9)]
        assert set(answers) <= seen
        assert len(answers) == 9


def test_a_worker_that_dies_is_replaced_and_the_rest_goes_on(pool: WorkerPool):
    before = pool.pids
    found = dict(pool.run([b""], [[b"a"], [b"die 3"], [b"c"], [b"d"]]))
    assert found[1] == "the worker process ended with code 3"
    assert [found[k] for k in (0, 2, 3)] == [[b"|a"], [b"|c"], [b"|d"]]
    assert len(set(pool.pids) & set(before)) == 1
    assert dict(pool.run([b""], [[b"e"], [b"f"]])) == {0: [b"|e"], 1: [b"|f"]}


def test_a_killed_worker_is_found_dead(pool: WorkerPool):
    assert who_answers(pool) == set(pool.pids)
    os.kill(pool.pids[0], signal.SIGKILL)
    found = dict(pool.run([b""], [[b"a"], [b"b"], [b"c"]]))
    assert sum(isinstance(answer, str) for answer in found.values()) <= 1
    assert len(found) == 3
    assert all(is_alive(pid) for pid in pool.pids)


def test_a_worker_that_cannot_come_up_ends_the_run_with_what_it_said():
    """Nobody starts it again and again; and the pool stays of no use."""
    made = WorkerPool(2, "no_such_module:act")
    first = made.pids
    for _ in range(2):
        with pytest.raises(FedNegError, match="cannot be started") as raised:
            list(made.run([b""], [[b"a"]] * 9))
        assert "ended with code 1: " in str(raised.value)
        assert str(raised.value).endswith("No module named 'no_such_module'")
        assert "\n" not in str(raised.value)
        assert made.pids == []
    assert not any(map(is_alive, first))


def test_workers_that_die_again_and_again_are_given_up(pool: WorkerPool):
    """What dies between answers may be the requests' fault, and goes on."""
    requests = [[b"die 3"], [b"a"]] * workers.DEATHS
    assert len(dict(pool.run([b""], requests))) == len(requests)
    with pytest.raises(
        FedNegError, match=r"^10 workers in a row gave no answer: .* 3$"
    ):
        list(pool.run([b""], [[b"die 3"]] * 50))
    assert pool.pids == []


def test_the_last_words_of_a_worker_come_with_its_end(pool: WorkerPool):
    words = [b"say one\ntwo\33[2J\n" + b"x" * 10_000]
    assert dict(pool.run([b""], [words])) == {0: [b"|" + words[0]]}
    made = WorkerPool(1, "processes.worker_actions:act")
    try:
        list(made.run([b""], [words, [b"say three\n\n\33[2J four"]]))
        answer = dict(made.run([b""], [[b"die 3"]]))[0]
        assert answer == ("the worker process ended with code 3: three / ?[2J four / !")
        list(made.run([b""], [words]))
        assert len(dict(made.run([b""], [[b"die 3"]]))[0]) < 500
    finally:
        made.close()


def test_what_workers_say_is_no_output_and_has_an_end(
    pool: WorkerPool, capfd: pytest.CaptureFixture[str]
):
    """A worker is not held up by nobody reading, nor the run by one that talks on."""
    requests = [[b"say %030d" % k] for k in range(9000)] + [[b"mumble 1000000"]]
    assert len(dict(pool.run([b""], requests))) == len(requests)
    out, err = capfd.readouterr()
    assert out == ""
    assert "000000\n" in err
    # By one worker at least, however fast the other came up.
    assert err.count("left out") in (1, 2)
    assert len(err) < 4 * worker.SHOWN_BYTES


def test_one_that_talks_on_gets_no_more_time(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
):
    list(pool.run([b""], [[b"a"]]))
    monkeypatch.setattr(worker.Output, "hear", lambda _: True)  # never done
    list(pool.run([b""], [[b"say x"]]))
    found = dict(pool.run([b""], [[b"sleep 600"]] * 2, timeout_s=0.5))
    assert found == dict.fromkeys(range(2), "no reply within 0.5 s")


def test_a_worker_has_the_import_path_of_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Entry by entry; a folder with a colon too, and not the working folder."""
    odd, here = tmp_path / "a:b", tmp_path / "here"
    for folder in (odd, here):
        folder.mkdir()
    for name in ("processes", "random", "clients"):
        (here / f"{name}.py").write_text("raise SystemExit(4)")
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(str(odd))
    made = WorkerPool(1, "processes.worker_actions:act")
    try:
        ((found,),) = dict(made.run([b""], [[b"path"]])).values()
    finally:
        made.close()
    assert found.decode().split("\n") == [str(entry) for entry in sys.path]
    assert str(here) not in found.decode()


OWNER = """
import sys
from fedneg.engines.workers import WorkerPool
pool = WorkerPool(2, "processes.worker_actions:act")
list(pool.run([b""], [[b"compute " + name.encode()] for name in sys.argv[1:]]))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_parent_in_the_middle_of_a_training(
    tmp_path: Path, number: signal.Signals
):
    begun = [tmp_path / "one", tmp_path / "two"]
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, *map(str, begun)],
        cwd=TESTS,
        start_new_session=True,
    )
    try:
        until("both", lambda: all(p.exists() and p.read_text() for p in begun))
        os.kill(process.pid, number)
        assert process.wait() == -number
        pids = [int(path.read_text()) for path in begun]
        until("their end", lambda: not any(map(is_alive, pids)))
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_what_a_dead_worker_had_not_begun_is_done_by_another(pool: WorkerPool):
    """Each has two requests at a time; only the one that killed it is lost."""
    requests = [[b"die 3" if k in (0, 5) else b"%d" % k] for k in range(40)]
    found = dict(pool.run([b""], requests))
    lost = [k for k, answer in found.items() if isinstance(answer, str)]
    assert sorted(lost) == [0, 5]
    assert {k: a for k, a in found.items() if k not in lost} == {
        k: [b"|%d" % k] for k in range(40) if k not in lost
    }


def test_large_replies_do_not_overwrite_each_other(pool: WorkerPool):
    """They lie in memory that both ends share, and two are under way at a time."""
    size = 3 * LARGE
    requests = [[b"a", bytes([k]) * (size + k)] for k in range(30)]
    for k, answer in pool.run([b""], requests):
        time.sleep(0.01)  # the workers are far ahead by now
        assert answer == [b"|a", bytes([k]) * (size + k)]


def test_who_stops_asking_gets_no_stale_answers(pool: WorkerPool):
    answers = pool.run([b""], [[b"sleep 0.2"], [b"b"], [b"hang"], [b"hang"]])
    next(answers)
    answers.close()
    assert dict(pool.run([b""], [[b"e"], [b"f"]])) == {0: [b"|e"], 1: [b"|f"]}


def test_a_worker_that_stops_in_the_middle_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(worker, "STALL_S", 1)
    made = WorkerPool(1, "processes.worker_actions:act")
    try:
        assert dict(made.run([b""], [[b"half"], [b"b"]])) == {
            0: "the worker process stopped in the middle for 1 s",
            1: [b"|b"],
        }
    finally:
        made.close()


def test_workers_that_were_started_early_are_used(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(workers, "SERVE", "processes.worker_actions:act")
    monkeypatch.setattr(workers, "_warm", [])
    workers.warm_up(2)
    (pool,) = workers._warm
    try:
        assert workers.warmed_up(2) is pool
        assert workers.warmed_up(1) is None
        assert dict(pool.run([b""], [[b"a"]])) == {0: [b"|a"]}
    finally:
        pool.close()


@pytest.mark.parametrize(
    ("arguments", "starts"),
    [
        ([], True),
        (["-m", "forget=0,1"], True),
        (["forget=1", "engine=inline"], False),
        (["engine=ray"], False),
        (["engine.workers=1"], False),
        (["--help"], False),
        (["--cfg", "job"], False),
    ],
)
def test_workers_start_early_only_for_a_run_that_uses_them(
    arguments: list[str], starts: bool
):
    assert uses_workers(arguments) is starts


def test_what_takes_too_long_is_given_up(pool: WorkerPool):
    list(pool.run([b""], [[b"a"], [b"b"]]))
    found = dict(pool.run([b""], [[b"hang"], [b"b"], [b"hang"], [b"d"]], timeout_s=1.0))
    assert found[0] == "no reply within 1 s"
    assert len(found) == 4
    assert dict(pool.run([b""], [[b"e"]])) == {0: [b"|e"]}


def test_close_leaves_no_process():
    made = WorkerPool(2, "processes.worker_actions:act")
    pids = made.pids
    made.close()
    assert not any(map(is_alive, pids))


def test_local_gives_the_bytes_of_inline(tmp_path: Path):
    options = ("clients=3", "attack=backdoor", "forget=2", "retrain=remaining")
    for engine in ("inline", "local"):
        config = small_config(*options, f"engine={engine}")
        (tmp_path / engine).mkdir()
        simulate(
            lambda grid, context, config=config, engine=engine: run(
                grid, config, tmp_path / engine
            ),
            clients=config.clients,
            engine=config.engine,
        )
    for name in MODELS:
        inline, local = (
            (tmp_path / engine / f"model_{name}.safetensors").read_bytes()
            for engine in ("inline", "local")
        )
        assert inline == local


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ({"assignment": "{"}, "the assignment in the message is not JSON"),
        ({}, "the message has no assignment; is it of another version?"),
    ],
)
def test_local_grid_reports_a_failing_client_like_inline(
    sent: dict[str, str], reason: str
):
    """The same error reply from both."""
    made = WorkerPool(1, "fedneg.engines.local:serve")
    try:
        reasons = []
        for grid in (InlineGrid(client_app, 2), LocalGrid(client_app, 2, made)):
            simulate(lambda *_: None, clients=1, engine=small_config().engine)
            content = RecordDict(
                {"arrays": ArrayRecord([]), "config": ConfigRecord({**sent})}
            )
            messages = [
                Message(content, node, MessageType.TRAIN)
                for node in grid.get_node_ids()
            ]
            replies = list(grid.send_and_receive(messages))
            assert len(replies) == 2
            reasons.append({reply.error.reason for reply in replies})
        assert reasons[0] == reasons[1]
        assert reason in reasons[0].pop()
    finally:
        made.close()


@pytest.mark.slow
def test_a_sweep_uses_the_same_workers_and_leaves_none(tmp_path: Path):
    done = command(
        "-m", "forget=0,1", *SMALL, "engine=local", "reference=false", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert processes_in(tmp_path) == []


@pytest.mark.slow
def test_an_interrupt_leaves_no_process(tmp_path: Path):
    """Ctrl-C goes to the whole process group, as a terminal sends it."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "fedneg", "data=digits", "rounds=100000"),
            *("engine=local", f"hydra.run.dir={tmp_path}"),
        ],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        start_new_session=True,
        # Whoever runs the tests in the background has told them to ignore Ctrl-C, and
        # children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with no_longer_than_patience(process), process.stderr as lines:
        for line in lines:
            if "train 2/" in line:
                break
        os.killpg(process.pid, signal.SIGINT)
        lines.read()
        assert process.wait() == 130
    assert processes_left_in(tmp_path) == []
