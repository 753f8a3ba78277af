"""The stretches of a run, and what is written down of each round."""

from dataclasses import dataclass, field


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
    """

    name: str
    clients: tuple[int, ...]
    rounds: int
    first_round: int = 1
    first_stream: int = 1


@dataclass(frozen=True)
class Failure:
    """A client that was left out of a round, and why."""

    server_round: int
    phase: str
    client_id: int
    reason: str


@dataclass
class RoundReport:
    """What happened in one round; `metrics` are the replies' own, per client."""

    server_round: int
    phase: str
    clients: int = 0
    failures: list[Failure] = field(default_factory=list)
    metrics: dict[int, dict[str, float]] = field(default_factory=dict)
    bytes_up: int = 0
    bytes_down: int = 0
