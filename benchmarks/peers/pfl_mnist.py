"""A peer: Apple's pfl, as its tutorials and its own benchmarks show it.

A SimulatedBackend over a federated dataset of users in memory, FederatedAveraging, and
a PyTorchModel with a local and a central optimiser, on the CPU. Needs an environment
with ``pfl`` and torch. One process; ``torchrun --standalone --nproc-per-node P`` in
place of ``python`` makes it P, pfl's own way to use more cores.

How fedneg's settings are reached: the local optimiser is made anew for each user, so
SGD with momentum starts at zero momentum each round; WeightByDatapoints weights by
examples; a central SGD of learning rate 1 adds the mean update; a sampler that avoids
reuse and a cohort of all users let each take part once a round.

Differs from fedneg: pfl takes a user's batches in the order of the data, unshuffled.
"""

import argparse
import functools
import os
import time
from pathlib import Path

import numpy as np
import task
import torch
from torch import nn

# pfl wants its model imported first: that decides on the framework.
from pfl.model.pytorch import PyTorchModel  # isort: skip
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics


class Net(nn.Module):
    """The network with the two methods that pfl asks of a module."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = task.build_net()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        logits: torch.Tensor = self.layers(images)
        return logits

    def loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return what local training minimises."""
        return nn.functional.cross_entropy(self(images), labels)

    def metrics(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, object]:
        """Measure nothing: pfl cannot be told to leave out evaluation in round 1."""
        return {}


class Laps(TrainingProcessCallback):  # type: ignore[misc]
    """Notes when training begins and how long each central iteration takes."""

    def __init__(self) -> None:
        self.start_seconds = 0.0
        self.round_seconds: list[float] = []
        self._begin = 0.0

    def on_train_begin(self, *, model: PyTorchModel) -> Metrics:
        """Note that the first round begins."""
        self.start_seconds = task.seconds_since_process_start()
        self._begin = time.perf_counter()
        return Metrics()

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        """Note that a round is over and the next begins."""
        end = time.perf_counter()
        self.round_seconds.append(end - self._begin)
        self._begin = end
        return False, Metrics()


def federated_dataset(folder: str, clients: int) -> FederatedDataset:
    """Return all users' tensors, and a sampler that goes through the users in turn."""
    users = {k: list(task.client_tensors(folder, k)) for k in range(clients)}
    return FederatedDataset(
        lambda user: Dataset(users[user], user_id=user),
        get_user_sampler("minimize_reuse", list(users)),
        # Balances several processes. Without it they also would not agree on a cohort:
        # with an odd number of users one takes part twice and another not at all.
        user_id_to_weight={user: len(labels) for user, (_, labels) in users.items()},
    )


def train(net: Net, users: FederatedDataset, *, clients: int, rounds: int) -> Laps:
    """Train `net` in place and return the times."""
    model = PyTorchModel(
        model=net,
        local_optimizer_create=functools.partial(
            torch.optim.SGD, momentum=task.MOMENTUM
        ),
        central_optimizer=torch.optim.SGD(net.parameters(), lr=1.0),
    )
    backend = SimulatedBackend(
        training_data=users,
        val_data=users,  # asked for, but with no validation cohort never used
        postprocessors=[WeightByDatapoints()],
    )
    laps = Laps()
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=rounds,
            evaluation_frequency=rounds,
            train_cohort_size=clients,
            val_cohort_size=0,
        ),
        backend=backend,
        model=model,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1,
            local_learning_rate=task.LEARNING_RATE,
            local_batch_size=task.BATCH_SIZE,
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=None),
        callbacks=[laps],
    )
    return laps


def main() -> None:
    """Run the simulation and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    folder = str(arguments.folder.resolve())

    # pfl would take a GPU where there is one.
    os.environ["PFL_PYTORCH_DEVICE"] = "cpu"
    torch.set_num_threads(arguments.threads)
    np.random.seed(0)
    torch.manual_seed(0)
    net = Net()
    laps = train(
        net,
        federated_dataset(folder, arguments.clients),
        clients=arguments.clients,
        rounds=arguments.rounds,
    )
    if os.environ.get("RANK", "0") != "0":
        return  # all of torchrun's processes hold the same model
    task.print_report(
        "Apple pfl",
        packages=("pfl", "torch", "numpy"),
        settings={
            "clients": arguments.clients,
            "rounds": arguments.rounds,
            "loading": "tensors",
            "processes": int(os.environ.get("WORLD_SIZE", "1")),
            "threads": arguments.threads,
        },
        start_seconds=laps.start_seconds,
        round_seconds=laps.round_seconds,
        final_loss=task.first_images_loss(net, task.load_images(folder)),
    )


if __name__ == "__main__":
    main()
