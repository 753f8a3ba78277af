"""What the judge finds of ordinary clients: `python -m benchmarks.judge_power`.

Every client of a federation in turn is the one that is to be forgotten. Judged are
originals of several seeds, each also after two rounds without the client, and models
that were retrained without it; by few models, by more, and by a bank of federations
that each had half of the clients. Where nearly nothing is found it is asked whether
anything could be: along a direction that is nearly known (`along_pairs`). Writes
benchmarks/judge_power.csv, a row for every judgement, and its table in docs/judge.md.
Half an hour on one core; what is in the file stays.

Thousands of small trainings: the clients of several federations are trained side by
side (`fedneg.tasks.cohort`), which is the arithmetic of a run up to rounding.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import t as student

from benchmarks.judge import COMMON, MNIST, SETTINGS, federate
from benchmarks.markers import fill
from fedneg.config import load_config
from fedneg.core.parameters import flatten, unflatten
from fedneg.core.seeding import rng, torch_generator
from fedneg.core.settings import Config
from fedneg.data.kinds import Scaling
from fedneg.evaluation.judge import CANNOT_TELL, GONE, OVERSHOT, TRACES
from fedneg.evaluation.looks import Look, looked_at
from fedneg.evaluation.scores import scores_of_losses
from fedneg.evaluation.seen import Seen
from fedneg.federation import Federation
from fedneg.tasks import calls
from fedneg.tasks.cohort import Cohort, Examples
from fedneg.tasks.confidence import cross_entropies
from fedneg.tasks.dense import dense_layers
from fedneg.tasks.device import as_input
from fedneg.tasks.model import set_parameters
from fedneg.tasks.prototype import Prototype
from fedneg.tasks.task import ClientRef

Floats = NDArray[np.float64]
HERE = Path(__file__).resolve().parent
REPAIR = 2
# Federations with half of the clients each; judged ones, with the client and without.
BANK, ORIGINALS, RETRAINED = 16, 5, 3
# References with the client, and without it.
IN, OUT = 3, 13
# By whom, at each look: how many without the client, how many with it (None: those of
# the bank), and what share may err.
FIRST = (3, 1, 0.01)
PLANS: dict[str, tuple[tuple[int, int | None, float], ...]] = {
    "4 retrainings, one look": ((3, 1, 0.05),),
    "9 retrainings": (FIRST, (7, 2, 0.04)),
    "16 retrainings": (FIRST, (13, 3, 0.04)),
    "a bank of 16, and 7 retrainings": ((3, None, 0.01), (7, None, 0.04)),
}
# Twins for `along_pairs`, which is asked of the settings of the digits.
PAIRS, KNOWN = 16, "a known direction"
SMALL = ("rounds=20", "client.learning_rate=0.05")


@dataclass(frozen=True)
class Setting:
    """A federation's overrides, the seeds of some, and what is taken of each.

    How many images of a client, and how many clients are judged; None: all.
    """

    overrides: tuple[str, ...]
    seeds: tuple[int, ...]
    images: int | None = None
    judged: int | None = None


POWER = {
    "digits, 5 clients": Setting(SETTINGS["digits, 5 clients"], (101, 102, 103, 104)),
    "digits, 10 clients": Setting(SETTINGS["digits, 10 clients"], (101, 102, 201)),
    "digits, 20 clients": Setting(SETTINGS["digits, 20 clients"], (101,)),
    "digits, 100 clients": Setting(SETTINGS["digits, 100 clients"], (101,), judged=10),
    "mnist, 20 clients of 200 images": Setting(
        (*MNIST, "clients=20", *SMALL), (101,), images=200
    ),
}
Members = Sequence[Sequence[int]]


class Federations:
    """Federations of the same clients, trained side by side.

    Parameters
    ----------
    setting : Setting
    seed : int
    """

    def __init__(self, setting: Setting, seed: int) -> None:
        def work(federation: Federation) -> None:
            self.config: Config = federation.config
            self.prototype: Prototype = federation.prototype
            self.shapes = federation.shapes
            self.data, self.scaling = _data(federation, setting.images)

        words = [*COMMON, *setting.overrides, f"seed={seed}", "forget=0"]
        federate(load_config([*words, "strategy=do_nothing"])[0], work)
        layers = dense_layers(self.prototype.build())
        assert layers is not None
        self.sizes = [layers[0].in_features, *(one.out_features for one in layers)]

    @property
    def clients(self) -> range:
        """Everybody's ids."""
        return range(self.config.clients)

    def start(self, draws: Sequence[int]) -> torch.Tensor:
        """Return initial parameters, a row each."""
        seed = self.config.seed
        rows = [self.prototype.initial(seed=seed, draw=10**5 + draw) for draw in draws]
        return torch.stack([torch.tensor(flatten(row)) for row in rows])

    def train(
        self,
        models: torch.Tensor,
        members: Members,
        draws: Sequence[int],
        rounds: range,
        *,
        together: int = 8,
    ) -> torch.Tensor:
        """Return models, shape (M, d), after these rounds among their members."""
        found = []
        for first in range(0, len(models), together):
            some = slice(first, first + together)
            trained = models[some]
            for number in rounds:
                trained = self._round(trained, members[some], draws[some], number)
            found.append(trained)
        return torch.cat(found)

    def _round(
        self, models: torch.Tensor, members: Members, draws: Sequence[int], number: int
    ) -> torch.Tensor:
        """Return each model after a round: the mean of its members', by examples."""
        rows = [(m, k) for m, some in enumerate(members) for k in some]
        local = models[[m for m, _ in rows]].clone()
        examples = [
            Examples(
                *self.data[k],
                torch_generator(self.config.seed, "power", 1000 * draws[m] + number, k),
            )
            for m, k in rows
        ]
        settings = self.config.client
        Cohort(
            self.sizes, local, examples, scaling=self.scaling, settings=settings
        ).train()
        sizes = torch.tensor([len(self.data[k][1]) for _, k in rows]).double()
        of = torch.tensor([m for m, _ in rows])
        total = torch.zeros(len(models)).double().index_add_(0, of, sizes)
        mean = torch.zeros(models.shape).double()
        mean.index_add_(0, of, local.double() * (sizes / total[of])[:, None])
        return mean.float()

    @torch.no_grad()
    def seen(self, models: torch.Tensor, client_id: int) -> list[Seen]:
        """Return what a client's training examples show of each model."""
        images, labels = self.data[client_id]
        network, found = self.prototype.build(), []
        for model in models:
            set_parameters(network, unflatten(model.numpy(), self.shapes))
            logits = network(as_input(images, self.scaling)).numpy()
            found.append(Seen({client_id: cross_entropies(logits, labels.numpy())}))
        return found


