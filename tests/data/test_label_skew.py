"""Partitions by label: complete, disjoint, seeded, and as skewed as was asked for."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.federations import data_of, small_config
from fedneg.core.errors import FedNegError
from fedneg.core.seeding import rng
from fedneg.data.datasets import Dataset, load_dataset
from fedneg.data.label_skew import (
    Indices,
    deal_dirichlet,
    deal_evenly,
    deal_shards,
    top_up,
)
from fedneg.data.partition import (
    ClientSplit,
    partition,
    partition_by_writer,
    split_images,
)

SKEWED = ("iid", "dirichlet", "shards")
seeds = st.integers(0, 2**32)
labels_lists = st.lists(st.integers(0, 9), min_size=1, max_size=300).map(np.array)


def images_of(split: ClientSplit) -> Indices:
    return np.sort(np.concatenate([split.train, split.val, split.test]))


def split_digits(name: str, clients: int, seed: int = 0) -> tuple[ClientSplit, ...]:
    settings = small_config(f"data.partition={name}").data
    return partition(load_dataset("digits"), settings, clients=clients, seed=seed)


def classes_of(labels: Indices, client_of: Indices, client: int) -> set[int]:
    return set(labels[client_of == client].tolist())


@pytest.mark.parametrize("clients", [5, 20, 100])
@pytest.mark.parametrize("name", SKEWED)
def test_digits_are_dealt_out_whole_to_5_20_and_100_clients(name: str, clients: int):
    digits = load_dataset("digits")
    splits = split_digits(name, clients)
    everything = np.concatenate([images_of(s) for s in splits])
    np.testing.assert_array_equal(np.sort(everything), np.arange(len(digits.labels)))
    for client_id, split in enumerate(splits):
        assert split.client_id == client_id
        assert min(map(len, (split.train, split.val, split.test))) >= 1
        images = images_of(split)
        assert len(images) >= 10
        np.testing.assert_array_equal(split.writers, np.unique(digits.writers[images]))


@given(labels_lists, seeds, st.sampled_from(SKEWED), st.data())
def test_every_image_is_in_exactly_one_part_of_one_client(
    labels: Indices, seed: int, name: str, data: st.DataObject
):
    clients = data.draw(st.integers(1, len(labels)))
    settings = replace(
        small_config().data,
        partition=name,
        alpha=data.draw(st.floats(1e-3, 1e6)),
        shards_per_client=data.draw(st.integers(1, len(labels) // clients)),
    )
    made = replace(load_dataset("digits"), labels=labels, writers=labels % 3)
    splits = partition(made, settings, clients=clients, seed=seed)
    everything = np.concatenate([images_of(s) for s in splits])
    np.testing.assert_array_equal(np.sort(everything), np.arange(len(labels)))
    assert all(len(split.train) for split in splits)
    again = partition(made, settings, clients=clients, seed=seed)
    for one, two in zip(splits, again, strict=True):
        for part in ("writers", "train", "val", "test"):
            np.testing.assert_array_equal(getattr(one, part), getattr(two, part))


@pytest.mark.parametrize("name", SKEWED)
def test_a_clients_images_are_split_as_with_writers(name: str):
    for split in split_digits(name, 5, seed=3):
        expected = split_images(split.client_id, images_of(split), split.writers, 3)
        for part in ("train", "val", "test"):
            np.testing.assert_array_equal(getattr(split, part), getattr(expected, part))


@pytest.mark.parametrize("name", SKEWED)
def test_other_seeds_give_other_partitions(name: str):
    seen = {tuple(images_of(split_digits(name, 5, seed=k)[0])) for k in range(10)}
    assert len(seen) == 10


def test_writer_is_the_partition_that_it_always_was():
    digits = load_dataset("digits")
    for split_writers, clients in ((False, 5), (True, 30)):
        settings = replace(small_config().data, split_writers=split_writers)
        for one, two in zip(
            partition(digits, settings, clients=clients, seed=1),
            partition_by_writer(
                digits.writers, clients=clients, seed=1, split_writers=split_writers
            ),
            strict=True,
        ):
            for part in ("writers", "train", "val", "test"):
                np.testing.assert_array_equal(getattr(one, part), getattr(two, part))


@pytest.mark.parametrize("name", SKEWED)
def test_a_client_gets_the_images_that_the_server_deals(name: str):
    config = small_config(f"data.partition={name}", "clients=7", "seed=2")
    found = data_of(3, config)
    split = partition(load_dataset("digits"), config.data, clients=7, seed=2)[3]
    for part in ("train", "val", "test"):
        np.testing.assert_array_equal(getattr(found, part), getattr(split, part))
    assert found.num_writers == len(split.writers)


# -- iid ------------------------------------------------------------------------------


@given(st.integers(1, 200), seeds, st.data())
def test_iid_clients_differ_by_one_image_at_most(
    images: int, seed: int, data: st.DataObject
):
    clients = data.draw(st.integers(1, images))
    counts = np.bincount(deal_evenly(images, clients, rng(seed, "test")))
    assert len(counts) == clients
    assert np.ptp(counts) <= 1


def test_iid_deals_neighbours_to_different_places():
    """Not image i to client i mod K, which would follow the order of the files."""
    client_of = deal_evenly(60, 3, rng(0, "test"))
    assert client_of.tolist() != (np.arange(60) % 3).tolist()


# -- Dirichlet ------------------------------------------------------------------------


class Shares:
    """A generator that shuffles nothing and gives these shares, class by class."""

    def __init__(self, *shares: list[float]) -> None:
        self.shares, self.asked = list(shares), []

    def permutation(self, values: Indices) -> Indices:
        """Return what was given."""
        return values

    def dirichlet(self, alpha: np.ndarray) -> np.ndarray:
        """Return the next shares."""
        self.asked.append(alpha.tolist())
        return np.array(self.shares.pop(0))


def test_dirichlet_cuts_each_class_by_its_shares_by_hand():
    """30 zeros by .5 .5 give 15 | 15; 20 ones by .1 .9 give 2 | 18."""
    labels = np.repeat([0, 1], [30, 20])
    shares = Shares([0.5, 0.5], [0.1, 0.9])
    client_of = deal_dirichlet(labels, 2, 0.3, shares)  # type: ignore[arg-type]
    expected = np.repeat([0, 1, 0, 1], [15, 15, 2, 18])
    np.testing.assert_array_equal(client_of, expected)
    assert shares.asked == [[0.3, 0.3], [0.3, 0.3]]


@given(labels_lists, seeds, st.floats(1e-3, 1e6), st.data())
def test_dirichlet_leaves_nobody_without_a_handful(
    labels: Indices, seed: int, alpha: float, data: st.DataObject
):
    clients = data.draw(st.integers(1, len(labels)))
    client_of = deal_dirichlet(labels, clients, alpha, rng(seed, "test"))
    counts = np.bincount(client_of, minlength=clients)
    assert len(counts) == clients
    assert counts.min() >= min(10, len(labels) // clients)


def test_dirichlet_mixes_the_order_of_the_files():
    """Of 40 images of one label, a client's share is not the first ones."""
    client_of = deal_dirichlet(np.zeros(40, np.int64), 2, 1e6, rng(0, "test"))
    assert client_of.sum() == 20
    assert 0 < client_of[:20].sum() < 20


