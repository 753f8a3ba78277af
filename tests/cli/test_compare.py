"""`fedneg compare`: which sweep it is, and one that is small from end to end."""

import re
from pathlib import Path

import pandas as pd
import pytest

from builders.checkout import REPOSITORY, TESTS
from builders.federations import SMALL
from builders.programs import command
from fedneg.cli.compare import compare_arguments, folder_in
from fedneg.config import check
from fedneg.core.errors import FedNegError
from fedneg.core.settings import methods
from fedneg.overrides import sweep_of

METHODS = ",".join(methods())


def test_the_default_is_what_the_yaml_says_with_the_methods_last():
    found = compare_arguments([])
    assert found[0] == "-m"
    assert found[-1] == f"strategy={METHODS}"
    assert found[1:-1] == [
        f"{key}={value}" for key, value in sweep_of("compare").items()
    ]
    # Every line of it is valid, without composing all 360 jobs.
    check(
        [
            f"{o.partition('=')[0]}={o.partition('=')[2].split(',')[0]}"
            for o in found[1:]
        ]
    )


def test_every_method_is_compared_by_default():
    folder = REPOSITORY / "strategies"
    found = {p.stem for p in folder.glob("*.py") if "(LedgerFedAvg):" in p.read_text()}
    assert found
    assert set(METHODS.split(",")) >= found
    for method in METHODS.split(","):
        check([f"strategy={method}"])


def test_words_replace_lines_one_by_one_and_the_methods_stay_last():
    found = compare_arguments(["strategy=retrain,fine_tune", "seed=7", "cache=false"])
    assert found[-1] == "strategy=retrain,fine_tune"
    assert "seed=7" in found
    assert "seed=0,1,2" not in found
    assert "cache=false" in found
    assert "clients=5,20" in found


@pytest.mark.parametrize("word", ["foo", "--multirun", "=3", "-x=1"])
def test_what_is_no_override_is_named(word: str):
    with pytest.raises(FedNegError, match=f"or one folder of runs, got '{word}'"):
        compare_arguments([word])


def test_a_folder_without_runs_is_named(tmp_path: Path):
    with pytest.raises(FedNegError, match=r"has no results\.json of any run below"):
        folder_in([str(tmp_path)])
    assert folder_in(["seed=0"]) is None
    assert folder_in([]) is None


@pytest.mark.parametrize(
    "what",
    [
        (),
        ("model=cnn_bn", "model.channels=[4]"),
        ("task=builders.own_tasks:regression",),
    ],
    ids=lambda words: " ".join(words) or "default",
)
def test_a_small_comparison_from_end_to_end(what: tuple[str, ...], tmp_path: Path):
    """Two methods on one training, judged; then its page again from the folder."""
    small = [o for o in SMALL if not o.startswith(("cache", "verdict", "rounds"))]
    words = (
        *("clients=3", "forget=1", "rounds=3", "seed=0", "attack=backdoor"),
        *("data.partition=writer", "strategy=do_nothing,retrain"),
        *("verdict.retrainings=1", "verdict.relearn_cap=0"),
        *what,
    )
    run = tmp_path / "runs"
    done = command(
        "compare", *small, *words, f"hydra.sweep.dir={run}",
        cwd=tmp_path, FEDNEG_CACHE=str(tmp_path / "cache"), PYTHONPATH=str(TESTS),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"comparison: {run / 'comparison.html'}" in done.stdout
    assert not list(run.rglob("report.html"))
    frame = pd.read_csv(run / "comparison.csv")
    assert set(frame["strategy"]) == {"do_nothing", "retrain", "original", "retrained"}
    judged = frame[frame["judged"]]
    assert judged["outcome"].notna().all()
    page = run / "comparison.html"
    before = page.read_bytes()
    shown = re.sub(b"<[^>]*>", b" ", before)
    assert (b"accuracy" in shown.lower()) is ("task" not in "".join(what))
    assert (b"R^2 gap" in shown) is ("task" in "".join(what))
    page.unlink()
    again = command("compare", str(run), cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert page.read_bytes() == before


def test_help_and_a_mistake_are_one_line(tmp_path: Path):
    told = command("compare", "--help", cwd=tmp_path)
    assert told.returncode == 0
    assert f"strategy={METHODS}" in told.stdout
    wrong = command("compare", "seed", cwd=tmp_path)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    unknown = command("compare", "strategy=nonsense", cwd=tmp_path)
    assert unknown.returncode == 2
    assert "nonsense" in unknown.stderr
    assert not (tmp_path / "outputs").exists()
