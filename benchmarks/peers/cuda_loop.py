"""A peer: no framework, a plain PyTorch loop on a GPU, client after client.

FedAvg as a page of PyTorch: all images lie on the card as floats from the start, SGD is
fused, nothing is read from the card before a round is over, and the average is made
there. Nothing is checked, evaluated, kept or reported.
"""

import argparse
import time
from itertools import pairwise
from pathlib import Path

import task
import torch
from plain_loop import train
from torch.nn.utils import parameters_to_vector, vector_to_parameters


def main() -> None:
    """Train and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--device", default="cuda")
    asked = parser.parse_args()
    folder, device = str(asked.folder.resolve()), torch.device(asked.device)
    torch.manual_seed(0)
    net = task.build_net().to(device)
    data = [
        (x.to(device), y.to(device))
        for x, y in (task.client_tensors(folder, k) for k in range(asked.clients))
    ]
    examples = sum(len(y) for _, y in data)
    model = parameters_to_vector(net.parameters()).detach().clone()
    start_seconds, ends = task.seconds_since_process_start(), [time.perf_counter()]
    for _ in range(asked.rounds):
        total = torch.zeros_like(model)
        for x, y in data:
            vector_to_parameters(model.clone(), net.parameters())
            train(net, x, y, epochs=asked.epochs)
            local = parameters_to_vector(net.parameters()).detach()
            total.add_(local, alpha=len(y) / examples)
        model = total
        float(model[0])  # waits for the card
        ends.append(time.perf_counter())
    vector_to_parameters(model, net.parameters())
    task.print_report(
        "plain PyTorch loop on a GPU",
        packages=("torch", "numpy"),
        settings={
            "clients": asked.clients,
            "rounds": asked.rounds,
            "local_epochs": asked.epochs,
            "device": asked.device,
        },
        start_seconds=start_seconds,
        round_seconds=[b - a for a, b in pairwise(ends)],
        final_loss=task.first_images_loss(net.cpu(), task.load_images(folder)),
    )


if __name__ == "__main__":
    main()
