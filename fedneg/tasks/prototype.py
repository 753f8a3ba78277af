"""A task's model before anybody trains it: how one is made, and what of it travels."""

from dataclasses import dataclass
from functools import cached_property

from torch import nn

from fedneg.core.errors import FedNegError
from fedneg.core.layout import Layout
from fedneg.core.parameters import NDArrays
from fedneg.tasks.calls import make_model
from fedneg.tasks.layout import layout_of, read_model
from fedneg.tasks.task import Task


@dataclass(frozen=True)
class Prototype:
    """Makes a task's models.

    Attributes
    ----------
    task : Task
    """

    task: Task

    def build(self) -> nn.Module:
        """Return a model with arbitrary parameters."""
        return make_model(self.task, seed=0)

    @cached_property
    def layout(self) -> Layout:
        """What of a model travels, and how it is put together."""
        return self._layout_of(self.build())

    def initial(self, *, seed: int, draw: int = 0) -> NDArrays:
        """Return the arrays before round 1, from the stream (seed, "init", draw).

        `draw` 1, 2, .. gives others, which no round of training ever saw.

        Raises
        ------
        FedNegError
            If the task makes another model each time, or always the same one.
        """
        model = make_model(self.task, seed=seed, draw=draw)
        if self._layout_of(model) != self.layout:
            raise FedNegError(
                f"task {self.task.name}, model: must make the same layers each time, "
                "and does not"
            )
        # A parameter that two models share is trained for both: a model that never saw
        # a client would begin with what the client taught. Frozen ones may be shared.
        ours = {id(p) for p in model.parameters() if p.requires_grad}
        for name, parameter in self.build().named_parameters():
            if id(parameter) in ours:
                raise FedNegError(
                    f"task {self.task.name}, model: must make new parameters each "
                    f"time, and {name} is always the same one"
                )
        return read_model(self.layout, model)

    def _layout_of(self, model: nn.Module) -> Layout:
        try:
            return layout_of(model)
        except FedNegError as error:
            raise FedNegError(f"task {self.task.name}, model: {error}") from None
