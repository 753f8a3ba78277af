"""Ways to run the same ServerApp and ClientApp on this machine.

`inline` calls every client in this process, one after the other; `local` spreads them
over worker processes; `ray` is Flower's own simulation runtime. Real clients need no
engine: `flwr run` brings its Grid. All give the same bytes.
"""

import logging
import os
from collections.abc import Callable
from functools import cache

from flwr.app import Context, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedneg.client_app import app as client_app
from fedneg.inline_grid import RUN_ID, InlineGrid, be_somebody
from fedneg.local_grid import LocalGrid
from fedneg.machine import cores
from fedneg.settings import EngineSettings
from fedneg.workers import SERVE, WorkerPool, warmed_up


@cache
def shared_pool(size: int) -> WorkerPool:
    """Return this process's pool; every run of a sweep uses the same workers."""
    return warmed_up(size) or WorkerPool(size, SERVE)


def _pool(engine: EngineSettings, clients: int) -> WorkerPool:
    """Return workers for so many clients."""
    size = engine.workers or cores()
    # More workers than clients have nothing to do; but what runs already may stay.
    return warmed_up(size) or shared_pool(min(size, clients))


def simulate(
    main: Callable[[Grid, Context], None], *, clients: int, engine: EngineSettings
) -> None:
    """Run a ServerApp's main function against `clients` simulated nodes.

    Whatever `main` raises comes out of here unchanged.
    """
    # fedneg shows failures in its own progress; Flower's lines go to the log file.
    flower = logging.getLogger("flwr")
    flower.setLevel(logging.WARNING)
    for handler in flower.handlers:
        handler.setLevel(logging.ERROR)
    if engine.name == "ray":
        _simulate_on_ray(main, client_app, clients, engine)
        return
    be_somebody()
    grid = InlineGrid(client_app, clients, engine.cohort)
    if engine.name == "local":
        pool = _pool(engine, clients)
        grid = LocalGrid(client_app, clients, pool, engine.cohort)
    main(grid, Context(RUN_ID, 0, {}, RecordDict(), {}))


def _simulate_on_ray(
    main: Callable[[Grid, Context], None],
    client_app: ClientApp,
    clients: int,
    engine: EngineSettings,
) -> None:
    # Ray's own defaults would call home and wrap the interpreter.
    for name, value in (
        ("RAY_USAGE_STATS_ENABLED", "0"),
        ("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0"),
        ("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"),
        ("FLWR_TELEMETRY_ENABLED", "0"),
    ):
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

    run_simulation(
        server_app=server_app,
        client_app=client_app,
        num_supernodes=clients,
        backend_config={
            "client_resources": {
                "num_cpus": engine.cpus_per_client,
                "num_gpus": engine.gpus_per_client,
            },
            "init_args": {"log_to_driver": False, "logging_level": logging.ERROR},
        },
    )
    if caught:
        raise caught[0]
