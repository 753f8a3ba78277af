"""Somebody's own Flower app, and the three lines that let it forget a client.

Logistic regression by NumPy on scikit-learn's digits: hospital k has every tenth image
from the k-th on, and hospital 3 has wrong labels. Only the lines marked `# fedneg` are
fedneg's.

    python examples/flower_app.py
"""

import numpy as np
from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from sklearn.datasets import load_digits

from fedneg import Forgettable  # fedneg

HOSPITALS, POISONED = 10, 3
client_app, server_app = ClientApp(), ServerApp()
images, labels = load_digits(return_X_y=True)
images = images / 16


def chances(weights: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    scores = inputs @ weights[:-1] + weights[-1]
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    found: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return found


@client_app.train()
def train(message: Message, context: Context) -> Message:
    place = int(str(context.node_config["partition-id"]))
    x, y = images[place:1500:HOSPITALS], labels[place:1500:HOSPITALS]
    y = (y + 1) % 10 if place == POISONED else y
    (weights,) = message.content.array_records["arrays"].to_numpy_ndarrays()
    weights = weights.copy()
    for _ in range(20):
        error = chances(weights, x) - np.eye(10)[y]
        weights[:-1] -= 0.5 * x.T @ error / len(x)
        weights[-1] -= 0.5 * error.mean(axis=0)
    metrics = MetricRecord(
        {
            "num-examples": len(x),
            "place": place,  # fedneg
        }
    )
    content = RecordDict({"arrays": ArrayRecord([weights]), "metrics": metrics})
    return Message(content, reply_to=message)


def accuracy(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    (weights,) = arrays.to_numpy_ndarrays()
    right = chances(weights, images[1500:]).argmax(axis=1) == labels[1500:]
    return MetricRecord({"accuracy": float(right.mean())})


def show(what: str, arrays: ArrayRecord) -> None:
    print(f"{what}: accuracy {accuracy(0, arrays)['accuracy']:.4f}")


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    strategy = FedAvg(fraction_evaluate=0.0)
    strategy = Forgettable(strategy, clients="place")  # fedneg
    arrays = ArrayRecord([np.zeros((65, 10), dtype=np.float32)])
    config = ConfigRecord({"lr": 0.5})
    result = strategy.start(grid, arrays, num_rounds=5, train_config=config)
    arrays = result.arrays
    show("trained", arrays)
    arrays = strategy.forget([POISONED], arrays)  # fedneg
    show("forgotten", arrays)
    show("repaired", strategy.start(grid, arrays, num_rounds=2).arrays)


if __name__ == "__main__":
    run_simulation(server_app, client_app, num_supernodes=HOSPITALS)
