"""The ClientApp of `stock_flower`; a module, so that Ray's actors import it by name.

They keep what it caches from round to round. Sent from a main script it would be
pickled by value with every message.
"""

from functools import cache

import numpy as np
import task
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
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

app = ClientApp()


class PilImages(Dataset[tuple[torch.Tensor, ...]]):
    """Images that become input one by one, through PIL and torchvision's transforms."""

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
        import vision

        vision.datasets()  # makes torchvision load beside a CPU build of torch
        from torchvision.transforms import Compose, Normalize, ToTensor

        self.images, self.labels = images, torch.from_numpy(labels)
        self.transform = Compose([ToTensor(), Normalize((task.MEAN,), (task.STD,))])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        image = self.transform(Image.fromarray(self.images[index]))
        return image, self.labels[index]


@cache
def examples(folder: str, client_id: int, loading: str) -> PilImages | TensorDataset:
    """Return one client's data set, made once per actor."""
    if loading == "pil":
        return PilImages(*task.load_images(folder).of_client(client_id))
    return TensorDataset(*task.client_tensors(folder, client_id))


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one epoch on the client's own images."""
    torch.set_num_threads(1)
    arrays, config = message.content["arrays"], message.content["config"]
    assert isinstance(arrays, ArrayRecord)
    assert isinstance(config, ConfigRecord)
    net = task.build_net()
    net.load_state_dict(arrays.to_torch_state_dict())
    data = examples(
        str(config["folder"]),
        int(str(context.node_config["partition-id"])),
        str(config["loading"]),
    )
    loader = DataLoader(data, batch_size=task.BATCH_SIZE, shuffle=True)
    loss = train_epoch(net, loader)
    content = RecordDict(
        {
            "arrays": ArrayRecord(net.state_dict()),
            "metrics": MetricRecord({"train_loss": loss, "num-examples": len(data)}),
        }
    )
    return Message(content=content, reply_to=message)


def train_epoch(net: nn.Module, loader: DataLoader[tuple[torch.Tensor, ...]]) -> float:
    """Train for one epoch and return the mean loss of its batches."""
    criterion = nn.CrossEntropyLoss()
    optimiser = torch.optim.SGD(
        net.parameters(), lr=task.LEARNING_RATE, momentum=task.MOMENTUM
    )
    net.train()
    total = 0.0
    for images, labels in loader:
        optimiser.zero_grad()
        loss = criterion(net(images), labels)
        loss.backward()
        optimiser.step()
        total += loss.item()
    return total / len(loader)
