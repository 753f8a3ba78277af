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
from typing import Any

import torch
from torch import nn

from fedneg.core.checks import choice, number, whole
from fedneg.core.errors import FedNegError
from fedneg.core.parameters import Vector, add, flatten, unflatten
from fedneg.core.seeding import torch_generator
from fedneg.data.datasets import Dataset
from fedneg.strategies.base import LedgerFedAvg
from fedneg.strategies.method import About, Needs
from fedneg.tasks.device import as_input
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

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._dataset: Dataset | None = None

    def needs(self) -> Needs:
        """Return all contributions, and which images."""
        return Needs(
            proxy=self.options.proxy, server_bytes=self.ledger.contributions.nbytes
        )

    def use_server_data(self, dataset: Dataset) -> None:
        """Keep what the proxy images may be taken from."""
        self._dataset = dataset

    def rectify(self, before: Vector, client_ids: tuple[int, ...]) -> Vector:
        """Return the student's parameters."""
        options: Distillation.Options = self.options
        contribution = self.ledger.contribution(client_ids)
        if not contribution.any():
            self.method_report = {"form": "nothing to subtract", "proxy": options.proxy}
            return before  # the very bytes: nothing to repair
        student = self.network_with(add(before, [(-1.0, contribution)]))
        rows = self.proxy_inputs()
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
        model = self.network.build()
        whole = self.ledger.whole(parameters)
        set_parameters(model, unflatten(whole, self.layout.shapes))
        # Statistics are the clients' to measure, and not of noise.
        return model.eval()

    def proxy_inputs(self) -> torch.Tensor:
        """Return the proxy images as rows of input."""
        options: Distillation.Options = self.options
        if options.proxy == "noise":
            # Input is scaled to mean 0 and deviation 1: so is this.
            generator = torch_generator(self.config.seed, "proxy")
            shape = (options.images, self.network.input_size)
            return torch.randn(shape, generator=generator)
        if self._dataset is None:
            raise FedNegError("strategy.proxy=test needs a server with test images")
        # A copy: torch takes no read-only array, and the data set is one.
        images = torch.from_numpy(self._dataset.test_images.copy())
        return as_input(images, self._dataset.scaling)
