"""`fedneg requests`: all requests to be forgotten, and how far they are."""

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedneg.cli.options import JsonOption, KeysOption, StateOption
from fedneg.cli.parsing import Command, application
from fedneg.records.requests import Request
from fedneg.records.state import State
from fedneg.records.unseen import unseen

app = application()


@app.command("requests", cls=Command, epilog="fedneg requests --state DIR")
def show_requests(
    folder: StateOption, keys: KeysOption = None, as_json: JsonOption = False
) -> None:
    """Show all requests to be forgotten, and how far they are."""
    state = State(folder, keys)
    state.known_facts()
    requests = state.known_requests()
    if as_json:
        print(json.dumps(all_told(state, requests), indent=1))
        return
    if not requests:
        print("nobody has asked to be forgotten")
        return
    table = Table(title=Text(str(state.folder)), title_justify="left")
    for heading in ("id", "client", "received", "due", "status", "reason"):
        table.add_column(heading)
    absent = unseen(state.folder, requests)
    for request in requests:
        never = ", took part in no round" if request.client_id in absent else ""
        table.add_row(
            request.id,
            str(request.client_id),
            request.received[:16].replace("T", " "),
            f"{request.due} ({due_in(request)})" if request.is_open else request.due,
            request.status + never,
            request.reason,
        )
    Console().print(table, markup=False)


def due_in(request: Request) -> str:
    """Return in how many days a request is due, for people."""
    left = request.days_left
    return f"in {left} days" if left >= 0 else f"overdue by {-left} days"


def all_told(state: State, requests: Sequence[Request]) -> list[dict[str, Any]]:
    """Return requests as programs read them."""
    absent = unseen(state.folder, requests)
    return [
        {
            "id": request.id,
            "client": request.client_id,
            "received": request.received,
            "due": request.due,
            "days_left": request.days_left,
            "status": request.status,
            "took_part": request.client_id not in absent,
            "reason": request.reason,
        }
        for request in requests
    ]
