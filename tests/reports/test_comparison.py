"""The comparison of methods, on made-up run folders with unequal numbers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from builders.run_folders import add_run
from fedneg.cli.callback import finish_sweep
from fedneg.reports.compare.controls import control_warnings
from fedneg.reports.compare.figures import draw_pareto
from fedneg.reports.compare.page import write_comparison
from fedneg.reports.compare.rows import collect_comparison
from fedneg.reports.compare.statistics import OUTCOMES, mean_of, pool, summarise
from fedneg.reports.compare.tables import markdown_table
from fedneg.reports.compare.text import (
    describe_setting,
    describe_winners,
    nearest,
)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Return two methods with three seeds each, of unequal shifts."""
    for seed, shift in enumerate((0.00, 0.02, 0.07)):
        add_run(tmp_path / f"{seed}", seed=seed, shift=shift)
        add_run(
            tmp_path / f"{seed + 3}",
            seed=seed,
            method="fine_tune",
            outcome="not forgotten" if seed else "inconclusive",
            shift=0.5,
            recovered=False,
            rounds=(0.88, 0.92, 0.94),
        )
    return tmp_path


def row_of(frame: pd.DataFrame, run: str, model: str) -> dict[str, Any]:
    """Return one row."""
    found = frame[(frame["run"] == run) & (frame["model"] == model)]
    assert len(found) == 1
    row: dict[str, Any] = found.iloc[0].to_dict()
    return row


def test_row_holds_gaps_to_the_retrained_model(sweep: Path) -> None:
    """0.93 - 0.94 = -0.01; 0.07 - 0.01 = 0.06 (run 1); 0.55 - 0.51 = 0.04; 12 / 30."""
    row = row_of(collect_comparison(sweep), "1", "recovered")
    assert row["accuracy_lost"] == pytest.approx(0.01)
    assert row["attack_success_gap"] == pytest.approx(0.06)
    assert row["forgetting_gap"] == pytest.approx(0.06)
    assert row["membership_auc_gap"] == pytest.approx(0.04)
    assert row["relearn_ratio"] == pytest.approx(0.4)
    assert pd.isna(row["retain_accuracy_gap"])
    assert row["partition"] == "dirichlet (alpha=0.1)"
    assert row["outcome"] == "forgotten"
    assert row["online"] == 3
    assert row["server_bytes"] == 77


def test_unlearned_model_of_a_repaired_run_costs_the_whole_less_the_repair(
    sweep: Path,
) -> None:
    """8 epochs less one round of 4 clients; 100 - 40 and 300 - 60 bytes; 5 - 1 s."""
    row = row_of(collect_comparison(sweep), "0", "unlearned")
    names = ["rounds", "client_epochs", "bytes_up", "bytes_down", "seconds"]
    assert [row[n] for n in names] == [1, 4, 60, 240, 4]
    assert pd.isna(row["outcome"])
    assert pd.isna(row["online"])


def test_speed_up_against_fine_tune_is_at_equal_accuracy(sweep: Path) -> None:
    """Both reach 0.93: after 8 epochs, and fine-tuning after 12, in its third round."""
    frame = collect_comparison(sweep)
    assert row_of(frame, "0", "recovered")["speed_up_fine_tune"] == 12 / 8
    assert pd.isna(row_of(frame, "3", "unlearned")["speed_up_fine_tune"])


def test_no_fine_tune_run_leaves_no_speed_up(tmp_path: Path) -> None:
    add_run(tmp_path / "0")
    assert collect_comparison(tmp_path)["speed_up_fine_tune"].isna().all()


def test_references_have_one_row_per_setting_and_seed(sweep: Path) -> None:
    frame = collect_comparison(sweep)
    for name in ("original", "retrained"):
        assert (frame["strategy"] == name).sum() == 3


def test_references_that_differ_are_a_notice(sweep: Path) -> None:
    path = sweep / "3" / "results.json"
    path.write_text(
        path.read_text().replace('"fingerprint": "retrained"', '"fingerprint": "x"')
    )
    text = write_comparison(sweep)[1].read_text()
    assert "The retrained models of runs 0 and 3 differ" in text


