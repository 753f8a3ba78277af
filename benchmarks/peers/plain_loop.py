"""A peer: no framework, a plain PyTorch loop on float tensors in memory.

FedAvg as a page of PyTorch: autograd, ``SGD(fused=True)``, one thread a process, the
clients of a round dealt out to the processes, and one average per round in memory that
they share. Five clients on two processes are three and two: a round lasts as long as
three client epochs. ``--processes 1 --threads 2`` is the other way to use two cores.

Nothing is checked, evaluated, kept or reported: it is what the arithmetic and a process
of Python with torch cost.
"""

import argparse
import multiprocessing
import time
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.shared_memory import SharedMemory
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import TYPE_CHECKING

# torch is imported by each process for itself, after the others have been started.
if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Job:
    """What every process knows; `memory` names the parameters that they share."""

    folder: str
    clients: int
    rounds: int
    processes: int
    threads: int
    memory: str
    num_parameters: int


def num_parameters(layers: tuple[int, ...]) -> int:
    """Return d of a dense network with biases."""
    return sum((a + 1) * b for a, b in pairwise(layers))


def train(
    net: "nn.Module", x: "torch.Tensor", y: "torch.Tensor", *, epochs: int = 1
) -> None:
    """Train with an optimiser of its own, each epoch in a new order."""
    import task
    import torch

    optimiser = torch.optim.SGD(
        net.parameters(), lr=task.LEARNING_RATE, momentum=task.MOMENTUM, fused=True
    )
    for _ in range(epochs):
        order = torch.randperm(len(y), device=y.device)
        for batch in torch.split(order, task.BATCH_SIZE):
            optimiser.zero_grad()
            loss = torch.nn.functional.cross_entropy(net(x[batch]), y[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()


def work(rank: int, job: Job, barrier: Barrier) -> None:
    """Train every `processes`-th client in every round; rank 0 averages and reports."""
    import numpy as np
    import task
    import torch
    from torch.nn.utils import parameters_to_vector, vector_to_parameters

    torch.set_num_threads(job.threads)
    torch.manual_seed(rank)
    mine = {
        k: task.client_tensors(job.folder, k)
        for k in range(rank, job.clients, job.processes)
    }
    examples = int((task.load_images(job.folder).client_of >= 0).sum())
    memory = SharedMemory(job.memory)
    shape = (1 + job.processes, job.num_parameters)
    shared = torch.from_numpy(np.ndarray(shape, np.float32, memory.buf))
    torch.manual_seed(0)
    net = task.build_net()
    if rank == 0:
        shared[0] = parameters_to_vector(net.parameters()).detach()
    barrier.wait()
    start_seconds, ends = task.seconds_since_process_start(), [time.perf_counter()]
    for _ in range(job.rounds):
        total = torch.zeros(job.num_parameters)
        for x, y in mine.values():
            vector_to_parameters(shared[0].clone(), net.parameters())
            train(net, x, y)
            local = parameters_to_vector(net.parameters()).detach()
            total.add_(local, alpha=len(y) / examples)
        shared[1 + rank] = total
        barrier.wait()
        if rank == 0:
            shared[0] = shared[1:].sum(0)
        barrier.wait()
        ends.append(time.perf_counter())
    if rank == 0:
        vector_to_parameters(shared[0].clone(), net.parameters())
        task.print_report(
            "plain PyTorch loop",
            packages=("torch", "numpy"),
            settings={
                "clients": job.clients,
                "rounds": job.rounds,
                "loading": "tensors",
                "processes": job.processes,
                "threads": job.threads,
            },
            start_seconds=start_seconds,
            round_seconds=[b - a for a, b in pairwise(ends)],
            final_loss=task.first_images_loss(net, task.load_images(job.folder)),
        )


def main() -> None:
    """Start the other processes, work, and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    size = num_parameters((784, 512, 256, 128, 10))
    memory = SharedMemory(create=True, size=4 * size * (1 + arguments.processes))
    job = Job(
        str(arguments.folder.resolve()),
        arguments.clients,
        arguments.rounds,
        arguments.processes,
        arguments.threads,
        memory.name,
        size,
    )
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(job.processes)
    others = [
        context.Process(target=work, args=(rank, job, barrier))
        for rank in range(1, job.processes)
    ]
    try:
        for process in others:
            process.start()
        work(0, job, barrier)
        for process in others:
            process.join()
    finally:
        memory.unlink()


if __name__ == "__main__":
    main()
