"""What arithmetic on everything that a purge leaves gives back of a contribution."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from builders.lives import ask, go_on, receipt_of
from fedneg.cli.application import run as run_words
from fedneg.core.parameters import Vector
from fedneg.evaluation import isolation as isolation_module
from fedneg.evaluation.isolation import Left, isolation, left_of
from fedneg.ledger.bank import Bank
from fedneg.ledger.checkpoint import Checkpoints
from fedneg.ledger.ledger import Ledger
from fedneg.records.state import State

FOUR = ("clients=4", "data.partition=dirichlet", "strategy.gate=0")
FIRST = 16 * 64  # numbers in the first array of a model
MOMENTUM = "strategy.server_momentum=0.5"
HALF = "strategy.client_fraction=0.5"
NONE, REPAIR, SCRATCH = (f"retrain={r}" for r in ("none", "remaining", "scratch"))
Trained = Callable[..., tuple[Path, Vector, np.ndarray]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Return a function that trains once, and gives copies: state, seed's and rows."""
    root, made = tmp_path_factory.mktemp("trained"), dict[tuple[str, ...], Path]()

    def copied(*options: str) -> tuple[Path, Vector, np.ndarray]:
        if options not in made:
            made[options] = root / f"trained{len(made)}"
            go_on(made[options], *FOUR, *options)
        found = root / f"copy{len(list(root.iterdir()))}"
        for ending in ("", "-keys"):
            shutil.copytree(f"{made[options]}{ending}", f"{found}{ending}")
        kept = load_file(found / "checkpoints" / "round-000002.safetensors")
        return found, kept["initial"], kept["contributions"]

    return copied


def vectors_in(state: Path, seed: Vector) -> dict[str, np.ndarray]:
    """Return every vector of a model's size in every file of a state folder."""
    found = {"seed": seed}
    for path in sorted(state.rglob("*.safetensors")):
        arrays = load_file(path)
        if path.parent == state:  # the model in service, by layers
            order = sorted(arrays, key=lambda name: (name[:-6], "bias" in name))
            found["model"] = np.concatenate([arrays[n].reshape(-1) for n in order])
            assert found["model"].size == seed.size
            continue
        for name, array in arrays.items():
            for place, row in enumerate(array.reshape(-1, seed.size)):
                found[f"{path.stem} {name} {place}"] = row
    return {name: row.astype(float) for name, row in found.items() if row.any()}


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    """Return the absolute cosine between two vectors."""
    length = np.linalg.norm(one) * np.linalg.norm(other)
    return abs(float(one @ other)) / float(length) if length else 0.0


def nearest(target: np.ndarray, vectors: list[np.ndarray]) -> float:
    """Return the cosine of a vector with its least-squares fit by others."""
    matrix = np.stack([v / np.linalg.norm(v) for v in vectors], axis=1)
    fit = matrix @ np.linalg.lstsq(matrix, target, rcond=1e-10)[0]
    return cosine(target, fit)


def with_first_negated(vectors: list[np.ndarray]) -> list[np.ndarray]:
    """Return vectors, and what whoever knows of weight negation makes of them."""
    return [*vectors, *(np.r_[-v[:FIRST], v[FIRST:]] for v in vectors)]


