"""A task of your own: is a tumour benign? scikit-learn's breast cancer data.

The server holds every fifth patient; hospital k of K has every K-th of the others, and
trains on half of these.

    fedneg task=examples.own_task:task rounds=5 forget=2 retrain=remaining
"""

import torch
from sklearn.datasets import load_breast_cancer
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from fedneg import ClientRef, Order, Split, Task

x, y = (torch.tensor(array) for array in load_breast_cancer(return_X_y=True))
everybody = TensorDataset(((x - x.mean(0)) / x.std(0)).float(), y)


def patients(places: list[int]) -> TensorDataset:
    return TensorDataset(*everybody[places])


def data(client: ClientRef) -> Split:
    own = [k for k in range(len(y)) if k % 5][client.client_id :: client.clients]
    return Split(train=patients(own[::2]), unseen=patients(own[1::2]))


def train(model: nn.Module, data: TensorDataset, order: Order) -> dict[str, float]:
    optimiser, steps = torch.optim.Adam(model.parameters(), lr=order.learning_rate), 0
    for _ in range(order.epochs):
        for batch in DataLoader(data, order.batch_size, shuffle=True):
            if steps == order.max_steps:
                break
            optimiser.zero_grad()
            loss(model, TensorDataset(*batch)).mean().backward()
            optimiser.step()
            steps += 1
    return {"steps": steps}


def loss(model: nn.Module, data: TensorDataset) -> torch.Tensor:
    inputs, labels = data.tensors
    return functional.cross_entropy(model(inputs), labels, reduction="none")


def outputs(model: nn.Module, data: TensorDataset) -> torch.Tensor:
    return functional.softmax(model(data.tensors[0]), dim=1)


def accuracy(model: nn.Module, data: TensorDataset) -> float:
    return float((outputs(model, data).argmax(1) == data.tensors[1]).float().mean())


task = Task(
    name="breast cancer",
    model=lambda: nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 2)),
    data=data,
    train=train,
    loss=loss,
    test=lambda: patients(list(range(0, len(y), 5))),
    quality=accuracy,
    outputs=outputs,
    inputs=lambda data: data.tensors[0],
    deterministic=True,
)
