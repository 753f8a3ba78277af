"""Poisoning by hand: who, how much, and how its success is counted."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.federations import small_config
from fedneg.core.data_settings import AttackSettings
from fedneg.core.seeding import rng
from fedneg.data.attacks import attack_probe, boosted, flip_labels, poison, stamp
from fedneg.data.canaries import Canaries, make_canaries
from fedneg.data.kinds import DIGITS

NONE = small_config().attack
BACKDOOR = replace(NONE, name="backdoor", clients=(1, 4), target=3, trigger_size=2)
FLIP = replace(BACKDOOR, name="label_flip")
CANARIES = replace(BACKDOOR, name="canaries", canaries=7)
SYBILS = replace(BACKDOOR, name="sybils")
KIND = replace(DIGITS, shape=(4, 5))


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
        *pictures(count),
        attack=attack,
        draws=stream(attack, client_id, seed),
        kind=KIND,
    )


def stream(
    attack: AttackSettings, client_id: int = 4, seed: int = 0
) -> np.random.Generator:
    """Return what a client's attack draws from."""
    return rng(
        seed, "canaries" if attack.poison == "canaries" else "poison", 0, client_id
    )


def canaries(shape: tuple[int, int], count: int, client_id: int, seed: int) -> Canaries:
    """Return a client's canaries."""
    return make_canaries(
        replace(DIGITS, shape=shape),
        count=count,
        draws=stream(CANARIES, client_id, seed),
    )


def test_labels_flip_to_the_next_digit_by_hand():
    assert flip_labels(np.array([0, 4, 9]), classes=10).tolist() == [1, 5, 0]
    assert flip_labels(np.array([0, 1, 2]), classes=3).tolist() == [1, 2, 0]


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


@pytest.mark.parametrize("attack", [BACKDOOR, FLIP, SYBILS])
def test_poisoning_does_not_change_what_it_is_given(attack: AttackSettings):
    images, labels = (a.copy() for a in pictures(20))
    found = poison(images, labels, attack=attack, draws=stream(attack), kind=KIND)
    assert (found[1] != labels).any()
    for given_array, before in zip((images, labels), pictures(20), strict=True):
        np.testing.assert_array_equal(given_array, before)


def test_which_images_are_poisoned_hangs_on_seed_and_client():
    first = poisoned(FLIP)[1].tolist()
    assert poisoned(FLIP)[1].tolist() == first
    assert poisoned(FLIP, seed=1)[1].tolist() != first
    assert poisoned(FLIP, client_id=1)[1].tolist() != first


def test_backdoor_probe_leaves_out_the_target_class():
    images, labels = pictures(20)
    found = attack_probe(images, labels, attack=BACKDOOR, kind=KIND)
    assert found is not None
    assert len(found[0]) == 18
    assert (found[0][:, -2:, -2:] == 16).all()
    assert found[1].tolist() == [3] * 18
    assert images.max() == 1


def test_flip_probe_hopes_for_the_next_digit():
    images, labels = pictures(3)
    found = attack_probe(images, labels, attack=FLIP, kind=KIND)
    assert found is not None
    assert found[0] is images
    assert found[1].tolist() == [1, 2, 3]


@pytest.mark.parametrize("attack", [NONE, CANARIES])
def test_without_success_to_speak_of_nothing_is_probed(attack: AttackSettings):
    assert attack_probe(*pictures(3), attack=attack, kind=KIND) is None


@pytest.mark.parametrize(
    ("attack", "same"),
    [
        (replace(BACKDOOR, name="model_replacement", boost=5.0), BACKDOOR),
        (replace(SYBILS, shared="backdoor"), BACKDOOR),
        (replace(SYBILS, shared="label_flip"), FLIP),
    ],
)
def test_these_poison_and_hope_as_a_plain_attack_does(
    attack: AttackSettings, same: AttackSettings
):
    for found, expected in (
        (poisoned(attack), poisoned(same)),
        (
            attack_probe(*pictures(20), attack=attack, kind=KIND),
            attack_probe(*pictures(20), attack=same, kind=KIND),
        ),
    ):
        assert found is not None
        assert expected is not None
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])