EXACT = [
    (),
    ("strategy=retrain",),
    ("strategy=random_init",),
    ("strategy=federaser",),
    ("strategy=compensated", "strategy.chance=1000"),
    ("strategy.renormalise=true",),
]
LEAVING = [  # and what arithmetic gets of it at least
    (("strategy.scale=0.5",), 0.999),
    (("strategy.scale=0.99",), 0.999),
    (("strategy.scale=2",), 0.999),
    (("strategy.form=parameters",), 0.9),
    (("strategy.form=parameters", "strategy.scale=1"), 0.9),
    (("strategy.form=parameters", "strategy.renormalise=true"), 0.9),
    (("strategy=do_nothing",), 0.999),
    (("strategy=fine_tune",), 0.999),
    (("strategy=weight_negation",), 0.999),
    (("strategy=distillation", "strategy.images=500"), 0.8),
    (("strategy=gradient_ascent",), 0.6),
    (("strategy=puf", "strategy.learning_rate=1"), 0.9),
    (("strategy=compensated",), 0.6),
    (("strategy=compensated", "strategy.chance=0"), 0.7),
]
CASES = [
    *((NONE, (), method, None) for method in EXACT),
    *((REPAIR, (MOMENTUM,), method, None) for method in EXACT),
    *((REPAIR, (HALF,), method, None) for method in EXACT[:4]),
    *((SCRATCH, (), method, None) for method in ((), ("strategy=do_nothing",))),
    (SCRATCH, (MOMENTUM,), ("strategy.scale=0.5",), None),
    *((NONE, (), *leaving) for leaving in LEAVING),
    *((REPAIR, (MOMENTUM,), *leaving) for leaving in LEAVING[::2]),
    *((REPAIR, (HALF,), *leaving) for leaving in LEAVING[::3]),
]


@pytest.mark.parametrize(("after", "training", "method", "least"), CASES)
def test_a_receipt_says_what_arithmetic_on_what_is_left_gives_back(
    trained: Trained,
    after: str,
    training: tuple[str, ...],
    method: tuple[str, ...],
    least: float | None,
):
    """Least squares on all that is left, and pairwise differences, seed included.

    0.9 and more is a contribution given back. What the others contributed has a cosine
    with it too, as it would have had without: what counts is what is told beyond it.
    """
    keep = ("strategy.keep_local_models=true",)
    needs = "parameters" in str(method) or "ascent" in str(method)
    state, seed, rows = trained(*training, *(keep if needs else ()))
    client_id = int(np.argmax(np.linalg.norm(rows, axis=1))) if HALF in training else 1
    contribution = rows[client_id].astype(float)
    ask(state, client_id, clients=4)
    go_on(state, *FOUR, *training, *method, after)

    left = vectors_in(state, seed)
    of_others = [
        v
        for name, v in left.items()
        if {"seed", "contributions", "buffers"} & set(name.split())
    ]
    everything = with_first_negated(list(left.values()))
    found, told = (
        nearest(contribution, everything),
        nearest(contribution, with_first_negated(of_others)),
    )
    beyond = np.sqrt(max(0, found**2 - told**2) / (1 - told**2))
    purged = receipt_of(state, client_id)["purged"]
    if least is None:
        differences = [
            cosine(contribution, a - b) for a in left.values() for b in left.values()
        ]
        assert max(found, *differences) < 0.9
        assert beyond < 0.3
        assert purged["isolable"] is False
    else:
        assert found >= least
        assert beyond > 0.3
        assert purged["isolable"] is True
        if after == NONE:  # repair adds to what the others tell
            said = purged["left"]["contribution"]["cosine"]
            assert said == pytest.approx(found, abs=0.15)


def test_of_several_that_leave_together_their_sum_is_what_counts(trained: Trained):
    """Half of both stays: neither alone is given back, and their sum is."""
    state, seed, rows = trained()
    ask(state, 1, clients=4)
    ask(state, 2, clients=4)
    go_on(state, *FOUR, "strategy.scale=0.5", NONE)
    left = list(vectors_in(state, seed).values())
    assert nearest(rows[1].astype(float) + rows[2], left) > 0.999
    for client_id in (1, 2):
        purged = receipt_of(state, client_id)["purged"]
        assert purged["isolable"] is True
        assert purged["left"]["sum"]["cosine"] == 1.0
        own = nearest(rows[client_id].astype(float), left)
        assert purged["left"]["contribution"]["cosine"] == pytest.approx(own, abs=0.01)
        assert own < 0.9


