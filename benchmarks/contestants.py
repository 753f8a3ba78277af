"""Who is measured, and how each is started: fedneg and its peers as commands.

A contestant is a name and something that gives one sample: quantities by name, seconds
unless the name says otherwise. ``whole`` is a whole run with the start of its process,
``round`` the mean of its rounds after the first.
"""

import csv
import itertools
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import epochs, forgetting
from benchmarks.material import REPOSITORY, Material
from benchmarks.memory import is_supported
from benchmarks.processes import Finished, NotMeasuredError, run

PEERS = Path(__file__).parent / "peers"
SILENT = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}
MIB = 2**20
# Processes and threads; of those in one process the best counts.
PFL_WAYS = ((1, 1), (1, 2), (2, 1))
COHORT = 16
# How a contestant's name ends: with another network, and trained in cohorts.
SMALL, TOGETHER = ", one hidden layer of 128", f", {COHORT} at once"
Sample = dict[str, float]


@dataclass(frozen=True)
class Contestant:
    """A name, and what gives one sample; it may raise NotMeasuredError."""

    name: str
    measure: Callable[[], Sample]


@dataclass
class Stage:
    """What all contestants share, and what they say about themselves.

    Attributes
    ----------
    material : Material
    pfl_python : callable
        Gives the interpreter of an environment that has pfl, or raises
        NotMeasuredError; asked only when it is needed.
    settings : dict
        What each peer printed: versions, settings, and the loss it ended with.
    profiles : list of dict
        Where each whole run of fedneg went, seconds by part.
    """

    material: Material
    pfl_python: Callable[[], str]
    settings: dict[str, Any] = field(default_factory=dict)
    profiles: list[Sample] = field(default_factory=list)

    # -- fedneg ------------------------------------------------------------------------

    def fedneg(
        self,
        *overrides: str,
        clients: int,
        cache: Path | None = None,
        watch_memory: bool = False,
    ) -> tuple[Finished, Path]:
        """Run the command line; return how it went and the folder of its results.

        Parameters
        ----------
        cache : Path, optional
            The folder of its store; without one it runs with ``cache=false``.
        """
        scratch = self.material.scratch
        out = Path(tempfile.mkdtemp(prefix="run-", dir=scratch))
        places = [f"hydra.run.dir={out}", f"hydra.sweep.dir={out}"]
        kept = [] if cache else ["cache=false"]
        done = run(
            [
                *(sys.executable, "-m", "fedneg", *self.material.overrides),
                *(*kept, f"clients={clients}", *places, *overrides),
            ],
            cwd=scratch,
            environment={
                "PYTHONPATH": python_path(),
                "FEDNEG_CACHE": str(cache or scratch / "cache"),
            },
            watch_memory=watch_memory,
        )
        return done, out

    def training(
        self, clients: int, rounds: int, *overrides: str, profile: bool = False
    ) -> Sample:
        """Sample a training that forgets nobody."""
        done, out = self.fedneg(
            *("forget=null", f"rounds={rounds}", *overrides), clients=clients
        )
        seconds = seconds_of_rounds(out / "history.csv")
        if profile:
            self.profiles.append(profile_of(done, seconds))
        shutil.rmtree(out)
        return {"whole": done.seconds, "round": statistics.mean(seconds[1:])}

    def forgetting(self, *overrides: str) -> Sample:
        """Sample one run, or a sweep, that forgets clients; its store is a new one."""
        cache = Path(tempfile.mkdtemp(prefix="store-", dir=self.material.scratch))
        sizes = self.material.sizes
        done, out = self.fedneg(
            *(*overrides, "reference=false", f"rounds={sizes.rounds}"),
            clients=sizes.few,
            cache=cache,
        )
        shutil.rmtree(out)
        shutil.rmtree(cache)
        return {"whole": done.seconds}

    def memory(self, clients: int, rounds: int, *overrides: str) -> Sample:
        """Sample the peak memory of a training, in MiB (see `benchmarks.memory`)."""
        if not is_supported():
            raise NotMeasuredError("this system does not tell the PSS of a process")
        done, out = self.fedneg(
            *("forget=null", f"rounds={rounds}", *overrides),
            clients=clients,
            watch_memory=True,
        )
        shutil.rmtree(out)
        assert done.memory is not None
        return {
            "all_mib": done.memory.total / MIB,
            "server_mib": done.memory.root / MIB,
        }

    # -- peers -------------------------------------------------------------------------

    def peer(
        self, name: str, script: str, arguments: Sequence[str], clients: int
    ) -> Sample:
        """Sample a peer and note what it says of itself."""
        launcher, inside = [sys.executable], {"PYTHONPATH": python_path()}
        if script == "pfl_mnist.py":
            launcher, inside = [self.pfl_python()], {}
            if "--torchrun" in arguments:
                *arguments, _, processes = arguments
                launcher += ["-m", "torch.distributed.run", "--standalone"]
                launcher += ["--nproc-per-node", processes]
        folder = self.material.for_peers(clients)
        done = run(
            [
                *(*launcher, str(PEERS / script), str(folder)),
                *("--clients", str(clients), *arguments),
            ],
            cwd=self.material.scratch,
            environment={**SILENT, **inside},
        )
        report = report_of(done.output)
        self.settings[name] = {
            key: report[key] for key in ("peer", "versions", "settings", "final_loss")
        }
        rounds = statistics.mean(report["round_seconds"][1:])
        return {"whole": done.seconds, "round": rounds}


