"""What makes forgetting final: the purge, its proof, and the receipt.

Before the rows of the forgotten go, digests of what may be found nowhere in the end are
taken: their contributions, momentum rows and last local models, and every global model
that contains them (the old one, minus all other rows, would give the contribution
back). After the repair every file that holds them is removed or made again, keys are
destroyed, and every byte of the state folder is searched.

Longer than others: what is taken down before, done after and signed in the end must
name the same things; a receipt is made where the purge is.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedneg.core.errors import FedNegError
from fedneg.core.files import write_bytes
from fedneg.core.parameters import Vector, digest_of_model
from fedneg.core.reading import read_regular
from fedneg.evaluation.isolation import left_of
from fedneg.ledger.checkpoint import Checkpoints
from fedneg.ledger.tensors import sync_folder
from fedneg.records.account import PURGING, RECEIPT
from fedneg.records.kept import Kept
from fedneg.records.receipts import signed_receipt, write_receipt
from fedneg.records.requests import DONE, Request
from fedneg.records.scan import ScanResult, scan
from fedneg.records.scan_windows import ScanWindow, dumped, loaded, scan_windows
from fedneg.records.sealed import Sealed
from fedneg.records.state import State
from fedneg.records.walk import shown
from fedneg.strategies import method_named
from fedneg.strategies.method import NOTHING

if TYPE_CHECKING:
    from fedneg.federation import Federation

SCHEMA = 1
BLOCK = 16  # numbers in a scan window
SUM = "sum"  # of the contributions of clients that leave together
NOT_ERASED = (
    "models that were handed out before: their holders must delete them",
    "copies outside the state folder: backups, and what a SuperLink's database keeps "
    "of deleted messages (fedneg vacuum DATABASE; fedneg scan --state DIR PATH)",
    "what the other clients learned while this client took part",
)


class Erasure:
    """Takes a client out of everything that a federation keeps.

    Parameters
    ----------
    state : State
    federation : Federation
    checkpoints : Checkpoints
    """

    def __init__(
        self, state: State, federation: "Federation", checkpoints: Checkpoints
    ) -> None:
        self.state, self.federation = state, federation
        self.checkpoints = checkpoints
        self._took_part: set[int] = set()

    # -- before ------------------------------------------------------------------------

    def must_go(
        self, clients: Sequence[int], parameters: Vector
    ) -> dict[int, dict[str, Vector]]:
        """Return, by client and name, what must be found nowhere in the end."""
        self._took_part = self._who_took_part(clients)
        return {k: self._vectors(k, parameters) for k in clients}

    def _who_took_part(self, clients: Sequence[int]) -> set[int]:
        """Return of whom memory or a checkpoint holds something."""
        ledger = self.federation.strategy.ledger
        found = {k for entry in ledger.participation for k in entry.weights}
        found |= {k for k in clients if ledger.contributions[k].any()}
        for number in self.checkpoints.rounds():
            try:
                found |= set(Kept.read(self.checkpoints, number).contains)
            except FedNegError:
                continue  # damaged: its files go, whatever they hold
        return found

    def _vectors(self, client_id: int, parameters: Vector) -> dict[str, Vector]:
        """Return what memory and checkpoints hold of a client, by name."""
        ledger = self.federation.strategy.ledger
        vectors = {"contribution": ledger.contributions[client_id]}
        if ledger.buffers is not None:
            vectors["momentum"] = ledger.buffers[client_id]
        if client_id in ledger.local:
            vectors["last local model"] = ledger.local[client_id]
        vectors["global model"] = parameters
        for number in self.checkpoints.rounds():
            try:
                found = self.checkpoints.rows(number, client_id)
            except FedNegError:
                continue  # damaged: its files go, whatever they hold
            for name, vector in found.items():
                vectors[f"{name}, round {number}"] = vector
        # Copies: the rows are about to become zero.
        return {name: np.array(vector) for name, vector in vectors.items()}

    def left(
        self, must_go: Mapping[int, Mapping[str, Vector]], after: Vector
    ) -> dict[str, Any]:
        """Return how near arithmetic on what is left comes to the contributions.

        Right after forgetting, before what the method changed is folded away: for each
        client and, of several, for their sum (`fedneg.evaluation.isolation`).
        """
        strategy = self.federation.strategy
        own = {str(k): v["contribution"] for k, v in must_go.items()}
        if len(own) > 1:
            rows = [row.astype(np.float64) for row in own.values()]
            own[SUM] = np.sum(rows, axis=0)
        found = left_of(
            list(own.values()),
            strategy.ledger,
            seed=strategy.initial,
            before=next(iter(must_go.values()))["global model"],
            after=after,
            starts_over=strategy.starts_over,
            parts=strategy.parts(),
        )
        return {name: asdict(left) for name, left in zip(own, found, strict=True)}

    def scan_window_files(
        self, must_go: Mapping[int, Mapping[str, Vector]], *, stays: Vector
    ) -> dict[int, bytes]:
        """Return the files with digests of what `must_go` returned, by client.

        Weights that the clients never moved are everybody's: the same in the initial
        parameters, or in the model without them (`stays`). Nothing is of a client that
        never took part: no model contains it.
        """
        made = {}
        for client_id, vectors in must_go.items():
            took_part = client_id in self._took_part
            own = {
                name: _beyond(vector, self.federation.initial, stays)
                for name, vector in vectors.items()
                if took_part
            }
            made[client_id] = dumped(client_id, scan_windows(own), took_part=took_part)
        return made

    def write_scan_windows(self, made: Mapping[int, bytes]) -> None:
        """Write what `scan_window_files` returned; the log names the digests."""
        folder = self.state.scan_windows
        for client_id, content in made.items():
            write_bytes(folder / f"forget-{client_id}.json", content)
        if made:
            sync_folder(folder)

    def _scan_windows(self, client_id: int) -> list[ScanWindow]:
        path = self.state.scan_windows / f"forget-{client_id}.json"
        try:
            return loaded(read_regular(path))[1]
        except (OSError, ValueError) as error:
            raise FedNegError(f"{path} cannot be read: {error}") from None

    # -- after -------------------------------------------------------------------------

    def finish(
        self,
        work: Mapping[str, Any],
        after: Mapping[str, Any],
        answers: Mapping[int, Mapping[str, float]],
        unanswered: Mapping[int, str],
        parameters: Vector,
        server_round: int,
    ) -> None:
        """Purge, prove, write the receipts, and mark the requests done.

        It may be repeated from the start, however far a killed run came.

        Parameters
        ----------
        work : mapping
            As `fedneg.live.job.Work`.
        after : mapping
            What was measured of the model to hand over.
        answers : mapping of client id to mapping
            What the remaining clients measured of it on their validation parts.
        unanswered : mapping of client id to str
            Those of them that did not, or not as can be believed, and why.
        parameters : Vector, shape (d,)
            That model.
        server_round : int
            Of its checkpoint.

        Raises
        ------
        FedNegError
            If a file still holds what had to go: it is named, the requests stay open.
        """
        clients: list[int] = work["clients"]
        self.federation.progress.step("purging what holds the forgotten")
        self.checkpoints.verify(server_round)
        # What is searched for is what was written down.
        self.state.check_scan_windows()
        # From here on nothing older may be gone back to.
        self.state.audit.append(PURGING, clients=clients, round=server_round)
        gone = self._purge(
            clients, parameters, server_round, unlearn_round=work["unlearn_round"]
        )
        requests = [r for r in self.state.requests.all() if r.client_id in clients]
        done_before = [r for r in self.state.requests.all() if not r.is_open]
        found = self._prove([r.client_id for r in (*requests, *done_before)])
        purged = self.state.audit.append(
            "purged",
            clients=clients,
            files=gone["files"],
            keys=gone["keys"],
            scanned_files=found.files,
            scanned_bytes=found.bytes,
            not_searched=len(found.not_searched),
        )
        rechecked = [self._recheck(r, found) for r in done_before]
        for request in requests:
            content = {
                **self._asked(request),
                "done": self._done(work, server_round),
                "measured": _measured(work, after, answers, unanswered),
                "models": {
                    "before": work["before"]["model"],
                    "unlearned": work["unlearned"]["model"],
                    "after": after["model"],
                },
                "purged": {
                    **gone,
                    **found.told(self.state.folder),
                    "fingerprints": len(self._scan_windows(request.client_id)),
                    **self._isolable(request.client_id, work),
                },
                "rechecked": rechecked,
                "remains": self._remains(request.client_id, work),
                "not_erased": list(NOT_ERASED),
                "audit_entry": purged["digest"],
            }
            path = self.state.receipts / f"{request.id}.json"
            receipt = signed_receipt(content, self.state.operator)
            digest = hashlib.sha256(receipt).hexdigest()
            self.state.audit.append(RECEIPT, request=request.id, sha256=digest)
            write_receipt(path, receipt)
        self.state.requests.mark(clients, DONE)

    def _purge(
        self,
        clients: Sequence[int],
        parameters: Vector,
        server_round: int,
        *,
        unlearn_round: int,
    ) -> dict[str, list[str]]:
        """Remove or make again every file that holds the clients; return which."""
        self.checkpoints.verify(server_round)
        files: list[str] = []
        ledger, form = self.federation.strategy.ledger, self.checkpoints.form
        # The others trained them from a model that contained the clients.
        stale = ledger.forget_local_before(unlearn_round)
        if isinstance(form, Sealed):
            # What all clients went into is sealed anew, before its key is destroyed.
            form.forgotten |= set(clients)
            self.state.vault.next_model_key()
        if stale or isinstance(form, Sealed):
            facts = self.checkpoints.facts(server_round)
            self.checkpoints.write(server_round, parameters, ledger, facts)
            self.checkpoints.verify(server_round)
        for number in self.checkpoints.rounds():
            if number != server_round:
                files += [path.name for path in self.checkpoints.remove(number)]
        self.checkpoints.tidy()
        if self.state.model.exists():
            files.append(self.state.model.name)
        self.state.serve(
            self.federation.bytes_of(parameters),
            server_round=server_round,
            model=digest_of_model(parameters),
        )
        keys: list[str] = []
        if isinstance(self.checkpoints.form, Sealed):
            # Backups of what was sealed with these can be opened by nobody any more.
            keys = self.state.vault.destroy(list(clients))
        return {"files": files, "keys": keys}

    def _prove(self, clients: Sequence[int]) -> ScanResult:
        """Search every byte of the state folder; raise what is still there."""
        wanted = [f for k in clients for f in self._scan_windows(k)]
        found = scan([self.state.folder], wanted)
        if found.matches:
            match = found.matches[0]
            self.state.audit.append("purge failed", file=shown(match.path))
            raise FedNegError(
                f"{shown(match.path)} still holds a {match.name} of forgotten clients "
                f"(byte {match.offset}); {self._remedy(match.path)}, the requests stay "
                "open"
            )
        return found

    def _remedy(self, path: Path) -> str:
        """Return what to do about a file that still holds what had to go."""
        if path.parent == self.checkpoints.folder:
            return (
                "nothing else holds the federation, so keep it and run again with "
                "retrain=scratch, which makes it anew"
            )
        return "remove it and run again"

    # -- what the receipt says ---------------------------------------------------------

    def _asked(self, request: Request) -> dict[str, Any]:
        facts = self.state.known_facts()
        return {
            "schema": SCHEMA,
            "request": request.id,
            "client": request.client_id,
            "federation": facts.id,
            "asked": {
                "received": request.received,
                "due": request.due,
                "reason": request.reason,
            },
        }

    def _done(self, work: Mapping[str, Any], server_round: int) -> dict[str, Any]:
        recovery = [
            {
                "server_round": row["server_round"],
                "clients": row["clients"],
                "failures": row["failures"],
            }
            for row in self.federation.history
            if work["unlearn_round"] < int(str(row["server_round"])) <= server_round
        ]
        return {
            "completed": datetime.now(UTC).isoformat(timespec="seconds"),
            "method": {k: v for k, v in work["method"].items() if k != "left"},
            "forgotten_together": work["clients"],
            "unlearn_round": work["unlearn_round"],
            "recovery": work["mode"],
            "recovery_rounds": recovery,
        }

    def _recheck(self, request: Request, found: ScanResult) -> dict[str, Any]:
        """Return whether an earlier request still holds."""
        ledger = self.federation.strategy.ledger
        return {
            "request": request.id,
            "row_is_zero": not ledger.contributions[request.client_id].any(),
            "excluded": request.client_id in self.state.requests.excluded(),
            "matches": len(found.matches),
        }

    def _isolable(self, client_id: int, work: Mapping[str, Any]) -> dict[str, Any]:
        """Return whether what is left gives the contribution back, and how nearly."""
        left = work["method"].get("left")
        if work["mode"] == "scratch":
            return {"isolable": False}
        if left is None:  # forgotten by a version that did not measure it
            return {"isolable": not self._remains(client_id, work).startswith(NOTHING)}
        found = {name: left[name] for name in (str(client_id), SUM) if name in left}
        return {
            "isolable": any(entry["isolable"] for entry in found.values()),
            "left": {
                (SUM if name == SUM else "contribution"): {
                    k: round(v, 4) for k, v in entry.items() if k != "isolable"
                }
                for name, entry in found.items()
            },
        }

    def _remains(self, client_id: int, work: Mapping[str, Any]) -> str:
        """Return what of the contribution the method left in the model."""
        if work["mode"] == "scratch":
            return f"{NOTHING}: trained from the initial parameters without the client"
        method = work["method"]
        if client_id in method.get("absent", ()):
            return f"{NOTHING}: the client took part in no round of this model"
        # The present run may have another method than the one that forgot.
        return method_named(method.get("strategy")).remains(method, client_id)


def _beyond(vector: Vector, *others: Vector) -> Vector:
    """Return a vector with zeros for every stretch that shares a number with another.

    Digests are taken of stretches of `BLOCK` numbers, never of zeros.
    """
    found = np.array(vector, dtype=np.float32)
    whole = found.size // BLOCK * BLOCK
    for other in others:
        same = (found[:whole] == other[:whole]).reshape(-1, BLOCK).any(axis=1)
        found[:whole].reshape(-1, BLOCK)[same] = 0
    return found


def _measured(
    work: Mapping[str, Any],
    after: Mapping[str, Any],
    answers: Mapping[int, Mapping[str, float]],
    unanswered: Mapping[int, str],
) -> dict[str, Any]:
    """Return the numbers of the three models; those of clients were checked."""

    def numbers(found: Mapping[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in found.items() if k != "model"}

    total = sum(int(a["num_val"]) for a in answers.values())
    right = sum(a["val_accuracy"] * a["num_val"] for a in answers.values())
    validation = {
        "clients": len(answers),
        "examples": total,
        "accuracy": right / total if total else None,
        "left_out": {str(k): why for k, why in unanswered.items()},
    }
    return {
        "before": numbers(work["before"]),
        "unlearned": numbers(work["unlearned"]),
        "after": {**numbers(after), "validation_of_remaining_clients": validation},
    }
