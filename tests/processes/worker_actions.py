"""What the workers of test_workers.py do; imports nothing slow."""

import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

# Ended long before, by the pool.
LONG_S = 7200
_seen: list[Sequence[bytes]] = []


def act(shared: Sequence[bytes], request: Sequence[bytes]) -> list[bytes]:
    """Do what a request says, in a worker of these tests."""
    return [_answer(shared, request[0]), *request[1:]]


def _answer(shared: Sequence[bytes], request: bytes) -> bytes:
    word, _, rest = request.partition(b" ")
    if word == b"die":
        os._exit(int(rest))
    if word == b"say":
        print(rest.decode())
        print("!", file=sys.stderr)
        sys.stdout.flush()
    if word == b"mumble":
        sys.stdout.write("m" * int(rest))
        sys.stdout.flush()
    if word == b"path":
        return "\n".join(sys.path).encode()
    if word == b"compute":
        compute(Path(rest.decode()))
    if word == b"sleep":
        time.sleep(float(rest))
    if word == b"hang":
        time.sleep(LONG_S)
    if word == b"half":
        # The beginning of a message, on the socket that the pool listens to.
        end = socket.socket(fileno=os.dup(int(sys.argv[2])))
        end.send(b"\2\0")
        time.sleep(LONG_S)
    if word == b"pid":
        time.sleep(0.2)  # long enough for the other worker to take one too
        return str(os.getpid()).encode()
    if word == b"seen":
        if not _seen or _seen[-1] is not shared:
            _seen.append(shared)
        return str(len(_seen)).encode()
    return shared[0] + b"|" + request


def compute(begun: Path) -> None:
    """Multiply matrices for ever, as a long local training does."""
    import torch

    matrix = torch.full((1500, 1500), 1e-3)
    matrix = matrix @ matrix
    begun.write_text(str(os.getpid()))  # once: a kill must not find it half written
    while True:
        matrix = matrix @ matrix
