"""Flower strategies: FedAvg with a ledger, and one file for each forgetting method."""

import importlib
from importlib.util import find_spec

from fedneg.core.errors import FedNegError
from fedneg.core.settings import Config
from fedneg.strategies.base import LedgerFedAvg
from fedneg.strategies.hooks import NO_HOOKS, Hooks
from fedneg.strategies.method import ForgettingMethod
from fedneg.strategies.roster import Roster


def strategy_class(name: str) -> type[LedgerFedAvg]:
    """Return the strategy that the module strategies/<name>.py defines.

    A new method is one file here with one subclass of `LedgerFedAvg`, and one YAML in
    conf/strategy; nothing has to be registered. What people are told of it is an
    attribute of the class, ``about``.

    Raises
    ------
    FedNegError
        If there is no such module.
    """
    module_name = f"fedneg.strategies.{name}"
    found = []
    if name.isidentifier() and name != "base" and find_spec(module_name) is not None:
        found = [
            value
            for value in vars(importlib.import_module(module_name)).values()
            if isinstance(value, type)
            and issubclass(value, LedgerFedAvg)
            and value.__module__ == module_name
        ]
    if len(found) != 1:
        raise FedNegError(f"strategy must name a method in strategies/, got {name!r}")
    return found[0]


def method_named(name: object) -> type[ForgettingMethod]:
    """Return the class of a method that results, a receipt or a table name.

    They may be of a method that is not here any more, of another version, say, or of
    the user's own: what is not known of it is then as `ForgettingMethod` has it.
    """
    try:
        return strategy_class(str(name))
    except FedNegError:
        return ForgettingMethod


def make_strategy(
    config: Config,
    assignment: str,
    hooks: Hooks = NO_HOOKS,
    roster: Roster | None = None,
) -> LedgerFedAvg:
    """Return the configured strategy; the arguments are those of `LedgerFedAvg`."""
    return strategy_class(config.strategy.name)(config, assignment, hooks, roster)
