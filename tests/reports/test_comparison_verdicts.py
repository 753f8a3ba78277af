"""What a comparison says of verdicts: findings, residual influence, controls."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from builders.findings import EARLIER, verdict
from builders.run_folders import add_run
from fedneg.reports.compare.controls import controls_table
from fedneg.reports.compare.influence import draw_influences, draw_laters
from fedneg.reports.compare.page import write_comparison
from fedneg.reports.compare.rows import collect_comparison, find_comparison
from fedneg.reports.compare.statistics import count_outcomes, summarise
from fedneg.reports.compare.sweep import collect_sweep, write_sweep
from fedneg.reports.compare.tables import markdown_table
from fedneg.reports.compare.text import describe_settings, level


@pytest.fixture(scope="module")
def verdicts() -> dict[str, dict[str, Any]]:
    """Return verdicts of the present judge, by what they find."""
    return {
        "forgotten": verdict(0.0, seed=1, chance=0.8),
        "traces left": verdict(0.9, chance=0.8),
        "overshot": verdict(-1.2, chance=0.8),
        "cannot tell": verdict(outs=3, ins=1, chance=2.0, alpha=0.01),
    }


@pytest.fixture
def sweep(tmp_path: Path, verdicts: dict[str, Any]) -> Path:
    """Return two methods with two seeds each, judged."""
    jobs = [
        ("compensated", "overshot"),
        ("compensated", "forgotten"),
        ("fine_tune", "traces left"),
        ("fine_tune", "cannot tell"),
    ]
    for job, (method, finding) in enumerate(jobs):
        add_run(
            tmp_path / str(job), method=method, seed=job % 2, verdict=verdicts[finding]
        )
    return tmp_path


def judged(frame: pd.DataFrame, run: str) -> dict[str, Any]:
    """Return the row of a run's judged model."""
    rows = frame[(frame["run"] == run) & (frame["model"] == "recovered")]
    found: dict[str, Any] = rows.iloc[0].to_dict()
    return found


def test_rows_hold_finding_and_influence(sweep: Path, verdicts: dict[str, Any]) -> None:
    frame = collect_comparison(sweep)
    row, own = judged(frame, "0"), verdicts["overshot"]["influence"]["4"]
    assert (row["outcome"], row["finding"]) == ("not forgotten", "overshot")
    assert [row["rho"], row["rho_low"], row["rho_high"]] == pytest.approx(
        [own["rho"], own["low"], own["high"]]
    )
    original = frame[frame["strategy"] == "original"].iloc[0]
    assert original["finding"] == "traces left"
    assert original["rho"] == pytest.approx(
        verdicts["overshot"]["models"]["original"]["influence"]["4"]["rho"]
    )


def test_of_several_clients_the_one_that_decides_is_in_the_row(tmp_path: Path) -> None:
    found = verdict({1: 0.0, 3: 0.9}, clients=(1, 3), chance=0.8)
    add_run(tmp_path / "0", verdict=found, forget=[1, 3])
    row = judged(collect_comparison(tmp_path), "0")
    assert row["rho"] == pytest.approx(found["influence"]["3"]["rho"])


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ((2, 0, 1, 0, 0), "2 forgotten, 1 inconclusive"),
        ((0, 3, 0, 1, 2), "1 traces left, 2 overshot"),
        ((1, 3, 0, 1, 0), "1 forgotten, 1 traces left, 2 not forgotten"),
        ((0, 0, 0, 0, 0), ""),
    ],
)
def test_what_is_not_forgotten_is_told_by_how(
    counts: tuple[int, ...], words: str
) -> None:
    names = ("forgotten", "not forgotten", "inconclusive", "traces left", "overshot")
    assert count_outcomes(dict(zip(names, counts, strict=True))) == words


