"""What makes forgetting final: the purge, its proof, and the receipt.

After the repair every file that holds the forgotten is removed or made again, keys are
destroyed, and every byte of the state folder is searched for what they left behind
(remnants.py), which was taken down before their rows went.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedneg.core.errors import FedNegError
from fedneg.core.parameters import Vector, digest_of_model
from fedneg.lasting.receipt import content_of, done_of
from fedneg.lasting.remnants import Remnants
from fedneg.lasting.work import Work
from fedneg.ledger.checkpoint import Checkpoints
from fedneg.records.account import PURGING, RECEIPT
from fedneg.records.receipts import signed_receipt, write_receipt
from fedneg.records.requests import DONE, Request
from fedneg.records.scan import ScanResult, scan
from fedneg.records.sealed import Sealed
from fedneg.records.state import State
from fedneg.records.walk import shown


class Erasure:
    """Takes clients out of everything that a federation keeps.

    Parameters
    ----------
    state : State
    checkpoints : Checkpoints
    remnants : Remnants
        Of the same checkpoints, and of whoever trains.
    """

    def __init__(
        self, state: State, checkpoints: Checkpoints, remnants: Remnants
    ) -> None:
        self.state, self.trainer = state, remnants.trainer
        self.checkpoints, self.remnants = checkpoints, remnants

    def finish(
        self,
        work: Work,
        parameters: Vector,
        server_round: int,
        *,
        history: Sequence[Mapping[str, Any]],
        measured: Mapping[str, Any],
        remains: Callable[[int, Work], str],
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """Purge, prove, write the receipts, and mark the requests done.

        It may be repeated from the start, however far a killed run came.

        Parameters
        ----------
        work : Work
        parameters : Vector, shape (d,)
            The model to hand over.
        server_round : int
            Of its checkpoint.
        history : sequence of mapping
            A row for every round.
        measured : mapping
            What the receipts say that was measured.
        remains : callable
            Returns what the method left of a client's contribution, for its receipt.
        more : mapping, optional
            What the receipts say of what was done beside what all do.

        Raises
        ------
        FedNegError
            If a file still holds what had to go: it is named, the requests stay open.
        """
        clients = work.clients
        self.checkpoints.verify(server_round)
        # What is searched for is what was written down.
        self.state.check_scan_windows()
        # From here on nothing older may be gone back to.
        self.state.audit.append(PURGING, clients=clients, round=server_round)
        gone = self._purge(
            clients, parameters, server_round, unlearn_round=work.unlearn_round
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
        done = {**done_of(work, history, server_round), **(more or {})}
        for request in requests:
            scan_windows = self.remnants.scan_windows(request.client_id)
            content = content_of(
                request,
                work,
                federation=self.state.known_facts().id,
                done=done,
                measured=measured,
                after=digest_of_model(parameters),
                purged={
                    **gone,
                    **found.told(self.state.folder),
                    "fingerprints": len(scan_windows),
                },
                rechecked=rechecked,
                remains=remains(request.client_id, work),
                audit_entry=purged["digest"],
            )
            self._hand_out(request, content)
        self.state.requests.mark(clients, DONE)

    def _hand_out(self, request: Request, content: Mapping[str, Any]) -> None:
        """Sign and write a receipt, with its entry first."""
        receipt = signed_receipt(content, self.state.operator)
        digest = hashlib.sha256(receipt).hexdigest()
        self.state.audit.append(RECEIPT, request=request.id, sha256=digest)
        write_receipt(self.state.receipts / f"{request.id}.json", receipt)

    def _purge(
        self,
        clients: Sequence[int],
        parameters: Vector,
        server_round: int,
        *,
        unlearn_round: int,
    ) -> dict[str, list[str]]:
        """Remove or make again every file that holds the clients; return which."""
        files: list[str] = []
        ledger, form = self.trainer.ledger, self.checkpoints.form
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
            self.trainer.bytes_of(parameters),
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
        wanted = [f for k in clients for f in self.remnants.scan_windows(k)]
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

    def _recheck(self, request: Request, found: ScanResult) -> dict[str, Any]:
        """Return whether an earlier request still holds."""
        row = self.trainer.row_of(request.client_id)
        rows = self.trainer.ledger.contributions
        return {
            "request": request.id,
            "row_is_zero": row is None or not rows[row].any(),
            "excluded": request.client_id in self.state.requests.excluded(),
            "matches": len(found.matches),
        }
