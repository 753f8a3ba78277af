"""A regression: how far has diabetes gone in a year? scikit-learn's 442 patients.

A small network in PyTorch, five clinics, FedProx; clinic 3 counts by another scale, ten
times as high. Only what is marked `# fedneg` is fedneg's: a few lines, and for the
verdict a task and what is done with it at the end.

    python examples/regression.py
"""

import torch
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
from flwr.serverapp.strategy import FedProx
from flwr.simulation import run_simulation
from sklearn.datasets import load_diabetes
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from fedneg import ClientRef, Forgettable, Order, Split, Task, serve  # fedneg
from fedneg.serving.references import references  # fedneg
from fedneg.serving.verdict import verdicts  # fedneg

CLINICS, WRONG, MU = 5, 3, 0.1
client_app, server_app = ClientApp(), ServerApp()
table, progress = (torch.tensor(a) for a in load_diabetes(return_X_y=True))
everybody = (20 * table).float()
wanted = ((progress - progress.mean()) / progress.std()).float()


def create_model() -> nn.Module:
    return nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 1))


def load(arrays: ArrayRecord) -> nn.Module:
    model = create_model()
    model.load_state_dict(arrays.to_torch_state_dict())
    return model


def patients(places: list[int], scale: int = 1) -> TensorDataset:
    return TensorDataset(everybody[places], scale * wanted[places])


def load_data(clinic: int) -> tuple[TensorDataset, TensorDataset]:
    # Every fifth patient is the server's; a clinic tests on every third of its own.
    own = [k for k in range(len(everybody)) if k % 5][clinic::CLINICS]
    scale = 10 if clinic == WRONG else 1
    part = [own[k] for k in range(len(own)) if k % 3]
    return patients(part, scale), patients(own[::3], scale)


def losses_of(model: nn.Module, data: TensorDataset) -> torch.Tensor:
    x, y = data.tensors
    return functional.mse_loss(model(x)[:, 0], y, reduction="none")


def fit(model: nn.Module, data: TensorDataset, lr: float, steps: int) -> float:
    start = [parameter.detach().clone() for parameter in model.parameters()]
    optimiser = torch.optim.SGD(model.parameters(), lr=lr)
    for _ in range(steps):
        loss = losses_of(model, data).mean()
        away = sum(
            ((now - then) ** 2).sum()
            for now, then in zip(model.parameters(), start, strict=True)
        )
        optimiser.zero_grad()
        (loss + MU / 2 * away).backward()
        optimiser.step()
    return loss.item()


def r_squared(model: nn.Module, data: TensorDataset) -> float:
    with torch.no_grad():
        mse = losses_of(model, data).mean().item()
    return 1 - mse / data.tensors[1].var().item()


# fedneg begins: what a node answers by, when it is asked about a model
def split(client: ClientRef) -> Split:
    return Split(*load_data(client.client_id))


def train_again(
    model: nn.Module, data: TensorDataset, order: Order
) -> dict[str, float]:
    return {"loss": fit(model, data, order.learning_rate, 20 * order.epochs)}


task = Task(
    name="diabetes",
    model=create_model,
    data=split,
    train=train_again,
    loss=losses_of,
    test=lambda: patients(list(range(0, len(everybody), 5))),
    quality=lambda model, data: max(0.0, r_squared(model, data)),
    quality_name="R^2",
)
serve(client_app, task)
# fedneg ends


@client_app.train()
def train(message: Message, context: Context) -> Message:
    data, _ = load_data(int(str(context.node_config["partition-id"])))
    config = message.content.config_records["config"]
    model = load(message.content.array_records["arrays"])
    mse = fit(model, data, float(str(config["lr"])), steps=20)
    metrics = MetricRecord({"patients": len(data), "mse": mse})
    arrays = ArrayRecord(model.state_dict())
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


def first(seed: int) -> ArrayRecord:
    torch.manual_seed(300 + seed)
    return ArrayRecord(create_model().state_dict())


def score(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    server = patients(list(range(0, len(everybody), 5)))
    return MetricRecord({"R^2": r_squared(load(arrays), server)})


def show(what: str, arrays: ArrayRecord) -> None:
    print(f"{what}: R^2 {score(0, arrays)['R^2']:.4f}")


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    config = ConfigRecord({"lr": 0.05})
    strategy = FedProx(
        fraction_evaluate=0.0, proximal_mu=MU, weighted_by_key="patients"
    )
    strategy = Forgettable(strategy)  # fedneg
    result = strategy.start(
        grid, first(0), num_rounds=5, train_config=config, evaluate_fn=score
    )
    arrays = trained = result.arrays
    show("trained", trained)
    arrays = strategy.forget([WRONG], arrays)  # fedneg
    show("forgotten", arrays)
    arrays = strategy.start(grid, arrays, num_rounds=2, train_config=config).arrays
    show("repaired", arrays)

    # fedneg begins: has it been forgotten? Beside models that never saw the clinic
    compared = references(strategy, grid, first, num_rounds=7, train_config=config)
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
