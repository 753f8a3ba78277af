"""A stranger's app that is killed at a chosen step of writing.

Usage: python -m processes.killed_apps FOLDER STRIDE. Prints a JSON line for each kill:
what the app came to when it was started again; see test_forgettable_state.py.
"""

import io
import re
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from builders.app_lives import ask, live, model_in
from fedneg.ledger import tensors
from fedneg.records import audit
from fedneg.records.agreement.folder import differences
from fedneg.records.receipts import read_receipt
from fedneg.records.state import State
from processes.killing import kill_at_every


def life(state: Path) -> None:
    """Train, forget one client, train on, forget another when all is trained."""
    quiet = io.StringIO()
    with redirect_stdout(quiet), redirect_stderr(quiet):
        live(state, 2)
        ask(state, 101)
        live(state, 5)
        ask(state, 103)
        live(state, 5)


def outcome(state: Path) -> dict[str, Any]:
    """Return what must not depend on whether anybody was killed."""
    found = State(state)
    public = found.operator.public
    receipts = [read_receipt(p, public) for p in sorted(found.receipts.iterdir())]
    checked = audit.check(found.folder / "audit.jsonl", public)
    return {
        # Flower asks nodes in a random order, and sums as they answer: to rounding.
        "model": {name: array.tolist() for name, array in model_in(state).items()},
        "statuses": [request.status for request in found.requests.all()],
        "isolable": [receipt["purged"]["isolable"] for receipt in receipts],
        "repaired": [receipt["done"]["recovery_rounds"] for receipt in receipts],
        "broken": str(checked.broken),
        "differs": [d.text for d in differences(state, found.keys, found.account)],
        "trained": found.read_status()["trained"],
        "checkpoints": [
            # Whether a purge was begun twice shows in the file's number.
            re.sub("(round-[0-9]+)-[0-9]+", r"\1", path.name)
            for path in sorted((state / "checkpoints").iterdir())
        ],
    }


def main() -> None:
    """Kill at every STRIDE-th step, until a life is over before it is killed."""
    tensors.CHUNK = 4096
    kill_at_every(Path(sys.argv[1]), int(sys.argv[2]), life, outcome)


if __name__ == "__main__":
    main()
