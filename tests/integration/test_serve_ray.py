"""A served app in Flower's own simulation: class, task and ids get through Ray."""

import subprocess
import sys

import pytest

from builders.waiting import PATIENCE_S

pytestmark = [pytest.mark.ray, pytest.mark.slow]
APP = """
import numpy as np
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from fedneg import Forgettable, Split, Task, serve
from fedneg.serving.asking import Asking

client_app, server_app = ClientApp(), ServerApp()
task = Task(
    name="lines",
    model=lambda: torch.nn.Linear(3, 1, bias=False),
    data=lambda ref: Split(torch.eye(3) * ref.client_id, torch.ones(2, 3)),
    train=lambda model, data, order: {},
    losses=lambda model, data: model(data).squeeze(1).square(),
)
serve(client_app, task)

@client_app.train()
def train(message, context):
    k = context.node_config["partition-id"]
    (array,) = message.content.array_records["arrays"].to_numpy_ndarrays()
    metrics = MetricRecord({"num-examples": 10, "loss": 0.5})
    content = {"arrays": ArrayRecord([array + k + 1]), "metrics": metrics}
    return Message(RecordDict(content), reply_to=message)

@server_app.main()
def main(grid, context):
    all_three = {"min_train_nodes": 3, "min_available_nodes": 3}
    strategy = Forgettable(FedAvg(fraction_evaluate=0.0, **all_three))
    arrays = ArrayRecord([np.zeros((1, 3), np.float32)])
    result = strategy.start(grid, arrays, num_rounds=2)
    print("clients", *strategy.clients)
    left = strategy.forget([1], result.arrays)
    print("left", left.to_numpy_ndarrays()[0][0, 0])
    said = Asking(strategy, grid).answers([1], left)[1]
    print("loss", said.as_trained_loss, len(said.members), len(said.unseen))
    strategy.start(grid, left, num_rounds=1)
    print("clients", *strategy.clients, "forgotten", *strategy.forgotten)

run_simulation(server_app, client_app, num_supernodes=3)
"""


def test_ids_and_answers_get_through_ray():
    ran = subprocess.run(
        [sys.executable, "-c", APP],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    said = [
        line for line in ran.stdout.splitlines() if line[:4] in ("clie", "left", "loss")
    ]
    left = 2 * (1 + 3) / 3
    assert said[0] == "clients 0 1 2"
    assert float(said[1].split()[1]) == pytest.approx(left)
    assert float(said[2].split()[1]) == pytest.approx(left**2, rel=1e-5)
    assert said[2].split()[2:] == ["3", "2"]
    assert said[3] == "clients 0 1 2 forgotten 1"
    assert "Traceback" not in ran.stderr
