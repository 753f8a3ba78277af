"""`fedneg certificates`: make what a federation with TLS and authentication needs."""

from collections.abc import Sequence
from pathlib import Path

from fedneg.core.arguments import OneLineParser, whole_number
from fedneg.engines.deployed.certificates import (
    AUTHORITY_DAYS,
    SERVER_DAYS,
    make_certificates,
)


def run_certificates_command(arguments: Sequence[str]) -> None:
    """Do what the words after `fedneg certificates` say.

    Raises
    ------
    FedNegError
        For words that mean nothing, and for files that are damaged or do not fit.
    """
    options = _parser().parse_args(arguments)
    made = make_certificates(
        options.folder,
        clients=options.clients,
        hosts=options.host,
        server_days=options.days,
        authority_days=options.ca_days,
    )
    print("\n".join(made) or f"{options.folder} has all of it already")


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="fedneg certificates",
        description="A certificate authority, the SuperLink's certificate and a key "
        "pair for each client. What is in DIR already is kept, so that the command can "
        "be repeated with more clients or other hosts.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="where they go")
    parser.add_argument(
        "--clients",
        type=whole_number(least=1),
        required=True,
        metavar="K",
        help="make node0 to node<K-1>, each with its .pub",
    )
    parser.add_argument(
        "--host",
        action="append",
        default=[],
        metavar="NAME|IP",
        help="where clients find the SuperLink; may be repeated; localhost and "
        "127.0.0.1 are always added (default: what the certificate says already)",
    )
    parser.add_argument(
        "--days",
        type=whole_number(least=1),
        default=SERVER_DAYS,
        help=f"how long the server's certificate is valid ({SERVER_DAYS})",
    )
    parser.add_argument(
        "--ca-days",
        type=whole_number(least=1),
        default=AUTHORITY_DAYS,
        help=f"how long a new certificate authority is valid ({AUTHORITY_DAYS})",
    )
    return parser
