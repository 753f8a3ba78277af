"""How to forget, where it is not a plain subtraction: what a strategy asks of a method.

`chosen` finds it. The app's methods come with torch and Hydra, which a subtraction does
not need: their module is imported when one of them is asked for, and not before.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedneg.core.layout import Layout
from fedneg.core.parameters import Vector
from fedneg.ledger.ledger import Ledger

# The method that needs nothing but the ledger.
SUBTRACT = "negative_gradient"


class Method(Protocol):
    """A method, on a ledger of which it sees rows; clients go by their places there.

    Attributes
    ----------
    name, options
        As they were given.
    rounds : int
        How many rounds of the last forgetting are still to come, in which clients take
        part: 0 of most methods.
    report : mapping
        What it said of the last forgetting.
    keeps_local_models : bool
        Whether the ledger must have each client's last local model.
    """

    name: str
    options: dict[str, Any]
    rounds: int
    report: dict[str, Any]
    keeps_local_models: bool

    @property
    def starts_over(self) -> bool:
        """Whether the last forgetting began the ledger anew."""

    def parts(self) -> NDArray[np.intp] | None:
        """Return the part of the model that each parameter is in, where it matters."""

    def remains(self, row: int) -> str:
        """Return what the last forgetting left of a row, for a receipt."""

    def take_out(
        self,
        ledger: Ledger,
        layout: Layout,
        before: Vector,
        rows: tuple[int, ...],
        *,
        forgotten: set[int],
    ) -> Vector:
        """Return the parameters after forgetting; the ledger stands for them then.

        Parameters
        ----------
        ledger : Ledger
        layout : Layout
            Of the model.
        before : Vector, shape (d,)
        rows : tuple of int
            Of the clients to forget.
        forgotten : set of int
            The rows of those who were forgotten before.

        Raises
        ------
        FedNegError
            If the ledger lacks what the method needs; nothing has been changed.
        """

    def begin_round(self, before: Vector) -> None:
        """Say that a round begins, and which parameters the clients are sent."""

    def end_round(self) -> None:
        """Say that it is over, whatever came of it."""

    @property
    def asked(self) -> frozenset[int] | None:
        """The rows of those who alone may take part in this round; None: anybody."""

    def adjusted(self, row: int, local: Vector) -> Vector | None:
        """Return what counts as a client's parameters in this round; None: its own."""


def chosen(name: str, options: Mapping[str, Any] | None = None) -> Method | None:
    """Return a method; None for the plain subtraction.

    Raises
    ------
    FedNegError
        If there is no such method or option, or it needs what only the app has.
    """
    if name == SUBTRACT and not options:
        return None
    from fedneg.forgettable.app_method import AppMethod

    return AppMethod(name, options)
