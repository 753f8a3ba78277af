"""How the judge errs where the answer is made: `python -m benchmarks.made_worlds`.

In a made world a model is numbers: of each of the client's examples a middle, what the
client teaches, and noise. So the answer is known, there are as many models as one
likes, and worlds can be made that are hard for the judge: examples that vary by very
unequal amounts or are all in doubt, chance that all examples share, models that have
lost what is easily seen of a client and kept the rest, or are less sure of everything.
Writes benchmarks/made_worlds.csv, a row for each world and way to judge, and the table
of docs/judge.md. Ten minutes on one core; ``--worlds`` has only these anew.

That every example counts alike, and what can stand in the way of an acquittal, was
chosen on worlds like these (docs/judge.md).
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.markers import fill
from fedneg.core.seeding import rng
from fedneg.evaluation.exact import rate_of
from fedneg.evaluation.judge import CANNOT_TELL, GONE, OVERSHOT, TRACES
from fedneg.evaluation.looks import Look, looked_at
from fedneg.evaluation.seen import Seen

Floats = NDArray[np.float64]
HERE = Path(__file__).resolve().parent
FINDINGS = (GONE, TRACES, OVERSHOT, CANNOT_TELL)
PLANS = {
    "3 without it, one look": (Look(1, 3, 0.05),),
    "7 without it": (Look(2, 7, 0.05),),
    "two looks": (Look(1, 3, 0.01), Look(2, 7, 0.04)),
}


@dataclass(frozen=True)
class World:
    """A client's examples in models, as scaled confidences, and what one has kept.

    Attributes
    ----------
    middle : array, shape (N,)
        In models without the client, on the mean.
    taught : array, shape (N,)
        How much higher in models with it.
    kept : array, shape (N,)
        How much of that the judged model has.
    noise : array, shape (N,)
        Deviation of each example by itself.
    shared : array, shape (F, N)
        What moves together: each row by a normal number of each model's own.
    sharpness : float
        Each model's confidences are so much sharper or flatter, as a deviation of
        their logarithm; `is_skewed`: of few models by far more than of the others.
    odd : float
        How many models come out otherwise, by three of each example's deviations
        where what they share turns.
    softened : float
        By how much the judged model's confidences are divided.
    has_failed : bool
        Whether the first model with the client knows nothing.
    clients : int
        How many the examples are of, as many of each.
    """

    middle: Floats
    taught: Floats
    kept: Floats
    noise: Floats
    shared: Floats
    sharpness: float = 0.0
    is_skewed: bool = False
    odd: float = 0.0
    softened: float = 1.0
    has_failed: bool = False
    clients: int = 1

    def seen(self, share: Floats | float, draw: np.random.Generator) -> Seen:
        """Return what clients answer of a model that has such a share."""
        found = self.middle + share * self.taught
        found = found + self.noise * draw.normal(size=len(self.middle))
        found = found + draw.normal(size=len(self.shared)) @ self.shared
        if self.odd and draw.uniform() < self.odd:
            found = found + 3 * self.shared[0]
        scale = draw.exponential() - 1 if self.is_skewed else draw.normal()
        return self.answers(found * np.exp(self.sharpness * scale))

    def answers(self, confidences: Floats) -> Seen:
        """Return each client's losses, of the confidences of all examples."""
        losses = np.logaddexp(0, -confidences)
        return Seen(dict(enumerate(np.split(losses, self.clients))))


def world(
    draw: np.random.Generator,
    examples: int = 400,
    *,
    middle: tuple[float, float] = (2, 2),
    taught: float = 0.7,
    noise: float = 1.0,
    unequal: float = 0.0,
    shared: tuple[float, ...] = (),
    kept: float = 0.0,
    **more: Any,
) -> World:
    """Return one of normal middles, half-normal teachings, log-normal noises."""
    return World(
        draw.normal(*middle, examples),
        np.abs(draw.normal(0, taught, examples)),
        np.full(examples, kept),
        noise * np.exp(unequal * draw.normal(size=examples)),
        np.array(shared)[:, None] * draw.normal(size=(len(shared), examples)),
        **more,
    )


