"""The app's forgetting methods, on the ledger of somebody's own strategy.

A method is what it is in fedneg's own app (strategies/): the same class, with the same
options, checked in the same way. Here it is given a ledger that it did not make, of
which it sees rows, and clients by the place of their row.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedneg.config import load_config
from fedneg.core.errors import FedNegError
from fedneg.core.layout import Layout
from fedneg.core.parameters import Vector
from fedneg.core.settings import methods
from fedneg.ledger.ledger import Ledger
from fedneg.strategies import make_strategy
from fedneg.strategies.base import LedgerFedAvg
from fedneg.strategies.phases import Phase

# What the app's configuration says of a run, and nobody asks here.
REST = ("data=digits", "forget=null", "retrain=none", "reference=false")


class AppMethod:
    """One of the app's methods, by its name: a `fedneg.forgettable.method.Method`.

    Parameters
    ----------
    name : str
        As `strategy=` of the app: of a module in strategies/, of an entry point, or
        ``module:Class``.
    options : mapping, optional
        The method's own.

    Raises
    ------
    FedNegError
        If there is no such method or option, or it needs what only the app has.
    """

    def __init__(self, name: str, options: Mapping[str, Any] | None = None) -> None:
        self.name, self.options = name, dict(options or {})
        self.rounds, self.report = 0, dict[str, Any]()
        made = self._made(clients=1, rounds=1)
        self.keeps_local_models = made.keeps_local_models
        needs = {
            "the leaving clients' part in it": made.needs_leaving_client,
            "updates of whole rounds; take storage=norms": made.keeps_updates,
            "the last rounds' updates": made.keeps_recent,
            "a task": made.task_needs(),
            "a task, whose model it draws anew": made.draws_anew,
        }
        for what, is_needed in needs.items():
            if is_needed:
                raise FedNegError(
                    f"method={name} needs {what}, which Forgettable does not have; "
                    "fedneg's own app does"
                )
        self._strategy = made
        self._planned = self._number = 0

    def _made(self, *, clients: int, rounds: int) -> LedgerFedAvg:
        own = [f"strategy.{k}={json.dumps(v)}" for k, v in self.options.items()]
        # A configuration speaks of its own words: say what these arguments were.
        if ":" not in self.name and self.name not in methods():
            able = ", ".join(filter(_can_be, methods()))
            raise FedNegError(f"method must be one of {able}, got {self.name!r}")
        words = [*REST, f"clients={clients}", f"rounds={rounds}"]
        try:
            config, _ = load_config([*words, f"strategy={self.name}", *own])
        except FedNegError as error:
            said = str(error).split("; fedneg --cfg")[0]
            for key in self.options:
                said = said.replace(f"strategy.{key}", f"options[{key!r}]")
            raise FedNegError(f"method={self.name}: {said}") from None
        return make_strategy(config, assignment="")

    def take_out(
        self,
        ledger: Ledger,
        layout: Layout,
        before: Vector,
        rows: tuple[int, ...],
        *,
        forgotten: set[int],
    ) -> Vector:
        """Return the parameters after forgetting, as the class in strategies/ does."""
        trained = max(1, len(ledger.participation))
        strategy = self._made(clients=ledger.clients, rounds=trained)
        strategy.take_on(ledger, layout, forgotten)
        asked = strategy.unlearn_rounds(strategy.config)
        strategy.begin(Phase("unlearn", (), asked), rows)
        strategy.check_kept(rows)
        after = strategy.take_out(before, rows)
        self._strategy, self._number = strategy, 0
        # Of rounds to rebuild there may be fewer than the method has at most.
        self.rounds = sum(bool(strategy.unlearn_clients(n + 1)) for n in range(asked))
        self._planned = self.rounds
        self.report = dict(strategy.method_report)
        return after

    @property
    def starts_over(self) -> bool:
        """Whether the last forgetting began the ledger anew."""
        return self._strategy.starts_over

    def parts(self) -> NDArray[np.intp] | None:
        """Return the part of the model that each parameter is in, where it matters."""
        return self._strategy.parts()

    def remains(self, row: int) -> str:
        """Return what the last forgetting left of a row, for a receipt."""
        return type(self._strategy).remains(self.report, row)

    def begin_round(self, before: Vector) -> None:
        """Say that a round begins, and which parameters the clients are sent."""
        self._number = self._planned - self.rounds + 1 if self.rounds else 0
        if self._number:
            self._strategy.go_on_from(before)

    def end_round(self) -> None:
        """Say that it is over, whatever came of it."""
        if self._number:
            self.rounds -= 1
        self._number = 0

    @property
    def asked(self) -> frozenset[int] | None:
        """The rows of those who alone may take part in this round; None: anybody."""
        if not (self._number and self._strategy.rebuilds):
            return None
        return frozenset(self._strategy.unlearn_clients(self._number))

    def adjusted(self, row: int, local: Vector) -> Vector | None:
        """Return what counts as a client's parameters in this round; None: its own."""
        if not self._number:
            return None
        found = self._strategy.adjust(self._number, row, local)
        return None if found is local else found


def _can_be(name: str) -> bool:
    """Return whether a method of the app needs nothing that only the app has."""
    try:
        AppMethod(name)
    except FedNegError:
        return False
    return True
