"""Flower's template with a state folder, under `flwr run`, asked from a shell."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from builders.checkout import REPOSITORY
from builders.lives import receipt_of
from builders.programs import Flwr
from builders.waiting import PATIENCE_S
from fedneg.records.state import State

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("one_ray")]
TEMPLATE = REPOSITORY / "examples" / "quickstart-pytorch"
FIVE = ("--federation-config", "num-supernodes=5 client-resources-num-cpus=1")


def fedneg(*words: object) -> str:
    """Return what a sub-command prints, as it is typed."""
    command = [sys.executable, "-m", "fedneg", *map(str, words)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_template_goes_on_from_run_to_run_and_forgets_between_two(
    flwr: Flwr, tmp_path: Path
):
    """Each run has other nodes, in other folders; clients say who they are."""
    state, app = tmp_path / "state", tmp_path / "app"
    shutil.copytree(TEMPLATE, app, ignore=shutil.ignore_patterns("__pycache__"))
    path = app / "pytorchexample" / "server_app.py"
    text = path.read_text()
    wrapped = "Forgettable(strategy)"
    assert wrapped in text
    text = text.replace(wrapped, f'Forgettable(strategy, state="{state}")')
    # Requests come from the shell, and not from the program.
    first, _, rest = text.partition("    arrays = strategy.forget(")
    _, named, helpers = rest.partition("def global_evaluate")
    path.write_text(f"{first}\n\n{named}{helpers}")

    def run(rounds: int) -> str:
        config = f"num-server-rounds={rounds} local-epochs=1"
        words = ("run", str(app), "--stream", *FIVE, "--run-config", config)
        return flwr(*words).stdout

    assert "trained: accuracy" in run(1)
    said = fedneg("request", "forget", 0, "--state", state)
    assert "client 0 is out from now on, and the app forgets it\n" in said
    assert "took part in no round" not in said
    printed = run(2)
    assert "has gone on to round 1: its model goes on" in printed
    assert "trained: accuracy" in printed, printed
    receipt = receipt_of(state, 0)
    assert [r["server_round"] for r in receipt["done"]["recovery_rounds"]] == [3, 4]
    assert State(state).read_status()["excluded"] == [0]
    assert "good receipts: 1" in fedneg("audit", "--state", state)