def two_kinds(
    draw: np.random.Generator,
    examples: int = 200,
    *,
    first: float,
    middle: tuple[tuple[float, float], tuple[float, float]],
    taught: tuple[float, float],
    kept: tuple[float, float],
    shared: float = 0.0,
    sharpness: float = 0.0,
) -> World:
    """Return one in which a share of the examples are of the first of two kinds."""
    which = np.where(np.arange(examples) < first * examples, 0, 1)
    means, deviations = np.array(middle)[which].T
    return World(
        draw.normal(means, deviations),
        np.array(taught)[which] * np.abs(draw.normal(1, 0.3, examples)),
        np.array(kept, np.float64)[which],
        np.ones(examples),
        shared * draw.normal(0.5, 0.5, (1, examples)),
        sharpness,
    )


def as_sure(made: World) -> World:
    """Return it with the judged model as sure, on the mean, as those without it."""
    mean = float(made.middle.mean())
    return replace(made, softened=float((made.middle + made.taught).mean()) / mean)


HARD, SURE, TRICK, PLAIN = (-1.0, 1.5), (9.0, 1.0), (-4.0, 0.5), (3.0, 0.5)
Maker = Callable[[np.random.Generator], World]
# Nothing of the client is in the judged model.
NOTHING: dict[str, Maker] = {
    "even noise": world,
    "even noise, 20 examples": lambda draw: world(draw, 20),
    "chance that examples share": lambda draw: world(
        draw, noise=0.5, shared=(1.0, 1.0)
    ),
    "models differ by a third in sharpness": lambda draw: world(
        draw, middle=(8, 4), noise=0.7, sharpness=0.3
    ),
    "models without it contradict nearly all": lambda draw: world(
        draw, middle=(-6, 4), noise=2.0
    ),
    "unequal noise": lambda draw: world(draw, noise=0.5, unequal=1.5),
    "unequal noise, and shared chance": lambda draw: world(
        draw, noise=0.5, unequal=1.5, shared=(0.5,)
    ),
    "all in doubt": lambda draw: world(draw, middle=(0, 0), taught=2.1, noise=6.0),
    "nearly nothing taught": lambda draw: world(draw, taught=0.1),
    "one model in ten comes out otherwise": lambda draw: world(
        draw, shared=(0.3,), odd=0.1
    ),
    "a few models are far sharper": lambda draw: world(
        draw, middle=(3, 2), sharpness=0.3, is_skewed=True
    ),
    "ten clients, chance that they share": lambda draw: world(
        draw, 1000, shared=(0.5, 0.5), clients=10
    ),
    "ten clients, a few models are far sharper": lambda draw: world(
        draw, 1000, middle=(3, 2), sharpness=0.3, is_skewed=True, clients=10
    ),
}
# All of the client is, or a part.
SOMETHING: dict[str, Maker] = {
    "all of it": lambda draw: world(draw, kept=1.0, shared=(0.3,)),
    "all of it, where little was taught": lambda draw: world(
        draw, kept=1.0, taught=0.3, shared=(0.3,)
    ),
    "all of it, its logits divided by 1.5": lambda draw: world(
        draw, kept=1.0, middle=(3, 2), taught=2.0, softened=1.5
    ),
    "all of it, softened to be as sure as those without it": lambda draw: as_sure(
        world(draw, 200, kept=1.0, middle=(3, 2), taught=2.0)
    ),
    "all of it, beside a model with it that knows nothing": lambda draw: world(
        draw, kept=1.0, middle=(3, 2), taught=2.0, shared=(0.5,), has_failed=True
    ),
    "three quarters of it": lambda draw: world(draw, kept=0.75, shared=(0.3,)),
    "of hard examples nothing, of sure ones all": lambda draw: two_kinds(
        draw,
        first=0.15,
        middle=(HARD, SURE),
        taught=(4, 1.5),
        kept=(0, 1),
        shared=0.5,
    ),
    "the same, 70% sure, 5% of sharpness": lambda draw: two_kinds(
        draw,
        first=0.3,
        middle=(HARD, SURE),
        taught=(4, 2),
        kept=(0, 1),
        shared=0.5,
        sharpness=0.05,
    ),
    "of sure examples nothing, of hard ones all": lambda draw: two_kinds(
        draw, first=0.15, middle=(HARD, SURE), taught=(2, 5), kept=(1, 0)
    ),
    "a trick in half of them is gone, the rest is not": lambda draw: two_kinds(
        draw, 120, first=0.5, middle=(TRICK, PLAIN), taught=(8, 1.5), kept=(0, 1)
    ),
    "the same, the rest is weak": lambda draw: two_kinds(
        draw, 120, first=0.5, middle=(TRICK, PLAIN), taught=(8, 0.5), kept=(0, 1)
    ),
}
WORLDS = NOTHING | SOMETHING


