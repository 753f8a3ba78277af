"""The folder of a federation that lives on: where everything lies, and what is fixed.

``federation.json`` says what the federation is, and ``federation.id`` whose keys it
has; ``checkpoints/`` hold where it stands; ``requests/``, ``receipts/``,
``fingerprints/`` and ``audit.jsonl`` what was asked and done; ``model.safetensors`` is
the model in service; ``status.json`` and ``history.csv`` are for watching. Keys lie
beside it, and know the log's last entry. The log is the truth, and whoever changes
anything compares the rest with it first (fedneg/records/agreement/).

Longer than most: what is opened, made and compared at a start hangs on its order, which
is told here from top to bottom.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from fedneg.core.errors import FedNegError
from fedneg.core.files import leftovers, make_folder, remove, tighten, write_bytes
from fedneg.core.locks import is_locked, locked
from fedneg.core.reading import read_json
from fedneg.core.settings import Config
from fedneg.core.texts import check_utf8
from fedneg.ledger.checkpoint import Checkpoints
from fedneg.records.account import MADE, MIGRATED, SERVED, Account
from fedneg.records.agreement.checkpoints import of_checkpoints, of_rest
from fedneg.records.agreement.difference import Difference, lasting, settle
from fedneg.records.agreement.federation import of_facts, of_keys, of_sealing
from fedneg.records.agreement.receipts import of_receipts
from fedneg.records.agreement.requests import of_requests, of_scan_windows
from fedneg.records.agreement.roster import of_roster
from fedneg.records.audit import AuditLog, newest_of
from fedneg.records.facts import (
    APP,
    OLD_SCHEMA,
    SCHEMA,
    Facts,
    check_same,
    entered,
    read_facts,
    write_facts,
)
from fedneg.records.head import HEAD_NAME
from fedneg.records.identity import LOG_NAME, bind, check_apart, claim
from fedneg.records.keyring import VAULT_NAME
from fedneg.records.migration import found_in, id_of_old
from fedneg.records.pins import Pins
from fedneg.records.requests import ACCEPTED, DONE, Request, Requests, request_of
from fedneg.records.sealed import Sealed
from fedneg.records.signing import (
    PUBLIC_NAME,
    OperatorKey,
    keys_folder,
    load_public,
)
from fedneg.records.strangers import notices_of
from fedneg.records.vault import Vault


class State:
    """A federation's folder.

    Parameters
    ----------
    folder : Path
    keys : Path, optional
        By default beside it.

    Attributes
    ----------
    notices : list of str
        Acts that were completed, since a kill had left their entries alone.

    Raises
    ------
    FedNegError
        If one of the folders is the other, or lies in it.
    """

    def __init__(self, folder: Path, keys: Path | None = None) -> None:
        self.folder = folder.absolute()
        self.keys = keys_folder(self.folder) if keys is None else keys.absolute()
        # The audit log and the receipts name files.
        check_utf8("state", self.folder)
        check_utf8("keys", self.keys)
        check_apart(self.folder, self.keys)
        self.notices: list[str] = []
        self.requests = Requests(
            self.folder / "requests", record=self._record, agree=self._agree_on_requests
        )
        self.receipts = self.folder / "receipts"
        self.scan_windows = self.folder / "fingerprints"
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
    def _claimed(self) -> tuple[OperatorKey, Account]:
        found = claim(self.folder, self.keys, self.notices.append)
        # Git, and with it `flwr run`, which sends the app to every client, leave what
        # lies here alone, should it lie in a checkout.
        for folder in (self.folder, self.keys):
            hidden = folder / ".gitignore"
            if folder.is_dir() and not hidden.exists():
                write_bytes(hidden, b"*\n")
        return found

    @property
    def operator(self) -> OperatorKey:
        """The operator's key; made, with the federation's id, when it is first needed.

        Raises FedNegError if the keys are another federation's.
        """
        return self._claimed[0]

    @cached_property
    def audit(self) -> AuditLog:
        """The audit log."""
        head = self.keys / HEAD_NAME
        return AuditLog(self.folder / LOG_NAME, self.operator, head=head)

    @property
    def account(self) -> Account:
        """What the audit log says, now."""
        return self._claimed[1].refresh()

    def excluded(self) -> frozenset[int]:
        """Return who has asked to be forgotten, by the files or by the log."""
        return self.requests.excluded() | self.account.requests.keys()

    def known_requests(self) -> list[Request]:
        """Return all requests, also one that the log alone has; nothing is written.

        A full disk may have come between its entry and its file. Who may only watch,
        and not read the log or the public key, is shown the files.
        """
        found = self.requests.all()
        try:
            public = load_public(self.keys / PUBLIC_NAME)
            newest = newest_of((ACCEPTED, DONE), self.folder / LOG_NAME, public)
            if newest is None or newest["event"] != ACCEPTED:
                return found
            request = request_of(newest["facts"])
        except FedNegError:
            return found
        is_there = any(r.client_id == request.client_id for r in found)
        return found if is_there else [*found, request]

    def _record(self, event: str, /, **facts: Any) -> None:
        self.audit.append(event, **facts)

    @cached_property
    def vault(self) -> Vault:
        """The keys that seal what the state holds of each client."""
        return Vault(self.keys / VAULT_NAME)

    def pins(self) -> Pins:
        """Return which key belongs to which client."""
        return Pins(self.roster, record=self._record, agree=self._agree_on_roster)

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
        """Be the one run of this federation, after its log and files were compared.

        Raises
        ------
        FedNegError
            If there is another run, or state, keys and log are not one federation's, or
            a file is not what the log says: it is named.
        """
        _ = self.operator  # before a new folder is made, with a lock in it
        with locked(self.folder / "lock", "the federation", timeout_s=0):
            self._tighten()
            if self.account.is_old:
                self._migrate()
            self._tidy()
            self._agree()
            self.audit.keep_head()
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

    def ready(self) -> None:
        """Do what must be before requests or keys change.

        Claim the keys, migrate, and hold what the federation is to the log.

        Raises
        ------
        FedNegError
            If state, keys and log are not one federation's, or ``federation.json`` is
            not as the log says.
        """
        if self.account.is_old:
            with self.running():
                pass
        if self._wrong_facts():  # a first run may be between entry and file
            settle(self._wrong_facts())

    def _wrong_facts(self) -> list[Difference]:
        """Return how ``federation.json`` is wrong; what a kill left is a run's."""
        found = of_facts(self._facts, self.account)
        return [difference for difference in found if difference.complete is None]

    # -- the log and the files ---------------------------------------------------------

    def _agree(self) -> None:
        """Compare everything with the log; complete what a kill left undone."""
        with self.requests.changing():
            self._agree_on_requests()
        with self.pins().changing():
            pass  # it compares by itself
        account = self.account
        checkpoints = Checkpoints(self.folder / "checkpoints")
        settle(
            [
                *of_keys(self.keys, account),
                *of_facts(self._facts, account),
                *of_checkpoints(checkpoints, account),
                *of_sealing(self.keys, checkpoints, account),
                *of_rest(checkpoints, account),
                *of_receipts(self.receipts, account),
            ],
            self.notices.append,
        )
        self.notices += notices_of(self.folder, account)

    def _agree_on_requests(self) -> None:
        settle(of_requests(self.requests, self.account), self.notices.append)
        self.check_scan_windows()

    def check_scan_windows(self) -> None:
        """Raise FedNegError unless a purge can know what to look for, of everybody."""
        checkpoints = Checkpoints(self.folder / "checkpoints")
        # A run, which may be another process, writes them.
        settle(
            lasting(
                lambda: of_scan_windows(self.scan_windows, checkpoints, self.account)
            )
        )

    def _agree_on_roster(self, pins: Pins) -> None:
        settle(of_roster(pins, self.account), self.notices.append)

    def _migrate(self) -> None:
        """Bring a state of schema 1 to this one, with an entry that says so."""
        schema, facts = read_facts(self._facts) or (OLD_SCHEMA, None)
        account = self.account
        if schema != OLD_SCHEMA:
            raise FedNegError(
                f"{self._facts} is of schema {schema}, and {account.path} of schema "
                f"{OLD_SCHEMA}: it is an older log; restore the newer one"
            )
        federation = id_of_old(self.folder, self.keys, account, facts)
        checkpoints = self.checkpoints(
            every=1, encrypt=facts is not None and facts.encrypt
        )
        found = found_in(
            self.requests,
            self.receipts,
            self.scan_windows,
            self.roster,
            checkpoints,
            account,
        )
        made = {"settings": None} if facts is None else entered(facts)
        self.audit.append(MIGRATED, id=federation, **made, **found)
        bind(self.folder, self.keys, federation)
        self.notices.append(f"{self.folder} was migrated from schema 1 to {SCHEMA}")

    def _tidy(self) -> None:
        """Remove what a killed run left half-written: it may hold anything."""
        for path in (self.model, self.history, self._status, self._facts):
            for left in leftovers(self.folder, f".{path.name}.*"):
                left.unlink(missing_ok=True)
        for folder in (self.receipts, self.scan_windows, self.vault.folder):
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
        found = read_facts(self._facts)
        return None if found is None else found[1]

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
        self,
        fixed: Mapping[str, Any],
        overrides: Sequence[str],
        *,
        deployed: bool,
        encrypt: bool,
    ) -> Facts:
        """Return what the federation is, written down if this is its first run.

        Parameters
        ----------
        fixed : mapping
            Settings that no later run may change.
        overrides, deployed, encrypt
            As in `Facts`.

        Raises
        ------
        FedNegError
            If the settings are another federation's; it names one.
        """
        found = self.facts()
        if found is not None and found.fixed != fixed and self._is_unused(fixed):
            # An app's first strategy may have been refused in its first round.
            remove(self._facts)
            found = None
        if found is None:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            for override in overrides:  # the audit log has them
                check_utf8("an override", override)
            facts = Facts(
                self.account.federation,
                now,
                fixed,
                list(overrides),
                deployed,
                encrypt,
            )
            self.audit.append(MADE, id=facts.id, **entered(facts))
            write_facts(self._facts, facts)
            return facts
        check_same(found, fixed, deployed=deployed, folder=self.folder)
        return found

    def _is_unused(self, fixed: Mapping[str, Any]) -> bool:
        """Return whether an app's federation has neither a model nor a request yet."""
        account = self.account
        return APP in fixed and not (account.line or account.requests)

    def serve(self, content: bytes, *, server_round: int, model: str) -> None:
        """Put a model in service, with its entry first unless the log has it already.

        Parameters
        ----------
        content : bytes
            Of the file.
        server_round : int
            Of the model's checkpoint.
        model : str
            Its digest.
        """
        sha256, served = hashlib.sha256(content).hexdigest(), self.account.served
        if served is None or served.sha256 != sha256:
            self.audit.append(SERVED, round=server_round, model=model, sha256=sha256)
        write_bytes(self.model, content)

    def write_status(self, status: Mapping[str, Any]) -> None:
        """Replace status.json."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        content = {"updated": now, **status}
        write_bytes(self._status, (json.dumps(content, indent=1) + "\n").encode())

    def read_status(self) -> dict[str, Any]:
        """Return status.json; empty before the first run."""
        try:
            found: dict[str, Any] = read_json(self._status)
            if not isinstance(found, dict):
                raise ValueError("it is no JSON object")
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise FedNegError(f"{self._status} cannot be read: {error}") from None
        return found
