"""The command line as its users meet it: files, exit codes, one line per mistake."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from builders.federations import QUICK, SMALL
from builders.programs import Said, command
from fedneg import __version__, server_app
from fedneg.core.errors import FedNegError
from fedneg.engines.workers import WorkerPool

MODELS = ("original", "unlearned", "recovered", "retrained")


@pytest.mark.slow
def test_a_run_in_a_fresh_process_leaves_everything_behind(tmp_path: Path):
    """By default in outputs/<date>/<time>; the summary goes to standard output."""
    found = command(*QUICK, "retrain=remaining", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    (out,) = (tmp_path / "outputs").glob("*/*")
    names = {p.name for p in out.iterdir()}
    assert {
        *("results.json", "history.csv", "clients.csv", "report.html", "figures"),
        *(f"model_{model}.safetensors" for model in MODELS),
    } <= names
    assert json.loads((out / "results.json").read_text())["forget"] == [1]
    assert "report:" in found.stdout
    assert "retrained" in found.stdout
    assert "Traceback" not in found.stderr
    assert "train 1/1" in found.stderr


@pytest.mark.slow
def test_what_lies_in_the_working_folder_does_not_stand_before_ours(tmp_path: Path):
    """Nor before Python's own, in this process and in its workers."""
    for name in ("clients.py", "random.py", "socket.py", "strategies/__init__.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("raise SystemExit('this is not what was meant')")
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").write_text("nonsense: 1")
    options = ("reference=false", "report=false", "engine=local", "engine.workers=1")
    found = command(*QUICK, *options, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert "train 1/1" in found.stderr
    assert "not what was meant" not in found.stdout + found.stderr


def test_workers_that_cannot_come_up_are_one_line(
    fedneg: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
):
    """Whatever it is that they lack: the run ends at once."""
    monkeypatch.setattr(
        "fedneg.engines.simulate._pool", lambda *_: WorkerPool(2, "nothing:act")
    )
    found = fedneg(*QUICK, "engine=local", "engine.workers=2", "reference=false")
    assert found.code == 2
    assert found.err.splitlines()[-1] == (
        "fedneg: error: workers cannot be started: the worker process ended with code "
        "1: ModuleNotFoundError: No module named 'nothing'"
    )
    assert "Traceback" not in found.err


@pytest.mark.slow
def test_a_mistake_in_a_fresh_process_is_one_line_and_exit_code_2(tmp_path: Path):
    found = command(*SMALL, "forget=9", cwd=tmp_path)
    assert found.returncode == 2
    assert found.stdout == ""
    assert found.stderr == (
        "fedneg: error: forget must name client ids from 0 to 4 (clients=5), got 9\n"
    )


MISTAKES = [
    (["forget=9"], "got 9"),
    (["round=1"], "unknown key round; did you mean rounds?"),
    (["client.lr=1"], "client.lr; did you mean client.learning_rate?"),
    (["+client.lr=1"], "unknown key client.lr"),
    (["attack=backdor"], "got 'backdor'; did you mean backdoor?"),
    (["data=7"], "must be a string"),
    (["forget=[1"], "forget=[1 cannot be read"),
    (["rounds"], "rounds cannot be read: it must be key=value"),
    (["-m", "strategy.scal=1,2"], "unknown key strategy.scal; did you mean"),
    (["strategy.form=foo"], "strategy.form must be one of"),
    (["hydra.run.dir=file/below"], "file"),
    (["clients=12"], "data.split_writers=true"),
    (["data=mnist", "data.download=false"], "data.download=false"),
    (["data=mnist", "data.root=damaged", "data.download=false"], "damaged"),
    (["-m", "forget=0,9"], "got 9"),
    (["-m", "forget=0,1", "rounds=0"], "rounds must be at least 1"),
    (["-m", "strategy.form=update,foo"], "strategy.form must be one of"),
]


@pytest.mark.parametrize(
    ("arguments", "part"), MISTAKES, ids=[" ".join(m[0]) for m in MISTAKES]
)
def test_a_mistake_is_one_line_exit_code_2_and_no_results(
    fedneg: Callable[..., Said],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    part: str,
):
    monkeypatch.setenv("FEDNEG_DATA", str(tmp_path / "no data here"))
    (tmp_path / "file").write_text("")
    raw = tmp_path / "damaged" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01nonsense")
    found = fedneg(*SMALL, "forget=0", *arguments)
    assert found.code == 2
    assert part in found.err
    (line,) = found.err.splitlines()
    assert line.startswith("fedneg: error: ")
    assert found.out == ""
    assert not [p for p in tmp_path.rglob("*") if p.name.startswith("model_")]


def test_unknown_flag_is_exit_code_2(fedneg: Callable[..., Said]):
    found = fedneg("--no-such-flag")
    assert found.code == 2
    assert found.err.splitlines()[-1].endswith("unrecognized arguments: --no-such-flag")
    near = fedneg("--confg-dir=x")
    assert near.code == 2
    assert near.err.endswith("--confg-dir=x; did you mean --config-dir?\n")


def test_version_is_the_packages(fedneg: Callable[..., Said]):
    assert fedneg("--version") == Said(0, f"fedneg {__version__}\n", "")


def test_help_names_groups_values_and_folders(fedneg: Callable[..., Said]):
    found = fedneg("--help")
    assert found.code == 0
    for word in (
        *("attack: backdoor, canaries, label_flip, model_replacement, none, sybils",),
        *("strategy:", "engine:", "data:"),
        *("FEDNEG_DATA", "FEDNEG_CACHE", "retrain=none|remaining|forgotten|scratch"),
        *("forget=[1,4]", "experiment=paper"),
    ):
        assert word in found.out


def test_cfg_shows_the_configuration_and_runs_nothing(
    fedneg: Callable[..., Said], tmp_path: Path
):
    found = fedneg("--cfg", "job", "data=digits", "seed=7")
    assert found.code == 0
    assert "seed: 7" in found.out
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_sweep_leaves_one_table_with_a_row_per_job(
    fedneg: Callable[..., Said], tmp_path: Path
):
    found = fedneg("-m", *QUICK, "forget=0,1", "hydra.sweep.dir=sweep")
    assert found.code == 0
    table = pd.read_csv(tmp_path / "sweep" / "sweep.csv")
    assert table["forget"].tolist() == [0, 1]
    assert (tmp_path / "sweep" / "sweep.html").exists()
    for job in (0, 1):
        out = tmp_path / "sweep" / str(job)
        found_results = json.loads((out / "results.json").read_text())
        assert found_results["forget"] == [job]
        row = table.iloc[job]
        assert row["unlearned_test_accuracy"] == pytest.approx(
            found_results["models"]["unlearned"]["test_accuracy"]
        )


def test_digits_stand_in_for_mnist_with_a_notice(
    fedneg: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FEDNEG_DATA", str(tmp_path / "none"))
    rest = [o for o in QUICK if o != "data=digits"]
    found = fedneg(*rest, "data.download=false", "reference=false", "hydra.run.dir=run")
    assert found.code == 0
    assert "NOTICE" in found.err
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["data"]["name"] == "digits"
    assert "MNIST could not be had" in results["notices"][0]
    assert "MNIST could not be had" in (tmp_path / "run" / "report.html").read_text()


# -- sweeps in which something goes wrong ----------------------------------------------

BARE = (
    *("data=digits", "rounds=1", "clients=2", "forget=1", "reference=false"),
    *("report=false", "model.hidden=[16]", "engine=inline", "client.local_epochs=1"),
)


def test_a_job_that_fails_is_in_the_table_and_the_others_run(
    fedneg: Callable[..., Said], tmp_path: Path
):
    """Eleven writers: twelve clients are too many, which only the data tells."""
    found = fedneg("-m", *BARE, "clients=2,12,3", "hydra.sweep.dir=sweep")
    assert found.code == 2
    assert "fedneg: error: job 1: clients must be at most" in found.err
    assert found.err.splitlines()[-1] == (
        "fedneg: error: 1 of 3 jobs left no results: 1"
    )
    assert "Traceback" not in found.err
    table = pd.read_csv(tmp_path / "sweep" / "sweep.csv").set_index("run")
    assert set(table.index) == {0, 1, 2}
    assert table["original_test_accuracy"].notna().to_dict() == {0: 1, 1: 0, 2: 1}
    assert table["error"][1].startswith("it failed: clients must be at most")
    page = (tmp_path / "sweep" / "sweep.html").read_text()
    assert "Run 1 is left out: it failed: clients must be at most" in page
    log = (tmp_path / "sweep" / "1" / "fedneg.log").read_text()
    assert "[fedneg][ERROR] - clients must be at most" in log
    # The same folder again, with fewer jobs: those of before are none of them.
    again = fedneg("-m", *BARE, "clients=3,2", "hydra.sweep.dir=sweep")
    assert again.code == 0
    table = pd.read_csv(tmp_path / "sweep" / "sweep.csv")
    assert table["run"].tolist() == [0, 1]
    assert table["error"].isna().all()


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "it was interrupted"),
        (ValueError("a sum is off"), 1, "it failed: a defect, ValueError"),
        (OSError(28, "No space left on device", "here"), 2, "it failed: cannot write"),
    ],
)
def test_what_ends_a_job_or_the_sweep(
    fedneg: Callable[..., Said],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    said: str,
):
    """The second of three jobs. An interrupt and a full disk end the sweep too."""
    run, calls = server_app.run, []

    def fails(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise error
        run(*arguments)

    monkeypatch.setattr(server_app, "run", fails)
    found = fedneg("-m", *BARE, "seed=1,2,3", "hydra.sweep.dir=sweep")
    assert found.code == code
    assert "sweep: " in found.out
    table = pd.read_csv(tmp_path / "sweep" / "sweep.csv").set_index("run")
    assert said in table["error"][1]
    is_defect = isinstance(error, ValueError)
    assert ("Traceback" in found.err) == is_defect
    assert len(calls) == (3 if is_defect else 2)
    assert set(table.index) == ({0, 1, 2} if is_defect else {0, 1})
    page = (tmp_path / "sweep" / "sweep.html").read_text()
    assert ("The sweep ended before 1 of its 3 jobs had begun." in page) != is_defect


def test_a_comparison_names_the_method_that_failed(
    fedneg: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = server_app.run

    def fails(grid: Any, config: Any, *rest: Any) -> None:
        if config.strategy.name == "retrain":
            raise FedNegError("no room for it")
        run(grid, config, *rest)

    monkeypatch.setattr(server_app, "run", fails)
    words = [o for o in BARE if not o.startswith("reference")]
    found = fedneg(
        *("compare", *words, "++seed=0", "attack=none", "data.partition=writer"),
        *("strategy=retrain,do_nothing", "hydra.sweep.dir=runs", "cache=true"),
        *("verdict.retrainings=0", "reference=true", "verdict.relearn_cap=0"),
        *("retrain=none", "retrain_rounds=1"),
    )
    assert found.code == 2, found.err
    table = pd.read_csv(tmp_path / "runs" / "comparison.csv")
    (row,) = table[table["error"].notna()].to_dict("records")
    assert row["error"] == "it failed: no room for it"
    assert "it failed: no room" in (tmp_path / "runs" / "comparison.html").read_text()
    # And again from the folder alone.
    (tmp_path / "runs" / "comparison.html").unlink()
    assert fedneg("compare", "runs").code == 0
    assert "it failed: no room" in (tmp_path / "runs" / "comparison.html").read_text()


# -- the log ---------------------------------------------------------------------------


def test_the_log_holds_what_the_console_said(
    fedneg: Callable[..., Said], tmp_path: Path
):
    """With time and level, and Flower's warnings; no escape codes, nothing twice."""
    words = [o for o in BARE if not o.startswith("reference")]
    found = fedneg(
        *(*words, "client.learning_rate=1e30", "verdict.relearn_cap=0"),
        *("verdict.retrainings=0", "hydra.run.dir=run"),
    )
    assert found.code == 0
    text = (tmp_path / "run" / "fedneg.log").read_text()
    lines = text.splitlines()
    stamp = re.compile(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}\]\[(fedneg|flwr)\]")
    assert all(stamp.match(line) for line in lines)
    assert "\x1b" not in text
    for level, part in (
        ("INFO", "fedneg: digits, 2 clients, seed 0, forget 1"),
        ("INFO", "train 1/1  accuracy"),
        ("WARNING", "round 1: client 1 left out: parameters are not finite"),
        ("INFO", "evaluating the original model"),
        ("INFO", "judging"),
        ("WARNING", "client 1 took part in no round"),
        ("INFO", "original model: test accuracy"),
        ("INFO", "verdict (unlearned): inconclusive"),
        ("INFO", f"results: {tmp_path / 'run' / 'results.json'}"),
    ):
        assert sum(f"[fedneg][{level}] - {part}" in line for line in lines) == 1, part
    assert "[flwr][WARNING] - round 1 (train): client 0 left out" in text
    assert "[fedneg]" not in found.out + found.err


def test_the_log_has_the_traceback_of_a_defect(
    fedneg: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fails(*_: Any) -> None:
        raise ValueError("a sum\n\x1b[31mis off")

    monkeypatch.setattr(server_app, "run", fails)
    with pytest.raises(ValueError, match="is off"):
        fedneg(*BARE, "hydra.run.dir=run")
    text = (tmp_path / "run" / "fedneg.log").read_text()
    assert "[fedneg][CRITICAL] - a defect of fedneg" in text
    assert "Traceback (most recent call last)" in text
    assert "ValueError: a sum" in text
    assert "\x1b" not in text


def test_a_mistake_of_the_server_is_in_the_log_and_one_line(
    fedneg: Callable[..., Said], tmp_path: Path
):
    found = fedneg(*BARE, "clients=12", "hydra.run.dir=run")
    assert (found.code, found.err.count("\n")) == (2, 1)
    (line,) = (tmp_path / "run" / "fedneg.log").read_text().splitlines()
    assert "[fedneg][ERROR] - clients must be at most" in line


# -- overrides and folders -------------------------------------------------------------


def test_options_and_overrides_may_stand_anywhere(
    fedneg: Callable[..., Said], tmp_path: Path
):
    """A configuration folder with = in its name is no override."""
    folder = tmp_path / "a=b"
    (folder / "strategy").mkdir(parents=True)
    (folder / "strategy" / "mine.yaml").write_text("defaults: [do_nothing]\n")
    found = fedneg("seed=7", "--config-dir", str(folder), "--cfg", "job", "rounds=3")
    assert found.code == 0, found.err
    assert "seed: 7" in found.out
    assert "rounds: 3" in found.out
    found = fedneg("strategy=mine", "--cfg", "job", "--config-dir", str(folder))
    assert "name: do_nothing" in found.out
    missing = fedneg("--config-dir")
    assert (missing.code, missing.err.count("\n")) == (2, 1)


@pytest.mark.parametrize("word", ["state=rel", "++state=rel", "state='rel'"])
def test_a_federation_is_found_however_it_is_named_and_from_where(
    fedneg: Callable[..., Said], tmp_path: Path, word: str
):
    """With Hydra's chdir, relative folders are still where the command was typed."""
    words = [o for o in BARE if not o.startswith(("forget", "refer", "report"))]
    keys = word.replace("state", "keys").replace("rel", "rel-own")
    chdir = ("hydra.job.chdir=true", "hydra.run.dir=run")
    first = fedneg(*words, word, keys, *chdir)
    assert first.code == 0, first.err
    assert (tmp_path / "rel" / "federation.json").is_file()
    assert (tmp_path / "rel-own").is_dir()
    assert not (tmp_path / "run" / "rel").exists()
    text = (tmp_path / "run" / "fedneg.log").read_text()
    assert f"[fedneg][INFO] - model: {tmp_path / 'rel' / 'model.safetensors'}" in text
    stored = json.loads((tmp_path / "rel" / "federation.json").read_text())["overrides"]
    assert not [o for o in stored if "rel" in o or "hydra" in o]
    # What it is needs no repeating: model and clients come from the folder.
    again = fedneg(word, keys, "engine=inline", "rounds=2", *chdir)
    assert again.code == 0, again.err
    assert "2 of 2 rounds trained" in again.out


def test_folders_of_the_environment_are_where_the_command_was_typed(
    fedneg: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FEDNEG_CACHE", "kept")
    monkeypatch.setenv("FEDNEG_DATA", "nothing")
    found = fedneg(
        *BARE, "hydra.job.chdir=true", "hydra.run.dir=run", "data.root=unused"
    )
    assert found.code == 0, found.err
    assert (tmp_path / "kept" / "training").is_dir()
    assert not (tmp_path / "run" / "kept").exists()
    config = json.loads((tmp_path / "run" / "results.json").read_text())["config"]
    assert config["data"]["root"] == str(tmp_path / "unused")
