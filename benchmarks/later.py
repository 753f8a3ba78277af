"""Does it come back? `python -m benchmarks.later DIR`.

Forgotten and repaired models train on with the clients that stay, and are judged
(`verdict.later`) after 0, 2, 10 and 50 further rounds beside references that were
continued alike: the digits among five clients, with conf/compare.yaml's settings, two
seeds that nothing was chosen on. A third of an hour; an attack that has all of its runs
below DIR is not run again, and ``--table`` only reads. Writes benchmarks/later.csv, a
row for each judgement, the figure, and the table of docs/methods.md.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import pandas as pd

from benchmarks.markers import fill
from fedneg.reports.compare.influence import draw_laters
from fedneg.reports.compare.rows import find_comparison

HERE = Path(__file__).resolve().parent
FILE = HERE / "later.csv"
ATTACKS = {
    "none": "ordinary client",
    "backdoor": "backdoor",
    "label_flip": "half of its labels flipped",
}
METHODS = (
    *("negative_gradient", "counterfactual", "puf", "federaser", "dampening"),
    *("fine_tune", "retrain", "do_nothing"),
)
SEEDS = (31, 32)
AFTER = (0, 2, 10, 50)


def run(folder: Path, attack: str) -> None:
    """Run what is missing of an attack."""
    if len([*folder.glob("*/results.json")]) == len(METHODS) * len(SEEDS):
        return
    words = ["data=digits", "clients=5", "data.partition=writer", f"attack={attack}"]
    words += [f"seed={','.join(map(str, SEEDS))}", "engine=inline"]
    words += [f"verdict.later=[{','.join(map(str, AFTER))}]"]
    words += [f"strategy={','.join(METHODS)}", f"hydra.sweep.dir={folder}"]
    subprocess.run([sys.executable, "-m", "fedneg", "compare", *words], check=True)


def table(later: pd.DataFrame) -> str:
    """Return Markdown: a method's mean rho after so many rounds, by attack."""
    attacks = [a for a in ATTACKS if (later["attack"] == a).any()]
    steps = " / ".join(map(str, sorted(set(later["rounds_after"]))))
    lines = [
        f"| rho after {steps} further rounds | "
        + " | ".join(ATTACKS[attack] for attack in attacks)
        + " |",
        "| --- |" + " ---: |" * len(attacks),
    ]
    for method in dict.fromkeys(later["strategy"]):
        cells = []
        for attack in attacks:
            some = later[(later["strategy"] == method) & (later["attack"] == attack)]
            means = some.groupby("rounds_after")["rho"].mean().sort_index()
            cells.append(" / ".join(f"{mean:+.2f}" for mean in means) or "-")
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, and rewrite what depends on it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--attacks", nargs="+", choices=[*ATTACKS], default=[*ATTACKS])
    parser.add_argument("--table", action="store_true", help="of benchmarks/later.csv")
    asked = parser.parse_args()
    if not asked.table:
        for attack in asked.attacks:
            run(asked.folder / attack, attack)
        found = find_comparison(asked.folder)
        found.later.to_csv(FILE, index=False)
        drawn = draw_laters(found.later, found.margins)
        assert drawn is not None, f"nothing below {asked.folder} was judged later"
        for name, content in drawn.files().items():
            if name.endswith(".png"):
                (HERE / "figures" / name).write_bytes(content)
    later = pd.read_csv(FILE)
    fill(HERE.parent / "docs" / "methods.md", "later", table(later))
    print(table(later))


if __name__ == "__main__":
    main()
