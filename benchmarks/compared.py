"""Run the comparison of docs/methods.md, a setting at a time.

`python -m benchmarks.compared DIR` runs what is missing below DIR: each setting is a
`fedneg compare` into a folder of its own, and one that has all of its runs is not run
again: it can be stopped and gone on with. Trainings are kept where all runs keep them.
`python -m benchmarks.comparison DIR` makes the tables of it.

Every setting has what conf/compare.yaml says (20 rounds, two repair rounds, the
verdict's two looks, networks of one hidden layer of 128): on the digits for two seeds,
with a convolutional network, with 20 clients of MNIST and with its 539 writers (ten
rounds) for one.

`--methods a,b` runs these only, into folders beside the others: of runs that are twice
below DIR the first by name counts.
"""

import argparse
import itertools
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from fedneg.core.settings import methods

CANARIES = ("negative_gradient", "compensated", "counterfactual", "fine_tune")
CANARIES += ("retrain", "do_nothing")


def settings() -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield each setting's folder, its overrides, and the methods that it compares."""
    every = methods()

    def named(
        data: str, attack: str, clients: int, partition: str, seed: int
    ) -> tuple[str, list[str]]:
        words = [f"data={data}", f"attack={attack}", f"clients={clients}"]
        words += [f"data.partition={partition}", f"seed={seed}"]
        if (data, clients, partition) == ("digits", 20, "writer"):
            words.append("data.split_writers=true")  # they have eleven
        return f"{data}-{clients}-{partition}-{attack}-{seed}", words

    def on_digits(seed: int) -> Iterator[tuple[str, list[str], list[str]]]:
        for attack, clients in itertools.product(("none", "backdoor"), (5, 20)):
            yield *named("digits", attack, clients, "writer", seed), every
        for clients in (5, 20):
            yield *named("digits", "none", clients, "dirichlet", seed), every
        for clients in (5, 20):
            yield *named("digits", "label_flip", clients, "writer", seed), every

    yield from on_digits(0)
    for attack in ("none", "backdoor"):
        name, words = named("digits", attack, 5, "writer", 0)
        yield f"cnn-{name}", [*words, "model=cnn"], every
    yield *named("digits", "canaries", 5, "writer", 0), list(CANARIES)
    for attack in ("none", "backdoor"):
        yield *named("mnist", attack, 20, "writer", 0), every
    for attack in ("none", "backdoor"):
        name, words = named("mnist", attack, 539, "writer", 0)
        yield name, [*words, "rounds=10"], every
    yield from on_digits(1)


def main() -> None:
    """Run what is missing, and say how long each setting took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--methods", help="only these, with commas")
    parser.add_argument("--only", default="", help="settings whose name begins so")
    asked = parser.parse_args()
    for name, words, compared in settings():
        wanted = asked.methods.split(",") if asked.methods else compared
        some = [method for method in wanted if method in compared]
        folder = asked.folder / "-".join([name, *(some if asked.methods else ())])
        if not some or not name.startswith(asked.only):
            continue
        if len([*folder.glob("*/results.json")]) == len(some):
            continue
        began = time.monotonic()
        command = [sys.executable, "-m", "fedneg", "compare", *words, "engine=inline"]
        command += [f"strategy={','.join(some)}", f"hydra.sweep.dir={folder}"]
        asked.folder.mkdir(parents=True, exist_ok=True)
        with (asked.folder / f"{folder.name}.log").open("w") as log:
            done = subprocess.run(command, stdout=log, stderr=log, check=False)
        took = time.monotonic() - began
        print(f"{folder.name}: {took:.0f} s, exit {done.returncode}", flush=True)


if __name__ == "__main__":
    main()
