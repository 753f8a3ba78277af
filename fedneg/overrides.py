"""Questions about Hydra overrides, answered by Hydra's own parser.

``++state=DIR``, ``state='DIR'`` and ``data@x=digits`` are what Hydra says they are: no
text is taken apart here at its first ``=``. Part of the seam, as `fedneg.config` is.
"""

import argparse
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from fedneg.core.arguments import quoted
from fedneg.core.errors import FedNegError

# What a federation that lives on is told anew by every run of it.
PASSING = ("state", "keys", "data", "hydra")


@contextmanager
def hydra_errors() -> Iterator[None]:
    """Turn what Hydra and OmegaConf raise for wrong input into one-line errors."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        if isinstance(error.__cause__, OmegaConfBaseException):
            lines += [f"({str(error.__cause__).splitlines()[0]})"]
        if isinstance(error, OverrideParseException):
            lines.insert(0, f"{error.override} cannot be read")
        raise FedNegError("; ".join(lines).replace(".;", ";")) from error
    except ValueError as error:
        # Hydra raises plain ValueErrors too (data=7); anybody else's is a defect.
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if not str(frame.f_globals.get("__name__")).startswith("hydra."):
            raise
        raise FedNegError(" ".join(str(error).split())) from error


def parsed(overrides: Sequence[str]) -> list[Override]:
    """Return overrides as Hydra reads them; FedNegError names one that it cannot."""
    with hydra_errors():
        found: list[Override] = OverridesParser.create().parse_overrides(
            list(overrides)
        )
    return found


def key_of(override: str) -> str:
    """Return what an override is about: 'state' of ``++state=DIR`` and of ``~state``.

    A group's package stays with it: 'data@x' of ``data@x=digits``.
    """
    (found,) = parsed([override])
    key = str(found.key_or_group)
    return key if found.package is None else f"{key}@{found.package}"


def root_of(override: str) -> str:
    """Return the first part of an override's key: 'hydra' of ``hydra/launcher=x``."""
    return key_of(override).split("@")[0].replace("/", ".").split(".")[0]


def merged(stored: Sequence[str], given: Sequence[str]) -> list[str]:
    """Return overrides with every key once: what is given now counts."""
    by_key = {key_of(override): override for override in (*stored, *given)}
    return list(by_key.values())


def lasting(overrides: Sequence[str], *, data: str, root: str | None) -> list[str]:
    """Return the overrides that later runs of a federation need not repeat.

    Parameters
    ----------
    data : str
        The data that was used: what `data=auto` means may change.
    root : str or None
        Where it lay; a later run may be started in another folder.
    """
    keys = {override: key_of(override) for override in overrides}
    own = [o for o, k in keys.items() if k.startswith("data.") and k != "data.root"]
    if root is not None and "data.root" in keys.values():
        own.append(f"data.root={quoted(root)}")
    kept = [override for override in overrides if root_of(override) not in PASSING]
    return [f"data={data}", *own, *kept]


class _Parser(argparse.ArgumentParser):
    """Raises FedNegError in place of printing how the command is used."""

    def error(self, message: str) -> Any:
        raise FedNegError(message)


def command_line(words: Sequence[str]) -> list[str]:
    """Return Hydra's options first, and then the overrides, wherever they stood.

    argparse takes overrides in one place only; ``fedneg a=b -m c=1,2`` has two.

    Raises
    ------
    FedNegError
        If an option is unknown, or lacks its value.
    """
    parser = get_args_parser()
    parser.__class__ = _Parser
    positional = [action for action in parser._actions if not action.option_strings]
    for action in positional:
        parser._remove_action(action)
    values, overrides = parser.parse_known_args(list(words))
    unknown = [word for word in overrides if word.startswith("-")]
    if unknown:
        raise FedNegError(f"unrecognized arguments: {' '.join(unknown)}")
    options = []
    for action in parser._actions:
        value = getattr(values, action.dest, None)
        if value in (None, False, action.default):
            continue
        name = action.option_strings[0]
        options.append(name if value is True else f"{name}={value}")
    return [*options, *overrides]
