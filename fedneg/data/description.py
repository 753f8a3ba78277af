"""What a person would want to know of a client's own data, before it is trained on."""

import numpy as np

from fedneg.data.client_data import ClientData, own_data
from fedneg.data.own_data import constant_images

# Of blank images, so many are named.
SHOWN = 12


def describe_own_data(place: str, name: str) -> list[str]:
    """Read a client's data as its ClientApp will, and describe it, a fact a line.

    Parameters
    ----------
    place : str
        A .npz file, or a folder of image folders.
    name : str
        The run's data set, which the images must be like.

    Raises
    ------
    FedNegError
        In one line, what is wrong with the data.
    """
    # How many images a part has depends neither on the seed nor on the client.
    data = own_data(place, name=name, client_id=0, seed=0)
    height, width = data.images.shape[1:]
    counts = np.bincount(data.labels, minlength=data.kind.num_classes)
    # Dark strokes on light paper are the likeliest mistake, and no error.
    mean, usual = (
        value / data.kind.pixel_max
        for value in (data.images.mean(), data.kind.scaling.mean)
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