def _data(
    federation: Federation, images: int | None
) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], Scaling | None]:
    """Return each client's images and labels, and how pixels become input."""
    found, scaling = [], None
    for k in range(federation.config.clients):
        reference = ClientRef(k, federation.config.clients, {})
        train: Any = calls.split_of(federation.task, reference).train
        pixels, labels = (torch.tensor(a[:images]) for a in train.arrays())
        found.append((pixels, labels))
        scaling = train.kind.scaling
    return found, scaling


def halves(clients: int, seed: int) -> list[list[int]]:
    """Return whom each federation of the bank has: each client is in half of them."""
    found = []
    for pair in range(BANK // 2):
        order = rng(seed, "bank", pair).permutation(clients).tolist()
        found += [sorted(order[::2]), sorted(order[1::2])]
    return found


def along_pairs(
    model: Floats, outs: Floats, pairs: tuple[Floats, Floats]
) -> tuple[float, float]:
    """Return how far a model lies where a client shows, and how likely that is.

    Twins begin with the same initial parameters and take the examples in one order: one
    was trained with the client, the other without, so that the mean of their
    differences is the client's direction with hardly any of a seed's chance. Along it
    the model is beside others that were retrained, by an exact t test: what more
    references would not much improve on.

    Parameters
    ----------
    model, outs : arrays, shapes (N,) and (O, N)
        Scores of the client's examples in the model, and in models without the client
        that have nothing to do with the twins.
    pairs : arrays, shape (P, N)
        In models with the client, and in their twins without it.

    Returns
    -------
    float, float
        In units of what models without the client vary by, and a two-sided p.
    """
    with_it, without_it = pairs
    variance = without_it.var(axis=0, ddof=1)
    weights = (with_it - without_it).mean(axis=0) / (variance + variance.mean())
    places = outs @ weights
    away = float((model @ weights - places.mean()) / places.std(ddof=1))
    count = len(outs)
    p_value = 2 * student.sf(abs(away) / (1 + 1 / count) ** 0.5, count - 1)
    return away, float(p_value)


def finding_of(away: float, p_value: float) -> str:
    """Return what a place along a known direction comes to, at 5 % of errors."""
    if p_value >= 0.05:
        return CANNOT_TELL
    return TRACES if away > 0 else OVERSHOT


def rows_of(setting: Setting, seed: int) -> Iterator[dict[str, Any]]:
    """Yield a row for every judgement in a federation."""
    all_of = Federations(setting, seed)
    everybody, rounds = list(all_of.clients), range(all_of.config.rounds)
    later = range(len(rounds), len(rounds) + REPAIR)

    def trained(
        draws: Sequence[int], members: Members
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return models right after training, and after two rounds more."""
        if not draws:
            return torch.empty(0), torch.empty(0)
        models = all_of.train(all_of.start(draws), members, draws, rounds)
        return models, all_of.train(models, members, draws, later)

    judged_draws, in_draws = range(ORIGINALS), range(50, 50 + IN)
    originals, _ = trained(judged_draws, [everybody] * ORIGINALS)
    # A model with the client has as many rounds as the judged one, of the same clients.
    with_all = trained(in_draws, [everybody] * IN)
    halved = halves(len(everybody), seed)
    bank = trained(range(100, 100 + BANK), halved)
    # Real images of a large data set take long, and there all are found.
    pair_draws = range(200, 200 + (PAIRS if setting.images is None else 0))
    of_pairs = trained(pair_draws, [everybody] * len(pair_draws))
    for client in everybody[: setting.judged]:
        rest = [k for k in everybody if k != client]
        draws = [1000 + 100 * client + place for place in range(OUT + RETRAINED)]
        without = trained(draws, [rest] * len(draws))
        twins = trained(pair_draws, [rest] * len(pair_draws))
        own = [1000 + 100 * client + 70 + k for k in judged_draws]
        tuned = all_of.train(originals, [rest] * ORIGINALS, own, later)
        half = [k for k, some in enumerate(halved) if client in some]
        for repaired, kind, of in (
            (False, "original", originals),
            (True, "fine_tune", tuned),
            (False, "retrained", without[0][OUT:]),
            (True, "retrained, repaired", without[1][OUT:]),
        ):
            judged, ins, in_bank, outs, *pairs = (
                all_of.seen(models, client)
                for models in (
                    of,
                    with_all[repaired],
                    bank[repaired][half],
                    without[repaired][:OUT],
                    of_pairs[repaired],
                    twins[repaired],
                )
            )
            for number, model in enumerate(judged):
                row = {"client": client, "kind": kind, "number": number}
                for plan, looks in PLANS.items():
                    from_ins = all(n_in is not None for _, n_in, _ in looks)
                    with_it = ins if from_ins else in_bank
                    last = looked_at(
                        model,
                        trained_with=with_it,
                        trained_without=outs,
                        looks=[Look(m or len(with_it), n, a) for n, m, a in looks],
                    )[-1]
                    found = {"by": plan, "finding": last.finding}
                    one = last.influence[client]
                    if one is not None:
                        found |= {"rho": one.rho, "low": one.low, "high": one.high}
                    yield row | found
                if pair_draws:
                    away, p_value = along_pairs(
                        scores([model], client)[0],
                        scores(outs, client),
                        (scores(pairs[0], client), scores(pairs[1], client)),
                    )
                    found = {"by": KNOWN, "finding": finding_of(away, p_value)}
                    yield row | found | {"away": away}


def scores(models: Sequence[Seen], client_id: int) -> Floats:
    """Return a client's scores, a row a model."""
    return np.array([scores_of_losses(one.losses[client_id]) for one in models])


def table(rows: pd.DataFrame) -> str:
    """Return Markdown: how often what is known is found, and how often wrongly."""
    lines = [
        "| setting | judged by | originals found | fine-tuned ones found | of both: "
        "acquitted | retrained: accused | retrained: acquitted |",
        "| --- | --- | --- | --- | ---: | --- | ---: |",
    ]
    for (setting, plan), some in rows.groupby(
        ["setting", "by"], sort=False, observed=True
    ):

        def share(
            kind: str, *findings: str, some: pd.DataFrame = some
        ) -> tuple[int, int]:
            of = some[some["kind"].str.startswith(kind)]
            return int(of["finding"].isin(findings).sum()), len(of)

        # Whose client is in it has not overshot: that would be another error.
        found, count = share("original", TRACES)
        originals = some[some["kind"] == "original"]
        clients = (originals["finding"] == TRACES).groupby(
            [originals["seed"], originals["client"]]
        )
        always, never = int(clients.all().sum()), int((~clients.any()).sum())
        tuned = "{} of {}".format(*share("fine_tune", TRACES))
        missed = str(share("original", GONE)[0] + share("fine_tune", GONE)[0])
        wrong, of = share("retrained", TRACES, OVERSHOT)
        right = f"{share('retrained', GONE)[0] / of:.0%}"
        if plan == KNOWN:  # which acquits nobody
            missed = right = "-"
        lines.append(
            f"| {setting} | {plan} | {found} of {count} (of {clients.ngroups} clients "
            f"{always} always, {never} never) | {tuned} | {missed} | "
            f"{wrong} of {of} | {right} |"
        )
    return "\n".join(lines)


def distances(rows: pd.DataFrame) -> Iterator[str]:
    """Yield how far originals lie along a known direction, by setting."""
    known = rows[(rows["by"] == KNOWN) & (rows["kind"] == "original")]
    for setting, some in known.groupby("setting", sort=False, observed=True):
        of = some.groupby(["seed", "client"])["away"].mean()
        yield (
            f"{setting}: {of.median():.1f} in the middle of {len(of)} clients, of a "
            f"tenth less than {of.quantile(0.1):.1f}, of a tenth more than "
            f"{of.quantile(0.9):.1f}"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Judge, write, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", nargs="*", choices=[*POWER], metavar="SETTING")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--anew", action="store_true", help="leave nothing of before")
    given = parser.parse_args(arguments)
    out = given.out or HERE / "judge_power.csv"
    found = pd.read_csv(out) if out.exists() and not given.anew else pd.DataFrame()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["FEDNEG_CACHE"] = cache
        for name in given.settings or POWER:
            for seed in POWER[name].seeds:
                if (
                    not found.empty
                    and ((found["setting"] == name) & (found["seed"] == seed)).any()
                ):
                    continue
                which = {"setting": name, "seed": seed}
                rows = [which | row for row in rows_of(POWER[name], seed)]
                found = pd.concat([found, pd.DataFrame(rows)], ignore_index=True)
                found.to_csv(out, index=False, float_format="%.4g")
                print(f"{name}, seed {seed}", file=sys.stderr)
    found["setting"] = pd.Categorical(found["setting"], [*POWER])
    found = found.sort_values(["setting", "seed"], kind="stable")
    text = table(found)
    print(text, *distances(found), sep="\n")
    if given.out is None:
        fill(HERE.parent / "docs" / "judge.md", "power", text)


if __name__ == "__main__":
    main()
