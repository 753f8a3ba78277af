"""Poisoning: what an attacking client does to its training data, and how well it works.

* label flip: y -> (y + 1) mod 10 (Fung et al., arXiv:1808.04866, flip every digit);
* backdoor: a bright square in the lower right corner, relabelled as the target class
  (Gu et al., arXiv:1708.06733, 'BadNets'; Bagdasaryan et al., AISTATS 2020, for FL).

Success is measured on test images of *other* classes only: images that truly belong to
the target class would count as successes of any good model.
"""

import numpy as np
from numpy.typing import NDArray

from fedneg.seeding import rng
from fedneg.settings import AttackSettings

NUM_CLASSES = 10


def flip_labels(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the labels that the flipping attack teaches: (y + 1) mod 10."""
    return (labels + 1) % NUM_CLASSES


def stamp(
    images: NDArray[np.uint8], *, trigger_size: int, pixel_max: int
) -> NDArray[np.uint8]:
    """Return copies of images (N, height, width) with a bright lower right corner."""
    stamped = images.copy()
    stamped[:, -trigger_size:, -trigger_size:] = pixel_max
    return stamped


def poison(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    *,
    attack: AttackSettings,
    client_id: int,
    seed: int,
    pixel_max: int,
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return what a client trains on: its own data, poisoned if it attacks.

    Parameters
    ----------
    images, labels : arrays, shapes (N, height, width) and (N,)
        Never changed; an honest client gets these very arrays back.
    attack : AttackSettings
        `fraction` of the images, rounded to a whole number, is poisoned; which ones is
        drawn from the stream (seed, "poison", client_id).
    """
    if attack.name == "none" or client_id not in (attack.clients or ()):
        return images, labels
    count = round(attack.fraction * len(labels))
    chosen = rng(seed, "poison", 0, client_id).permutation(len(labels))[:count]
    labels = labels.copy()
    if attack.name == "label_flip":
        labels[chosen] = flip_labels(labels[chosen])
        return images, labels
    labels[chosen] = attack.target
    images = images.copy()
    images[chosen] = stamp(
        images[chosen], trigger_size=attack.trigger_size, pixel_max=pixel_max
    )
    return images, labels


def attack_probe(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    *,
    attack: AttackSettings,
    pixel_max: int,
) -> tuple[NDArray[np.uint8], NDArray[np.int64]] | None:
    """Return test inputs and the answers the attacker hopes for, or None.

    The share of inputs answered so is the attack success rate. For a backdoor these are
    stamped images of every class but the target; for a label flip all images with the
    flipped label.
    """
    if attack.name == "none":
        return None
    if attack.name == "label_flip":
        return images, flip_labels(labels)
    other = labels != attack.target
    stamped = stamp(
        images[other], trigger_size=attack.trigger_size, pixel_max=pixel_max
    )
    return stamped, np.full(int(other.sum()), attack.target, dtype=np.int64)
