"""Tasks of one's own, from the command line to the receipt; and their mistakes."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from builders import own_tasks
from builders.checkout import REPOSITORY, TESTS
from builders.lives import ask, live_on, receipt_of
from builders.trainings import files_of
from fedneg.config import load_config
from fedneg.core.errors import FedNegError
from fedneg.core.settings import Config, methods
from fedneg.engines.simulate import simulate
from fedneg.records.state import State
from fedneg.server_app import run
from fedneg.tasks.task import COLUMNS

SHORT = (
    *("rounds=2", "clients=3", "engine=inline", "client.local_epochs=2"),
    *("client.batch_size=8", "client.learning_rate=0.1", "cache=false"),
    *("verdict.retrainings=1", "strategy.gate=0"),
)
# The built-in task and all that reads its data.
BUILT_IN = (
    *("fedneg.tasks.images", "fedneg.data.datasets", "fedneg.data.download"),
    *("fedneg.data.client_data", "fedneg.data.partition", "fedneg.data.own_data"),
)
REFUSED = {
    ("gradient_ascent", "regression"): "strategy=gradient_ascent needs a task with "
    "loss, and task regression has none",
    ("distillation", "regression"): "strategy=distillation needs a task with inputs, "
    "and task regression has none",
    ("distillation", "colours"): "strategy.proxy=noise needs a task with float inputs, "
    "got torch.uint8 of task colours; say strategy.proxy=test",
}


def config_of(task: str, *overrides: str) -> Config:
    """Return a short run of a task in builders/own_tasks.py."""
    given = [f"task=builders.own_tasks:{task}", "forget=1", *SHORT, *overrides]
    return load_config(given)[0]


def results_of(out: Path, task: str, *overrides: str) -> dict[str, Any]:
    """Do a run and return its results.json."""
    config = config_of(task, *overrides)
    simulate(
        lambda grid, context: run(grid, config, out),
        clients=config.clients,
        engine=config.engine,
    )
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


def fails(tmp_path: Path, task: str, *overrides: str) -> str:
    """Do a run that a user's mistake ends, and return the error."""
    with pytest.raises(FedNegError) as caught:
        results_of(tmp_path, task, *overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


# -- the example -----------------------------------------------------------------------


@pytest.fixture
def without_built_in(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which the built-in task cannot be imported."""
    place = tmp_path / "site"
    place.mkdir()
    (place / "sitecustomize.py").write_text(
        f"import sys\nsys.modules.update(dict.fromkeys({BUILT_IN!r}))\n"
    )
    return os.environ | {
        "PYTHONPATH": str(place),
        "FEDNEG_CACHE": str(tmp_path / "cache"),
        "FEDNEG_DATA": str(tmp_path / "no data"),
    }


def fedneg(
    env: dict[str, str], *words: str, folder: Path = REPOSITORY
) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "fedneg", *words],
        capture_output=True,
        text=True,
        cwd=folder,
        env=env,
    )


def test_the_environment_has_no_built_in_task(without_built_in: dict[str, str]):
    done = fedneg(without_built_in, "data=digits", "engine=inline", "rounds=1")
    assert done.returncode == 1
    assert "import of fedneg." in done.stderr
    assert " halted" in done.stderr


def test_the_example_does_all_that_a_run_does(
    without_built_in: dict[str, str], tmp_path: Path
):
    """Train, forget, repair, judge and report, in a folder of somebody's.

    As the pages say it. Workers that were started before the task was named look in
    that folder too.
    """
    out, mine = tmp_path / "out", tmp_path / "mine"
    mine.mkdir()
    shutil.copy(REPOSITORY / "examples" / "own_task.py", mine / "cancer.py")
    said = "fedneg task=examples.own_task:task rounds=5 forget=2 retrain=remaining"
    for page in ("README.md", "docs/own_task.md", "examples/own_task.py"):
        assert said in (REPOSITORY / page).read_text(), page
    words = said.replace("examples.own_task", "cancer").split()[1:]
    done = fedneg(without_built_in, *words, f"hydra.run.dir={out}", folder=mine)
    assert done.returncode == 0, done.stderr
    assert "breast cancer, 5 clients, 5 rounds" in done.stdout
    assert "verdict (recovered): " in done.stdout
    found = json.loads((out / "results.json").read_text())
    assert sorted(found["models"]) == [
        "original",
        "recovered",
        "retrained",
        "unlearned",
    ]
    assert found["verdict"]["outcome"] in ("forgotten", "not forgotten", "inconclusive")
    assert found["evidence"]["recovered"]["membership_auc"] is not None
    assert found["evidence"]["recovered"]["relearn_batches"] is not None
    assert found["data"]["clients"][2] == {
        **{"client_id": 2, "num_train": 46, "num_test": 45}
    }
    assert found["failures"] == []
    report = (out / "report.html").read_text()
    assert "breast cancer" in report
    model = load_file(out / "model_original.safetensors")
    assert sorted(model) == ["0.bias", "0.weight", "2.bias", "2.weight"]


def test_the_example_lives_on(without_built_in: dict[str, str], tmp_path: Path):
    """In a folder of somebody's, from which alone it can be gone on with."""
    state, mine = tmp_path / "state", tmp_path / "mine"
    mine.mkdir()
    shutil.copy(REPOSITORY / "examples" / "own_task.py", mine / "cancer.py")

    def here(*words: str, folder: Path = mine) -> str:
        done = fedneg(without_built_in, *words, folder=folder)
        return done.stderr if done.returncode else "done"

    known, inline = ("task=cancer:task", "rounds=1"), ("engine=inline",)
    assert here(*known, *inline, f"state={state}") == "done"
    assert here("request", "forget", "2", "--state", str(state)) == "done"
    assert here(f"state={state}", *inline) == "done"
    assert (state / "receipts" / "forget-2.json").exists()
    assert here("audit", "--state", str(state)) == "done"
    assert "cancer (" in (said := here("task=cancer:other", f"state={state}", *inline))
    assert "has no other" in said
    assert "there is no module cancer" in here(
        f"state={state}", *inline, folder=tmp_path
    )


def test_the_example_is_as_short_as_it_is_said_to_be():
    lines = (REPOSITORY / "examples" / "own_task.py").read_text().splitlines()
    code = [x for x in lines if x.strip() and not x.startswith(("import", "from"))]
    assert len(code) <= 50


# -- every method, every engine --------------------------------------------------------


@pytest.mark.parametrize("task", ["regression", "colours"])
@pytest.mark.parametrize("method", methods())
def test_every_method_forgets_or_says_what_it_lacks(
    method: str, task: str, tmp_path: Path
):
    options = (f"strategy={method}", "retrain=remaining", "retrain_rounds=1")
    if (method, task) in REFUSED:
        assert fails(tmp_path, task, *options) == REFUSED[method, task]
        return
    found = results_of(tmp_path, task, *options, "verdict.retrainings=0")
    assert found["failures"] == []
    assert set(found["models"]) == {"original", "unlearned", "recovered", "retrained"}
    original = found["models"]["original"]["test_accuracy"]
    assert original > 0.2
    assert found["models"]["recovered"]["test_accuracy"] > 0
    assert (tmp_path / "report.html").exists()


def test_distillation_asks_bytes_of_the_servers_own(tmp_path: Path):
    found = results_of(
        tmp_path, "colours", "strategy=distillation", "strategy.proxy=test"
    )
    assert found["method"]["proxy_images"] == 100


@pytest.mark.parametrize("task", ["regression", "colours", "dense", "bare", "lasting"])
def test_workers_give_the_bytes_of_inline(task: str, tmp_path: Path):
    inline = files_of(config_of(task), tmp_path / "inline")
    local = files_of(
        config_of(task, "engine=local", "engine.workers=2"), tmp_path / "local"
    )
    assert len(inline) == 4
    assert inline == local


def test_fedneg_sgd_on_a_dense_network_trains_cohorts(tmp_path: Path):
    """As alone, up to rounding; another `train` makes nothing of a cohort."""
    alone, together = (
        files_of(config_of("dense", f"engine.cohort={n}"), tmp_path / str(n))
        for n in (1, 3)
    )
    assert alone != together
    one, three = (load_file(tmp_path / n / "original.safetensors") for n in ("1", "3"))
    for name, array in one.items():
        np.testing.assert_allclose(array, three[name], rtol=1e-3, atol=1e-5)
    plain = [
        files_of(config_of("plain", f"engine.cohort={n}"), tmp_path / f"plain{n}")
        for n in (1, 3)
    ]
    assert plain[0] == plain[1]


# -- what people read ------------------------------------------------------------------


def test_people_read_the_name_of_the_quality(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    found = results_of(tmp_path, "regression", "retrain=remaining", "attack=backdoor")
    said = capsys.readouterr()
    assert found["quality_name"] == "R^2"
    assert 0 < found["models"]["original"]["test_accuracy"] <= 1
    history = pd.read_csv(tmp_path / "history.csv")
    assert "R^2" in history
    clients = pd.read_csv(tmp_path / "clients.csv")
    assert {"train_R^2", "trained_R^2", "test_R^2"} <= set(clients)
    report = (tmp_path / "report.html").read_text()
    assert "R^2 over rounds" in report
    picture = (tmp_path / "figures" / "accuracy_over_rounds.svg").read_text()
    assert "test R^2 (from 0 to 1)" in picture
    for text in (said.out, said.err, *history, *clients, picture):
        assert "accuracy" not in text
    assert "accuracy" not in re.sub("<[^>]*>", " ", report).lower()
    # A poison of one's own is measured by how well the model answers as it hopes.
    assert found["models"]["original"]["attack_success_rate"] is not None
    assert found["evidence"]["original"]["attack_base"] is None


def test_no_other_column_of_the_tables_may_be_called_as_the_quality(tmp_path: Path):
    results_of(tmp_path, "regression", "reference=false", "report=false")
    columns = set(pd.read_csv(tmp_path / "history.csv"))
    assert columns - {"R^2"} == set(COLUMNS)


def test_a_quality_of_two_words_is_told_whole(tmp_path: Path):
    results_of(tmp_path, "colours")
    assert "test_top-5 accuracy" in pd.read_csv(tmp_path / "clients.csv")
    assert (
        "top-5 accuracy over rounds" in (tmp_path / "report.html").read_text().lower()
    )


def test_as_little_as_a_task_may_be(tmp_path: Path):
    """Quality is exp(-loss), measured on the clients' own; relearning counts epochs."""
    found = results_of(tmp_path, "bare", "retrain=remaining")
    assert found["quality_name"] == "exp(-loss)"
    (notice,) = [n for n in found["notices"] if "has no test" in n]
    assert notice.startswith("task bare: it has no test")
    original = found["models"]["original"]
    tests = pd.read_csv(tmp_path / "clients.csv").query("model == 'original'")
    loss = np.average(tests["test_loss"], weights=tests["num_test"])
    assert original["test_loss"] == pytest.approx(loss, rel=1e-6)
    assert found["evidence"]["recovered"]["relearn_unit"] in ("epochs", "batches")
    assert found["evidence"]["recovered"]["js_to_retrained"] is None


# -- trainings that are kept -----------------------------------------------------------


def test_only_a_deterministic_task_is_kept(tmp_path: Path):
    for task, kept in (("regression", True), ("colours", False)):
        for again in (False, True):
            found = results_of(tmp_path / task, task, "cache=true")
            assert found["cost"]["reused_training"] is (kept and again), task


def test_data_are_part_of_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The task's source is the same; what it reads is not."""
    reused = []
    for value in (0.0, 0.0, 1.0):
        monkeypatch.setitem(own_tasks.__dict__, "file_of_data", [value])
        found = results_of(tmp_path, "reading", "cache=true", "reference=false")
        reused.append(found["cost"]["reused_training"])
    assert reused == [False, True, False]


def test_options_are_part_of_what_is_kept(tmp_path: Path):
    results_of(tmp_path, "regression", "cache=true")
    found = results_of(tmp_path, "regression", "cache=true", "task_options.width=8")
    assert found["cost"]["reused_training"] is False
    assert found["config"]["task_options"] == {"width": 8}


# -- a federation that lives on --------------------------------------------------------


@pytest.mark.parametrize("task", ["regression", "colours"])
@pytest.mark.parametrize("encrypt", ["false", "true"])
def test_a_federation_of_ones_own_lives_on(task: str, encrypt: str, tmp_path: Path):
    folder = tmp_path / "state"
    options = (f"task=builders.own_tasks:{task}", *SHORT, f"encrypt={encrypt}")
    live_on(folder, *options)
    ask(folder, 1)
    live_on(folder)
    receipt = receipt_of(folder, 1)
    after = receipt["measured"]["after"]["validation_of_remaining_clients"]
    assert after["clients"] == 2
    assert after["examples"] == (40 if task == "regression" else 60)
    names = set(load_file(State(folder).model))
    assert ("layers.1.running_mean" in names) is (task == "colours")
    assert "scale" not in names  # frozen: each side has it from the task
    with pytest.raises(FedNegError, match=r"task is .* and stays so"):
        live_on(folder, "task=builders.own_tasks:dense")


# -- mistakes --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("grows", "task grows, model: must make the same layers each time"),
        ("frozen", "task frozen, model: the model has no parameter that is trained"),
        ("always", "task always, model: must make new parameters each time, and"),
        ("too_short", "task short, losses: must return one number per example"),
        ("negative", "task negative, losses: must be at least 0, got -1 at place 0"),
    ],
)
def test_a_mistake_that_the_server_meets_ends_the_run(
    task: str, said: str, tmp_path: Path
):
    assert fails(tmp_path, task).startswith(said)


def test_a_mistake_in_outputs_is_found_before_anybody_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    said = fails(tmp_path, "logits")
    assert said.startswith("task logits, outputs: must return rows of probabilities")
    assert "train 1/2" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("stumbles", "task stumbles, train: RuntimeError: no such column: age"),
        ("shuffles", "task shuffles, losses: must keep the order of the examples"),
        ("ends", "task ends, train: SystemExit: 0 (line "),
    ],
)
def test_a_mistake_that_clients_meet_is_told_of_each(
    task: str, said: str, tmp_path: Path
):
    """In a line that names the task's function."""
    found = results_of(tmp_path, task)
    reasons = [failure["reason"] for failure in found["failures"]]
    assert len(reasons) >= 2
    assert all(said in reason and "\n" not in reason for reason in reasons), reasons


