"""Clients with images of their own."""

from typing import Any

import numpy as np

from builders.federations import Bench
from builders.networks import initial_parameters
from fedneg.core.assignment import Assignment
from fedneg.core.settings import Config
from fedneg.data.kinds import DIGITS
from fedneg.engines.inline import FIRST_NODE_ID

Arrays = dict[str, Any]


def some(count: int = 12, kind: Any = DIGITS) -> Arrays:
    """Return good arrays of so many images, labelled 0, 1, 2, ..., 9, 0, ..."""
    rng = np.random.default_rng(count)
    images = rng.integers(0, kind.pixel_max + 1, (count, *kind.shape), dtype=np.uint8)
    return {"images": images, "labels": np.arange(count) % 10}


def own_bench(config: Config, places: dict[int, Any]) -> Bench:
    """Return a federation of real clients, some of which have data of their own."""
    initial = initial_parameters(64, config.model.hidden, 10, seed=config.seed)
    bench = Bench(
        config, initial, assignment=Assignment.of(config, root=None).to_json()
    )
    for client_id, place in places.items():
        bench.grid.contexts[FIRST_NODE_ID + client_id].node_config["data"] = place
    return bench
