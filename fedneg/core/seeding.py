"""Random streams keyed by (seed, purpose, round, client id).

Nothing here, and nothing that uses it, touches a global generator, so a draw depends on
its key alone: not on the engine, the order of clients, or what was drawn before.
"""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def _key(seed: int, purpose: str, server_round: int, client_id: int) -> list[int]:
    """The eight 32-bit words that identify a stream."""
    text = f"{seed}/{purpose}/{server_round}/{client_id}".encode()
    return [int(word) for word in np.frombuffer(hashlib.sha256(text).digest(), "<u4")]


def rng(
    seed: int, purpose: str, server_round: int = 0, client_id: int = 0
) -> np.random.Generator:
    """Return the NumPy generator of one stream.

    Parameters
    ----------
    seed : int
        The run's seed; 0 is as good as any other.
    purpose : str
        What is drawn, e.g. ``"shuffle"``; streams of different purposes are unrelated.
    server_round, client_id : int
        Where in the run; 0 for what happens once.

    Returns
    -------
    numpy.random.Generator
        A fresh Philox generator: same key, same draws.
    """
    key = np.random.SeedSequence(_key(seed, purpose, server_round, client_id))
    return np.random.Generator(np.random.Philox(key))


def seed_of(seed: int, purpose: str, server_round: int = 0, client_id: int = 0) -> int:
    """Return one stream (see `rng`) as a seed for torch, of 63 bits."""
    low, high, *_ = _key(seed, purpose, server_round, client_id)
    # manual_seed takes a signed 64-bit integer; 63 bits keep it positive.
    return (low | high << 32) >> 1


def torch_generator(
    seed: int, purpose: str, server_round: int = 0, client_id: int = 0
) -> "torch.Generator":
    """Return the torch CPU generator of one stream (see `rng`)."""
    # Whoever draws with NumPy alone does without it.
    import torch

    return torch.Generator().manual_seed(
        seed_of(seed, purpose, server_round, client_id)
    )
