"""Requests that are being carried out: what is known of them from round to round."""

from dataclasses import dataclass
from typing import Any


@dataclass
class Work:
    """Requests that are being carried out together; a checkpoint keeps it.

    Attributes
    ----------
    clients : list of int
        Whose requests they are.
    mode : str
        What follows the unlearn round: none, remaining or scratch.
    unlearn_round : int
        Its number in the history.
    recovered : int
        Rounds since.
    before, unlearned : mapping
        What was measured of the two models, and their digests.
    method : mapping
        What the method says of what it did; ``left`` is how nearly arithmetic gives the
        contributions back, and ``remains_of``, where it is known that early, what a
        receipt says of each client.
    """

    clients: list[int]
    mode: str
    unlearn_round: int
    recovered: int
    before: dict[str, Any]
    unlearned: dict[str, Any]
    method: dict[str, Any]
