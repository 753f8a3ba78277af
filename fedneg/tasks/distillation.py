"""Knowledge distillation: a student learns to answer as a teacher does.

Hinton, Vinyals and Dean, arXiv:1503.02531, section 2: soft targets at a temperature,
the loss times its square, so that gradients keep their size.
"""

import torch
from torch import nn
from torch.nn import functional

TEACHER_BATCH = 1000


def distil(
    student: nn.Module,
    teacher: nn.Module,
    rows: torch.Tensor,
    *,
    temperature: float,
    epochs: int,
    learning_rate: float,
    momentum: float,
    batch_size: int,
    generator: torch.Generator,
) -> float:
    """Train `student` in place; return the mean loss of its last epoch.

    Parameters
    ----------
    student, teacher : nn.Module
        Take rows of float32 input and give one logit per class.
    rows : float tensor, shape (N, inputs)
        What both are asked about; no label is known or needed.
    temperature : float
        T; the loss of an example is T^2 KL(softmax(teacher / T), softmax(student / T)),
        in nats.
    epochs, learning_rate, momentum, batch_size
        Of SGD, as of `fedneg.tasks.training.train_epochs`.
    generator : torch.Generator
        The order of the rows.
    """
    # Sums must not depend on how many threads a machine has to spare.
    torch.set_num_threads(1)
    with torch.no_grad():
        logits = [teacher(part) for part in torch.split(rows, TEACHER_BATCH)]
        wanted = functional.softmax(torch.cat(logits) / temperature, dim=1)
    optimiser = torch.optim.SGD(
        student.parameters(), lr=learning_rate, momentum=momentum
    )
    total = 0.0
    for _ in range(epochs):
        total = 0.0
        order = torch.randperm(len(rows), generator=generator)
        for batch in torch.split(order, batch_size):
            optimiser.zero_grad()
            found = functional.log_softmax(student(rows[batch]) / temperature, dim=1)
            loss = functional.kl_div(found, wanted[batch], reduction="batchmean")
            loss = loss * temperature**2
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            total += float(loss.detach()) * len(batch)
    return total / len(rows)
