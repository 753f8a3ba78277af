"""Worker processes that turn requests into replies, both as byte strings.

A pool starts its processes once and keeps them. What all requests of a batch have in
common is handed to each worker once, not once per request. A worker that dies is
replaced, and its request comes back without a reply; one that never comes up ends the
run. Only bytes travel, over a socket pair and shared memory; nothing is pickled.
Workers end when this process does, so that no way of ending it leaves one behind.
"""

import atexit
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait

from fedneg.core.errors import FedNegError
from fedneg.engines.channel import Parts
from fedneg.engines.worker import AHEAD, Worker

# What fedneg's workers do, as WorkerPool wants it.
SERVE = "fedneg.engines.local:serve"
# Workers that die again and again without an answer between are given up after so many,
# or after three for each place in the pool: it is not the requests that kill them.
DEATHS = 10


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
        self._deaths = 0
        self._broken: str | None = None
        self._workers = [Worker(handler) for _ in range(size)]
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

        Raises
        ------
        FedNegError
            If a worker ends before it has come up, or they die again and again; the
            pool is then closed, and of no use.
        """
        if self._broken:
            raise FedNegError(self._broken)
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
                while waiting and worker.ready and len(worker.requests) < ahead:
                    number = waiting.pop()
                    worker.send(number, shared, requests[number])
            busy = [w for w in self._workers if w.requests or not w.ready]
            spoken = [w.output for w in self._workers if w.output.is_open]
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ends, pipes = [w.channel.end for w in busy], [s.pipe for s in spoken]
            ready = wait([*ends, *pipes], left)
            for output in spoken:
                if output.pipe in ready:
                    output.hear()
            answered = [w for w in busy if w.channel.end in ready]
            for worker in answered:
                yield from self._heard(worker, waiting)
            if not answered and left == 0:
                yield from self._give_up(waiting, f"no reply within {timeout_s:g} s")
                return

    def _heard(
        self, worker: Worker, waiting: list[int]
    ) -> Iterator[tuple[int, list[bytes] | str]]:
        """Yield what a worker has to say, or that it is lost, if it had a request."""
        try:
            answer: list[bytes] | str | None = worker.receive()
        except (EOFError, OSError) as error:
            answer = self._lost(worker, error)
        else:
            if answer is None:
                return
            self._deaths = 0
        number = worker.requests.popleft()
        if isinstance(answer, str):
            # What it had not begun is for another to do.
            waiting += reversed(worker.requests)
            self._replace(worker)
        yield number, answer

    def _lost(self, worker: Worker, error: Exception) -> str:
        """Return what became of a worker; raise FedNegError if no other will do."""
        found = worker.end_of(error)
        self._deaths += 1
        if not worker.ready:
            self._broken = f"workers cannot be started: {found}"
        elif self._deaths >= max(DEATHS, 3 * len(self._workers)):
            self._broken = f"{self._deaths} workers in a row gave no answer: {found}"
        if self._broken:
            self.close()
            raise FedNegError(self._broken)
        return found

    def _give_up(self, waiting: list[int], reason: str) -> Iterator[tuple[int, str]]:
        for worker in list(self._workers):
            if worker.requests:
                waiting += worker.requests
                self._replace(worker)
        yield from ((number, reason) for number in sorted(waiting))

    def _replace(self, worker: Worker) -> None:
        worker.stop()
        self._workers[self._workers.index(worker)] = Worker(self.handler)

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
