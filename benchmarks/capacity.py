"""How large can it get: bytes of the ledger, and what this machine says to them.

``python -m benchmarks.capacity`` computes the ledger of K clients and d parameters,
measures three sizes of it with this network (each in a process of its own; the largest,
8 GB, is a memory map in the cache folder: ``--skip-large`` leaves it out), and writes
benchmarks/capacity.json and the table of docs/benchmarks.md.
"""

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine_facts import machine, versions
from benchmarks.markers import fill
from benchmarks.material import REPOSITORY, initial_parameters
from fedneg.core.formats import human_bytes
from fedneg.core.machine import cache_root
from fedneg.core.parameters import Shapes, shapes_of, size_of
from fedneg.core.seeding import rng
from fedneg.ledger.ledger import Ledger
from fedneg.ledger.rows import make_rows, release

HERE = Path(__file__).parent
BYTES = 4  # float32
CLIENTS = (5, 50, 539, 3500, 100_000, 1_000_000)
# This network; about a ResNet-50; a small language model.
SHAPES: Shapes = shapes_of(initial_parameters(784))
THIS_NETWORK = size_of(SHAPES)
PARAMETERS = (THIS_NETWORK, 25_000_000, 1_000_000_000)
# What one machine is taken to have. The first is strategy.ledger_memory_mib.
MEMORY_BYTES = 2048 * 2**20
DISK_BYTES = 4 * 2**40
MOST_DISKS = 100
NORM_ROUNDS, NORM_LAYERS = 100, 100
# Clients that are measured here, and the share of them that takes part in a round.
MEASURED = {5: 1.0, 539: 1.0, 3500: 0.1}
LARGE = 3500
ROUNDS = 3


def ledger_bytes(
    clients: int, parameters: int, *, momentum: bool = False, local: bool = False
) -> int:
    """Return the bytes of a ledger, as `Ledger.num_bytes` counts them.

    Parameters
    ----------
    momentum : bool
        The server optimiser has momentum: a second row for each client.
    local : bool
        Last local models are kept (``strategy.form=parameters``): another row each.
    """
    rows = clients * (1 + momentum + local)
    return BYTES * parameters * (rows + 1)  # and the correction


def norm_bytes(clients: int, rounds: int, layers: int) -> int:
    """Return the bytes of a number for each client, round and layer."""
    return BYTES * clients * rounds * layers


