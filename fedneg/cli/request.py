"""`fedneg request forget`: a client's request to be forgotten is accepted."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from fedneg.cli.notices import tell
from fedneg.cli.options import ClientArgument, KeysOption, StateOption
from fedneg.cli.parsing import Command, application, days
from fedneg.core.arguments import quoted
from fedneg.core.children import python_command
from fedneg.core.errors import FedNegError
from fedneg.core.exits import is_of_disk, mistake_of
from fedneg.engines.deployed.proxies import around_proxies
from fedneg.records.requests import Request
from fedneg.records.state import State
from fedneg.records.unseen import unseen

app = application()
request_app = application(about="A client's request to be forgotten.")
app.add_typer(request_app, name="request")


@request_app.command(
    "forget",
    cls=Command,
    epilog='fedneg request forget 3 --state DIR --reason "left the study"\n'
    "fedneg request forget 3 --state DIR --now",
)
def request_forget(
    client: ClientArgument,
    folder: StateOption,
    keys: KeysOption = None,
    reason: Annotated[
        str, typer.Option(metavar="TEXT", help="Kept with the request.")
    ] = "",
    due: Annotated[
        float,
        typer.Option(parser=days, metavar="DAYS", help="When it is to be done."),
    ] = "30d",  # type: ignore[assignment]  # read as if it had been typed
    now: Annotated[
        str | None,
        typer.Option(
            metavar="[SUPERLINK]",
            help="Carry it out at once: the name that `flwr run . NAME` needs for real "
            "clients, none for a simulation.",
        ),
    ] = None,
    flower_app: Annotated[
        Path, typer.Option("--app", metavar="DIR", help="For --now SUPERLINK.")
    ] = Path(),
) -> None:
    """Accept it: from then on the client is out, and the next run forgets it."""
    state = State(folder, keys)
    facts = state.known_facts()
    if now is not None and facts.is_app:
        raise FedNegError(
            f"the federation in {state.folder} belongs to an app of somebody's own, "
            "which alone can carry a request out: leave out --now"
        )
    if now is not None and facts.deployed != bool(now):
        kind = "real clients: --now SUPERLINK" if facts.deployed else "no SUPERLINK"
        raise FedNegError(f"the federation in {state.folder} has {kind}")
    state.ready()
    with _saying_whether_accepted(state, client):
        request, is_new = state.requests.accept(
            client,
            clients=facts.clients,
            due_days=due,
            reason=reason,
        )
    tell(state)
    print(_said(request, is_new, who="app" if facts.is_app else "next run"))
    if request.is_open and unseen(state.folder, [request]):
        print(f"client {client} took part in no round so far: is that the right id?")
    if now is not None and request.is_open:
        _carry_out(state, request, now, flower_app)


@contextmanager
def _saying_whether_accepted(state: State, client_id: int) -> Iterator[None]:
    """Let an error of the disk say whether the client is out now, or is not."""
    try:
        yield
    except (FedNegError, OSError) as error:
        mistake = mistake_of(error)
        if mistake is None or not is_of_disk(error) or " is accepted" in str(mistake):
            raise
        there = client_id in state.excluded()
        accepted = "accepted, but" if there else "not accepted:"
        raise FedNegError(f"forget-{client_id} is {accepted} {mistake}") from error


def _said(request: Request, is_new: bool, who: str) -> str:
    """Return what the operator should know of a request, and who carries it out."""
    if is_new:
        return (
            f"{request.id} is accepted and due on {request.due}: client "
            f"{request.client_id} is out from now on, and the {who} forgets it"
        )
    if request.is_open:
        return f"{request.id} was accepted on {request.received[:10]}: {request.status}"
    return f"{request.id} is done: receipts/{request.id}.json"


def _carry_out(state: State, request: Request, superlink: str, app: Path) -> None:
    """Run the federation until the request is done; raise FedNegError if it is not."""
    programs = Path(sys.executable).parent
    values = {"state": state.folder, "keys": state.keys}
    if superlink:
        # TOML's basic strings are JSON's.
        texts = [f"{name}={json.dumps(str(value))}" for name, value in values.items()]
        command = [str(programs / "flwr"), "run", str(app), superlink, "--stream"]
        command += ["--run-config", " ".join(texts)]
    else:
        command = python_command("fedneg.__main__")
        command += [f"{name}={quoted(str(value))}" for name, value in values.items()]
    subprocess.run(command, check=False, env=around_proxies(os.environ))
    found = state.requests.of(request.client_id)
    if found is None or found.is_open:
        raise FedNegError(f"{request.id} is still open: see what the run said above")
