"""What a purge, a receipt and a state folder need of what a strategy holds."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from flwr.serverapp.strategy import Strategy

from fedneg.core.parameters import Vector
from fedneg.forgettable.files import model_bytes
from fedneg.forgettable.holding import Holding
from fedneg.forgettable.method import SUBTRACT
from fedneg.forgettable.names import Names
from fedneg.forgettable.optimiser import server_optimiser, settings_of
from fedneg.ledger.ledger import Ledger
from fedneg.records.facts import APP
from fedneg.records.receipts import NOTHING


class Trainer:
    """A strategy in somebody's own app, as `fedneg.lasting.remnants.Trainer`."""

    def __init__(self, held: Holding) -> None:
        self.held = held

    @property
    def ledger(self) -> Ledger:
        """The strategy's."""
        return self.held.ledger

    @property
    def initial(self) -> Vector:
        """Of the whole model."""
        statistics = self.ledger.statistics.initial
        return np.concatenate([self.ledger.initial, statistics])

    def row_of(self, client_id: int) -> int | None:
        """Return a client's row, which it has from its first round on."""
        return self.held.row_of(client_id)

    def bytes_of(self, parameters: Vector) -> bytes:
        """Return the file of a model, by the names that its arrays came with."""
        names, size = self.held.names, self.ledger.initial.size
        assert names is not None, "a ledger has names"
        return model_bytes(names.record(parameters[:size], parameters[size:]))

    @property
    def contains(self) -> list[int]:
        """The clients whose updates are in the model."""
        took_part = self.held.took_part
        return sorted(k for k, row in self.held.places.items() if row in took_part)


def fixed_of(strategy: Strategy, names: Names) -> dict[str, Any]:
    """Return what no later start with a state folder may have otherwise."""
    rate, momentum = server_optimiser(strategy)
    others = settings_of(strategy)
    return {
        APP: type(strategy).__name__,
        "clients": None,
        "server_learning_rate": rate,
        "server_momentum": momentum,
        **{name: others[name] for name in ("beta_2", "tau") if name in others},
        "arrays": {
            part["name"]: f"{part['kind']} {part['dtype']} {part['shape']}"
            for part in names.to_json()
        },
        **({"frozen": names.digest_of_frozen()} if names.frozen else {}),
    }


# What a subtraction does not reach: each client measures on from what it is sent.
STATISTICS = "; the others' running statistics began from some in which it had a part"


def told_of(
    held: Holding, present: Sequence[int], absent: Sequence[int], scale: float
) -> dict[str, Any]:
    """Return what a receipt says of how clients were taken out, and what remains.

    Parameters
    ----------
    held : Holding
        Right after it.
    present, absent : sequence of int
        Who took part in the model, and who did not.
    scale : float
        Of a plain subtraction.
    """
    method, places = held.method, held.places
    has_statistics = bool(held.known.statistics)
    remains = {str(k): f"{NOTHING}: it took part in no round" for k in absent}
    if method is None:
        part = f"a part of the client's summed updates (scale {scale:g})"
        whole = f"{NOTHING} of the client's summed updates{STATISTICS * has_statistics}"
        remains |= {str(k): whole if scale == 1 else part for k in present}
        scales = {str(k): scale for k in present}
        told: dict[str, Any] = {"form": "update", "scale": scales}
    else:
        remains |= {str(k): method.remains(places[k]) for k in present}
        told = held.by_client(method.report)
    told |= {"strategy": SUBTRACT if method is None else method.name}
    if absent:
        told["absent"] = list(absent)
    return {**told, "remains_of": remains}
