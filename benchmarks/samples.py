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

from benchmarks.judge import COMMON, DIGITS, federate, is_there, seen
from benchmarks.markers import fill
from fedneg.config import load_config
from fedneg.core.samples import GONE
from fedneg.evaluation.judge import judge
from fedneg.evaluation.seen import Seen
from fedneg.federation import Federation

HERE = Path(__file__).resolve().parent
REPAIR = 2
WITH, WITHOUT = 2, 8
# None of those that models without the examples have.
WITH_DRAWS = 500
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


def references_of(
    overrides: Sequence[str],
) -> tuple[dict[int, list[Seen]], dict[int, list[Seen]]]:
    """Return models with the examples and without, by rounds after the training."""
    ins: dict[int, list[Seen]] = {after: [] for after in AFTER}
    outs: dict[int, list[Seen]] = {after: [] for after in AFTER}

    def work(federation: Federation) -> None:
        everybody = federation.config.remaining
        for found, before, count, part in (
            (ins, WITH_DRAWS, WITH, "all"),
            (outs, 0, WITHOUT, federation.staying),
        ):
            for draw in range(before + 1, before + 1 + count):
                models = federation.reference(everybody, draw, after=AFTER, part=part)
                for after, model in models.items():
                    found[after].append(seen(federation, model))

    federate(load_config([*overrides, "strategy=do_nothing"])[0], work)
    return ins, outs


def models_of(overrides: Sequence[str]) -> Iterator[tuple[bool, int, float, Seen]]:
    """Yield a method's models: repaired, rounds after training, price, what is seen.

    The price is in client-epochs, as a share of retraining's; a round on the examples
    that go alone counts as a whole one.
    """
    found: list[tuple[bool, int, float, Seen]] = []

    def work(federation: Federation) -> None:
        config, strategy = federation.config, federation.strategy
        original = federation.train()
        before = len(strategy.reports)
        unlearned = federation.unlearn(original, config.forget)
        reports = strategy.reports[before:]
        ran = sum(bool(r.metrics) and r.part != GONE for r in reports)
        more = strategy.rounds_beyond(ran, config.rounds)
        retraining = config.rounds * len(config.remaining)
        share = sum(report.clients for report in reports) / retraining
        found.append((False, more, share, seen(federation, unlearned)))
        repaired = federation.recover(unlearned, config.remaining, REPAIR)
        share += REPAIR / config.rounds
        found.append((True, more + REPAIR, share, seen(federation, repaired)))

    federate(load_config(list(overrides))[0], work)
    yield from found


def rows_of(overrides: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield a row for every model of every method."""
    ins, outs = references_of(overrides)
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
            for one in found.influence.values():
                if one is not None:
                    row |= {"rho": one.rho, "sd": one.sd}
            row |= {"finding": found.finding, "quality_lost": found.quality_lost}
            if found.marker is not None:
                judged, others = found.marker.judged, found.marker.references
                row |= {"marker": judged.value, "marker_retrained": others.value}
            yield row | {"price": price}


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
        cells = []
        for name in names:
            here = some[some["setting"] == name]
            means = [here[here["repaired"] == r]["rho"].mean() for r in (False, True)]
            cells.append(" / ".join(f"{mean:+.2f}" for mean in means))
        repaired = some[some["repaired"]]
        works = repaired[repaired["setting"].isin(trick)]["marker"].mean()
        cells.append("-" if pd.isna(works) else f"{works:.3f}")
        lost = repaired.groupby("setting")["quality_lost"].mean().max()
        price = some[~some["repaired"].astype(bool)]["price"].mean()
        lines.append(f"| {method} | {' | '.join(cells)} | {lost:.3f} | {price:.0%} |")
    spread = rows.groupby(["setting", "repaired"])["sd"].mean()
    cells = [
        " / ".join(f"{spread[name, r]:.2f}" for r in (False, True)) for name in names
    ]
    lines.append(f"| *deviation of retrained models* | {' | '.join(cells)} | | | |")
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
