"""Run the comparison of docs/methods.md, a setting at a time.

`python -m benchmarks.compared DIR` runs what is missing below DIR: each setting is a
`fedneg compare` into a folder of its own, and one that has its page is not run again, so
that a comparison can be stopped and gone on with, and a method added to. What was
trained is kept where all runs keep it. `python -m benchmarks.comparison DIR` makes the
tables of it.

Every setting is on MNIST with what conf/compare.yaml says (networks of 784-128-10, 20
rounds, two repair rounds, the verdict's two looks), but for the convolutional networks,
which are on the digits, ten rounds. `--methods a,b` runs these only, into folders beside
the others; a method's earlier rows are replaced by hand: remove its folders.
"""

import argparse
import itertools
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from fedneg.core.settings import methods

# Of what each method stores or asks for, what 539 rows an update make too large.
TOO_LARGE = ("counterfactual", "federaser")
CANARIES = ("negative_gradient", "compensated", "counterfactual", "fine_tune")
CANARIES += ("retrain", "do_nothing")


def settings() -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield each setting's folder, its overrides, and the methods that it compares."""
    every = methods()
    for seed in (0, 1):
        for attack, clients, partition in itertools.product(
            ("none", "backdoor", "label_flip"), (5, 20), ("writer", "dirichlet")
        ):
            words = [f"clients={clients}", f"data.partition={partition}"]
            words += [f"attack={attack}", f"seed={seed}", "data=mnist"]
            yield f"{attack}-{clients}-{partition}-{seed}", words, every
        for attack in ("none", "backdoor"):
            words = ["clients=5", "data.partition=writer", f"attack={attack}"]
            words += [f"seed={seed}", "data=digits", "model=cnn", "rounds=10"]
            yield f"{attack}-cnn-{seed}", words, every
        if seed:
            continue
        for attack in ("none", "backdoor"):
            words = [
                "clients=539",
                "data.partition=writer",
                f"attack={attack}",
                "seed=0",
            ]
            few = [name for name in every if name not in TOO_LARGE]
            yield f"{attack}-539-0", [*words, "data=mnist"], few
        for clients in (5, 20):
            words = [f"clients={clients}", "data.partition=writer", "attack=canaries"]
            yield (
                f"canaries-{clients}-0",
                [*words, "seed=0", "data=mnist"],
                list(CANARIES),
            )


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
        if (folder / "comparison.csv").exists():
            continue
        began = time.monotonic()
        command = [sys.executable, "-m", "fedneg", "compare", *words]
        command += [f"strategy={','.join(some)}", f"hydra.sweep.dir={folder}"]
        asked.folder.mkdir(parents=True, exist_ok=True)
        with (asked.folder / f"{folder.name}.log").open("w") as log:
            done = subprocess.run(command, stdout=log, stderr=log, check=False)
        took = time.monotonic() - began
        print(f"{folder.name}: {took:.0f} s, exit {done.returncode}", flush=True)


if __name__ == "__main__":
    main()
