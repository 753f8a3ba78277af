"""What the audit log says a federation has come to: the truth that files are held to.

Every act has its entry first, so an entry implies that what the entries before it in
its chain name was done: only the act of the newest may be missing, after a kill. There
are three chains, each written by who holds its lock: requests, the roster of keys, and
the run (checkpoints, rollbacks, purges, receipts).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from fedneg.core.errors import FedNegError
from fedneg.records.audit import follow
from fedneg.records.entries import BEGINNING
from fedneg.records.pins import LISTED, REMOVED, SEEN, Pin
from fedneg.records.requests import ACCEPTED, DONE, UNLEARNED
from fedneg.records.signing import PublicKey

BEGUN, MADE, MIGRATED = "federation begun", "federation made", "migrated"
KEPT, RESUMED, ROLLBACK = "kept", "resumed", "rollback"
PURGING, RECEIPT = "purging", "receipt"
# The model in service; a run that came to its end; a model that is not handed over.
SERVED, ENDED, GATE = "served", "ended", "gate"

# Beside id and settings, what an entry has of ``federation.json``.
TOLD = ("created", "overrides", "deployed", "encrypt")
CHAINS = {
    **dict.fromkeys((ACCEPTED, DONE), "requests"),
    **dict.fromkeys((LISTED, SEEN, REMOVED), "roster"),
    **dict.fromkeys((MADE, MIGRATED, KEPT, UNLEARNED, RESUMED, ROLLBACK), "run"),
    **dict.fromkeys((PURGING, RECEIPT, SERVED, ENDED, GATE), "run"),
}


@dataclass
class Asked:
    """What the log says of one request; a migration writes these names down.

    Attributes
    ----------
    received, due, reason_sha256 : str
        As in the request's file; the words themselves are no matter of the log.
    status : str
        accepted, unlearned or done, or purging.
    unlearned_round : int
    receipts : list of str
        The sha256 of its receipt; several if a kill had it written again.
    fingerprints : str or None
        The sha256 of the file of its scan windows; empty if an older fedneg, which did
        not say it, wrote that file; None as long as there need be none.
    fingerprints_round : int
        Of the checkpoint that was written after that file.
    """

    received: str
    due: str
    reason_sha256: str
    status: str = ACCEPTED
    unlearned_round: int = 0
    receipts: list[str] = field(default_factory=list)
    fingerprints: str | None = None
    fingerprints_round: int = 0


class Served(NamedTuple):
    """The model in service: its round, its digest, and the sha256 of its file."""

    round: int
    model: str
    sha256: str


class Account:
    """A log, read as far as it goes.

    Parameters
    ----------
    path : Path
    public : PublicKey

    Attributes
    ----------
    entries : int
    head : str
        Digest of the last.
    federation : str
        Its id; empty before the first entry.
    settings : mapping or None
        What no later run may change; None before the first run.
    made : mapping
        What else federation.json says, by its names there; older logs say less.
    is_old : bool
        Whether it is of a fedneg that wrote no ids and no checkpoints into it.
    found : set of str
        What an old log names: requests accepted.
    requests : dict of int to Asked
    pins : dict of int to Pin
    known, line : list of (int, str)
        Round and model digest of every checkpoint since the last rollback; and those
        in whose line the federation stands, of which the last two may be restored.
    served : Served or None
        None before the first; older logs say nothing of it.
    is_serving : bool
        Whether its entry may stand alone: since then there were only starts, which a
        kill may have ended before they put it there, or rollbacks.
    newest : dict of str to mapping
        The newest entry of each chain.
    has_checkpoint : bool
        Whether an entry implies that a checkpoint was whole once.
    purged : set of int
        Client ids whose keys may be destroyed, since a purge began.
    """

    def __init__(self, path: Path, public: PublicKey) -> None:
        self.path, self.public = path, public
        self._clear()

    def _clear(self) -> None:
        self.entries, self.head, self._offset = 0, BEGINNING, 0
        self.federation, self.settings = "", None
        self.made: dict[str, Any] = {}
        self.is_old = False
        self.found: set[str] = set()
        self.old_receipts: dict[str, str] = {}
        self.requests: dict[int, Asked] = {}
        self.pins: dict[int, Pin] = {}
        self.known: list[tuple[int, str]] = []
        self.line: list[tuple[int, str]] = []
        self.newest: dict[str, Mapping[str, Any]] = {}
        self.has_checkpoint = False
        self.purged: set[int] = set()
        self._digests = bytearray()  # 32 bytes for each entry
        self.served: Served | None = None
        self.is_serving = False

    settings: Mapping[str, Any] | None

    def refresh(self) -> "Account":
        """Read what was added since; return itself.

        A last line that a kill left without its end does not count, as it does not for
        who adds to the log.

        Raises
        ------
        FedNegError
            If an entry is broken: it is named.
        """
        try:
            size = self.path.stat().st_size
            if size == self._offset:
                return self
            if size < self._offset:
                self._clear()
            for entry, end in follow(
                self.path, self.public, self._offset, self.entries, self.head
            ):
                self.enter(entry)
                self._offset = end
        except FileNotFoundError:
            self._clear()
        except OSError as error:
            raise FedNegError(
                f"the audit log {self.path} cannot be read: {error.strerror}"
            ) from None
        return self

    def enter(self, entry: Mapping[str, Any]) -> None:
        """Take one whole entry into account; they come in their order."""
        event, facts = entry["event"], entry["facts"]
        self.entries, self.head = entry["seq"], entry["digest"]
        self._digests += bytes.fromhex(self.head)
        if self.entries == 1 and event != BEGUN:
            self.is_old = True
        try:
            if self.is_old and event != MIGRATED:
                self._enter_old(event, facts)
            elif event in _WAYS:
                _WAYS[event](self, facts)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FedNegError(
                f"entry {self.entries} of {self.path} ({event!r}) is not as fedneg "
                f"writes it: {error!r}"
            ) from None
        if CHAINS.get(event) == "run" and event not in (RESUMED, ROLLBACK):
            self.is_serving = event == SERVED
        if event in CHAINS:
            self.newest[CHAINS[event]] = entry

    def is_newest(self, event: str) -> bool:
        """Return whether the newest entry of an event's chain is of this event."""
        newest = self.newest.get(CHAINS[event])
        return newest is not None and newest["event"] == event

    def digest_of(self, seq: int) -> str:
        """Return the digest of an entry, counted from 1; empty if it ends before."""
        return self._digests[32 * (seq - 1) : 32 * seq].hex()

    @property
    def forgotten(self) -> set[int]:
        """Client ids whose requests are done."""
        return {k for k, asked in self.requests.items() if asked.status == DONE}

    def restorable(self) -> list[tuple[int, str]]:
        """Return round and model of the checkpoints that a run may go on from."""
        last_two = list(dict.fromkeys(n for n, _ in reversed(self.line)))[:2]
        return [(n, model) for n, model in self.line if n in last_two]

    @property
    def standing(self) -> int | None:
        """The round of the checkpoint that must be there, since it is where it stands.

        Of the last one the newest entry may stand alone: then it is the one before.
        """
        alone = self.is_newest(KEPT) or self.is_newest(UNLEARNED)
        rounds = [number for number, _ in (self.line[:-1] if alone else self.line)]
        return rounds[-1] if rounds else None

    # -- one way for each event --------------------------------------------------------

    def _enter_old(self, event: str, facts: Mapping[str, Any]) -> None:
        if event == MADE:
            self.federation = facts["id"]
        elif event == ACCEPTED:
            self.found.add(facts["request"])
        elif event == RECEIPT:
            self.old_receipts[facts["request"]] = facts["sha256"]

    def _begun(self, facts: Mapping[str, Any]) -> None:
        if self.entries != 1:
            raise ValueError("a federation begins once")
        self.federation = facts["id"]
        self.pins = _pins(facts.get("roster", {}))

    def _made(self, facts: Mapping[str, Any]) -> None:
        self.settings, self.made = facts["settings"], _told(facts)

    def _migrated(self, facts: Mapping[str, Any]) -> None:
        if not self.is_old:
            raise ValueError("only a log of an older fedneg is migrated, and once")
        self.is_old = False
        self.federation, self.settings = facts["id"], facts["settings"]
        self.made = _told(facts)
        self.requests = {int(k): Asked(**a) for k, a in facts["requests"].items()}
        for client_id, asked in self.requests.items():
            if asked.status != ACCEPTED:
                self.purged.add(client_id)  # it may have been killed in its purge
                asked.fingerprints = asked.fingerprints or ""
        self.pins = _pins(facts["roster"])
        self.known = [(int(n), model) for n, model in facts["checkpoints"]]
        self.line = list(self.known)
        self.has_checkpoint = bool(self.known)

    def _accepted(self, facts: Mapping[str, Any]) -> None:
        client_id = int(facts["client"])
        found = Asked(facts["received"], facts["due"], facts["reason_sha256"])
        asked = self.requests.setdefault(client_id, found)
        if asked is not found and not facts.get("remade"):
            raise ValueError(f"client {client_id} asks once")
        asked.reason_sha256 = found.reason_sha256

    def _kept(self, facts: Mapping[str, Any]) -> None:
        self.has_checkpoint |= bool(self.line)
        self.known.append((int(facts["round"]), facts["model"]))
        self.line.append(self.known[-1])

    def _unlearned(self, facts: Mapping[str, Any]) -> None:
        self._kept(facts)
        for client_id in facts["clients"]:
            asked = self.requests[client_id]
            asked.status, asked.unlearned_round = UNLEARNED, facts["round"]
            # None are named when one begins over, from scratch: the file stays.
            found = facts.get("fingerprints", {str(client_id): ""})
            if str(client_id) in found:
                asked.fingerprints = found[str(client_id)]
                asked.fingerprints_round = facts["round"]

    def _resumed(self, facts: Mapping[str, Any]) -> None:
        # Round 0: the first checkpoint was never written, and it begins anew.
        self.has_checkpoint |= facts["round"] > 0
        self.line = [kept for kept in self.line if kept[0] <= facts["round"]]
        for asked in self.requests.values():
            if asked.status == UNLEARNED and asked.fingerprints_round > facts["round"]:
                asked.fingerprints = None  # it is unlearned again, and they are written

    def _served(self, facts: Mapping[str, Any]) -> None:
        self.served = Served(int(facts["round"]), facts["model"], facts["sha256"])

    def _rollback(self, facts: Mapping[str, Any]) -> None:
        self._resumed(facts)
        self.known = [kept for kept in self.known if kept[0] <= facts["round"]]
        for asked in self.requests.values():
            if asked.status == UNLEARNED and asked.unlearned_round > facts["round"]:
                asked.status = ACCEPTED

    def _purging(self, facts: Mapping[str, Any]) -> None:
        self.has_checkpoint = True
        self.line = [k for k in self.line if k[0] == facts["round"]][-1:]
        self.known = list(self.line)
        for client_id in facts["clients"]:
            self.requests[client_id].status = PURGING
            self.purged.add(client_id)

    def _receipt(self, facts: Mapping[str, Any]) -> None:
        client_id = int(facts["request"].removeprefix("forget-"))
        self.requests[client_id].receipts.append(facts["sha256"])

    def _done(self, facts: Mapping[str, Any]) -> None:
        for client_id in facts["clients"]:
            self.requests[client_id].status = DONE

    def _pinned(self, facts: Mapping[str, Any]) -> None:
        pin = Pin(facts["key"], facts["source"], facts["since"])
        self.pins[int(facts["client"])] = pin

    def _removed(self, facts: Mapping[str, Any]) -> None:
        self.pins.pop(int(facts["client"]), None)


def _told(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an entry has of the rest of ``federation.json``."""
    return {name: facts[name] for name in TOLD if name in facts}


def _pins(found: Mapping[str, Any]) -> dict[int, Pin]:
    return {int(k): Pin(**pin) for k, pin in found.items()}


_WAYS: dict[str, Callable[[Account, Mapping[str, Any]], None]] = {
    BEGUN: Account._begun,
    MADE: Account._made,
    MIGRATED: Account._migrated,
    ACCEPTED: Account._accepted,
    KEPT: Account._kept,
    UNLEARNED: Account._unlearned,
    RESUMED: Account._resumed,
    SERVED: Account._served,
    ROLLBACK: Account._rollback,
    PURGING: Account._purging,
    RECEIPT: Account._receipt,
    DONE: Account._done,
    LISTED: Account._pinned,
    SEEN: Account._pinned,
    REMOVED: Account._removed,
}