def test_options_and_other_settings_that_vary_tell_rows_apart(tmp_path: Path) -> None:
    for job, (rounds, rate) in enumerate(((1, 0.1), (2, 0.1), (2, 0.3))):
        client = {"local_epochs": 1, "learning_rate": rate}
        strategy = {"name": "fine_tune", "rounds": rounds}
        config = {"strategy": strategy, "client": client}
        add_run(tmp_path / str(job), method="fine_tune", config=config)
    frame = collect_comparison(tmp_path)
    runs = frame[frame["method"] == "fine_tune"].drop_duplicates("run")
    assert runs["strategy"].tolist() == [f"fine_tune (rounds={n})" for n in (1, 2, 2)]
    assert runs["other"].tolist() == [
        f"client.learning_rate={rate}" for rate in (0.1, 0.1, 0.3)
    ]


def test_membership_counts_without_an_attack(tmp_path: Path) -> None:
    """|0.53 + 0.05 - 0.51| = 0.07."""
    add_run(tmp_path / "0", attack="none", shift=0.05)
    row = row_of(collect_comparison(tmp_path), "0", "recovered")
    assert row["forgetting_measure"] == "membership AUC"
    assert row["forgetting_gap"] == pytest.approx(0.07)


def test_interval_is_the_t_interval_over_seeds(sweep: Path) -> None:
    """Gaps 0.04, 0.06, 0.11: mean 0.07, half = t s / sqrt(3)."""
    summary = summarise(collect_comparison(sweep))
    row = summary[(summary["strategy"] == "compensated") & summary["judged"]].iloc[0]
    low, high = stats.t.interval(
        0.95, 2, loc=0.07, scale=np.std([0.04, 0.06, 0.11], ddof=1) / np.sqrt(3)
    )
    assert row["forgetting_gap"] == pytest.approx(0.07)
    assert row["forgetting_gap_half"] == pytest.approx((high - low) / 2)
    assert row["seeds"] == 3
    assert row["outcomes"] == "3 forgotten"
    tuned = summary[summary["strategy"] == "fine_tune"].iloc[0]
    assert tuned["outcomes"] == "2 not forgotten, 1 inconclusive"


def test_one_value_has_no_interval_and_none_no_mean() -> None:
    assert (mean_of([None, 3.5, float("nan")]).value, mean_of([3.5]).half) == (
        3.5,
        None,
    )
    assert (mean_of([None]).value, mean_of([]).count) == (None, 0)
    assert mean_of([0.1, 0.1, 0.1]).half == 0


def test_run_that_is_old_or_repeated_is_named_as_left_out(sweep: Path) -> None:
    add_run(sweep / "6", evidence=None)
    add_run(sweep / "7", seed=1)
    add_run(sweep / "8", forget=[])
    (sweep / "9").mkdir()
    text = write_comparison(sweep)[1].read_text()
    assert "Run 6 is left out: its results.json has no evidence" in text
    assert "Run 7 is left out: it repeats run 1" in text
    assert "Run 8 is left out: it forgets nobody" in text
    assert "Run 9 is left out: it has no results.json" in text
    assert set(collect_comparison(sweep)["run"]) == set("012345")


def test_all_values_missing_still_gives_a_page_that_says_so(tmp_path: Path) -> None:
    models = {"original": {}, "unlearned": {}, "recovered": {}}
    evidence = dict.fromkeys(models)
    add_run(tmp_path / "0", models=models, evidence=evidence, verdict=None, cost={})
    (tmp_path / "0" / "history.csv").unlink()
    text = write_comparison(tmp_path)[1].read_text()
    assert "How well anything was forgotten was not measured." in text
    assert "In no setting can a method be called the nearest." in text
    assert draw_pareto(summarise(collect_comparison(tmp_path))) is None


def test_empty_sweep_says_so(tmp_path: Path) -> None:
    table, page = write_comparison(tmp_path)
    assert "No run left results that can be compared." in page.read_text()
    assert table.read_text().startswith("run,strategy,method,data,")


ENTRY = {"judged": True, "forgetting_measure": "attack success", "client_epochs": 8}
ENTRY |= {"accuracy_lost": 0.0, "forgetting_gap_half": None, "accuracy_lost_half": None}


