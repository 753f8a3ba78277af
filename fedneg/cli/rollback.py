"""`fedneg rollback`: back to an earlier checkpoint."""

from typing import Annotated

import typer

from fedneg.cli.notices import tell
from fedneg.cli.options import KeysOption, StateOption
from fedneg.cli.parsing import Command, application, whole_number
from fedneg.core.errors import FedNegError
from fedneg.records.account import ROLLBACK
from fedneg.records.kept import Kept
from fedneg.records.state import State

app = application()


@app.command("rollback", cls=Command, epilog="fedneg rollback 7 --state DIR")
def rollback(
    server_round: Annotated[
        int,
        typer.Argument(
            parser=whole_number(), metavar="ROUND", help="The round to go back to."
        ),
    ],
    folder: StateOption,
    keys: KeysOption = None,
) -> None:
    """Go back to an earlier checkpoint, unless it contains who was forgotten."""
    state = State(folder, keys)
    facts = state.known_facts()
    with state.running():
        checkpoints = state.checkpoints(every=1, encrypt=facts.encrypt)
        there = checkpoints.rounds()
        if server_round not in there:
            rounds = ", ".join(map(str, there)) or "none"
            raise FedNegError(
                f"there is no checkpoint of round {server_round}; there is: {rounds}"
            )
        tell(state)
        checkpoints.verify(server_round)
        contains = set(Kept.read(checkpoints, server_round).contains)
        # Whose contribution is already out of the model must not come back in.
        out = {r.client_id for r in state.requests.all() if r.status != "accepted"}
        for client_id in sorted(contains & out):
            raise FedNegError(
                f"the model of round {server_round} contains client {client_id}, "
                f"which was forgotten (forget-{client_id})"
            )
        state.audit.append(ROLLBACK, round=server_round)
        for number in there:
            if number > server_round:
                checkpoints.remove(number)
    print(f"the next run goes on after round {server_round}")
