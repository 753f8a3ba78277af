"""What an operator says: `fedneg request`, `status`, `roster`, `rollback`."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedneg.cli.options import KeysOption, StateOption
from fedneg.cli.parsing import Command, application, days, whole_number
from fedneg.core.arguments import quoted
from fedneg.core.children import python_command
from fedneg.core.errors import FedNegError
from fedneg.core.exits import is_of_disk, mistake_of
from fedneg.core.formats import human_bytes
from fedneg.core.reading import read_regular
from fedneg.engines.deployed.proxies import around_proxies
from fedneg.records.account import ROLLBACK
from fedneg.records.kept import Kept
from fedneg.records.pins import OPERATOR, key_digest_of
from fedneg.records.requests import Request
from fedneg.records.state import State
from fedneg.records.walk import disk_bytes

JsonOption = Annotated[bool, typer.Option("--json", help="For machines.")]
ClientArgument = Annotated[
    int,
    typer.Argument(parser=whole_number(), metavar="CLIENT", help="Its client id."),
]

app = application()


# -- requests --------------------------------------------------------------------------


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
    if now is not None and facts.deployed != bool(now):
        kind = "real clients: --now SUPERLINK" if facts.deployed else "no SUPERLINK"
        raise FedNegError(f"the federation in {state.folder} has {kind}")
    state.ready()
    with _saying_whether_accepted(state, client):
        request, is_new = state.requests.accept(
            client,
            clients=facts.fixed["clients"],
            due_days=due,
            reason=reason,
        )
    _tell(state)
    print(_said(request, is_new))
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
        there = state.requests.of(client_id) is not None
        accepted = "accepted, but" if there else "not accepted:"
        raise FedNegError(f"forget-{client_id} is {accepted} {mistake}") from error


def _tell(state: State) -> None:
    """Print what a kill had left undone, and was completed."""
    for notice in state.notices:
        print(f"fedneg: {notice}", file=sys.stderr)


def _said(request: Request, is_new: bool) -> str:
    """Return what the operator should know of a request."""
    if is_new:
        return (
            f"{request.id} is accepted and due on {request.due}: client "
            f"{request.client_id} is out from now on, and the next run forgets it"
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


@app.command("requests", cls=Command, epilog="fedneg requests --state DIR")
def show_requests(
    folder: StateOption, keys: KeysOption = None, as_json: JsonOption = False
) -> None:
    """Show all requests to be forgotten, and how far they are."""
    state = State(folder, keys)
    state.known_facts()
    requests = state.requests.all()
    if as_json:
        print(json.dumps([_as_json(request) for request in requests], indent=1))
        return
    if not requests:
        print("nobody has asked to be forgotten")
        return
    table = Table(title=Text(str(state.folder)), title_justify="left")
    for heading in ("id", "client", "received", "due", "status", "reason"):
        table.add_column(heading)
    for request in requests:
        table.add_row(
            request.id,
            str(request.client_id),
            request.received[:16].replace("T", " "),
            f"{request.due} ({_due(request)})" if request.is_open else request.due,
            request.status,
            request.reason,
        )
    Console().print(table, markup=False)


def _due(request: Request) -> str:
    left = request.days_left
    return f"in {left} days" if left >= 0 else f"overdue by {-left} days"


def _as_json(request: Request) -> dict[str, Any]:
    return {
        "id": request.id,
        "client": request.client_id,
        "received": request.received,
        "due": request.due,
        "days_left": request.days_left,
        "status": request.status,
        "reason": request.reason,
    }


# -- status ----------------------------------------------------------------------------


@app.command("status", cls=Command, epilog="fedneg status --state DIR --json")
def show_status(
    folder: StateOption, keys: KeysOption = None, as_json: JsonOption = False
) -> None:
    """Show where a federation stands."""
    state = State(folder, keys)
    facts = state.known_facts()
    found = {**state.read_status(), "running": state.is_running}
    found["deployed"], found["federation"] = facts.deployed, facts.id
    found["excluded"] = sorted(state.requests.excluded())
    found["open_requests"] = [_as_json(r) for r in state.requests.open()]
    found["disk_bytes"] = disk_bytes(state.folder)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    table = Table(
        title=Text(str(state.folder)), title_justify="left", show_header=False
    )
    try:
        lines = _lines(found)
    except (TypeError, ValueError, AttributeError) as error:
        raise FedNegError(f"status.json in {state.folder} is odd: {error}") from None
    for name, value in lines:
        table.add_row(name, value)
    Console().print(table, markup=False)


def _lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what a person reads, row by row."""

    def ids(values: Sequence[Any]) -> str:
        return ", ".join(map(str, values)) or "-"

    kind = "real" if found["deployed"] else "simulated"
    running = _running(found)
    lines = [
        ("now", running),
        ("round", f"{found.get('server_round', 0)} ({found.get('phase') or 'none'})"),
        ("trained", f"{found.get('trained', 0)} of {found.get('rounds', '-')} rounds"),
    ]
    if found.get("accuracy") is not None:
        lines += [("test accuracy", f"{found['accuracy']:.4f}")]
    lines += [
        ("clients", f"{found.get('clients', '-')}, {kind}{_trust(found)}"),
        ("online in the last run", ids(found.get("online", []))),
        ("out", ids(found["excluded"])),
    ]
    for what in ("failed", "refused", "unanswered"):
        for client_id, why in found.get(what, {}).items():
            lines.append((what, f"client {client_id}: {why}"))
    if found.get("error"):
        lines.append(("last error", str(found["error"])))
    for request in found["open_requests"]:
        left = request["days_left"]
        due = f"due in {left} days" if left >= 0 else f"overdue by {-left} days"
        lines.append(("open", f"{request['id']}: {request['status']}, {due}"))
    return [*lines, ("disk", human_bytes(found["disk_bytes"]))]


