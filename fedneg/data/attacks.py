"""Attacks: what a client does to its training data and its update, and how it works.

* label flip: y -> (y + 1) mod C, all C classes (Fung et al., arXiv:1808.04866, flip
  every digit);
* backdoor: a bright square in the lower right corner, relabelled as the target class
  (Gu et al., arXiv:1708.06733, 'BadNets'; Bagdasaryan et al., AISTATS 2020, for FL);
* model replacement: a backdoor whose update is made longer (Bagdasaryan et al., eq. 3);
* sybils: several clients train on the poisoned images of one (Fung et al.);
* canaries: images to be remembered (`fedneg.data.canaries`).

A backdoor's success is measured on test images of *other* classes only: images that
truly belong to the target class would count as successes of any good model.
"""

import numpy as np
from numpy.typing import NDArray

from fedneg.core.data_settings import AttackSettings
from fedneg.core.parameters import NDArrays
from fedneg.data.canaries import make_canaries
from fedneg.data.kinds import ImageKind


def flip_labels(labels: NDArray[np.int64], *, classes: int) -> NDArray[np.int64]:
    """Return the labels that the flipping attack teaches: (y + 1) mod classes."""
    return (labels + 1) % classes


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
    draws: np.random.Generator,
    kind: ImageKind,
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return what an attacker trains on: its own data, poisoned.

    Parameters
    ----------
    images, labels : arrays, shapes (N, height, width) and (N,)
        Never changed.
    attack : AttackSettings
        `fraction` of the images, rounded to a whole number, is poisoned. Canaries are
        added after all of them instead.
    draws : numpy Generator
        Which ones, or what canaries are made of.
    kind : ImageKind
        What images look like, and how many classes there are.
    """
    if attack.poison == "canaries":
        made = make_canaries(kind, count=attack.canaries, draws=draws)
        return np.concatenate([images, made.planted]), np.append(labels, made.labels)
    chosen = poisoned_places(len(labels), attack=attack, draws=draws)
    labels = labels.copy()
    if attack.poison == "label_flip":
        labels[chosen] = flip_labels(labels[chosen], classes=kind.num_classes)
        return images, labels
    labels[chosen] = attack.target
    images = images.copy()
    images[chosen] = stamp(
        images[chosen], trigger_size=attack.trigger_size, pixel_max=kind.pixel_max
    )
    return images, labels


def poisoned_places(
    count: int, *, attack: AttackSettings, draws: np.random.Generator
) -> NDArray[np.int64]:
    """Return which of an attacker's examples `poison` changes, or adds to its own.

    Parameters
    ----------
    count : int
        How many it has of its own.
    draws : numpy Generator
        As of `poison`: of the same stream, and from its beginning.
    """
    if attack.poison == "canaries":
        return np.arange(count, count + attack.canaries)
    order: NDArray[np.int64] = draws.permutation(count)
    return order[: round(attack.fraction * count)]


def boosted(parameters: NDArrays, local: NDArrays, boost: float) -> NDArrays:
    """Return what an attacker sends to replace the model: global + boost * update.

    With boost n / eta, for n clients that weigh the same and a server learning rate
    eta, the others' updates being small, the new global model is ``local``.

    Parameters
    ----------
    parameters, local : NDArrays
        The global model and the attacker's trained one; neither is changed.
    boost : float
        1 sends ``local``, up to rounding.

    References
    ----------
    Bagdasaryan et al., AISTATS 2020, equation 3. arXiv:1807.00459

    Differs from the paper: the attacker does so in every round that it takes part in,
    not once after the model has converged; and it does not hold its update below what
    the server would refuse (`strategy.max_update_norm_ratio`).
    """
    # What is too long for float32 is not finite, and the server's to refuse.
    with np.errstate(over="ignore", invalid="ignore"):
        return [
            start + np.float32(boost) * (end - start)
            for start, end in zip(parameters, local, strict=True)
        ]


def attack_probe(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    *,
    attack: AttackSettings,
    kind: ImageKind,
) -> tuple[NDArray[np.uint8], NDArray[np.int64]] | None:
    """Return test inputs and the answers the attacker hopes for, or None.

    The share of inputs answered so is the attack success rate. For a backdoor these are
    stamped images of every class but the target; for a label flip all images with the
    flipped label. Canaries say nothing about images of a test set.
    """
    if attack.poison in ("none", "canaries"):
        return None
    if attack.poison == "label_flip":
        return images, flip_labels(labels, classes=kind.num_classes)
    other = labels != attack.target
    stamped = stamp(
        images[other], trigger_size=attack.trigger_size, pixel_max=kind.pixel_max
    )
    return stamped, np.full(int(other.sum()), attack.target, dtype=np.int64)
