"""Worker processes that turn requests into replies, both as byte strings.

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
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import wait

Parts = Sequence[bytes]
Handler = Callable[[Parts, Parts], Parts]
SHARED, REQUEST, REPLY = 0, 1, 2
# A process that stops in the middle of a message is given up, like a dead one.
STALL_S = 60


class Channel:
    """Messages of several byte strings over a socket, each copied once.

    A message is its kind and number of parts, the length of each part, and the parts.
    """

    def __init__(self, end: socket.socket) -> None:
        self.end = end

    def send(self, kind: int, parts: Parts) -> None:
        """Send a message; raises OSError if the other end is gone."""
        lengths = [len(part) for part in parts]
        head = struct.pack(f"!BI{len(parts)}Q", kind, len(parts), *lengths)
        left = [memoryview(part) for part in (head, *parts) if part]
        while left:
            sent = self.end.sendmsg(left[:1000])  # the system's limit is 1024
            while sent and sent >= len(left[0]):
                sent -= len(left.pop(0))
            if sent:
                left[0] = left[0][sent:]

    def receive(self) -> tuple[int, list[bytes]]:
        """Return kind and parts; raises EOFError or OSError if there are none."""
        kind, count = struct.unpack("!BI", self._exactly(5))
        lengths = struct.unpack(f"!{count}Q", self._exactly(8 * count))
        return kind, [self._exactly(length) for length in lengths]

    def _exactly(self, length: int) -> bytes:
        """Return the next `length` bytes, usually from one call of the system."""
        got = self.end.recv(length, socket.MSG_WAITALL) if length else b""
        while len(got) < length:
            more = self.end.recv(length - len(got), socket.MSG_WAITALL)
            if not more:
                raise EOFError
            got += more
        return got


class _Worker:
    """One process, the channel to it, and what it has been given."""

    def __init__(self, handler: str) -> None:
        ours, theirs = socket.socketpair()
        # The socket stays a blocking one, as MSG_WAITALL needs; the system times.
        stall = struct.pack("ll", STALL_S, 0)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, stall)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, stall)
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
        self.channel = Channel(ours)
        self.shared: Parts | None = None
        self.request: int | None = None

    def send(self, number: int, shared: Parts, request: Parts) -> None:
        """Hand over a request; raises OSError if the process is gone."""
        self.request = number
        if self.shared is not shared:
            self.channel.send(SHARED, shared)
            self.shared = shared
        self.channel.send(REQUEST, request)

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        self.channel.end.close()
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
        self, shared: Parts, requests: Sequence[Parts], timeout_s: float | None = None
    ) -> Iterator[tuple[int, list[bytes] | str]]:
        """Yield (place in `requests`, reply) as replies come in.

        Parameters
        ----------
        shared : sequence of bytes
            What all requests have in common; each worker gets it once.
        requests : sequence of sequences of bytes
            Begun in this order.
        timeout_s : float, optional
            After this many seconds what is not answered is given up.

        Yields
        ------
        tuple of int and (list of bytes or str)
            A str says why there is no reply. Every place comes exactly once. Who stops
            asking gives the rest up.
        """
        try:
            yield from self._run(shared, requests, timeout_s)
        finally:
            for worker in list(self._workers):
                if worker.request is not None:
                    self._replace(worker)

    def _run(
        self, shared: Parts, requests: Sequence[Parts], timeout_s: float | None
    ) -> Iterator[tuple[int, list[bytes] | str]]:
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
            ready = wait([w.channel.end for w in busy], left)
            if not ready:
                yield from self._give_up(waiting, f"no reply within {timeout_s:g} s")
                return
            for worker in busy:
                if worker.channel.end in ready:
                    yield self._reply(worker)

    def _reply(self, worker: _Worker) -> tuple[int, list[bytes] | str]:
        """Return a worker's answer, or replace it if it is gone."""
        assert worker.request is not None
        number, worker.request = worker.request, None
        try:
            return number, worker.channel.receive()[1]
        except TimeoutError:
            self._replace(worker)
            return number, f"the worker process said nothing more for {STALL_S} s"
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
    channel = Channel(socket.socket(fileno=int(descriptor)))
    shared: list[bytes] = []
    with suppress(EOFError, OSError):
        while True:
            kind, parts = channel.receive()
            if kind == SHARED:
                shared = parts
            else:
                channel.send(REPLY, handler(shared, parts))


if __name__ == "__main__":
    main()
