"""The folder of a federation that lives on: where everything lies, and what is fixed.

``federation.json`` says what the federation is; ``checkpoints/`` hold where it stands;
``requests/``, ``receipts/``, ``fingerprints/`` and ``audit.jsonl`` what was asked and
done; ``model.safetensors`` is the model in service; ``status.json`` and ``history.csv``
are for watching. Keys lie beside it.
"""

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from fedneg.checkpoint import Checkpoints
from fedneg.errors import FedNegError
from fedneg.files import leftovers, make_folder, tighten, write_bytes
from fedneg.live.audit import AuditLog
from fedneg.live.locks import is_locked, locked
from fedneg.live.pins import Pins
from fedneg.live.requests import Requests
from fedneg.live.sealed import Sealed
from fedneg.live.signing import OperatorKey, keys_folder
from fedneg.live.vault import Vault
from fedneg.reading import read_regular
from fedneg.settings import Config
from fedneg.texts import check_utf8

SCHEMA = 1


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
        "strategy.server_learning_rate": strategy.server_learning_rate,
        "strategy.server_momentum": strategy.server_momentum,
        "encrypt": config.encrypt,
    }


class State:
    """A federation's folder.

    Parameters
    ----------
    folder : Path
    keys : Path, optional
        By default beside it.
    """

    def __init__(self, folder: Path, keys: Path | None = None) -> None:
        self.folder = folder.absolute()
        self.keys = keys_folder(self.folder) if keys is None else keys.absolute()
        # The audit log and the receipts name files.
        check_utf8("state", self.folder)
        check_utf8("keys", self.keys)
        self.requests = Requests(self.folder / "requests")
        self.receipts = self.folder / "receipts"
        self.fingerprints = self.folder / "fingerprints"
        self.model = self.folder / "model.safetensors"
        self.history = self.folder / "history.csv"
        self.roster = self.folder / "roster.json"
        self._facts, self._status = (
            self.folder / "federation.json",
            self.folder / "status.json",
        )

    @classmethod
    def of(cls, config: Config) -> "State":
        """Return the folder that a configuration names."""
        assert config.state is not None
        return cls(Path(config.state), Path(config.keys) if config.keys else None)

    @cached_property
    def operator(self) -> OperatorKey:
        """The operator's key; made when it is first needed."""
        found = OperatorKey.load_or_create(self.keys)
        # Git, and with it `flwr run`, which sends the app to every client, leave what
        # lies here alone, should it lie in a checkout.
        for folder in (self.folder, self.keys):
            hidden = folder / ".gitignore"
            if folder.is_dir() and not hidden.exists():
                write_bytes(hidden, b"*\n")
        return found

    @cached_property
    def audit(self) -> AuditLog:
        """The audit log."""
        return AuditLog(self.folder / "audit.jsonl", self.operator)

    @cached_property
    def vault(self) -> Vault:
        """The keys that seal what the state holds of each client."""
        return Vault(self.keys / "clients")

    def pins(self) -> Pins:
        """Return which key belongs to which client."""
        return Pins(self.roster)

    def checkpoints(self, *, every: int, encrypt: bool) -> Checkpoints:
        """Return where the federation stands; write only in `running`."""
        folder = self.folder / "checkpoints"
        make_folder(folder)
        done = {r.client_id for r in self.requests.all() if not r.is_open}
        done |= self.vault.destroyed() if encrypt else set()
        form = Sealed(self.vault, done) if encrypt else None
        return Checkpoints(folder, every=every, form=form, remedy="make room")

    @contextmanager
    def running(self) -> Iterator[None]:
        """Be the one run of this federation; raises FedNegError if there is another."""
        with locked(self.folder / "lock", "the federation", timeout_s=0):
            self._tighten()
            self._tidy()
            yield

    def _tighten(self) -> None:
        """Take from other users what an older version let them read."""
        own = ("checkpoints", "requests", "receipts", "fingerprints")
        try:
            for folder in (self.folder, *(self.folder / name for name in own)):
                tighten(folder)
        except OSError as error:
            raise FedNegError(
                f"{error.filename} must be its owner's alone, and cannot be made so: "
                f"{error.strerror}"
            ) from None

    def _tidy(self) -> None:
        """Remove what a killed run left half-written: it may hold anything."""
        for path in (self.model, self.history, self._status, self._facts):
            for left in leftovers(self.folder, f".{path.name}.*"):
                left.unlink(missing_ok=True)
        for folder in (self.receipts, self.fingerprints, self.vault.folder):
            for left in leftovers(folder, ".*"):
                left.unlink(missing_ok=True)
        with self.requests.changing():
            for left in leftovers(self.requests.folder, ".forget-*"):
                left.unlink(missing_ok=True)

    @property
    def is_running(self) -> bool:
        """Whether a run is working on it now."""
        return is_locked(self.folder / "lock")

    def facts(self) -> Facts | None:
        """Return what the federation is; None before its first run.

        Raises
        ------
        FedNegError
            If federation.json cannot be understood.
        """
        try:
            content = json.loads(read_regular(self._facts))
            if content.pop("schema") != SCHEMA:
                raise ValueError("it is of another schema")
            facts = Facts(**content)
            if type(facts.fixed["clients"]) is not int:
                raise ValueError("its number of clients is none")
            return facts
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise FedNegError(f"{self._facts} cannot be read: {error}") from None

    def known_facts(self) -> Facts:
        """Return what the federation is; FedNegError if there is none here."""
        found = self.facts()
        if found is None:
            raise FedNegError(
                f"there is no federation in {self.folder}; a run with state=DIR makes "
                "one"
            )
        return found

    def settle(
        self, config: Config, overrides: Sequence[str], *, deployed: bool
    ) -> Facts:
        """Return what the federation is, written down if this is its first run.

        Raises
        ------
        FedNegError
            If the configuration is another federation's; it names the setting.
        """
        found, fixed = self.facts(), fixed_settings(config)
        if found is None:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            facts = Facts(
                str(uuid.uuid4()),
                now,
                fixed,
                _lasting(config, overrides),
                deployed,
                config.encrypt,
            )
            content = {"schema": SCHEMA, **asdict(facts)}
            write_bytes(self._facts, (json.dumps(content, indent=1) + "\n").encode())
            self.audit.append("federation made", id=facts.id, settings=fixed)
            return facts
        # A federation made before there were other partitions does not name its own.
        kept = {"data.partition": "writer"} | dict(found.fixed)
        for name, value in fixed.items():
            if kept.get(name) != value:
                raise FedNegError(
                    f"{name} is {kept.get(name)!r} in the federation in "
                    f"{self.folder} and stays so, got {value!r}"
                )
        if found.deployed != deployed:
            kind = "real" if found.deployed else "simulated"
            raise FedNegError(
                f"the clients of the federation in {self.folder} are {kind} ones"
            )
        return found

    def write_status(self, status: Mapping[str, Any]) -> None:
        """Replace status.json."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        content = {"updated": now, **status}
        write_bytes(self._status, (json.dumps(content, indent=1) + "\n").encode())

    def read_status(self) -> dict[str, Any]:
        """Return status.json; empty before the first run."""
        try:
            found: dict[str, Any] = json.loads(read_regular(self._status))
            if not isinstance(found, dict):
                raise ValueError("it is no JSON object")
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise FedNegError(f"{self._status} cannot be read: {error}") from None
        return found


def _lasting(config: Config, overrides: Sequence[str]) -> list[str]:
    """Return the overrides that later runs need not repeat.

    With the data that was used: what `data=auto` means may change.
    """
    passing = ("state", "keys", "data", "hydra")
    kept = [o for o in overrides if o.partition("=")[0].split(".")[0] not in passing]
    data = [o for o in overrides if o.startswith("data.") and "=" in o]
    return [f"data={config.data.name}", *data, *kept]


def merged(stored: Sequence[str], given: Sequence[str]) -> list[str]:
    """Return overrides with every key once: what is given now counts."""
    by_key = {override.partition("=")[0]: override for override in (*stored, *given)}
    return list(by_key.values())
