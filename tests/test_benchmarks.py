"""The benchmark itself: it runs, a miss is called one, and its arithmetic is right."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import capacity, gpu, memory, run
from benchmarks.chart import panels, seconds_chart
from benchmarks.contestants import (
    COHORT,
    Contestant,
    Stage,
    profile_of,
    report_of,
    seconds_of_rounds,
)
from benchmarks.lines import Target, all_lines, needed, ratio
from benchmarks.markers import fill
from benchmarks.material import QUICK, Material, Sizes, write_synthetic_files
from benchmarks.memory import is_supported
from benchmarks.processes import Finished, NotMeasuredError
from benchmarks.processes import run as run_command
from benchmarks.table import table
from fedneg.data.datasets import load_dataset

MEDIANS = {"fedneg": {"whole": 3.0}, "plain": {"whole": 2.0}}
LINE = ratio("x", "fedneg / plain", "fedneg", "plain", "whole", Target("<=", 1.15))


def results(*lines: dict[str, object]) -> dict[str, object]:
    """Return results of which a table can be made."""
    return {
        "machine": {"processor": "a processor", "cores": 2, "memory_gib": 8.0},
        "versions": {"torch": "2"},
        "settings": {"pfl": {"versions": {"pfl": "0.6.0"}}},
        "data": "synthetic",
        "repeat": 3,
        "lines": lines,
    }


def test_quick_run_of_the_lines_without_peers_writes_results(tmp_path: Path):
    names = ["client-epoch", "matrix-products", "unlearn", "memory-2"]
    run.main(
        ["--quick", "--repeat", "1", "--only", ",".join(names), "--out", str(tmp_path)]
    )
    found = json.loads((tmp_path / "results.json").read_text())
    assert {"machine", "versions", "samples", "medians", "lines", "sizes"} <= set(found)
    assert [line["name"] for line in found["lines"]] == names
    for line in found["lines"]:
        if line["name"] != "memory-2" or is_supported():
            assert line["value"] > 0, line
    epoch = found["lines"][0]
    assert epoch["target"] == "<= 0.9"
    assert epoch["reached"] == (epoch["value"] <= 0.9)
    samples = found["samples"]["fedneg inline, one client"]
    assert samples == [
        {"epoch": found["medians"]["fedneg inline, one client"]["epoch"]}
    ]


def test_table_calls_a_missed_target_missed_and_a_reached_one_reached():
    missed = run.line_result(LINE, MEDIANS, {})
    reached = run.line_result(LINE, MEDIANS | {"plain": {"whole": 3.0}}, {})
    assert (missed["value"], missed["reached"]) == (1.5, False)
    text = table(results(missed, reached))
    assert "| fedneg / plain | 1.5 (3 s / 2 s) | <= 1.15 | **missed** |" in text
    assert "| fedneg / plain | 1 (3 s / 3 s) | <= 1.15 | reached |" in text
    assert "pfl 0.6.0" in text


def test_line_without_a_contestant_says_why_it_was_not_measured():
    found = run.line_result(LINE, {"fedneg": {"whole": 3.0}}, {"plain": "no network"})
    assert (found["value"], found["reached"]) == (None, None)
    assert "| plain: no network | <= 1.15 | not measured |" in table(results(found))


def test_of_several_ways_to_run_a_peer_the_best_counts():
    """3 s / min(4 s, 2.5 s) = 1.2."""
    line = ratio("x", "", "fedneg", ("two threads", "two processes"), "whole")
    medians = {
        "fedneg": {"whole": 3.0},
        "two threads": {"whole": 4.0},
        "two processes": {"whole": 2.5},
    }
    assert line.compute(medians)[0] == pytest.approx(1.2)
    assert line.needs == ("fedneg", "two threads", "two processes")


@pytest.mark.parametrize(
    ("target", "value", "reached"),
    [
        (Target("<=", 0.9), 0.9, True),
        (Target("<=", 0.9), 0.91, False),
        (Target(">=", 15), 15.0, True),
        (Target(">=", 15), 14.9, False),
    ],
)
def test_target_is_reached_at_its_bound(target: Target, value: float, reached: bool):
    assert target.is_reached(value) is reached


def test_growth_is_the_slope_between_fewest_and_most_clients():
    """(2.978 - 2.0) s / (539 - 50) clients = 2 ms."""
    line = next(line for line in all_lines(Sizes()) if line.name == "growth")
    seconds = {50: 2.0, 150: 2.1, 539: 2.978}
    medians = {f"fedneg, {n} clients": {"round": s} for n, s in seconds.items()}
    assert line.compute(medians)[0] == pytest.approx(2.0)


@pytest.mark.parametrize("sizes", [Sizes(), QUICK], ids=["full", "quick"])
def test_every_contestant_that_a_line_needs_is_there(sizes: Sizes, tmp_path: Path):
    stage = run.Stage(Material("digits", (), tmp_path, tmp_path, sizes), lambda: "")
    known = {c.name for group in run.groups(stage) for c in group}
    assert needed(all_lines(sizes)) == known


def test_who_fails_twice_is_left_out_and_the_others_go_on():
    attempts = []

    def measure() -> dict[str, float]:
        attempts.append(len(attempts))
        if len(attempts) < 2:
            raise NotMeasuredError("a hiccup")
        return {"whole": float(len(attempts))}

    def fail() -> dict[str, float]:
        raise NotMeasuredError("cannot be installed")

    samples = run.Samples()
    samples.take_turns([Contestant("a", measure), Contestant("b", fail)], 3)
    assert samples.medians() == {"a": {"whole": 3.0}}
    assert samples.reasons == {"b": "cannot be installed"}


def test_unknown_line_is_named():
    with pytest.raises(SystemExit, match="no line 'nothing'; there are client-epoch"):
        run.main(["--quick", "--only", "nothing"])


def test_command_tells_its_time_its_words_and_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The command ends when its memory was seen, however late somebody looks."""
    seen, plain = tmp_path / "seen", memory.pss_of

    def look(pid: int) -> int:
        found = plain(pid)
        if found > 1 << 26:
            seen.touch()
        return found

    monkeypatch.setattr(memory, "pss_of", look)
    if not is_supported():
        seen.touch()
    child = (
        "import os, time; x = bytearray(1 << 26); time.sleep(0.2)\n"
        f"for _ in range(6000): os.path.exists({str(seen)!r}) or time.sleep(0.05)"
    )
    code = (
        "import subprocess, sys; print('out'); print('begun', file=sys.stderr);"
        f"subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    )
    done = run_command(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        environment={},
        watch_memory=is_supported(),
    )
    assert done.seconds > 0.2
    assert done.output == "out\n"
    assert [line for _, line in done.said] == ["begun"]
    if done.memory is not None:
        assert done.memory.total > 1 << 26 > done.memory.root


def test_failed_command_is_not_measured_and_says_its_last_line(tmp_path: Path):
    code = "import sys; sys.exit('no such thing')"
    with pytest.raises(NotMeasuredError, match="code 1: no such thing"):
        run_command([sys.executable, "-c", code], cwd=tmp_path, environment={})


def test_a_run_of_fedneg_says_what_its_profile_is_read_from(tmp_path: Path):
    """Trained in a cohort, as one of the lines does."""
    stage = Stage(Material.find(tmp_path, quick=True), lambda: "no pfl")
    found = stage.training(2, 2, f"engine.cohort={COHORT}", profile=True)
    assert 0 < found["round"] < found["whole"]
    assert sum(stage.profiles[0].values()) == pytest.approx(found["whole"])


def test_profile_parts_add_up_to_the_whole_run():
    said = (
        (2.0, "  training with 5 clients"),
        (4.0, "  train 1/2  accuracy 0.9"),
        (5.5, "  train 2/2  accuracy 0.9"),
        (5.6, "  evaluating the original model"),
        (6.0, "  writing the report"),
    )
    parts = profile_of(Finished(7.5, said, "", None), [1.8, 1.2])
    assert sum(parts.values()) == pytest.approx(7.5)
    assert parts["server's tests after the rounds"] == pytest.approx(0.5)


def test_rounds_and_reports_are_read_from_what_was_written(tmp_path: Path):
    path = tmp_path / "history.csv"
    rows = ["server_round,phase,seconds", "0,train,0", "1,train,3.5", "2,retrain,9"]
    path.write_text("\n".join(rows))
    assert seconds_of_rounds(path) == [3.5]
    assert report_of('noise\n{"peer": "p"}\nnoise') == {"peer": "p"}
    with pytest.raises(NotMeasuredError, match="no report"):
        report_of("noise")


def test_synthetic_files_are_what_the_loader_reads(tmp_path: Path):
    write_synthetic_files(tmp_path)
    found = load_dataset("mnist", root=tmp_path, download=False)
    assert found.images.shape == (60_000, 28, 28)
    assert found.num_writers == 539


def test_chart_shows_comparisons_fastest_first_and_nothing_without_numbers():
    sizes = {"few": 5, "many": 539, "rounds": 10}
    medians = {
        "pfl (1 thread), 5 clients": {"whole": 30.0, "round": 2.0},
        "fedneg, 5 clients": {"whole": 20.0, "round": 1.0},
        "memory, 5 clients": {"all_mib": 1.0},
    }
    shown = panels(medians, sizes)
    assert shown["5 clients, a round"] == {"fedneg": 1.0, "pfl (1 thread)": 2.0}
    picture = seconds_chart(medians, sizes)
    assert picture is not None
    assert "fedneg 20 s, pfl (1 thread) 30 s" in picture.alt
    assert seconds_chart({}, sizes) is None


def test_markers_are_filled_and_a_file_without_them_stays(tmp_path: Path):
    path = tmp_path / "README.md"
    path.write_text("a\n<!-- bench -->\nold\n<!-- /bench -->\nb\n")
    assert fill(path, "bench", r"new \1")
    assert path.read_text() == "a\n<!-- bench -->\nnew \\1\n<!-- /bench -->\nb\n"
    assert not fill(path, "capacity", "x")


def test_capacity_by_hand():
    """Five rows and a correction of 567,434 float32: 6 x 567,434 x 4 = 13,618,416."""
    d = 784 * 512 + 512 + 512 * 256 + 256 + 256 * 128 + 128 + 128 * 10 + 10
    assert capacity.THIS_NETWORK == d == 567_434
    assert capacity.ledger_bytes(5, d) == 13_618_416
    assert capacity.ledger_bytes(5, d, momentum=True, local=True) == 36_315_776
    assert capacity.norm_bytes(10, 7, 8) == 2240
    assert capacity.plan(539, d) == "memory"
    assert capacity.plan(3500, d) == "disk"
    assert capacity.plan(3500, 10**9) == "4 disks"  # 14 TB on disks of 4.4 TB
    assert capacity.plan(10**6, 10**9) == "groups or norms"
    assert capacity.most_clients(10**9)["memory"] == 0


def test_capacity_measures_a_ledger_of_the_bytes_that_it_computes():
    found = capacity.measure(6, 0.5, parameters=1000)
    assert (found.participants, found.where) == (3, "memory")
    assert found.ledger_bytes == capacity.ledger_bytes(6, 1000)
    assert "| 5 | 13.0 MiB: memory |" in capacity.table(capacity.results_of([]))


def test_a_gpu_is_asked_for_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu", "--out", str(tmp_path / "gpu.csv")])
    assert gpu.main() == 2
    assert "torch sees no CUDA device" in capsys.readouterr().err
    assert not (tmp_path / "gpu.csv").exists()


def test_table_of_a_gpu_sets_all_beside_the_loop(tmp_path: Path):
    """By hand: the first round does not count, and what was not measured says so."""
    file = tmp_path / "gpu.csv"
    rows = [
        ("7,1", "engine.cohort=4", "9 2 1 3"),
        ("7,1", gpu.LOOP, "9 4 4 4"),
        ("7,5", "engine.cohort=4", "9 5"),
    ]
    text = ",".join(gpu.COLUMNS)
    for setting, what, seconds in rows:
        text += f"\nA card,16,2.11,{setting},{what},1,30,{seconds},0.5"
    file.write_text(text)
    found = gpu.table(file)
    assert "| 7, 1 | `engine.cohort=4` | 2.000 (1.000 to 3.000) | 2.00 |" in found
    assert f"| 7, 1 | {gpu.LOOP} | 4.000 (4.000 to 4.000) | 1.00 |" in found
    assert (
        "| 7, 5 | `engine.cohort=4` | 5.000 (5.000 to 5.000) | not measured |" in found
    )
    assert "A card, 16 cores; torch 2.11." in found
