"""Somebody's own Flower app, and the three lines that let it forget a client.

Logistic regression by NumPy on scikit-learn's digits: hospital k has every tenth image
from the k-th on, and hospital 3 has wrong labels. Only what is marked `# fedneg` is
fedneg's: three lines, and for the verdict a task, whose model is a list of arrays, and
what is done with it at the end.

    python examples/flower_app.py
"""

import numpy as np
import torch  # fedneg
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

from fedneg import ClientRef, Forgettable, Order, Split, Task, serve  # fedneg
from fedneg.serving.references import references  # fedneg
from fedneg.serving.verdict import verdicts  # fedneg

HOSPITALS, POISONED = 10, 3
client_app, server_app = ClientApp(), ServerApp()
images, labels = load_digits(return_X_y=True)
images = images / 16


def chances(weights: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    scores = inputs @ weights[:-1] + weights[-1]
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    found: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return found


def load_data(place: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = images[place:1500:HOSPITALS], labels[place:1500:HOSPITALS]
    return x, (y + 1) % 10 if place == POISONED else y


def fit(weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    weights = weights.copy()
    for _ in range(20):
        error = chances(weights, x) - np.eye(10)[y]
        weights[:-1] -= 0.5 * x.T @ error / len(x)
        weights[-1] -= 0.5 * error.mean(axis=0)
    return weights


def accuracy(weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    return float((chances(weights, x).argmax(axis=1) == y).mean())


@client_app.train()
def train(message: Message, context: Context) -> Message:
    place = int(str(context.node_config["partition-id"]))
    x, y = load_data(place)
    (weights,) = message.content.array_records["arrays"].to_numpy_ndarrays()
    weights = fit(weights, x, y)
    metrics = MetricRecord(
        {
            "num-examples": len(x),
            "place": place,  # fedneg
        }
    )
    content = RecordDict({"arrays": ArrayRecord([weights]), "metrics": metrics})
    return Message(content, reply_to=message)


# fedneg begins: what a node answers by, when it is asked about a model
def as_array(model: torch.nn.ParameterList) -> np.ndarray:
    found: np.ndarray = model[0].numpy(force=True)
    return found


def table(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.column_stack((x, y))


def columns(data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return data[:, :-1], data[:, -1].astype(int)


def split(client: ClientRef) -> Split:
    # What is like its examples, and the server's: with its kind of labels.
    wrong = client.client_id == POISONED
    unseen = table(images[1500:], (labels[1500:] + wrong) % 10)
    return Split(train=table(*load_data(client.client_id)), unseen=unseen)


def train_again(
    model: torch.nn.ParameterList, data: np.ndarray, order: Order
) -> dict[str, float]:
    model[0].data = torch.tensor(fit(as_array(model), *columns(data)))
    return {}


def losses_of(model: torch.nn.ParameterList, data: np.ndarray) -> np.ndarray:
    x, y = columns(data)
    own: np.ndarray = chances(as_array(model), x)[np.arange(len(y)), y]
    found: np.ndarray = -np.log(own)
    return found


task = Task(
    name="digits",
    model=lambda: torch.nn.ParameterList([torch.zeros(65, 10)]),
    data=split,
    train=train_again,
    losses=losses_of,
    test=lambda: table(images[1500:], labels[1500:]),
    quality=lambda model, data: accuracy(as_array(model), *columns(data)),
)
serve(client_app, task)
# fedneg ends


def first(seed: int) -> ArrayRecord:
    weights = np.random.default_rng(seed).normal(scale=0.1, size=(65, 10))
    return ArrayRecord([weights.astype(np.float32)])


def show(what: str, arrays: ArrayRecord) -> None:
    (weights,) = arrays.to_numpy_ndarrays()
    print(f"{what}: accuracy {accuracy(weights, images[1500:], labels[1500:]):.4f}")


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    strategy = FedAvg(fraction_evaluate=0.0)
    strategy = Forgettable(strategy, clients="place")  # fedneg
    config = ConfigRecord({"lr": 0.5})
    result = strategy.start(grid, first(0), num_rounds=5, train_config=config)
    arrays = trained = result.arrays
    show("trained", trained)
    arrays = strategy.forget([POISONED], arrays)  # fedneg
    show("forgotten", arrays)
    arrays = strategy.start(grid, arrays, num_rounds=6).arrays
    show("repaired", arrays)

    # fedneg begins: has it been forgotten? Beside models that never saw the hospital
    compared = references(strategy, grid, first, num_rounds=11)
    show("retrained", compared.retrained[0])
    found = verdicts(
        strategy,
        grid,
        task,
        original=trained,
        models={"repaired": arrays},
        retrained=compared.retrained,
        trained_with=compared.trained_with,
    )
    for name, one in found.items():
        print(f"verdict on the {name} model: {one}")
    # fedneg ends


if __name__ == "__main__":
    run_simulation(server_app, client_app, num_supernodes=HOSPITALS)
