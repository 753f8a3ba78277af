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


@pytest.mark.parametrize("what", ["model=cnn_bn", "task=examples.own_task:task"])
def test_other_models_give_the_bytes_of_inline_on_ray(
    what: str, one_ray: None, tmp_path: Path
):
    """With running statistics, and of a task of one's own."""
    arguments = [a for a in SMALL if not a.startswith(("engine", "model"))]
    for engine in ("inline", "ray"):
        done = command(
            *(*arguments, "clients=2", "forget=1", "rounds=1", what),
            *(f"engine={engine}", f"hydra.run.dir={tmp_path / engine}"),
            cwd=REPOSITORY,
        )
        assert done.returncode == 0, done.stderr
    for name in MODELS:
        one, two = (
            (tmp_path / engine / f"model_{name}.safetensors").read_bytes()
            for engine in ("inline", "ray")
        )
        assert one == two, name


def test_flwr_run_trains_a_task_of_ones_own(flwr: Flwr, tmp_path: Path):
    overrides = "task=examples.own_task:task clients=2 forget=0 reference=false"
    done = flwr(
        *("run", ".", "--stream", *federation(2), "--run-config"),
        f'rounds=1 overrides="{overrides}" out="{tmp_path}/out"',
    )
    assert (tmp_path / "out" / "results.json").exists(), done.stdout + done.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["data"]["name"] == "breast cancer"
    assert results["failures"] == []


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


def test_a_relative_folder_is_refused(flwr: Flwr):
    """It would lie wherever the SuperLink was started."""
    overrides = "data=mnist clients=2 forget=0 data.root=../data"
    flwr(
        *("run", ".", "--stream", *federation(2), "--run-config"),
        f'rounds=1 overrides="{overrides}"',
    )
    found = last_status(flwr)
    assert found["status"] == "finished:failed"
    message = "data.root must be an absolute folder, got '../data'"
    assert message in json.dumps(found)


def test_a_method_of_ones_own_is_found_where_the_server_runs(
    flwr: Flwr, tmp_path: Path
):
    """By the form module:Class; and it is said if there is none of this name."""
    overrides = "data=digits clients=2 forget=0 model.hidden=[16] reference=false"
    for name in ("own_method:Largest", "zzno:Mine"):
        flwr(
            *("run", ".", "--stream", *federation(2), "--run-config"),
            f'rounds=1 overrides="{overrides} strategy={name}" out="{tmp_path}/out"',
        )
        found = last_status(flwr)
        if name.startswith("zzno"):
            line = f"strategy={name}: there is no module zzno among what is installed"
            assert line in json.dumps(found)
        else:
            assert found["status"] == "finished:completed"
            results = json.loads((tmp_path / "out" / "results.json").read_text())
            assert results["strategy"] == name
            assert results["config"]["strategy"]["share"] == 0.5


@pytest.mark.parametrize("name", ["gradient_ascent", "federaser"])
def test_ray_gives_the_bytes_of_inline_where_clients_take_part(
    name: str, tmp_path: Path
):
    """With a role, and with another task, in the message; two clients leave."""
    options = (*SMALL, "clients=4", "forget=[0,2]", f"strategy={name}", "seed=3")
    more = ("strategy.gate=0", "client.batch_size=20", "reference=false")
    repair = ("retrain=remaining", "retrain_rounds=1")
    done = command(
        *(*options, *more, *repair, "engine=ray", "hydra.run.dir=ray"), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    config = small_config(*options, *more, *repair)
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
