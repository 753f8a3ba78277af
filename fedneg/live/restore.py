"""Go on from the last whole checkpoint: if it is where the log says, and nobody else's.

A run that was killed goes on after the last complete round, with the same bytes. What a
kill left between two files is brought into line here.
"""

import hashlib
from collections.abc import Sequence

from fedneg.core.errors import FedNegError
from fedneg.core.parameters import digest_of_model
from fedneg.ledger.checkpoint import Restored
from fedneg.live.standing import Standing
from fedneg.live.work import Work
from fedneg.records.account import RESUMED
from fedneg.records.agreement.federation import of_model
from fedneg.records.kept import Kept
from fedneg.records.requests import ACCEPTED, UNLEARNED

# A client id that nobody has: of a checkpoint, the global parameters alone.
NOBODY = -1


def restore(standing: Standing) -> None:
    """Go on from the last whole checkpoint, if there is one.

    Raises
    ------
    FedNegError
        If it is not where the log says that the federation stands, or contains a
        client that was forgotten.
    """
    standing.checkpoints.tidy()
    account = standing.state.account
    expected = account.standing
    odd = [d.text for d in of_model(standing.state.model, account)]
    damage: list[str] = []
    found = standing.checkpoints.restore(
        standing.strategy.ledger, damage.append, strict=True
    )
    for text in damage:
        standing.warn(text)
    if found is None:
        _refuse_lost_checkpoints(standing, damage)
        if account.line:  # a kill kept the first from being written
            _resume(standing)
        standing.federation.measure_initial()
    else:
        kept = Kept.of(found.facts, standing.checkpoints.stem(found.rounds))
        _refuse_unlogged(standing, found, kept)
        if expected is not None and found.rounds < expected and not damage:
            standing.warn(
                f"there is no checkpoint of round {expected}, where the federation "
                f"stood; it goes on after round {found.rounds}"
            )
        _take_back(standing, found, kept)
    standing.checkpoints.check_room(standing.strategy.ledger.num_bytes)
    if found is not None and standing.work is None:
        # After a rollback, or a run that was killed before this.
        standing.serve()
    for text in odd:
        again = standing.work is None or _serve_again(standing)
        what = "is made again" if again else "stays so until the next is in service"
        standing.warn(f"{text}; it {what}")
    standing.strategy.forgotten |= {
        r.client_id for r in standing.state.requests.all() if r.status != ACCEPTED
    }
    standing.tell()


def _serve_again(standing: Standing) -> bool:
    """Make the model in service again, if a checkpoint still holds it."""
    served = standing.state.account.served
    if served is None or served.round not in standing.checkpoints.rounds():
        return False
    try:
        found = standing.checkpoints.rows(served.round, NOBODY)["global"]
    except FedNegError:
        return False  # damaged, or its key was destroyed
    content = standing.federation.bytes_of(found)
    if hashlib.sha256(content).hexdigest() != served.sha256:
        return False
    standing.state.serve(content, server_round=served.round, model=served.model)
    return True


def _refuse_lost_checkpoints(standing: Standing, damage: Sequence[str]) -> None:
    """Raise FedNegError if there were checkpoints: the ledger is not made twice."""
    account = standing.state.account
    told = standing.state.read_status().get("kept_round", 0)
    if told or account.has_checkpoint:
        numbers = [n for n in (told, *(n for n, _ in account.line)) if type(n) is int]
        kept = max(numbers, default=0)
        raise FedNegError(
            f"there is no whole checkpoint in {standing.checkpoints.folder}, and there "
            f"was one of round {kept}; bring it back from a backup, or begin anew "
            f"with another state folder{''.join(f' ({text})' for text in damage)}"
        )


def _refuse_unlogged(standing: Standing, found: Restored, kept: Kept) -> None:
    """Raise FedNegError unless the log says that the federation stands there."""
    stem, account = standing.checkpoints.stem(found.rounds), standing.state.account
    named = account.restorable()
    if found.rounds not in [number for number, _ in named]:
        last = " or ".join(str(n) for n in sorted({n for n, _ in named})) or "none"
        raise FedNegError(
            f"{stem} is not where the audit log says that the federation stands "
            f"(after round {last}); bring that checkpoint back from a backup"
        )
    if (found.rounds, digest_of_model(found.parameters)) not in named:
        raise FedNegError(
            f"{stem} holds another model than the audit log says; bring the right "
            "one back from a backup"
        )
    destroyed = standing.state.vault.destroyed() if standing.config.encrypt else set()
    for client_id in sorted(set(kept.contains) & (account.forgotten | destroyed)):
        raise FedNegError(
            f"{stem} contains client {client_id}, which was forgotten; it is not "
            "used, bring a later one from a backup"
        )


def _take_back(standing: Standing, found: Restored, kept: Kept) -> None:
    standing.parameters, standing.server_round = found.parameters, found.rounds
    standing.kept_round = found.rounds
    standing.trained, standing.contains = kept.trained, set(kept.contains)
    standing.federation.history[:] = kept.history
    if kept.work is not None:
        standing.work = Work(**kept.work)
        open_now = {r.client_id for r in standing.state.requests.open()}
        if not set(standing.work.clients) & open_now:
            standing.work = None  # its receipts were written before the run ended
    # A run that was killed after the checkpoint may not have come to this.
    standing.write_history()
    progress = standing.federation.progress
    progress.skip(min(standing.trained, progress.planned))
    progress.step(f"going on after round {standing.server_round}")
    _mark_open(standing)
    _resume(standing)


def _resume(standing: Standing) -> None:
    standing.state.audit.append(
        RESUMED, round=standing.server_round, model=digest_of_model(standing.parameters)
    )


def _mark_open(standing: Standing) -> None:
    """Let open requests say what the checkpoint does: a kill may have come between.

    So may a last checkpoint that is damaged: then the client is in the model again.
    """
    unlearned = set(standing.work.clients) if standing.work else set()
    for request in standing.state.requests.open():
        status = UNLEARNED if request.client_id in unlearned else ACCEPTED
        standing.state.requests.mark([request.client_id], status)
