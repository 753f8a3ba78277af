"""`make bench`: what fedneg's work costs, as ratios within one run on one machine.

Contestants alternate and the median of several repetitions counts, since times on a
shared machine are noisy; only ratios are worth comparing between machines. Synthetic
images of MNIST's shape: arithmetic does not care what is on them.
"""

import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fedneg.data import MNIST_SCALING
from fedneg.ledger import Ledger
from fedneg.model import build_mlp, initial_parameters, set_parameters
from fedneg.parameters import Vector, flatten
from fedneg.seeding import rng, torch_generator
from fedneg.settings import ClientSettings
from fedneg.training import train_epochs

HIDDEN = (512, 256, 128)
EXAMPLES = 10_000
REPEAT = 5
SETTINGS = ClientSettings(1, 0.01, 0.9, 32, "cpu", False)


def median_seconds(jobs: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return the median time of each job; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(REPEAT):
        for name, job in jobs.items():
            started = time.perf_counter()
            job()
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def fresh_model() -> nn.Sequential:
    """Return the paper's network at its initial parameters."""
    model = build_mlp(784, HIDDEN, 10)
    set_parameters(model, initial_parameters(784, HIDDEN, 10, seed=0))
    return model


def client_epoch() -> dict[str, float]:
    """Time one epoch of a client against a plain loop on float tensors in memory."""
    draw = rng(0, "bench")
    images = draw.integers(0, 256, (EXAMPLES, 28, 28), dtype=np.uint8)
    labels = draw.integers(0, 10, EXAMPLES)
    x = torch.from_numpy(images).flatten(1).float().div_(255)
    y = torch.from_numpy(labels)

    def plain() -> None:
        model = fresh_model()
        optimiser = torch.optim.SGD(
            model.parameters(), lr=0.01, momentum=0.9, fused=True
        )
        for batch in torch.randperm(EXAMPLES).split(32):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimiser.step()

    def ours() -> None:
        train_epochs(
            fresh_model(),
            images,
            labels,
            scaling=MNIST_SCALING,
            settings=SETTINGS,
            generator=torch_generator(0, "bench"),
        )

    torch.set_num_threads(1)
    return median_seconds({"plain_loop": plain, "fedneg": ours})


def unlearn_round() -> dict[str, float]:
    """Time forgetting one client of 5, 50 and 200; data plays no part in it."""
    d = flatten(initial_parameters(784, HIDDEN, 10, seed=0)).size
    jobs: dict[str, Callable[[], object]] = {}
    for clients in (5, 50, 200):
        ledger = Ledger(np.zeros(d, np.float32), clients=clients)
        ledger.contributions += np.float32(1e-3)
        before = ledger.rebuilt()

        def forget(ledger: Ledger = ledger, before: Vector = before) -> None:
            after = (before - ledger.contribution([1])).astype(np.float32)
            ledger.forget([1], before=before, after=after)

        jobs[f"clients_{clients}"] = forget
    return median_seconds(jobs)


def main() -> None:
    """Measure, print a table, write benchmarks/results.json."""
    epoch, unlearn = client_epoch(), unlearn_round()
    results = {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} torch thread",
        "torch": torch.__version__,
        "repeat": REPEAT,
        "client_epoch_seconds": epoch,
        "client_epoch_ratio_to_plain_loop": epoch["fedneg"] / epoch["plain_loop"],
        "unlearn_round_seconds": unlearn,
    }
    path = Path(__file__).parent / "results.json"
    path.write_text(json.dumps(results, indent=2) + "\n")
    print(f"client-epoch, {EXAMPLES} images, one thread, median of {REPEAT}")
    for name, seconds in epoch.items():
        print(f"  {name:12} {seconds:.3f} s")
    print(f"  ratio        {results['client_epoch_ratio_to_plain_loop']:.2f}")
    print("unlearn round (no data is read; ledger with K rows)")
    for name, seconds in unlearn.items():
        print(f"  {name:12} {seconds * 1000:.1f} ms")


if __name__ == "__main__":
    main()
