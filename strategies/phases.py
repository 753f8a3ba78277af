"""The stretches of a run, and what is written down of each round."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from fedneg.core.samples import ALL


@dataclass(frozen=True)
class Phase:
    """A stretch of rounds with the same clients.

    Attributes
    ----------
    name : str
        train, unlearn, recover or retrain.
    clients : tuple of int
        Client ids that train in it.
    rounds : int
    first_round : int
        Number of its first round in the history.
    first_stream : int
        Server round that the first round tells the clients: their random streams hang
        on it, so a retraining draws what the training drew.
    part : str
        What of their examples the clients train on (`fedneg.core.samples`); in an
        unlearn phase the method says that.
    """

    name: str
    clients: tuple[int, ...]
    rounds: int
    first_round: int = 1
    first_stream: int = 1
    part: str = ALL


@dataclass(frozen=True)
class Failure:
    """A client that was left out of a round, and why."""

    server_round: int
    phase: str
    client_id: int
    reason: str


@dataclass
class RoundReport:
    """What happened in one round; `metrics` are the replies' own, per client.

    `part` is what of their examples the clients trained on.
    """

    server_round: int
    phase: str
    clients: int = 0
    failures: list[Failure] = field(default_factory=list)
    metrics: dict[int, dict[str, float]] = field(default_factory=dict)
    bytes_up: int = 0
    bytes_down: int = 0
    part: str = ALL

    def to_json(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of it; no metrics of the clients' own."""
        return {
            "clients": self.clients,
            "failures": [[f.client_id, f.reason] for f in self.failures],
            "bytes_up": self.bytes_up,
            "bytes_down": self.bytes_down,
        }

    @classmethod
    def from_json(
        cls, values: Mapping[str, Any], *, server_round: int, phase: str
    ) -> Self:
        """Return what `to_json` gave, as a round of a phase."""
        return cls(
            server_round,
            phase,
            values["clients"],
            [Failure(server_round, phase, k, why) for k, why in values["failures"]],
            {},
            values["bytes_up"],
            values["bytes_down"],
        )