def test_only_sybils_train_on_the_images_of_the_first_of_them():
    assert [SYBILS.source_of(k) for k in range(5)] == [0, 1, 2, 3, 1]
    assert [BACKDOOR.source_of(k) for k in range(5)] == [0, 1, 2, 3, 4]


def test_an_attack_is_told_by_its_own_settings():
    own = {"boost", "shared", "canaries"}
    for name, key in (
        ("model_replacement", {"boost"}),
        ("sybils", {"shared"}),
        ("canaries", {"canaries"}),
        ("backdoor", set()),
    ):
        assert own & set(replace(BACKDOOR, name=name).settings) == key


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("none", "none"), ("label_flip", "label_flip"), ("backdoor", "backdoor")),
        *(("model_replacement", "backdoor"), ("sybils", "label_flip")),
        ("canaries", "canaries"),
    ],
)
def test_every_attack_says_what_it_does_to_images(name: str, kind: str):
    assert replace(BACKDOOR, name=name).poison == kind


# -- model replacement ----------------------------------------------------------------


def test_an_update_is_boosted_by_hand():
    """Global 1 and 10, trained 3 and 9: three times +2 and -1 are 7 and 7."""
    start, end = ([np.array([a], np.float32) for a in b] for b in ((1, 10), (3, 9)))
    found = boosted(start, end, 3.0)
    assert [a.tolist() for a in found] == [[7.0], [7.0]]
    assert [a.dtype for a in found] == [np.float32] * 2
    assert [a.tolist() for a in (*start, *end)] == [[1.0], [10.0], [3.0], [9.0]]


def test_boosted_by_the_number_of_clients_the_trained_model_replaces_the_global_one():
    """Four clients that weigh the same, three of whom send the global model back."""
    start, end = [np.array([1, -2], np.float32)], [np.array([0.5, 6], np.float32)]
    sent = [boosted(start, end, 4.0), start, start, start]
    mean = sum(s[0] for s in sent) / 4
    np.testing.assert_array_equal(mean, end[0])


def test_a_boost_beyond_float32_is_left_to_the_server():
    start, end = [np.zeros(1, np.float32)], [np.full(1, 1e38, np.float32)]
    assert np.isinf(boosted(start, end, 100.0)[0]).all()


# -- canaries -------------------------------------------------------------------------


def test_canaries_come_after_all_other_images():
    images, labels = poisoned(CANARIES)
    made = canaries((4, 5), 7, client_id=4, seed=0)
    np.testing.assert_array_equal(images[:20], pictures(20)[0])
    np.testing.assert_array_equal(labels[:20], pictures(20)[1])
    np.testing.assert_array_equal(images[20:], made.planted)
    np.testing.assert_array_equal(labels[20:], made.labels)
    assert images.dtype == np.uint8
    assert images.flags.writeable
    assert labels.flags.writeable


def test_canaries_hang_on_seed_and_client():
    one, same, *others = (
        canaries((8, 8), 5, client_id=k, seed=s)
        for k, s in ((1, 0), (1, 0), (2, 0), (1, 1))
    )
    np.testing.assert_array_equal(one.planted, same.planted)
    np.testing.assert_array_equal(one.held_out, same.held_out)
    for other in others:
        assert (one.planted != other.planted).any()
        assert (one.held_out != other.held_out).any()


def test_planted_and_held_out_canaries_are_of_one_kind():
    """Equally bright on average, no two alike, and every label about as often."""
    made = canaries((8, 8), 1000, client_id=0, seed=0)
    both = np.concatenate([made.planted, made.held_out])
    assert both.shape == (2000, 8, 8)
    assert set(np.unique(both)) == {0, 16}
    assert len({image.tobytes() for image in both}) == 2000
    # 64,000 draws with share 0.2: the standard error is 0.0016.
    for images in (made.planted, made.held_out):
        assert (images > 0).mean() == pytest.approx(0.2, abs=0.008)
    counts = np.bincount(made.labels, minlength=10)
    assert counts.min() > 60
    assert counts.max() < 140
