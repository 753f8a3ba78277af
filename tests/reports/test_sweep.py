"""The sweep's table and page, on made-up run folders."""

import json
from pathlib import Path

import pandas as pd
import pytest

from builders.run_results import NOTICE, make_run
from fedneg.reports.compare.sweep import collect_sweep, write_sweep
from fedneg.reports.compare.sweep_jobs import Jobs


def add_run(folder: Path, **changes: object) -> None:
    """Leave behind what a run leaves: results.json and a report."""
    folder.mkdir(parents=True)
    results = make_run()[0] | changes
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "report.html").write_text("<p>report</p>")


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Return a folder of three good runs, named so that text order is wrong."""
    for job, forget in ((10, [2]), (9, [1, 4]), (0, [])):
        add_run(tmp_path / str(job), forget=forget)
    return tmp_path


def test_runs_come_in_the_order_of_their_job_numbers(sweep: Path) -> None:
    frame = collect_sweep(sweep)
    assert frame["run"].tolist() == ["0", "9", "10"]
    assert frame["forget"].tolist() == ["", "1 4", "2"]


def test_columns_hold_settings_metrics_of_each_model_and_costs(sweep: Path) -> None:
    row = collect_sweep(sweep).iloc[0]
    assert row[["seed", "retrain", "strategy", "data", "attack"]].tolist() == [
        *(7, "remaining", "negative_gradient", "digits", "backdoor")
    ]
    assert row["original_test_accuracy"] == 0.9412
    assert row["unlearned_forget_accuracy"] == pytest.approx(0.8821)
    assert row["recovered_attack_success_rate"] == 0.0634
    assert row["retrained_test_loss"] == 0.31
    assert row["unlearn_seconds"] == 0.25
    assert row["ledger_bytes"] == 4096


def test_absent_model_and_null_metric_are_empty_cells(tmp_path: Path) -> None:
    models = make_run(models=("original",), attack="none")[0]["models"]
    add_run(tmp_path / "0", models=models)
    row = collect_sweep(tmp_path).iloc[0]
    assert pd.isna(row["recovered_test_accuracy"])
    assert pd.isna(row["original_attack_success_rate"])
    text = write_sweep(tmp_path)[1].read_text()
    assert "recovered test accuracy" not in text
    assert "original test accuracy" in text


def test_runs_are_found_at_any_depth(tmp_path: Path) -> None:
    add_run(tmp_path / "a" / "b" / "3")
    assert collect_sweep(tmp_path)["run"].tolist() == ["a/b/3"]


def test_hidden_folders_hold_no_runs(sweep: Path) -> None:
    add_run(sweep / ".cache" / "1")
    assert len(collect_sweep(sweep)) == 3


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "it has no results.json"),
        ("{", "JSONDecodeError"),
        ("[]", "TypeError"),
        ('{"models": {}}', "KeyError"),
        ('{"models": null, "cost": {}}', "KeyError"),
        (b"\xff\xfe\xfa", "UnicodeDecodeError"),
    ],
)
def test_run_without_usable_results_is_named_and_skipped(
    sweep: Path, content: str | bytes | None, reason: str
) -> None:
    (sweep / "11" / ".hydra").mkdir(parents=True)
    if content is not None:
        raw = content if isinstance(content, bytes) else content.encode()
        (sweep / "11" / "results.json").write_bytes(raw)
    table, page = write_sweep(sweep)
    text = page.read_text()
    assert "Run 11 is left out" in text
    assert reason in text
    written = pd.read_csv(table)
    assert len(collect_sweep(sweep)) == 3
    assert written["error"].isna().tolist() == [True, True, True, False]
    assert written["run"].tolist()[3] == 11
    assert reason in written["error"][3]


def test_run_that_left_nothing_at_all_is_named(sweep: Path) -> None:
    (sweep / "12").mkdir()
    assert "Run 12 is left out" in write_sweep(sweep)[1].read_text()


def test_folder_above_a_run_is_not_called_a_failed_run(tmp_path: Path) -> None:
    add_run(tmp_path / "group" / "0")
    assert "left out" not in write_sweep(tmp_path)[1].read_text()


def test_page_links_the_reports_that_exist(sweep: Path) -> None:
    (sweep / "9" / "report.html").unlink()
    text = write_sweep(sweep)[1].read_text()
    assert '<a href="0/report.html">0</a>' in text
    assert '<a href="10/report.html">10</a>' in text
    assert "9/report.html" not in text


def test_page_tells_constant_settings_from_those_swept(sweep: Path) -> None:
    text = write_sweep(sweep)[1].read_text()
    assert "3 runs, differing in forget." in text
    assert "<dt>seed</dt><dd>7</dd>" in text
    assert "<dt>forget</dt>" not in text


def test_page_shows_the_notices_of_its_runs(sweep: Path) -> None:
    assert f"{NOTICE} (In every run.)" in write_sweep(sweep)[1].read_text()
    add_run(sweep / "11", notices=[])
    assert f"{NOTICE} (In runs 0, 9, 10.)" in write_sweep(sweep)[1].read_text()


def test_figure_has_a_panel_for_each_metric_that_was_measured(sweep: Path) -> None:
    text = write_sweep(sweep)[1].read_text()
    assert "test accuracy, forget accuracy, attack success rate." in text
    assert ">attack success rate (fraction)<" in text


def test_hostile_folder_name_stays_text(tmp_path: Path) -> None:
    add_run(tmp_path / "$<script>$&amp;")
    add_run(tmp_path / "$x_1$")
    text = write_sweep(tmp_path)[1].read_text()
    assert text.count(">$x_1$<") >= 2, "once or more in the figure, once in the table"
    assert "<script" not in text
    assert 'href="%24%3Cscript%3E%24%26amp%3B/report.html"' in text


def test_empty_sweep_says_so(tmp_path: Path) -> None:
    table, page = write_sweep(tmp_path)
    assert "No run left results that can be read." in page.read_text()
    assert table.read_text().startswith("run,seed,forget,")


def test_second_writing_gives_the_same_bytes(sweep: Path) -> None:
    first = [path.read_bytes() for path in write_sweep(sweep)]
    assert [path.read_bytes() for path in write_sweep(sweep)] == first


def test_figure_fits_when_a_model_lacks_one_metric(tmp_path: Path) -> None:
    """An empty line would squeeze the axes away: a warning, hence an error here."""
    models = make_run(attack="none")[0]["models"]
    for name in ("unlearned", "recovered"):
        models[name]["test_accuracy"] = None
    add_run(tmp_path / "0", models=models)
    text = write_sweep(tmp_path)[1].read_text()
    assert "Dot plot by run: test accuracy, forget accuracy." in text


# -- which jobs are a sweep's ----------------------------------------------------------


def test_only_the_jobs_of_this_sweep_are_in_its_table(sweep: Path) -> None:
    """Of an earlier one 10 is left over; 9 failed this time, beside what it had."""
    jobs = Jobs(4, [])
    for job, reason in ((0, None), (9, "it failed: no data"), (12, "it failed: late")):
        jobs.begin(sweep, sweep / str(job), ["seed=1"])
        jobs.end(sweep, reason)
    assert collect_sweep(sweep)["run"].tolist() == ["0"]
    table, page = write_sweep(sweep)
    written = pd.read_csv(table)
    assert written["run"].tolist() == [0, 9, 12]
    assert written["error"].tolist()[1:] == ["it failed: no data", "it failed: late"]
    text = page.read_text()
    assert "Run 9 is left out: it failed: no data." in text
    assert "Run 12 is left out: it failed: late." in text
    assert "The sweep ended before 1 of its 4 jobs had begun." in text
    assert "10/report.html" not in text


def test_a_job_that_was_killed_is_named(sweep: Path) -> None:
    Jobs(2, []).begin(sweep, sweep / "0", [])
    assert "Run 0 is left out: it was interrupted." in write_sweep(sweep)[1].read_text()


def test_sweeps_below_a_folder_tell_their_own_jobs(tmp_path: Path) -> None:
    """A folder of sweeps, one of which has the run of an earlier one in it."""
    for name in ("a/0", "a/1", "b/0"):
        add_run(tmp_path / name)
    jobs = Jobs(1, [])
    jobs.begin(tmp_path / "a", tmp_path / "a" / "0", [])
    jobs.end(tmp_path / "a", None)
    assert collect_sweep(tmp_path)["run"].tolist() == ["a/0", "b/0"]


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": 2}', '{"schema": 1}'])
def test_a_damaged_list_of_jobs_leaves_out_nobody(sweep: Path, content: str) -> None:
    (sweep / "sweep.json").write_text(content)
    assert len(collect_sweep(sweep)) == 3
