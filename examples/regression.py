"""A regression: how far has diabetes gone in a year? scikit-learn's 442 patients.

A small network in PyTorch, five clinics, FedProx; clinic 3 counts by another scale, ten
times as high. Only the lines marked `# fedneg` are fedneg's.

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

from fedneg import Forgettable, serve  # fedneg

CLINICS, WRONG = 5, 3
client_app, server_app = ClientApp(), ServerApp()
serve(client_app)  # fedneg
table, progress = (torch.tensor(a) for a in load_diabetes(return_X_y=True))
everybody = (20 * table).float()
wanted = ((progress - progress.mean()) / progress.std()).float()
Patients = tuple[torch.Tensor, torch.Tensor]


def create_model() -> nn.Module:
    return nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 1))


def load(arrays: ArrayRecord) -> nn.Module:
    model = create_model()
    model.load_state_dict(arrays.to_torch_state_dict())
    return model


def patients_of(clinic: int) -> Patients:
    # Every fifth patient is the server's.
    own = [k for k in range(len(everybody)) if k % 5][clinic::CLINICS]
    scale = 10 if clinic == WRONG else 1
    return everybody[own], scale * wanted[own]


@client_app.train()
def train(message: Message, context: Context) -> Message:
    clinic = int(str(context.node_config["partition-id"]))
    config = message.content.config_records["config"]
    x, y = patients_of(clinic)
    model = load(message.content.array_records["arrays"])
    start = [parameter.detach().clone() for parameter in model.parameters()]
    optimiser = torch.optim.SGD(model.parameters(), lr=float(str(config["lr"])))
    near = float(str(config["proximal-mu"])) / 2
    for _ in range(20):
        loss = functional.mse_loss(model(x)[:, 0], y)
        away = sum(
            ((now - then) ** 2).sum()
            for now, then in zip(model.parameters(), start, strict=True)
        )
        optimiser.zero_grad()
        (loss + near * away).backward()
        optimiser.step()
    metrics = MetricRecord(
        {
            "patients": len(x),
            "mse": loss.item(),
        }
    )
    arrays = ArrayRecord(model.state_dict())
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


def score(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    x, y = everybody[::5], wanted[::5]
    with torch.no_grad():
        mse = functional.mse_loss(load(arrays)(x)[:, 0], y)
    return MetricRecord({"R^2": 1 - mse.item() / y.var().item()})


def show(what: str, arrays: ArrayRecord) -> None:
    print(f"{what}: R^2 {score(0, arrays)['R^2']:.4f}")


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    torch.manual_seed(0)
    arrays = ArrayRecord(create_model().state_dict())
    config = ConfigRecord({"lr": 0.05})
    strategy = FedProx(
        fraction_evaluate=0.0, proximal_mu=0.1, weighted_by_key="patients"
    )
    strategy = Forgettable(strategy)  # fedneg
    arrays = strategy.start(
        grid, arrays, num_rounds=5, train_config=config, evaluate_fn=score
    ).arrays
    show("trained", arrays)
    arrays = strategy.forget([WRONG], arrays)  # fedneg
    show("forgotten", arrays)
    arrays = strategy.start(grid, arrays, num_rounds=2, train_config=config).arrays
    show("repaired", arrays)


if __name__ == "__main__":
    run_simulation(server_app, client_app, num_supernodes=CLINICS)
