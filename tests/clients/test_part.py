"""What of its examples a client works on: the rest, or those that are to go."""

from typing import Any

import numpy as np
import pytest

from builders.federations import data_of, small_config
from fedneg.clients.answering import AnsweringClient
from fedneg.clients.trainer import TrainingClient
from fedneg.core.assignment import Assignment
from fedneg.core.errors import FedNegError
from fedneg.core.seeding import rng
from fedneg.tasks.images import Images

SOME = ("clients=4", "strategy=retrain")


def client(
    part: str,
    *overrides: str,
    client_id: int = 1,
    kind: type[TrainingClient] = AnsweringClient,
) -> Any:
    """Return a client that is asked about a part of its examples."""
    assignment = Assignment.of(small_config(*SOME, *overrides), root=None)
    return kind(client_id, assignment.of_part(part), 1)


def index_of(found: Images) -> list[int]:
    """Return which of all images these are."""
    assert found.index is not None
    return found.index.tolist()


def test_the_parts_are_all_of_it_and_nobody_elses():
    chosen = "forget_samples={1:.25}"
    everything = data_of(1, small_config(*SOME, "forget=1")).train
    order = rng(0, "forget samples", 0, 1).permutation(len(everything))
    gone = np.sort(order[: round(0.25 * len(everything))])
    found = {
        part: index_of(client(part, chosen).training_data())
        for part in ("all", "rest", "gone")
    }
    assert found["all"] == everything.tolist()
    assert found["gone"] == everything[gone].tolist()
    assert found["rest"] == np.delete(everything, gone).tolist()
    other = data_of(2, small_config(*SOME, "forget=1")).train.tolist()
    assert index_of(client("rest", chosen, client_id=2).training_data()) == other


def test_what_it_measures_on_is_the_same_part_and_tests_stay():
    for part in ("rest", "gone"):
        found = client(part, "forget_samples={1:[0,3]}", "attack=backdoor")
        assert index_of(found.split.train) == [
            k
            for place, k in enumerate(data_of(1, small_config(*SOME, "forget=1")).train)
            if (place in (0, 3)) is (part == "gone")
        ]
        assert len(found.training_data()) == len(found.split.train)
        assert (
            index_of(found.split.tested)
            == data_of(1, small_config(*SOME, "forget=1")).test.tolist()
        )


def test_poison_lies_where_it_lay():
    """Half of a part is not poisoned anew: the very examples are taken."""
    words = ("forget_samples={1:[1,5,9]}", "attack=backdoor")
    images, labels = client("all", *words).training_data().arrays()
    some, their = client("gone", *words).training_data().arrays()
    np.testing.assert_array_equal(some, images[[1, 5, 9]])
    np.testing.assert_array_equal(their, labels[[1, 5, 9]])
    rest, _ = client("rest", *words).training_data().arrays()
    np.testing.assert_array_equal(rest, np.delete(images, [1, 5, 9], axis=0))


@pytest.mark.parametrize("attack", ["backdoor", "label_flip"])
def test_the_poisoned_ones_are_exactly_those(attack: str):
    words = ("forget_samples={1:poisoned}", f"attack={attack}")
    clean, true = client("all", "forget_samples={1:.5}").training_data().arrays()
    images, labels = client("all", *words).training_data().arrays()
    goes = np.isin(np.arange(len(labels)), _poisoned(attack))
    some, their = client("gone", *words).training_data().arrays()
    np.testing.assert_array_equal(some, images[goes])
    np.testing.assert_array_equal(their, labels[goes])
    # What stays is as it was before the attack, and what goes is not.
    rest, other = client("rest", *words).training_data().arrays()
    np.testing.assert_array_equal(rest, clean[~goes])
    np.testing.assert_array_equal(other, true[~goes])
    assert ((some != clean[goes]).any(axis=(1, 2)) | (their != true[goes])).all()


def _poisoned(attack: str) -> list[int]:
    """Return which examples an attack of client 1 changes, from its stream."""
    count = len(data_of(1, small_config(*SOME, "forget=1")).train)
    order = rng(0, "poison", 0, 1).permutation(count)
    return sorted(order[: round(0.5 * count)].tolist())


def test_members_are_those_that_go_and_unseen_ones_are_like_them():
    words = ("forget_samples={1:poisoned}", "attack=backdoor")
    found = client("gone", *words)
    assert len(found.members()) == found.num_examples == len(_poisoned("backdoor"))
    _, labels = found.unseen().arrays()
    assert (labels == 0).all()  # all of them are poisoned
    some = client("gone", "forget_samples={1:.5}", "attack=backdoor")
    assert not (some.unseen().arrays()[1] == 0).all()
    assert len(some.members()) == some.num_examples


def test_canaries_that_go_have_the_others_as_their_likes():
    words = ("attack=canaries", "attack.canaries=7")
    planted = client("gone", "forget_samples={1:poisoned}", *words)
    assert planted.num_examples == len(planted.members()) == 7
    assert len(planted.unseen()) == 7
    assert len(planted.split.train) == 0
    everything = client("all", "forget_samples={1:poisoned}", *words).training_data()
    rest = client("rest", "forget_samples={1:poisoned}", *words)
    assert len(rest.training_data()) == len(everything) - 7
    assert planted.members().arrays()[0].tobytes() == (
        everything.arrays()[0][-7:].tobytes()
    )
    own = client("gone", "forget_samples={1:[0,1]}", *words)
    assert len(own.unseen()) > 7


def test_an_example_that_is_not_there_is_named():
    with pytest.raises(FedNegError, match="must be indices from 0 to"):
        client("gone", "forget_samples={1:[99999]}").training_data()
