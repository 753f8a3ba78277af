"""Whether two checkouts of fedneg compute, write and print the same.

``python -m benchmarks.same_results OLD NEW`` runs the same commands with the ``fedneg``
of both, each with an empty cache, and compares what is left behind: models and ledgers
byte by byte, tables and reports of numbers but for what a clock, a random name or a key
put there, and the lines on the terminal. Exit code 1 if anything differs.
"""

import argparse
import difflib
import filecmp
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

TINY = "data=digits rounds=2 clients=4 model.hidden=[16] hydra.run.dir=out"
LIFE = f"{TINY} report=false engine=inline state=state"
# The commands of each follow one another in one folder.
CONFIGURATIONS = {
    "honest, with a report": [f"{TINY} forget=1"],
    "backdoor, repaired": [f"{TINY} forget=1 attack=backdoor retrain=remaining"],
    "two leave, momentum": [
        f"{TINY} forget=[0,2] engine=inline strategy=compensated retrain=remaining"
        " strategy.server_momentum=0.5"
    ],
    "dirichlet, FedEraser": [
        f"{TINY} forget=3 data.partition=dirichlet strategy=federaser"
    ],
    "canaries, gradient ascent": [
        f"{TINY} forget=0 attack=canaries strategy=gradient_ascent"
    ],
    "sampled, from scratch": [
        f"{TINY} clients=8 forget=2 strategy.client_fraction=0.5 retrain=scratch"
    ],
    "cohorts": [f"{TINY} forget=1 engine=inline engine.cohort=2"],
    "MNIST": [
        "data=mnist clients=20 rounds=1 forget=4 client.local_epochs=1"
        " verdict.retrainings=1 report=false hydra.run.dir=out"
    ],
    "the paper": [f"{TINY} experiment=paper"],
    "a federation that lives on": [
        LIFE,
        "request forget 2 --state state",
        LIFE,
        "audit --state state",
    ],
    "a sealed one": [
        f"{LIFE} encrypt=true",
        "request forget 2 --state state",
        f"{LIFE} encrypt=true",
    ],
    "a comparison": [
        "compare data=digits clients=5 rounds=2 seed=0 model.hidden=[16]"
        " attack=backdoor data.partition=writer strategy=negative_gradient,fine_tune"
        " hydra.sweep.dir=out"
    ],
}
# What a clock, a random name, a key or the disk put into a file or a line.
PASSING = re.compile(
    "seconds|speed_up|time|created|updated|received|completed|due|since|digest|sha256"
    "|signature|^key$|^federation$|^id$|audit_entry|previous|disk|bytes$|code|version"
)
BYTES = (".safetensors",)
# Sealed with random nonces, or signed: what they say is compared elsewhere.
LEFT_OUT = re.compile(r"^\.|\.log$|-keys/|\.key$|\.pub$|audit\.jsonl|\.hydra/|\.png$")
WALL = re.compile(
    r"about \d+:\d\d(:\d\d)? left|\d+\.\d+ ?s\b|\b[0-9a-f]{16,64}\b"
    r"|\d{4}-\d\d-\d\d( \d\d:\d\d:\d\d,\d+)?"
)


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path, help="a checkout with its .venv")
    parser.add_argument("new", type=Path, help="another")
    parser.add_argument("--only", nargs="*", help="parts of the names of some")
    options = parser.parse_args()
    differ = 0
    for name, commands in CONFIGURATIONS.items():
        if options.only and not any(part in name for part in options.only):
            continue
        found = list(compare(options.old, options.new, commands))
        print(f"{name}: {'the same' if not found else f'{len(found)} differences'}")
        for line in found[:20]:
            print(f"  {line}")
        sys.stdout.flush()
        differ += bool(found)
    sys.exit(1 if differ else 0)


def compare(old: Path, new: Path, commands: Sequence[str]) -> Iterator[str]:
    """Yield what differs between two checkouts after the same commands."""
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder, name) for name in ("a", "b")]
        said = [
            run(checkout, place, commands)
            for checkout, place in zip((old, new), places, strict=True)
        ]
        for before, after in zip(*said, strict=True):
            if before != after:
                lines = difflib.unified_diff(
                    before.splitlines(), after.splitlines(), n=0, lineterm=""
                )
                yield "printed otherwise: " + "\n    ".join(list(lines)[3:])
        names = [
            {str(p.relative_to(place)) for p in place.rglob("*") if p.is_file()}
            for place in places
        ]
        names = [{n for n in found if not LEFT_OUT.search(n)} for found in names]
        for only in sorted(names[0] ^ names[1]):
            yield f"only one has {only}"
        for name in sorted(names[0] & names[1]):
            if not same(places[0] / name, places[1] / name):
                yield f"{name} differs"


def run(checkout: Path, place: Path, commands: Sequence[str]) -> list[str]:
    """Return what commands print, without times, after running them in a folder."""
    work = place / "work"
    work.mkdir(parents=True)
    program = checkout.absolute() / ".venv" / "bin" / "fedneg"
    with tempfile.TemporaryDirectory() as cache:
        env = os.environ | {"FEDNEG_CACHE": cache, "COLUMNS": "120"}
        found = []
        for command in commands:
            done = subprocess.run(
                [program, *command.split()],
                cwd=work,
                env=env,
                capture_output=True,
                text=True,
            )
            said = f"{done.stdout}{done.stderr}"
            if done.returncode:  # two that fail alike have been compared with nobody
                sys.exit(f"{program} {command} ended with {done.returncode}:\n{said}")
            found.append(WALL.sub("-", said.replace(str(work), ".")))
    return [_without_seconds(text) for text in found]


def _without_seconds(text: str) -> str:
    """Return the lines of a run without the column of seconds."""
    return re.sub(r"│ +\(?\d+\.\d\d\)? │$", "│ - │", text, flags=re.MULTILINE)


def same(old: Path, new: Path) -> bool:
    """Return whether two files say the same."""
    if old.suffix == ".json":
        return bool(_lasting(_json(old)) == _lasting(_json(new)))
    if old.suffix == ".csv":
        tables = [pd.read_csv(path) for path in (old, new)]
        kept = [
            table[[c for c in table.columns if not PASSING.search(c)]]
            for table in tables
        ]
        return bool(kept[0].equals(kept[1]))
    if old.suffix in BYTES and b"model_key" not in old.read_bytes()[:400]:
        return filecmp.cmp(old, new, shallow=False)
    if old.suffix in BYTES:  # sealed: as many bytes
        return old.stat().st_size == new.stat().st_size
    if old.suffix == ".html":
        return old.exists() and new.exists()  # its numbers are those of the tables
    return True


def _json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def _lasting(value: Any) -> Any:
    """Return a nested value without what passes."""
    if isinstance(value, dict):
        return {k: _lasting(v) for k, v in value.items() if not PASSING.search(k)}
    if isinstance(value, list):
        return [_lasting(v) for v in value]
    return WALL.sub("-", value) if isinstance(value, str) else value


if __name__ == "__main__":
    main()
