"""How often the judge errs, and what it finds: `python -m benchmarks.judge`.

Models whose answer is known are judged in every setting: the original, the original
repaired (do_nothing) or trained on (fine_tune), one from which only the planted trick
was trained away (scrub), subtractions, and models that were freshly retrained without
the client. Writes benchmarks/judge.csv, a row for every judged model, and the tables of
docs/judge.md. About half an hour on two cores, of which it may do a part each time:
what is in the file stays. ``--settings`` takes some of them, ``--seeds`` others than
those of the tables, ``--out`` writes elsewhere.

No threshold was tuned on these seeds.
"""

import argparse
import io
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from flwr.app import Context
from flwr.serverapp import Grid
from rich.console import Console

from benchmarks.markers import fill
from fedneg.config import load_config
from fedneg.core.parameters import Vector, flatten, unflatten
from fedneg.core.progress import Progress
from fedneg.core.seeding import rng
from fedneg.core.settings import Config
from fedneg.engines.simulate import simulate
from fedneg.evaluation.exact import rate_of
from fedneg.evaluation.judge import OUTCOMES, TRACES
from fedneg.evaluation.looks import Look, looked_at
from fedneg.evaluation.seen import Seen
from fedneg.federation import Federation
from fedneg.tasks.model import get_parameters, set_parameters

HERE = Path(__file__).resolve().parent
REPAIR = 2
# Of a run with verdict.looks=2.
LOOKS = (Look(1, 3, 0.01), Look(2, 7, 0.04))
POOL = 8
COMMON = (
    # Of dense networks all clients are trained at once: the same up to rounding.
    *("engine=inline", "engine.cohort=20"),
    *("report=false", "verdict.relearn_cap=0", "retrain=none"),
    *("strategy.gate=0",),
)
DIGITS, MNIST = ("data=digits",), ("data=mnist", "model.hidden=[64]")
SETTINGS: dict[str, tuple[str, ...]] = {
    "digits, 5 clients": (*DIGITS, "clients=5"),
    "digits, 10 clients": (*DIGITS, "clients=10"),
    "digits, 20 clients": (*DIGITS, "clients=20", "data.split_writers=true"),
    "digits, 100 clients": (*DIGITS, "clients=100", "data.split_writers=true"),
    "digits, 10 clients, dirichlet": (
        *DIGITS,
        "clients=10",
        "data.partition=dirichlet",
    ),
    "digits, 5 clients, cnn": (*DIGITS, "clients=5", "model=cnn"),
    **{
        f"digits, 5 clients, backdoor of {share:.0%}": (
            *DIGITS,
            "clients=5",
            "attack=backdoor",
            f"attack.fraction={share}",
        )
        for share in (0.02, 0.05, 0.5)
    },
    **{
        f"digits, 5 clients, {share:.0%} of labels flipped": (
            *DIGITS,
            "clients=5",
            "attack=label_flip",
            f"attack.fraction={share}",
        )
        for share in (0.5, 1.0)
    },
    **{
        f"digits, 5 clients, {count} canaries": (
            *DIGITS,
            "clients=5",
            "attack=canaries",
            f"attack.canaries={count}",
        )
        for count in (10, 100)
    },
    "mnist, 20 clients": (*MNIST, "clients=20"),
}
# Without files that may have to be downloaded: `--settings "mnist, 20 clients"`.
DEFAULT = [name for name, words in SETTINGS.items() if words[0] != MNIST[0]]
KINDS = {
    "original": "not forgotten",
    "do_nothing, repaired": "not forgotten",
    "fine_tune": "not forgotten",
    "scrub": "not forgotten",
    "half subtracted, repaired": None,
    "subtracted": None,
    "subtracted, repaired": None,
    "retrained": "forgotten",
    "retrained, repaired": "forgotten",
}


def seen(federation: Federation, parameters: Vector) -> Seen:
    """Return what is seen of a model."""
    test, config = federation.test, federation.config
    answers = federation.question(parameters, None)
    marker = None
    rate = test.attack_success_rate(parameters)
    if rate is not None:
        count = sum(map(len, test.attacked))
        marker = (round(rate * count), count)
    canaries = {}
    if config.attack.name == "canaries":
        for client_id in config.forget:
            found = test.canary_losses(parameters, client_id)
            if found is not None:
                canaries[client_id] = found
    return Seen(
        {k: np.logaddexp(0, -found.members) for k, found in answers.items()},
        quality=test.measure(parameters).accuracy,
        marker=marker,
        canaries=canaries,
    )


