"""The smoke run's numbers, as they were when somebody last looked at them.

Remake with: python tests/test_golden.py
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from fedneg.config import load_config
from fedneg.engines.simulate import simulate
from fedneg.server_app import run

GOLDEN = Path(__file__).with_name("golden.json")
OVERRIDES = ["data=digits", "attack=backdoor", "retrain=remaining", "engine=inline"]
# Five of 382 test images: another processor may round a few the other way.
TOLERANCE = 0.015


def smoke(out: Path) -> dict[str, dict[str, Any]]:
    """Return accuracy and attack success of the four models of the smoke run."""
    config, _ = load_config(OVERRIDES)
    simulate(
        lambda grid, context: run(grid, config, out),
        clients=config.clients,
        engine=config.engine,
    )
    models = json.loads((out / "results.json").read_text())["models"]
    names = ("test_accuracy", "attack_success_rate")
    return {model: {n: values[n] for n in names} for model, values in models.items()}


def test_smoke_run_gives_the_golden_numbers(tmp_path: Path):
    golden = json.loads(GOLDEN.read_text())
    found = smoke(tmp_path)
    assert found.keys() == golden.keys()
    for model, values in golden.items():
        assert found[model] == pytest.approx(values, abs=TOLERANCE)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        GOLDEN.write_text(json.dumps(smoke(Path(folder)), indent=2) + "\n")
    sys.exit(0)
