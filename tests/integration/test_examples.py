"""The apps in `examples/`, each as it is typed: trained, forgotten, repaired."""

import re
import shutil
from pathlib import Path

import pytest

from builders.checkout import REPOSITORY
from builders.programs import Flwr

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("one_ray")]
EXAMPLES = REPOSITORY / "examples"
STAGES = ("trained", "forgotten", "repaired")
TEMPLATE = EXAMPLES / "quickstart-pytorch"
FIVE = ("--federation-config", "num-supernodes=5 client-resources-num-cpus=1")


def numbers(printed: str) -> dict[str, dict[str, float]]:
    """Return what an example printed of its models: `stage: name 0.1, name 0.2`."""
    found = {}
    for stage, line in re.findall(r"^(\w+): (\w.*\d)$", printed, re.M):
        pairs = (one.rsplit(" ", 1) for one in line.split(", "))
        found[stage] = {name: float(value) for name, value in pairs}
    return found


def without_fedneg(text: str) -> str:
    """Return a file as it was before: without the lines that are marked."""
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if not line.rstrip().endswith("# fedneg"))


def test_flowers_template_forgets_under_flwr_run(flwr: Flwr):
    """The poisoned client's backdoor is gone, and the model is as good as it was."""
    done = flwr("run", str(TEMPLATE), "--stream", *FIVE)
    found = numbers(done.stdout)
    assert tuple(found) == STAGES, done.stdout + done.stderr
    assert found["trained"]["fooled"] > 0.3
    assert found["forgotten"]["fooled"] < 0.1
    assert found["repaired"]["fooled"] < 0.1
    assert found["repaired"]["accuracy"] > found["trained"]["accuracy"] - 0.05


def test_flowers_template_runs_without_the_marked_lines(flwr: Flwr, tmp_path: Path):
    """The app as it was before, which trains on, and whose backdoor stays."""
    before = tmp_path / "before"
    shutil.copytree(TEMPLATE, before, ignore=shutil.ignore_patterns("__pycache__"))
    marked = {}
    for path in before.glob("*/*.py"):
        text = path.read_text()
        path.write_text(without_fedneg(text))
        marked[path.name] = text.count("# fedneg\n")
        assert "edneg" not in path.read_text().replace("orgettable", "edneg")
    assert marked == {
        "__init__.py": 0,
        "task.py": 0,
        "client_app.py": 1,
        "server_app.py": 3,
    }
    done = flwr("run", str(before), "--stream", *FIVE)
    found = numbers(done.stdout)
    assert tuple(found) == STAGES, done.stdout + done.stderr
    assert found["forgotten"] == found["trained"]
    assert found["repaired"]["fooled"] > 0.3
