"""Cut a data set into clients: writer by writer, or by `fedneg.data.label_skew`.

Writers are dealt out as evenly as exchanges can make it. Longest-first list scheduling
(Graham, SIAM J. Appl. Math. 17, 1969) deals them out; then moves and swaps even out the
loads until no single one can lower the spread.
"""

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedneg.core import seeding
from fedneg.core.data_settings import DataSettings
from fedneg.core.errors import FedNegError
from fedneg.data.datasets import Dataset
from fedneg.data.label_skew import deal_dirichlet, deal_evenly, deal_shards

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ClientSplit:
    """One client's writers, and its images as ascending indices into the data set."""

    client_id: int
    writers: Indices
    train: Indices
    val: Indices
    test: Indices


def partition(
    dataset: Dataset, settings: DataSettings, *, clients: int, seed: int
) -> tuple[ClientSplit, ...]:
    """Deal all images of a data set out as `settings.partition` says.

    Server and clients call this alike, and get the same. A client's `writers` are those
    of its images: only with ``writer`` is each of them in one client alone.

    Parameters
    ----------
    clients : int
        Number of clients K.
    seed : int
        Another seed gives another partition.

    Returns
    -------
    tuple of K ClientSplit
        In the order of client ids; each client's images split as by
        `partition_by_writer`.

    Raises
    ------
    FedNegError
        If there are fewer than one, or too many clients (or shards).
    """
    name, labels = settings.partition, dataset.labels
    if name == "writer":
        return partition_by_writer(
            dataset.writers,
            clients=clients,
            seed=seed,
            split_writers=settings.split_writers,
        )
    _check_clients(clients, len(labels))
    rng = seeding.rng(seed, f"partition {name}")
    if name == "iid":
        client_of = deal_evenly(len(labels), clients, rng)
    elif name == "dirichlet":
        client_of = deal_dirichlet(labels, clients, settings.alpha, rng)
    else:
        client_of = deal_shards(labels, clients, settings.shards_per_client, rng)
    return _splits(client_of, dataset.writers, clients=clients, seed=seed)


def partition_by_writer(
    writers: Indices, *, clients: int, seed: int, split_writers: bool = False
) -> tuple[ClientSplit, ...]:
    """Deal all images out to clients so that no writer is in two of them.

    Each client's images are shuffled and split 10 : 1 : 1 into training, validation and
    test; a client of three images or more has at least one of each.

    Parameters
    ----------
    writers : (N,) int64
        The writer of each image.
    clients : int
        Number of clients K, at most the number of writers.
    seed : int
        Another seed gives another partition.
    split_writers : bool
        Allow more clients than writers, up to N: then each client holds one piece of
        one writer, the pieces being as small as possible, and near-equal in a writer.

    Returns
    -------
    tuple of K ClientSplit
        In the order of client ids.

    Raises
    ------
    FedNegError
        If there are fewer than one, or too many clients.
    """
    known, piece_of = np.unique(writers, return_inverse=True)
    if clients > len(known) and not split_writers:
        raise FedNegError(
            f"clients must be at most the number of writers, {len(known)}, got "
            f"{clients}; data.split_writers=true allows more"
        )
    _check_clients(clients, len(writers))
    rng = seeding.rng(seed, "partition")
    if clients > len(known):
        piece_of = _cut(piece_of, clients, rng)
    client_of = balance(np.bincount(piece_of), clients, rng)[piece_of]
    return _splits(client_of, writers, clients=clients, seed=seed)


def _check_clients(clients: int, images: int) -> None:
    """Refuse no clients at all, and more of them than images."""
    if clients < 1:
        raise FedNegError(f"clients must be at least 1, got {clients}")
    if clients > images:
        raise FedNegError(
            f"clients must be at most the number of images, {images}, got {clients}"
        )


def _splits(
    client_of: Indices, writers: Indices, *, clients: int, seed: int
) -> tuple[ClientSplit, ...]:
    """Return each client's images, split; `client_of` and `writers` are by image."""
    order = np.argsort(client_of, kind="stable")
    bounds = np.searchsorted(client_of[order], np.arange(1, clients))
    return tuple(
        split_images(client_id, images, np.unique(writers[images]), seed)
        for client_id, images in enumerate(np.split(order, bounds))
    )


