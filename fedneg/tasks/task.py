"""The task: what a federation trains, written by whoever owns it.

A task is a handful of functions and no base class. Nothing else in fedneg knows what a
model or an example looks like: the server holds arrays, and whatever is measured of
them comes from the functions here. fedneg's own images are one task like any other
(`fedneg.tasks.images`).

References
----------
The shape follows FedJAX, Ro, Suresh and Wu, arXiv:2108.02117, whose ``Model`` is a
named tuple of functions too.
"""

from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedneg.core.data_settings import AttackSettings
from fedneg.core.errors import FedNegError
from fedneg.core.texts import check_text


@dataclass(frozen=True)
class ClientRef:
    """Which client's data are meant.

    Attributes
    ----------
    client_id : int
        0..``clients`` - 1.
    clients : int
        K, of the whole federation.
    node_config : mapping
        What the client's node was started with; empty in a simulation.
    """

    client_id: int
    clients: int
    node_config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Split:
    """One client's data in parts; each is whatever the task's functions take.

    Attributes
    ----------
    train : object with len()
        What the client trains on.
    unseen : object with len()
        Examples like those, of the same client, that it never trains on: membership
        is judged by the difference.
    test : object with len(), optional
        What the client measures models on; by default ``unseen``.
    more : mapping of str to object with len()
        Further parts that models are measured on, by their names; tables have room for
        ``"val"``.
    counts : mapping of str to int
        What else is told of the client's data, by the names that tables have for it.
    """

    train: Sized
    unseen: Sized
    test: Sized | None = None
    more: Mapping[str, Sized] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def tested(self) -> Sized:
        """What the client measures models on."""
        return self.unseen if self.test is None else self.test

    @property
    def measured(self) -> dict[str, Sized]:
        """Every part that models are measured on, by its name."""
        return {"train": self.train, **self.more, "test": self.tested}


@dataclass(frozen=True)
class Order:
    """What the server asks of one training.

    Attributes
    ----------
    epochs : int
        Passes over the data; at least 1.
    learning_rate : float
        Greater than 0.
    batch_size : int
        At least 1.
    seed : int
        Non-negative, below 2^63: of (seed, purpose, round, client id), so that a
        training that draws from it, or from a global generator of torch, NumPy or
        Python, which are seeded by it and put back afterwards, can be repeated.
    device : str
        ``"cpu"`` or ``"cuda"``; the model is there already.
    options : mapping
        The values of ``task_options``, and ``momentum`` of the client's optimiser.
    max_steps : int, optional
        End after so many batches, wherever in an epoch that is.
    """

    epochs: int
    learning_rate: float
    batch_size: int
    seed: int
    device: str
    options: Mapping[str, Any] = field(default_factory=dict)
    max_steps: int | None = None


# Of a name: it stands in headings, legends and columns.
MAX_NAME = 40
# What else tables have of a round, or after the name of a part.
COLUMNS = (
    *("server_round", "phase", "loss", "seconds", "bytes_up", "bytes_down"),
    *("clients", "failures", "failed"),
)
Numbers = NDArray[np.floating] | torch.Tensor


@dataclass(frozen=True)
class Extras:
    """What a task can do beyond what it must; everything works without these.

    Attributes
    ----------
    measure : (model, data) -> (quality, mean loss), optional
        Both in one pass, which takes half the time.
    scores : (model, data) -> float array, shape (N,), optional
        log(p / (1 - p)) of each example, for whoever knows it better than from
        p = exp(-loss).
    take : (data, int64 array of places) -> data, optional
        Those examples, in that order. Without it a method that trains batch by batch
        takes all examples as one batch.
    probe : (data, AttackSettings) -> (data, data or None), optional
        What an attacker's success is measured on, labelled as the attacker hopes, and
        the same without its mark. Without it: ``poison`` of all that the server holds.
    canaries : (AttackSettings, numpy Generator) -> (data, data), optional
        Examples that an attacker adds to its own, and as many held out that nothing
        but training tells from them.
    poisoned : (count, AttackSettings, numpy Generator) -> int64 array, optional
        The places of the examples that ``poison`` changes or adds, of so many, with the
        same draws; for ``forget_samples={4: poisoned}``.
    digest : () -> str, optional
        Of all data and of whatever else another training would not be the same for.
        Without it that is what an untrained model's losses are.
    facts : () -> mapping, optional
        What results.json says of the data.
    """

    measure: Callable[[Any, Any], tuple[float, float]] | None = None
    scores: Callable[[Any, Any], Numbers] | None = None
    take: Callable[[Any, NDArray[np.int64]], Sized] | None = None
    probe: Callable[[Any, AttackSettings], tuple[Sized, Sized | None]] | None = None
    canaries: (
        Callable[[AttackSettings, np.random.Generator], tuple[Sized, Sized]] | None
    ) = None
    poisoned: (
        Callable[[int, AttackSettings, np.random.Generator], NDArray[np.int64]] | None
    ) = None
    digest: Callable[[], str] | None = None
    facts: Callable[[], Mapping[str, Any]] | None = None


