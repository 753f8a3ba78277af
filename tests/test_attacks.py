"""Poisoning by hand: who, how much, and how its success is counted."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import small_config
from hypothesis import given
from hypothesis import strategies as st

from fedneg.attacks import attack_probe, flip_labels, poison, stamp
from fedneg.settings import AttackSettings

NONE = small_config().attack
BACKDOOR = replace(NONE, name="backdoor", clients=(1, 4), target=3, trigger_size=2)
FLIP = replace(BACKDOOR, name="label_flip")


def pictures(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return dark read-only images with labels 0, 1, 2, ..., 9, 0, 1, ..."""
    images = np.full((count, 4, 5), 1, np.uint8)
    labels = np.arange(count) % 10
    images.flags.writeable = labels.flags.writeable = False
    return images, labels


def poisoned(
    attack: AttackSettings, count: int = 20, client_id: int = 4, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return what a client trains on."""
    return poison(
        *pictures(count), attack=attack, client_id=client_id, seed=seed, pixel_max=16
    )


def test_labels_flip_to_the_next_digit_by_hand():
    assert flip_labels(np.array([0, 4, 9])).tolist() == [1, 5, 0]


def test_trigger_is_the_lower_right_corner_by_hand():
    images, _ = pictures(2)
    found = stamp(images, trigger_size=2, pixel_max=16)
    assert found[1].tolist() == [
        [1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1],
        [1, 1, 1, 16, 16],
        [1, 1, 1, 16, 16],
    ]
    assert images.max() == 1


@given(st.integers(1, 60), st.floats(0.01, 1), st.sampled_from([BACKDOOR, FLIP]))
def test_the_fraction_of_images_is_poisoned(
    count: int, fraction: float, attack: AttackSettings
):
    """Rounded to a whole number; the rest is as it was, image by image."""
    images, labels = pictures(count)
    found = poisoned(replace(attack, fraction=fraction), count)
    expected = round(fraction * count)
    if attack.name == "label_flip":
        changed = found[1] != labels
        np.testing.assert_array_equal(found[0], images)
        np.testing.assert_array_equal(found[1][changed], (labels[changed] + 1) % 10)
    else:
        changed = (found[0] != images).any(axis=(1, 2))
        assert (found[1][changed] == 3).all()
        assert (found[0][changed][:, -2:, -2:] == 16).all()
        np.testing.assert_array_equal(found[1][~changed], labels[~changed])
    assert changed.sum() == expected


@pytest.mark.parametrize("attack", [BACKDOOR, FLIP])
def test_poisoning_does_not_change_what_it_is_given(attack: AttackSettings):
    images, labels = (a.copy() for a in pictures(20))
    found = poison(images, labels, attack=attack, client_id=4, seed=0, pixel_max=16)
    assert (found[1] != labels).any()
    for given_array, before in zip((images, labels), pictures(20), strict=True):
        np.testing.assert_array_equal(given_array, before)


@pytest.mark.parametrize("attack", [NONE, BACKDOOR, FLIP])
def test_honest_clients_train_on_the_very_arrays(attack: AttackSettings):
    images, labels = pictures(10)
    found = poison(images, labels, attack=attack, client_id=2, seed=0, pixel_max=16)
    assert found[0] is images
    assert found[1] is labels


def test_which_images_are_poisoned_hangs_on_seed_and_client():
    first = poisoned(FLIP)[1].tolist()
    assert poisoned(FLIP)[1].tolist() == first
    assert poisoned(FLIP, seed=1)[1].tolist() != first
    assert poisoned(FLIP, client_id=1)[1].tolist() != first


def test_backdoor_probe_leaves_out_the_target_class():
    images, labels = pictures(20)
    found = attack_probe(images, labels, attack=BACKDOOR, pixel_max=16)
    assert found is not None
    assert len(found[0]) == 18
    assert (found[0][:, -2:, -2:] == 16).all()
    assert found[1].tolist() == [3] * 18
    assert images.max() == 1


def test_flip_probe_hopes_for_the_next_digit():
    images, labels = pictures(3)
    found = attack_probe(images, labels, attack=FLIP, pixel_max=16)
    assert found is not None
    assert found[0] is images
    assert found[1].tolist() == [1, 2, 3]


def test_without_an_attack_nothing_is_probed():
    assert attack_probe(*pictures(3), attack=NONE, pixel_max=16) is None
