"""`fedneg up`: a federation of real processes on this machine, until Ctrl-C."""

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from fedneg.core.arguments import OneLineParser, whole_number
from fedneg.core.errors import FedNegError
from fedneg.engines.deployed.federation import POLL_S, START_TIMEOUT_S, LocalFederation

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _StopError(Exception):
    """A signal asked for the end."""


def run_up_command(arguments: Sequence[str]) -> None:
    """Do what the words after `fedneg up` say; return when it was told to stop.

    Raises
    ------
    FedNegError
        For words that mean nothing, if the federation does not come up, and if its
        SuperLink ends.
    """
    options = _parser().parse_args(arguments)
    if options.data is not None and not options.data.is_dir():
        raise FedNegError(f"--data must be a folder, got {options.data}")
    federation = LocalFederation(
        options.dir,
        options.clients,
        not options.insecure,
        data=options.data and options.data.resolve(),
        node_config=options.node_config,
        say=_say,
    )
    if options.insecure:
        _say("--insecure: nobody is authenticated and nothing is encrypted")
    with _signals_raise():
        try:
            federation.start(options.timeout)
            _introduce(federation)
            _watch(federation)
        except _StopError:
            _say("stopping")
        finally:
            _ignore_signals()
            federation.stop()
    _say("stopped")


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="fedneg up",
        description="A SuperLink and SuperNodes on this machine, with TLS and "
        "authenticated clients, until Ctrl-C.",
    )
    count = whole_number(least=1)
    parser.add_argument(
        "--clients", type=count, default=3, metavar="N", help="how many clients (3)"
    )
    parser.add_argument(
        "--dir",
        type=Path,
        default=Path("federation"),
        help="keys, certificates, logs, database and FLWR_HOME (./federation)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="FEDNEG_DATA of the server and of all clients",
    )
    parser.add_argument(
        "--node-config",
        default="",
        metavar="TEXT",
        help="added to each client's node config; {id} stands for the client id",
    )
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="no TLS, no authentication: for trying out on one machine only",
    )
    parser.add_argument(
        "--timeout",
        type=count,
        default=int(START_TIMEOUT_S),
        metavar="SECONDS",
        help=f"how long to wait for the clients ({START_TIMEOUT_S:g})",
    )
    return parser


def _say(line: str) -> None:
    print(f"fedneg up: {line}", flush=True)


def _introduce(federation: LocalFederation) -> None:
    """Print how to start a run, and where to look."""
    clients = federation.clients
    trust = "" if federation.secure else " strategy.trust=unauthenticated"
    example = (
        f'state="{federation.state}" rounds=2 '
        f'overrides="data=digits clients={clients}{trust}"'
    )
    _say(f"{clients} clients are online; logs are in {federation.folder / 'logs'}")
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
