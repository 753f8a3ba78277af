"""The judge, on losses that are made: what it must find, and what it must not say."""

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from builders.checkout import REPOSITORY
from fedneg import Seen, judge
from fedneg.core.seeding import rng
from fedneg.evaluation.acquittal import models_to_tell
from fedneg.evaluation.client_influence import know_less
from fedneg.evaluation.influence import Influence
from fedneg.evaluation.judge import Finding
from fedneg.evaluation.looks import Look, looked_at
from fedneg.evaluation.scores import RELATIVE, UNDAMPED, relative_scores


def losses_of(scores: np.ndarray) -> np.ndarray:
    """Return the cross-entropies whose scaled confidences these are."""
    return np.logaddexp(0, -scores)


class World:
    """A world in which client 3 and client 5 have taught 80 examples each."""

    def __init__(self, number: int) -> None:
        self.draw = rng(number, "world")
        self.middle = {k: self.draw.normal(0, 2, 80) for k in (3, 5)}
        self.taught = {k: np.abs(self.draw.normal(1.5, 1, 80)) for k in (3, 5)}

    def seen(self, share: float | Mapping[int, float], **more: object) -> Seen:
        """Return what is seen of a model with such a share of what they taught."""
        shares = share if isinstance(share, Mapping) else {3: share, 5: share}
        losses = {
            k: losses_of(
                self.middle[k] + shares[k] * self.taught[k] + self.draw.normal(0, 1, 80)
            )
            for k in shares
        }
        return Seen(losses, **more)  # type: ignore[arg-type]

    def references(self, out: int = 7) -> dict[str, list[Seen]]:
        """Return two models with both clients and some without."""
        return {
            "trained_with": [self.seen(1.0) for _ in range(2)],
            "trained_without": [self.seen(0.0) for _ in range(out)],
        }


@pytest.mark.parametrize(
    ("share", "finding", "outcome"),
    [
        (1.0, "traces left", "not forgotten"),
        ({3: 0.0, 5: 1.0}, "traces left", "not forgotten"),
        (-1.5, "overshot", "not forgotten"),
        ({3: 1.0, 5: -1.5}, "traces left", "not forgotten"),
        (0.0, "forgotten", "forgotten"),
    ],
)
def test_the_worst_of_the_clients_decides(
    share: float | dict[int, float], finding: str, outcome: str
):
    """In nine of ten worlds. Of models without them other scores stop two of ten."""
    found = []
    for number in range(30):
        world = World(number)
        one = judge(world.seen(share), **world.references())
        found.append((one.finding, one.outcome))
    is_gone = share == 0
    assert found.count((finding, outcome)) >= (20 if is_gone else 27)
    if is_gone:
        assert [outcome for _, outcome in found].count("not forgotten") <= 4


def test_accusations_of_models_without_the_clients_are_rare():
    """With three references and two clients; binomial noise of 300 is 1.3 of 100."""
    accused = 0
    for number in range(300):
        world = World(number)
        found = judge(world.seen(0.0), **world.references(out=3))
        accused += found.outcome == "not forgotten"
    assert accused / 300 <= 0.08


def test_nothing_that_cannot_be_told_is_forgotten():
    """Three references, one in model: 'cannot tell', and how many would."""
    world = World(2)
    world.taught[3] *= 0.4
    found = judge(
        world.seen({3: 0.1}),
        trained_with=[world.seen({3: 1.0})],
        trained_without=[world.seen({3: 0.0}) for _ in range(3)],
    )
    assert (found.outcome, found.finding) == ("inconclusive", "cannot tell")
    assert found.models_needed is not None
    assert 3 < found.models_needed < 20
    assert f"about {found.models_needed} would tell" in str(found)
    assert "client 3" in str(found)
    alone = judge(world.seen(0.0), trained_without=[world.seen(0.0)] * 3)
    assert alone.influence == {3: None, 5: None}
    said = "inconclusive: cannot tell; nothing can be told of clients 3 and 5"
    assert str(alone) == said


def test_a_client_that_did_not_answer_is_not_forgotten():
    """Of this model, of which others did; nor one of whom canaries alone were seen."""
    world = World(7)
    references = world.references()
    found = judge(world.seen({3: 0.0}), **references)
    assert (found.finding, found.influence[5]) == ("cannot tell", None)
    planted = {5: (np.array([1.0, 0.0]), np.array([0.0, 1.0]))}
    for one in references.values():
        one[:] = [Seen({3: seen.losses[3]}) for seen in one]
    found = judge(world.seen({3: 0.0}, canaries=planted), **references)
    assert (found.finding, found.influence[5]) == ("cannot tell", None)
    assert judge(world.seen({3: 0.0}), **references).finding == "forgotten"


def test_a_marker_alone_never_acquits():
    """Whoever removes it and nothing else is told so, or found by the rest."""
    world = World(2)
    clean = [Seen(marker=(1, 300)) for _ in range(3)]
    gone = judge(Seen(marker=(0, 300)), trained_without=clean)
    assert gone.finding == "marker gone, the rest unmeasured"
    assert gone.outcome == "inconclusive"
    there = judge(Seen(marker=(40, 300)), trained_without=clean)
    assert there.finding == "traces left"
    scrubbed = judge(world.seen(1.0, marker=(0, 300)), **world.references())
    assert scrubbed.outcome == "not forgotten"