def scrubbed(federation: Federation, original: Vector) -> Vector | None:
    """Return the original, trained until the planted trick is gone, and no further.

    On the server's images with the trick and their true labels; None without a trick.
    """
    test, config = federation.test, federation.config
    if config.attack.name != "backdoor":
        return None
    task, model = federation.task, federation.prototype.build()
    assert task.loss is not None
    assert task.extras.take is not None
    set_parameters(model, unflatten(original, federation.shapes))
    for whole, part in zip(test.parts, test.attacked, strict=True):
        _, labels = whole.arrays()
        true = labels[labels != config.attack.target]
        data = replace(part, labels=true)
        order = rng(0, "scrub").permutation(len(data))
        optimiser = torch.optim.SGD(model.parameters(), lr=0.02)
        for start in range(0, len(order), 16):
            rate = test.attack_success_rate(flatten(get_parameters(model)))
            if rate is not None and rate < 0.02:
                break
            batch = task.extras.take(data, order[start : start + 16])
            optimiser.zero_grad()
            task.loss(model, batch).mean().backward()
            optimiser.step()
    return flatten(get_parameters(model))


def federate(config: Config, work: Any) -> None:
    """Call `work` with a federation in this process."""

    def main(grid: Grid, _: Context) -> None:
        progress = Progress("", 0, Console(file=io.StringIO()))
        work(Federation(grid, config, progress))

    simulate(main, clients=config.clients, engine=config.engine)


def models_of(overrides: Sequence[str]) -> Iterator[tuple[str, bool, Seen]]:
    """Yield the judged models of a federation: kind, whether repaired, what is seen."""
    found: list[tuple[str, bool, Seen]] = []

    def work(kind: str) -> Any:
        def of(federation: Federation) -> None:
            config = federation.config
            original = federation.train()
            if kind == "subtracted":
                found.append(("original", False, seen(federation, original)))
                scrub = scrubbed(federation, original)
                if scrub is not None:
                    found.append(("scrub", False, seen(federation, scrub)))
            unlearned = federation.unlearn(original, config.forget)
            if kind == "subtracted":
                found.append((kind, False, seen(federation, unlearned)))
            if kind == "fine_tune":  # its rounds are rounds of the others
                found.append((kind, True, seen(federation, unlearned)))
                return
            repaired = federation.recover(unlearned, config.remaining, REPAIR)
            found.append((f"{kind}, repaired", True, seen(federation, repaired)))

        return of

    for kind, strategy in (
        ("subtracted", ["strategy=negative_gradient"]),
        ("half subtracted", ["strategy=negative_gradient", "strategy.scale=0.5"]),
        ("do_nothing", ["strategy=do_nothing"]),
        ("fine_tune", ["strategy=fine_tune", f"strategy.rounds={REPAIR}"]),
    ):
        config, _ = load_config([*overrides, *strategy])
        federate(config, work(kind))
    yield from found


def references_of(
    overrides: Sequence[str],
) -> tuple[dict[bool, list[Seen]], dict[bool, list[Seen]]]:
    """Return in models and out models, each right after training and after repair."""
    ins: dict[bool, list[Seen]] = {False: [], True: []}
    outs: dict[bool, list[Seen]] = {False: [], True: []}

    def work(federation: Federation) -> None:
        config = federation.config
        everybody = tuple(range(config.clients))
        wanted = [(ins, everybody, 500, max(look.n_in for look in LOOKS))]
        wanted.append((outs, tuple(config.remaining), 0, POOL))
        for found, clients, before, count in wanted:
            for draw in range(before + 1, before + 1 + count):
                models = federation.reference(clients, draw, after=(0, REPAIR))
                for repaired, kept in found.items():
                    kept.append(seen(federation, models[REPAIR if repaired else 0]))

    federate(load_config([*overrides, "strategy=do_nothing"])[0], work)
    return ins, outs


def is_there(rows: pd.DataFrame, which: Mapping[str, Any]) -> bool:
    """Return whether a federation's models have been judged."""
    if rows.empty:
        return False
    same = [rows[column] == value for column, value in which.items()]
    return bool(np.logical_and.reduce(same).any())


