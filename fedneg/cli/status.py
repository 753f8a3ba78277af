"""`fedneg status`: where a federation stands."""

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedneg.cli.options import JsonOption, KeysOption, StateOption
from fedneg.cli.parsing import Command, application
from fedneg.cli.requests import all_told
from fedneg.core.errors import FedNegError
from fedneg.core.formats import human_bytes
from fedneg.records.facts import APP
from fedneg.records.state import State
from fedneg.records.walk import disk_bytes

app = application()


@app.command("status", cls=Command, epilog="fedneg status --state DIR --json")
def show_status(
    folder: StateOption, keys: KeysOption = None, as_json: JsonOption = False
) -> None:
    """Show where a federation stands."""
    state = State(folder, keys)
    facts = state.known_facts()
    found = {**state.read_status(), "running": state.is_running}
    found["deployed"], found["federation"] = facts.deployed, facts.id
    found["app"] = facts.fixed.get(APP)
    requests = state.known_requests()
    found["excluded"] = sorted(r.client_id for r in requests)
    found["open_requests"] = all_told(state, [r for r in requests if r.is_open])
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
    if found["app"]:
        kind = f"of an app of somebody's own around {found['app']}"
    running = _running(found)
    lines = [
        ("now", running),
        ("round", f"{found.get('server_round', 0)} ({found.get('phase') or 'none'})"),
        ("trained", _trained(found)),
    ]
    if found.get("accuracy") is not None:
        quality = found.get("quality_name", "accuracy")
        lines += [(f"test {quality}", f"{found['accuracy']:.4f}")]
    lines += [
        ("clients", f"{found.get('clients', '-')}, {kind}{_trust(found)}"),
    ]
    if not found["app"]:  # who is online Flower knows
        lines.append(("online in the last run", ids(found.get("online", []))))
    lines.append(("out", ids(found["excluded"])))
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


def _trained(found: dict[str, Any]) -> str:
    """Return how many rounds there were of those asked for, which may be fewer.

    Of an app, rounds of repair count, and come on top where they are lacking.
    """
    trained, rounds = found.get("trained", 0), found.get("rounds")
    if rounds is None or trained <= rounds:
        return f"{trained} of {'-' if rounds is None else rounds} rounds"
    repair = found.get("repaired", 0)
    which = f", {repair} of them of repair" if repair else ""
    return f"{trained} rounds{which}; the last run was to come to {rounds}"


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