def test_whoever_leaves_exactly_after_another_leaves_nothing_of_its_own(
    trained: Trained,
):
    """Half of client 1 stays for good, and client 2 is told apart from it."""
    state, seed, rows = trained()
    ask(state, 1, clients=4)
    go_on(state, *FOUR, "strategy.scale=0.5", NONE)
    ask(state, 2, clients=4)
    go_on(state, *FOUR, "strategy.scale=1", NONE)
    assert receipt_of(state, 1)["purged"]["isolable"] is True
    assert receipt_of(state, 2)["purged"]["isolable"] is False
    left = list(vectors_in(state, seed).values())
    assert nearest(rows[1].astype(float), left) > 0.999
    assert nearest(rows[2].astype(float), left) < 0.9


@pytest.mark.parametrize(
    ("scale", "words"),
    [
        ("0.5", "what is left still gives the contribution back, or a part of it: "),
        ("1", "what is left does not give the contribution back: "),
    ],
)
def test_verify_says_it_in_words(
    trained: Trained, capsys: pytest.CaptureFixture[str], scale: str, words: str
):
    state, _, _ = trained()
    ask(state, 1, clients=4)
    go_on(state, *FOUR, f"strategy.scale={scale}", NONE)
    receipt = state / "receipts" / "forget-1.json"
    capsys.readouterr()
    run_words(["verify", str(receipt), "--key", f"{state}-keys/operator.pub"])
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith(words) for line in lines) == 1
    assert sum(line.startswith("what is left") for line in lines) == 1


def test_no_number_of_the_forgotten_is_in_what_is_written_of_rounds(trained: Trained):
    """Neither its weights nor the norms of its updates, of any round."""
    state, _, _ = trained()
    ask(state, 1, clients=4)
    go_on(state, *FOUR)
    kept: Checkpoints = State(state).checkpoints(every=1, encrypt=False)
    head = json.loads((kept.folder / "round-000004.json").read_text())
    for _, weights, norms in head["ledger"]["participation"]:
        assert weights.keys() == norms.keys() == {"0", "2", "3"}


# -- the measure itself ----------------------------------------------------------------


def measured(change: np.ndarray, *others: np.ndarray, parts: bool = False) -> Left:
    """Return what is left of C = [1, 2, 3, .., 64] / 64."""
    return isolation(
        C,
        change,
        others,
        size=np.ones(64),
        parts=np.arange(64) // 16 if parts else None,
    )


C = np.arange(1, 65) / 64
DRAW = np.random.default_rng(0)
NOISE = DRAW.normal(size=64)


def test_any_multiple_of_a_contribution_isolates_it():
    for multiple in (1, -1, 0.5, 1e-3):
        assert measured(multiple * C).isolable
        assert measured(multiple * C).cosine == pytest.approx(1)


def test_rounding_isolates_nothing_and_what_is_unrelated_neither():
    ulp = float(np.spacing(np.float32(1)))
    assert not measured(NOISE / abs(NOISE).max() * ulp).isolable
    unrelated = NOISE - (NOISE @ C) / (C @ C) * C
    assert not measured(unrelated).isolable


def test_a_contribution_as_small_as_rounding_is_not_lost():
    """Where nothing moves, what was not subtracted stands in the correction."""
    ulp = float(np.spacing(np.float32(1)))
    found = isolation(C * ulp, C * ulp, [], size=np.ones(64))
    assert (found.isolable, found.cosine) == (True, pytest.approx(1))


def test_what_the_others_tell_is_not_held_against_the_method():
    """They contributed nearly the same, and the method left a multiple of theirs."""
    alike = C + 0.1 * NOISE
    found = measured(0.3 * alike, alike, alike)
    assert found.of_others > 0.9
    assert found.cosine == pytest.approx(found.of_others)
    assert (found.beyond, found.isolable) == (pytest.approx(0, abs=1e-6), False)
    assert measured(0.3 * alike).isolable  # if they are not there to tell it


def test_parts_are_scaled_on_their_own():
    """Other shares of C in four parts, which are one multiple of it in each."""
    change = C * np.repeat([1, -1, 0.1, -0.1], 16)
    assert measured(change).cosine < 0.9
    assert measured(change, parts=True).cosine == pytest.approx(1)