def test_page_shows_findings_influence_and_controls(sweep: Path) -> None:
    page = write_comparison(sweep)[1].read_text()
    assert "1 forgotten, 1 overshot" in page
    assert "1 traces left, 1 inconclusive" in page
    assert "What can still be seen of the client" in page
    assert "Shaded: from \N{MINUS SIGN}100 to 50" in page
    assert "Not forgotten, by the verdict: compensated (1 of 2: 1 overshot)" in page
    assert '<option value="overshot">' in page
    assert "earlier judge" not in page
    said = " ".join(describe_settings(summarise(collect_comparison(sweep)))[0][1])
    assert "Of what was taught can still be seen: original 1" in said


def test_figure_has_a_mark_for_each_run_and_words_for_each_method(
    sweep: Path, verdicts: dict[str, Any]
) -> None:
    found = find_comparison(sweep)
    assert found.margins == (-1.0, 0.5)
    picture = draw_influences(found.frame, found.margins)
    assert picture is not None
    rhos = [verdicts[f]["influence"]["4"]["rho"] for f in ("overshot", "forgotten")]
    mean = f"{50 * sum(rhos):.0f}".replace("-", "\N{MINUS SIGN}")
    assert f"compensated {mean};" in picture.alt
    for name in ("original", "retrained", "compensated", "fine_tune"):
        assert f">{name}<".encode() in picture.svg["narrow"]


def test_margins_that_differ_are_not_shaded(sweep: Path) -> None:
    path = sweep / "3" / "results.json"
    results = json.loads(path.read_text())
    results["verdict"]["margins"] = [-0.5, 0.5]
    path.write_text(json.dumps(results))
    assert find_comparison(sweep).margins is None
    assert "Shaded" not in write_comparison(sweep)[1].read_text()


def test_later_rounds_are_a_line_for_each_method(
    tmp_path: Path, verdicts: dict[str, Any]
) -> None:
    """Means over seeds: 0.2 and 0.4 after 10 rounds."""
    one = {"rho": 0.2, "low": 0.0, "high": 0.4}
    for seed, rho in ((0, 0.2), (1, 0.4)):
        later = [
            {"rounds_after": 10, "influence": {"4": one | {"rho": rho}}},
            {"rounds_after": 0, "influence": {"4": one | {"rho": -0.1}}},
        ]
        found = verdicts["forgotten"] | {"later": later}
        add_run(tmp_path / str(seed), seed=seed, verdict=found)
    later_rows = find_comparison(tmp_path).later
    assert sorted(later_rows["rho"]) == pytest.approx([-0.1, -0.1, 0.2, 0.4])
    picture = draw_laters(later_rows, (-1.0, 0.5))
    assert picture is not None
    assert "compensated \N{MINUS SIGN}10 after 0, 30 after 10." in picture.alt
    assert "what comes back" in write_comparison(tmp_path)[1].read_text()


def test_without_later_rounds_there_is_no_figure_of_them(sweep: Path) -> None:
    assert draw_laters(find_comparison(sweep).later, None) is None
    assert "what comes back" not in write_comparison(sweep)[1].read_text()


def test_what_lies_far_beyond_is_an_arrow(tmp_path: Path) -> None:
    add_run(tmp_path / "0", verdict=verdict(-30.0, chance=0.8))
    picture = draw_influences(collect_comparison(tmp_path), None)
    assert picture is not None
    assert b"1000<" not in picture.svg["wide"]


def test_controls_are_counted_over_runs(sweep: Path, verdicts: dict[str, Any]) -> None:
    wrong = verdicts["forgotten"] | {
        "model": "unlearned",
        "outcomes": {"unlearned": "forgotten", "original": "forgotten"},
        "controls": {},
    }
    add_run(sweep / "4", method="do_nothing", seed=9, verdict=wrong, recovered=False)
    table = controls_table(collect_comparison(sweep)).set_index("control")
    assert table.loc["do_nothing", "verdicts"] == "1 forgotten"
    assert table.loc["do_nothing", "as it must"] == "NO"
    assert table.loc["original", "must never be"] == "forgotten"
    assert table.loc["original", "verdicts"] == "1 forgotten, 2 traces left"
    assert table.loc["retrained", "as it must"] == "yes"
    assert "The judge&#39;s controls" in write_comparison(sweep)[1].read_text()