def setting(*rows: dict[str, Any]) -> pd.DataFrame:
    """Return a hand-made setting of a summary."""
    counts = dict.fromkeys(OUTCOMES, 0)
    full = [ENTRY | counts | {"method": r["strategy"]} | r for r in rows]
    return pd.DataFrame(full)


def entry(strategy: str, gap: float | None, **more: Any) -> dict[str, Any]:
    """Return one method of it."""
    return {"strategy": strategy, "forgetting_gap": gap} | more


def test_nearest_is_only_who_keeps_accuracy() -> None:
    rows = setting(
        entry("compensated", 0.05, accuracy_lost=0.01),
        entry("federaser", 0.001, accuracy_lost=0.011),
        entry("distillation", 0.09, accuracy_lost=0.4, accuracy_lost_half=0.5),
        entry("random_init", 0.0),
    )
    assert nearest(rows) == ["compensated"]
    assert "Lost in test accuracy against the retrained model: federaser" in " ".join(
        describe_setting(rows)
    )


def test_cheapest_of_those_level_with_the_nearest_is_named() -> None:
    rows = setting(
        entry("federaser", 0.010, client_epochs=24),
        entry("compensated", 0.019, client_epochs=8),
        entry("distillation", 0.021, client_epochs=1),
    )
    said = describe_setting(rows)
    assert (
        "Cheapest of those level with that is compensated, at 8 client-epochs." in said
    )


def test_ties_are_shared() -> None:
    rows = setting(entry("compensated", 0.02), entry("federaser", 0.02))
    assert nearest(rows) == ["compensated", "federaser"]
    said = " ".join(describe_setting(rows))
    assert "are equally compensated and federaser (gap 0.0200)." in said
    assert "They are also the cheapest" in said


@pytest.mark.parametrize(
    ("gap", "lost", "words"),
    [
        (0.029, 0.0, "Plain fine-tuning is as good (gap 0.0290"),
        (0.031, 0.0, "Plain fine-tuning is not as good (gap 0.0310"),
        (0.002, 0.0, "Plain fine-tuning is better (gap 0.0020"),
        (0.002, 0.2, "Plain fine-tuning does not keep its accuracy (loses 0.2000"),
        (None, 0.0, "Plain fine-tuning was not measured on both axes."),
    ],
)
def test_fine_tuning_is_called_as_good_where_it_is(
    gap: float | None, lost: float, words: str
) -> None:
    rows = setting(
        entry("compensated", 0.02), entry("fine_tune", gap, accuracy_lost=lost)
    )
    assert words in " ".join(describe_setting(rows))


@pytest.mark.parametrize(("gap", "ranked"), [(0.011, True), (0.010, False)])
def test_where_the_original_is_level_nobody_is_ranked(gap: float, ranked: bool) -> None:
    rows = setting(
        entry("original", gap), entry("compensated", 0.001), entry("fine_tune", 0.002)
    )
    said = " ".join(describe_setting(rows))
    assert (nearest(rows) == ["compensated"]) == ranked
    assert ("no method can be told from another" in said) != ranked
    assert ("Plain fine-tuning is as good" in said) == ranked


def test_intervals_make_no_method_as_good_as_another() -> None:
    """Half a unit of uncertainty over a few seeds is no sign of being level."""
    rows = setting(
        entry("compensated", 0.001, forgetting_gap_half=0.002),
        entry("fine_tune", 0.5, forgetting_gap_half=0.9),
    )
    assert "Plain fine-tuning is not as good" in " ".join(describe_setting(rows))


def test_one_method_only_is_nearest_without_others() -> None:
    said = " ".join(describe_setting(setting(entry("compensated", 0.02))))
    assert "No other method is level with it; it took 8 client-epochs." in said


def test_winners_count_over_settings(sweep: Path) -> None:
    said = describe_winners(summarise(collect_comparison(sweep)))
    assert "compensated in 1 of the 1 setting in which" in said[0]
    assert "or better, in 0 of 1." in said[1]


@pytest.mark.parametrize(
    ("method", "outcome", "wrong"),
    [
        ("do_nothing", "forgotten", True),
        ("do_nothing", "inconclusive", False),
        ("retrain", "not forgotten", True),
        ("retrain", "inconclusive", False),
        ("random_init", "forgotten", False),
    ],
)
def test_control_that_came_out_wrong_is_a_notice(
    tmp_path: Path, method: str, outcome: str, wrong: bool
) -> None:
    add_run(tmp_path / "0", method=method, outcome=outcome, recovered=False)
    assert bool(control_warnings(collect_comparison(tmp_path))) == wrong
    head = write_comparison(tmp_path)[1].read_text().split("</header>")[0]
    assert (f"A control came out wrong: {method} is" in head) == wrong


