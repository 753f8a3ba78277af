"""Go on from the last whole checkpoint: if it is where the log says, and nobody else's.

A run that was killed goes on after the last complete round, with the same bytes. What a
kill left between two files is brought into line here.
"""

from fedneg.lasting.restoring import (
    check_found,
    mark_open,
    remake,
    resume,
    work_of,
)
from fedneg.ledger.checkpoint import Restored
from fedneg.live.standing import Standing
from fedneg.records.agreement.federation import of_model
from fedneg.records.kept import Kept
from fedneg.records.requests import ACCEPTED


def restore(standing: Standing) -> None:
    """Go on from the last whole checkpoint, if there is one.

    Raises
    ------
    FedNegError
        If it is not where the log says that the federation stands, or contains a
        client that was forgotten.
    """
    checkpoints, state = standing.checkpoints, standing.state
    checkpoints.tidy()
    account = state.account
    odd = [d.text for d in of_model(state.model, account)]
    damage: list[str] = []
    found = checkpoints.restore(standing.strategy.ledger, damage.append, strict=True)
    for text in damage:
        standing.warn(text)
    kept = check_found(
        state,
        checkpoints,
        found,
        damage,
        standing.warn,
        sealed=standing.config.encrypt,
    )
    if found is None or kept is None:
        if account.line:  # a kill kept the first from being written
            resume(state, standing.parameters, standing.server_round)
        standing.federation.measure_initial()
    else:
        _take_back(standing, found, kept)
    checkpoints.check_room(standing.strategy.ledger.num_bytes)
    if found is not None and standing.work is None:
        # After a rollback, or a run that was killed before this.
        standing.serve()
    remake(
        state,
        checkpoints,
        standing.federation.bytes_of,
        odd,
        standing.warn,
        is_served=standing.work is None,
    )
    standing.strategy.forgotten |= {
        r.client_id for r in state.requests.all() if r.status != ACCEPTED
    }
    standing.tell()


def _take_back(standing: Standing, found: Restored, kept: Kept) -> None:
    standing.parameters, standing.server_round = found.parameters, found.rounds
    standing.kept_round = found.rounds
    standing.trained, standing.contains = kept.trained, set(kept.contains)
    standing.federation.history[:] = kept.history
    standing.work = work_of(standing.state, kept)
    # A run that was killed after the checkpoint may not have come to this.
    standing.write_history()
    progress = standing.federation.progress
    progress.skip(min(standing.trained, progress.planned))
    progress.step(f"going on after round {standing.server_round}")
    mark_open(standing.state, standing.work)
    resume(standing.state, standing.parameters, standing.server_round)
