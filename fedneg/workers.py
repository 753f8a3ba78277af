"""Worker processes that turn request bytes into reply bytes.

A pool starts its processes once and keeps them. What all requests of a batch have in
common is handed to each worker once, not once per request. A worker that dies is
replaced, and its request comes back without a reply. Only bytes travel, over a socket
pair; nothing is pickled. Workers ignore Ctrl-C and end when the pool's end of their
socket closes, so that no way of ending the program leaves one behind.
"""

import atexit
import importlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait

Handler = Callable[[bytes, bytes], bytes]
SHARED, REQUEST = b"S", b"R"


class _Worker:
    """One process, the socket to it, and what it has been given."""

    def __init__(self, handler: str) -> None:
        ours, theirs = socket.socketpair()
        # One thread each: the workers are the parallelism. The child finds the modules
        # that this process found, however it was started.
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        path = {"PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fedneg.workers", str(theirs.fileno()), handler],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=os.environ | threads | path,
            )
        self.connection = Connection(ours.detach())
        self.shared: bytes | None = None
        self.request: int | None = None

    def send(self, number: int, shared: bytes, request: bytes) -> None:
        """Hand over a request; raises OSError if the process is gone."""
        self.request = number
        if self.shared is not shared:
            self.connection.send_bytes(SHARED + shared)
            self.shared = shared
        self.connection.send_bytes(REQUEST + request)

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        self.connection.close()
        self.process.kill()
        self.process.wait()


class WorkerPool:
    """Processes that answer requests by a function of this program.

    Parameters
    ----------
    size : int
        How many processes.
    handler : str
        ``"module:function"``; called in the worker as ``function(shared, request)``.
    """

    def __init__(self, size: int, handler: str) -> None:
        self.handler = handler
        self._workers = [_Worker(handler) for _ in range(size)]
        atexit.register(self.close)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.process.pid for worker in self._workers]

    def run(
        self, shared: bytes, requests: Sequence[bytes], timeout_s: float | None = None
    ) -> Iterator[tuple[int, bytes | str]]:
        """Yield (place in `requests`, reply) as replies come in.

        Parameters
        ----------
        shared : bytes
            What all requests have in common; each worker gets it once.
        requests : sequence of bytes
            Begun in this order.
        timeout_s : float, optional
            After this many seconds what is not answered is given up.

        Yields
        ------
        tuple of int and (bytes or str)
            A str says why there is no reply. Every place comes exactly once.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        waiting = list(range(len(requests)))[::-1]
        while waiting or any(w.request is not None for w in self._workers):
            for worker in self._workers:
                if waiting and worker.request is None:
                    # A dead worker takes the request and is found dead below.
                    with suppress(OSError):
                        number = waiting.pop()
                        worker.send(number, shared, requests[number])
            busy = [w for w in self._workers if w.request is not None]
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready = wait([w.connection for w in busy], left)
            if not ready:
                yield from self._give_up(waiting, f"no reply within {timeout_s:g} s")
                return
            for worker in busy:
                if worker.connection in ready:
                    yield self._reply(worker)

    def _reply(self, worker: _Worker) -> tuple[int, bytes | str]:
        """Return a worker's answer, or replace it if it is gone."""
        assert worker.request is not None
        number, worker.request = worker.request, None
        try:
            return number, worker.connection.recv_bytes()
        except (EOFError, OSError):
            code = worker.process.wait()
            self._replace(worker)
            return number, f"the worker process ended with code {code}"

    def _give_up(self, waiting: list[int], reason: str) -> Iterator[tuple[int, str]]:
        for worker in list(self._workers):
            if worker.request is not None:
                waiting.append(worker.request)
                self._replace(worker)
        yield from ((number, reason) for number in sorted(waiting))

    def _replace(self, worker: _Worker) -> None:
        worker.stop()
        self._workers[self._workers.index(worker)] = _Worker(self.handler)

    def close(self) -> None:
        """End all processes; the pool cannot be used again."""
        for worker in self._workers:
            worker.stop()
        self._workers = []
        atexit.unregister(self.close)


def main() -> None:
    """Answer requests until the other end closes: the life of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    descriptor, name = sys.argv[1:]
    module, function = name.split(":")
    handler: Handler = getattr(importlib.import_module(module), function)
    connection = Connection(int(descriptor))
    shared = b""
    with suppress(EOFError, OSError):
        while True:
            received = connection.recv_bytes()
            if received[:1] == SHARED:
                shared = received[1:]
            else:
                connection.send_bytes(handler(shared, received[1:]))


if __name__ == "__main__":
    main()
