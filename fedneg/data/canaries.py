"""Canaries: images that nobody would know the label of, unless they were trained on it.

Planted among an attacker's training images; as many that match them are held out. A
model that answers the planted ones better than the others remembers its training set:
here, what a client brought to it.

They are made up from (seed, client id) alone, not taken from the client's images. So
planted and held-out ones are exchangeable, none of them is near an image that somebody
trains on or is tested on, a client of any size has as many as another, and the server
can make them itself and needs to be sent no one's images.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedneg.data.kinds import ImageKind

# Share of bright pixels: between those of MNIST, 0.13, and of the 8x8 digits, 0.31.
INK = 0.2


@dataclass(frozen=True, eq=False)
class Canaries:
    """Pairs of canaries: ``planted[i]`` and ``held_out[i]`` both have ``labels[i]``.

    ``planted`` and ``held_out`` are uint8 (count, height, width), ``labels`` (count,).
    """

    planted: NDArray[np.uint8]
    held_out: NDArray[np.uint8]
    labels: NDArray[np.int64]


def make_canaries(
    kind: ImageKind, *, count: int, draws: np.random.Generator
) -> Canaries:
    """Return a client's canaries: random dots, each pair with one random label.

    Every pixel of every image is drawn alone, and so is the label of each pair; which
    of a pair is planted therefore makes no difference to a model that saw neither, and
    a preference that it has for a class cancels within the pair.

    Parameters
    ----------
    kind : ImageKind
        Their shape; a dot's value is ``pixel_max``, all else is 0.
    count : int
        Number of pairs.
    draws : numpy Generator
        Of a stream of the client's own.

    References
    ----------
    Carlini et al., USENIX Security 2019, section 4: random canaries. arXiv:1802.08232
    Steinke et al., NeurIPS 2023: half of them held out, one training. arXiv:2305.08846
    """
    labels = draws.integers(kind.num_classes, size=count)
    ink = draws.random((2, count, *kind.shape)) < INK
    planted, held_out = ink.astype(np.uint8) * np.uint8(kind.pixel_max)
    return Canaries(planted, held_out, labels)
