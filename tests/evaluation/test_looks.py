"""How often a model is looked at, by what, and what of alpha each look spends."""

from typing import Any

import numpy as np
import pytest

from builders.federations import small_config
from fedneg.core.errors import FedNegError
from fedneg.core.verdict_settings import VerdictSettings
from fedneg.evaluation.looks import Look, looked_at, looks_of
from fedneg.evaluation.seen import Seen


def settings(*overrides: str) -> VerdictSettings:
    """Return what conf/verdict gives."""
    words = [f"verdict.{word}" for word in overrides]
    return small_config("verdict.retrainings=null", *words).verdict


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), [(1, 3, 0.01)]),
        (("looks=2",), [(1, 3, 0.01), (2, 7, 0.04)]),
        (("alpha=0.1", "looks=2"), [(1, 3, 0.02), (2, 7, 0.08)]),
        (("looks=2", "retrainings=18"), [(1, 3, 0.01), (4, 14, 0.04)]),
        (("looks=2", "retrainings=5"), [(1, 3, 0.01), (1, 4, 0.04)]),
        # What an earlier run's first look may have spent is not spent again.
        (("retrainings=9",), [(2, 7, 0.04)]),
        (("retrainings=3",), [(0, 3, 0.01)]),
        (("retrainings=0", "looks=2"), [(0, 0, 0.01)]),
        # A bank is there whole at every look.
        (("bank=16", "looks=2"), [(16, 3, 0.01), (16, 7, 0.04)]),
    ],
)
def test_looks_spend_no_more_than_alpha(
    words: tuple[str, ...], expected: list[tuple[int, int, float]]
):
    found = looks_of(settings(*words))
    assert [(one.n_in, one.n_out) for one in found] == [e[:2] for e in expected]
    assert [one.alpha for one in found] == pytest.approx([e[2] for e in expected])
    spent = sum(one.alpha for one in found)
    assert spent <= settings(*words).alpha * (1 + 1e-9)


@pytest.mark.parametrize(
    ("word", "match"),
    [
        ("alpha=0", "verdict.alpha must be greater than 0, got 0"),
        ("alpha=1", "verdict.alpha must be less than 1, got 1"),
        ("looks=3", "verdict.looks must be 1 or 2, got 3"),
        ("looks=1.0", "verdict.looks must be 1 or 2, got 1.0"),
        ("looks=true", "verdict.looks must be 1 or 2, got True"),
        ("margins=[0,1]", r"verdict.margins\[0\] must be less than 0, got 0"),
        ("margins=[-1,0]", r"verdict.margins\[1\] must be greater than 0, got 0"),
        ("margins=[-1,1]", r"verdict.margins\[1\] must be less than 1, got 1"),
        ("margins=1", "verdict.margins must be two numbers, below and above 0, got 1"),
        ("retrainings=-1", "verdict.retrainings must be at least 0, got -1"),
        ("bank=-1", "verdict.bank must be at least 0, got -1"),
        ("later=[-1]", "verdict.later must be at least 0, got -1"),
        ("later=3", "verdict.later must be a list of rounds, got 3"),
        ("relearn_every=0", "verdict.relearn_every must be at least 1, got 0"),
    ],
)
def test_bad_settings_are_refused_by_name(word: str, match: str):
    with pytest.raises(FedNegError, match=match):
        settings(word)


def test_rounds_to_judge_later_are_had_once_each_and_in_order():
    assert settings("later=[5,0,5,2]").later == (0, 2, 5)


# -- looking ---------------------------------------------------------------------------

DRAWS = np.random.default_rng(5)
TAUGHT = np.abs(DRAWS.normal(size=60))


def seen(share: float, noise: float = 1.0) -> Seen:
    """Return a model that has a share of what client 3 taught."""
    scores = share * TAUGHT + noise * DRAWS.normal(size=60)
    return Seen({3: np.logaddexp(0, -scores)})


def looks(model: Seen, noise: float, **options: Any) -> list[Any]:
    """Return what two looks find."""
    return looked_at(
        model,
        trained_with=[seen(1, noise) for _ in range(2)],
        trained_without=[seen(0, noise) for _ in range(7)],
        looks=looks_of(settings("looks=2")),
        **options,
    )


def test_the_second_look_is_had_only_where_the_first_cannot_tell():
    clear = looks(seen(1, 0.05), 0.05)
    assert [one.finding for one in clear] == ["traces left"]
    assert (clear[0].alpha, clear[0].influence[3].n_out) == (pytest.approx(0.01), 3)
    open_ = looks(seen(0.7, 0.5), 0.5)
    assert [one.finding for one in open_] == ["cannot tell", "traces left"]
    assert (open_[1].alpha, open_[1].influence[3].n_out) == (pytest.approx(0.04), 7)
    assert (open_[1].influence[3].n_in, open_[0].influence[3].n_in) == (2, 1)


def test_a_look_without_its_references_is_not_had_but_for_the_first():
    model = seen(0.5, 0.5)
    two = (Look(1, 3, 0.01), Look(2, 7, 0.04))
    found = looked_at(
        model,
        trained_with=[seen(1)],
        trained_without=[seen(0)] * 4,
        looks=two,
    )
    assert len(found) == 1
    (none,) = looked_at(model, trained_with=(), trained_without=(), looks=two)
    assert none.finding == "cannot tell"


def test_a_client_of_whom_nothing_was_seen_is_never_forgotten():
    clean = looks(seen(0, 0.05), 0.05)[-1]
    assert clean.finding == "forgotten"
    found = looks(seen(0, 0.05), 0.05, clients=[3, 4])
    assert found[-1].finding == "cannot tell"
    assert found[-1].influence[4] is None
    absent = looks(seen(0, 0.05), 0.05, clients=[3, 4], absent=[4])
    assert absent[-1].finding == "forgotten"


def test_the_first_look_says_how_many_would_tell_at_the_next():
    """Whose alpha is four times as much, as it is where one look is asked for."""
    for looks in (1, 2):
        first, *_ = looks_of(settings(f"looks={looks}"))
        assert (first.alpha, first.next_alpha) == (
            pytest.approx(0.01),
            pytest.approx(0.04),
        )
