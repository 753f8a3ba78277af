"""Central training on the same images: what the federation is compared with."""

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from fedneg.core.parameters import flatten, unflatten
from fedneg.core.seeding import torch_generator
from fedneg.data.partition import partition
from fedneg.tasks.model import build_mlp, get_parameters, set_parameters
from fedneg.tasks.training import evaluate, train_epochs

if TYPE_CHECKING:
    from fedneg.federation import Federation


def train_centrally(federation: "Federation") -> pd.DataFrame:
    """Train one model on all clients' training images together (Fig 2)."""
    config, data = federation.config, federation.dataset
    splits = partition(data, config.data, clients=config.clients, seed=config.seed)
    index = np.concatenate([split.train for split in splits])
    images, labels = data.images[index], data.labels[index]
    model = build_mlp(data.input_size, config.model.hidden, data.num_classes)
    set_parameters(model, unflatten(federation.initial, federation.shapes))
    rows: list[dict[str, float]] = []
    epochs = config.rounds * config.client.local_epochs

    def after_epoch(epoch: int) -> None:
        # As many epochs as the federation trains; one row for each of its rounds.
        if epoch % config.client.local_epochs:
            return
        train = evaluate(model, images, labels, scaling=data.scaling)
        test = federation.test.measure(flatten(get_parameters(model)))
        number = epoch // config.client.local_epochs
        rows.append(
            {
                "epoch": number,
                "train_accuracy": train.accuracy,
                "train_loss": train.loss,
                "accuracy": test.accuracy,
                "loss": test.loss,
            }
        )
        federation.progress.round(
            "central", number, config.rounds, accuracy=test.accuracy, loss=test.loss
        )

    started = time.perf_counter()
    train_epochs(
        model,
        images,
        labels,
        scaling=data.scaling,
        settings=replace(config.client, local_epochs=epochs),
        generator=torch_generator(config.seed, "central"),
        after_epoch=after_epoch,
    )
    spent = time.perf_counter() - started
    table = pd.DataFrame(rows)
    table.attrs["seconds"] = spent
    return table
