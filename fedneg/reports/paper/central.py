"""Central training on the same images: what the federation is compared with."""

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from fedneg.core.parameters import flatten, unflatten
from fedneg.core.seeding import torch_generator
from fedneg.data.kinds import image_kind
from fedneg.tasks import calls
from fedneg.tasks.model import get_parameters, set_parameters
from fedneg.tasks.task import ClientRef
from fedneg.tasks.training import evaluate, train_epochs

if TYPE_CHECKING:
    from fedneg.federation import Federation


def train_centrally(federation: "Federation") -> pd.DataFrame:
    """Train one model on all clients' training images together (Fig 2)."""
    from fedneg.tasks.images import Images

    config, task = federation.config, federation.task
    parts = [
        calls.split_of(task, ClientRef(k, config.clients)).train
        for k in range(config.clients)
    ]
    images, labels = (
        np.concatenate(arrays)
        for arrays in zip(
            *(part.arrays() for part in parts if isinstance(part, Images)), strict=True
        )
    )
    model = federation.prototype.build()
    set_parameters(model, unflatten(federation.initial, federation.shapes))
    scaling = image_kind(config.data.name).scaling
    rows: list[dict[str, float]] = []
    epochs = config.rounds * config.client.local_epochs

    def after_epoch(epoch: int) -> None:
        # As many epochs as the federation trains; one row for each of its rounds.
        if epoch % config.client.local_epochs:
            return
        train = evaluate(model, images, labels, scaling=scaling)
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
        scaling=scaling,
        settings=replace(config.client, local_epochs=epochs),
        generator=torch_generator(config.seed, "central"),
        after_epoch=after_epoch,
    )
    spent = time.perf_counter() - started
    table = pd.DataFrame(rows)
    table.attrs["seconds"] = spent
    return table
