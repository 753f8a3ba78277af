"""Ray, alone and under `flwr run`: the bytes of inline, mistakes that reach the user.

All tests of this file use one Ray, which Ray finds by $RAY_ADDRESS; that the engine
starts one of its own is for test_ray.py.
"""

import json
from pathlib import Path

import pytest

from builders.checkout import REPOSITORY
from builders.federations import SMALL, small_config
from builders.programs import Flwr, command
from builders.releases import on_the_oldest
from fedneg.config import load_config
from fedneg.engines.simulate import simulate
from fedneg.server_app import run

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("one_ray")]
MODELS = ("original", "unlearned", "retrained")


def federation(nodes: int) -> tuple[str, str]:
    """Return the option that sets the number of simulated nodes."""
    return (
        "--federation-config",
        f"num-supernodes={nodes} client-resources-num-cpus=1",
    )


def last_status(flwr: Flwr) -> dict[str, str]:
    """Return what the SuperLink knows of the newest run."""
    listed = json.loads(flwr("list", "--format", "json").stdout)
    newest: dict[str, str] = max(listed["runs"], key=lambda r: r["pending-at"])
    return newest


def test_flwr_run_gives_the_bytes_of_inline(flwr: Flwr, tmp_path: Path):
    """The run config says what the overrides say: the same run in another engine."""
    overrides = "data=digits seed=1 model.hidden=[16] client.local_epochs=1"
    done = flwr(
        *("run", ".", "--stream", *federation(3), "--run-config"),
        f'forget=2 rounds=2 overrides="{overrides} clients=3" out="{tmp_path}/flwr"',
    )
    assert (tmp_path / "flwr" / "results.json").exists(), done.stdout + done.stderr
    assert last_status(flwr)["status"] == "finished:completed"
    config = small_config("clients=3", "forget=2", "seed=1")
    (tmp_path / "inline").mkdir()
    simulate(
        lambda grid, context: run(grid, config, tmp_path / "inline"),
        clients=3,
        engine=config.engine,
    )
    for name in MODELS:
        one, two = (
            (tmp_path / engine / f"model_{name}.safetensors").read_bytes()
            for engine in ("flwr", "inline")
        )
        assert one == two, name
    first, second = (
        json.loads((tmp_path / engine / "results.json").read_text())
        for engine in ("flwr", "inline")
    )
    assert first["models"] == second["models"]
    assert first["cost"]["reused_training"] is False


def test_another_number_of_nodes_fails_with_the_remedy(flwr: Flwr, tmp_path: Path):
    """`flwr run` itself exits with 0 (Flower 1.39); the run's status tells."""
    flwr(
        *("run", ".", "--stream", *federation(2), "--run-config"),
        f'rounds=1 overrides="data=digits" out="{tmp_path}/out"',
    )
    found = last_status(flwr)
    assert found["status"] == "finished:failed"
    assert "clients=5 but the federation has 2 nodes" in json.dumps(found)
    assert not (tmp_path / "out" / "results.json").exists()


def test_what_is_ones_own_is_found_where_the_server_runs(flwr: Flwr, tmp_path: Path):
    """Method and task, by module:name; and it is said if there is none of this name."""
    overrides = "task=examples.own_task:task clients=2 forget=0 reference=false"
    for name in ("own_method:Largest", "zzno:Mine"):
        done = flwr(
            *("run", ".", "--stream", *federation(2), "--run-config"),
            f'rounds=1 overrides="{overrides} strategy={name}" out="{tmp_path}/out"',
        )
        found = last_status(flwr)
        if name.startswith("zzno"):
            line = f"strategy={name}: there is no module zzno among what is installed"
            assert line in json.dumps(found)
        else:
            assert found["status"] == "finished:completed", done.stdout + done.stderr
            results = json.loads((tmp_path / "out" / "results.json").read_text())
            assert results["strategy"] == name
            assert results["config"]["strategy"]["share"] == 0.5
            assert results["data"]["name"] == "breast cancer"
            assert results["failures"] == []


@on_the_oldest
@pytest.mark.parametrize(
    ("name", "what"),
    [("gradient_ascent", "task=examples.own_task:task"), ("federaser", "model=cnn_bn")],
)
def test_ray_gives_the_bytes_of_inline_where_clients_take_part(
    name: str, what: str, tmp_path: Path
):
    """With a role, and with another task, in the message; two clients leave.

    What is trained is somebody's own, or has running statistics.
    """
    small = [override for override in SMALL if not override.startswith("model")]
    options = (*small, what, "clients=4", "forget=[0,2]", f"strategy={name}", "seed=3")
    more = ("strategy.gate=0", "client.batch_size=20", "reference=false", "rounds=1")
    repair = ("retrain=remaining", "retrain_rounds=1", "report=false")
    done = command(
        *(*options, *more, *repair, "engine=ray", f"hydra.run.dir={tmp_path}/ray"),
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stderr
    config = load_config([*options, *more, *repair])[0]
    (tmp_path / "inline").mkdir()
    simulate(
        lambda grid, context: run(grid, config, tmp_path / "inline"),
        clients=4,
        engine=config.engine,
    )
    for model in ("original", "unlearned", "recovered"):
        one, two = (
            (tmp_path / engine / f"model_{model}.safetensors").read_bytes()
            for engine in ("inline", "ray")
        )
        assert one == two, model
