"""An operator's commands, killed at every step of writing; see test_agreement.py.

Usage: python -m processes.killed_commands STATE FOLDER. STATE is a federation with
checkpoints of rounds 2 and 3 and a listed key of client 2, its own keys beside it.
Prints one JSON line for each kill: what the next start makes of it.
"""

import json
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from builders.lives import copied
from fedneg.cli.application import run as run_words
from fedneg.records.state import State
from processes.killing import Executioner, forked

NAMES = {
    "request": ["request", "forget", "1"],
    "roster add": ["roster", "add", "1", "key.pub"],
    "roster remove": ["roster", "remove", "2"],
    "rollback": ["rollback", "2"],
    "first roster add": ["roster", "add", "1", "key.pub"],
}
EVENTS = {
    "request": "accepted",
    "roster add": "key listed",
    "roster remove": "key removed",
    "rollback": "rollback",
    "first roster add": "key listed",
}


def quietly(work: Callable[[], None]) -> None:
    """Do work without a word."""
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        work()


def kill_at(step: int, command: Callable[[], None]) -> None:
    """Say a command that is killed at a step, unless it is over before."""
    Executioner(step).watch()
    quietly(command)


def outcome(name: str, folder: Path) -> dict[str, Any]:
    """Start, and return what entry, file and audit then say."""
    state = State(folder)
    with state.running():
        pass
    # What a kill left of an entry counts as none.
    whole, _, _ = (folder / "audit.jsonl").read_text().rpartition("\n")
    lines = whole.splitlines()
    entered = sum(
        entry["event"] == EVENTS[name] and entry["facts"].get("client", 1) == 1
        for entry in map(json.loads, lines)
    )
    if name == "roster remove":
        entered = sum(json.loads(line)["event"] == EVENTS[name] for line in lines)
    done = {
        "request": state.requests.excluded() == {1},
        "roster add": state.pins().key_of(1) is not None,
        "roster remove": state.pins().key_of(2) is None,
        "first roster add": state.pins().key_of(1) is not None,
        "rollback": not (folder / "checkpoints" / "round-000003.json").exists(),
    }[name]
    quietly(lambda: run_words(["audit", "--state", str(folder)]))
    with State(folder).running():
        left = [p.name for p in folder.rglob(".forget-*")]
    return {
        "entered": bool(entered),
        "done": done,
        "left": left,
        "notices": state.notices,
    }


def main() -> None:
    """Kill every command at every step, until it is over before it is killed."""
    made, folder = Path(sys.argv[1]), Path(sys.argv[2])
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    content = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    (folder / "key.pub").write_bytes(content)
    for name, words in NAMES.items():
        step, code = 0, -9
        while code != 0:
            step += 1
            state = folder / f"{name} {step}"
            if name != "first roster add":
                copied(made, state)
            words = [str(folder / w) if w == "key.pub" else w for w in words]

            said = [*words, "--state", str(state)]
            code = forked(partial(kill_at, step, partial(run_words, said)))
            found = outcome(name, state)
            print(json.dumps({"name": name, "code": code, **found}), flush=True)


if __name__ == "__main__":
    main()
