"""Flower strategies: FedAvg with a ledger, and one file for each forgetting method."""

import importlib
import json
import sys
from dataclasses import MISSING, fields, is_dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fedneg.core.errors import FedNegError
from fedneg.core.named import load_named, load_offered, offered
from fedneg.core.settings import METHODS, Config, StrategySettings, methods
from fedneg.strategies.base import LedgerFedAvg
from fedneg.strategies.hooks import NO_HOOKS, Hooks
from fedneg.strategies.method import CONTROL, ForgettingMethod
from fedneg.strategies.roster import Roster


def strategy_class(name: str, folder: Path | None = None) -> type[LedgerFedAvg]:
    """Return the strategy of a name.

    A new method is one file here with one subclass of `LedgerFedAvg`, and one YAML in
    conf/strategy; nothing has to be registered. What people are told of it is an
    attribute of the class, ``about``. One that lies elsewhere is ``module:Class``, or
    the name of an entry point in the group ``fedneg.methods``.

    Parameters
    ----------
    name : str
        Of the module strategies/<name>.py; or as above.
    folder : Path, optional
        Where modules are looked for, too: where the command was typed.

    Raises
    ------
    FedNegError
        If there is no such module or class, or it is no method.
    """
    if ":" in name:
        return _method(load_named(name, what="strategy", folder=folder), name)
    found = _built_in(name)
    if found is None and name in offered(METHODS):
        offer = load_offered(name, group=METHODS, what="strategy")
        return _method(offer, name)
    if found is None:
        raise FedNegError(
            "strategy must name a method in strategies/, or one of your own as "
            f"module:Class, got {name!r}"
        )
    return found


def is_own_method(name: str) -> bool:
    """Return whether a name is of the form of a user's own, or a package offers it."""
    return ":" in name or (_built_in(name) is None and name in offered(METHODS))


def settings_of(name: str, folder: Path | None = None) -> dict[str, Any]:
    """Return what the YAML of a method would say that has none, from its options.

    Parameters
    ----------
    name, folder
        As of `strategy_class`, which raises too.

    Raises
    ------
    FedNegError
        If an option is called as a setting of every strategy is, or by default is
        nothing that a YAML can hold.
    """
    taken = {f.name for f in fields(StrategySettings)} | {"defaults"}
    found: dict[str, Any] = {"defaults": ["base", "_self_"], "name": name}
    for option in fields(strategy_class(name, folder).Options):
        if option.name in taken:
            raise FedNegError(
                f"strategy={name}: an option must not be called {option.name}, which "
                "every strategy has"
            )
        value = "???"  # it must be given
        if option.default is not MISSING:
            value = option.default
        elif option.default_factory is not MISSING:
            value = option.default_factory()
        try:
            found[option.name] = json.loads(json.dumps(value))
        except (TypeError, ValueError):
            raise FedNegError(
                f"strategy={name}: the option {option.name} must be what a YAML can "
                f"hold, got {value!r}"
            ) from None
    return found


def check_options(config: Config, folder: Path | None = None) -> None:
    """Raise FedNegError unless the configured method takes its options.

    And if there is none of this name, as `strategy_class`.
    """
    name = config.strategy.name
    method = strategy_class(name, folder)
    if config.forget_samples and not method.forgets_samples:
        known = {one: strategy_class(one) for one in methods()}
        able = [
            one
            for one, cls in known.items()
            if cls.forgets_samples and cls.about.kind != CONTROL
        ]
        raise FedNegError(
            f"strategy={name} cannot forget some of a client's examples: it goes by "
            f"what the server keeps of whole clients; take one of {', '.join(able)}"
        )
    try:
        method.parse_options(config)
    except (TypeError, ValueError) as error:
        if method.__module__.startswith(f"{__name__}."):
            raise
        # How Python says it, and whoever did not care for our words.
        why = str(error) or type(error).__name__
        raise FedNegError(f"strategy={name}: {why}") from error


def _method(found: object, name: str) -> type[LedgerFedAvg]:
    """Return what a user has named, if it is a method."""
    if not isinstance(found, type) or not issubclass(found, LedgerFedAvg):
        raise FedNegError(
            f"strategy={name} must be a subclass of "
            f"fedneg.strategies.base.LedgerFedAvg, got {found!r}"
        )
    if found.rectify is ForgettingMethod.rectify:
        raise FedNegError(f"strategy={name} has no rectify, which is what forgets")
    if not is_dataclass(found.Options):
        raise FedNegError(f"strategy={name}: its Options must be a dataclass")
    return found


def _built_in(name: str) -> type[LedgerFedAvg] | None:
    """Return the one class that strategies/<name>.py defines, if it does."""
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
    return found[0] if len(found) == 1 else None


def method_named(name: object) -> type[ForgettingMethod]:
    """Return the class of a method that results, a receipt or a table name.

    They may be of a method that is not here any more, of another version, say, or of
    the user's own: what is not known of it is then as `ForgettingMethod` has it. A
    ``module:Class`` is known where this run has used it: no file that is only read
    makes fedneg import what it names.
    """
    if str(name).partition(":")[1] and str(name).partition(":")[0] not in sys.modules:
        return ForgettingMethod
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
