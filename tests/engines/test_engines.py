"""Every method gives the same bytes in every engine, for one client and for two."""

import io

import pytest
from flwr.app import Context
from flwr.serverapp import Grid
from rich.console import Console

from builders.federations import small_config
from builders.methods import METHODS
from fedneg.core.parameters import Vector
from fedneg.core.progress import Progress
from fedneg.engines.simulate import simulate
from fedneg.federation import Federation

TRAINED = ("clients=4", "strategy.gate=0", "client.batch_size=20", "seed=3")


def models(*overrides: str) -> tuple[dict[str, Vector], Federation]:
    """Train, forget, repair in one round; return the three models, and who did it."""
    config = small_config(*TRAINED, *overrides)
    found: dict[str, Vector] = {}
    made: list[Federation] = []

    def main(grid: Grid, _: Context) -> None:
        federation = Federation(
            grid, config, Progress("", 0, Console(file=io.StringIO()))
        )
        made.append(federation)
        found["original"] = federation.train()
        found["unlearned"] = federation.unlearn(found["original"], config.forget)
        found["recovered"] = federation.recover(found["unlearned"], config.remaining, 1)

    simulate(main, clients=config.clients, engine=config.engine)
    return found, made[0]


@pytest.mark.parametrize("forget", ["1", "[0,2]"])
@pytest.mark.parametrize("name", METHODS)
def test_workers_give_the_bytes_of_inline(name: str, forget: str):
    """Trained twice, without a cache; every client answers in both."""
    options = (f"strategy={name}", f"forget={forget}")
    inline, _ = models(*options)
    local, federation = models(*options, "engine=local", "engine.workers=2")
    assert federation.reused == set()
    assert not [f for r in federation.strategy.reports for f in r.failures]
    for model, parameters in inline.items():
        assert local[model].tobytes() == parameters.tobytes(), model
    unlearned = inline["unlearned"].tobytes()
    changed = unlearned != inline["original"].tobytes()
    assert changed == (name != "do_nothing")
    assert inline["recovered"].tobytes() != unlearned