@dataclass(frozen=True)
class Task:
    """What a federation trains: functions of a model and of data.

    Attributes
    ----------
    name : str
        For people; one line.
    model : () -> nn.Module
        Makes the model. Called with the global generators seeded from the run's seed,
        so that each seed gives other initial parameters.
    data : (ClientRef) -> Split
        May be called often, and gives the same each time.
    train : (model, data, Order) -> mapping of str to float
        Trains the model in place on ``split.train``; what it returns are metrics.
        ``"steps"`` among them counts the batches: without it relearning counts epochs.
    losses : (model, data) -> float array, shape (N,), at least 0
        One per example, the model in evaluation mode, in the order of the data, which
        is always the same. May be left out where ``loss`` is given.
    loss : (model, data) -> float tensor, shape (N,), differentiable, optional
    test : () -> data, optional
        What the server holds. Without it models are measured on what the clients of a
        simulation test on; a federation of real clients needs it.
    quality : (model, data) -> float in [0, 1], optional
        Higher is better; NaN of a model that diverged counts as 0. Without it,
        exp(-mean loss), and that is its name.
    quality_name : str
        What people read for it; at most 40 characters, as `name`.
    outputs : (model, data) -> float array of probabilities, shape (N, C), optional
    inputs : (data) -> tensor, shape (N, ...), optional
        What the model takes when it is called.
    poison : (data, AttackSettings, numpy Generator) -> data, optional
        What an attacker trains on in place of its data.
    deterministic : bool
        Whether the same training gives the same bytes. Only then is one kept, under a
        digest of the source of the task's module and of what that imports of its own
        package and of the folder where the command is typed, and of the data.
    extras : Extras

    Raises
    ------
    FedNegError
        If a field is none of these, naming task and field.
    """

    name: str
    model: Callable[[], nn.Module]
    # Functions of a model say by Any that they may name its class.
    data: Callable[[ClientRef], Split]
    train: Callable[[Any, Any, Order], Mapping[str, float]]
    losses: Callable[[Any, Any], Numbers] | None = None
    loss: Callable[[Any, Any], torch.Tensor] | None = None
    test: Callable[[], Sized] | None = None
    quality: Callable[[Any, Any], float | torch.Tensor] | None = None
    quality_name: str = "accuracy"
    outputs: Callable[[Any, Any], Numbers] | None = None
    inputs: Callable[[Any], torch.Tensor] | None = None
    poison: Callable[[Any, AttackSettings, np.random.Generator], Any] | None = None
    deterministic: bool = False
    extras: Extras = Extras()

    def __post_init__(self) -> None:
        for name in ("name", "quality_name"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise FedNegError(f"a task's {name} must be a text, got {value!r}")
            check_text(f"a task's {name}", value, most=MAX_NAME)
        if self.quality_name in COLUMNS:
            raise FedNegError(
                f"a task's quality_name must be no other column's of the tables, got "
                f"{self.quality_name}"
            )
        for name in ("model", "data", "train"):
            if not callable(getattr(self, name)):
                raise FedNegError(
                    f"task {self.name}: {name} must be a function, "
                    f"got {getattr(self, name)!r}"
                )
        for name in OPTIONAL:
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise FedNegError(
                    f"task {self.name}: {name} must be a function or None, "
                    f"got {value!r}"
                )
        if self.losses is None and self.loss is None:
            raise FedNegError(
                f"task {self.name} needs losses (or loss): per-example losses carry "
                "all that is measured of forgetting"
            )
        if not isinstance(self.deterministic, bool):
            raise FedNegError(
                f"task {self.name}: deterministic must be true or false, "
                f"got {self.deterministic!r}"
            )
        if not isinstance(self.extras, Extras):
            raise FedNegError(
                f"task {self.name}: extras must be an Extras, got {self.extras!r}"
            )
        for name in (f.name for f in fields(Extras)):
            value = getattr(self.extras, name)
            if value is not None and not callable(value):
                raise FedNegError(
                    f"task {self.name}: extras.{name} must be a function or None, "
                    f"got {value!r}"
                )

    @property
    def shown_quality(self) -> str:
        """What people read for the quality of a model."""
        return "exp(-loss)" if self.quality is None else self.quality_name

    def require(self, what: str, *, of: str) -> None:
        """Raise FedNegError, naming both, if `of` needs a field that is not there.

        Parameters
        ----------
        what : str
            The field, of the task or of its extras.
        of : str
            Who needs it, e.g. ``"strategy=gradient_ascent"``.
        """
        if (
            getattr(self, what, None) is None
            and getattr(self.extras, what, None) is None
        ):
            raise FedNegError(
                f"{of} needs a task with {what}, and task {self.name} has none"
            )


OPTIONAL = tuple(
    f.name
    for f in fields(Task)
    if f.default is None and f.name not in ("name", "quality_name")
)
