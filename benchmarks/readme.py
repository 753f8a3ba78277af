"""Make the README's numbers: `python -m benchmarks.readme` (about ten minutes).

Runs the command line as a user would, several seeds and clients, and writes
benchmarks/readme.json, the figures, the README's table and the answers in
docs/paper.md.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.markers import fill

HERE = Path(__file__).parent
MAIN = ["attack=backdoor", "retrain=remaining", "retrain_rounds=2"]
RUNS = {
    "update form, client 4, seed 0": [*MAIN, "forget=4"],
    "update form, client 1, seed 1": [*MAIN, "forget=1", "seed=1"],
    "update form, clients 0 and 3, seed 2": [*MAIN, "forget=[0,3]", "seed=2"],
    "parameters form, client 4, seed 0": [
        *MAIN,
        "forget=4",
        "strategy.form=parameters",
        "reference=false",
    ],
}
MODELS = ("original", "unlearned", "recovered", "retrained")


def fedneg(out: Path, *overrides: str) -> dict[str, Any]:
    """Run the command line into a folder and return its results."""
    command = [sys.executable, "-m", "fedneg", "data=mnist", "cache=false", *overrides]
    subprocess.run([*command, f"hydra.run.dir={out}"], check=True)
    results: dict[str, Any] = json.loads((out / "results.json").read_text())
    return results


def table(runs: dict[str, dict[str, Any]]) -> str:
    """Return the runs as a Markdown table: accuracy / attack success."""
    lines = [
        "| test accuracy / attack success | " + " | ".join(MODELS) + " |",
        "| --- " * (len(MODELS) + 1) + "|",
    ]
    for name, results in runs.items():
        cells = [
            f"{m['test_accuracy']:.4f} / {m['attack_success_rate']:.4f}" if m else "-"
            for m in (results["models"].get(model) for model in MODELS)
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run everything and rewrite what depends on it."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        runs = {
            name: fedneg(root / str(place), *overrides)
            for place, (name, overrides) in enumerate(RUNS.items())
        }
        paper = fedneg(root / "paper", "experiment=paper")
        figures = HERE / "figures"
        figures.mkdir(exist_ok=True)
        shutil.copy(root / "paper" / "figures" / "scan_scale.png", figures)
        shutil.copy(root / "0" / "figures" / "accuracy_over_rounds.png", figures)
    kept = {
        name: {"models": r["models"], "cost": r["cost"]} for name, r in runs.items()
    }
    paper.pop("config")
    content = json.dumps({"runs": kept, "paper": paper}, indent=2)
    (HERE / "readme.json").write_text(content + "\n")
    answers = "\n".join(
        f"* {sentence}" for k in ("1", "2") for sentence in paper["answers"][k]
    )
    fill(HERE.parent / "README.md", "table", table(runs))
    fill(HERE.parent / "docs" / "paper.md", "paper", answers)


if __name__ == "__main__":
    main()