def python_path() -> str:
    """Return where what is measured finds this checkout, and what it needs."""
    also = os.environ.get("PYTHONPATH")
    return os.pathsep.join([str(REPOSITORY), *([also] if also else [])])


def seconds_of_rounds(history: Path) -> list[float]:
    """Return the seconds of each training round in a history.csv."""
    with history.open() as file:
        rows = list(csv.DictReader(file))
    return [
        float(row["seconds"])
        for row in rows
        if row["phase"] == "train" and row["server_round"] != "0"
    ]


def report_of(output: str) -> dict[str, Any]:
    """Return the line of JSON that a peer prints."""
    for line in reversed(output.splitlines()):
        if line.startswith('{"peer"'):
            report: dict[str, Any] = json.loads(line)
            return report
    raise NotMeasuredError("it printed no report")


def profile_of(done: Finished, rounds: Sequence[float]) -> Sample:
    """Return where a whole run of fedneg went, seconds by part.

    From what it says while it works: the parts add up to the whole run.
    """

    def when(text: str) -> float:
        found = [at for at, line in done.said if text in line]
        if not found:
            raise NotMeasuredError(f"fedneg never said {text!r}")
        return found[-1]

    begun, trained = when("training with"), when(f"train {len(rounds)}/{len(rounds)} ")
    clients, report = when("evaluating the original"), when("writing the report")
    return {
        "imports, data, start of workers": begun,
        "first round": rounds[0],
        "other rounds": sum(rounds[1:]),
        "server's tests after the rounds": trained - begun - sum(rounds),
        "model written": clients - trained,
        "clients evaluate": report - clients,
        "report and exit": done.seconds - report,
    }


def groups(stage: Stage) -> list[list[Contestant]]:
    """Return all contestants; those of a group take turns."""
    return [
        _one_client(stage.material),
        _few_clients(stage),
        _many_clients(stage),
        _forgetting(stage),
        _memory(stage),
    ]


def _one_client(material: Material) -> list[Contestant]:
    """Return the three epochs of one client."""
    count = material.sizes.epochs
    loaded: list[tuple[torch.Tensor, torch.Tensor]] = []

    def tensors() -> tuple[torch.Tensor, torch.Tensor]:
        if not loaded:
            loaded.append(epochs.client_tensors(material))
        return loaded[0]

    def ours() -> Sample:
        return {"epoch": epochs.fedneg_epochs(material)}

    def plain() -> Sample:
        x, y = tensors()
        return {"epoch": epochs.plain_epochs(x, y, count)}

    def products() -> Sample:
        return {"epoch": epochs.product_epochs(tensors()[0], count)}

    return [
        Contestant("fedneg inline, one client", ours),
        Contestant("plain loop, one client", plain),
        Contestant("matrix products, one client", products),
    ]


