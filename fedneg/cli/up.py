"""`fedneg up`: a federation of real processes on this machine, until Ctrl-C."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from fedneg.cli.parsing import Command, application, whole_number
from fedneg.core.errors import FedNegError
from fedneg.engines.deployed.federation import POLL_S, START_TIMEOUT_S, LocalFederation

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _StopError(Exception):
    """A signal asked for the end."""


app = application()
EXAMPLES = """fedneg up --clients 3
fedneg up --clients 3 --task mine:task --node-config 'table="/srv/{id}.csv"'"""
COUNT = whole_number(least=1)


@app.command("up", cls=Command, epilog=EXAMPLES)
def up(
    clients: Annotated[
        int, typer.Option(parser=COUNT, metavar="N", help="How many clients.")
    ] = 3,
    folder: Annotated[
        Path,
        typer.Option(
            "--dir",
            metavar="DIR",
            help="Keys, certificates, logs, database and FLWR_HOME.",
        ),
    ] = Path("federation"),
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="FEDNEG_DATA of the server and of all clients."
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="module:name",
            help="What is trained, installed or in the folder you are in: digits.",
        ),
    ] = None,
    node_config: Annotated[
        str,
        typer.Option(
            metavar="TEXT",
            help="Added to each client's node config; {id} stands for the client id.",
        ),
    ] = "",
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure",
            help="No TLS, no authentication: for trying out on one machine only.",
        ),
    ] = False,
    timeout: Annotated[
        int,
        typer.Option(
            parser=COUNT, metavar="SECONDS", help="How long to wait for the clients."
        ),
    ] = int(START_TIMEOUT_S),
) -> None:
    """Run a SuperLink and SuperNodes on this machine, until Ctrl-C.

    With TLS and authenticated clients.

    Raises
    ------
    FedNegError
        If the federation does not come up, and if its SuperLink ends.
    """
    if data is not None and not data.is_dir():
        raise FedNegError(f"--data must be a folder, got {data}")
    if task is not None:
        _check_task(task)
    federation = LocalFederation(
        folder,
        clients,
        not insecure,
        data=data and data.resolve(),
        node_config=node_config,
        modules=None if task is None else Path.cwd(),
        say=_say,
    )
    if insecure:
        _say("--insecure: nobody is authenticated and nothing is encrypted")
    with _signals_raise():
        try:
            federation.start(timeout)
            _introduce(federation, "data=digits" if task is None else f"task={task}")
            _watch(federation)
        except _StopError:
            _say("stopping")
        finally:
            _ignore_signals()
            federation.stop()
    _say("stopped")


def _say(line: str) -> None:
    print(f"fedneg up: {line}", flush=True)


def _check_task(name: str) -> None:
    """Raise FedNegError unless this is a task that real clients and a server can do."""
    from fedneg.tasks.lookup import own_task  # imports torch

    own_task(name, folder=Path.cwd()).require("test", of="the server of real clients")


def _introduce(federation: LocalFederation, trained: str) -> None:
    """Print how to start a run, and where to look."""
    clients = federation.clients
    trust = "" if federation.secure else " strategy.trust=unauthenticated"
    example = (
        f'state="{federation.state}" rounds=2 '
        f'overrides="{trained} clients={clients}{trust}"'
    )
    _say(
        f"{clients} clients are online and speak {federation.transport}; logs are in "
        f"{federation.folder / 'logs'}"
    )
    print(f"\n  {federation.command(example)}\n", flush=True)
    _say("Ctrl-C stops everything")


def _watch(federation: LocalFederation) -> None:
    """Report processes that end; raises FedNegError when the SuperLink does."""
    running = dict(federation.nodes)
    while True:
        federation.check_superlink()
        for client_id, node in list(running.items()):
            if node.exit_code is not None:
                del running[client_id]
                _say(
                    f"client {client_id} ended (exit code {node.exit_code}), "
                    f"{len(running)} go on\n{node.last_lines()}"
                )
        time.sleep(POLL_S)


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Let the first signal that asks for the end raise, and ignore the others."""

    def stop(number: int, frame: FrameType | None) -> None:
        _ignore_signals()
        raise _StopError

    before = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore_signals() -> None:
    """Let nothing cut the stopping short; it ends by itself within seconds."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
