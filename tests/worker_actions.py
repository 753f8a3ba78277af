"""What the workers of test_workers.py do; imports nothing slow."""

import os
import time

_seen: list[bytes] = []


def act(shared: bytes, request: bytes) -> bytes:
    """Do what a request says, in a worker of these tests."""
    word, _, rest = request.partition(b" ")
    if word == b"die":
        os._exit(int(rest))
    if word == b"sleep":
        time.sleep(float(rest))
    if word == b"pid":
        time.sleep(0.2)  # long enough for the other worker to take one too
        return str(os.getpid()).encode()
    if word == b"seen":
        if not _seen or _seen[-1] is not shared:
            _seen.append(shared)
        return str(len(_seen)).encode()
    return shared + b"|" + request
