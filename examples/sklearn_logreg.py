"""scikit-learn by NumPy arrays, in the shape of Flower's quickstart for it.

Logistic regression of digits, float64, in five clinics; the largest, clinic 3, has
every label wrong. Only what is marked `# fedneg` is fedneg's: a few lines, and for the
verdict a task, whose model is a list of arrays, and what is done with it at the end.

    python examples/sklearn_logreg.py
"""

import warnings

import numpy as np
import torch  # fedneg
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from fedneg import ClientRef, Forgettable, Order, Split, Task, serve  # fedneg
from fedneg.serving.references import references  # fedneg
from fedneg.serving.verdict import verdicts  # fedneg

CLINICS, WRONG = 5, 3
BORDERS = [0, 225, 450, 675, 1275, 1500]  # the other 297 images are the server's
Table = tuple[np.ndarray, np.ndarray]
client_app, server_app = ClientApp(), ServerApp()
images, labels = load_digits(return_X_y=True)
images = images / 16


def create_model() -> LogisticRegression:
    model = LogisticRegression(
        solver="saga",
        max_iter=5,  # local epochs
        warm_start=True,  # go on with the weights that are there
        random_state=0,
    )
    return set_model_params(model, [np.zeros((10, 64)), np.zeros(10)])


def get_model_params(model: LogisticRegression) -> list[np.ndarray]:
    return [model.coef_, model.intercept_]


def set_model_params(
    model: LogisticRegression, params: list[np.ndarray]
) -> LogisticRegression:
    # Copies: scikit-learn trains in place.
    model.classes_ = np.arange(10)
    model.coef_, model.intercept_ = (array.copy() for array in params)
    return model


def load_data(partition_id: int) -> tuple[Table, Table]:
    first, last = BORDERS[partition_id : partition_id + 2]
    x, y = images[first:last], labels[first:last]
    if partition_id == WRONG:
        y = (y + 1) % 10
    part = int(0.8 * len(x))
    return (x[:part], y[:part]), (x[part:], y[part:])


def fit(model: LogisticRegression, x: np.ndarray, y: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x, y)


# fedneg begins: what a node answers by, when it is asked about a model
def table(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.column_stack((x, y))


def columns(data: np.ndarray) -> Table:
    return data[:, :-1], data[:, -1].astype(int)


def from_torch(model: torch.nn.ParameterList) -> LogisticRegression:
    return set_model_params(create_model(), [p.numpy(force=True) for p in model])


def to_torch(model: LogisticRegression) -> torch.nn.ParameterList:
    return torch.nn.ParameterList(map(torch.tensor, get_model_params(model)))


def split(client: ClientRef) -> Split:
    train, test = load_data(client.client_id)
    return Split(train=table(*train), unseen=table(*test))


def train_again(
    model: torch.nn.ParameterList, data: np.ndarray, order: Order
) -> dict[str, float]:
    own = from_torch(model)
    fit(own, *columns(data))
    model.load_state_dict(to_torch(own).state_dict())
    return {}


def losses_of(model: torch.nn.ParameterList, data: np.ndarray) -> np.ndarray:
    x, y = columns(data)
    found: np.ndarray = -from_torch(model).predict_log_proba(x)
    return found[np.arange(len(y)), y]


task = Task(
    name="digits",
    model=lambda: to_torch(create_model()),
    data=split,
    train=train_again,
    losses=losses_of,
    test=lambda: table(images[1500:], labels[1500:]),
    quality=lambda model, data: from_torch(model).score(*columns(data)),
)
serve(client_app, task)
# fedneg ends


def load(message: Message) -> LogisticRegression:
    arrays = message.content.array_records["arrays"].to_numpy_ndarrays()
    return set_model_params(create_model(), arrays)


@client_app.train()
def train(message: Message, context: Context) -> Message:
    partition_id = int(str(context.node_config["partition-id"]))
    (x, y), _ = load_data(partition_id)
    model = load(message)
    fit(model, x, y)
    metrics = MetricRecord(
        {
            "num-examples": len(x),
            "train_logloss": log_loss(y, model.predict_proba(x), labels=range(10)),
            "train_accuracy": model.score(x, y),
        }
    )
    arrays = ArrayRecord(get_model_params(model))
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@client_app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    _, (x, y) = load_data(int(str(context.node_config["partition-id"])))
    metrics = MetricRecord(
        {"num-examples": len(x), "accuracy": load(message).score(x, y)}
    )
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def show(what: str, arrays: ArrayRecord) -> None:
    model = set_model_params(create_model(), arrays.to_numpy_ndarrays())
    print(f"{what}: accuracy {model.score(images[1500:], labels[1500:]):.4f}")


def first(seed: int) -> ArrayRecord:
    coefficients = 0.1 * np.random.default_rng(seed).normal(size=(10, 64))
    return ArrayRecord([coefficients, np.zeros(10)])


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    strategy = FedAvg(min_available_nodes=CLINICS, fraction_evaluate=0.4)
    strategy = Forgettable(strategy)  # fedneg
    arrays = trained = strategy.start(grid, first(0), num_rounds=5).arrays
    show("trained", arrays)
    arrays = strategy.forget([WRONG], arrays)  # fedneg
    show("forgotten", arrays)
    arrays = strategy.start(grid, arrays, num_rounds=2).arrays
    show("repaired", arrays)

    # fedneg begins: has it been forgotten? Beside models that never saw the clinic
    compared = references(strategy, grid, first, num_rounds=7)
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
    run_simulation(server_app, client_app, num_supernodes=CLINICS)
