"""Runs that are killed at a chosen step of writing to the disk; see test_checkpoint.py.

Usage: python -m processes.killed_runs FOLDER STRIDE. Prints one JSON line for each
kill.

This process imports what is slow and then forks: a child does the run with everything
that touches the disk counted, and is killed with SIGKILL at step n, also half way
through a write. Another child then does the same run again, undisturbed.
"""

import io
import json
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid
from rich.console import Console

from fedneg.config import load_config
from fedneg.core.progress import Progress
from fedneg.core.settings import Config
from fedneg.data.datasets import load_dataset
from fedneg.engines.simulate import simulate
from fedneg.federation import Federation
from fedneg.ledger import tensors
from processes.killing import Executioner, forked

OVERRIDES = [
    *("data=digits", "clients=3", "rounds=3", "forget=1", "attack=backdoor"),
    *("client.local_epochs=1", "model.hidden=[16]", "engine=inline"),
    *("strategy.server_momentum=0.5", "strategy.form=parameters"),
]
MODELS = ("original", "unlearned", "recovered", "retrained")


@cache
def configuration() -> Config:
    """Return the run's configuration, and have its data loaded."""
    config, _ = load_config(OVERRIDES)
    load_dataset("digits")
    return config


def do(out: Path) -> None:
    """Train, forget, recover and retrain; write the models and what was reused."""
    config = configuration()
    out.mkdir(exist_ok=True)

    def main(grid: Grid, _: Context) -> None:
        federation = Federation(
            grid, config, Progress("", 0, Console(file=io.StringIO()))
        )
        original = federation.train()
        unlearned = federation.unlearn(original, config.forget)
        recovered = federation.recover(
            unlearned, config.remaining, 2, forget=config.forget
        )
        retrained = federation.retrain(config.remaining)
        models = (original, unlearned, recovered, retrained)
        for name, parameters in zip(MODELS, models, strict=True):
            federation.save(out / f"{name}.safetensors", parameters)
        federation.close()
        rows = [
            {k: v for k, v in row.items() if k != "seconds"}
            for row in federation.history
        ]
        facts = {
            "resumed": federation.resumed,
            "reused": sorted(federation.reused),
            "notices": federation.notices,
            "history": rows,
        }
        (out / "facts.json").write_text(json.dumps(facts))

    simulate(main, clients=config.clients, engine=config.engine)


def run_and_kill(folder: Path, last: int) -> dict[str, Any] | None:
    """Kill a run at a step and do it again; None if it was over before that step."""
    os.environ["FEDNEG_CACHE"] = str(folder / "cache")

    def killed() -> None:
        Executioner(last).watch()
        do(folder / "killed")

    folder.mkdir()
    code = forked(killed)
    if code == 0:
        return None
    heads = sorted((folder / "cache").glob("training/*/round-*.json"))
    again = forked(lambda: do(folder / "again"))
    facts = json.loads((folder / "again" / "facts.json").read_text())
    return {
        "step": last,
        "code": code,
        "again": again,
        "left": [p.name for p in (folder / "again").rglob(".*")]
        + [p.name for p in (folder / "cache").rglob(".*")],
        "checkpoints": [f"{p.parent.name[:6]}/{p.name}" for p in heads],
        "models": {
            name: (folder / "again" / f"{name}.safetensors").read_bytes().hex()
            for name in MODELS
        },
        **facts,
    }


def main() -> None:
    """Kill at every STRIDE-th step, until a run is over before it is killed."""
    folder, stride = Path(sys.argv[1]), int(sys.argv[2])
    tensors.CHUNK = 4096
    configuration()
    first = run_and_kill(folder / "undisturbed", 0)
    assert first is None
    facts = json.loads((folder / "undisturbed/killed/facts.json").read_text())
    models = {
        name: (folder / "undisturbed/killed" / f"{name}.safetensors").read_bytes().hex()
        for name in MODELS
    }
    print(json.dumps({"step": 0, "models": models, **facts}), flush=True)
    step = 1
    while found := run_and_kill(folder / f"step{step}", step):
        print(json.dumps(found), flush=True)
        step += stride


if __name__ == "__main__":
    main()