def test_smaller_alpha_is_more_skewed():
    """A client's most frequent class has all of its images, or a tenth if iid."""
    labels = np.repeat(np.arange(10), 500)
    mean_share = []
    for alpha in (0.01, 0.3, 3, 1000):
        client_of = deal_dirichlet(labels, 20, alpha, rng(0, "test"))
        table = np.histogram2d(client_of, labels, bins=(20, 10))[0]
        mean_share.append(float((table.max(1) / table.sum(1)).mean()))
    assert mean_share == sorted(mean_share, reverse=True)
    assert mean_share[0] > 0.6
    assert 0.3 < mean_share[1] < 0.6
    assert mean_share[-1] < 0.12


def test_top_up_takes_from_the_fullest_by_hand():
    """6 | 3 | 0 with 2 for everybody: client 0 gives both, client 1 keeps its own."""
    before = np.repeat([0, 1], [6, 3])
    after = top_up(before, 3, 2, rng(0, "test"))
    assert np.bincount(after).tolist() == [4, 3, 2]
    assert (before[after != before] == 0).all()
    assert before.tolist() == [0] * 6 + [1] * 3


def test_top_up_leaves_alone_what_is_enough():
    before = np.repeat([0, 1], [6, 3])
    assert top_up(before, 2, 3, rng(0, "test")).tolist() == before.tolist()


# -- shards ---------------------------------------------------------------------------


def test_shards_are_of_one_label_where_classes_divide_evenly():
    """Ten classes of 20 images, 5 clients x 2 shards: each shard is a whole class."""
    labels = rng(0, "labels").permutation(np.repeat(np.arange(10), 20))
    client_of = deal_shards(labels, 5, 2, rng(0, "test"))
    found = [classes_of(labels, client_of, k) for k in range(5)]
    assert [len(classes) for classes in found] == [2] * 5
    assert set.union(*found) == set(range(10))
    assert np.bincount(client_of).tolist() == [40] * 5


@given(labels_lists, seeds, st.data())
def test_a_client_has_at_most_two_classes_a_shard(
    labels: Indices, seed: int, data: st.DataObject
):
    """Where no shard is larger than the smallest class."""
    _, counts = np.unique(labels, return_counts=True)
    fewest = -(-len(labels) // int(counts.min()))
    per_client = data.draw(st.integers(1, 3))
    clients = -(-fewest // per_client)
    if clients * per_client > len(labels):
        return
    client_of = deal_shards(labels, clients, per_client, rng(seed, "test"))
    for client in range(clients):
        assert 1 <= len(classes_of(labels, client_of, client)) <= 2 * per_client


def test_shards_are_dealt_at_random():
    labels = np.repeat(np.arange(10), 20)
    first = {tuple(deal_shards(labels, 5, 2, rng(k, "test"))) for k in range(10)}
    assert len(first) == 10
    homes = [deal_shards(labels, 5, 2, rng(k, "test"))[labels == 0] for k in range(9)]
    assert len({int(home[0]) for home in homes}) > 1


def test_a_shard_mixes_the_order_of_the_files():
    """Of 40 images of one label, a client's half is not the first half."""
    client_of = deal_shards(np.zeros(40, np.int64), 2, 1, rng(0, "test"))
    assert 0 < client_of[:20].sum() < 20


# -- mistakes -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "clients", "message"),
    [
        ("iid", 0, "clients must be at least 1, got 0"),
        ("dirichlet", 7, "clients must be at most the number of images, 6, got 7"),
        ("shards", 4, r"shards_per_client must .* images, 6, got 4 \* 2"),
    ],
)
def test_an_impossible_number_of_clients_names_both_numbers(
    name: str, clients: int, message: str
):
    made: Dataset = replace(
        load_dataset("digits"), labels=np.arange(6), writers=np.arange(6)
    )
    settings = replace(small_config().data, partition=name)
    with pytest.raises(FedNegError, match=message):
        partition(made, settings, clients=clients, seed=0)