def test_a_client_that_contributed_nothing_has_nothing_to_be_given_back():
    assert isolation(0 * C, NOISE, [], size=np.ones(64)) == Left(
        0, 0, 0, isolable=False
    )


def test_of_a_large_ledger_a_sample_is_looked_at(monkeypatch: pytest.MonkeyPatch):
    """Of numbers and of rows; the answer is the same."""
    draw, before = np.random.default_rng(1), np.zeros(4000, np.float32)
    found = []
    for most_rows, most_numbers in ((64, 1 << 24), (3, 8000)):
        monkeypatch.setattr(isolation_module, "MOST_ROWS", most_rows)
        monkeypatch.setattr(isolation_module, "MOST_NUMBERS", most_numbers)
        ledger = Ledger(before, clients=6, momentum=0.5, keep_local=False)
        draw = np.random.default_rng(1)
        local = {k: draw.normal(size=4000).astype(np.float32) for k in range(6)}
        model = ledger.record(1, before, local, dict.fromkeys(range(6), 1))
        gone = ledger.contributions[2].copy()
        ledger.forget([2], before=model, after=model)
        for after in (model, model - gone):
            ledger.correction[...] = after - model + gone
            (left,) = left_of(
                *([gone], ledger),
                seed=before,
                before=model,
                after=after,
                starts_over=False,
            )
            found.append((left.isolable, left.cosine > 0.99))
    assert found == [(True, True), (False, False)] * 2


def test_a_method_that_begins_anew_from_what_was_there_has_not_begun_anew():
    """Whatever it says: what it begins with is compared with what the seed gives."""
    draw, seed = np.random.default_rng(3), np.zeros(400, np.float32)
    found = []
    for share in (0.0, 0.5):
        ledger = Ledger(seed, clients=3, keep_local=False)
        local = {k: draw.normal(size=400).astype(np.float32) for k in range(3)}
        model = ledger.record(1, seed, local, dict.fromkeys(range(3), 1))
        gone = ledger.contributions[1].copy()
        ledger.start_over(seed + np.float32(share) * gone)
        (left,) = left_of(
            [gone],
            ledger,
            seed=seed,
            before=model,
            after=ledger.initial,
            starts_over=True,
        )
        found.append((left.isolable, round(left.cosine, 3)))
    assert found == [(False, 0.0), (True, 1.0)]


def test_sums_that_a_bank_keeps_of_the_others_are_taken_off_what_is_left():
    """Beside ten times the others' last round a trace of who left is hard to see."""
    draw, seed = np.random.default_rng(3), np.zeros(400, np.float32)
    bank = Bank(1, clients=3, size=400)
    ledger = Ledger(seed, clients=3, keep_local=False, bank=bank)
    model = seed
    for number in (1, 2, 3):
        local = {k: model + draw.normal(size=400).astype(np.float32) for k in range(3)}
        model = ledger.record(number, model, local, dict.fromkeys(range(3), 1))
    gone = ledger.contributions[1].copy()
    ledger.forget([1], before=model, after=model - gone)
    others = 10 * next(bank.totals()).astype(np.float32)
    ledger.correction += gone / 2 - others
    after = ledger.rebuilt()
    found = []
    for keep in (bank, Bank()):
        ledger.bank = keep
        (left,) = left_of(
            [gone], ledger, seed=seed, before=model, after=after, starts_over=False
        )
        found.append(left.isolable)
    assert found == [True, False]


def test_what_compensated_left_is_looked_for_unit_by_unit(trained: Trained):
    """Each kept a share of its own, and the model as a whole no multiple."""
    state, seed, rows = trained()
    ask(state, 1, clients=4)
    go_on(state, *FOUR, "strategy=compensated", NONE)
    as_a_whole = nearest(rows[1].astype(float), list(vectors_in(state, seed).values()))
    said = receipt_of(state, 1)["purged"]["left"]["contribution"]["cosine"]
    assert said > as_a_whole + 0.05