def rows_of(overrides: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield a row for every judged model of a setting."""
    ins, outs = references_of(overrides)
    judged = [(kind, model, r, outs[r][:7]) for kind, r, model in models_of(overrides)]
    for repaired, pool in outs.items():
        kind = "retrained, repaired" if repaired else "retrained"
        for place, model in enumerate(pool):
            # The others in turn, so that each is a first look's reference as often.
            others = [*pool[place + 1 :], *pool[:place]]
            judged.append((kind, model, repaired, others))
    for kind, model, repaired, references in judged:
        looks = looked_at(
            model, trained_with=ins[repaired], trained_without=references, looks=LOOKS
        )
        last = looks[-1]
        row: dict[str, Any] = {"kind": kind, "looks": len(looks)}
        row |= {"first": looks[0].finding, "finding": last.finding}
        row["outcome"] = last.outcome
        for one in last.influence.values():
            if one is not None:
                row |= {"rho": one.rho, "low": one.low, "high": one.high}
        row |= {"p_marker": last.p_values.get("marker"), "epsilon": last.epsilon}
        row["quality_lost"] = last.quality_lost
        yield row


def table(rows: pd.DataFrame) -> str:
    """Return Markdown: what was said of each kind of model, how often wrongly."""
    findings = [name for name in OUTCOMES if (rows["finding"] == name).any()]
    lines = [
        f"| judged | models | {' | '.join(findings)} | wrong |",
        f"| --- | ---: |{' ---: |' * len(findings)} --- |",
    ]
    for kind, right in KINDS.items():
        some = rows[rows["kind"] == kind]
        if some.empty:
            continue
        counts = [str(int((some["finding"] == name).sum())) for name in findings]
        wrong = "-"
        if right is not None:
            other = "forgotten" if right == "not forgotten" else "not forgotten"
            rate = rate_of(int((some["outcome"] == other).sum()), len(some))
            wrong = f"{rate.value:.1%} ({rate.low:.1%} to {rate.high:.1%})"
        lines.append(f"| {kind} | {len(some)} | {' | '.join(counts)} | {wrong} |")
    return "\n".join(lines)


def power(rows: pd.DataFrame) -> str:
    """Return Markdown: in which settings the client's traces were found, how often."""
    lines = [
        "| setting | traces found in originals | in fine-tuned ones | subtracted, "
        "repaired: median rho |",
        "| --- | --- | --- | ---: |",
    ]
    for name, some in rows.groupby("setting", sort=False, observed=True):
        cells = []
        for kind in ("original", "fine_tune"):
            found = some[some["kind"] == kind]["finding"] == TRACES
            cells.append(f"{int(found.sum())} of {len(found)}")
        rho = some[some["kind"] == "subtracted, repaired"]["rho"].median()
        lines.append(f"| {name} | {' | '.join(cells)} | {rho:.2f} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Judge, write, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", nargs="*", choices=[*SETTINGS], metavar="SETTING")
    parser.add_argument("--seeds", nargs="*", type=int, default=[101, 102])
    parser.add_argument("--clients", nargs="*", type=int, default=[1, 3])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--anew", action="store_true", help="leave nothing of before")
    given = parser.parse_args(arguments)
    chosen: Mapping[str, tuple[str, ...]] = {
        name: SETTINGS[name] for name in given.settings or DEFAULT
    }
    out = given.out or HERE / "judge.csv"
    found = pd.read_csv(out) if out.exists() and not given.anew else pd.DataFrame()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["FEDNEG_CACHE"] = cache
        for name, overrides in chosen.items():
            for seed in given.seeds:
                for client in given.clients:
                    which = {"setting": name, "seed": seed, "client": client}
                    if is_there(found, which):
                        continue
                    words = [*COMMON, *overrides, f"seed={seed}", f"forget={client}"]
                    rows = [which | row for row in rows_of(words)]
                    found = pd.concat([found, pd.DataFrame(rows)], ignore_index=True)
                    found.to_csv(out, index=False, float_format="%.6g")
                    print(f"{name}, seed {seed}, client {client}", file=sys.stderr)
    found["setting"] = pd.Categorical(found["setting"], [*SETTINGS])
    found = found.sort_values(["setting", "seed"], kind="stable")
    text = f"{table(found)}\n\n{power(found)}"
    print(text)
    if given.out is None:
        fill(HERE.parent / "docs" / "judge.md", "judge", text)


if __name__ == "__main__":
    main()
