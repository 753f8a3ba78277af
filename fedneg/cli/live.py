"""What an operator says: `fedneg request`, `status`, `roster`, `rollback`.

Longer than others: four commands that share their options and tables.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedneg.core.arguments import OneLineParser, days, quoted
from fedneg.core.children import python_command
from fedneg.core.errors import FedNegError
from fedneg.core.exits import is_of_disk, mistake_of
from fedneg.core.formats import human_bytes
from fedneg.core.reading import read_regular
from fedneg.engines.deployed.proxies import around_proxies
from fedneg.records.account import ROLLBACK
from fedneg.records.facts import Facts
from fedneg.records.pins import OPERATOR, fingerprint_of
from fedneg.records.requests import Request
from fedneg.records.state import State
from fedneg.records.walk import disk_bytes


def _parser(command: str, description: str) -> OneLineParser:
    return OneLineParser(prog=f"fedneg {command}", description=description)


def _add_state(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which federation is meant."""
    parser.add_argument(
        "--state", type=Path, required=True, metavar="DIR", help="the federation's"
    )
    parser.add_argument(
        "--keys", type=Path, metavar="DIR", help="its keys; by default DIR-keys"
    )


def _state(options: argparse.Namespace) -> State:
    return State(options.state, options.keys)


def _looked_at(
    parser: argparse.ArgumentParser, arguments: Sequence[str]
) -> tuple[argparse.Namespace, State, Facts]:
    """Return options, folder and facts for a command that only looks; has --json."""
    _add_state(parser)
    parser.add_argument("--json", action="store_true", help="for machines")
    options = parser.parse_args(arguments)
    state = _state(options)
    return options, state, state.known_facts()


# -- requests --------------------------------------------------------------------------


def run_request_command(arguments: Sequence[str]) -> None:
    """Accept a request to be forgotten; from now on the client is out."""
    parser = _parser("request", "A client's request to be forgotten.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="forget")
    forget = actions.add_parser(
        "forget",
        help="accept it: from then on the client is out, and the next run forgets it",
    )
    forget.add_argument("client", type=int, help="client id")
    _add_state(forget)
    forget.add_argument("--reason", default="", help="kept with the request")
    forget.add_argument(
        "--due", type=days, default=30.0, metavar="DAYS", help="by default 30d"
    )
    forget.add_argument(
        "--now",
        nargs="?",
        const="",
        metavar="SUPERLINK",
        help="carry it out at once: the name that `flwr run . NAME` needs for real "
        "clients, none for a simulation",
    )
    forget.add_argument(
        "--app", type=Path, default=Path(), metavar="DIR", help="for --now SUPERLINK"
    )
    options = parser.parse_args(arguments)
    state = _state(options)
    facts = state.known_facts()
    if options.now is not None and facts.deployed != bool(options.now):
        kind = "real clients: --now SUPERLINK" if facts.deployed else "no SUPERLINK"
        raise FedNegError(f"the federation in {state.folder} has {kind}")
    state.ready()
    with _saying_whether_accepted(state, options.client):
        request, is_new = state.requests.accept(
            options.client,
            clients=facts.fixed["clients"],
            due_days=options.due,
            reason=options.reason,
        )
    _tell(state)
    print(_said(request, is_new))
    if options.now is not None and request.is_open:
        _carry_out(state, request, options.now, options.app)


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


def run_requests_command(arguments: Sequence[str]) -> None:
    """Show all requests."""
    parser = _parser("requests", "All requests to be forgotten, and how far they are.")
    options, state, _ = _looked_at(parser, arguments)
    requests = state.requests.all()
    if options.json:
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


def run_status_command(arguments: Sequence[str]) -> None:
    """Show where the federation stands."""
    parser = _parser("status", "Where a federation stands.")
    options, state, facts = _looked_at(parser, arguments)
    found = {**state.read_status(), "running": state.is_running}
    found["deployed"], found["federation"] = facts.deployed, facts.id
    found["excluded"] = sorted(state.requests.excluded())
    found["open_requests"] = [_as_json(r) for r in state.requests.open()]
    found["disk_bytes"] = disk_bytes(state.folder)
    if options.json:
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


def run_roster_command(arguments: Sequence[str]) -> None:
    """Show and change which public key is which client's."""
    parser = _parser("roster", "Which public key belongs to which client id.")
    actions = parser.add_subparsers(
        dest="action", required=True, metavar="list|add|remove"
    )
    _add_state(actions.add_parser("list", help="show the keys by client"))
    add = actions.add_parser("add", help="this key is this client")
    add.add_argument("client", type=int, help="client id")
    add.add_argument("key", type=Path, help="its public key, OpenSSH or PEM")
    _add_state(add)
    remove = actions.add_parser("remove", help="forget a client's key")
    remove.add_argument("client", type=int, help="client id")
    _add_state(remove)
    options = parser.parse_args(arguments)
    state = _state(options)
    pins = state.pins()
    if options.action == "list":
        if not pins.all():
            print("no keys: clients are unauthenticated until they are listed or seen")
        for client_id, pin in pins.all().items():
            print(f"client {client_id}: {pin.key} ({pin.source}, {pin.since})")
        return
    if options.client < 0:
        raise FedNegError(f"client ids begin at 0, got {options.client}")
    facts = state.facts()
    if facts is not None and options.client >= facts.fixed["clients"]:
        raise FedNegError(
            f"there is no client {options.client}; client ids are 0 to "
            f"{facts.fixed['clients'] - 1}"
        )
    if options.action == "remove":
        state.ready()
        pins.remove(options.client)
        _tell(state)
        print(f"client {options.client} has no key")
        return
    try:
        key = fingerprint_of(read_regular(options.key))
    except OSError as error:
        raise FedNegError(f"{options.key} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise FedNegError(f"{options.key} is no public key: {error}") from None
    state.ready()
    pins.add(options.client, key, OPERATOR)
    _tell(state)
    print(f"client {options.client} is key {key}")


# -- going back ------------------------------------------------------------------------


def run_rollback_command(arguments: Sequence[str]) -> None:
    """Go back to an earlier checkpoint, unless it contains who was forgotten."""
    parser = _parser("rollback", "Go back to an earlier checkpoint of a federation.")
    parser.add_argument("round", type=int, help="the round to go back to")
    _add_state(parser)
    options = parser.parse_args(arguments)
    state = _state(options)
    facts = state.known_facts()
    with state.running():
        checkpoints = state.checkpoints(every=1, encrypt=facts.encrypt)
        there = checkpoints.rounds()
        if options.round not in there:
            rounds = ", ".join(map(str, there)) or "none"
            raise FedNegError(
                f"there is no checkpoint of round {options.round}; there is: {rounds}"
            )
        _tell(state)
        checkpoints.verify(options.round)
        contains = set(checkpoints.facts(options.round)["contains"])
        # Whose contribution is already out of the model must not come back in.
        out = {r.client_id for r in state.requests.all() if r.status != "accepted"}
        for client_id in sorted(contains & out):
            raise FedNegError(
                f"the model of round {options.round} contains client {client_id}, "
                f"which was forgotten (forget-{client_id})"
            )
        state.audit.append(ROLLBACK, round=options.round)
        for number in there:
            if number > options.round:
                checkpoints.remove(number)
    print(f"the next run goes on after round {options.round}")