def plan(clients: int, parameters: int) -> str:
    """Return where a ledger of this size can be."""
    # As the strategy decides: by the rows alone.
    rows = BYTES * clients * parameters
    if rows <= MEMORY_BYTES:
        return "memory"
    if rows <= DISK_BYTES:
        return "disk"
    disks = -(-rows // DISK_BYTES)
    return f"{disks} disks" if disks <= MOST_DISKS else "groups or norms"


def most_clients(parameters: int) -> dict[str, int]:
    """Return the largest K of each plan, for models of d parameters."""
    row = BYTES * parameters
    return {
        "memory": MEMORY_BYTES // row,
        "disk": DISK_BYTES // row,
        "shards": MOST_DISKS * DISK_BYTES // row,
    }


@dataclass(frozen=True)
class Measured:
    """What a ledger of this network cost on this machine.

    Attributes
    ----------
    clients, participants : int
        Rows, and how many of them a round changes.
    where : str
        ``memory`` or ``disk``.
    ledger_bytes, disk_bytes : int
        As the ledger counts; what the disk has less while it is there.
    replies_seconds, record_seconds, forget_seconds : float
        Writing a round's local models into the rows where they wait; entering the
        round; subtracting one client and zeroing its row. Medians of three.
    peak_bytes : int
        Peak resident memory of the process.
    """

    clients: int
    participants: int
    where: str
    ledger_bytes: int
    disk_bytes: int
    replies_seconds: float
    record_seconds: float
    forget_seconds: float
    peak_bytes: int


def measure(clients: int, fraction: float, parameters: int = THIS_NETWORK) -> Measured:
    """Fill a ledger with made-up rounds and forget clients, in this process."""
    where = plan(clients, parameters)
    folder = cache_root() / "scratch" if where == "disk" else None
    free = _free_bytes() if folder else 0
    base = rng(0, "capacity").standard_normal(parameters, dtype=np.float32)
    ledger = Ledger(base, clients=clients, keep_local=False, folder=folder)
    asked = max(1, round(fraction * clients))
    waiting = make_rows(asked, parameters, folder)
    disk_bytes = free - _free_bytes() if folder else 0
    replies: list[float] = []
    record: list[float] = []
    forget: list[float] = []
    model = base
    for number in range(1, ROUNDS + 1):
        ids = sorted({(number + k * clients // asked) % clients for k in range(asked)})
        started = time.perf_counter()
        for place, client_id in enumerate(ids):
            # A local model: near the global one, and each another.
            waiting[place] = model
            waiting[place] += np.float32(1e-3 * (1 + client_id % 7)) * base
            release(waiting)
        replied = time.perf_counter()
        local = {k: waiting[place] for place, k in enumerate(ids)}
        model = ledger.record(number, model, local, dict.fromkeys(ids, 100))
        release(waiting)
        recorded = time.perf_counter()
        gone = ids[0]
        after = (model - ledger.contribution([gone])).astype(np.float32)
        ledger.forget([gone], before=model, after=after)
        model = after
        forget.append(time.perf_counter() - recorded)
        replies.append(replied - started)
        record.append(recorded - replied)
    peak = _peak_bytes()  # before the check below, which reads every row
    error = float(np.abs(ledger.rebuilt() - model).max())
    assert error < 1e-3, f"the ledger's identity is off by {error}"
    return Measured(
        clients,
        asked,
        where,
        ledger.num_bytes,
        disk_bytes,
        statistics.median(replies),
        statistics.median(record),
        statistics.median(forget),
        peak,
    )


def _free_bytes() -> int:
    """Return what the cache's disk has left."""
    root = cache_root()
    root.mkdir(parents=True, exist_ok=True)
    return shutil.disk_usage(root).free


def _peak_bytes() -> int:
    """Return the peak resident memory of this process."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux: the peak of this process and of what it was forked from
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measured_apart(clients: int) -> Measured:
    """Return a measurement made in a process of its own, which tells its peak."""
    command = [sys.executable, "-m", "benchmarks.capacity", "--measure", str(clients)]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{clients} clients: {done.stderr.strip().splitlines()[-1]}")
    return Measured(**json.loads(done.stdout))


def results_of(measured: Sequence[Measured]) -> dict[str, Any]:
    """Return capacity.json."""
    known = {m.clients for m in measured}
    cells = [
        {
            "clients": clients,
            "parameters": parameters,
            "bytes": ledger_bytes(clients, parameters),
            "bytes_with_momentum": ledger_bytes(clients, parameters, momentum=True),
            "bytes_with_local_models": ledger_bytes(clients, parameters, local=True),
            "plan": plan(clients, parameters),
            "measured": clients in known and parameters == THIS_NETWORK,
        }
        for clients in CLIENTS
        for parameters in PARAMETERS
    ]
    return {
        "machine": machine(),
        "versions": versions(),
        "memory_bytes": MEMORY_BYTES,
        "disk_bytes": DISK_BYTES,
        "most_disks": MOST_DISKS,
        "cells": cells,
        "most_clients": {str(d): most_clients(d) for d in PARAMETERS},
        "measured": [asdict(m) for m in measured],
    }


def short(parameters: int) -> str:
    """Return a number of parameters for a heading."""
    if parameters >= 10**9:
        return f"{parameters / 10**9:.3g} B"
    return f"{parameters / 10**6:.2g} M"


def table(results: Mapping[str, Any]) -> str:
    """Return the docs' table and what follows from it."""
    cells = {(c["clients"], c["parameters"]): c for c in results["cells"]}
    heads = [f"d = {short(d)}" for d in PARAMETERS]
    rows = [
        "| clients K | " + " | ".join(heads) + " |",
        "| --- " * (len(heads) + 1) + "|",
    ]
    for clients in CLIENTS:
        shown = []
        for parameters in PARAMETERS:
            cell = cells[clients, parameters]
            mark = ", measured" if cell["measured"] else ""
            shown.append(f"{human_bytes(cell['bytes'])}: {cell['plan']}{mark}")
        rows.append(f"| {clients:,} | " + " | ".join(shown) + " |")
    return "\n".join([*rows, "", *_advice(), "", *_measurements(results)])


def _advice() -> list[str]:
    """Return from which point on what is to be done, computed."""
    most = [most_clients(d) for d in PARAMETERS]

    def up_to(kind: str) -> str:
        counts = [f"{m[kind]:,}" for m in most]
        return f"{', '.join(counts[:-1])} and {counts[-1]} clients"

    sizes = ", ".join(short(d) for d in PARAMETERS)
    norms = human_bytes(norm_bytes(1_000_000, NORM_ROUNDS, NORM_LAYERS))
    groups = most_clients(PARAMETERS[-1])["disk"]
    return [
        f"For d = {sizes}, in this order:",
        "",
        f"* **Memory** (up to {human_bytes(MEMORY_BYTES)}, "
        f"`strategy.ledger_memory_mib`): up to {up_to('memory')}.",
        f"* **One disk**, as a memory map (taken as {human_bytes(DISK_BYTES)}): up to "
        f"{up_to('disk')}. Beyond memory it is chosen by itself; resident memory does "
        "not grow with it.",
        "* **Sharded by client** over several disks or machines, a row lying whole on "
        f"one of them (up to {MOST_DISKS} disks): up to {up_to('shards')}. Rows never "
        "meet except in sums, so a shard needs a round's global model and its own "
        "clients' replies, and gives back one vector. Not built here.",
        "* **Groups instead of clients** beyond that, where the sums fit but the rows "
        f"do not: one row for a group, {groups:,} of them for d = "
        f"{short(PARAMETERS[-1])} on one disk. Forgetting a client subtracts its "
        "group, and recovery rounds with the others of the group put them back.",
        "* **Norms only** (as FedEraser recalibrates): a number for each client, round "
        f"and layer is {norms} for 1,000,000 clients, {NORM_ROUNDS} rounds and "
        f"{NORM_LAYERS} layers; forgetting then means training again, with shorter "
        "rounds.",
        "",
        "Server momentum, and `strategy.form=parameters` with its last local models, "
        "each add as many rows again. A round also needs a row for each client that "
        "takes part in it, in the same place, until it is summed.",
    ]


def _measurements(results: Mapping[str, Any]) -> list[str]:
    if not results["measured"]:
        return []
    rows = [
        f"| measured, d = {short(THIS_NETWORK)} | ledger | a round's replies written "
        "| round entered | one client forgotten | peak memory |",
        "| --- " * 6 + "|",
    ]
    rows += [
        f"| {m['clients']:,} clients, {m['participants']:,} in a round "
        f"| {human_bytes(m['ledger_bytes'])} in {_place(m)} "
        f"| {m['replies_seconds']:.3g} s | {m['record_seconds']:.3g} s "
        f"| {1000 * m['forget_seconds']:.3g} ms | {human_bytes(m['peak_bytes'])} |"
        for m in results["measured"]
    ]
    return rows


def _place(found: Mapping[str, Any]) -> str:
    return "a memory map" if found["where"] == "disk" else "memory"


def main(argv: Sequence[str] | None = None) -> None:
    """Compute, measure, write."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.capacity",
        description=str(__doc__).splitlines()[0],
    )
    parser.add_argument("--skip-large", action="store_true", help="no 8 GB on disk")
    parser.add_argument("--measure", type=int, choices=MEASURED, help="this one only")
    parser.add_argument("--out", type=Path, default=HERE, help="for capacity.json")
    arguments = parser.parse_args(argv)
    if arguments.measure:
        found = measure(arguments.measure, MEASURED[arguments.measure])
        print(json.dumps(asdict(found)))
        return
    measured = []
    for clients in MEASURED:
        if clients == LARGE and arguments.skip_large:
            continue
        print(f"measuring {clients} clients", flush=True)
        measured.append(measured_apart(clients))
    results = results_of(measured)
    text = table(results)
    print(text)
    arguments.out.mkdir(parents=True, exist_ok=True)
    content = json.dumps(results, indent=2, allow_nan=False)
    (arguments.out / "capacity.json").write_text(content + "\n")
    if arguments.out == HERE:
        fill(REPOSITORY / "docs" / "benchmarks.md", "capacity", text)


if __name__ == "__main__":
    main()
