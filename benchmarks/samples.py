"""What methods leave of some of a client's examples: `python -m benchmarks.samples`.

Residual influence of the examples that went, right after forgetting and after two
rounds of repair, in which the client takes part with the rest; beside models that were
retrained for as many rounds from other initial parameters: eight without these examples
and two with them. Writes benchmarks/samples.csv, a row for every model, and the table
of docs/methods.md. Some minutes on two cores, of which it may do a part each time: what
is in the file stays.

No option of a method was chosen on these seeds.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.judge import COMMON, DIGITS, is_there
from benchmarks.markers import fill
from benchmarks.traces import (
    REPAIR,
    deviations,
    influences,
    models_of,
    references_of,
    row_of,
)
from fedneg.evaluation.judge import judge

HERE = Path(__file__).resolve().parent
# PUF has one round more of those who stay, fine_tune two.
AFTER = (0, 1, REPAIR, REPAIR + 1, 2 * REPAIR)
FIVE = (*DIGITS, "clients=5")
# Of the client 0.
SETTINGS: dict[str, tuple[str, ...]] = {
    "half of its examples": (*FIVE, "forget_samples={0:0.5}"),
    "a tenth of its examples": (*FIVE, "forget_samples={0:0.1}"),
    "its poisoned half (backdoor)": (
        *(*FIVE, "attack=backdoor", "attack.fraction=0.5"),
        "forget_samples={0:poisoned}",
    ),
    "its half with flipped labels": (
        *(*FIVE, "attack=label_flip", "attack.fraction=0.5"),
        "forget_samples={0:poisoned}",
    ),
}
METHODS: dict[str, tuple[str, ...]] = {
    "retrain": ("strategy=retrain",),
    "puf": ("strategy=puf",),
    "puf, learning_rate=8": ("strategy=puf", "strategy.learning_rate=8"),
    "gradient_ascent": ("strategy=gradient_ascent",),
    "weight_negation": ("strategy=weight_negation",),
    "fine_tune": ("strategy=fine_tune",),
    "do_nothing": ("strategy=do_nothing",),
}


def rows_of(overrides: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield a row for every model of every method."""
    ins, outs = references_of(overrides, AFTER)
    poisoned = (0,) if any("poisoned" in word for word in overrides) else ()
    for name, words in METHODS.items():
        for repaired, after, price, model in models_of([*overrides, *words]):
            found = judge(
                model,
                trained_with=ins[after],
                trained_without=outs[after],
                poisoned=poisoned,
            )
            row: dict[str, Any] = {"method": name, "repaired": repaired}
            yield {**row, **row_of(found), "price": price}


def table(rows: pd.DataFrame) -> str:
    """Return Markdown: a method's mean rho in every setting, before / after repair.

    And how often a backdoor works after repair.
    """
    names = [name for name in SETTINGS if (rows["setting"] == name).any()]
    trick = [name for name in names if "backdoor" in name]
    lines = [
        f"| rho right after / repaired | {' | '.join(names)} | the trick works, "
        "repaired | worst accuracy lost, repaired | price |",
        f"| --- |{' ---: |' * (len(names) + 3)}",
    ]
    for method in METHODS:
        some = rows[rows["method"] == method]
        if some.empty:
            continue
        cells = influences(some, names)
        repaired = some[some["repaired"]]
        works = repaired[repaired["setting"].isin(trick)]["marker"].mean()
        cells.append("-" if pd.isna(works) else f"{works:.3f}")
        lost = repaired.groupby("setting")["quality_lost"].mean().max()
        price = some[~some["repaired"].astype(bool)]["price"].mean()
        lines.append(f"| {method} | {' | '.join(cells)} | {lost:.3f} | {price:.0%} |")
    lines.append(deviations(rows, names))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", nargs="*", choices=[*SETTINGS], metavar="SETTING")
    parser.add_argument("--seeds", nargs="*", type=int, default=[601, 602])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    out = given.out or HERE / "samples.csv"
    found = pd.read_csv(out) if out.exists() else pd.DataFrame()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["FEDNEG_CACHE"] = cache
        for seed in given.seeds:
            for name in given.settings or SETTINGS:
                which: Mapping[str, Any] = {"setting": name, "seed": seed}
                if is_there(found, which):
                    continue
                words = [*COMMON, *SETTINGS[name], f"seed={seed}"]
                rows = [which | row for row in rows_of(words)]
                found = pd.concat([found, pd.DataFrame(rows)], ignore_index=True)
                found.to_csv(out, index=False, float_format="%.6g")
                print(f"{name}, seed {seed}", file=sys.stderr)
    text = table(found)
    print(text)
    if given.out is None:
        fill(HERE.parent / "docs" / "methods.md", "samples", text)


if __name__ == "__main__":
    main()
