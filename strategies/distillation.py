"""Subtract, then learn again from the old model, on images that belong to nobody.

Wu, Zhu and Mitra, 'Federated Unlearning with Knowledge Distillation', arXiv:2201.09441,
section 3: the server subtracts the accumulated updates of the clients that leave (as
strategies/negative_gradient.py with ``form: update``), which damages the model, and
repairs it by distillation (fedneg/tasks/distillation.py): the student is the damaged
model, the teacher the old one, and both are asked about unlabelled images that the
server holds. The teacher knows a backdoor, but on images without its trigger it does
not tell.

Which images is all the difference:

* ``noise``: Gaussian, independent pixels with the mean and the deviation of the model's
  input. They need nothing, and they do tell: some have a bright corner. On the 8x8
  digits (4 clients, seed 0) that brings the backdoor back almost whole, attack success
  .97 where it was .99; with every corner kept dark it is .03;
* ``test``: the server's test images, without their labels. What is measured on them
  afterwards is *transductive*: the student has seen the questions, and has been told
  the old model's answers. Not to be compared with other methods' accuracy.

The old model was taught by whoever leaves, and teaches the new one: what it learned
from them about ordinary images comes back.

Differs from the paper: no hard labels, no weight on them; the epochs and the rate are
ours; the rounds of FedAvg after it are the run's recovery rounds.

Nobody has to be online. The server stores the ledger, one row of d numbers per client,
and the proxy images.
"""

from dataclasses import dataclass

import torch
from torch import nn

from fedneg.core.checks import choice, number, whole
from fedneg.core.errors import FedNegError
from fedneg.core.parameters import Vector, add, flatten, unflatten
from fedneg.core.seeding import torch_generator
from fedneg.strategies.base import LedgerFedAvg
from fedneg.strategies.method import About, Needs
from fedneg.tasks import calls
from fedneg.tasks.distillation import distil
from fedneg.tasks.model import get_parameters, set_parameters


class Distillation(LedgerFedAvg):
    """FedAvg whose unlearn round subtracts updates and distils the old model."""

    about = About(place=5)

    @dataclass(frozen=True)
    class Options:
        """The images (`proxy`; so many of noise), and SGD on the student."""

        proxy: str = "noise"
        images: int = 5000
        temperature: float = 3.0
        epochs: int = 10
        learning_rate: float = 0.01
        momentum: float = 0.9
        batch_size: int = 32

        def __post_init__(self) -> None:
            choice("strategy.proxy", self.proxy, ("noise", "test"))
            whole("strategy.images", self.images, minimum=1)
            number("strategy.temperature", self.temperature, above=0)
            whole("strategy.epochs", self.epochs, minimum=1)
            number("strategy.learning_rate", self.learning_rate, above=0)
            number("strategy.momentum", self.momentum, minimum=0, below=1)
            whole("strategy.batch_size", self.batch_size, minimum=1)

    def needs(self) -> Needs:
        """Return all contributions, and which images."""
        return Needs(
            proxy=self.options.proxy, server_bytes=self.ledger.contributions.nbytes
        )

    def task_needs(self) -> tuple[str, ...]:
        """Return what turns data into questions, and says that answers are classes."""
        return "inputs", "outputs", "test"

    def rectify(self, before: Vector, client_ids: tuple[int, ...]) -> Vector:
        """Return the student's parameters."""
        options: Distillation.Options = self.options
        contribution = self.ledger.contribution(client_ids)
        if not contribution.any():
            self.method_report = {"form": "nothing to subtract", "proxy": options.proxy}
            return before  # the very bytes: nothing to repair
        student = self.network_with(add(before, [(-1.0, contribution)]))
        rows = self.proxy_inputs()
        self._check_logits(student, rows)
        loss = distil(
            student,
            # With the statistics of all whom it was trained by.
            self.network_with(before),
            rows,
            temperature=options.temperature,
            epochs=options.epochs,
            learning_rate=options.learning_rate,
            momentum=options.momentum,
            batch_size=options.batch_size,
            generator=torch_generator(self.config.seed, "distil"),
        )
        self.method_report = {
            "form": "updates subtracted, then distilled from the old model",
            "proxy": options.proxy,
            "proxy_images": len(rows),
            "transductive": options.proxy == "test",
            "last_loss": loss,
            "remains": "what the old model teaches of it on the proxy images",
        }
        return flatten(get_parameters(student))[: self.layout.size]

    def network_with(self, parameters: Vector) -> nn.Module:
        """Return a network with these parameters."""
        model = self.prototype.build()
        whole = self.ledger.whole(parameters)
        set_parameters(model, unflatten(whole, self.layout.shapes))
        # Statistics are the clients' to measure, and not of noise.
        return model.eval()

    def _check_logits(self, model: nn.Module, rows: torch.Tensor) -> None:
        """Raise FedNegError if the task's model gives no logits of classes."""
        with torch.no_grad():
            found = model(rows[:1])
        shape = tuple(found.shape) if isinstance(found, torch.Tensor) else None
        if shape is None or len(shape) != 2 or shape[1] < 2:
            raise FedNegError(
                "strategy=distillation needs a model that gives logits of shape "
                f"(N, C), C at least 2; that of task {self.prototype.task.name} gives "
                f"{shape or type(found).__name__}"
            )

    def proxy_inputs(self) -> torch.Tensor:
        """Return the proxy inputs, as the model takes them."""
        options: Distillation.Options = self.options
        task = self.prototype.task
        held = calls.inputs(task, calls.test_of(task))
        if options.proxy == "test":
            return held
        if not held.is_floating_point():
            raise FedNegError(
                "strategy.proxy=noise needs a task with float inputs, got "
                f"{held.dtype} of task {task.name}; say strategy.proxy=test"
            )
        # Input is scaled to mean 0 and deviation 1: so is this.
        generator = torch_generator(self.config.seed, "proxy")
        return torch.randn((options.images, *held.shape[1:]), generator=generator)
