"""What methods leave of a client, and their price: `python -m benchmarks.residual`.

Residual influence (fedneg/evaluation/influence.py) of the model right after forgetting
and after two rounds of repair, beside models that were retrained for as many rounds
from other initial parameters: eight without the client and two with it; and whether a
classifier tells them from those without it (held_out.py). Writes
benchmarks/residual.csv, a row for every model, and the table of docs/methods.md. Half
an hour on two cores, and ten minutes for each federation of MNIST (the file has two,
clients 0 and 4 of seed 501). It may do a part each time: what is in the file stays, but
for the rows of ``--methods``, which are measured anew. Settings of MNIST are passed
over where its files are not there.

No option of a method was chosen on these seeds.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.held_out import MARKS, RETRAINED, auc_of, marks_of, of_each
from benchmarks.judge import COMMON, DIGITS, MNIST, is_there
from benchmarks.markers import fill
from benchmarks.traces import (
    REPAIR,
    deviations,
    influences,
    models_of,
    references_of,
    row_of,
)
from fedneg.config import load_config
from fedneg.data.datasets import default_root
from fedneg.evaluation.judge import judge
from fedneg.evaluation.seen import Seen
from fedneg.tasks.confidence import Floats, confidence_of_losses

HERE = Path(__file__).resolve().parent
FIVE, TEN = (*DIGITS, "clients=5"), (*DIGITS, "clients=10")
SETTINGS: dict[str, tuple[str, ...]] = {
    "5 clients": FIVE,
    "10 clients": TEN,
    "20 clients": (*DIGITS, "clients=20", "data.split_writers=true"),
    "10 clients, dirichlet": (*TEN, "data.partition=dirichlet"),
    "5 clients, backdoor": (*FIVE, "attack=backdoor"),
    "5 clients, half of the labels flipped": (
        *FIVE,
        "attack=label_flip",
        "attack.fraction=0.5",
    ),
    "5 clients, 100 canaries": (*FIVE, "attack=canaries", "attack.canaries=100"),
    "5 clients, cnn": (*FIVE, "model=cnn"),
    "10 clients, 30 rounds": (*TEN, "rounds=30"),
    "5 clients, half of them a round": (*FIVE, "strategy.client_fraction=0.5"),
    "10 clients, half of them a round": (*TEN, "strategy.client_fraction=0.5"),
    "mnist, 20 clients, 30 rounds": (*MNIST, "clients=20", "rounds=30"),
}
METHODS: dict[str, tuple[str, ...]] = {
    "negative_gradient": ("strategy=negative_gradient",),
    "negative_gradient, renormalise": (
        "strategy=negative_gradient",
        "strategy.renormalise=true",
    ),
    "negative_gradient, scale=0.5": (
        "strategy=negative_gradient",
        "strategy.scale=0.5",
    ),
    "compensated": ("strategy=compensated",),
    "counterfactual": ("strategy=counterfactual",),
    "counterfactual, again=probed": (
        "strategy=counterfactual",
        "strategy.again=probed",
        "strategy.probe=0.33",
    ),
    "counterfactual, power=0.5": ("strategy=counterfactual", "strategy.power=0.5"),
    "counterfactual, power=0.5, again=probed": (
        "strategy=counterfactual",
        "strategy.power=0.5",
        "strategy.again=probed",
        "strategy.probe=0.33",
    ),
    "counterfactual, power=0.5, rewind=2": (
        "strategy=counterfactual",
        "strategy.power=0.5",
        "strategy.rewind=2",
    ),
    "puf": ("strategy=puf",),
    "puf, learning_rate=8": ("strategy=puf", "strategy.learning_rate=8"),
    "federaser": ("strategy=federaser",),
    "fine_tune": ("strategy=fine_tune",),
}
# Where not everybody takes part some methods refuse.
FEW = (
    *("negative_gradient", "counterfactual", "counterfactual, power=0.5"),
    *("puf", "federaser", "fine_tune"),
)
SOME_OF = {name: FEW for name in SETTINGS if "half of them a round" in name}


def rounds_after(rounds: int) -> tuple[int, ...]:
    """Return the rounds after a training of some that models of `METHODS` come to.

    PUF has one round more of those who stay, fine_tune two; FedEraser has half as many.
    """
    half = -(rounds // 2)
    return (half, half + REPAIR, 0, 1, REPAIR, REPAIR + 1, 2 * REPAIR)


def scores_of(models: Sequence[Seen]) -> list[Floats]:
    """Return the scores of the client's examples in each of some models."""
    return [confidence_of_losses(next(iter(m.losses.values()))) for m in models]


