"""Worker processes that turn requests into replies, both as byte strings.

A pool starts its processes once and keeps them. What all requests of a batch have in
common is handed to each worker once, not once per request. A worker that dies is
replaced, and its request comes back without a reply. Only bytes travel, over a socket
pair and shared memory; nothing is pickled. Workers ignore Ctrl-C and end when the
pool's end of their socket closes, so that no way of ending the program leaves one
behind.
"""

import atexit
import importlib
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from typing import Self

Parts = Sequence[bytes]
Handler = Callable[[Parts, Parts], Parts]
SHARED, REQUEST, REPLY = 0, 1, 2
# What fedneg's workers do, as WorkerPool wants it.
SERVE = "fedneg.local_grid:serve"
# A process that stops in the middle of a message is given up, like a dead one.
STALL_S = 60


# Parts from this size on go through memory that both ends share.
LARGE = 1 << 16
# Requests that a worker may have at a time.
AHEAD = 2


class Area:
    """Memory that two processes share: a file without a name, mapped by both.

    One end writes, then says so through the socket. It is given no request that would
    have it write here again before the other end has read: each worker has as many
    areas as it may have requests.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._map: mmap.mmap | None = None

    @classmethod
    def make(cls) -> Self:
        """Return a new, empty area."""
        if hasattr(os, "memfd_create"):
            return cls(os.memfd_create("fedneg"))
        with tempfile.TemporaryFile() as file:
            return cls(os.dup(file.fileno()))

    def _mapped(self, size: int) -> mmap.mmap:
        """Return the map, at least `size` bytes long."""
        if self._map is None or len(self._map) < size:
            # The system cuts off nothing here: an area only grows.
            size = max(size, os.fstat(self.descriptor).st_size)
            os.ftruncate(self.descriptor, size)
            self._map = mmap.mmap(self.descriptor, size)
        return self._map

    def write(self, parts: Parts) -> None:
        """Put parts one after the other, from the beginning."""
        if not parts:
            return
        start, area = 0, self._mapped(sum(map(len, parts)))
        for part in parts:
            area[start : start + len(part)] = part
            start += len(part)

    def read(self, start: int, length: int) -> bytes:
        """Return a copy of what the other end has put there."""
        return self._mapped(start + length)[start : start + length]

    def close(self) -> None:
        """Give the memory back, once the other end has too."""
        if self._map is not None:
            self._map.close()
        os.close(self.descriptor)


class Channel:
    """Messages of several byte strings over a socket, large replies through memory.

    A message is its kind and number of parts, the length of each part, and the parts;
    a negative length says that the part lies in the area.
    """

    def __init__(self, end: socket.socket, areas: Sequence[Area]) -> None:
        self.end, self.areas = end, areas
        self._replies = 0

    def _next_area(self) -> Area:
        """Return the area of the next reply: they take turns, as both ends know."""
        self._replies += 1
        return self.areas[self._replies % len(self.areas)]

    def send(self, kind: int, parts: Parts) -> None:
        """Send a message; raises OSError if the other end is gone."""
        large: list[bytes] = []
        small: list[bytes] = []
        lengths: list[int] = []
        for part in parts:
            is_large = kind == REPLY and len(part) >= LARGE
            (large if is_large else small).append(part)
            lengths.append(-len(part) if is_large else len(part))
        if kind == REPLY:
            self._next_area().write(large)
        head = struct.pack(f"!BI{len(parts)}q", kind, len(parts), *lengths)
        left = [memoryview(part) for part in (head, *small) if part]
        while left:
            sent = self.end.sendmsg(left[:1000])  # the system's limit is 1024
            while sent and sent >= len(left[0]):
                sent -= len(left.pop(0))
            if sent:
                left[0] = left[0][sent:]

    def receive(self) -> tuple[int, list[bytes]]:
        """Return kind and parts; raises EOFError or OSError if there are none."""
        kind, count = struct.unpack("!BI", self._exactly(5))
        lengths = struct.unpack(f"!{count}q", self._exactly(8 * count))
        parts, start = [], 0
        if kind == REPLY:
            area = self._next_area()
        for length in lengths:
            if length < 0:
                parts.append(area.read(start, -length))
                start -= length
            else:
                parts.append(self._exactly(length))
        return kind, parts

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
        areas = [Area.make() for _ in range(AHEAD)]
        with theirs:
            descriptors = [theirs.fileno(), *(area.descriptor for area in areas)]
            module = [sys.executable, "-m", "fedneg.workers"]
            self.process = subprocess.Popen(
                [*module, handler, *map(str, descriptors)],
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                env=os.environ | threads | path,
            )
        self.channel = Channel(ours, areas)
        self.shared: Parts | None = None
        # What it has to do, in order; the first is what it is doing.
        self.requests: deque[int] = deque()

    def send(self, number: int, shared: Parts, request: Parts) -> None:
        """Hand over a request; raises OSError if the process is gone."""
        self.requests.append(number)
        if self.shared is not shared:
            self.channel.send(SHARED, shared)
            self.shared = shared
        self.channel.send(REQUEST, request)

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        self.channel.end.close()
        for area in self.channel.areas:
            area.close()
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
                if worker.requests:
                    self._replace(worker)

    def _run(
        self, shared: Parts, requests: Sequence[Parts], timeout_s: float | None
    ) -> Iterator[tuple[int, list[bytes] | str]]:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        waiting = list(range(len(requests)))[::-1]
        while waiting or any(w.requests for w in self._workers):
            for worker in self._workers:
                # A worker has its next request before it is done, and need not wait;
                # but the last few go to whoever is free first.
                ahead = AHEAD if len(waiting) > 4 * len(self._workers) else 1
                while waiting and len(worker.requests) < ahead:
                    # A dead worker takes the request and is found dead below.
                    with suppress(OSError):
                        number = waiting.pop()
                        worker.send(number, shared, requests[number])
            busy = [w for w in self._workers if w.requests]
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready = wait([w.channel.end for w in busy], left)
            if not ready:
                yield from self._give_up(waiting, f"no reply within {timeout_s:g} s")
                return
            for worker in busy:
                if worker.channel.end in ready:
                    number = worker.requests.popleft()
                    try:
                        answer: list[bytes] | str = worker.channel.receive()[1]
                    except (EOFError, OSError) as error:
                        answer = self._lost(worker, error)
                        # What it had not begun is for another to do.
                        waiting += reversed(worker.requests)
                        self._replace(worker)
                    yield number, answer

    def _lost(self, worker: _Worker, error: Exception) -> str:
        """Return what became of a worker that does not answer."""
        if isinstance(error, BlockingIOError):
            return f"the worker process stopped in the middle for {STALL_S} s"
        try:
            return f"the worker process ended with code {worker.process.wait(5)}"
        except subprocess.TimeoutExpired:
            return "the worker process closed its socket"

    def _give_up(self, waiting: list[int], reason: str) -> Iterator[tuple[int, str]]:
        for worker in list(self._workers):
            if worker.requests:
                waiting += worker.requests
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


_warm: list[WorkerPool] = []


def warm_up(size: int) -> None:
    """Start workers for a run that this process has not yet read the request of.

    They import for about as long as this process still does, on cores that would have
    nothing to do meanwhile.
    """
    _warm.append(WorkerPool(size, SERVE))


def warmed_up(size: int) -> WorkerPool | None:
    """Return the pool of this size that `warm_up` started, if it did."""
    return next((pool for pool in _warm if len(pool.pids) == size), None)


def main() -> None:
    """Answer requests until the other end closes: the life of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    name, end, *areas = sys.argv[1:]
    module, function = name.split(":")
    handler: Handler = getattr(importlib.import_module(module), function)
    channel = Channel(
        socket.socket(fileno=int(end)), [Area(int(area)) for area in areas]
    )
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
