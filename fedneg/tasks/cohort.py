"""SGD on the dense networks of several clients at once, in batched products.

Small batches leave a GPU waiting for the next kernel. Here the networks of a cohort lie
side by side as the rows of one matrix, and a step trains each of them on a batch of its
own client's with one product for all (`torch.baddbmm`). A step asks the host for
nothing: which images come next, how many they are and the loss of each client are read
and kept on the device. So a GPU can replay one CUDA graph, step after step.

Clients take as many steps as they would alone. A batch that is smaller than the others
is filled up with images of no weight; a client that is done waits, its learning rate
zero, for those with more images.

The result is that of training each client alone, up to rounding
(tests/tasks/test_cohort.py): batched products sum in another order, so the bytes are
not the same.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn

from fedneg.core.settings import ClientSettings
from fedneg.data.kinds import Scaling
from fedneg.tasks.dense import dense_layers, threshold_backward
from fedneg.tasks.device import as_input

# A graph is worth its recording, for which torch empties its caches, when it is
# replayed more often than this.
RECORD_FROM = 100
# Steps before a recording.
WARM_UP = 3
Step = Callable[[], None]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Examples:
    """What one client trains on.

    ``images`` are bytes of shape (N, ...) and ``labels`` int64 of shape (N,), on the
    device that trains. From ``generator`` one permutation is drawn per epoch, as
    `fedneg.tasks.training.train_epochs` does.
    """

    images: torch.Tensor
    labels: torch.Tensor
    generator: torch.Generator


@dataclass(frozen=True)
class Trained:
    """What a cohort ends with: parameters (clients, d), and each one's mean loss, nats.

    The loss is the running mean of the last epoch.
    """

    parameters: torch.Tensor
    losses: list[float]


def train_cohort(
    model: nn.Module,
    start: torch.Tensor,
    examples: Sequence[Examples],
    *,
    scaling: Scaling | None,
    settings: ClientSettings,
) -> Trained:
    """Train a model once for each client, all from the same parameters.

    Parameters
    ----------
    model : nn.Module
        Says what the network is, and is left alone: `dense_layers` knows it.
    start : float tensor, shape (d,)
        The parameters before, in state_dict order, on the device that trains.
    examples : sequence of Examples
        Each client's; at least one client, and each has at least one.
    scaling : Scaling or None
        How pixels become input; None: they are input.
    settings : ClientSettings
        SGD with momentum, started with zero momentum.

    References
    ----------
    McMahan et al., AISTATS 2017, Algorithm 1, ClientUpdate. arXiv:1602.05629
    """
    layers = dense_layers(model)
    assert layers is not None, "a dense ReLU network"
    sizes = [layers[0].in_features, *(layer.out_features for layer in layers)]
    parameters = start.repeat(len(examples), 1)
    cohort = Cohort(sizes, parameters, examples, scaling=scaling, settings=settings)
    is_worth_a_graph = start.is_cuda and cohort.num_steps > RECORD_FROM
    losses = cohort.train(record=recorded if is_worth_a_graph else None)
    return Trained(parameters, losses)


def recorded(step: Step) -> Step:
    """Return the replay of a CUDA graph of a step.

    Parameters
    ----------
    step : function
        Works on the same tensors each time. It is called before and while it is
        recorded, as torch's notes on graphs have it: these calls are none of the
        training.

    Raises
    ------
    RuntimeError
        If CUDA cannot record it.
    """
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


class Cohort:
    """The networks of several clients, trained together.

    Parameters
    ----------
    sizes : sequence of int
        Widths from input to output, of a network as `fedneg.tasks.model.build_mlp`
        makes it.
    parameters : float tensor, shape (clients, d)
        Where each network starts, in state_dict order; trained in place. Its device is
        the one that trains.
    examples : sequence of Examples
        Each client's, on that device; nobody is without.
    scaling : Scaling or None
        How pixels become input; None: they are input.
    settings : ClientSettings
        SGD with momentum, started with zero momentum.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        parameters: torch.Tensor,
        examples: Sequence[Examples],
        *,
        scaling: Scaling | None,
        settings: ClientSettings,
    ) -> None:
        self._scaling, self._settings = scaling, settings
        self._parameters = parameters
        self._buffer = torch.zeros_like(parameters)
        self._weights, self._biases = _layers(parameters, sizes)
        self._weight_buffers, self._bias_buffers = _layers(self._buffer, sizes)
        self._images = torch.cat([e.images.flatten(1) for e in examples])
        self._labels = torch.cat([e.labels for e in examples])
        self._num_examples = [len(e.labels) for e in examples]
        if min(self._num_examples) < 1:
            raise ValueError("each client needs at least 1 example, got 0")
        self._plan(examples)

    def _plan(self, examples: Sequence[Examples]) -> None:
        """Draw which images each client takes in each step: ``_rows`` and ``_counts``.

        Of shapes (steps, clients, batch) and (steps, clients); of a client's row the
        first ``count`` images are its batch, and 0 is the count of who is done.
        """
        clients, device = len(examples), self._parameters.device
        epochs = self._settings.local_epochs
        largest = min(self._settings.batch_size, max(self._num_examples))
        # Of an epoch; all but the last batch are of the settings' size.
        batches = [-(-n // self._settings.batch_size) for n in self._num_examples]
        self._steps = [epochs * b for b in batches]
        rows = torch.zeros(max(self._steps), clients, largest, dtype=torch.int64)
        counts = torch.zeros(max(self._steps), clients)
        first = 0
        for k, (client, b) in enumerate(zip(examples, batches, strict=True)):
            n = self._num_examples[k]
            for epoch in range(epochs):
                order = torch.randperm(n, generator=client.generator)
                filled = torch.zeros(b * largest, dtype=torch.int64)
                filled[:n] = order
                steps = slice(epoch * b, (epoch + 1) * b)
                rows[steps, k] = first + filled.view(b, largest)
                counts[steps, k] = float(largest)
                counts[(epoch + 1) * b - 1, k] = n - (b - 1) * largest
            first += n
        self._rows, self._counts = rows.to(device), counts.to(device)
        self._losses = torch.zeros(counts.shape, dtype=torch.float64, device=device)
        # The number of the next step, on the device, where a graph can count it.
        self._next = torch.zeros(1, dtype=torch.int64, device=device)
        self._places = torch.arange(largest, device=device)

    @property
    def num_steps(self) -> int:
        """How many steps the client with the most images takes."""
        return len(self._rows)

    def train(self, record: Callable[[Step], Step] | None = None) -> list[float]:
        """Train all to the end.

        Parameters
        ----------
        record : function, optional
            Makes of a step one that does the same in less time, as `recorded` does. No
            step that it takes counts; where it raises RuntimeError, steps stay as they
            are.

        Returns
        -------
        list of float
            Each one's mean loss in its last epoch, nats.
        """
        # Sums must not depend on how many threads a machine has to spare.
        torch.set_num_threads(1)
        with torch.no_grad():
            step = self._step if record is None else self._recorded_by(record)
            for _ in range(self.num_steps):
                step()
        epochs = self._settings.local_epochs
        losses = self._losses.cpu()
        return [
            float(losses[steps - steps // epochs : steps, k].sum()) / n
            for k, (steps, n) in enumerate(
                zip(self._steps, self._num_examples, strict=True)
            )
        ]

    def _recorded_by(self, record: Callable[[Step], Step]) -> Step:
        """Return the step as it was recorded, or as it is, with nothing trained yet."""
        before = self._parameters.clone()
        try:
            step = record(self._step)
        except RuntimeError as error:
            log.warning("no CUDA graph of a training step: %s", error)
            step = self._step
        self._parameters.copy_(before)
        self._buffer.zero_()
        self._next.zero_()
        return step

    def _step(self) -> None:
        """Take every client's next step on the mean cross-entropy of its batch."""
        rows = self._rows.index_select(0, self._next)[0]
        count = self._counts.index_select(0, self._next)[0]
        x = as_input(self._images[rows.flatten()], self._scaling)
        x = x.to(self._parameters.dtype).view(*rows.shape, -1)
        column = self._labels[rows].unsqueeze(2)
        real = (self._places < count.unsqueeze(1)).to(x.dtype)
        out = [x]
        for k, (weight, bias) in enumerate(
            zip(self._weights, self._biases, strict=True)
        ):
            h = torch.baddbmm(bias.unsqueeze(1), out[-1], weight.transpose(1, 2))
            out.append(h.relu_() if k < len(self._weights) - 1 else h)
        scores = torch.log_softmax(out.pop(), 2)
        loss = -(scores.gather(2, column).squeeze(2) * real).sum(1)
        self._losses.index_copy_(0, self._next, loss.double().unsqueeze(0))
        # The gradient of the mean loss is (softmax - one-hot) / N, of no image else 0.
        dz = scores.exp_().scatter_add_(2, column, torch.full_like(real, -1)[..., None])
        dz.mul_((real / count.clamp(min=1).unsqueeze(1)).unsqueeze(2))
        momentum = self._settings.momentum
        for k in range(len(self._weights) - 1, -1, -1):
            below, grad = out[k], dz
            if k:  # with the weights of before this step
                dz = torch.bmm(grad, self._weights[k])
                threshold_backward(dz, below, 0, grad_input=dz)
            self._weight_buffers[k].baddbmm_(grad.transpose(1, 2), below, beta=momentum)
            self._bias_buffers[k].mul_(momentum).add_(grad.sum(1))
        going = (count > 0).to(x.dtype).unsqueeze(1)
        self._parameters.addcmul_(
            self._buffer, going, value=-self._settings.learning_rate
        )
        self._next += 1


def _layers(
    matrix: torch.Tensor, sizes: Sequence[int]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return views of rows: weights (clients, out, in), and biases (clients, out)."""
    weights, biases = [], []
    start = 0
    for fan_in, fan_out in pairwise(sizes):
        stop = start + fan_out * fan_in
        weights.append(matrix[:, start:stop].view(-1, fan_out, fan_in))
        biases.append(matrix[:, stop : stop + fan_out])
        start = stop + fan_out
    return weights, biases