def _few_clients(stage: Stage) -> list[Contestant]:
    """Return whole runs with five clients."""
    few, rounds = stage.material.sizes.few, stage.material.sizes.rounds

    def flower(loading: str) -> Contestant:
        name = f"stock Flower ({loading}), {few} clients"
        options = ["--rounds", str(rounds), "--loading", loading]
        return Contestant(
            name, lambda: stage.peer(name, "stock_flower.py", options, few)
        )

    def plain(processes: int, threads: int) -> Contestant:
        name = f"plain loop ({ways(processes, threads)}), {few} clients"
        options = ["--processes", str(processes), "--threads", str(threads)]
        options += ["--rounds", str(rounds)]
        return Contestant(name, lambda: stage.peer(name, "plain_loop.py", options, few))

    return [
        Contestant(
            f"fedneg, {few} clients", lambda: stage.training(few, rounds, profile=True)
        ),
        plain(2, 1),
        plain(1, 2),
        *(pfl(stage, few, rounds, *way) for way in PFL_WAYS),
        flower("tensors"),
        flower("pil"),
    ]


def ways(processes: int, threads: int) -> str:
    """Return how a peer uses the cores, in words."""
    if processes > 1:
        return f"{processes} processes"
    return f"{threads} thread{'s' if threads > 1 else ''}"


def pfl(
    stage: Stage, clients: int, rounds: int, processes: int, threads: int
) -> Contestant:
    """Return pfl in one process with some threads, or in several with one each."""
    name = f"pfl ({ways(processes, threads)}), {clients} clients"
    options = ["--threads", str(threads), "--rounds", str(rounds)]
    if processes > 1:
        options += ["--torchrun", str(processes)]
    return Contestant(name, lambda: stage.peer(name, "pfl_mnist.py", options, clients))


def _many_clients(stage: Stage) -> list[Contestant]:
    """Return runs with more clients on the same images."""
    sizes = stage.material.sizes
    name = f"stock Flower (tensors), {sizes.many} clients"
    options = ["--rounds", str(sizes.many_rounds_stock), "--loading", "tensors"]

    def ours(clients: int, ending: str = "", *overrides: str) -> Contestant:
        return Contestant(
            f"fedneg, {clients} clients{ending}",
            lambda: stage.training(clients, sizes.many_rounds, *overrides),
        )

    small, together = "model.hidden=[128]", f"engine.cohort={COHORT}"
    return [
        *(ours(clients) for clients in (sizes.some, sizes.more, sizes.many)),
        ours(sizes.more, TOGETHER, together),
        ours(sizes.more, SMALL, small),
        ours(sizes.more, f"{SMALL}{TOGETHER}", small, together),
        *(pfl(stage, sizes.many, sizes.many_rounds, *way) for way in PFL_WAYS),
        Contestant(
            name, lambda: stage.peer(name, "stock_flower.py", options, sizes.many)
        ),
    ]


def _forgetting(stage: Stage) -> list[Contestant]:
    """Return unlearn rounds, retraining, and a sweep."""
    material, sizes = stage.material, stage.material.sizes
    seeds = itertools.count()

    def equal() -> Sample:
        if material.source != "mnist by writer":
            raise NotMeasuredError("needs MNIST")
        return forgetting.to_equal_accuracy(material, next(seeds))

    def unlearn(clients: int) -> Contestant:
        def measure() -> Sample:
            seconds = forgetting.unlearn_seconds(material, clients)
            return {"ms": 1000 * seconds}

        return Contestant(f"unlearn round, {clients} clients", measure)

    everybody = ",".join(map(str, range(sizes.few)))
    last = f"forget={sizes.few - 1}"
    return [
        *(unlearn(clients) for clients in (sizes.few, sizes.some, sizes.many)),
        Contestant("retraining to equal accuracy", equal),
        Contestant("one run", lambda: stage.forgetting(last)),
        Contestant("sweep", lambda: stage.forgetting("-m", f"forget={everybody}")),
    ]


def _memory(stage: Stage) -> list[Contestant]:
    """Return trainings whose memory is watched."""
    sizes = stage.material.sizes

    def mapped(rounds: int) -> Contestant:
        return Contestant(
            f"mapped ledger, {rounds} rounds",
            lambda: stage.memory(sizes.some, rounds, "strategy.ledger_memory_mib=0"),
        )

    def whole(clients: int) -> Contestant:
        return Contestant(
            f"memory, {clients} clients", lambda: stage.memory(clients, 2)
        )

    return [
        whole(sizes.few),
        whole(sizes.many),
        *(mapped(rounds) for rounds in (3, 10)),
    ]
