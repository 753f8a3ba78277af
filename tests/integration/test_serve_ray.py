"""A served app in Flower's own simulation: class, task and ids get through Ray."""

import os
import subprocess
import sys

import pytest

from builders.checkout import TESTS
from builders.waiting import PATIENCE_S

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("one_ray")]
RUN = """
from flwr.simulation import run_simulation
from builders.lines_app import client_app, server_app

run_simulation(server_app, client_app, num_supernodes=3)
"""


def test_ids_and_answers_get_through_ray():
    ran = subprocess.run(
        [sys.executable, "-c", RUN],
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    said = [
        line for line in ran.stdout.splitlines() if line[:4] in ("clie", "left", "loss")
    ]
    left = (1 + 3) / 3
    assert said[0] == "clients 0 1 2"
    assert float(said[1].split()[1]) == pytest.approx(left)
    assert float(said[2].split()[1]) == pytest.approx(left**2, rel=1e-5)
    assert said[2].split()[2:] == ["3", "2"]
    assert said[3] == "clients 0 1 2 forgotten 1"
    assert "Traceback" not in ran.stderr
