"""SGD on a dense ReLU network without autograd: matrix products and little else.

For the paper's network on one core, autograd and the optimiser cost as much as half of
the arithmetic. Here the gradients are written out, every product goes into a buffer
that is made once, and momentum is kept by the product itself: BLAS computes
``momentum * buffer + dz' h`` in one call, so that no gradient of a weight is ever
stored. All parameters lie in one vector, and a step ends with one addition to it.

The result equals torch's autograd and SGD up to rounding (tests/tasks/test_dense.py).
"""

from typing import Self

import torch
from torch import nn

threshold_backward = torch.ops.aten.threshold_backward.grad_input


def dense_layers(model: nn.Module) -> list[nn.Linear] | None:
    """Return the layers if `model` is Linear, ReLU, Linear, ..., Linear.

    None for any other model: a subclass, a hook, a layer without bias, one used twice,
    or a frozen parameter.
    """
    if type(model) is not nn.Sequential or len(model) % 2 == 0:
        return None
    layers = list(model)[::2]
    kinds = [nn.Linear if k % 2 == 0 else nn.ReLU for k in range(len(model))]
    if any(type(m) is not kind for m, kind in zip(model, kinds, strict=True)):
        return None
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    if any(m._forward_hooks or m._forward_pre_hooks for m in (model, *model)) or any(
        m._backward_hooks or m._backward_pre_hooks for m in (model, *model)
    ):
        return None
    parameters = [p for layer in linear for p in (layer.weight, layer.bias)]
    if any(p is None or not p.requires_grad for p in parameters):
        return None
    if len({p.data_ptr() for p in parameters}) < len(parameters):
        return None
    return linear


def _one_vector(parameters: list[torch.Tensor]) -> torch.Tensor:
    """Return all parameters as one vector: their own memory if they lie in a row."""
    first, size = parameters[0], sum(p.numel() for p in parameters)
    start = first.data_ptr()
    for parameter in parameters:
        if parameter.data_ptr() != start or not parameter.is_contiguous():
            return torch.cat([p.detach().reshape(-1) for p in parameters])
        start += parameter.numel() * parameter.element_size()
    storage = first.detach().untyped_storage()
    if storage.nbytes() < (first.storage_offset() + size) * first.element_size():
        return torch.cat([p.detach().reshape(-1) for p in parameters])
    return first.detach().as_strided((size,), (1,), first.storage_offset())


class DenseTrainer:
    """The network's parameters, their momentum, and the buffers of a step.

    While it lives, the model's parameters are views of one vector, so the model itself
    is up to date after every step.

    Parameters
    ----------
    layers : list of nn.Linear
        From `dense_layers`; widths match.
    learning_rate, momentum : float
        As of `torch.optim.SGD`, started with zero momentum.
    batch_size : int
        The largest batch that `step` will see.
    """

    def __init__(
        self,
        layers: list[nn.Linear],
        *,
        learning_rate: float,
        momentum: float,
        batch_size: int,
    ) -> None:
        self.learning_rate, self.momentum = learning_rate, momentum
        parameters = [p for layer in layers for p in (layer.weight, layer.bias)]
        self._flat = _one_vector(parameters)
        # Not read before the first step has written it.
        self._buffer = torch.empty_like(self._flat)
        self._steps = 0
        views, moving = [], []
        start = 0
        for parameter in parameters:
            stop, shape = start + parameter.numel(), parameter.shape
            views.append(self._flat[start:stop].view(shape))
            moving.append(self._buffer[start:stop].view(shape))
            parameter.data = views[-1]
            start = stop
        self._weights, self._biases = views[::2], views[1::2]
        self._transposed = [weight.t() for weight in self._weights]
        self._weight_buffers, self._bias_buffers = moving[::2], moving[1::2]
        self._sizes = [layers[0].in_features, *(m.out_features for m in layers)]
        self._resize(batch_size)

    @classmethod
    def of(
        cls,
        model: nn.Module,
        *,
        learning_rate: float,
        momentum: float,
        batch_size: int,
    ) -> Self | None:
        """Return a trainer for `model`, or None if it is not of this kind.

        Nor is one that lies elsewhere than on the CPU: a step reads its loss at once,
        for which a GPU would have to wait (`fedneg.tasks.cohort` does not).
        """
        layers = dense_layers(model)
        if layers is None or layers[0].weight.device.type != "cpu":
            return None
        return cls(
            layers,
            learning_rate=learning_rate,
            momentum=momentum,
            batch_size=batch_size,
        )

    def _resize(self, batch_size: int) -> None:
        """Make the buffers of one batch: activations, and gradients by them."""
        self._batch_size = batch_size
        new = self._flat.new_empty
        self._out = [new(batch_size, size) for size in self._sizes[1:]]
        self._grad = [new(batch_size, size) for size in self._sizes[1:-1]]
        self._scores = new(batch_size, self._sizes[-1])
        self._minus_one = new(batch_size, 1).fill_(-1)

    def step(self, x: torch.Tensor, y: torch.Tensor) -> float:
        """Take one step on the mean cross-entropy; return its sum before the step.

        Parameters
        ----------
        x : float tensor, shape (N, inputs)
        y : int64 tensor, shape (N,)
            Classes.
        """
        with torch.no_grad():
            if len(x) != self._batch_size:
                self._resize(len(x))
            out, last = self._out, len(self._out) - 1
            h = x
            for k, weight in enumerate(self._transposed):
                h = torch.addmm(self._biases[k], h, weight, out=out[k])
                if k < last:
                    h.relu_()
            scores = torch.log_softmax(h, 1, out=self._scores)
            column = y.unsqueeze(1)
            loss = -float(scores.gather(1, column).sum())
            # The gradient of the mean loss is (softmax - one-hot) / N.
            dz = scores.exp_().scatter_add_(1, column, self._minus_one).div_(len(x))
            momentum = self.momentum if self._steps else 0.0
            for k in range(last, -1, -1):
                below = out[k - 1] if k else x
                grad = dz
                if k:  # before this layer's weights change, at the very end
                    dz = torch.mm(grad, self._weights[k], out=self._grad[k - 1])
                    threshold_backward(dz, below, 0, grad_input=dz)
                # With a beta of 0 BLAS does not read what it writes to.
                self._weight_buffers[k].addmm_(grad.t(), below, beta=momentum)
                if momentum:
                    self._bias_buffers[k].mul_(momentum).add_(grad.sum(0))
                else:
                    torch.sum(grad, 0, out=self._bias_buffers[k])
            self._flat.add_(self._buffer, alpha=-self.learning_rate)
            self._steps += 1
            return loss
