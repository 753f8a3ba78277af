"""Flower's own simulation runtime, on a Ray that this process starts.

Flower would start Ray itself, on another thread than the one that hears why it cannot
be; and Ray would put the working folder first on its workers' import path.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedneg.core.errors import FedNegError
from fedneg.core.settings import EngineSettings

# Ray's own defaults would call home and wrap the interpreter.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "FLWR_TELEMETRY_ENABLED": "0",
}
# As Ray names its sockets, below its folder for temporary files.
SOCKET = "ray/session_0000-00-00_00-00-00_000000_{pid}/sockets/plasma_store"


def simulate_on_ray(
    main: Callable[[Grid, Context], None],
    client_app: ClientApp,
    clients: int,
    engine: EngineSettings,
) -> None:
    """Run a ServerApp's main function on Ray; what `main` raises comes out unchanged.

    Raises
    ------
    FedNegError
        If Ray cannot start, or no client fits into what it has.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    from flwr.simulation import run_simulation

    caught: list[BaseException] = []
    server_app = ServerApp()

    @server_app.main()
    def _main(grid: Grid, context: Context) -> None:
        try:
            main(grid, context)
        except BaseException as error:  # carried out of Flower's server thread
            caught.append(error)

    backend: dict[str, Any] = {
        "client_resources": {
            "num_cpus": engine.cpus_per_client,
            "num_gpus": engine.gpus_per_client,
        }
    }
    with _ray(engine):
        run_simulation(
            server_app=server_app,
            client_app=client_app,
            num_supernodes=clients,
            backend_config=backend,
        )
    if caught:
        raise caught[0]


@contextlib.contextmanager
def _ray(engine: EngineSettings) -> Iterator[None]:
    """Start Ray, unless somebody has; Flower then takes it as it is."""
    import ray

    if ray.is_initialized():
        check_room(engine, ray)
        yield
        return
    check_socket(socket_path())
    with TemporaryDirectory(prefix="fedneg-") as empty:
        try:
            with contextlib.chdir(empty):
                ray.init(
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    runtime_env={"env_vars": worker_environment()},
                )
        except Exception as error:
            ray.shutdown()
            raise FedNegError(
                f"Ray cannot start: {' '.join(str(error).split())}"
            ) from error
        try:
            check_room(engine, ray)
            yield
        finally:
            ray.shutdown()


def socket_path() -> str:
    """Return a path as long as that of the socket that Ray will make."""
    linux = sys.platform.startswith("linux") and os.environ.get("TMPDIR")
    folder = os.environ.get("RAY_TMPDIR") or linux or "/tmp"
    return str(Path(folder) / SOCKET.format(pid=os.getpid()))


def check_socket(path: str) -> None:
    """Raise FedNegError if the system takes no socket with so long a path."""
    most = 103 if sys.platform == "darwin" else 107
    length = len(os.fsencode(path))
    if length > most:
        raise FedNegError(
            f"a socket's path may have {most} bytes, and Ray's would have {length}: "
            f"set RAY_TMPDIR to a shorter folder than that of {path}"
        )


def worker_environment() -> dict[str, str]:
    """Return what Ray's workers, which run in another folder, need to be told."""
    found = {"PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
    for name in ("FEDNEG_DATA", "FEDNEG_CACHE"):
        if value := os.environ.get(name):
            found[name] = str(Path(value).expanduser().resolve())
    return found


def check_room(engine: EngineSettings, ray: Any) -> None:
    """Raise FedNegError if no machine of Ray has room for a client."""
    found = [node["Resources"] for node in ray.nodes()]
    cpus = max((one.get("CPU", 0.0) for one in found), default=0.0)
    gpus = max((one.get("GPU", 0.0) for one in found), default=0.0)
    for name, wanted, there in (
        ("cpus", engine.cpus_per_client, cpus),
        ("gpus", engine.gpus_per_client, gpus),
    ):
        if wanted > there:
            raise FedNegError(
                f"engine.{name}_per_client must be at most {there:g}, which is what "
                f"Ray finds, got {wanted:g}"
            )
