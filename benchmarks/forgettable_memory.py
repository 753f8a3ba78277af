"""What forgetting costs in memory: a Flower strategy alone, and wrapped.

``python -m benchmarks.forgettable_memory --parameters 20000000 --clients 4`` trains two
rounds of clients that add noise, in a process of its own each: FedAvg, Forgettable
around it, and the same with its rows on the disk. Each tells the most memory that it
had (the resident set, pages of mapped files included), and what that is more than
FedAvg's, in models of d float32 numbers. Rows are K of them, and the initial model, the
present one and what rounding left are three more.
"""

import argparse
import json
import logging
import resource
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg, Strategy

from fedneg import Forgettable
from fedneg.core.formats import human_bytes, human_seconds
from fedneg.core.seeding import rng
from fedneg.engines.inline import RUN_ID, SERVER_NODE_ID, InlineGrid
from fedneg.flower_internals import be_somebody

# As the layers of a network: the ledger is larger than any of them.
ARRAYS = 20
ROUNDS = 2
KINDS = ("FedAvg", "Forgettable", "on the disk")
Trained = tuple[Strategy, ArrayRecord]


def noisy_clients() -> ClientApp:
    """Return clients that add noise of their own to what they get, array by array."""
    app = ClientApp()

    @app.train()
    def add_noise(message: Message, context: Context) -> Message:
        client_id = int(str(context.node_config["partition-id"]))
        draws = rng(0, "noise", 0, client_id)
        found = {}
        for name, array in message.content.array_records["arrays"].items():
            local = array.numpy().copy()
            local += 0.01 * draws.standard_normal(local.shape, np.float32)
            found[name] = Array(local)
        metrics = MetricRecord({"num-examples": 10 + client_id})
        return Message(
            RecordDict({"arrays": ArrayRecord(found), "metrics": metrics}),
            reply_to=message,
        )

    return app


def train(inner: Strategy, kind: str, parameters: int, clients: int) -> Trained:
    """Train a model of zeros by a strategy, as it is or held, in memory or not."""
    be_somebody(task_id=1, run_id=RUN_ID, node_id=SERVER_NODE_ID)
    each = parameters // ARRAYS
    arrays = ArrayRecord(
        {f"layers.{k}": Array(np.zeros(each, np.float32)) for k in range(ARRAYS)}
    )
    grid = InlineGrid(noisy_clients(), clients)
    memory = 0 if kind == "on the disk" else 2**20
    strategy = inner if kind == "FedAvg" else Forgettable(inner, memory_mib=memory)
    return strategy, strategy.start(grid, arrays, num_rounds=ROUNDS).arrays


def measure(kind: str, parameters: int, clients: int) -> dict[str, float]:
    """Train and, where it can be, forget; return this process's peak in bytes."""
    logging.disable(logging.WARNING)
    start = time.perf_counter()
    inner = FedAvg(fraction_evaluate=0.0)
    strategy, arrays = train(inner, kind, parameters, clients)
    trained = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if isinstance(strategy, Forgettable):
        strategy.forget([strategy.clients[1]], arrays)
    whole = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"trained": peak, "forgotten": whole, "seconds": trained / ROUNDS}


def main(words: Sequence[str] | None = None) -> None:
    """Measure each kind in a process of its own, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parameters", type=int, default=20_000_000)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    if given.kind:
        print(json.dumps(measure(given.kind, given.parameters, given.clients)))
        return
    size = [f"--parameters={given.parameters}", f"--clients={given.clients}"]
    found = {}
    for kind in KINDS:
        command = [sys.executable, "-m", "benchmarks.forgettable_memory", *size]
        done = subprocess.run(
            [*command, f"--kind={kind}"], capture_output=True, text=True, check=True
        )
        found[kind] = json.loads(done.stdout.splitlines()[-1])
    model = 4 * given.parameters
    print(
        f"{given.clients} clients, a model of {human_bytes(model)}; "
        f"K + 3 models are {human_bytes((given.clients + 3) * model)}"
    )
    for kind, one in found.items():
        more = (one["trained"] - found["FedAvg"]["trained"]) / model
        last = (one["forgotten"] - found["FedAvg"]["trained"]) / model
        print(
            f"{kind}: {human_bytes(one['trained'])} at most, {more:.1f} models more; "
            f"with forgetting {last:.1f}; {human_seconds(one['seconds'])} a round"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