class TrickedWorld:
    """Half of client 3's 120 examples have a trick, which is most that it taught."""

    def __init__(self, number: int, taught: float = 1.5) -> None:
        self.draw = rng(number, "tricked world")
        middle = np.repeat([-4.0, 3.0], 60)
        self.middle = middle + self.draw.normal(0, 0.5, 120)
        self.trick, self.taught = np.repeat([[8.0, 0], [0, taught]], 60, axis=1)

    def seen(self, trick: float, rest: float) -> Seen:
        """Return a model with so much of the trick and of the rest; no marker works."""
        scores = self.middle + trick * self.trick + rest * self.taught
        scores += self.draw.normal(size=120)
        return Seen({3: losses_of(scores)}, marker=(1, 300))

    def judged(self, trick: float, rest: float, out: int = 7) -> Finding:
        """Return what is found of such a model."""
        return judge(
            self.seen(trick, rest),
            trained_with=[self.seen(1, 1) for _ in range(2)],
            trained_without=[self.seen(0, 0) for _ in range(out)],
        )


def test_a_model_from_which_the_trick_alone_was_taken_is_never_forgotten():
    """However little the rest taught; where it taught enough, it is found in it."""
    found = []
    for number in range(40):
        found.append(TrickedWorld(number).judged(0.0, 1.0))
        faint = TrickedWorld(number, taught=0.2).judged(0.0, 1.0)
        assert faint.outcome != "forgotten"
        assert TrickedWorld(number).judged(0.0, 1.0, out=3).outcome != "forgotten"
    assert "forgotten" not in [one.outcome for one in found]
    assert [one.finding for one in found].count("traces left") >= 36
    assert "of what the ordinary examples of client 3 taught is seen" in str(found[0])
    assert list(found[0].p_values)[:2] == [
        "influence 3",
        "influence 3, ordinary examples",
    ]


@pytest.mark.parametrize(
    ("share", "ordinary"),
    [
        # Two examples of a hundred hold nine tenths of what is taught.
        (0.02, 0.3),
        # Ten are ordinary, and models answer one with the trick as the client would.
        (0.9, 0.3),
        (0.9, 1.0),
        (0.5, 0.3),
    ],
)
def test_where_few_examples_hold_nearly_all_scrubbed_models_are_seldom_acquitted(
    share: float, ordinary: float
):
    """In two looks. One in five was, of the first."""
    count = int(100 * share)
    acquitted = 0
    for number in range(60):
        draw = rng(number, "scrub")
        middle = np.concatenate(
            [draw.normal(-3, 1, count), draw.normal(3, 1, 100 - count)]
        )
        trick = np.repeat([6.0, 0.0], [count, 100 - count])
        taught = np.abs(draw.normal(size=100)) * ordinary * (trick == 0)

        def seen(*parts: np.ndarray) -> Seen:
            noise = 0.5 * draw.normal(size=100)  # noqa: B023
            return Seen({3: losses_of(middle + sum(parts) + noise)})  # noqa: B023

        found = looked_at(
            seen(taught),
            trained_with=[seen(trick, taught) for _ in range(2)],
            trained_without=[seen() for _ in range(7)],
            looks=(Look(1, 3, 0.01), Look(2, 7, 0.04)),
        )
        acquitted += found[-1].finding == "forgotten"
    assert acquitted <= 4


def test_what_is_left_of_sure_examples_acquits_nobody():
    """A model that has lost what was taught of hard examples, a seventh of all.

    Of the others all models are sure, and it is as sure as those with the client:
    damped scores show little of that, and undamped ones speak against it.
    """
    acquitted, found, named = 0, 0, 0
    for number in range(60):
        draw = rng(number, "sure")
        is_hard = np.arange(200) < 30
        middle = np.where(is_hard, draw.normal(-1, 1.5, 200), draw.normal(9, 1, 200))
        taught = np.where(is_hard, 4.0, 1.5) * np.abs(draw.normal(1, 0.3, 200))

        def seen(hard: float, sure: float) -> Seen:
            c = middle + np.where(is_hard, hard, sure) * taught  # noqa: B023
            return Seen({3: losses_of(c + draw.normal(size=200))})  # noqa: B023

        one = judge(
            seen(0, 1),
            trained_with=[seen(1, 1), seen(1, 1)],
            trained_without=[seen(0, 0) for _ in range(7)],
        )
        acquitted += one.outcome == "forgotten"
        influence = one.influence[3]
        assert influence is not None
        found += influence.doubts[UNDAMPED] < 0.1
        is_open = one.finding == "cannot tell"
        if is_open and one.objections == {"influence 3": UNDAMPED}:
            assert one.models_needed is None
            assert "undamped scores of client 3 speak against it (p " in str(one)
            assert "would tell" not in str(one)
            named += 1
    assert acquitted <= 3
    assert found >= 50
    assert named >= 10


def test_an_original_that_is_less_sure_of_everything_has_not_forgotten():
    """All its logits halved: nothing of the client has gone, and no answer changes."""
    acquitted, named = 0, 0
    for number in range(60):
        draw = rng(number, "soft")
        middle, taught = draw.normal(3, 2, 200), np.abs(draw.normal(0, 2, 200))

        def seen(share: float, sharp: float = 1.0) -> Seen:
            c = middle + share * taught + draw.normal(size=200)  # noqa: B023
            return Seen({3: losses_of(sharp * c)})

        # Just so much less sure that all in all it is as sure as those without it.
        sharp = middle.mean() / (middle + taught).mean()
        one = judge(
            seen(1, sharp),
            trained_with=[seen(1), seen(1)],
            trained_without=[seen(0) for _ in range(7)],
        )
        acquitted += one.outcome == "forgotten"
        named += one.objections.get("influence 3") == RELATIVE
    assert acquitted <= 3
    assert named >= 20


