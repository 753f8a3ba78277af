"""The epoch of one client: fedneg's round, a plain PyTorch loop, bare matrix products.

All three on the images of the same client, in this process, on one torch thread; each
returns the mean seconds of several epochs, after one that is not counted.
"""

import io
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import torch
from flwr.app import Context
from flwr.serverapp import Grid
from rich.console import Console
from torch import nn

from benchmarks.material import HIDDEN, Material, initial_parameters
from fedneg.config import load_config
from fedneg.core.progress import Progress
from fedneg.core.settings import Config
from fedneg.data.client_data import partition_data
from fedneg.engines.simulate import simulate
from fedneg.federation import Federation
from fedneg.strategies.phases import Phase
from fedneg.tasks.device import as_input
from fedneg.tasks.model import build_mlp, set_parameters

BATCH_SIZE, LEARNING_RATE, MOMENTUM = 32, 0.01, 0.9


def configured(material: Material, *overrides: str) -> Config:
    """Return the configuration of a run on the material, without the store."""
    common = (*material.overrides, "cache=false", "forget=null")
    config, _ = load_config([*common, *overrides])
    same = (config.client.batch_size, config.client.momentum, config.model.hidden)
    assert same == (BATCH_SIZE, MOMENTUM, HIDDEN), same
    return replace(
        config, client=replace(config.client, learning_rate=LEARNING_RATE, device="cpu")
    )


def quiet(rounds: int) -> Progress:
    """Return a progress that shows nothing."""
    return Progress("", rounds, console=Console(file=io.StringIO()))


def in_federation(config: Config, job: Callable[[Federation], None]) -> None:
    """Do something with a federation of this process, as the command line makes it."""

    def main(grid: Grid, context: Context) -> None:
        job(Federation(grid, config, quiet(config.rounds)))

    simulate(main, clients=config.clients, engine=config.engine)


def fedneg_epochs(material: Material) -> float:
    """Return the seconds of a federated round with one client, through everything.

    Strategy, messages, ClientApp, training, checks of the reply and the ledger; the
    server's test after a round is left out.
    """
    config = configured(material, "engine=inline", f"clients={material.sizes.few}")
    ends: list[float] = []

    def job(federation: Federation) -> None:
        def note(*_: object) -> dict[str, float]:
            ends.append(time.perf_counter())
            return {}

        phase = Phase("train", (0,), 1 + material.sizes.epochs)
        federation.strategy.run_phase(
            federation.grid, phase, federation.initial, after_round=note
        )
        assert not any(r.failures for r in federation.strategy.reports)

    in_federation(config, job)
    return (ends[-1] - ends[0]) / material.sizes.epochs


def client_tensors(material: Material) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the scaled images and the labels that client 0 trains on."""
    few = material.sizes.few
    config = configured(material, "engine=inline", f"clients={few}")
    data = partition_data(0, config.data, clients=few, seed=config.seed)
    x = as_input(torch.from_numpy(data.images[data.train]), data.kind.scaling)
    return x, torch.from_numpy(data.labels[data.train])


def plain_epochs(x: torch.Tensor, y: torch.Tensor, epochs: int) -> float:
    """Return the seconds of an epoch of autograd and ``SGD(fused=True)``."""
    torch.set_num_threads(1)
    model = build_mlp(x.shape[1], HIDDEN, 10)
    start = initial_parameters(x.shape[1])

    def epoch() -> None:
        set_parameters(model, start)
        optimiser = torch.optim.SGD(
            model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, fused=True
        )
        for batch in torch.split(torch.randperm(len(y)), BATCH_SIZE):
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()

    return _mean_seconds(epoch, epochs)


def product_epochs(x: torch.Tensor, epochs: int) -> float:
    """Return the seconds of an epoch's matrix products and nothing else.

    For each batch and layer: forward, the gradient by the weights, and, above the first
    layer, by the input; every product into a buffer that is there already.
    """
    torch.set_num_threads(1)
    batches = torch.split(x, BATCH_SIZE)
    products = {n: _products(x.shape[1], n) for n in {len(b) for b in batches}}

    def epoch() -> None:
        for batch in batches:
            products[len(batch)](batch)

    with torch.no_grad():
        return _mean_seconds(epoch, epochs)


def _products(inputs: int, size: int) -> Callable[[torch.Tensor], None]:
    """Return what does the products of one batch of `size` images."""
    draw = torch.Generator().manual_seed(0)
    sizes = (inputs, *HIDDEN, 10)
    new: Callable[..., torch.Tensor] = torch.empty
    weights = [torch.randn(b, a, generator=draw) for a, b in pairwise(sizes)]
    hidden = [torch.randn(size, n, generator=draw) for n in sizes[1:]]
    above = [torch.randn(size, n, generator=draw) for n in sizes[1:]]
    out = [new(size, n) for n in sizes[1:]]
    by_weight = [new(b, a) for a, b in pairwise(sizes)]
    by_input = [new(size, n) for n in sizes[1:-1]]

    def step(batch: torch.Tensor) -> None:
        h = batch
        for k, weight in enumerate(weights):
            torch.mm(h, weight.t(), out=out[k])
            h = hidden[k]
        for k in range(len(weights) - 1, -1, -1):
            below = hidden[k - 1] if k else batch
            torch.mm(above[k].t(), below, out=by_weight[k])
            if k:
                torch.mm(above[k], weights[k], out=by_input[k - 1])

    return step


def _mean_seconds(epoch: Callable[[], None], epochs: int) -> float:
    """Return the mean seconds of some epochs after a first one."""
    epoch()
    started = time.perf_counter()
    for _ in range(epochs):
        epoch()
    return (time.perf_counter() - started) / epochs
