"""What cohorts of clients cost on a GPU, beside a plain CUDA loop.

``python -m benchmarks.gpu`` trains MNIST's 539 writers, and five clients of 12,000
images, on the card that torch sees: one by one, 16, 64 and 256 at once
(`engine=inline engine.cohort=`), and in a loop of plain PyTorch that keeps everything
on the card (benchmarks/peers/cuda_loop.py); then on the processor's cores. All take
turns. It writes benchmarks/gpu.csv and the table of docs/benchmarks.md.

A number is the median of the rounds after the first. fedneg's seconds leave out its
server-side test, which the loop does not do.
"""

import argparse
import csv
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks.contestants import Stage, report_of, seconds_of_rounds
from benchmarks.markers import fill
from benchmarks.material import REPOSITORY, Material
from benchmarks.processes import NotMeasuredError, run
from fedneg.core.machine import cores

FILE = Path(__file__).with_suffix(".csv")
PAGE = REPOSITORY / "docs" / "benchmarks.md"
COHORTS = (1, 16, 64, 256)
# Clients and local epochs.
SETTINGS = ("539:1", "539:5", "5:1")
LOOP = "plain CUDA loop"
ON_CORES = "engine=local client.device=cpu"
COLUMNS = (
    *("card", "cores", "torch", "clients", "local_epochs", "what", "turn"),
    *("whole_seconds", "round_seconds", "final_loss"),
)


@dataclass(frozen=True)
class Turn:
    """One training: who trains how many clients for how many epochs."""

    what: str
    clients: int
    epochs: int


def turns(settings: Sequence[str], repeat: int) -> Iterator[tuple[int, Turn]]:
    """Yield what is measured, in order."""
    for number in range(1, repeat + 1):
        for setting in settings:
            clients, epochs = map(int, setting.split(":"))
            ways = [f"engine.cohort={c}" for c in COHORTS if c == 1 or c < clients]
            for what in (*ways, LOOP, ON_CORES):
                yield number, Turn(what, clients, epochs)


def measured(stage: Stage, turn: Turn, *, rounds: int, device: str) -> dict[str, str]:
    """Return the seconds of one training and of its rounds, and the loss at the end."""
    if turn.what == LOOP:
        folder = stage.material.for_peers(turn.clients)
        script = REPOSITORY / "benchmarks" / "peers" / "cuda_loop.py"
        done = run(
            [
                *(sys.executable, str(script), str(folder)),
                *("--clients", str(turn.clients), "--rounds", str(rounds)),
                *("--epochs", str(turn.epochs), "--device", device),
            ],
            cwd=stage.material.scratch,
            environment={},
        )
        report = report_of(done.output)
        seconds, loss = report["round_seconds"], report["final_loss"]
    else:
        how = f"client.device={device}"
        words = (
            turn.what if turn.what == ON_CORES else f"engine=inline {turn.what} {how}"
        )
        done, out = stage.fedneg(
            *("forget=null", "report=false", f"rounds={rounds}"),
            *(f"client.local_epochs={turn.epochs}", *words.split()),
            clients=turn.clients,
        )
        seconds = seconds_of_rounds(out / "history.csv")
        with (out / "history.csv").open() as file:
            loss = list(csv.DictReader(file))[-1]["loss"]
    return {
        "whole_seconds": f"{done.seconds:.2f}",
        "round_seconds": " ".join(f"{s:.4f}" for s in seconds),
        "final_loss": str(loss),
    }


def main() -> int:
    """Measure, write the file as it grows, and fill in the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--settings", nargs="+", default=SETTINGS)
    parser.add_argument("--device", default="cuda", help="cpu: to see that it works")
    parser.add_argument("--out", type=Path, default=FILE)
    parser.add_argument("--table", action="store_true", help="only fill in the page")
    asked = parser.parse_args()
    if asked.table:
        print(table(asked.out))
        return 0 if fill(PAGE, "gpu", table(asked.out)) else 1
    if asked.device == "cuda" and not torch.cuda.is_available():
        print("benchmarks.gpu: torch sees no CUDA device", file=sys.stderr)
        return 2
    card = torch.cuda.get_device_name() if asked.device == "cuda" else "none"
    facts = {"card": card, "cores": str(cores()), "torch": version("torch")}
    with tempfile.TemporaryDirectory() as scratch, asked.out.open("w") as file:
        material = Material.find(Path(scratch), quick=False)

        def no_pfl() -> str:
            raise NotMeasuredError("not asked for")

        stage = Stage(material, no_pfl)
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for number, turn in turns(asked.settings, asked.repeat):
            found = measured(stage, turn, rounds=asked.rounds, device=asked.device)
            row: dict[str, object] = {
                "clients": turn.clients,
                "local_epochs": turn.epochs,
            }
            row |= {"what": turn.what, "turn": number}
            writer.writerow(row | facts | found)
            file.flush()
            print(number, turn, found, flush=True)
    if asked.out == FILE:
        fill(PAGE, "gpu", table(FILE))
    return 0


def table(path: Path) -> str:
    """Return the page's table of each card that the file has."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    cards = list(dict.fromkeys(row["card"] for row in rows))
    return "\n\n".join(
        table_of([row for row in rows if row["card"] == card]) for card in cards
    )


def table_of(rows: Sequence[dict[str, str]]) -> str:
    """Return a card's table: seconds a round, and the loop's time over each."""
    found: dict[tuple[int, int], dict[str, list[float]]] = {}
    for row in rows:
        setting = int(row["clients"]), int(row["local_epochs"])
        rounds = [float(s) for s in row["round_seconds"].split()][1:]
        found.setdefault(setting, {}).setdefault(row["what"], []).extend(rounds)
    first = rows[0]
    lines = [
        "| clients, local epochs | how | seconds a round | plain CUDA loop / it |",
        "| --- | --- | --- | --- |",
    ]
    for (clients, epochs), by_what in found.items():
        loop = statistics.median(by_what[LOOP]) if LOOP in by_what else None
        for what, seconds in by_what.items():
            middle = statistics.median(seconds)
            how = what if what == LOOP else f"`{what}`"
            lines.append(
                f"| {clients}, {epochs} | {how} | {middle:.3f} "
                f"({min(seconds):.3f} to {max(seconds):.3f}) | "
                f"{f'{loop / middle:.2f}' if loop else 'not measured'} |"
            )
    turns_ = max(int(row["turn"]) for row in rows)
    return "\n".join(
        [
            *lines,
            "",
            f"{first['card']}, {first['cores']} cores; torch {first['torch']}. The "
            f"median (least to most) of the rounds after the first, of {turns_} "
            f"training{'s' if turns_ > 1 else ''} each; without fedneg's server-side "
            "test, which the loop has not.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
