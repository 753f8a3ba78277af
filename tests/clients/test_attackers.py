"""Real clients that attack: what they train on, and what they send."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from builders.federations import Bench, data_of, small_config
from builders.networks import initial_parameters
from fedneg.clients.trainer import TrainingClient
from fedneg.core.assignment import Assignment
from fedneg.core.errors import FedNegError
from fedneg.core.parameters import NDArrays
from fedneg.core.seeding import rng
from fedneg.data.attacks import boosted, poison
from fedneg.data.kinds import DIGITS


def client(client_id: int, *overrides: str, own: str | None = None) -> TrainingClient:
    """Return a client in its first round."""
    assignment = Assignment.of(small_config(*overrides), root=None)
    return TrainingClient(client_id, assignment, 1, {"data": own} if own else None)


def start() -> NDArrays:
    return initial_parameters(64, [16], 10, seed=0)


def local(client_id: int, *overrides: str) -> NDArrays:
    """Return what a client sends after training from `start`."""
    return client(client_id, *overrides).fit(start(), {})[0]


@pytest.mark.parametrize(
    ("client_id", "attack"),
    [
        (4, "none"),
        *((2, name) for name in ("backdoor", "label_flip", "canaries", "sybils")),
    ],
)
def test_honest_clients_train_on_the_very_images(client_id: int, attack: str):
    honest = client(client_id, f"attack={attack}", "forget=[1,4]")
    assert honest.training_data() is honest.split.train


# -- model replacement ----------------------------------------------------------------


@pytest.mark.parametrize(("option", "boost"), [((), 5.0), (("attack.boost=2.5",), 2.5)])
def test_an_attacker_sends_its_backdoored_update_boosted(
    option: tuple[str, ...], boost: float
):
    trained = local(4, "attack=backdoor")
    sent = local(4, "attack=model_replacement", *option)
    for found, expected in zip(sent, boosted(start(), trained, boost), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(sent[0], trained[0])


def test_its_accomplices_and_the_honest_boost_what_they_should():
    attack = ("attack=model_replacement", "attack.clients=[1,4]")
    for found, expected in zip(local(2, *attack), local(2), strict=True):
        np.testing.assert_array_equal(found, expected)
    trained = local(1, "attack=backdoor", "attack.clients=[1,4]")
    for found, expected in zip(
        local(1, *attack), boosted(start(), trained, 2.5), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_what_it_says_of_its_training_is_of_the_model_that_it_trained():
    option = "client.evaluate_after_fit=true"
    _, _, expected = client(4, "attack=backdoor", option).fit(start(), {})
    _, _, found = client(4, "attack=model_replacement", option).fit(start(), {})
    assert found == expected


def test_an_attacker_that_boosts_too_much_is_refused_by_the_server():
    """Update norms of the digits' clients are alike, and the limit is 100 times."""
    for boost, refused in ((5, []), (1000, [4])):
        config = small_config("attack=model_replacement", f"attack.boost={boost}")
        bench = Bench(
            config, start(), assignment=Assignment.of(config, root=None).to_json()
        )
        bench.train(1)
        assert [k for _, k, _ in bench.failures()] == refused
        assert all("max_update_norm_ratio" in why for *_, why in bench.failures())


# -- sybils ---------------------------------------------------------------------------


@pytest.mark.parametrize("shared", ["label_flip", "backdoor"])
def test_sybils_train_on_the_poisoned_images_of_the_first(shared: str):
    attack = ("attack=sybils", "attack.clients=[1,3]", f"attack.shared={shared}")
    config = small_config(*attack)
    data = data_of(1, config)
    images, labels = poison(
        data.images[data.train],
        data.labels[data.train],
        attack=replace(config.attack, name=shared),
        draws=rng(config.seed, "poison", 0, 1),
        kind=DIGITS,
    )
    for client_id in (1, 3):
        found = client(client_id, *attack).training_data().arrays()
        np.testing.assert_array_equal(found[0], images)
        np.testing.assert_array_equal(found[1], labels)
    data = data_of(2, config)
    found = client(2, *attack).training_data().arrays()
    np.testing.assert_array_equal(found[0], data.images[data.train])
    np.testing.assert_array_equal(found[1], data.labels[data.train])


def test_a_sybil_counts_what_it_trained_on_and_measures_on_its_own():
    attack = ("attack=sybils", "attack.clients=[1,3]")
    sybil, honest = client(3, *attack), client(3)
    _, count, _ = sybil.fit(start(), {})
    assert count == len(client(1).split.train)
    found, expected = (c.evaluate(start(), {})[2] for c in (sybil, honest))
    assert found["num_train"] == len(honest.split.train)
    assert found["train_accuracy"] == expected["train_accuracy"]
    assert found["trained_accuracy"] != expected["trained_accuracy"]


def test_sybils_shuffle_their_images_each_for_itself():
    attack = ("attack=sybils", "attack.clients=[1,3]")
    assert not np.array_equal(local(1, *attack)[0], local(3, *attack)[0])


def test_a_sybil_with_data_of_its_own_says_what_it_lacks(tmp_path: Path):
    data = data_of(3, small_config())
    mine = np.sort(np.concatenate([data.train, data.val, data.test]))
    place = tmp_path / "mine.npz"
    np.savez(place, images=data.images[mine], labels=data.labels[mine])
    attack = ("attack=sybils", "attack.clients=[1,3]")
    with pytest.raises(FedNegError, match="client 3 on the data of client 1; with"):
        client(3, *attack, own=str(place)).fit(start(), {})


# -- canaries -------------------------------------------------------------------------


def test_planted_canaries_count_as_training_examples():
    attack = ("attack=canaries", "attack.canaries=30")
    planting = client(4, *attack)
    _, count, _ = planting.fit(start(), {})
    assert count == len(planting.split.train) + 30
    assert planting.evaluate(start(), {})[2]["num_train"] == count - 30
    assert client(2, *attack).fit(start(), {})[1] == len(client(2).split.train)


def test_test_and_validation_images_are_what_they_were_without_canaries():
    one, two = client(4, "attack=canaries").split, client(4).split
    for part in ("train", "val", "test"):
        np.testing.assert_array_equal(
            one.measured[part].index, two.measured[part].index
        )
        assert one.measured[part].images is two.measured[part].images
    np.testing.assert_array_equal(one.unseen.index, two.unseen.index)
