"""The judge's own benchmark: what it trains, and how it counts."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import t as student

from benchmarks import judge_power
from benchmarks.judge import table
from benchmarks.judge_power import (
    BANK,
    KNOWN,
    Federations,
    Setting,
    along_pairs,
    finding_of,
    halves,
)
from fedneg.core.seeding import torch_generator
from fedneg.evaluation.seen import Seen
from fedneg.tasks.cohort import Examples, train_cohort

SMALL = Setting(("data=digits", "clients=3", "rounds=2", "model.hidden=[8]"), (1,), 40)


@pytest.fixture(scope="module")
def federations(tmp_path_factory: pytest.TempPathFactory) -> Federations:
    """Three clients of the digits, of unequal numbers of images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDNEG_CACHE", str(tmp_path_factory.mktemp("cache")))
        found = Federations(SMALL, 1)
    found.data[2] = (found.data[2][0][:10], found.data[2][1][:10])
    return found


def test_federations_side_by_side_are_what_each_is_alone(federations: Federations):
    """The mean of clients that each train alone, by 40 and 10 images: .8 and .2."""
    members, draws = [[0, 2], [1]], [5, 6]
    start = federations.start(draws)
    assert not torch.equal(start[0], start[1])
    found = federations.train(start, members, draws, range(1))
    network, config = federations.prototype.build(), federations.config
    local = {}
    for m, k in ((0, 0), (0, 2), (1, 1)):
        stream = torch_generator(1, "power", 1000 * draws[m], k)
        alone = train_cohort(
            network,
            start[m],
            [Examples(*federations.data[k], stream)],
            scaling=federations.scaling,
            settings=config.client,
        )
        local[k] = alone.parameters[0]
    expected = torch.stack([0.8 * local[0] + 0.2 * local[2], local[1]])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    both = federations.train(start, members, draws, range(2), together=1)
    torch.testing.assert_close(
        both, federations.train(found, members, draws, range(1, 2))
    )


def test_what_is_seen_are_the_losses_of_the_clients_images(federations: Federations):
    models = federations.start([1, 2])
    found = federations.seen(models, 2)
    assert [list(one.losses) for one in found] == [[2], [2]]
    assert [len(one.losses[2]) for one in found] == [10, 10]
    # Ten classes of which an untrained network knows nothing: log 10 = 2.3.
    assert 1.5 < np.mean([one.losses[2].mean() for one in found]) < 3.5


