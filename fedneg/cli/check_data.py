"""`fedneg check-data`: look at a client's own data as its ClientApp will."""

import json
from pathlib import Path
from typing import Annotated

import typer

from fedneg.cli.parsing import Command, application, one_of
from fedneg.core.data_settings import DATA

app = application()


@app.command(
    "check-data", cls=Command, epilog="fedneg check-data mine.npz --data digits"
)
def check_data(
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH", help="A .npz file, or a folder of image folders."
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            parser=one_of(DATA),
            metavar="|".join(DATA),
            help="The run's data set, which the images must be like.",
        ),
    ] = DATA[0],
) -> None:
    """Check the data that a client keeps on its own machine, and describe it.

    Raises
    ------
    FedNegError
        In one line, what is wrong with the data.
    """
    from fedneg.data.description import describe_own_data  # imports torch

    # Here, unlike in a node config, a relative path has a meaning.
    place = str(Path(path).absolute())
    for line in describe_own_data(place, data):
        print(line)
    print(f"node config: client-id=N data={json.dumps(place, ensure_ascii=False)}")
