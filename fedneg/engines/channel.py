"""Messages of several byte strings between two processes, over a socket.

Large replies lie in memory that both share; nothing is pickled.
"""

import mmap
import os
import socket
import struct
import tempfile
from collections.abc import Sequence
from typing import Self

Parts = Sequence[bytes]
# What a message is: READY says that a worker has come up.
SHARED, REQUEST, REPLY, READY = 0, 1, 2, 3
# Parts from this size on go through memory that both ends share.
LARGE = 1 << 16


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