def test_of_the_bank_each_client_is_in_half():
    found = halves(6, 3)
    assert len(found) == BANK
    assert {len(some) for some in found} == {3}
    assert [sum(k in some for some in found) for k in range(6)] == [BANK // 2] * 6
    assert found == halves(6, 3)
    assert found != halves(6, 4)


def test_wrong_is_the_other_outcome_of_what_is_known():
    """Of 4 originals one is forgotten, of 2 retrained ones one is found."""
    of = {"kind": ["original"] * 4 + ["retrained"] * 2}
    of["finding"] = [*["traces left"] * 3, "forgotten", "overshot", "cannot tell"]
    of["outcome"] = [*["not forgotten"] * 3, "forgotten", "not forgotten"]
    of["outcome"] += ["inconclusive"]
    lines = table(pd.DataFrame(of)).splitlines()
    assert "| original | 4 | 1 | 3 | 0 | 0 | 25.0% (0.6% to 80.6%) |" in lines
    assert "| retrained | 2 | 0 | 0 | 1 | 1 | 50.0% (1.3% to 98.7%) |" in lines


def test_power_by_hand():
    """Of 2 originals one found, of 2 fine-tuned one; of 2 retrained one accused.

    Of a fine-tuned one it says that it has overshot, which it has not. A client is
    found always, another never, and a third by one seed of two.
    """
    kinds = ["original"] * 2 + ["fine_tune"] * 2 + ["retrained", "retrained, repaired"]
    found = ["traces left", "forgotten", "traces left", "overshot"]
    rows = pd.DataFrame({"kind": kinds, "finding": [*found, "overshot", "forgotten"]})
    rows["setting"], rows["by"] = "digits", "9 retrainings"
    rows["seed"], rows["client"] = 1, [0, 1, 0, 0, 0, 0]
    line = judge_power.table(rows).splitlines()[-1]
    assert line == (
        "| digits | 9 retrainings | 1 of 2 (of 2 clients 1 always, 1 never) | 1 of 2 | "
        "1 | 1 of 2 | 50% |"
    )
    more = rows.iloc[[0, 1]].assign(client=2)
    line = judge_power.table(pd.concat([rows, more])).splitlines()[-1]
    assert "| 2 of 4 (of 3 clients 1 always, 1 never) |" in line
    known = rows.assign(by=KNOWN, away=[1.0, 3.0, *[9.0] * 4])
    assert judge_power.table(known).splitlines()[-1].endswith(" | - | 1 of 2 | - |")
    (said,) = judge_power.distances(known)
    assert said.startswith("digits: 2.0 in the middle of 2 clients, of a tenth less")


def test_along_pairs_by_hand():
    """Models without the client vary by 1 and 4; twins differ by (3, 3) on the mean.

    So the weights are 3 / (1 + 2.5) and 3 / (4 + 2.5).
    """
    without = np.array([[0.0, 0], [1, 2], [2, 4]])
    pairs = (without + np.array([[2.0, 1], [4, 3], [3, 5]]), without)
    outs = np.array([[0.0, 7], [1, -7], [2, 0], [1, 3]])
    away, p_value = along_pairs(np.array([5.0, 4.0]), outs, pairs)
    places = [a * 3 / 3.5 + b * 3 / 6.5 for a, b in [*outs, (5, 4)]]
    middle = sum(places[:4]) / 4
    sd = (sum((x - middle) ** 2 for x in places[:4]) / 3) ** 0.5
    assert away == pytest.approx((places[4] - middle) / sd)
    assert p_value == pytest.approx(2 * student.sf(abs(away) / np.sqrt(1.25), 3))


@pytest.mark.parametrize(
    ("away", "p_value", "finding"),
    [(3.0, 0.01, "traces left"), (-3.0, 0.01, "overshot"), (-3.0, 0.05, "cannot tell")],
)
def test_what_a_place_comes_to(away: float, p_value: float, finding: str):
    assert finding_of(away, p_value) == finding


def test_who_is_judged_by_whom(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Twins differ by the client alone, and nobody is judged beside itself."""
    monkeypatch.setenv("FEDNEG_CACHE", str(tmp_path))
    for name, count in (("ORIGINALS", 2), ("RETRAINED", 2), ("IN", 1), ("OUT", 3)):
        monkeypatch.setattr(judge_power, name, count)
    monkeypatch.setattr(judge_power, "BANK", 4)
    monkeypatch.setattr(judge_power, "PAIRS", 12)
    plans = {"few": ((3, 1, 0.05),), "a bank": ((3, None, 0.05),)}
    monkeypatch.setattr(judge_power, "PLANS", plans)
    shown: list[tuple[np.ndarray, np.ndarray]] = []
    judged: list[tuple[Seen, list[Seen], list[Seen]]] = []
    look, along = judge_power.looked_at, judge_power.along_pairs

    def looked_at(model: Seen, **more: Any) -> Any:
        judged.append((model, more["trained_with"], more["trained_without"]))
        return look(model, **more)

    def along_pairs(model: Any, outs: Any, pairs: Any) -> Any:
        shown.append(pairs)
        return along(model, outs, pairs)

    monkeypatch.setattr(judge_power, "looked_at", looked_at)
    monkeypatch.setattr(judge_power, "along_pairs", along_pairs)
    words = ("data=digits", "clients=5", "rounds=8", "model.hidden=[16]")
    rows = pd.DataFrame(judge_power.rows_of(Setting(words, (1,), judged=1), 1))
    assert rows.groupby(["kind", "by"]).size().to_dict() == {
        (kind, by): 2
        for kind in ("original", "fine_tune", "retrained", "retrained, repaired")
        for by in (*plans, KNOWN)
    }
    for model, ins, outs in judged:
        every = [model, *ins, *outs]
        assert not any(
            one.is_as(other) for k, one in enumerate(every) for other in every[:k]
        )
    # Of four halves of the clients two have each; of models with all one is asked.
    assert [len(ins) for _, ins, _ in judged[:2]] == [1, 2]
    for with_it, without in shown:
        assert (with_it - without).mean() > 0
        apart = [
            (scores - scores.mean(axis=0)).ravel() for scores in (with_it, without)
        ]
        # Strangers would share nothing of a seed's chance.
        assert np.corrcoef(*apart)[0, 1] > 0.5
    known = rows[rows["by"] == KNOWN]
    found = known["finding"] != "cannot tell"
    assert (known["finding"][found] == "traces left").equals(known["away"][found] > 0)
    assert (known.loc[known["kind"] == "original", "away"] > 0).all()


def test_originals_lie_beyond_models_without_the_client_along_pairs():
    """And of those without it one in twenty is accused, whatever the twins share."""
    found = {0.0: 0, 1.0: 0}
    for number in range(300):
        draw = np.random.default_rng(number)
        taught, common = np.abs(draw.normal(size=40)), draw.normal(size=(8, 40))
        pairs = tuple(
            common + share * taught + 0.3 * draw.normal(size=(8, 40))
            for share in (1, 0)
        )
        outs = draw.normal(size=(6, 40))
        for share in found:
            model = share * taught + draw.normal(size=40)
            away, p_value = along_pairs(model, outs, (pairs[0], pairs[1]))
            found[share] += p_value < 0.05 and (away > 0 or not share)
    assert found[1.0] > 270
    assert 5 <= found[0.0] <= 26


def test_what_was_judged_is_not_judged_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A kill between two federations loses none."""
    asked = []

    def rows_of(setting: Setting, seed: int) -> list[dict[str, object]]:
        asked.append(seed)
        if asked == [7, 8]:
            raise KeyboardInterrupt
        kinds = ("original", "fine_tune", "retrained")
        return [
            {
                "kind": k,
                "client": 0,
                "by": "few",
                "outcome": "inconclusive",
                "finding": "cannot tell",
            }
            for k in kinds
        ]

    monkeypatch.setattr(judge_power, "rows_of", rows_of)
    monkeypatch.setattr(judge_power, "POWER", {"small": Setting((), (7, 8))})
    out = ["--out", str(tmp_path / "rows.csv")]
    with pytest.raises(KeyboardInterrupt):
        judge_power.main(out)
    judge_power.main(out)
    assert asked == [7, 8, 8]
    assert (
        "| small | few | 0 of 2 (of 2 clients 0 always, 2 never)"
        in capsys.readouterr().out
    )
    judge_power.main(out)
    assert asked == [7, 8, 8]
