"""What is trained: a task by its name, and the network of the built-in one.

Part of the configuration (`fedneg.core.settings`), checked when made.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from fedneg.core.checks import choice, whole
from fedneg.core.errors import FedNegError
from fedneg.core.named import is_named

# The task of `data` and `model`, where none is named.
BUILT_IN = "images"


def check_task(task: object, options: object) -> None:
    """Raise FedNegError unless these can be `task` and `task_options`."""
    if task is not None and not is_named(task):
        raise FedNegError(
            f"task must be null, {BUILT_IN} or of the form module:name, got {task!r}"
        )
    if not isinstance(options, Mapping):
        raise FedNegError(f"task_options must be values by name, got {options!r}")
    if options and task is None:
        name = next(iter(options))
        raise FedNegError(
            f"task_options are for a task of your own, got task_options.{name}="
            f"{options[name]} with task=null"
        )
    for name, value in options.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise FedNegError(
                f"task_options.{name} must be finite numbers, texts, or lists or "
                f"mappings of these, got {value!r}"
            ) from None


@dataclass(frozen=True)
class ModelSettings:
    """A built-in network (`fedneg.tasks.model.Network`).

    `hidden` are the widths of a dense one between input and output; a data set may
    have its own, which say nothing of others. `channels` are those that the
    convolutions of a convolutional one give: multiples of 4, each halving the image.
    """

    name: str
    hidden: tuple[int, ...] = ()
    channels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        choice("model.name", self.name, ("mlp", "cnn", "cnn_bn"))
        dense = self.name == "mlp"
        for key, value in (("hidden", self.hidden), ("channels", self.channels)):
            if not isinstance(value, list | tuple):
                raise FedNegError(
                    f"model.{key} must be a list of widths, got {value!r}"
                )
            for width in value:
                whole(f"model.{key}", width, minimum=1)
            object.__setattr__(self, key, tuple(value))
        if dense:
            if self.channels:
                raise FedNegError(
                    f"model.channels is for model=cnn and cnn_bn, got {self.channels} "
                    "with model=mlp"
                )
            return
        object.__setattr__(self, "hidden", ())
        if not self.channels or any(width % 4 for width in self.channels):
            raise FedNegError(
                "model.channels must be at least one width, each a multiple of 4, got "
                f"{list(self.channels)}"
            )
