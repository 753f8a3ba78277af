"""Slow and obvious twins of what the library does fast; they share no code with it."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch


def forward(arrays: Sequence[torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
    """Return the logits of a dense ReLU network, layer by layer."""
    for i in range(0, len(arrays), 2):
        rows = rows @ arrays[i].T + arrays[i + 1]
        if i + 2 < len(arrays):
            rows = rows * (rows > 0)
    return rows


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean of log(sum of exp) minus the true logit."""
    true = logits[torch.arange(len(labels)), labels]
    return (logits.exp().sum(1).log() - true).mean()


def gradient(
    arrays: Sequence[np.ndarray], rows: np.ndarray, labels: np.ndarray
) -> list[np.ndarray]:
    """Return the gradient of the mean loss, in float64."""
    leaves = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in arrays]
    x = torch.tensor(rows, dtype=torch.float64)
    cross_entropy(forward(leaves, x), torch.tensor(labels)).backward()
    return [leaf.grad.numpy() for leaf in leaves if leaf.grad is not None]


def plain_sgd(
    arrays: Sequence[np.ndarray],
    rows: np.ndarray,
    labels: np.ndarray,
    *,
    orders: Sequence[np.ndarray],
    batch_size: int,
    learning_rate: float,
    momentum: float,
) -> list[np.ndarray]:
    """Return the parameters after one epoch of SGD for each order of the examples."""
    w = [a.astype(np.float64) for a in arrays]
    velocity = [np.zeros_like(a) for a in w]
    for order in orders:
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            for i, g in enumerate(gradient(w, rows[batch], labels[batch])):
                velocity[i] = momentum * velocity[i] + g
                w[i] = w[i] - learning_rate * velocity[i]
    return w


def fedavg(
    models: Mapping[int, Sequence[np.ndarray]], num_examples: Mapping[int, float]
) -> list[np.ndarray]:
    """Return the mean of whole models weighted by examples, in float64."""
    total = sum(num_examples[k] for k in models)
    length = len(next(iter(models.values())))
    return [
        np.sum([models[k][i].astype(np.float64) * num_examples[k] for k in models], 0)
        / total
        for i in range(length)
    ]
