"""What the judge finds of ordinary clients: `python -m benchmarks.judge_power`.

Every client of a federation in turn is the one that is to be forgotten. Judged are the
original, the original after two rounds without the client, and a model that was
retrained without it; by few models, by more, and by a bank of federations that each had
half of the clients. Writes benchmarks/judge_power.csv, a row for every judgement, and
its table in docs/judge.md. A quarter of an hour on one core; what is in the file stays.

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

import pandas as pd
import torch

from benchmarks.judge import COMMON, MNIST, SETTINGS, federate
from benchmarks.markers import fill
from fedneg.config import load_config
from fedneg.core.parameters import flatten, unflatten
from fedneg.core.seeding import rng, torch_generator
from fedneg.core.settings import Config
from fedneg.data.kinds import Scaling
from fedneg.evaluation.exact import rate_of
from fedneg.evaluation.judge import GONE, OVERSHOT, TRACES
from fedneg.evaluation.looks import Look, looked_at
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

HERE = Path(__file__).resolve().parent
REPAIR = 2
# Federations with half of the clients each, and models without the client.
# One of these is judged itself.
BANK, IN, OUT = 16, 3, 14
# By whom, at each look: how many without the client, how many with it (None: those of
# the bank), and what share may err.
FIRST = (3, 1, 0.01)
PLANS: dict[str, tuple[tuple[int, int | None, float], ...]] = {
    "4 retrainings, one look": ((3, 1, 0.05),),
    "9 retrainings": (FIRST, (7, 2, 0.04)),
    "16 retrainings": (FIRST, (13, 3, 0.04)),
    "a bank of 16, and 7 retrainings": ((3, None, 0.01), (7, None, 0.04)),
}
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
    "digits, 10 clients": Setting(SETTINGS["digits, 10 clients"], (101, 102)),
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


def rows_of(setting: Setting, seed: int) -> Iterator[dict[str, Any]]:
    """Yield a row for every judgement in a federation."""
    all_of = Federations(setting, seed)
    everybody, rounds = list(all_of.clients), range(all_of.config.rounds)
    later = range(len(rounds), len(rounds) + REPAIR)
    draws = list(range(1 + IN))
    full = all_of.train(all_of.start(draws), [everybody] * len(draws), draws, rounds)
    members = halves(len(everybody), seed)
    draws = list(range(100, 100 + BANK))
    bank = all_of.train(all_of.start(draws), members, draws, rounds)
    # A model with the client has as many rounds as the judged one, of the same clients.
    full_later = all_of.train(full, [everybody] * len(full), list(range(1 + IN)), later)
    bank_later = all_of.train(bank, members, draws, later)
    for client in everybody[: setting.judged]:
        rest = [[k for k in everybody if k != client]] * OUT
        draws = [1000 + 100 * client + place for place in range(OUT)]
        models = all_of.train(all_of.start(draws), rest, draws, rounds)
        outs = {False: all_of.seen(models, client)}
        outs[True] = all_of.seen(all_of.train(models, rest, draws, later), client)
        tuned = all_of.train(full[:1], rest[:1], [1000 + 100 * client + 50], later)
        original, *ins = all_of.seen(full, client)
        ins_later = all_of.seen(full_later[1:], client)
        half = [k for k, some in enumerate(members) if client in some]
        with_client = {
            False: (ins, all_of.seen(bank[half], client)),
            True: (ins_later, all_of.seen(bank_later[half], client)),
        }
        judged = [
            ("original", original, False),
            ("fine_tune", all_of.seen(tuned, client)[0], True),
            ("retrained", outs[False][-1], False),
            ("retrained, repaired", outs[True][-1], True),
        ]
        for kind, model, repaired in judged:
            references = outs[repaired][:-1]
            for plan, looks in PLANS.items():
                from_ins = all(n_in is not None for _, n_in, _ in looks)
                with_it = with_client[repaired][0 if from_ins else 1]
                counted = [Look(m or len(with_it), n, alpha) for n, m, alpha in looks]
                last = looked_at(
                    model,
                    trained_with=with_it,
                    trained_without=references,
                    looks=counted,
                )[-1]
                row = {"client": client, "kind": kind, "by": plan}
                row |= {"finding": last.finding, "outcome": last.outcome}
                one = last.influence[client]
                if one is not None:
                    row |= {"rho": one.rho, "low": one.low, "high": one.high}
                yield row


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
        found = rate_of(*share("original", TRACES))
        tuned = "{} of {}".format(*share("fine_tune", TRACES))
        missed = share("original", GONE)[0] + share("fine_tune", GONE)[0]
        wrong, of = share("retrained", TRACES, OVERSHOT)
        right = share("retrained", GONE)[0] / of
        lines.append(
            f"| {setting} | {plan} | {found.hits} of {found.count} "
            f"({found.low:.0%} to {found.high:.0%}) | {tuned} | {missed} | "
            f"{wrong} of {of} | {right:.0%} |"
        )
    return "\n".join(lines)


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
    print(text)
    if given.out is None:
        fill(HERE.parent / "docs" / "judge.md", "power", text)


if __name__ == "__main__":
    main()
