"""From `conf/` and overrides to one checked `Config`; the only door to Hydra's tree.

Part of the seam: this module may import Hydra, the mathematics may not. `fedneg a=b`
and `flwr run . --run-config 'a=b'` come through here and give the same `Config`.
"""

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from fedneg.core.arguments import quoted
from fedneg.core.errors import FedNegError
from fedneg.core.settings import Config, conf_dir, methods
from fedneg.core.verdict_settings import DROPPED
from fedneg.overrides import (
    chosen,
    extended,
    hydra_errors,
    key_of,
    merged,
    offer,
    parsed,
    root_of,
    search_path,
)
from fedneg.records.facts import check_ours
from fedneg.records.state import State
from fedneg.strategies import check_options, is_own_method, settings_of
from fedneg.tasks.lookup import own_task

# Keys whose values are folders of the user's.
PATHS = ("data.root", "state", "keys")


def _composed(overrides: Sequence[str]) -> DictConfig:
    """Compose the tree, inside hydra.main or outside of it."""
    overrides = extended(overrides)
    if GlobalHydra.instance().is_initialized():
        return compose("config", overrides=list(overrides))
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        return compose("config", overrides=list(overrides))


def _plain(cfg: DictConfig) -> dict[str, Any]:
    values = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items() if key != "hydra"}


def offer_methods(overrides: Sequence[str], folder: Path | None = None) -> None:
    """Let Hydra know the methods of a user's own that overrides choose by name.

    Parameters
    ----------
    folder : Path, optional
        Where the command was typed, and their modules may lie. By default they are
        looked for where that was said before, and among what is installed.

    Raises
    ------
    FedNegError
        If there is none of this name, or it is no method.
    """
    for name in chosen(overrides, "strategy"):
        if name not in methods() and is_own_method(name):
            offer("strategy", name, settings_of(name, folder))


def _checked(overrides: Sequence[str], folder: Path | None = None) -> Config:
    """Compose and check everything, the forgetting method's own options included."""
    offer_methods(overrides, folder)
    with hydra_errors():
        return _checked_once(tuple(overrides), folder)


@lru_cache(maxsize=4096)
def _checked_once(overrides: tuple[str, ...], folder: Path | None) -> Config:
    """Do it once: a sweep checks its jobs before the first, and each job itself."""
    values = _plain(_composed(overrides))
    if values["forget_samples"] and "forget" not in map(key_of, overrides):
        values["forget"] = None  # whose examples they are has been said
    config = Config.from_mapping(values)
    check_options(config, folder)
    if config.task is not None:
        own_task(config.task, folder)
    return config


def check(overrides: Sequence[str], folder: Path | None = None) -> None:
    """Raise FedNegError unless these overrides make a valid configuration."""
    _checked(overrides, folder)


def check_sweep(overrides: Sequence[str], folder: Path | None = None) -> int:
    """Return how many jobs a sweep has; FedNegError unless all of them are valid."""
    words = parsed(overrides)
    with hydra_errors():
        batches = BasicSweeper.split_arguments(words, max_batch_size=None)
    jobs = [job for batch in batches for job in batch]
    for job in jobs:
        own = [part for part in job if root_of(part) != "hydra"]
        check([*search_path(job), *own], folder)
    return len(jobs)


def load_config(
    overrides: Sequence[str] = (), *, folder: Path | None = None
) -> tuple[Config, tuple[str, ...]]:
    """Compose, check, and settle which data is used.

    Parameters
    ----------
    overrides : sequence of str
        Hydra overrides such as ``"forget=[1,4]"``.
    folder : Path, optional
        Where relative folders in them begin: where the command was typed, which is not
        the working directory any more with ``hydra.job.chdir=true``. By default that,
        where methods and tasks of a user's own are then not looked for.

    Returns
    -------
    Config
        `data.name` is ``mnist`` or ``digits``; ``auto`` only of a task of one's own.
    tuple of str
        Notices that the user must not miss, e.g. that digits stand in for MNIST.

    Raises
    ------
    FedNegError
        For any mistake in the overrides; before data is read.
    """
    typed_in, folder = folder, folder or Path.cwd()
    overrides = _with_stored(overrides, folder)
    config = _placed(_checked(overrides, typed_in), folder)
    if config.data.name != "auto" or config.task is not None:
        return config, ()
    # Whoever has a task of their own needs none of these data.
    from fedneg.data.datasets import resolve_auto

    root = Path(config.data.root) if config.data.root else None
    name, notice = resolve_auto(root=root, download=config.data.download)
    # Composed anew: digits brings its own training defaults, and what the user said
    # on the command line still comes last.
    kept = [o for o in overrides if key_of(o) != "data"]
    config = _checked([f"data={name}", *kept, "data.requested=auto"], typed_in)
    return _placed(config, folder), (notice,) if notice else ()


def _with_stored(overrides: Sequence[str], below: Path) -> list[str]:
    """Return the overrides of a run, with those of the federation that it goes on with.

    A federation that lives on forgets by request only, and repairs by default.
    """
    paths = {key: below / path for key, path in paths_in(overrides).items()}
    if "state" not in paths:
        return list(overrides)
    facts = State(paths["state"], paths.get("keys")).facts()
    if facts:
        check_ours(facts, paths["state"])  # before data is looked for
    # Settings of earlier releases are of no use to this one.
    stored = [o for o in facts.overrides if key_of(o) not in DROPPED] if facts else []
    defaults = ("forget=null", "retrain=remaining", "reference=false")
    return merged([*defaults, *stored], overrides)


def paths_in(overrides: Sequence[str]) -> dict[str, Path]:
    """Return the folders that overrides name, by key; those that are null are missing.

    As Hydra reads them, with quotes, escapes and interpolations resolved.
    """
    named = [o for o in overrides if key_of(o) in PATHS]
    if not named:
        return {}
    with hydra_errors():
        values = _plain(_composed(named))
    found = {key: _value(values, key) for key in PATHS}
    return {key: Path(str(path)) for key, path in found.items() if path}


def _value(values: Mapping[str, Any], key: str) -> Any:
    """Return what stands at a dotted key of a nested mapping."""
    group, _, name = key.rpartition(".")
    return (values[group] if group else values)[name]


def _placed(config: Config, folder: Path) -> Config:
    """Return a configuration whose relative folders are below `folder`."""

    def place(path: str | None) -> str | None:
        return None if path is None else os.path.abspath(folder / path)

    data = replace(config.data, root=place(config.data.root))
    return replace(
        config, data=data, state=place(config.state), keys=place(config.keys)
    )


def overrides_of_run_config(run_config: Mapping[str, Any]) -> list[str]:
    """Return the Hydra overrides in Flower's flat run config; "" keeps conf/'s value.

    The key `overrides` holds further overrides separated by spaces, quoted where a
    value contains one; `out` is no part of the configuration.
    """
    found = []
    for key, value in run_config.items():
        if key in ("out", "overrides") or value == "":
            continue
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if key in ("state", "keys"):
            text = quoted(text)
        found.append(f"{key}={text}")
    try:
        return found + shlex.split(str(run_config.get("overrides", "")))
    except ValueError as error:
        raise FedNegError(
            f"overrides must be Hydra overrides separated by spaces: {error}"
        ) from None