def balance(sizes: Indices, clients: int, rng: np.random.Generator) -> Indices:
    """Return the client of each piece, so that no exchange can lower the spread.

    An exchange moves one piece to another client or swaps two pieces; the spread is the
    largest load minus the smallest.

    Parameters
    ----------
    sizes : (P,) int64
        Positive sizes of the pieces, P >= ``clients``.
    clients : int
        Number of clients, at least 1.
    rng : numpy.random.Generator
        Breaks ties and numbers the clients.
    """
    client_of = deal_largest_first(sizes, clients, rng)
    # One empty piece for each client: swapping another with it is a move.
    padded = np.append(sizes, np.zeros(clients, np.int64))
    owner = np.append(client_of, np.arange(clients))
    loads = np.bincount(owner, padded, clients).astype(np.int64)
    # Each exchange lowers the sum of squared loads, so this ends.
    while exchange := _best_exchange(padded, owner, loads):
        first, second = exchange
        moved = padded[first] - padded[second]
        loads[owner[first]] -= moved
        loads[owner[second]] += moved
        owner[[first, second]] = owner[[second, first]]
        owner[len(sizes) :] = np.arange(clients)
    # Dealt in order of load, the fullest client would often be the same one.
    return rng.permutation(clients)[owner[: len(sizes)]]


def deal_largest_first(
    sizes: Indices, clients: int, rng: np.random.Generator
) -> Indices:
    """Give each piece, largest first, to the client with the smallest load so far.

    Parameters
    ----------
    sizes : int array of shape (pieces,)
        Examples of each piece.
    clients : int
        How many there are, at least 1.
    rng : Generator
        Decides which of equally large pieces comes first.

    Returns
    -------
    int64 array of shape (pieces,)
        The client of each piece.

    References
    ----------
    Graham, SIAM J. Appl. Math. 17, 1969.
    """
    order = rng.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    client_of = np.empty(len(sizes), np.int64)
    loads = [(0, client) for client in range(clients)]
    for piece in order.tolist():
        load, client = loads[0]
        client_of[piece] = client
        heapq.heapreplace(loads, (load + int(sizes[piece]), client))
    return client_of


def _best_exchange(
    sizes: Indices, owner: Indices, loads: Indices
) -> tuple[int, int] | None:
    """Return the two pieces whose swap evens out an extreme client best, if any.

    Only exchanges of the fullest or the emptiest client can lower the spread. Shifting
    ``moved`` between clients whose loads differ by ``gap`` lowers the sum of squares by
    ``2 * moved * (gap - moved)``.
    """
    everything = np.arange(len(owner))
    of_fullest = np.flatnonzero(owner == loads.argmax())
    of_emptiest = np.flatnonzero(owner == loads.argmin())
    best, found = 0, None
    for first, second in ((of_fullest, everything), (everything, of_emptiest)):
        moved = sizes[first][:, None] - sizes[second]
        gap = loads[owner[first]][:, None] - loads[owner[second]]
        gain = np.where(moved > 0, moved * (gap - moved), 0)
        row, column = np.unravel_index(gain.argmax(), gain.shape)
        if gain[row, column] > best:
            best = int(gain[row, column])
            found = int(first[row]), int(second[column])
    return found


def _cut(writer_of: Indices, pieces: int, rng: np.random.Generator) -> Indices:
    """Return the piece of each image, the largest piece being as small as possible."""
    sizes = np.bincount(writer_of)
    counts = np.ones(len(sizes), np.int64)
    # One more piece for the writer whose pieces are the largest.
    heap = [(-float(size), writer) for writer, size in enumerate(sizes.tolist())]
    heapq.heapify(heap)
    for _ in range(pieces - len(sizes)):
        writer = heap[0][1]
        counts[writer] += 1
        heapq.heapreplace(heap, (-sizes[writer] / counts[writer], writer))
    order = rng.permutation(len(writer_of))
    order = order[np.argsort(writer_of[order], kind="stable")]
    # Image number i of a writer goes to the writer's piece i mod count.
    rank = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    first_piece = np.cumsum(counts) - counts
    piece_of = np.empty(len(order), np.int64)
    piece_of[order] = np.repeat(first_piece, sizes) + rank % np.repeat(counts, sizes)
    return piece_of


def split_images(
    client_id: int, images: Indices, writers: Indices, seed: int
) -> ClientSplit:
    """Split one client's images 10 : 1 : 1 after a shuffle of its own.

    Which image comes where depends on the seed, the client id and the number of images.

    Parameters
    ----------
    images : (N,) int64
        The client's images, ascending; from three on, each part has at least one.
    writers : (W,) int64
        Who wrote them.
    """
    shuffled = seeding.rng(seed, "split", client_id=client_id).permutation(images)
    # A twelfth, rounded; one where that would be none and there are three images.
    held = max((len(images) + 6) // 12, 1) if len(images) >= 3 else 0
    test, val, train = np.split(shuffled, [held, 2 * held])
    return ClientSplit(
        client_id, writers, train=np.sort(train), val=np.sort(val), test=np.sort(test)
    )
