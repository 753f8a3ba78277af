"""Ray, alone and under `flwr run`: the bytes of inline, mistakes that reach the user.

All tests of this file use one Ray, which Ray finds by $RAY_ADDRESS; that the engine
starts one of its own is for test_ray.py.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builders.checkout import REPOSITORY
from builders.federations import SMALL, small_config
from builders.programs import command
from builders.waiting import PATIENCE_S, no_longer_than_patience, until
from fedneg.engines.deployed.processes import free_ports
from fedneg.engines.simulate import simulate
from fedneg.server_app import run

pytestmark = [pytest.mark.ray, pytest.mark.slow]
Flwr = Callable[..., subprocess.CompletedProcess[str]]
MODELS = ("original", "unlearned", "retrained")


def processes_of(home: Path) -> list[int]:
    """Return the process ids whose command line or environment names this FLWR_HOME.

    The folder is a temporary one of this test, so nobody else's process can match.
    """
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            said = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue
        if str(home).encode() in said:
            found.append(int(entry.name))
    return found


def stop_all_of(home: Path) -> None:
    """End what this test has started: politely, then, after 10 s, for good."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in processes_of(home):
            try:
                os.kill(process, number)
            except ProcessLookupError:
                continue
        deadline = time.monotonic() + 10
        while processes_of(home) and time.monotonic() < deadline:
            time.sleep(0.2)
    until("the SuperLink's processes to end", lambda: not processes_of(home))


RAY = """
import logging, sys
import ray
ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module", autouse=True)
def one_ray() -> Iterator[None]:
    """Keep a Ray for all runs: to start it takes a third of a small one."""
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    process = subprocess.Popen(
        [sys.executable, "-c", RAY],
        env=os.environ | quiet,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        with no_longer_than_patience(process):
            address = process.stdout.readline().strip()
        assert address, "Ray did not start"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_ADDRESS", address)
            yield
    finally:
        process.communicate(timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def flwr(one_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flwr]:
    """Return the `flwr` command with a SuperLink of its own, stopped at the end."""
    home = tmp_path_factory.mktemp("flwr-home")
    http, control = free_ports(2)
    bin_folder = Path(sys.executable).parent
    environment = os.environ | {
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "FLWR_HOME": str(home),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(http),
        "FLWR_LOCAL_CONTROL_API_PORT": str(control),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        # As if what lies there were installed.
        "PYTHONPATH": str(REPOSITORY / "examples"),
    }

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        # To files: the SuperLink that this starts would hold a pipe open for ever.
        with (home / "out").open("w+") as out, (home / "err").open("w+") as err:
            done = subprocess.run(
                [str(bin_folder / "flwr"), *arguments],
                cwd=REPOSITORY,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                timeout=PATIENCE_S,
                check=False,
            )
        texts = ((home / name).read_text() for name in ("out", "err"))
        return subprocess.CompletedProcess(done.args, done.returncode, *texts)

    try:
        yield call
    finally:
        stop_all_of(home)


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


def test_somebodys_own_app_forgets_in_flowers_simulation(one_ray: None, tmp_path: Path):
    """The example, as it is typed: forgetting the poisoner makes the model better."""
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "examples" / "flower_app.py")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    found = dict(re.findall(r"^(\w+): accuracy ([\d.]+)$", done.stdout, re.M))
    assert list(found) == ["trained", "forgotten", "repaired"], done.stdout
    assert float(found["trained"]) > 0.8
    assert float(found["forgotten"]) >= float(found["trained"])
    assert float(found["repaired"]) >= float(found["trained"])
