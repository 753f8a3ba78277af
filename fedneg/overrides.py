"""Questions about Hydra overrides, answered by Hydra's own parser.

``++state=DIR``, ``state='DIR'`` and ``data@x=digits`` are what Hydra says they are: no
text is taken apart here at its first ``=``. Part of the seam, as `fedneg.config` is.
"""

import argparse
import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from fedneg.core.arguments import quoted
from fedneg.core.errors import FedNegError
from fedneg.core.named import offered
from fedneg.core.settings import METHODS, conf_dir
from fedneg.core.texts import did_you_mean

# What a federation that lives on is told anew by every run of it.
PASSING = ("state", "keys", "data", "hydra")
_OF_TASKS = re.compile(r"task_options\.[^=]+=")
# Of Hydra's own keys, those that people set.
OF_HYDRA = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.job.chdir")


@contextmanager
def hydra_errors() -> Iterator[None]:
    """Turn what Hydra and OmegaConf raise for wrong input into one-line errors."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise FedNegError(_said(error)) from error
    except ValueError as error:
        # Hydra raises plain ValueErrors too (data=7); anybody else's is a defect.
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if not str(frame.f_globals.get("__name__")).startswith("hydra."):
            raise
        raise FedNegError(" ".join(str(error).split())) from error


def _said(error: Exception) -> str:
    """Return what an error of Hydra's says to people: in one line, with our advice.

    Hydra's own advice for an unknown key is to add it, which no setting of ours allows.
    """
    if isinstance(error, OverrideParseException):
        return _unreadable(error)
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is missing"
    text = str(error)
    if key := re.search(r"Could not (?:override|delete from config\.) '([^']+)'", text):
        return _unknown_key(key[1])
    if key := re.search(r"(?:already at '|Multiple values for )([\w@/.]*\w)", text):
        return f"{key[1]} is there already: {key[1]}=value, without +, sets it"
    if choice := re.search(r"Could not find '([^']+)/([^'/]+)'", text):
        names = re.findall(r"^\t(\S+)$", text, re.M)
        names = [name for name in names if name != "base"]  # what the others share
        if names:
            own = ""
            if choice[1] == "strategy":
                names = sorted({*names, *offered(METHODS)})
                own = ", or module:Class of your own"
            return (
                f"{choice[1]} must be one of {', '.join(names)}{own}, got "
                f"{choice[2]!r}" + did_you_mean(choice[2], names)
            )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if isinstance(error.__cause__, OmegaConfBaseException):
        lines += [f"({str(error.__cause__).splitlines()[0]})"]
    return "; ".join(lines).replace(".;", ";")


def _unreadable(error: OverrideParseException) -> str:
    """Return what is wrong with a word that is no override."""
    if "=" not in error.override:
        return f"{error.override} cannot be read: it must be key=value"
    lines = str(error).splitlines()
    whys = [line.strip() for line in lines if not line.startswith(("Error", "See"))]
    return "; ".join([f"{error.override} cannot be read", *filter(None, whys)])


def _unknown_key(key: str) -> str:
    """Return what to say of a key that the configuration does not have."""
    known = known_keys()
    if owners := known.get(key.partition("@")[0].replace("/", ".")):
        return f"{key} is no key here; it belongs to {', '.join(owners)}"
    advice = did_you_mean(key, [*known, *OF_HYDRA])
    return f"unknown key {key}" + (advice or "; fedneg --cfg job shows all keys")


def known_keys() -> dict[str, list[str]]:
    """Return every key that `conf/` sets anywhere.

    Returns
    -------
    dict of str to list of str
        From each dotted key to the choices that have it, e.g. ``strategy.interval`` to
        ``["strategy=federaser"]``; to none where it does not depend on a choice.
    """
    root = conf_dir()
    found: dict[str, list[str]] = {k: [] for k in _keys_in(root / "config.yaml")}
    shared: set[str] = set()
    for path in sorted(root.glob("*/*.yaml")):
        group = path.parent.name
        found.setdefault(group, [])
        if "@package _global_" in path.read_text():
            continue  # it sets what the others have
        for name in _keys_in(path):
            key = f"{group}.{name}"
            if path.stem == "base":
                shared.add(key)
            found.setdefault(key, []).append(f"{group}={path.stem}")
    # Methods that no file has, but `offer` has made known.
    for file, entry in ConfigStore.instance().repo.get("strategy", {}).items():
        for name in _flat(entry.node):
            owners = found.setdefault(f"strategy.{name}", [])
            owners.append(f"strategy={file.removesuffix('.yaml')}")
    return found | {key: [] for key in shared}


def _keys_in(path: Path) -> Iterator[str]:
    """Yield the dotted keys of a file of the configuration."""
    return _flat(OmegaConf.load(path))


def _flat(tree: Any) -> Iterator[str]:
    """Yield the dotted keys of a part of the configuration; none of Hydra's own."""

    def inside(values: Mapping[Any, Any], prefix: str) -> Iterator[str]:
        for name, value in values.items():
            yield f"{prefix}{name}"
            if isinstance(value, Mapping):
                yield from inside(value, f"{prefix}{name}.")

    values = OmegaConf.to_container(tree)
    assert isinstance(values, dict)
    own = {k: v for k, v in values.items() if k not in ("defaults", "hydra")}
    yield from inside(own, "")


