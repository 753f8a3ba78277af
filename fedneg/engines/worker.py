"""One worker process: how it is started, what it says, and what it does.

Workers ignore Ctrl-C, which a terminal sends to them too: the pool ends them.
"""

import importlib
import os
import signal
import socket
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from fedneg.core.children import python_command
from fedneg.engines.channel import READY, REPLY, REQUEST, SHARED, Area, Channel, Parts

Handler = Callable[[Parts, Parts], Parts]
# A process that stops in the middle of a message is given up, like a dead one.
STALL_S = 60
# Requests that a worker may have at a time.
AHEAD = 2
# What is kept of a worker's words, and what of them a person gets to see.
KEPT_BYTES = 4096
SHOWN_BYTES = 1 << 16
LINES, LETTERS = 3, 400


class Worker:
    """One process, the channel to it, and what it has been given."""

    def __init__(self, handler: str) -> None:
        ours, theirs = socket.socketpair()
        # The socket stays a blocking one, as MSG_WAITALL needs; the system times.
        stall = struct.pack("ll", STALL_S, 0)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, stall)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, stall)
        # One thread each: the workers are the parallelism.
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        areas = [Area.make() for _ in range(AHEAD)]
        with theirs:
            descriptors = [theirs.fileno(), *(area.descriptor for area in areas)]
            self.process = subprocess.Popen(
                [
                    *python_command("fedneg.engines.worker"),
                    handler,
                    *map(str, descriptors),
                ],
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                # What it says is no output of this program.
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=os.environ | threads,
            )
        self.channel = Channel(ours, areas)
        self.output = Output(self.process)
        self.shared: Parts | None = None
        self.ready = False
        # What it has to do, in order; the first is what it is doing.
        self.requests: deque[int] = deque()

    def send(self, number: int, shared: Parts, request: Parts) -> None:
        """Hand over a request; if that cannot be, the worker is found dead later."""
        self.requests.append(number)
        try:
            if self.shared is not shared:
                self.channel.send(SHARED, shared)
                self.shared = shared
            self.channel.send(REQUEST, request)
        except OSError:
            # Half a message may be on its way, after which nothing makes sense.
            with suppress(OSError):
                self.channel.end.shutdown(socket.SHUT_RDWR)

    def receive(self) -> list[bytes] | None:
        """Return its next answer, None if it says that it has come up.

        Raises
        ------
        EOFError, OSError
            If the process is gone, or stops in the middle.
        """
        kind, parts = self.channel.receive()
        if kind == READY:
            self.ready = self.output.shown = True
            return None
        return parts

    def end_of(self, error: Exception) -> str:
        """Return what became of this worker, which does not answer."""
        if isinstance(error, BlockingIOError):
            return f"the worker process stopped in the middle for {STALL_S} s"
        try:
            code = self.process.wait(5)
        except subprocess.TimeoutExpired:
            return "the worker process closed its socket"
        said = self.output.last()
        return f"the worker process ended with code {code}" + (said and f": {said}")

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        self.channel.end.close()
        for area in self.channel.areas:
            area.close()
        self.process.kill()
        self.process.wait()
        self.output.close()


class Output:
    """What a process prints: its end is kept, and passed on once that is wanted."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self._file = process.stdout
        self.pipe = self._file.fileno()
        os.set_blocking(self.pipe, False)
        self.is_open = True
        # Until a worker has come up, its words are for the error that ends the run.
        self.shown = False
        self._kept = self._waiting = b""
        self._left = SHOWN_BYTES

    def hear(self) -> bool:
        """Take what there is to read, without waiting; return whether there was."""
        try:
            new = os.read(self.pipe, 1 << 16)
        except BlockingIOError:
            return False
        self.is_open = bool(new)
        self._kept = (self._kept + new)[-KEPT_BYTES:]
        self._waiting = (self._waiting + new)[-SHOWN_BYTES:]
        if self.shown:
            self._show()
        return self.is_open

    def _show(self) -> None:
        """Pass on whole lines to standard error, up to a bound."""
        lines, _, self._waiting = self._waiting.rpartition(b"\n")
        if not lines or self._left <= 0:
            return
        self._left -= len(lines)
        print(lines.decode(errors="replace"), file=sys.stderr, flush=True)
        if self._left <= 0:
            print("what this worker says from now on is left out", file=sys.stderr)

    def last(self) -> str:
        """Return the last lines of a process that has ended, as one."""
        while self.is_open and self.hear():
            pass
        text = self._kept.decode(errors="replace")
        lines = [line for line in text.split("\n") if line.strip()]
        # A traceback's last line says what it was; the others are indented.
        plain = [x for x in lines if not x.startswith((" ", "Traceback "))]
        said = " / ".join(line.strip() for line in (plain or lines)[-LINES:])
        said = "".join(letter if letter.isprintable() else "?" for letter in said)
        return said if len(said) <= LETTERS else f"...{said[-LETTERS:]}"

    def close(self) -> None:
        """Listen no longer."""
        self.is_open = False
        self._file.close()


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
        channel.send(READY, ())
        while True:
            kind, parts = channel.receive()
            if kind == SHARED:
                shared = parts
            else:
                channel.send(REPLY, handler(shared, parts))
