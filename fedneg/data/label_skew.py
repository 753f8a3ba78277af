"""Deal images to clients by their labels: evenly, by Dirichlet shares, or in shards.

Each function returns the client of each image, so that every image is dealt out exactly
once by construction. Ours, since flwr-datasets' partitioners need the `datasets`
library and its tables; the rules are those of the papers named below.
"""

import numpy as np
from numpy.typing import NDArray

from fedneg.core.errors import FedNegError

Indices = NDArray[np.int64]
LEAST_IMAGES = 10  # what NIID-Bench (arXiv:2102.02079) and flwr-datasets ask for


def deal_evenly(images: int, clients: int, rng: np.random.Generator) -> Indices:
    """Return the client of each image, dealt out one by one after a shuffle (iid).

    Parameters
    ----------
    images, clients : int
        ``clients`` is 1 to ``images``; the numbers of images differ by at most one.

    Returns
    -------
    (images,) int64
    """
    return rng.permutation(np.arange(images) % clients)


def deal_dirichlet(
    labels: Indices, clients: int, alpha: float, rng: np.random.Generator
) -> Indices:
    """Return the client of each image, each class cut by shares from Dirichlet(alpha).

    For each class the clients' shares are one draw of a symmetric Dirichlet, rounded to
    whole images, so clients differ in their labels and in their size. Where classes are
    equally frequent and clients many, a client's mix of labels is itself a draw of a
    symmetric Dirichlet(alpha) over the classes.

    Parameters
    ----------
    labels : (N,) int64
    clients : int
        K, 1 to N.
    alpha : float
        Small: a client has few classes; large: everybody has the same mix. Hsu et al.
        draw a client's mix from Dirichlet(alpha times the class priors), so their alpha
        is the sum over the classes: their 3 is 0.3 for each of ten.

    Returns
    -------
    (N,) int64
        Every client has at least min(10, N // K) images.

    References
    ----------
    Yurochkin et al., ICML 2019, section 4 (p_k ~ Dir_J(0.5)). arXiv:1905.12022
    Hsu et al., 2019. arXiv:1909.06335

    Differs from the paper: clients with too few images get some of the fullest
    client's. Drawing anew until none has, as others do, may never end where N / K is
    about ten, and makes the shares milder than alpha says.
    """
    client_of = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        images = rng.permutation(np.flatnonzero(labels == label))
        shares = rng.dirichlet(np.full(clients, alpha))
        # Rounding the running sum loses no image, rounding each share would.
        bounds = np.rint(np.cumsum(shares)[:-1] * len(images)).astype(np.int64)
        for client, part in enumerate(np.split(images, bounds)):
            client_of[part] = client
    return top_up(client_of, clients, min(LEAST_IMAGES, len(labels) // clients), rng)


def top_up(
    client_of: Indices, clients: int, least: int, rng: np.random.Generator
) -> Indices:
    """Return the client of each image after each client was brought to ``least``.

    One image at a time goes from the client that has most to the one that has fewest,
    so nobody else is ever taken below ``least``.

    Parameters
    ----------
    client_of : (N,) int64
        Not changed.
    least : int
        At most N // ``clients``.
    """
    client_of = client_of.copy()
    loads = np.bincount(client_of, minlength=clients)
    while loads.min() < least:
        giver, taker = int(loads.argmax()), int(loads.argmin())
        client_of[rng.choice(np.flatnonzero(client_of == giver))] = taker
        loads[giver] -= 1
        loads[taker] += 1
    return client_of


def deal_shards(
    labels: Indices, clients: int, per_client: int, rng: np.random.Generator
) -> Indices:
    """Return the client of each image, dealt out in shards of images sorted by label.

    Parameters
    ----------
    labels : (N,) int64
    clients, per_client : int
        ``clients * per_client`` shards, whose sizes differ by at most one.

    Returns
    -------
    (N,) int64
        With shards no larger than a class, a client has at most ``2 * per_client``
        classes: a shard spans two where one class ends.

    Raises
    ------
    FedNegError
        If there are more shards than images.

    References
    ----------
    McMahan et al., AISTATS 2017, section 3 (200 shards of 300 images, two to a
    client). arXiv:1602.05629
    """
    shards = clients * per_client
    if shards > len(labels):
        raise FedNegError(
            f"clients times data.shards_per_client must be at most the number of "
            f"images, {len(labels)}, got {clients} * {per_client}"
        )
    # Shuffled within a label: the files' order would put a writer's images together.
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    owner = rng.permutation(np.arange(shards) % clients)
    client_of = np.empty(len(labels), np.int64)
    for client, shard in zip(owner, np.array_split(order, shards), strict=True):
        client_of[shard] = client
    return client_of
