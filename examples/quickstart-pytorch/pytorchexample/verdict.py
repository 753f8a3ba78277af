"""pytorchexample: Has the client been forgotten? This file is fedneg's, as a whole."""

import torch
from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp import Grid
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from fedneg import ClientRef, Forgettable, Order, Split, Task
from fedneg.serving.references import references
from fedneg.serving.verdict import verdicts
from pytorchexample.task import Net, load_centralized_dataset, load_data, test, train


def split(client: ClientRef) -> Split:
    """Return a client's data: what it trains on, and like that what it does not."""
    loaders = load_data(client.client_id, client.clients, batch_size=32)
    return Split(*(loader.dataset for loader in loaders))


def train_again(model: nn.Module, data: Dataset, order: Order) -> dict[str, float]:
    """Train as the app does."""
    loader = DataLoader(data, batch_size=order.batch_size, shuffle=True)
    loss = train(model, loader, order.epochs, order.learning_rate, order.device)
    return {"loss": loss}


def losses(model: nn.Module, data: Dataset) -> torch.Tensor:
    """Return the loss of each example."""
    device = next(model.parameters()).device
    found = [
        functional.cross_entropy(model(x.to(device)), y.to(device), reduction="none")
        for x, y in DataLoader(data, batch_size=128)
    ]
    return torch.cat(found)


# What a node answers by, when it is asked about a model.
task = Task(
    name="digits",
    model=Net,
    data=split,
    train=train_again,
    losses=losses,
    test=lambda: load_centralized_dataset().dataset,
    quality=lambda model, data: test(model, DataLoader(data, batch_size=128), "cpu")[1],
)


def first(seed: int) -> ArrayRecord:
    """Return initial arrays."""
    torch.manual_seed(seed)
    return ArrayRecord(Net().state_dict())


def show_verdicts(
    strategy: Forgettable,
    grid: Grid,
    trained: ArrayRecord,
    repaired: ArrayRecord,
    num_rounds: int,
    train_config: ConfigRecord,
) -> None:
    """Print them, beside models that never saw the client and one that did."""
    compared = references(
        strategy, grid, first, num_rounds=num_rounds, train_config=train_config
    )
    found = verdicts(
        strategy,
        grid,
        task,
        original=trained,
        models={"repaired": repaired},
        retrained=compared.retrained,
        trained_with=compared.trained_with,
    )
    for name, one in found.items():
        print(f"verdict on the {name} model: {one}")
