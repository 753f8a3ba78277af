"""Which checkpoint a start goes on from: one that is where the log says, and whole."""

import hashlib
from collections.abc import Callable, Sequence

from fedneg.core.errors import FedNegError
from fedneg.core.parameters import Vector, digest_of_model
from fedneg.lasting.work import Work
from fedneg.ledger.checkpoint import Checkpoints, Restored
from fedneg.records.account import RESUMED
from fedneg.records.kept import Kept
from fedneg.records.requests import ACCEPTED, UNLEARNED
from fedneg.records.state import State

# A row that nobody has: of a checkpoint, the global parameters alone.
NOBODY = -1


def check_found(
    state: State,
    checkpoints: Checkpoints,
    found: Restored | None,
    damage: Sequence[str],
    warn: Callable[[str], object],
    *,
    sealed: bool = False,
) -> Kept | None:
    """Return what a restored checkpoint keeps, if the log says that one stands there.

    Parameters
    ----------
    found : Restored or None
        As `Checkpoints.restore` gave it; None: there was no whole one.
    damage : sequence of str
        What it said of others.
    warn : callable
        Told if it is not the last.
    sealed : bool
        Whether keys of clients may have been destroyed.

    Raises
    ------
    FedNegError
        If it is not where the log says that the federation stands, contains a client
        that was forgotten, or there is none and there must be.
    """
    if found is None:
        _refuse_lost(state, checkpoints, damage)
        return None
    kept = Kept.of(found.facts, checkpoints.stem(found.rounds))
    _refuse_unlogged(state, checkpoints, found, kept, sealed=sealed)
    expected = state.account.standing
    if expected is not None and found.rounds < expected and not damage:
        warn(
            f"there is no checkpoint of round {expected}, where the federation "
            f"stood; it goes on after round {found.rounds}"
        )
    return kept


def _refuse_lost(state: State, checkpoints: Checkpoints, damage: Sequence[str]) -> None:
    """Raise FedNegError if there were checkpoints: the ledger is not made twice."""
    account = state.account
    told = state.read_status().get("kept_round", 0)
    if told or account.has_checkpoint:
        numbers = [n for n in (told, *(n for n, _ in account.line)) if type(n) is int]
        kept = max(numbers, default=0)
        raise FedNegError(
            f"there is no whole checkpoint in {checkpoints.folder}, and there "
            f"was one of round {kept}; bring it back from a backup, or begin anew "
            f"with another state folder{''.join(f' ({text})' for text in damage)}"
        )


def _refuse_unlogged(
    state: State, checkpoints: Checkpoints, found: Restored, kept: Kept, *, sealed: bool
) -> None:
    """Raise FedNegError unless the log says that the federation stands there."""
    stem, account = checkpoints.stem(found.rounds), state.account
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
    destroyed = state.vault.destroyed() if sealed else set()
    for client_id in sorted(set(kept.contains) & (account.forgotten | destroyed)):
        raise FedNegError(
            f"{stem} contains client {client_id}, which was forgotten; it is not "
            "used, bring a later one from a backup"
        )


def work_of(state: State, kept: Kept) -> Work | None:
    """Return what is still to be done of what a checkpoint says is being done."""
    if kept.work is None:
        return None
    work = Work(**kept.work)
    open_now = {r.client_id for r in state.requests.open()}
    # Else its receipts were written before the run ended.
    return work if set(work.clients) & open_now else None


def mark_open(state: State, work: Work | None) -> None:
    """Let open requests say what the checkpoint does: a kill may have come between.

    So may a last checkpoint that is damaged: then the client is in the model again.
    """
    unlearned = set(work.clients) if work else set()
    for request in state.requests.open():
        status = UNLEARNED if request.client_id in unlearned else ACCEPTED
        state.requests.mark([request.client_id], status)


def resume(state: State, parameters: Vector, server_round: int) -> None:
    """Let the log say where a start goes on from."""
    model = digest_of_model(parameters)
    state.audit.append(RESUMED, round=server_round, model=model)


def serve_again(
    state: State, checkpoints: Checkpoints, bytes_of: Callable[[Vector], bytes]
) -> bool:
    """Make the model in service again, if a checkpoint still holds it."""
    served = state.account.served
    if served is None or served.round not in checkpoints.rounds():
        return False
    try:
        found = checkpoints.rows(served.round, NOBODY)["global"]
    except FedNegError:
        return False  # damaged, or its key was destroyed
    content = bytes_of(found)
    if hashlib.sha256(content).hexdigest() != served.sha256:
        return False
    state.serve(content, server_round=served.round, model=served.model)
    return True


def remake(
    state: State,
    checkpoints: Checkpoints,
    bytes_of: Callable[[Vector], bytes],
    odd: Sequence[str],
    warn: Callable[[str], object],
    *,
    is_served: bool,
) -> None:
    """Make the model in service again where it was not the one of the log; say so.

    Parameters
    ----------
    odd : sequence of str
        What of the model in service was not as the log says.
    is_served : bool
        Whether the model that goes on has just been put in service.
    """
    for text in odd:
        again = is_served or serve_again(state, checkpoints, bytes_of)
        what = "is made again" if again else "stays so until the next is in service"
        warn(f"{text}; it {what}")
