"""The peak resident memory of a process and everything it started (Linux).

Summed as PSS: a page that n processes share counts 1/n for each of them, so that the
sum over all processes counts it once.
"""

import threading
from collections import defaultdict
from pathlib import Path

INTERVAL_S = 0.1


def is_supported() -> bool:
    """Return whether this system tells the PSS of a process."""
    return Path("/proc/self/smaps_rollup").exists()


def family_of(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    children: dict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:  # it has ended meanwhile
                continue
            # Field 4; field 2, a name in brackets, may hold spaces.
            parent = int(stat.rpartition(")")[2].split()[1])
            children[parent].append(int(entry.name))
    family = [pid]
    for member in family:
        family += children[member]
    return family


def pss_of(pid: int) -> int:
    """Return the proportional set size of a process in bytes, 0 if it has ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


class PeakMemory(threading.Thread):
    """Watches a process until `stop`; looks every `INTERVAL_S` seconds.

    Attributes
    ----------
    total : int
        Peak of the sum over the process and its descendants, bytes.
    root : int
        Peak of the process itself, bytes.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.total, self.root = pid, 0, 0
        self._stopped = threading.Event()
        self.start()

    def run(self) -> None:
        """Look, and wait, until told to stop."""
        while not self._stopped.wait(INTERVAL_S):
            sizes = [pss_of(pid) for pid in family_of(self.pid)]
            self.total = max(self.total, sum(sizes))
            self.root = max(self.root, sizes[0])

    def stop(self) -> None:
        """End the watch."""
        self._stopped.set()
        self.join()
