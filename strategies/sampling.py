"""Which clients train in a round."""

from collections.abc import Sequence

from fedneg.core.seeding import rng
from fedneg.core.settings import Config


def sample_size(config: Config, clients: int) -> int:
    """Return how many of so many clients train in a round."""
    return max(1, round(config.strategy.client_fraction * clients))


def sample(config: Config, clients: Sequence[int], stream: int) -> list[int]:
    """Return who trains in a round, drawn without replacement.

    Every client id draws a number, and the smallest take part: a retraining without
    some clients samples the others as the training did.

    Parameters
    ----------
    config : Config
    clients : sequence of int
        Client ids to draw from, in order.
    stream : int
        The server round that clients are told.
    """
    size = sample_size(config, len(clients))
    if size == len(clients):
        return list(clients)
    draws = rng(config.seed, "sample", stream).random(config.clients)
    return sorted(sorted(clients, key=lambda k: draws[k])[:size])
