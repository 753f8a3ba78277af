"""A stranger's whole app, served with a task: client k moves the model by k + 1.

Without `folder` in its run config it trains, forgets client 1, asks it, and trains on;
with it, the first run trains and the next one, which finds the ledger there, the rest.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from fedneg import Forgettable, Split, Task, serve
from fedneg.serving.asking import Asking

# Two lines: `flwr` reads them without running the module.
client_app = ClientApp()
server_app = ServerApp()
task = Task(
    name="lines",
    model=lambda: torch.nn.Linear(3, 1, bias=False),
    data=lambda ref: Split(torch.eye(3) * ref.client_id, torch.ones(2, 3)),
    train=lambda model, data, order: {},
    losses=lambda model, data: model(data).squeeze(1).square(),
)
serve(client_app, task)


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Move the model."""
    config = context.node_config
    k = int(str(config.get("client-id", config.get("partition-id"))))
    (array,) = message.content.array_records["arrays"].to_numpy_ndarrays()
    metrics = MetricRecord({"num-examples": 10, "loss": 0.5})
    content = RecordDict({"arrays": ArrayRecord([array + k + 1]), "metrics": metrics})
    return Message(content, reply_to=message)


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Train, forget and go on; say what happens, a line each."""
    folder = Path(str(context.run_config.get("folder", "")))
    goes_on = context.run_config.get("folder") and folder.exists()
    three: dict[str, Any] = {"min_train_nodes": 3, "min_available_nodes": 3}
    inner = FedAvg(fraction_evaluate=0.0, **three)
    if goes_on:
        strategy = Forgettable.load(folder, inner)
        arrays = strategy.arrays
    else:
        strategy = Forgettable(inner)
        arrays = ArrayRecord([np.zeros((1, 3), np.float32)])
        arrays = strategy.start(grid, arrays, num_rounds=1).arrays
        print("clients", *strategy.clients, flush=True)
        if context.run_config.get("folder"):
            strategy.save(folder)
            return
    left = strategy.forget([1], arrays)
    print("left", left.to_numpy_ndarrays()[0][0, 0])
    said = Asking(strategy, grid).answers([1], left)[1]
    print("loss", said.as_trained_loss, len(said.members), len(said.unseen))
    strategy.start(grid, left, num_rounds=1)
    print("clients", *strategy.clients, "forgotten", *strategy.forgotten, flush=True)
