"""Which of a client's examples go: what may be said, and what is drawn."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.federations import small_config
from fedneg.core.assignment import Assignment
from fedneg.core.errors import FedNegError
from fedneg.core.samples import chosen_samples, places_of
from fedneg.core.seeding import rng


def places(chosen: Any, count: int, client_id: int = 1) -> list[int]:
    """Return which go of a client with so many examples, the last two poisoned."""
    found = places_of(
        chosen,
        count,
        seed=0,
        client_id=client_id,
        poisoned=lambda: np.array([count - 1, count - 2]),
    )
    assert found.dtype == np.int64
    return found.tolist()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("0.5", "must say of each client what is to go, e.g. {4: 0.25}, or be null"),
        ({5: 0.5}, r"client ids from 0 to 4 \(clients=5\), got 5"),
        ({-1: 0.5}, r"client ids from 0 to 4 \(clients=5\), got -1"),
        ({"x": 0.5}, "client ids from 0 to 4"),
        ({True: 0.5}, "client ids from 0 to 4"),
        ({1: 0.5, "1": 0.25}, "must name each client once, got 1"),
        ({1: 0}, "of client 1 must be a share above 0 and below 1, got 0"),
        ({1: -0.5}, "must be a share above 0 and below 1, got -0.5"),
        ({1: 1.5}, "must be a share above 0 and below 1, got 1.5"),
        ({1: float("nan")}, "must be a share above 0 and below 1, got nan"),
        ({1: 1}, "leave client 1 an example, got a share of 1; forget=1 forgets the"),
        ({1: 1.0}, "forget=1 forgets the client"),
        ({1: True}, "must be a share of its examples, a list of their indices, or"),
        ({1: "flipped"}, "or poisoned, got 'flipped'"),
        ({1: None}, "got None"),
        ({1: []}, "must name at least one example, got none"),
        ({1: [0, -2]}, "whole numbers from 0, got -2"),
        ({1: [0, 0.5]}, "whole numbers from 0, got 0.5"),
        ({1: [0, True]}, "whole numbers from 0, got True"),
        ({1: [3, 0, 3]}, "must name each example once, got 3 twice"),
    ],
)
def test_what_is_no_choice_is_refused_in_one_line(values: Any, said: str):
    with pytest.raises(FedNegError, match=said) as told:
        chosen_samples(values, clients=5)
    assert "\n" not in str(told.value)


def test_choices_are_put_in_order_and_json_gives_them_back():
    found = chosen_samples({"3": [5, 2], 1: 0.5, 4: "poisoned"}, clients=5)
    assert list(found.items()) == [(1, 0.5), (3, (2, 5)), (4, "poisoned")]
    assert chosen_samples(None, clients=5) == chosen_samples({}, clients=5) == {}


def test_a_share_is_drawn_without_replacement_from_a_stream_of_its_own():
    order = rng(0, "forget samples", 0, 1).permutation(10)
    assert places(0.3, 10) == sorted(order[:3].tolist())
    assert places(0.3, 10) != places(0.3, 10, client_id=2)
    # A larger share takes what a smaller one took, too.
    assert set(places(0.3, 10)) < set(places(0.6, 10))


@given(st.floats(0.01, 0.99), st.integers(100, 300))
def test_a_share_is_as_many_as_it_says(share: float, count: int):
    found = places(share, count)
    assert len(found) == len(set(found)) == round(share * count)
    assert found == sorted(found)
    assert 0 <= found[0] <= found[-1] < count


def test_indices_and_poisoned_ones_are_taken_as_they_are():
    assert places((0, 7), 8) == [0, 7]
    assert places("poisoned", 8) == [6, 7]


@pytest.mark.parametrize(
    ("chosen", "count", "said"),
    [
        ((0, 8), 8, "client 1 must be indices from 0 to 7, its training examples, got"),
        (0.01, 8, "client 1 must take at least one of its 8 examples, got a share of"),
        (0.99, 8, "must leave client 1 an example, got all 8; forget=1 forgets the"),
        ((0, 1), 2, "must leave client 1 an example, got all 2"),
        ("poisoned", 2, "must leave client 1 an example, got all 2"),
    ],
)
def test_with_its_data_the_rest_is_checked(chosen: Any, count: int, said: str):
    with pytest.raises(FedNegError, match=said):
        places(chosen, count)


# -- in the configuration -------------------------------------------------------------

SOME = ("clients=4", "strategy=retrain")


def test_whose_examples_go_need_not_be_named_in_forget():
    config = small_config(*SOME, "forget_samples={1:.25}")
    assert config.forget == (1,)
    assert config.forget_samples == {1: 0.25}
    assert config.remaining == (0, 1, 2, 3)
    assert small_config(*SOME, "forget_samples={1:.25}", "forget=1") == config
    assert small_config(*SOME, "forget_samples={1:.25}", "forget=null") == config
    assert type(config).from_mapping(config.to_mapping()) == config
    several = small_config(*SOME, "forget_samples={3:[2,0],0:.5}")
    assert several.forget == (0, 3)
    assert several.forget_samples == {0: 0.5, 3: (0, 2)}


def test_of_all_clients_some_examples_may_go():
    every = small_config("clients=2", "strategy=retrain", "forget_samples={0:.5,1:.5}")
    assert every.remaining == (0, 1)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("forget=2",), "forget must be null, or the clients of forget_samples, "),
        (("forget=[1,2]",), "whole clients and examples are forgotten one after the"),
        (("state=x",), "with state=DIR whole clients are forgotten, by request"),
        (("experiment=paper",), "experiment=paper cannot have forget_samples"),
        (
            ("attack=model_replacement",),
            "attack=model_replacement lengthens the update of all of a client's",
        ),
        (
            ("forget_samples={1:poisoned}",),
            r"forget_samples=\{1: poisoned\} needs an attack of client 1, got",
        ),
        (
            ("forget_samples={1:poisoned}", "attack=backdoor", "attack.clients=2"),
            "needs an attack of client 1, got attack=backdoor",
        ),
    ],
)
def test_what_it_does_not_go_with_is_refused(overrides: tuple[str, ...], said: str):
    with pytest.raises(FedNegError, match=said):
        small_config(*SOME, "forget_samples={1:.25}", *overrides)


@pytest.mark.parametrize(
    "strategy",
    [
        *("negative_gradient", "compensated", "counterfactual", "dampening"),
        *("distillation", "federaser"),
    ],
)
def test_a_method_that_goes_by_whole_clients_is_refused(strategy: str):
    with pytest.raises(FedNegError) as told:
        small_config("forget_samples={1:.25}", f"strategy={strategy}")
    assert str(told.value) == (
        f"strategy={strategy} cannot forget some of a client's examples: it goes by "
        "what the server keeps of whole clients; take one of fine_tune, "
        "gradient_ascent, puf, retrain, weight_negation"
    )


def test_a_message_without_it_is_what_it_was():
    """Clients of an earlier release know no such key."""
    told = Assignment.of(small_config("clients=4", "forget=1"), root=None).to_json()
    assert "samples" not in told
    assert '"part"' not in told
    some = Assignment.of(small_config(*SOME, "forget_samples={1:[3]}"), root=None)
    for part in ("all", "rest", "gone"):
        asked = some.of_part(part)
        assert Assignment.from_json(asked.to_json()) == asked
        assert (asked.part, asked.forget_samples) == (part, {1: (3,)})
    with pytest.raises(FedNegError, match="part must be one of all, rest, gone"):
        some.of_part("half")