def test_what_was_lost_has_one_column(sweep: Path) -> None:
    page = write_comparison(sweep)[1].read_text()
    assert page.count(">accuracy lost</th>") == 1
    assert "test accuracy gap" not in page
    assert ">accuracy gap<" not in page


def test_markdown_has_a_column_of_influence_only_where_it_was_measured(
    sweep: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = markdown_table(summarise(collect_comparison(sweep)))
    first, _, head, places, *rows = text.splitlines()
    assert first.startswith("**Attack")
    assert head.split(" | ")[4] == "residual influence"
    assert places == "| --- | ---: | ---: | ---: | ---: | --- | ---: |"
    assert all(row.count("|") == 8 for row in rows if row)
    earlier = tmp_path_factory.mktemp("earlier")
    add_run(earlier / "0")
    text = markdown_table(summarise(collect_comparison(earlier)))
    assert "residual" not in text
    assert "| --- | ---: | ---: | ---: | --- | ---: |" in text


def test_runs_of_the_earlier_judge_are_shown_and_said_to_be_such(
    tmp_path: Path,
) -> None:
    add_run(tmp_path / "0", verdict=EARLIER)
    page = write_comparison(tmp_path)[1].read_text()
    assert "The verdicts of 1 run are of the earlier judge" in page
    assert "What can still be seen" not in page
    assert "1 not forgotten" in page
    frame = collect_sweep(tmp_path)
    assert frame["outcome"].tolist() == ["not forgotten"]
    assert frame[["finding", "rho"]].isna().to_numpy().all()
    assert ">not forgotten</td>" in write_sweep(tmp_path)[1].read_text()


@pytest.mark.parametrize("null", [None, float("nan"), "x"])
def test_absurd_numbers_of_a_verdict_are_left_out(tmp_path: Path, null: Any) -> None:
    found = verdict()
    one = {"rho": null, "low": null, "high": null, "n_in": null}
    changed = {"influence": {"4": one, "x": one}, "margins": [null], "epsilon": null}
    add_run(tmp_path / "0", verdict=found | changed | {"models": {"original": null}})
    row = judged(collect_comparison(tmp_path), "0")
    assert pd.isna(row["rho"])
    assert row["finding"] == "forgotten"
    write_comparison(tmp_path)


def test_sweep_has_columns_of_finding_and_influence(
    sweep: Path, verdicts: dict[str, Any]
) -> None:
    frame = collect_sweep(sweep)
    assert frame["finding"].tolist()[:2] == ["overshot", "forgotten"]
    rho = verdicts["overshot"]["influence"]["4"]["rho"]
    assert frame["rho"].iloc[0] == pytest.approx(rho)
    page = write_sweep(sweep)[1].read_text()
    assert ">residual influence</th>" in page
    assert f"\N{MINUS SIGN}{-100 * rho:.0f} %</td>" in page


def test_without_an_attack_the_gap_is_the_size_of_residual_influence(
    sweep: Path, verdicts: dict[str, Any]
) -> None:
    add_run(sweep / "8", seed=5, attack="none", verdict=verdicts["overshot"])
    add_run(sweep / "9", seed=5, attack="none", recovered=False)
    frame = collect_comparison(sweep)
    row, other = judged(frame, "8"), judged(frame, "0")
    assert row["forgetting_measure"] == "residual influence"
    assert row["rho"] < 0
    assert row["forgetting_gap"] == pytest.approx(-row["rho"])
    assert other["forgetting_measure"] == "attack success"
    assert other["forgetting_gap"] == abs(other["attack_success_gap"])


def test_accuracy_lost_is_the_verdicts(
    tmp_path: Path, verdicts: dict[str, Any]
) -> None:
    """Against several retrained models; the run's own would say 0.94 - 0.93."""
    found = verdicts["overshot"] | {"quality_lost": 0.02}
    add_run(tmp_path / "0", verdict=found)
    assert judged(collect_comparison(tmp_path), "0")["accuracy_lost"] == 0.02


def test_influences_are_level_within_a_tenth() -> None:
    assert (level("residual influence"), level("attack success")) == (0.1, 0.01)
