"""A served app on real SuperNodes: a client that is another node now is known."""

import re
import shutil
from pathlib import Path

import pytest

from builders.checkout import TESTS
from builders.releases import on_the_newest
from builders.waiting import PATIENCE_S
from fedneg.engines.deployed.federation import LocalFederation

pytestmark = [pytest.mark.nodes, pytest.mark.slow, on_the_newest]
PROJECT = """
[project]
name = "lines"
version = "1.0.0"
description = "A stranger's app"
license = { text = "MIT" }
dependencies = []

[tool.flwr.app]
publisher = "somebody"

[tool.flwr.app.components]
serverapp = "lines_app:server_app"
clientapp = "lines_app:client_app"

[tool.flwr.app.config]
folder = ""
"""


def test_a_client_under_another_node_is_the_one_it_was(tmp_path: Path):
    """SuperNodes without keys get another node id each time that they are started."""
    app = tmp_path / "app"
    app.mkdir()
    (app / "pyproject.toml").write_text(PROJECT)
    shutil.copy(TESTS / "builders" / "lines_app.py", app)
    made = LocalFederation(tmp_path / "fed", clients=3, secure=False, app=app)
    config = f'folder="{tmp_path / "ledger"}"'
    made.start(PATIENCE_S)
    try:
        first = made.flwr.wait(made.flwr.submit(config), PATIENCE_S)
        assert first.completed, (first.details, first.log)
        assert "clients 0 1 2\n" in first.log
        before = made.node_ids()[1]
        made.stop_node(1, PATIENCE_S)
        made.start_node(1)
        made.wait_online(PATIENCE_S, 1)
        assert made.node_ids()[1] != before
        second = made.flwr.wait(made.flwr.submit(config), PATIENCE_S)
    finally:
        made.stop()
    assert second.completed, (second.details, second.log)
    # Of its old node's updates nothing is left; the new one answers for it, and is out.
    left = (1 + 3) / 3
    said = dict(re.findall(r"^(left|loss) ([\d.]+)", second.log, re.M))
    assert float(said["left"]) == pytest.approx(left, rel=1e-5)
    assert float(said["loss"]) == pytest.approx(left**2, rel=1e-5)
    assert "clients 0 1 2 forgotten 1\n" in second.log