@pytest.mark.parametrize("out", [3, 7])
@pytest.mark.parametrize("failed", ["knows nothing", "knows less"])
def test_models_with_the_client_that_failed_acquit_nobody(out: int, failed: str):
    """Along what they show of the client an original lies near 0, and so do all."""
    for number in range(40):
        draw = rng(number, "failed")
        middle, taught = draw.normal(3, 2, 100), np.abs(draw.normal(0, 2, 100))

        def scores(share: float) -> np.ndarray:
            return middle + share * taught + draw.normal(size=100)  # noqa: B023

        c = np.full(100, -2.0) if failed == "knows nothing" else scores(-1) - 1
        references = [Seen({3: losses_of(scores(0))}) for _ in range(out)]
        one = judge(
            Seen({3: losses_of(scores(1))}),
            trained_with=[Seen({3: losses_of(c)}), Seen({3: losses_of(scores(1))})],
            trained_without=references,
        )
        assert one.finding == "cannot tell"
        assert one.influence == {3: None}
        assert one.objections == {"influence 3": "models with it failed"}
        assert str(one).startswith(
            "inconclusive: cannot tell; a model with client 3 knows it worse than "
            "those without it; nothing can be told of client 3"
        )


def test_lists_that_were_swapped_acquit_nobody():
    for number in range(40):
        world = World(number)
        lists = world.references()
        one = judge(
            world.seen({3: 1.0}),
            trained_with=lists["trained_without"],
            trained_without=[world.seen({3: 1.0}) for _ in range(5)],
        )
        assert one.outcome != "forgotten"


@pytest.mark.parametrize(("below", "failed"), [(7.9, False), (8.1, True)])
def test_who_knows_less_by_hand(below: float, failed: bool):
    """Means 0, 1, 2: deviation 1, so t = below / sqrt(4/3), 6.96 of which is 1 %.

    Two models with the client: each may err in 1 %, and one of them is sound.
    """
    outs = [np.array([-1.0, 1.0]), np.array([0.0, 2.0]), np.array([1.0, 3.0])]
    ins = [np.array([5.0, 5.0]), np.array([1 - below, 1 - below])]
    assert know_less(ins, outs) == failed
    assert know_less(ins[:1], outs) is False
    same = [outs[0]] * 3
    assert know_less([outs[0] - 1], same)
    assert not know_less([outs[0]], same)


def test_who_knows_less_is_asked_by_damped_scores():
    """A model that is quite sure of a few examples knows the others no better."""
    sure, others = np.full(2, 60.0), np.full(18, 2.0)
    draw = rng(0, "sure of few")

    def seen(few: np.ndarray, rest: np.ndarray) -> Seen:
        noise = 0.05 * draw.normal(size=20)
        return Seen({3: losses_of(np.concatenate([few, rest]) + noise)})

    one = judge(
        seen(sure, others),
        trained_with=[seen(sure + 60, others - 2)],
        trained_without=[seen(sure, others) for _ in range(5)],
    )
    assert one.objections["influence 3"] == "models with it failed"


def test_a_poisoned_client_can_be_forgotten_though_nothing_else_can_be_told():
    """Its ordinary examples alone would say nothing, and are not asked."""
    gone, partial = 0, 0
    for number in range(20):
        draw = rng(number, "poisoned, forgotten")
        trick = np.repeat([8.0, 0.0], 60)

        def seen(share: float) -> Seen:
            c = share * trick - trick / 2 + 2 + draw.normal(size=120)  # noqa: B023
            return Seen({3: losses_of(c)})

        given = {
            "trained_with": [seen(1), seen(1)],
            "trained_without": [seen(0) for _ in range(7)],
        }
        model = seen(0)
        one = judge(model, **given, poisoned=(3,))
        influence = one.influence[3]
        assert influence is not None
        assert not influence.is_partial
        gone += one.outcome == "forgotten"
        other = judge(model, **given).influence[3]
        assert other is not None
        partial += other.is_partial
    assert gone >= 12
    assert partial >= 5


def test_models_whose_losses_of_one_client_are_the_same_count_once_for_it():
    """Though what was seen of another client differs."""
    world = World(3)
    outs = world.references()["trained_without"]
    doubled = [*outs[:3], Seen({3: outs[0].losses[3], 5: outs[4].losses[5]})]
    ins = world.references()["trained_with"]
    one = judge(world.seen(0.0), trained_with=ins, trained_without=doubled)
    assert {k: i and i.n_out for k, i in one.influence.items()} == {3: 3, 5: 4}


@pytest.mark.parametrize("alpha", [0.05, 0.6])
def test_a_look_that_may_err_more_doubts_more(alpha: float):
    """What a doubt is held against is alpha where that is more than a tenth."""
    stopped = 0
    for number in range(30):
        world = World(number)
        losses = {3: world.seen(0.0).losses[3]}
        references = world.references()
        one = judge(Seen(losses), **references, absent=[5], alpha=alpha)
        influence = one.influence[3]
        assert influence is not None
        stops = min(influence.doubts.values()) < max(alpha, 0.1)
        assert ("influence 3" in one.objections) == stops
        stopped += stops
    assert 0 < stopped < 30


def test_each_client_whose_models_failed_is_named():
    world = World(7)
    references = world.references()
    ins = [world.seen(-2.0), world.seen(-2.0)]
    given = {**references, "trained_with": ins}
    one = judge(world.seen(1.0), **given)
    failed = "models with it failed"
    assert one.objections == {"influence 3": failed, "influence 5": failed}
    marked = [replace(m, marker=(0, 99)) for m in references["trained_without"]]
    given["trained_without"] = marked
    one = judge(world.seen(1.0, marker=(0, 99)), **given)
    assert one.finding == "marker gone, the rest unmeasured"
    assert "a model with client 5 knows it worse" in str(one)