def rows_of(
    overrides: Sequence[str], methods: Sequence[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield a row for every model of some methods (or all), and every retrained one."""
    rounds = load_config(list(overrides))[0].rounds
    ins, outs = references_of(overrides, rounds_after(rounds))
    without = {after: scores_of(found) for after, found in outs.items()}
    client = {after: np.mean(scores_of(found), axis=0) for after, found in ins.items()}
    for after, found in without.items():
        for marks in of_each(found, client[after]):
            row = {"method": RETRAINED, "repaired": False, "after": after}
            yield row | dict(zip(MARKS, marks, strict=True))
    for name in methods or METHODS:
        for repaired, after, price, model in models_of([*overrides, *METHODS[name]]):
            found = judge(model, trained_with=ins[after], trained_without=outs[after])
            row: dict[str, Any] = {"method": name, "repaired": repaired, "after": after}
            # By as many as measure a retrained one.
            (own,) = scores_of([model])
            marks = marks_of(own, without[after][1:], client[after])
            row |= dict(zip(MARKS, marks, strict=True))
            yield {**row, **row_of(found), "price": price}


def table(rows: pd.DataFrame) -> str:
    """Return Markdown: a method's mean rho in every setting, before / after repair."""
    names = [name for name in SETTINGS if (rows["setting"] == name).any()]
    lines = [
        f"| rho right after / repaired | {' | '.join(names)} | told from retrained | "
        "worst accuracy lost, repaired | price |",
        f"| --- |{' ---: |' * (len(names) + 3)}",
    ]
    for method in METHODS:
        some = rows[rows["method"] == method]
        if some.empty:
            continue
        cells = influences(some, names)
        lost = some[some["repaired"]].groupby("setting")["quality_lost"].mean()
        price = some[~some["repaired"].astype(bool)]["price"].mean()
        told = [auc_of(rows, method, repaired=repaired) for repaired in (False, True)]
        cells.append(" / ".join(f"{auc:.2f}" for auc in told))
        lines.append(
            f"| {method} | {' | '.join(cells)} | {lost.max():.3f} | {price:.0%} |"
        )
    lines.append(deviations(rows, names))
    return "\n".join(lines).replace("+nan", "-").replace("nan", "-")


def renewed(found: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Return what was found before with new rows, which count where both have some."""
    if found.empty:
        return rows
    same = ["setting", "seed", "client", "method"]
    new = set(rows[same].itertuples(index=False, name=None))
    stays = [row not in new for row in found[same].itertuples(index=False, name=None)]
    return pd.concat([found[stays], rows], ignore_index=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", nargs="*", choices=[*SETTINGS], metavar="SETTING")
    parser.add_argument("--seeds", nargs="*", type=int, default=[501, 502])
    parser.add_argument("--clients", nargs="*", type=int, default=[0, 4])
    parser.add_argument("--methods", nargs="*", choices=[*METHODS], metavar="METHOD")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    out = given.out or HERE / "residual.csv"
    found = pd.read_csv(out) if out.exists() else pd.DataFrame()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["FEDNEG_CACHE"] = cache
        for name in given.settings or SETTINGS:
            if (
                set(MNIST) <= set(SETTINGS[name])
                and not (default_root() / "MNIST").exists()
            ):
                print(f"{name}: no data in {default_root()}", file=sys.stderr)
                continue
            for seed in given.seeds:
                for client in given.clients:
                    which: Mapping[str, Any]
                    which = {"setting": name, "seed": seed, "client": client}
                    if is_there(found, which) and not given.methods:
                        continue
                    words = [*COMMON, *SETTINGS[name], f"seed={seed}"]
                    methods = given.methods or SOME_OF.get(name)
                    rows = [
                        which | row
                        for row in rows_of([*words, f"forget={client}"], methods)
                    ]
                    found = renewed(found, pd.DataFrame(rows))
                    found.to_csv(out, index=False, float_format="%.6g")
                    print(f"{name}, seed {seed}, client {client}", file=sys.stderr)
    text = table(found)
    print(text)
    if given.out is None:
        fill(HERE.parent / "docs" / "methods.md", "residual", text)


if __name__ == "__main__":
    main()
