"""The made worlds of the judge's benchmark: what is in them, and how they count."""

from pathlib import Path
from typing import Any, Never

import numpy as np
import pandas as pd
import pytest

from benchmarks import made_worlds
from benchmarks.made_worlds import NOTHING, PLANS, WORLDS, World, judged, two_kinds
from fedneg.core.seeding import rng
from fedneg.evaluation.seen import Seen


def of(**changed: Any) -> World:
    """Return a world of two examples without any chance, but for what is changed."""
    values: dict[str, Any] = {
        "middle": [1.0, -2.0],
        "taught": [2.0, 4.0],
        "kept": [1.0, 0.5],
    }
    values |= {"noise": [0.0, 0.0], "shared": np.zeros((0, 2)), **changed}
    names = ("middle", "taught", "kept", "noise", "shared")
    return World(**values | {k: np.array(values[k]) for k in names})


def confidences(made: World, share: Any, stream: int = 0) -> np.ndarray:
    losses = made.seen(np.array(share), rng(stream, "made")).losses[0]
    return -np.log(np.expm1(losses))


def test_a_model_by_hand():
    """1 + 2, and -2 + 4 / 2: what a model has is the middle and its share."""
    np.testing.assert_allclose(confidences(of(), [1.0, 0.5]), [3.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(confidences(of(), 0.0), [1.0, -2.0])


def test_each_kind_of_chance_is_what_it_says():
    """Over 4000 models: noise by itself, what is shared together, sharpness all."""
    shared = of(noise=[0.5, 0.0], shared=[[0.0, 3.0], [1.0, 0.0]])
    found = np.array([confidences(shared, 0.0, k) for k in range(4000)])
    np.testing.assert_allclose(found.std(axis=0), [1.25**0.5, 3.0], rtol=0.05)
    together = of(shared=[[1.0, -2.0]])
    found = np.array([confidences(together, 0.0, k) for k in range(20)])
    np.testing.assert_allclose(found[:, 1] + 2, -2 * (found[:, 0] - 1))
    sharp = of(sharpness=0.2)
    found = np.array([confidences(sharp, 0.0, k) for k in range(4000)])
    np.testing.assert_allclose(found[:, 1], -2 * found[:, 0])
    assert np.log(found[:, 0]).std() == pytest.approx(0.2, rel=0.05)
    skewed = of(sharpness=0.2, is_skewed=True)
    found = np.array([confidences(skewed, 0.0, k) for k in range(4000)])
    logs = np.log(found[:, 0])
    assert logs.mean() == pytest.approx(0, abs=0.01)
    assert logs.std() == pytest.approx(0.2, rel=0.05)
    assert logs.min() == pytest.approx(-0.2, abs=0.001)


def test_some_models_come_out_otherwise():
    """One in four, by 3 of what is shared."""
    odd = of(shared=[[0.01, 1.0]], odd=0.25)
    found = np.array([confidences(odd, 0.0, k) for k in range(2000)])[:, 0] - 1
    assert found.mean() == pytest.approx(0.25 * 0.03, abs=0.001)
    assert found.std() == pytest.approx((1 + 9 * 3 / 16) ** 0.5 * 0.01, rel=0.05)


def test_a_softened_model_is_as_sure_as_those_without():
    """Of 1 and -2 the mean is -.5, with 2 and 4 more 2.5: divided by -5."""
    assert made_worlds.as_sure(of()).softened == pytest.approx(-5)


def test_clients_answer_of_their_own_examples():
    found = of(clients=2).seen(np.array([1.0, 0.5]), rng(0, "clients")).losses
    assert [*found] == [0, 1]
    np.testing.assert_allclose(found[0], [np.log1p(np.exp(-3.0))])
    np.testing.assert_allclose(found[1], [np.log(2.0)])


def test_the_judged_model_is_softened_and_the_first_with_the_client_may_fail(
    monkeypatch: pytest.MonkeyPatch,
):
    """3 and 0 divided by 2; of one that knows nothing p is a tenth."""
    met: list[list[Seen]] = []

    def looked_at(model: Seen, **given: list[Seen]) -> Never:
        met.append([model, *given["trained_with"]])
        raise LookupError

    monkeypatch.setattr(made_worlds, "looked_at", looked_at)
    made = of(softened=2.0, has_failed=True)
    monkeypatch.setitem(WORLDS, "made", lambda _: made)
    with pytest.raises(LookupError):
        judged("made", 0, PLANS["7 without it"])
    model, first, second = (one.losses[0] for one in met[0])
    np.testing.assert_allclose(-np.log(np.expm1(model)), [1.5, 0.0], atol=1e-12)
    np.testing.assert_allclose(np.exp(-first), 0.1)
    np.testing.assert_allclose(-np.log(np.expm1(second)), [3.0, 2.0])


def test_the_first_of_two_kinds_are_so_many():
    made = two_kinds(
        rng(0, "kinds"),
        10,
        first=0.3,
        middle=((-50, 0), (50, 0)),
        taught=(1, 2),
        kept=(0, 1),
    )
    assert made.middle.tolist() == [-50] * 3 + [50] * 7
    assert made.kept.tolist() == [0] * 3 + [1] * 7
    assert made.taught[:3].mean() < made.taught[3:].mean()


@pytest.mark.parametrize("name", [*WORLDS])
def test_of_nothing_nothing_is_kept_and_of_something_something(name: str):
    made = WORLDS[name](rng(0, name))
    assert (name in NOTHING) == (not made.kept.any())
    assert judged(name, 0, PLANS["two looks"]) in made_worlds.FINDINGS


def test_what_is_wrong_is_the_other_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Of nothing what is found, of something what is acquitted; 4 worlds each."""
    answers = ["forgotten", "traces left", "overshot", "cannot tell"]
    monkeypatch.setattr(made_worlds, "judged", lambda _, number, __: answers[number])
    words = ["--worlds", "even noise", "all of it", "--count", "4"]
    made_worlds.main([*words, "--out", str(tmp_path / "found.csv")])
    nothing, something = capsys.readouterr().out.splitlines()[-2:]
    assert nothing.startswith("| nothing: even noise | 50.0% (6.8% to 93.2%) |")
    assert something.startswith("| all of it | 25.0% (0.6% to 80.6%) |")
    assert nothing.endswith("| 25% |")
    assert something.endswith("| 25% |")
    monkeypatch.setattr(made_worlds, "judged", lambda *_: "forgotten")
    words = ["--worlds", "even noise", "all in doubt", "--count", "4"]
    made_worlds.main([*words, "--out", str(tmp_path / "more.csv")])
    capsys.readouterr()
    made_worlds.main(["--worlds", "all of it", "--out", str(tmp_path / "more.csv")])
    more = pd.read_csv(tmp_path / "more.csv")
    assert [*more["world"].unique()] == ["even noise", "all in doubt", "all of it"]
    assert more["worlds"].tolist() == [4] * 6 + [1000] * 3
    found = pd.read_csv(tmp_path / "found.csv")
    assert found["nothing"].tolist() == [True] * 3 + [False] * 3
    assert (found[[*made_worlds.FINDINGS]] == 1).all(axis=None)


def test_the_judged_models_differ_and_a_world_is_the_same_twice(
    monkeypatch: pytest.MonkeyPatch,
):
    """Each reference is a draw of its own, and the judged one has what it kept."""
    met = []

    def looked_at(model: Seen, **given: list[Seen]) -> Never:
        models = [model, *given["trained_with"], *given["trained_without"]]
        met.append([one.losses[0] for one in models])
        raise LookupError

    monkeypatch.setattr(made_worlds, "looked_at", looked_at)
    for number in (0, 0, 1):
        with pytest.raises(LookupError):
            judged("all of it", number, PLANS["7 without it"])
    first, again, other = (np.array(models) for models in met)
    np.testing.assert_array_equal(first, again)
    assert len(first) == 1 + 2 + 7
    assert len(np.unique(np.concatenate([first, other]), axis=0)) == 20
    in_, out = first[:3].mean(axis=1), first[3:].mean(axis=1)
    assert in_.max() < out.min()