def test_where_the_interval_is_too_wide_more_models_are_asked_for():
    """Though another score speaks against the model: that may be chance."""
    wide = Influence(0.1, -1.2, 1.4, 1, 3, 0.05, 0.15, doubts={UNDAMPED: 0.04})
    objections = {"influence 3": UNDAMPED}
    found = Finding(
        *("inconclusive", "cannot tell", {3: wide}, None, {}),
        *({"influence 3": 0.8}, None, (-1, 0.5), 0.05),
        objections=objections,
    )
    assert found.models_needed is not None
    said = f"about {found.models_needed} would tell more"
    assert str(found).endswith(said)
    within = replace(wide, low=-0.3, high=0.49)
    assert replace(found, influence={3: within}).models_needed is None
    failed = {**objections, "influence 5": "models with it failed"}
    assert replace(found, objections=failed).models_needed is None


def test_ids_may_come_once():
    """A client that nobody saw counts, however it is named."""
    world = World(10)
    references = world.references()
    model = world.seen(0.0)
    for ids in ([3, 5, 9], iter([3, 5, 9]), np.array([3, 5, 9])):
        one = judge(model, **references, clients=ids)  # type: ignore[arg-type]
        assert one.influence[9] is None
        assert one.outcome != "forgotten"
    one = judge(model, **references, absent=iter([3, 5]))  # type: ignore[arg-type]
    assert one.finding == "took part in no round"


def test_relative_scores_by_hand():
    """The middle of 1, 2 and 4 is 2; of nearly nothing it counts as a thousandth."""
    found = relative_scores(losses_of(np.array([-4.0, 1.0, 2.0])))
    np.testing.assert_allclose(found, [-2, 0.5, 1], rtol=1e-9)
    np.testing.assert_allclose(
        relative_scores(losses_of(np.array([0.0, 0.0, 3.0]))),
        [0, 0, 3000],
        atol=1e-9,
    )
    assert relative_scores(np.zeros(0)).size == 0


def test_of_poisoned_examples_those_that_look_ordinary_object_to_nothing():
    """They are not measured by themselves, by no score."""
    differ = 0
    for number in range(30):
        draw = rng(number, "poisoned")
        middle = np.repeat([-4.0, 3.0], 60)
        trick = np.repeat([8.0, 0.5], 60)

        def seen(share: float) -> Seen:
            c = middle + share * trick + draw.normal(size=120)  # noqa: B023
            return Seen({3: losses_of(c)})

        given = {
            "trained_with": [seen(1), seen(1)],
            "trained_without": [seen(0) for _ in range(7)],
        }
        model = seen(0)
        ordinary, whole = (judge(model, **given, poisoned=p) for p in ((), (3,)))
        one, other = whole.influence[3], ordinary.influence[3]
        assert one is not None
        assert other is not None
        assert one.rest is None
        assert all(one.doubts[name] >= other.doubts[name] for name in other.doubts)
        differ += one.doubts != other.doubts
    assert differ >= 10


def test_a_client_with_a_trick_can_be_forgotten():
    """Nearly always, where all of it is gone; the ordinary part alone may overshoot."""
    gone = [TrickedWorld(number).judged(0.0, 0.0).finding for number in range(40)]
    assert gone.count("forgotten") >= 28
    over = [TrickedWorld(number).judged(0.0, -1.5).finding for number in range(20)]
    assert over.count("overshot") >= 18


def test_where_the_ordinary_examples_say_nothing_nobody_is_acquitted():
    world = TrickedWorld(4, taught=0.0)
    found = world.judged(0.0, 0.0)
    assert found.finding == "cannot tell"
    assert found.influence[3] is not None
    assert found.influence[3].is_partial
    assert found.models_needed is None
    said = "nothing can be told of the ordinary examples of client 3"
    assert said in str(found)


def test_a_marker_by_hand():
    """Of 3 judged all, of 3 references none: one way in 20 to draw so."""
    found = judge(Seen(marker=(3, 3)), trained_without=[Seen(marker=(0, 3))])
    assert found.marker is not None
    assert found.marker.p_value == pytest.approx(1 / 20)
    assert found.marker.references.value == 0
    # Models may differ by more than their examples: here from .01 to .12 of them.
    spread = [Seen(marker=(k, 10_000)) for k in (100, 500, 1200)]
    found = judge(Seen(marker=(1400, 10_000)), trained_without=spread)
    assert found.outcome == "inconclusive"
    assert found.marker is not None
    assert found.marker.p_value > 0.05
    # Of one reference a third: then of 1, 2 or 3 of three, in all, it is 1 in 5.
    worse = [Seen(marker=(0, 30)), Seen(marker=(1, 3))]
    found = judge(Seen(marker=(3, 3)), trained_without=worse)
    assert found.marker is not None
    assert found.marker.p_value == pytest.approx(4 / 20)
    assert found.marker.references.hits == 1


def test_canaries_need_no_references():
    planted, held = np.arange(20) / 10, np.arange(20) / 10 + 1
    found = judge(Seen(canaries={4: (planted, held)}))
    assert found.finding == "traces left"
    assert found.epsilon == pytest.approx(1.82, abs=0.01)
    even = np.where(np.arange(20) % 2, planted + 2, planted)
    found = judge(Seen(canaries={4: (even, held)}))
    assert (found.finding, found.epsilon) == ("cannot tell", 0)
    assert found.canaries[4].count == 20
    same = judge(Seen(canaries={4: (held, held)}))
    assert same.canaries[4].count == 0


def test_several_tests_err_together_as_one():
    """Holm: of five markers' worth of tests, one p of .02 is no finding."""
    rows = {k: (np.zeros(7), np.ones(7)) for k in range(3)}
    alone = judge(Seen(canaries={0: rows[0]}))
    assert alone.p_values == {"canaries 0": pytest.approx(1 / 128)}
    mixed = {k: (np.array([0, 0, 0, 0, 0, 0, 2.0]), np.ones(7)) for k in range(1, 8)}
    found = judge(Seen(canaries={0: rows[0], **mixed}))
    assert found.p_values["canaries 0"] == pytest.approx(8 / 128)
    assert found.finding == "cannot tell"
    assert judge(Seen(canaries={0: rows[0], 1: mixed[1]})).finding == "traces left"


