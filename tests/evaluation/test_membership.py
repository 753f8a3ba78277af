"""Membership attacks on hand-written losses, against slow and obvious references."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import roc_auc_score
from torch.nn.functional import cross_entropy

from fedneg.core.seeding import rng
from fedneg.evaluation.canary import canary_input, chance_exposure, exposures
from fedneg.evaluation.lira import lira_scores
from fedneg.evaluation.membership import (
    Interval,
    MembershipInput,
    bootstrap,
    roc,
)
from fedneg.tasks.confidence import cross_entropies, scaled_confidence

# A dozen losses: members mostly low. 0.3 and 0.9 stand on both sides.
MEMBERS = np.array([0.0, 0.1, 0.2, 0.3, 0.9, 2.0])
OTHERS = np.array([0.3, 0.5, 0.9, 1.0, 1.5, 3.0])
# Few distinct values, so that ties are the rule.
SCORES = st.lists(st.integers(-4, 4), min_size=1, max_size=12)


def slow_auc(members: np.ndarray, others: np.ndarray) -> float:
    """Count pairs: won 1, tied 1/2."""
    won = [(m > o) + (m == o) / 2 for m in members for o in others]
    return sum(won) / len(won)


def slow_rates(members: np.ndarray, others: np.ndarray) -> list[tuple[float, float]]:
    """Return (FPR, TPR) of every threshold at a score, and of one above all."""
    thresholds = [math.inf, *members, *others]
    return [(np.mean(others >= t), np.mean(members >= t)) for t in thresholds]


# -- the loss-threshold attack --------------------------------------------------------


def test_auc_of_a_dozen_losses_by_hand():
    """28 of 36 pairs.

    0.0, 0.1, 0.2 win all 18; 0.3 wins 5 and ties 1; 0.9 wins 3 and ties 1; 2.0 wins 1.
    So 27 + 2/2.
    """
    curve = roc(MembershipInput.from_losses(MEMBERS, OTHERS))
    assert curve.auc == pytest.approx(28 / 36)


def test_advantage_of_a_dozen_losses_by_hand():
    """One half.

    At loss <= 0.2: 3 of 6 against 0; at <= 0.3: 4 against 1; at <= 0.9: 5 against 3.
    """
    curve = roc(MembershipInput.from_losses(MEMBERS, OTHERS))
    assert curve.advantage == pytest.approx(1 / 2)


def test_tpr_at_a_fixed_fpr_of_a_dozen_losses_by_hand():
    """One false positive of 6 is allowed at 1/6: losses up to 0.3, so 4 of 6.

    At 1/3 two: up to 0.5, still 4 of 6. At 1/2 three: up to 0.9, 5 of 6.
    """
    curve = roc(MembershipInput.from_losses(MEMBERS, OTHERS))
    found = [curve.tpr_at(fpr) for fpr in (1 / 6, 1 / 3, 1 / 2)]
    assert found == pytest.approx([4 / 6, 4 / 6, 5 / 6])


def test_tpr_at_1_percent_needs_100_nonmembers():
    member = np.array([1.0])
    few, enough = np.linspace(0, 0.9, 99), np.linspace(0, 0.9, 100)
    assert roc(MembershipInput(member, few)).tpr_at(0.01) is None
    assert roc(MembershipInput(member, enough)).tpr_at(0.01) == 1
    # 0.07 * 100 is a little above 7, 0.29 * 100 a little below 29.
    curve = roc(MembershipInput(np.arange(100.0), np.arange(100.0)))
    assert curve.tpr_at(0.29) == pytest.approx(0.29)


@pytest.mark.parametrize("fpr", [0, 1, -0.1, math.nan])
def test_a_false_positive_rate_lies_between_0_and_1(fpr: float):
    with pytest.raises(ValueError, match="fpr must be greater than 0"):
        roc(MembershipInput(MEMBERS, OTHERS)).tpr_at(fpr)


@given(SCORES, SCORES)
def test_roc_is_that_of_slow_counting_and_of_scikit_learn(
    members: list[int], others: list[int]
):
    m, o = np.array(members, dtype=float), np.array(others, dtype=float)
    curve = roc(MembershipInput(m, o))
    assert curve.auc == pytest.approx(slow_auc(m, o))
    truth = [1] * len(m) + [0] * len(o)
    assert curve.auc == pytest.approx(roc_auc_score(truth, [*m, *o]))
    rates = slow_rates(m, o)
    assert curve.advantage == pytest.approx(max(t - f for f, t in rates))
    at_half = max(t for f, t in rates if f <= 0.5) if len(o) >= 2 else None
    assert curve.tpr_at(0.5) == pytest.approx(at_half)


@given(SCORES, SCORES)
def test_swapping_members_and_nonmembers_gives_1_minus_auc(
    members: list[int], others: list[int]
):
    m, o = np.array(members, dtype=float), np.array(others, dtype=float)
    swapped = roc(MembershipInput(o, m)).auc
    assert roc(MembershipInput(m, o)).auc == pytest.approx(1 - swapped)


@given(st.integers(1, 9), st.integers(1, 9), st.floats(-5, 5))
def test_equal_scores_give_half(members: int, others: int, score: float):
    curve = roc(MembershipInput(np.full(members, score), np.full(others, score)))
    assert (curve.auc, curve.advantage) == (0.5, 0.0)


def test_lower_losses_make_members():
    assert roc(MembershipInput.from_losses(MEMBERS, OTHERS)).auc > 0.5
    assert roc(MembershipInput(MEMBERS, OTHERS)).auc < 0.5


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ([], r"have shape \(n,\) with n at least 1, got \(0,\)"),
        ([[1.0]], r"have .*got \(1, 1\)"),
        ([1.0, math.nan], "be finite, got nan"),
        ([-math.inf], "be finite, got -inf"),
    ],
)
def test_bad_scores_are_refused_by_name(bad: list[float], match: str):
    with pytest.raises(ValueError, match=f"^member_scores must {match}"):
        MembershipInput(np.array(bad), OTHERS)
    with pytest.raises(ValueError, match=f"^nonmember_scores must {match}"):
        MembershipInput(MEMBERS, np.array(bad))


def test_scores_are_copies_that_nobody_changes():
    mine = MEMBERS.copy()
    kept = MembershipInput(mine, OTHERS)
    mine[0] = 9
    assert kept.member_scores[0] == 0
    with pytest.raises(ValueError, match="read-only"):
        kept.member_scores[0] = 9


# -- bootstrap ------------------------------------------------------------------------


def test_bootstrap_is_that_of_resampled_scores():
    """The slow way: draw the scores themselves, from the same stream."""
    data = MembershipInput.from_losses(MEMBERS, OTHERS)
    found = bootstrap(data, lambda c: c.auc, rng(3, "bootstrap"), resamples=40)
    slow, stream = [], rng(3, "bootstrap")
    for _ in range(40):
        m = data.member_scores[stream.integers(6, size=6)]
        o = data.nonmember_scores[stream.integers(6, size=6)]
        slow.append(slow_auc(m, o))
    low, high = np.quantile(slow, [0.025, 0.975])
    assert (found.value, found.low, found.high) == pytest.approx((28 / 36, low, high))


def test_bootstrap_depends_on_its_stream_alone():
    data = MembershipInput.from_losses(MEMBERS, OTHERS)
    found = [
        bootstrap(data, lambda c: c.auc, rng(seed, "bootstrap"), resamples=50)
        for seed in (0, 0, 1)
    ]
    assert found[0] == found[1] != found[2]


def test_bootstrap_interval_covers_as_often_as_it_says():
    """Members are shifted by 1: AUC = Phi(1 / sqrt 2) = 0.760. 80 intervals of 90 %."""
    truth = norm.cdf(1 / math.sqrt(2))
    hits = 0
    for trial in range(80):
        draw = rng(trial, "scores")
        data = MembershipInput(draw.normal(1, 1, 60), draw.normal(0, 1, 90))
        interval = bootstrap(
            data,
            lambda c: c.auc,
            rng(trial, "bootstrap"),
            confidence=0.9,
            resamples=100,
        )
        hits += interval.low <= truth <= interval.high
    assert 0.8 <= hits / 80 <= 0.99


def test_a_wider_confidence_gives_a_wider_interval():
    data = MembershipInput.from_losses(MEMBERS, OTHERS)
    narrow, wide = (
        bootstrap(data, lambda c: c.auc, rng(0, "bootstrap"), confidence=confidence)
        for confidence in (0.5, 0.99)
    )
    assert wide.low < narrow.low < narrow.high < wide.high


def test_bootstrap_refuses_what_is_out_of_range():
    data = MembershipInput(MEMBERS, OTHERS)
    with pytest.raises(ValueError, match="confidence must be between 0 and 1, got 95"):
        bootstrap(data, lambda c: c.auc, rng(0, "b"), confidence=95)
    with pytest.raises(ValueError, match="resamples must be at least 1, got 0"):
        bootstrap(data, lambda c: c.auc, rng(0, "b"), resamples=0)
    with pytest.raises(ValueError, match="low must be at most high"):
        Interval(0.5, 0.6, 0.4)


# -- LiRA -----------------------------------------------------------------------------


def test_scaled_confidence_by_hand():
    """Logits (ln 3, 0, 0): p = 3/5, so log(p / (1 - p)) = ln(3/2); class 1: ln(1/4)."""
    logits = np.log([[3.0, 1.0, 1.0], [3.0, 1.0, 1.0]])
    found = scaled_confidence(logits, np.array([0, 1]))
    assert found == pytest.approx([math.log(3 / 2), math.log(1 / 4)])


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=3), st.integers(0, 2))
def test_scaled_confidence_is_that_of_the_probability(logits: list[float], label: int):
    p = np.exp(logits)[label] / np.exp(logits).sum()
    found = scaled_confidence(np.array([logits]), np.array([label]))
    assert found[0] == pytest.approx(math.log(p / (1 - p)), abs=1e-9)


def test_scaled_confidence_is_exact_where_p_is_1_in_floating_point():
    """A p of 1 - e^-50 rounds to 1, and log(p / (1 - p)) would be infinite."""
    logits = np.array([[50.0, 0.0], [-800.0, 0.0]], dtype=np.float32)
    assert list(scaled_confidence(logits, np.array([0, 0]))) == [50.0, -800.0]


@pytest.mark.parametrize(
    ("logits", "labels", "match"),
    [
        (np.zeros((2, 1)), [0, 0], "at least 2 classes"),
        (np.zeros((2, 3)), [0], r"labels \(N,\) expected, got \(2, 3\) and \(1,\)"),
        (np.zeros((1, 3)), [3], "labels must be from 0 to 2, got 3 to 3"),
        (np.zeros((1, 3)), [-1], "labels must be from 0 to 2"),
        (np.full((1, 3), np.inf), [0], "logits must be finite"),
    ],
)
def test_scaled_confidence_refuses_what_does_not_fit(
    logits: np.ndarray, labels: list[int], match: str
):
    with pytest.raises(ValueError, match=match):
        scaled_confidence(logits, np.array(labels))


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=3), st.integers(0, 2))
def test_cross_entropies_are_torchs(logits: list[float], label: int):
    given_logits = torch.tensor([logits], dtype=torch.float64)
    expected = cross_entropy(given_logits, torch.tensor([label]))
    found = cross_entropies(given_logits.numpy(), np.array([label]))
    assert found[0] == pytest.approx(float(expected), abs=1e-12)


def test_cross_entropies_keep_the_order_of_what_is_certain():
    """In float32 both are 0, and of equal scores an attack makes nothing."""
    logits = np.array([[40.0, 0.0], [50.0, 0.0]], dtype=np.float32)
    labels = np.array([0, 0])
    in_float32 = cross_entropy(
        torch.from_numpy(logits), torch.from_numpy(labels), reduction="none"
    )
    assert in_float32.tolist() == [0, 0]
    assert cross_entropies(logits, labels) == pytest.approx(
        [math.exp(-40), math.exp(-50)], rel=1e-9
    )


def test_lira_scores_of_few_models_by_hand():
    """Two shadow models say (0, 2) of one example and (5, 5 + sqrt 12) of another.

    Variances 2 and 6, shared 4, so deviation 2. Observed 3: (3 - 1) / 2 = 1 above the
    mean; the other at its mean: 0. Scores -log(1 - Phi(1)) and ln 2.
    """
    shadow = np.array([[0.0, 5.0], [2.0, 5.0 + math.sqrt(12)]])
    found = lira_scores(np.array([3.0, 5 + math.sqrt(3)]), shadow)
    assert found == pytest.approx([-math.log(1 - norm.cdf(1)), math.log(2)])


def test_lira_gives_each_example_its_own_variance_from_64_models_on():
    """Deviations 1 and 3: a value 3 above its mean is 3 or 1 of them."""
    half = np.array([[-1.0, -3.0], [1.0, 3.0]])
    shadow = np.repeat(half, 32, axis=0)
    scale = math.sqrt(64 / 63)  # var with ddof=1
    own = lira_scores(np.array([3.0, 3.0]) * scale, shadow)
    assert own == pytest.approx(-norm.logsf([3, 1]))
    shared = lira_scores(np.array([3.0, 3.0]), shadow[1:])
    assert shared[0] == pytest.approx(shared[1], rel=0.1)


def test_lira_orders_even_what_is_certain():
    """1 - Pr[Z > x] is 1.0 for both 10 and 20 deviations."""
    shadow = np.array([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])
    low, high, most = lira_scores(np.array([-30.0, 20.0, 40.0]), shadow)
    assert 0 <= low < high < most < math.inf


def test_lira_finds_a_member_that_a_loss_threshold_cannot():
    """Easy unseen examples have lower losses than hard members; shadow models know."""
    draw = rng(0, "lira")
    hard = np.repeat([True, False], 200)
    difficulty = np.where(hard, -4.0, 4.0)
    shadow = difficulty + draw.normal(0, 0.5, (8, 400))
    observed = difficulty + draw.normal(0, 0.5, 400) + np.where(hard, 2.0, 0.0)
    by_loss = roc(MembershipInput(observed[hard], observed[~hard])).auc
    scores = lira_scores(observed, shadow)
    by_lira = roc(MembershipInput(scores[hard], scores[~hard])).auc
    assert by_loss < 0.01
    assert by_lira > 0.95


def test_lira_survives_shadow_models_that_agree():
    found = lira_scores(np.array([1.0, 2.0]), np.array([[1.0, 2.0], [1.0, 2.0]]))
    assert found == pytest.approx([math.log(2)] * 2)


@pytest.mark.parametrize(
    ("observed", "shadow", "match"),
    [
        ([1.0], [[1.0]], "at least 2 shadow models are needed, got 1"),
        ([1.0, 2.0], [[1.0], [2.0]], r"got \(2,\) and \(2, 1\)"),
        ([math.nan], [[1.0], [2.0]], "must be finite"),
    ],
)
def test_lira_refuses_what_does_not_fit(observed: list, shadow: list, match: str):
    with pytest.raises(ValueError, match=match):
        lira_scores(np.array(observed), np.array(shadow))


# -- canaries -------------------------------------------------------------------------


def test_exposure_by_hand():
    """Seven held out, so 8 ranks.

    Below all: rank 1, 3 bits. Between the third and fourth: rank 4, 1 bit. Above all:
    rank 8, 0 bits. Tied with the first: rank 1.5.
    """
    held_out = np.arange(1.0, 8.0)
    found = exposures(np.array([0.5, 3.5, 9.0, 1.0]), held_out)
    assert found == pytest.approx([3, 1, 0, 3 - math.log2(1.5)])


def test_a_model_that_answers_everything_alike_exposes_nothing():
    found = exposures(np.ones(3), np.ones(99))
    assert found == pytest.approx([math.log2(100) - math.log2(50.5)] * 3)
    assert found.max() < 1


@settings(max_examples=20)
@given(st.integers(1, 40))
def test_chance_exposure_is_the_mean_over_all_ranks(held_out: int):
    """A canary with a loss in each of the H + 1 gaps."""
    planted = np.arange(held_out + 1) + 0.5
    found = exposures(planted, np.arange(1.0, held_out + 1))
    assert chance_exposure(held_out) == pytest.approx(found.mean())


def test_chance_exposure_tends_to_1_over_ln_2():
    assert chance_exposure(100_000) == pytest.approx(1 / math.log(2), abs=1e-3)
    with pytest.raises(ValueError, match="held_out must be at least 1, got 0"):
        chance_exposure(0)


def test_canaries_are_a_membership_attack():
    assert roc(canary_input(MEMBERS, OTHERS)).auc == pytest.approx(28 / 36)
    with pytest.raises(ValueError, match="nonmember_scores"):
        exposures(MEMBERS, np.array([]))


def test_an_auc_never_passes_its_bound():
    """Its small areas sum up to a rounding above 1."""
    generator = np.random.default_rng(70145)
    size = int(generator.integers(100, 300))
    unseen = -generator.integers(0, size, size=size).astype(np.float64)
    curve = roc(MembershipInput(np.ones(1), unseen))
    assert float(np.trapezoid(curve.tpr, curve.fpr)) > 1
    assert curve.auc == 1
