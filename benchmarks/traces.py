"""What is left of what was forgotten, measured alike of clients and of examples.

Shared by `benchmarks.residual` and `benchmarks.samples`: the models to compare with, a
method's models with their price, and the parts of both tables.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from benchmarks.judge import federate, seen
from fedneg.config import load_config
from fedneg.core.samples import GONE
from fedneg.evaluation.judge import Finding
from fedneg.evaluation.seen import Seen
from fedneg.federation import Federation

# Of repair.
REPAIR = 2
WITH, WITHOUT = 2, 8
# None of those that models without what goes have.
WITH_DRAWS = 500


def references_of(
    overrides: Sequence[str], rounds_after: Sequence[int]
) -> tuple[dict[int, list[Seen]], dict[int, list[Seen]]]:
    """Return models with what goes and without it, by rounds after the training."""
    ins: dict[int, list[Seen]] = {after: [] for after in rounds_after}
    outs: dict[int, list[Seen]] = {after: [] for after in rounds_after}

    def work(federation: Federation) -> None:
        config = federation.config
        everybody, stay = tuple(range(config.clients)), config.remaining
        for found, clients, before, count, part in (
            (ins, everybody, WITH_DRAWS, WITH, "all"),
            (outs, stay, 0, WITHOUT, federation.staying),
        ):
            for draw in range(before + 1, before + 1 + count):
                models = federation.reference(
                    clients, draw, after=tuple(rounds_after), part=part
                )
                for after, model in models.items():
                    found[after].append(seen(federation, model))

    federate(load_config([*overrides, "strategy=do_nothing"])[0], work)
    return ins, outs


def models_of(overrides: Sequence[str]) -> Iterator[tuple[bool, int, float, Seen]]:
    """Yield a method's models: repaired, rounds after training, price, what is seen.

    The price is in client-epochs, as a share of retraining's; a round on examples that
    go alone counts as a whole one.
    """
    found: list[tuple[bool, int, float, Seen]] = []

    def work(federation: Federation) -> None:
        config, strategy = federation.config, federation.strategy
        original = federation.train()
        before = len(strategy.reports)
        unlearned = federation.unlearn(original, config.forget)
        reports = strategy.reports[before:]
        ran = [
            set(r.metrics) & set(config.remaining) for r in reports if r.part != GONE
        ]
        more = strategy.rounds_beyond(sum(map(bool, ran)), config.rounds)
        retraining = config.rounds * len(config.remaining)
        share = sum(report.clients for report in reports) / retraining
        found.append((False, more, share, seen(federation, unlearned)))
        repaired = federation.recover(unlearned, config.remaining, REPAIR)
        share += REPAIR / config.rounds
        found.append((True, more + REPAIR, share, seen(federation, repaired)))

    federate(load_config(list(overrides))[0], work)
    yield from found


def row_of(found: Finding) -> dict[str, Any]:
    """Return what a table wants of a finding, by column."""
    row: dict[str, Any] = {}
    for one in found.influence.values():
        if one is not None:
            row |= {"rho": one.rho, "sd": one.sd}
    row |= {"finding": found.finding, "quality_lost": found.quality_lost}
    if found.marker is not None:
        judged, others = found.marker.judged, found.marker.references
        row |= {"marker": judged.value, "marker_retrained": others.value}
    return row


def influences(some: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """Return a method's mean rho in each setting, before / after repair."""
    cells = []
    for name in names:
        here = some[some["setting"] == name]
        means = [here[here["repaired"] == r]["rho"].mean() for r in (False, True)]
        cells.append(" / ".join(f"{mean:+.2f}" for mean in means))
    return cells


def deviations(rows: pd.DataFrame, names: Sequence[str]) -> str:
    """Return the table's last line: how far retrained models are apart."""
    spread = rows.groupby(["setting", "repaired"])["sd"].mean()
    cells = [
        " / ".join(f"{spread[name, r]:.2f}" for r in (False, True)) for name in names
    ]
    return f"| *deviation of retrained models* | {' | '.join(cells)} | | | |"
