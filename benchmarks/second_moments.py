"""What the second moments of an adaptive server still have of a client, measured.

    python -m benchmarks.second_moments

Softmax regression on the digits, 8 clients, 20 rounds, five seeds. Client `gone` is
forgotten by taking its part of every step away; beside that, the others' same updates
with second moments that never saw the client. Distances are shares of the training's
step: docs/your-flower-app.md has them.
"""

import sys
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

CLIENTS, ROUNDS, SEEDS = 8, 20, 5
ETA, BETA_1, BETA_2, TAU = 0.1, 0.9, 0.99, 1e-3
Array = NDArray[np.float64]


def trained_locally(model: Array, inputs: Array, labels: NDArray[np.intp]) -> Array:
    """Return the update of five steps on a client's data."""
    found = model.copy()
    for _ in range(5):
        scores = np.exp(inputs @ found[:-1] + found[-1])
        scores /= scores.sum(axis=1, keepdims=True)
        scores[np.arange(len(labels)), labels] -= 1
        scores /= len(labels)
        found[:-1] -= 0.5 * inputs.T @ scores
        found[-1] -= 0.5 * scores.sum(axis=0)
    return found - model


def gain_of(kind: str, second: Array, total: Array, number: int) -> Array:
    """Move second moments by a round's aggregate; return what the server scales by."""
    square, rate = total**2, ETA
    if kind == "FedAdam":
        second += (1 - BETA_2) * (square - second)
        rate *= np.sqrt(1 - BETA_2 ** (number + 1)) / (1 - BETA_1 ** (number + 1))
    elif kind == "FedYogi":
        second -= (1 - BETA_2) * square * np.sign(second - square)
    else:
        second += square
    return rate / (np.sqrt(second) + TAU)


def measured(kind: str, seed: int, *, alike: bool) -> list[float]:
    """Return the dependence, the client's part, and accuracies before and after."""
    inputs, labels = load_digits(return_X_y=True)
    inputs, draws = inputs / 16, np.random.default_rng(seed)
    order = draws.permutation(len(inputs))
    test, rest = order[:400], order[400:]
    if not alike:
        rest = rest[np.argsort(labels[rest] + draws.normal(0, 1.5, len(rest)))]
    parts, gone = np.array_split(rest, CLIENTS), seed % CLIENTS
    beta = 0.0 if kind == "FedAdagrad" else BETA_1
    model, rows, momentum = (np.zeros((65, 10)) for _ in range(3))
    second, others, other, other_second = (np.zeros((65, 10)) for _ in range(4))
    for number in range(1, ROUNDS + 1):
        updates = [
            len(p) / len(rest) * trained_locally(model, inputs[p], labels[p])
            for p in parts
        ]
        total, leaving = np.sum(updates, axis=0), updates[gone]
        gain = gain_of(kind, second, total, number)
        momentum = beta * momentum + (1 - beta) * leaving
        others = beta * others + (1 - beta) * (total - leaving)
        rows += gain * momentum
        model = model + gain * (momentum + others)
        other += gain_of(kind, other_second, total - leaving, number) * others
    without = model - rows
    step = float(np.linalg.norm(model))
    return [
        float(np.linalg.norm(without - other)) / step,
        float(np.linalg.norm(rows)) / step,
        *(accuracy(m, inputs[test], labels[test]) for m in (model, without)),
    ]


def accuracy(model: Array, inputs: Array, labels: NDArray[np.intp]) -> float:
    """Return the share of examples that a model gets right."""
    return float(np.mean(np.argmax(inputs @ model[:-1] + model[-1], axis=1) == labels))


def lines() -> Iterable[str]:
    """Yield the table."""
    yield "clients | strategy | dependence | own part | accuracy before, after"
    for alike in (True, False):
        for kind in ("FedAdam", "FedYogi", "FedAdagrad"):
            found = [measured(kind, seed, alike=alike) for seed in range(SEEDS)]
            means = " | ".join(f"{value:.2f}" for value in np.mean(found, axis=0))
            yield f"{'alike' if alike else 'by class'} | {kind} | {means}"


if __name__ == "__main__":
    for line in lines():
        sys.stdout.write(line + "\n")
