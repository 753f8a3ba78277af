"""What the server asks a served node about a model, and how it travels."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from flwr.app import ConfigRecord

from fedneg.core.checks import build, choice, number, whole
from fedneg.core.errors import FedNegError
from fedneg.evaluation.client_answers import CHECK_EVERY, RELEARN_CAP
from fedneg.tasks.task import Order

# The record with the question.
CONFIG = "config"
ANSWERS, MEASURE = "answers", "measure"


@dataclass(frozen=True)
class Question:
    """A question about a model.

    Attributes
    ----------
    asks : str
        ``"answers"`` for the verdict, or to ``"measure"`` parts of the data.
    client_id : int
        As the server calls who is asked.
    clients : int
        How many there are, where the node does not know.
    order : Order
        Its seed keys what is drawn; the rest is how a client trains, for relearning.
    parts : tuple of str
        What to measure.
    relearn_target : float or None
        The original's `check_loss`; None: nothing is relearned.
    relearn_cap, check_every : int
        As `fedneg.evaluation.relearn.relearn_time`.
    """

    asks: str
    client_id: int
    clients: int
    order: Order
    parts: tuple[str, ...] = ("test",)
    relearn_target: float | None = None
    relearn_cap: int = RELEARN_CAP
    check_every: int = CHECK_EVERY

    def __post_init__(self) -> None:
        choice("asks", self.asks, (ANSWERS, MEASURE))
        whole("client_id", self.client_id, minimum=0)
        whole("clients", self.clients, minimum=1)
        check_order(self.order)
        if self.relearn_target is not None:
            number("relearn_target", self.relearn_target, minimum=0)
        whole("relearn_cap", self.relearn_cap, minimum=1)
        whole("check_every", self.check_every, minimum=1)

    def to_record(self) -> ConfigRecord:
        """Return it as it travels: one line of JSON."""
        order = replace(self.order, options=dict(self.order.options))
        values = asdict(replace(self, order=order))
        text = json.dumps(values, default=_refuse, sort_keys=True)
        return ConfigRecord({"question": text})

    @classmethod
    def of(cls, record: ConfigRecord | None) -> Self:
        """Read what `to_record` wrote; raises FedNegError on anything else."""
        try:
            values = json.loads(str((record or ConfigRecord())["question"]))
            order, parts = values["order"], values["parts"]
            if not isinstance(order, Mapping) or not isinstance(parts, list):
                raise TypeError
        except (KeyError, TypeError, ValueError):
            raise FedNegError(
                "the message has no question; is it of another version?"
            ) from None
        more: dict[str, Any] = {
            "order": build(Order, "order", order),
            "parts": tuple(map(str, parts)),
        }
        return build(cls, "question", values | more)


def check_order(order: Order) -> None:
    """Raise FedNegError unless an order is one that a client can train by."""
    whole("order.epochs", order.epochs, minimum=1)
    number("order.learning_rate", order.learning_rate, above=0)
    whole("order.batch_size", order.batch_size, minimum=1)
    whole("order.seed", order.seed, minimum=0)
    choice("order.device", order.device, ("auto", "cpu", "cuda"))


def _refuse(value: object) -> Any:
    raise FedNegError(f"order.options must be what JSON holds, got {value!r}")
