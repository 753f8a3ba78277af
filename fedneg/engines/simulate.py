"""Ways to run the same ServerApp and ClientApp on this machine.

`inline` calls every client in this process, one after the other; `local` spreads them
over worker processes; `ray` is Flower's own simulation runtime. Real clients need no
engine: `flwr run` brings its Grid. All give the same bytes.
"""

import logging
from collections.abc import Callable
from functools import cache

from flwr.app import Context, RecordDict
from flwr.serverapp import Grid

from fedneg.client_app import app as client_app
from fedneg.core.machine import cores
from fedneg.core.settings import EngineSettings
from fedneg.engines.inline import RUN_ID, InlineGrid, be_a_server
from fedneg.engines.local import LocalGrid
from fedneg.engines.ray import simulate_on_ray
from fedneg.engines.workers import SERVE, WorkerPool, warmed_up


@cache
def shared_pool(size: int) -> WorkerPool:
    """Return this process's pool; every run of a sweep uses the same workers."""
    return warmed_up(size) or WorkerPool(size, SERVE)


def _pool(engine: EngineSettings, clients: int) -> WorkerPool:
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
        simulate_on_ray(main, client_app, clients, engine)
        return
    be_a_server()
    grid = InlineGrid(client_app, clients, engine.cohort)
    if engine.name == "local":
        pool = _pool(engine, clients)
        grid = LocalGrid(client_app, clients, pool, engine.cohort)
    main(grid, Context(RUN_ID, 0, {}, RecordDict(), {}))
