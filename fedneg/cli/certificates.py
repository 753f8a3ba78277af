"""`fedneg certificates`: make what a federation with TLS and authentication needs."""

from pathlib import Path
from typing import Annotated

import typer

from fedneg.cli.parsing import Command, application, whole_number
from fedneg.engines.deployed.certificates import (
    AUTHORITY_DAYS,
    SERVER_DAYS,
    make_certificates,
)

app = application()
COUNT = whole_number(least=1)


@app.command(
    "certificates",
    cls=Command,
    epilog="fedneg certificates keys --host fl.example.org --clients 3",
)
def certificates(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where they go.")],
    clients: Annotated[
        int,
        typer.Option(
            parser=COUNT,
            metavar="K",
            help="Make node0 to node<K-1>, each with its .pub.",
        ),
    ],
    host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|IP",
            help="Where clients find the SuperLink; may be repeated; localhost and "
            "127.0.0.1 are always added. By default what the certificate says already.",
        ),
    ] = None,
    days: Annotated[
        int,
        typer.Option(
            parser=COUNT,
            metavar="DAYS",
            help="How long the server's certificate is valid.",
        ),
    ] = SERVER_DAYS,
    ca_days: Annotated[
        int,
        typer.Option(
            parser=COUNT,
            metavar="DAYS",
            help="How long a new certificate authority is valid.",
        ),
    ] = AUTHORITY_DAYS,
) -> None:
    """Make a certificate authority, the SuperLink's certificate, and clients' keys.

    What is in DIR already is kept, so that the command can be repeated with more
    clients or other hosts.

    Raises
    ------
    FedNegError
        For files that are damaged or do not fit.
    """
    made = make_certificates(
        folder,
        clients=clients,
        hosts=host or [],
        server_days=days,
        authority_days=ca_days,
    )
    print("\n".join(made) or f"{folder} has all of it already")