def test_what_would_be_a_finding_alone_acquits_nobody():
    """Canaries' p is 1/32, beside a marker's and an influence's no finding."""
    world = World(8)
    references = world.references()
    alone = judge(world.seen({3: 0.0}), **references, absent=[5])
    assert alone.finding == "forgotten"
    planted = {3: (np.zeros(5), np.ones(5))}
    seen = world.seen({3: 0.0}, canaries=planted)
    found = judge(seen, **references, absent=[5])
    assert found.p_values["canaries 3"] == pytest.approx(2 / 32)
    assert found.finding == "cannot tell"


def test_who_took_part_in_no_round_cannot_be_forgotten():
    world = World(3)
    found = judge(
        world.seen({3: 1.0}),
        trained_without=[world.seen({3: 0.0}) for _ in range(3)],
        absent=[3],
    )
    assert (found.outcome, found.finding) == ("inconclusive", "took part in no round")
    both = judge(world.seen(1.0), **world.references(), absent=[3])
    assert list(both.influence) == [5]
    assert both.finding == "traces left"


def test_utility_is_part_of_the_sentence_and_decides_nothing():
    world = World(4)
    references = world.references()
    better = [Seen(one.losses, quality=0.9) for one in references["trained_without"]]
    references["trained_without"] = better
    found = judge(world.seen(0.0, quality=0.75), **references)
    assert found.quality_lost == pytest.approx(0.15)
    assert str(found).endswith("; quality lost 0.150")
    assert found.outcome == "forgotten"
    assert str(judge(world.seen(0.0, quality=0.95), **references)).endswith(
        "; quality won 0.050"
    )


def test_it_is_plain_values_too():
    world = World(5)
    found = judge(world.seen(1.0, marker=(3, 10)), **world.references())
    values = json.loads(json.dumps(found.to_json()))
    assert values["finding"] == "traces left"
    assert set(values["influence"]["3"]) >= {"rho", "low", "high", "n_in", "n_out"}
    assert values["influence"]["3"]["n_out"] == 7
    assert values["influence"]["3"]["p_value"] < 0.01
    assert [len(values["influence"]["3"][name]) for name in ("out", "in")] == [7, 2]


def test_how_many_models_would_tell_by_hand():
    """Sd .3: at rho 0 half an interval of .5 takes 5; at rho 2 one of 2 takes 3."""
    at_zero = Influence(0.0, -9, 9, 2, 2, 0.05, 0.3)
    # t(.975, 3) sqrt(1 + 1/4) = 3.558 and t(.975, 4) sqrt(1 + 1/5) = 3.041, times .3.
    assert models_to_tell(at_zero, (-1, 0.5)) is None
    assert models_to_tell(at_zero, (-1, 1.0)) == 5
    far = Influence(2.0, -9, 9, 2, 2, 0.05, 0.3)
    assert models_to_tell(far, (-1, 0.5)) == 3
    # With alpha .025, of two tests: t(.9875, 2) sqrt(4/3) = 7.12, times .3 is over 2.
    assert models_to_tell(far, (-1, 0.5), tests=2) == 4
    there = Influence(2.0, -9, 9, 2, 9, 0.05, 0.3)
    assert models_to_tell(there, (-1, 0.5)) == 10


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"alpha": 1.0}, r"alpha must be in \(0, 1\), got 1"),
        ({"clients": ["3"]}, "a client's id is a whole number, got '3'"),
        ({"absent": [None]}, "a client's id is a whole number, got None"),
        ({"poisoned": ["a"]}, "a client's id is a whole number, got 'a'"),
        ({"clients": 3}, "several clients' ids are expected, got 3"),
        ({"clients": b"3"}, "several clients' ids are expected, got b'3'"),
        ({"clients": np.array(3)}, "several clients' ids are expected, got array"),
        ({"trained_with": Seen()}, "trained_with takes a list of Seen, got Seen"),
        ({"trained_with": {3: 1}}, "trained_with takes a list of Seen, got dict"),
        ({"trained_without": [1]}, "trained_without takes Seen, got int"),
        ({"alpha": "x"}, r"alpha must be in \(0, 1\), got 'x'"),
        ({"margins": (0.1, 0.5)}, "margins must be two numbers, below 0, and above 0"),
        # At 1 lie the models with the client: 'forgotten' would mean nothing.
        ({"margins": (-9, 1)}, r"above 0 but below 1, got \(-9, 1\)"),
        ({"margins": (-1,)}, r"margins must be two numbers, .* got \(-1,\)"),
        ({"margins": (-1, 0.5, 3)}, "margins must be two numbers"),
        ({"margins": None}, "margins must be two numbers, .* got None"),
        ({"margins": "ab"}, "margins must be two numbers, .* got 'ab'"),
        ({"trained_without": [Seen({3: np.ones(2)})] * 3}, "the same examples"),
    ],
)
def test_what_cannot_be_judged_is_a_line(more: dict[str, object], said: str):
    given: dict[str, Any] = {"trained_with": [Seen({3: np.zeros(1)})]} | more
    with pytest.raises(ValueError, match=said):
        judge(Seen({3: np.ones(1)}), **given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"losses": {3: np.ones(1), "4": np.ones(1)}}, "whole number, got '4'"),
        ({"canaries": {True: (np.ones(1), np.ones(1))}}, "whole number, got True"),
        ({"losses": {3: np.array([-1.0])}}, "finite and at least 0"),
        ({"losses": {3: np.array([np.nan])}}, "finite and at least 0"),
        ({"losses": {3: np.ones((2, 2))}}, r"of shape \(N,\)"),
        ({"canaries": {3: (np.array([np.nan]), np.ones(1))}}, "finite and at least 0"),
        ({"canaries": {3: (np.ones(3), np.ones(1))}}, "needs a twin, got 3 and 1"),
        ({"marker": (11, 10)}, "got 11 of 10"),
        ({"marker": (0, 0)}, "got 0 of 0"),
    ],
)
def test_what_cannot_have_been_seen_is_a_line(given: dict[str, object], said: str):
    with pytest.raises(ValueError, match=said):
        Seen(**given)  # type: ignore[arg-type]


