"""A federation that lives on, killed at a chosen step of writing; see test_job.py.

Usage: python -m processes.killed_live FOLDER STRIDE. Prints one JSON line for each
kill: what the federation came to when the same was done again (as in killed_runs.py).
"""

import io
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pandas as pd
from flwr.app import Context
from flwr.serverapp import Grid
from rich.console import Console

from fedneg.config import load_config
from fedneg.core.progress import Progress
from fedneg.data.datasets import load_dataset
from fedneg.engines.simulate import simulate
from fedneg.federation import Federation
from fedneg.ledger import tensors
from fedneg.live.job import do_live_job
from fedneg.records import audit
from fedneg.records.agreement.folder import differences
from fedneg.records.receipts import read_receipt
from fedneg.records.state import State
from processes.killing import kill_at_every

OVERRIDES = [
    *("data=digits", "clients=3", "rounds=2", "retrain_rounds=1", "encrypt=true"),
    *("client.local_epochs=1", "model.hidden=[16]", "engine=inline"),
    *("strategy.server_momentum=0.5", "strategy.form=parameters"),
]


def live(folder: Path, *overrides: str) -> None:
    """Run the federation until nothing is left to do, and say nothing."""
    given = [*OVERRIDES, *overrides, f"state={folder}"]
    config, _ = load_config(given)

    def work(grid: Grid, _: Context) -> None:
        quiet = Progress("", 0, Console(file=io.StringIO()))
        do_live_job(
            lambda c, _, hooks: Federation(grid, c, quiet, hooks), config, given
        )

    with redirect_stdout(io.StringIO()):
        simulate(work, clients=config.clients, engine=config.engine)


def life(folder: Path) -> None:
    """Train, forget one client, train a round more, forget another."""
    state = State(folder)
    live(folder)
    state.requests.accept(1, clients=3, due_days=30)
    live(folder, "rounds=3")
    state.requests.accept(2, clients=3, due_days=30)
    live(folder, "rounds=3")


def outcome(folder: Path) -> dict[str, Any]:
    """Return what must not depend on whether anybody was killed."""
    state = State(folder)
    public = state.operator.public
    history = pd.read_csv(state.history).drop(columns="seconds")
    receipts = [read_receipt(p, public) for p in sorted(state.receipts.iterdir())]
    checked = audit.check(state.folder / "audit.jsonl", public)
    return {
        "model": state.model.read_bytes().hex(),
        "history": history.to_csv(),
        "statuses": [request.status for request in state.requests.all()],
        "models": [receipt["models"] for receipt in receipts],
        "measured": [receipt["measured"] for receipt in receipts],
        "broken": str(checked.broken),
        "differs": [d.text for d in differences(folder, state.keys, state.account)],
        "checkpoints": [
            # Whether a purge was begun twice shows in the file's number.
            re.sub("(round-[0-9]+)-[0-9]+", r"\1", p.name)
            for p in sorted((folder / "checkpoints").iterdir())
        ],
        "keys": [
            # Whether a purge was begun twice shows in the number of the model key.
            re.sub("model-[0-9]+", "model", p.name)
            for p in sorted(state.vault.folder.iterdir())
        ],
    }


def main() -> None:
    """Kill at every STRIDE-th step, until a life is over before it is killed."""
    tensors.CHUNK = 4096
    load_dataset("digits")
    kill_at_every(Path(sys.argv[1]), int(sys.argv[2]), life, outcome)


if __name__ == "__main__":
    main()