def test_do_nothing_after_repair_rounds_is_no_control(tmp_path: Path) -> None:
    """It is fine-tuning by another name."""
    add_run(tmp_path / "0", method="do_nothing", outcome="forgotten", recovered=True)
    assert control_warnings(collect_comparison(tmp_path)) == []


def test_wrong_reference_is_a_notice(tmp_path: Path) -> None:
    outcomes = {"original": "forgotten", "retrained": "not forgotten"}
    verdict = {"outcome": "forgotten", "model": "recovered", "outcomes": outcomes}
    add_run(tmp_path / "0", verdict=verdict)
    assert len(control_warnings(collect_comparison(tmp_path))) == 2


def test_markdown_pools_each_setting_alike(sweep: Path) -> None:
    """Backdoor only: gap 0.07 over three seeds; accuracy 0.93, 0.01 below."""
    text = markdown_table(summarise(collect_comparison(sweep)))
    assert text.startswith("**Attack: backdoor (1 setting)**")
    minus = "\N{MINUS SIGN}"
    assert (
        f"| compensated | 0.9000 | 0.9300 ({minus}0.0100) | 0.0700 | 3 forgotten | 8 |"
        in text
    )
    assert markdown_table(summarise(collect_comparison(sweep)), attack="none") == ""


def test_markdown_escapes_what_would_end_a_cell(tmp_path: Path) -> None:
    add_run(tmp_path / "0", method="a|b")
    assert "| a\\|b |" in markdown_table(summarise(collect_comparison(tmp_path)))


def test_pool_means_settings_not_runs(tmp_path: Path) -> None:
    """Two seeds at 0.04 and 0.08, one run of another at 0.14: (0.06 + 0.14) / 2."""
    add_run(tmp_path / "0", seed=0)
    add_run(tmp_path / "1", seed=1, shift=0.04)
    add_run(tmp_path / "2", seed=0, shift=0.10, clients=9)
    pooled = pool(summarise(collect_comparison(tmp_path)))
    row = pooled[pooled["strategy"] == "compensated"].iloc[0]
    assert row["forgetting_gap"] == pytest.approx(0.10)
    assert (row["settings"], row["runs"], row["forgotten"]) == (2, 3, 3)


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>\"'"
    add_run(tmp_path / "0", method=evil)
    results = json.loads((tmp_path / "0" / "results.json").read_text())
    data = results["data"] | {"name": evil}
    add_run(tmp_path / "1", seed=1, data=data)
    text = write_comparison(tmp_path)[1].read_text()
    assert "<script>alert" not in text
    assert text.count("<script>") == 1


def test_second_writing_gives_the_same_bytes(sweep: Path) -> None:
    first = [path.read_bytes() for path in write_comparison(sweep)]
    assert [path.read_bytes() for path in write_comparison(sweep)] == first


def test_callback_compares_only_several_methods(
    sweep: Path, tmp_path_factory: pytest.TempPathFactory, capsys: Any
) -> None:
    finish_sweep(sweep)
    assert f"comparison: {sweep / 'comparison.html'}" in capsys.readouterr().out
    single = tmp_path_factory.mktemp("single")
    add_run(single / "0")
    finish_sweep(single)
    assert "comparison" not in capsys.readouterr().out
    assert not (single / "comparison.html").exists()


def test_networks_of_other_layers_are_told_without_those_that_they_lack(
    tmp_path: Path,
) -> None:
    layers = {"cnn": ([16], []), "mlp": ([], [128]), "small": ([], [])}
    for name, (channels, hidden) in layers.items():
        model = {"name": name, "channels": channels, "hidden": hidden}
        add_run(tmp_path / name, config={"model": model})
    frame = collect_comparison(tmp_path)
    assert set(frame["other"]) == {
        "model.name=cnn, model.channels=[16]",
        "model.name=mlp, model.hidden=[128]",
        "model.name=small",
    }