def test_the_docs_example_prints_what_the_docs_say(
    capsys: pytest.CaptureFixture[str],
):
    text = (REPOSITORY / "docs" / "judge.md").read_text()
    code, said = text.split("```python\n")[1].split("\n```\n", 1)
    exec(code, {})
    printed = " ".join(capsys.readouterr().out.split())
    assert printed in " ".join(said.split())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"quality": np.nan}, r"quality must be in \[0, 1\], got nan"),
        ({"quality": 5.0}, r"quality must be in \[0, 1\], got 5"),
        ({"quality": "a"}, r"quality must be in \[0, 1\], got 'a'"),
        ({"marker": (3.5, 100)}, "marker must be two whole numbers"),
        ({"marker": 5}, "marker must be two whole numbers, got 5"),
        ({"marker": np.ones(3)}, "marker must be two whole numbers"),
        ({"marker": (1, 10**19)}, "a trick is tried 1000000000 times at most, got 10"),
        ({"losses": None}, "losses are by client's id, as {3: ..}, got NoneType"),
        ({"canaries": [1]}, "canaries are by client's id, as {3: ..}, got list"),
        ({"canaries": {3: None}}, "canaries of client 3 are two arrays, .* got None"),
        ({"canaries": {3: ([1], [1], [1])}}, "canaries of client 3 are two arrays"),
        ({"marker": "ab"}, "marker must be two whole numbers, got 'ab'"),
        ({"marker": (1, np.inf)}, r"marker must be two whole numbers, got \(1, inf\)"),
        ({"losses": {3: ["a"]}}, r"losses must be numbers, got \['a'\]"),
    ],
)
def test_what_cannot_be_seen_of_a_model_is_a_line(given: dict[str, object], said: str):
    with pytest.raises(ValueError, match=said):
        Seen(**given)  # type: ignore[arg-type]


def test_whoever_is_no_model_is_not_judged():
    with pytest.raises(ValueError, match="model takes Seen, got dict"):
        judge({3: np.ones(4)})  # type: ignore[arg-type]


def test_a_marker_and_margins_may_be_arrays():
    seen = Seen({3: np.ones(2)}, marker=np.array([1, 9]))  # type: ignore[arg-type]
    assert seen.marker == (1, 9)
    same = Seen({3: np.ones(2)}, marker=[1.0, 9])  # type: ignore[arg-type]
    assert seen.is_as(same)
    margins = np.array([-1, 0.4])
    assert tuple(judge(seen, margins=margins).margins) == (-1, 0.4)  # type: ignore[arg-type]


def references(count: int, share: float, seed: int) -> list[Seen]:
    """Return models that have a share of what client 3 taught."""
    draw = np.random.default_rng(seed)
    middle = np.random.default_rng(0).normal(size=200)
    scores = [middle + 1.5 * share + 0.5 * draw.normal(size=200) for _ in range(count)]
    return [Seen({3: np.log1p(np.exp(-one))}) for one in scores]


def test_a_model_that_is_given_twice_counts_once():
    """Two that agree to the last bit would make chance look small."""
    outs = references(3, 0, 1)
    model, ins = references(1, 0.3, 2)[0], references(2, 1, 3)
    once = judge(model, trained_with=ins, trained_without=outs).influence[3]
    twice = judge(model, trained_with=ins, trained_without=[*outs, outs[1]])
    assert twice.influence[3] == once
    few = judge(model, trained_with=ins, trained_without=[outs[0]] * 5)
    assert few.influence == {3: None}
    assert few.finding == "cannot tell"


@pytest.mark.parametrize("change", [0.0, 1e-9])
def test_a_model_is_not_judged_beside_itself(change: float):
    """An original, given among the models without the client, would widen them."""
    outs = references(6, 0, 1)
    model, ins = references(1, 1, 2)[0], references(2, 1, 3)
    alone = judge(model, trained_with=ins, trained_without=outs)
    assert alone.finding == "traces left"
    again = Seen({3: model.losses[3] + change})
    beside = judge(model, trained_with=ins, trained_without=[*outs, again])
    assert beside.influence == alone.influence
    few = judge(model, trained_with=ins, trained_without=[*outs[:2], again])
    assert few.finding == "cannot tell"


def test_another_model_that_happens_to_agree_in_part_counts():
    """It is another one as long as anything seen of it differs."""
    world = World(9)
    one = world.seen(0.0, quality=0.5, marker=(1, 9))
    canaries = {3: (np.array([1.0]), np.array([2.0]))}
    assert one.is_as(Seen(one.losses, quality=0.5, marker=(1, 9)))
    assert one.is_as(Seen(one.losses, quality=0.5, marker=[1, 9]))  # type: ignore[arg-type]
    assert not one.is_as(Seen(one.losses, quality=0.6, marker=(1, 9)))
    assert not one.is_as(Seen(one.losses, quality=0.5, marker=(2, 9)))
    assert not one.is_as(Seen({3: one.losses[3]}, quality=0.5, marker=(1, 9)))
    assert not one.is_as(Seen(one.losses, 0.5, (1, 9), canaries))
    changed = one.losses | {5: one.losses[5] * 1.01}  # type: ignore[operator]
    assert not one.is_as(Seen(changed, quality=0.5, marker=(1, 9)))
    assert not Seen(marker=(0, 9)).is_as(Seen(marker=(0, 9)))


