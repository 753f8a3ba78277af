"""A peer: stock Flower on Ray, as its quickstart-pytorch shows it.

A ClientApp with ``@app.train`` (`flower_client`), a ServerApp with ``@app.main``,
Flower's own FedAvg and ``run_simulation``; the state_dict travels as an ArrayRecord and
a DataLoader shuffles. ``--loading pil`` transforms image by image, as the quickstart
does; ``tensors`` is the same with everything scaled beforehand.

Differs from the quickstart: nothing is evaluated, every client trains in every round,
and all is done on the CPU. Runs in fedneg's own environment. With
FLWR_TELEMETRY_ENABLED=0 and RAY_USAGE_STATS_ENABLED=0 it does not call home.
"""

import argparse
import time
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import flower_client
import task
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation


class TimedFedAvg(FedAvg):
    """Flower's FedAvg, which also notes when each round begins and the last one ends.

    The first round includes the wait for the nodes and the start of Ray's actors.
    """

    def __init__(self, clients: int) -> None:
        # With smaller minima, round 1 would train the few nodes that are there already.
        super().__init__(
            fraction_train=1.0,
            fraction_evaluate=0.0,
            min_train_nodes=clients,
            min_available_nodes=clients,
        )
        self.start_seconds = 0.0
        self.begins: list[float] = []
        self.end = 0.0
        self.finished_rounds = 0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Note that a round begins."""
        if not self.begins:
            self.start_seconds = task.seconds_since_process_start()
        self.begins.append(time.perf_counter())
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Refuse a round that lost a client, and note that a round is over."""
        replies = list(replies)
        failed = sum(reply.has_error() for reply in replies)
        if failed or len(replies) != self.min_train_nodes:
            raise RuntimeError(
                f"round {server_round}: {self.min_train_nodes} clients must train, got "
                f"{len(replies)} replies of which {failed} are errors"
            )
        result = super().aggregate_train(server_round, replies)
        self.end = time.perf_counter()
        self.finished_rounds += 1
        return result

    @property
    def round_seconds(self) -> list[float]:
        """Seconds from the begin of each round to the begin of the next, or the end."""
        return [after - before for before, after in pairwise([*self.begins, self.end])]


def main() -> None:
    """Run the simulation and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--loading", choices=("tensors", "pil"), default="tensors")
    arguments = parser.parse_args()
    # Absolute, because actors have a working directory of their own.
    folder = str(arguments.folder.resolve())

    torch.manual_seed(0)
    net = task.build_net()
    strategy = TimedFedAvg(arguments.clients)
    server = ServerApp()

    @server.main()
    def serve(grid: Grid, context: Context) -> None:
        result = strategy.start(
            grid=grid,
            initial_arrays=ArrayRecord(net.state_dict()),
            train_config=ConfigRecord({"folder": folder, "loading": arguments.loading}),
            num_rounds=arguments.rounds,
        )
        net.load_state_dict(result.arrays.to_torch_state_dict())

    run_simulation(
        server_app=server,
        client_app=flower_client.app,
        num_supernodes=arguments.clients,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    if len(strategy.begins) != arguments.rounds:
        raise SystemExit(
            f"only {len(strategy.begins)} of {arguments.rounds} rounds ran"
        )
    task.print_report(
        "stock Flower on Ray",
        packages=("flwr", "ray", "torch", "numpy"),
        settings={
            "clients": arguments.clients,
            "rounds": arguments.rounds,
            "loading": arguments.loading,
            "num_cpus": 1,
            "threads": 1,
        },
        start_seconds=strategy.start_seconds,
        round_seconds=strategy.round_seconds,
        final_loss=task.first_images_loss(net, task.load_images(folder)),
    )


if __name__ == "__main__":
    main()