@pytest.mark.parametrize("value", ["nan", "-inf", "[1,{b:inf}]"])
def test_an_option_that_no_file_could_hold_is_a_line(value: str):
    with pytest.raises(FedNegError, match=r"task_options.width must be finite numbers"):
        config_of("dense", f"task_options.width={value}")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("task=builders.own_tasks:no_task", "must be a fedneg.Task, got ClientRef"),
        ("task=builders.own_tasks:colour", "has no colour; did you mean colours"),
        ("task=no_such_module:task", "there is no module no_such_module"),
        ("task=colours", "must be null, images or of the form module:name, got 'colo"),
        ("task=[1]", "must be null, images or of the form module:name"),
        ("task_options.width=8", "task_options are for a task of your own"),
    ],
)
def test_what_is_no_task_is_a_line(override: str, said: str):
    with pytest.raises(FedNegError, match=said):
        load_config([*SHORT, "forget=1", override])


@pytest.mark.parametrize(
    ("task", "attack", "said"),
    [
        ("colours", "backdoor", "attack=backdoor needs a task with poison"),
        ("regression", "canaries", "attack=canaries needs a task with canaries"),
    ],
)
def test_an_attack_that_a_task_knows_nothing_of_is_refused(
    task: str, attack: str, said: str, tmp_path: Path
):
    assert said in fails(tmp_path, task, f"attack={attack}")
    assert not list(tmp_path.iterdir()), "something was trained"


def test_the_built_in_task_has_a_name_too():
    assert load_config(["task=images", "data=digits"]) == load_config(["data=digits"])


def test_the_paper_is_about_the_built_in_task():
    with pytest.raises(FedNegError, match="experiment=paper is about the built-in"):
        config_of("dense", "experiment=paper")


def test_the_folder_of_tests_is_where_these_tasks_are():
    assert (TESTS / "builders" / "own_tasks.py").exists()