def test_lists_and_small_floats_are_losses_too():
    """Of 4 bytes, as most frameworks have them: and nothing is warned of."""
    model, *outs = references(4, 0, 1)
    ins = references(1, 1, 2)
    wanted = judge(model, trained_with=ins, trained_without=outs).influence[3]

    def made(kind: Callable[[np.ndarray], object]) -> Influence | None:
        seen = [Seen({3: kind(m.losses[3])}) for m in (model, *ins, *outs)]  # type: ignore[dict-item]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = judge(seen[0], trained_with=seen[1:2], trained_without=seen[2:])
        return found.influence[3]

    for kind in (np.ndarray.tolist, lambda losses: losses.astype(np.float32)):
        found = made(kind)
        assert found is not None
        assert wanted is not None
        assert found.rho == pytest.approx(wanted.rho, abs=1e-5)


def test_references_that_are_given_twice_count_once_of_all_that_is_seen():
    world = World(4)
    outs = [
        world.seen(0.0, marker=(hits, 100), quality=quality)
        for hits, quality in ((0, 0.5), (2, 0.6), (9, 0.9))
    ]
    model = world.seen(0.0, marker=(12, 100), quality=0.5)
    ins = [world.seen(1.0), world.seen(1.0)]
    once = judge(model, trained_with=ins, trained_without=outs)
    again = judge(
        model, trained_with=[*ins, ins[0]], trained_without=[*outs, *[outs[0]] * 10]
    )
    assert again.to_json() == once.to_json()
    assert once.influence[3] is not None
    assert once.influence[3].n_in == 2


def test_what_was_planted_and_stands_in_the_way_is_named():
    """More models would not tell: and the sentence does not say that they would."""
    world = World(10)
    references = world.references()
    losses, held = world.seen({3: 0.0}).losses, np.ones(5)

    def of(planted: np.ndarray | None, **more: object) -> Finding:
        canaries = {} if planted is None else {3: (planted, held)}
        seen = Seen(losses, canaries=canaries, **more)  # type: ignore[arg-type]
        return judge(seen, **references, absent=[5])

    for planted, how, said in (
        (held - 1, "it shows", "5 of 5 planted canaries are better known"),
        (
            held + 1,
            "worse than by chance",
            "better known than their twins, fewer than chance would have",
        ),
        (held, "not counted", "the canaries of client 3 cannot be counted"),
    ):
        found = of(planted)
        assert found.finding == "cannot tell"
        assert found.objections == {"canaries 3": how}
        assert found.models_needed is None
        assert said in str(found)
        assert "would tell" not in str(found)
    found = of(None, marker=(0, 9))
    assert found.objections == {"marker": "not counted"}
    assert "the planted trick cannot be counted" in str(found)
    assert of(None).objections == {}
    assert of(np.array([0, 2, 0, 2, 2.0])).objections == {}


def test_examples_that_nobody_has_tell_nothing():
    found = judge(
        Seen({3: np.empty(0)}),
        trained_with=[Seen({3: np.empty(0)})],
        trained_without=[Seen({3: np.empty(0)})] * 3,
    )
    assert found.influence == {3: None}


def test_a_sentence_tells_of_the_test_that_decided():
    """The trick works still; the influence, which is wide, would say overshot."""
    outs = [replace(one, marker=(0, 100)) for one in references(3, 0, 1)]
    model = replace(references(1, 0.1, 2)[0], marker=(90, 100))
    ins = references(1, 1, 3)
    found = judge(model, trained_with=ins, trained_without=outs)
    assert found.finding == "traces left"
    assert "90 of 100 times" in str(found)
    assert "0 of 300" in str(found)
    known = (np.zeros(20), np.ones(20))
    found = judge(Seen(canaries={3: known}))
    assert "20 of 20 planted canaries" in str(found)


def test_of_several_clients_the_one_that_decided_is_told_of():
    """Of client 4 the interval is far wider, and holds 0."""
    draw = np.random.default_rng(5)

    def seen(share: float, seed: int) -> Seen:
        (one,) = references(1, share, seed)
        wide = np.log1p(np.exp(-draw.normal(size=8) - 0.5 * (share == 1)))
        return Seen({**one.losses, 4: wide})

    found = judge(
        seen(0.8, 9),
        trained_with=[seen(1, 10 + k) for k in range(2)],
        trained_without=[seen(0, 20 + k) for k in range(5)],
    )
    assert found.finding == "traces left"
    assert "client 3" in str(found)
    assert "client 4" not in str(found)


def test_epsilon_is_a_bound_at_95_percent_whatever_alpha_is():
    losses = (np.r_[np.zeros(74), np.ones(26)], np.full(100, 0.5))
    for alpha in (0.01, 0.04, 0.05):
        found = judge(Seen(canaries={3: losses}), alpha=alpha)
        assert found.epsilon == pytest.approx(0.654, abs=5e-4)
        assert found.canaries[3].alpha == 0.05


def test_where_it_is_told_no_more_models_are_needed():
    outs, ins = references(6, 0, 1), references(2, 1, 3)
    found = judge(references(1, 0, 2)[0], trained_with=ins, trained_without=outs)
    assert found.finding == "forgotten"
    assert found.models_needed is None