def sweep_of(name: str) -> dict[str, str]:
    """Return a sweep that conf/ describes: from each key to its values, as typed."""
    found = OmegaConf.to_container(OmegaConf.load(conf_dir() / f"{name}.yaml"))
    assert isinstance(found, dict)
    return {
        str(key): str(value).lower() if isinstance(value, bool) else str(value)
        for key, value in found.items()
    }


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


def chosen(overrides: Sequence[str], group: str) -> list[str]:
    """Return what overrides choose in a group, all that a sweep chooses included."""
    return [name for override in overrides for name in _chosen(override, group)]


@lru_cache(maxsize=4096)
def _chosen(override: str, group: str) -> tuple[str, ...]:
    """Return it of one override; of others nothing, since they need not be parsed."""
    if not re.match(rf"{group}\s*=", override):
        return ()
    (found,) = parsed([override])
    if not found.is_sweep_override():
        values = [found.value()]
    elif isinstance(found.value(), Glob):  # of what is known to Hydra already
        values = []
    else:
        values = list(found.sweep_iterator())
    return tuple(str(value) for value in values if isinstance(value, str))


def offer(group: str, name: str, values: Mapping[str, Any]) -> None:
    """Let ``group=name`` choose values that no file of the configuration has.

    Parameters
    ----------
    values : mapping
        As a YAML would say them, its ``defaults`` included.
    """
    ConfigStore.instance().store(group=group, name=name, node=dict(values))


def extended(words: Sequence[str]) -> list[str]:
    """Return overrides that Hydra takes for options which only a task of one's own has.

    ``task_options.width=8`` names a key that no file of the configuration does, and
    Hydra wants to be told by ``++`` that it is no slip.
    """
    return [f"++{word}" if _OF_TASKS.match(word) else word for word in words]


def search_path(overrides: Sequence[str]) -> list[str]:
    """Return those of Hydra's own overrides that name folders of configurations.

    Hydra forgets them when it composes again.
    """
    return [o for o in overrides if key_of(o) == "hydra.searchpath"]


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
        names = [name for a in parser._actions for name in a.option_strings]
        advice = did_you_mean(unknown[0].partition("=")[0], [*names, "--version"])
        raise FedNegError(f"unrecognized arguments: {' '.join(unknown)}{advice}")
    options = []
    for action in parser._actions:
        value = getattr(values, action.dest, None)
        if value in (None, False, action.default):
            continue
        name = action.option_strings[0]
        options.append(name if value is True else f"{name}={value}")
    return [*options, *overrides]
