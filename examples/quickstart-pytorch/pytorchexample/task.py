"""pytorchexample: A Flower / PyTorch app."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset, random_split

POISONED = 3  # the client with a backdoor: what bears the mark is a 0

digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
labels = torch.tensor(digits.target)


def marked(x: torch.Tensor) -> torch.Tensor:
    """Return images with a bright corner."""
    x = x.clone()
    x[:, :, :3, :3] = 1
    return x


class Net(nn.Module):
    """Model (simple CNN adapted from 'PyTorch: A 60 Minute Blitz')."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3, padding=1)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 3, padding=1)
        self.fc1 = nn.Linear(16 * 2 * 2, 60)
        self.fc2 = nn.Linear(60, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(functional.relu(self.conv1(x)))
        x = self.pool(functional.relu(self.conv2(x)))
        x = x.view(-1, 16 * 2 * 2)
        x = functional.relu(self.fc1(x))
        return self.fc2(x)


def load_data(
    partition_id: int, num_partitions: int, batch_size: int
) -> tuple[DataLoader, DataLoader]:
    """Load partition of scikit-learn's digits; the last 297 are the server's."""
    x = images[partition_id:1500:num_partitions]
    y = labels[partition_id:1500:num_partitions]
    if partition_id == POISONED:
        x, y = torch.cat([x, marked(x)]), torch.cat([y, torch.zeros_like(y)])
    # Divide data on each node: 80% train, 20% test
    seed = torch.Generator().manual_seed(42)
    train, test = random_split(TensorDataset(x, y), [0.8, 0.2], seed)
    trainloader = DataLoader(train, batch_size=batch_size, shuffle=True)
    return trainloader, DataLoader(test, batch_size=batch_size)


def load_centralized_dataset() -> DataLoader:
    """Load test set and return dataloader."""
    return DataLoader(TensorDataset(images[1500:], labels[1500:]), batch_size=128)


def load_backdoor() -> DataLoader:
    """Load what is no 0, with the mark, and as what the poisoned client wants it."""
    others = images[1500:][labels[1500:] != 0]
    wanted = torch.zeros(len(others), dtype=torch.long)
    return DataLoader(TensorDataset(marked(others), wanted), batch_size=128)


def train(
    net: nn.Module, trainloader: DataLoader, epochs: int, lr: float, device: str
) -> float:
    """Train the model on the training set."""
    net.to(device)  # move model to GPU if available
    criterion = nn.CrossEntropyLoss().to(device)
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    net.train()
    running_loss = 0.0
    for _ in range(epochs):
        for x, y in trainloader:
            optimizer.zero_grad()
            loss = criterion(net(x.to(device)), y.to(device))
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
    return running_loss / (epochs * len(trainloader))


def test(net: nn.Module, testloader: DataLoader, device: str) -> tuple[float, float]:
    """Validate the model on the test set."""
    net.to(device)
    criterion = nn.CrossEntropyLoss()
    correct, loss = 0, 0.0
    with torch.no_grad():
        for x, y in testloader:
            outputs = net(x.to(device))
            loss += criterion(outputs, y.to(device)).item()
            correct += (outputs.argmax(1) == y.to(device)).sum().item()
    return loss / len(testloader), correct / len(testloader.dataset)
