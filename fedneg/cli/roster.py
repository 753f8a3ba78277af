"""`fedneg roster`: which public key belongs to which client id."""

from pathlib import Path
from typing import Annotated

import typer

from fedneg.cli.notices import tell
from fedneg.cli.options import ClientArgument, KeysOption, StateOption
from fedneg.cli.parsing import Command, application
from fedneg.core.errors import FedNegError
from fedneg.core.reading import read_regular
from fedneg.records.pins import OPERATOR, key_digest_of
from fedneg.records.state import State

app = application()
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
    tell(state)
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
    tell(state)
    print(f"client {client} has no key")


def _check_client(state: State, client_id: int) -> None:
    """Raise FedNegError unless a federation, if there is one yet, has this client."""
    if client_id < 0:
        raise FedNegError(f"client ids begin at 0, got {client_id}")
    facts = state.facts()
    if facts is None:
        return
    if facts.clients is None:
        raise FedNegError(
            f"the federation in {state.folder} belongs to an app of somebody's own, "
            "and who its clients are that app says"
        )
    if client_id >= facts.clients:
        raise FedNegError(
            f"there is no client {client_id}; client ids are 0 to {facts.clients - 1}"
        )
