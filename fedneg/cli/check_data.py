"""`fedneg check-data`: look at a client's own data as its ClientApp will."""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from fedneg.cli.parsing import Command, application, one_of
from fedneg.data.client_data import ClientData, own_data
from fedneg.data.datasets import DIGITS, MNIST
from fedneg.data.own_data import constant_images

# Of blank images, so many are named.
SHOWN = 12


NAMES = (MNIST.name, DIGITS.name)

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
            parser=one_of(NAMES),
            metavar="|".join(NAMES),
            help="The run's data set, which the images must be like.",
        ),
    ] = MNIST.name,
) -> None:
    """Check the data that a client keeps on its own machine, and describe it.

    Raises
    ------
    FedNegError
        In one line, what is wrong with the data.
    """
    # Here, unlike in a node config, a relative path has a meaning.
    place = str(Path(path).absolute())
    # How many images a part has depends neither on the seed nor on the client.
    found = own_data(place, name=data, client_id=0, seed=0)
    for line in _description(found, data):
        print(line)
    print(f"node config: client-id=N data={json.dumps(place, ensure_ascii=False)}")


def _description(data: ClientData, name: str) -> list[str]:
    """Return what a person would want to know of good data."""
    height, width = data.images.shape[1:]
    counts = np.bincount(data.labels, minlength=data.num_classes)
    # Dark strokes on light paper are the likeliest mistake, and no error.
    mean, usual = (
        value / data.pixel_max for value in (data.images.mean(), data.scaling.mean)
    )
    return [
        f"good for data={name}: {len(data.labels)} images of {width}x{height} pixels, "
        f"{data.num_writers} writer{'s' * (data.num_writers != 1)}",
        "by class: " + ", ".join(f"{k}: {count}" for k, count in enumerate(counts)),
        f"split: {len(data.train)} train, {len(data.val)} val, {len(data.test)} test",
        f"mean brightness: {mean:.2f} of the range ({name}: {usual:.2f})",
        *_blank(data),
    ]


def _blank(data: ClientData) -> list[str]:
    """Return a line that counts the images in which nothing is to be seen, if any."""
    found = constant_images(data.images)
    if not len(found):
        return []
    first = ", ".join(map(str, found[:SHOWN])) + (", ..." if found[SHOWN:].size else "")
    return [
        f"warning: {len(found)} of {len(data.labels)} images are blank (all pixels the "
        f"same), in reading order from 0: {first}"
    ]
