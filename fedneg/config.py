"""From `conf/` and overrides to one checked `Config`; the only door to Hydra's tree.

Part of the seam: this module may import Hydra, the mathematics may not. `fedneg a=b`
and `flwr run . --run-config 'a=b'` come through here and give the same `Config`.
"""

import shlex
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedneg.arguments import quoted
from fedneg.data import resolve_auto
from fedneg.errors import FedNegError
from fedneg.live.facts import merged
from fedneg.live.state import State
from fedneg.settings import Config
from strategies import strategy_class


def conf_dir() -> Path:
    """Return the folder of the configuration: in the wheel, or on top of a checkout."""
    here = Path(__file__).resolve().parent
    inside = here / "conf"
    return inside if inside.is_dir() else here.parent / "conf"


def methods() -> list[str]:
    """Return the names of all forgetting methods, in the order of the alphabet."""
    found = {path.stem for path in (conf_dir() / "strategy").glob("*.yaml")}
    return sorted(found - {"base"})


def sweep_of(name: str) -> dict[str, str]:
    """Return a sweep that conf/ describes: from each key to its values, as typed."""
    found = OmegaConf.to_container(OmegaConf.load(conf_dir() / f"{name}.yaml"))
    assert isinstance(found, dict)
    return {
        str(key): str(value).lower() if isinstance(value, bool) else str(value)
        for key, value in found.items()
    }


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


def _composed(overrides: Sequence[str]) -> DictConfig:
    """Compose the tree, inside hydra.main or outside of it."""
    if GlobalHydra.instance().is_initialized():
        return compose("config", overrides=list(overrides))
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        return compose("config", overrides=list(overrides))


def _plain(cfg: DictConfig) -> dict[str, Any]:
    values = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items() if key != "hydra"}


def _checked(overrides: Sequence[str]) -> Config:
    """Compose and check everything, the forgetting method's own options included."""
    return _checked_once(tuple(overrides))


@lru_cache(maxsize=4096)
def _checked_once(overrides: tuple[str, ...]) -> Config:
    """Do it once: a sweep checks its jobs before the first, and each job itself."""
    config = Config.from_mapping(_plain(_composed(overrides)))
    strategy_class(config.strategy.name).parse_options(config)
    return config


def check(overrides: Sequence[str]) -> None:
    """Raise FedNegError unless these overrides make a valid configuration."""
    with hydra_errors():
        _checked(overrides)


def check_sweep(overrides: Sequence[str]) -> None:
    """Raise FedNegError unless every job of a sweep has a valid configuration."""
    with hydra_errors():
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        for batch in BasicSweeper.split_arguments(parsed, max_batch_size=None):
            for job in batch:
                check([part for part in job if not part.startswith("hydra")])


def load_config(overrides: Sequence[str] = ()) -> tuple[Config, tuple[str, ...]]:
    """Compose, check, and settle which data is used.

    Parameters
    ----------
    overrides : sequence of str
        Hydra overrides such as ``"forget=[1,4]"``.

    Returns
    -------
    Config
        `data.name` is ``mnist`` or ``digits``, never ``auto``.
    tuple of str
        Notices that the user must not miss, e.g. that digits stand in for MNIST.

    Raises
    ------
    FedNegError
        For any mistake in the overrides; before data is read.
    """
    overrides = _with_stored(overrides)
    with hydra_errors():
        config = _checked(overrides)
        if config.data.name != "auto":
            return config, ()
        root = Path(config.data.root) if config.data.root else None
        name, notice = resolve_auto(root=root, download=config.data.download)
        # Composed anew: digits brings its own training defaults, and what the user
        # said on the command line still comes last.
        kept = [o for o in overrides if not o.startswith("data=")]
        config = _checked([f"data={name}", *kept, "data.requested=auto"])
    return config, (notice,) if notice else ()


def _with_stored(overrides: Sequence[str]) -> list[str]:
    """Return the overrides of a run, with those of the federation that it goes on with.

    A federation that lives on forgets by request only, and repairs by default.
    """
    given = dict(override.partition("=")[::2] for override in overrides)
    folder, keys = (
        path_in(f"{name}={given.get(name, 'null')}") for name in ("state", "keys")
    )
    if folder is None:
        return list(overrides)
    facts = State(folder, keys).facts()
    stored = [] if facts is None else facts.overrides
    defaults = ("forget=null", "retrain=remaining", "reference=false")
    return merged([*defaults, *stored], overrides)


def path_in(override: str) -> Path | None:
    """Return the path that Hydra reads in an override; None for null."""
    with hydra_errors():
        value = OverridesParser.create().parse_override(override).value()
    return None if value in (None, "") else Path(str(value))


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