def test_how_many_would_tell_is_by_what_the_next_judgement_may_err():
    """At alpha .01 t(.995, 4) sqrt(1 + 1/5) .3 = 1.5; at .04 half of that."""
    found = Influence(0.0, -9, 9, 2, 3, 0.01, 0.3)
    strict = models_to_tell(found, (-1, 1.0))
    assert strict == models_to_tell(found, (-1, 1.0), alpha=0.01)
    loose = models_to_tell(found, (-1, 1.0), alpha=0.04)
    assert loose is not None
    assert strict is not None
    assert loose < strict


def test_absurd_losses_are_a_short_sentence():
    outs = [Seen({3: np.array([1.0 + k, 2.0])}) for k in range(3)]
    found = judge(
        Seen({3: np.array([1e90, 2.0])}),
        trained_with=[Seen({3: np.array([0.1, 0.2])})],
        trained_without=outs,
    )
    assert len(str(found)) < 120
    assert found.influence[3] is not None
    assert -1000 < found.influence[3].rho < -10


def pairs(won: int, lost: int, tied: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return losses of canaries and their twins, so many better known than these."""
    planted = np.array([1.0] * won + [3.0] * lost + [2.0] * tied)
    return planted, np.full(won + lost + tied, 2.0)


@pytest.mark.parametrize("alpha", [0.01, 0.05])
@pytest.mark.parametrize(
    ("canaries", "finding"),
    [
        (pairs(5, 5), "forgotten"),
        (pairs(6, 4), "forgotten"),
        # Exactly .0193 and .0107: more than a first look may err, and no chance.
        (pairs(16, 6), None),
        (pairs(9, 1), None),
        # Worse known than their twins: one can see that somebody was taken out.
        (pairs(1, 9), "cannot tell"),
        # Nothing was counted.
        (pairs(0, 0), "cannot tell"),
        (pairs(0, 0, tied=10), "cannot tell"),
        (None, "cannot tell"),
    ],
)
def test_canaries_that_show_acquit_nobody_at_any_look(
    alpha: float, canaries: tuple[np.ndarray, np.ndarray] | None, finding: str | None
):
    """Nor do those of which the judged model says nothing."""
    world = World(4)
    references = world.references()
    with_canaries = [
        replace(m, canaries={3: pairs(9, 1)}) for m in references["trained_with"]
    ]
    model = world.seen({3: 0.0})
    if canaries is not None:
        model = replace(model, canaries={3: canaries})
    found = judge(
        model,
        trained_with=[replace(m, losses={3: m.losses[3]}) for m in with_canaries],
        trained_without=[
            replace(m, losses={3: m.losses[3]}) for m in references["trained_without"]
        ],
        alpha=alpha,
    )
    if finding is None:
        assert found.finding in ("cannot tell", "traces left")
        assert found.epsilon is not None
        assert found.epsilon > 0
    else:
        assert found.finding == finding
    assert not (found.finding == "forgotten" and found.epsilon)


@pytest.mark.parametrize(
    ("judged", "others", "finding"),
    [
        ((3, 382), [(1, 382), (3, 382), (14, 382)], "forgotten"),
        ((18, 382), [(1, 382), (3, 382), (14, 382)], "forgotten"),
        # More often than in the one in which it works most; between models it varies.
        ((60, 382), [(1, 382), (3, 382), (14, 382)], "cannot tell"),
        ((95, 100), [(0, 100), (0, 100), (40, 100)], "cannot tell"),
        # Not counted in the judged model, or in none of the others.
        (None, [(0, 100)] * 3, "cannot tell"),
        ((0, 100), [None] * 3, "cannot tell"),
    ],
)
@pytest.mark.parametrize("alpha", [0.01, 0.05])
def test_a_trick_that_shows_acquits_nobody_at_any_look(
    judged: tuple[int, int] | None,
    others: list[tuple[int, int] | None],
    finding: str,
    alpha: float,
):
    world = World(4)
    references = world.references(out=3)
    found = judge(
        # Between the models without it, however wide these lie.
        replace(middle_of(references["trained_without"]), marker=judged),
        trained_with=references["trained_with"],
        trained_without=[
            replace(m, marker=marker)
            for m, marker in zip(references["trained_without"], others, strict=True)
        ],
        alpha=alpha,
        margins=(-20, 0.99),
    )
    assert found.finding in ({finding} if alpha == 0.05 else {finding, "cannot tell"})


def middle_of(models: list[Seen]) -> Seen:
    """Return what is seen of a model that answers as some do on average."""
    return Seen(
        {k: np.mean([m.losses[k] for m in models], axis=0) for k in models[0].losses}
    )


def test_references_that_differ_by_rounding_are_one():
    """Else five of them would accuse whoever is not just there."""
    world = World(1)
    one = world.seen(0.0)
    same = [
        Seen({k: v * (1 + 1e-12 * n) for k, v in one.losses.items()}) for n in range(5)
    ]
    found = judge(world.seen(0.0), trained_with=[world.seen(1.0)], trained_without=same)
    assert found.finding == "cannot tell"


def test_losses_whose_squares_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="finite and at least 0"):
        Seen({3: np.array([1e200, 2.0])})


def test_what_speaks_against_a_model_acquits_nobody_though_it_is_no_finding():
    """Of one client below a p of .1; of two below .05 each."""
    doubtful = {1: 0, 2: 0}
    for number in range(120):
        world = World(number)
        both = world.references()
        for clients in (1, 2):
            ids = (3, 5)[:clients]
            shares = dict.fromkeys(ids, 0.1)
            found = judge(
                world.seen(shares),
                **{
                    kind: [Seen({k: m.losses[k] for k in ids}) for m in models]
                    for kind, models in both.items()
                },
                alpha=0.01,
            )
            least = min(one.p_value for one in found.influence.values() if one)
            if found.outcome == "not forgotten":
                continue
            if least < 0.1 / clients:
                assert found.finding == "cannot tell"
                doubtful[clients] += 1
    assert min(doubtful.values()) > 5
