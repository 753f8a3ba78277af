"""What a federation is from its first run on: ``federation.json``."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedneg.core.errors import FedNegError
from fedneg.core.files import write_bytes
from fedneg.core.reading import read_json
from fedneg.core.settings import Config

# 1: the log had entries after their acts, and no ids.
OLD_SCHEMA, SCHEMA = 1, 2
# The setting that an app of somebody's own has: the Flower strategy that it is around.
APP = "app"


@dataclass(frozen=True)
class Facts:
    """What a federation is, from its first run on.

    Attributes
    ----------
    id : str
    created : str
        UTC, ISO 8601.
    fixed : mapping
        Settings that no later run may change: the ledger hangs on them.
    overrides : list of str
        The Hydra overrides of the first run; later runs need not repeat them.
    deployed : bool
        Whether its clients are real.
    encrypt : bool
    """

    id: str
    created: str
    fixed: Mapping[str, Any]
    overrides: Sequence[str]
    deployed: bool
    encrypt: bool

    @property
    def is_app(self) -> bool:
        """Whether it belongs to an app of somebody's own, and not to fedneg's."""
        return APP in self.fixed

    @property
    def clients(self) -> int | None:
        """How many clients there are; None where nobody knows, in an app of one's own.

        Client ids are then whatever that app calls its clients.
        """
        found: int | None = self.fixed["clients"]
        return found


def fixed_settings(config: Config) -> dict[str, Any]:
    """Return the settings that a federation keeps for life."""
    strategy = config.strategy
    return {
        "seed": config.seed,
        "clients": config.clients,
        "data.name": config.data.name,
        **{f"data.{k}": v for k, v in config.data.partition_settings.items()},
        "model.name": config.model.name,
        "model.hidden": list(config.model.hidden),
        # Only where there are some: older federations know of none.
        **(
            {"model.channels": list(config.model.channels)}
            if config.model.channels
            else {}
        ),
        "strategy.server_learning_rate": strategy.server_learning_rate,
        "strategy.server_momentum": strategy.server_momentum,
        "encrypt": config.encrypt,
        **(
            {"task": config.task, "task_options": dict(config.task_options)}
            if config.task
            else {}
        ),
    }


def check_ours(found: Facts, folder: Path) -> None:
    """Raise FedNegError if a federation is of an app of somebody's own."""
    if found.is_app:
        raise FedNegError(
            f"the federation in {folder} belongs to an app of somebody's own, around "
            f"{found.fixed[APP]}: run that app"
        )


def check_same(
    found: Facts, fixed: Mapping[str, Any], *, deployed: bool, folder: Path
) -> None:
    """Raise FedNegError, naming it, if a setting is another federation's.

    Parameters
    ----------
    fixed, deployed
        What a run has now.
    folder : Path
        Of the federation, for the error.
    """
    if APP not in fixed:
        check_ours(found, folder)
    elif not found.is_app:
        raise FedNegError(
            f"the federation in {folder} belongs to fedneg's own app: go on with "
            "`fedneg state=DIR`"
        )
    # A federation made before there were other partitions does not name its own.
    kept = {"data.partition": "writer"} | dict(found.fixed)
    for name, value in fixed.items():
        if kept.get(name) != value:
            name, was, value = _differing(name, kept.get(name), value)
            raise FedNegError(
                f"{name} is {was!r} in the federation in {folder} and stays so, got "
                f"{value!r}"
            )
    if found.deployed != deployed:
        kind = "real" if found.deployed else "simulated"
        raise FedNegError(f"the clients of the federation in {folder} are {kind} ones")


def _differing(name: str, was: object, value: object) -> tuple[str, object, object]:
    """Return the name and values of a setting; of a mapping, of what differs in it."""
    if isinstance(was, Mapping) and isinstance(value, Mapping):
        for key in (*was, *value):
            if was.get(key) != value.get(key):
                return f"{name}.{key}", was.get(key), value.get(key)
    return name, was, value


def entered(facts: Facts) -> dict[str, Any]:
    """Return what the audit log is told of a federation beside its id."""
    rest = asdict(facts)
    del rest["id"]
    return {"settings": rest.pop("fixed"), **rest}


def read_facts(path: Path) -> tuple[int, Facts] | None:
    """Return schema and facts of a federation; None before its first run.

    Raises
    ------
    FedNegError
        If the file cannot be understood.
    """
    try:
        content = read_json(path)
        schema = content.pop("schema")
        if schema not in (OLD_SCHEMA, SCHEMA):
            raise ValueError(
                f"it is of schema {schema!r:.20}, and this fedneg knows {OLD_SCHEMA} "
                f"and {SCHEMA}"
            )
        facts = Facts(**content)
        if type(facts.clients) is not (type(None) if facts.is_app else int):
            raise ValueError("its number of clients is none")
        return schema, facts
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise FedNegError(f"{path} cannot be read: {error}") from None


def write_facts(path: Path, facts: Facts) -> None:
    """Write facts, under the schema of today."""
    content = {"schema": SCHEMA, **asdict(facts)}
    write_bytes(path, (json.dumps(content, indent=1) + "\n").encode())