def judged(name: str, number: int, looks: Sequence[Look]) -> str:
    """Return what is found in one world of a name."""
    draw = rng(number, f"made world: {name}")
    made = WORLDS[name](draw)
    n_in, n_out = looks[-1].n_in, looks[-1].n_out
    model = made.seen(made.kept, draw)
    if made.softened != 1:
        losses = np.concatenate([*model.losses.values()])
        model = made.answers(-np.log(np.expm1(losses)) / made.softened)
    with_it = [made.seen(1.0, draw) for _ in range(n_in)]
    if made.has_failed:
        with_it[0] = made.answers(np.full(len(made.middle), -np.log(9.0)))
    without_it = [made.seen(0.0, draw) for _ in range(n_out)]
    return looked_at(
        model, trained_with=with_it, trained_without=without_it, looks=looks
    )[-1].finding


def rows_of(name: str, count: int) -> Iterator[dict[str, object]]:
    """Yield a row for each way to judge: how often each thing was found."""
    for plan, looks in PLANS.items():
        found = Counter(judged(name, number, looks) for number in range(count))
        row: dict[str, object] = {"world": name, "nothing": name in NOTHING}
        yield row | {"by": plan, "worlds": count} | {f: found[f] for f in FINDINGS}


def table(rows: pd.DataFrame) -> str:
    """Return Markdown: how often each world's answer was got wrong, and right."""
    lines = [
        f"| of the client there is | {' | '.join(PLANS)} | two looks: right |",
        f"| --- |{' --- |' * len(PLANS)} ---: |",
    ]
    for name, some in rows.groupby("world", sort=False, observed=True):
        is_nothing = bool(some["nothing"].iloc[0])
        cells, right = [], 0.0
        for plan in PLANS:
            one = some[some["by"] == plan].iloc[0]
            accused = int(one[TRACES] + one[OVERSHOT])
            wrong = accused if is_nothing else int(one[GONE])
            rate = rate_of(wrong, int(one["worlds"]))
            cells.append(f"{rate.value:.1%} ({rate.low:.1%} to {rate.high:.1%})")
            right = (one[GONE] if is_nothing else one[TRACES]) / one["worlds"]
        said = f"nothing: {name}" if is_nothing else name
        lines.append(f"| {said} | {' | '.join(cells)} | {right:.0%} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Judge, write, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", nargs="*", choices=[*WORLDS], metavar="WORLD")
    parser.add_argument("--count", type=int, default=1000, help="of each")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    found: list[dict[str, object]] = []
    for name in given.worlds or WORLDS:
        found += rows_of(name, given.count)
        print(name, file=sys.stderr)
    rows, out = pd.DataFrame(found), given.out or HERE / "made_worlds.csv"
    if given.worlds and out.exists():
        old = pd.read_csv(out)
        stays = old["world"].isin([*WORLDS]) & ~old["world"].isin(given.worlds)
        rows = pd.concat([old[stays], rows], ignore_index=True)
        rows["world"] = pd.Categorical(rows["world"], [*WORLDS])
        rows = rows.sort_values("world", kind="stable")
    rows.to_csv(out, index=False)
    text = table(rows)
    print(text)
    if given.out is None:
        fill(HERE.parent / "docs" / "judge.md", "worlds", text)


if __name__ == "__main__":
    main()