def _running(found: dict[str, Any]) -> str:
    """Return what is known of now: a run holds the folder's lock, servers do not."""
    if found["running"]:
        return str(found.get("waiting") or "running")
    servers = "; SuperLink and clients may be up" if found["deployed"] else ""
    return f"no run at the moment{servers}"


def _trust(found: dict[str, Any]) -> str:
    """Return how real clients are known."""
    said = {
        "listed": "known by listed keys",
        "first_sight": "known by the keys they came with",
        "unauthenticated": "unauthenticated: anybody may claim to be any of them",
    }
    trust = said.get(str(found.get("trust")))
    return f", {trust}" if trust else ""


# -- who is who ------------------------------------------------------------------------


roster = application(about="Which public key belongs to which client id.")
app.add_typer(roster, name="roster")


@roster.command("list", cls=Command, epilog="fedneg roster list --state DIR")
def roster_list(folder: StateOption, keys: KeysOption = None) -> None:
    """Show the keys by client."""
    pins = State(folder, keys).pins().all()
    if not pins:
        print("no keys: clients are unauthenticated until they are listed or seen")
    for client_id, pin in pins.items():
        print(f"client {client_id}: {pin.key} ({pin.source}, {pin.since})")


@roster.command(
    "add", cls=Command, epilog="fedneg roster add 2 keys/node2.pub --state DIR"
)
def roster_add(
    client: ClientArgument,
    key: Annotated[
        Path, typer.Argument(metavar="KEY", help="Its public key, OpenSSH or PEM.")
    ],
    folder: StateOption,
    keys: KeysOption = None,
) -> None:
    """Say that this key is this client."""
    state = State(folder, keys)
    _check_client(state, client)
    try:
        digest = key_digest_of(read_regular(key))
    except OSError as error:
        raise FedNegError(f"{key} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise FedNegError(f"{key} is no public key: {error}") from None
    state.ready()
    state.pins().add(client, digest, OPERATOR)
    _tell(state)
    print(f"client {client} is key {digest}")


@roster.command("remove", cls=Command, epilog="fedneg roster remove 2 --state DIR")
def roster_remove(
    client: ClientArgument, folder: StateOption, keys: KeysOption = None
) -> None:
    """Forget a client's key."""
    state = State(folder, keys)
    _check_client(state, client)
    state.ready()
    state.pins().remove(client)
    _tell(state)
    print(f"client {client} has no key")


def _check_client(state: State, client_id: int) -> None:
    """Raise FedNegError unless a federation, if there is one yet, has this client."""
    if client_id < 0:
        raise FedNegError(f"client ids begin at 0, got {client_id}")
    facts = state.facts()
    if facts is not None and client_id >= facts.fixed["clients"]:
        raise FedNegError(
            f"there is no client {client_id}; client ids are 0 to "
            f"{facts.fixed['clients'] - 1}"
        )


# -- going back ------------------------------------------------------------------------


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
        _tell(state)
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
