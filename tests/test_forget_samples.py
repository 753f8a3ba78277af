"""Runs that forget some of a client's examples: what they write, say and judge."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from flwr.serverapp import Grid
from rich.console import Console

from builders.federations import data_of, small_config
from fedneg.cli.compare import compare_arguments
from fedneg.core.errors import FedNegError
from fedneg.core.parameters import Vector
from fedneg.core.progress import Progress
from fedneg.core.settings import Config
from fedneg.engines.simulate import simulate
from fedneg.federation import Federation
from fedneg.federation.references import References
from fedneg.reports.conclusions import describe_request
from fedneg.reports.console import _asked
from fedneg.reports.verdict_text import describe_finding
from fedneg.reports.whom import name_forgotten
from fedneg.server_app import run
from fedneg.strategies.sampling import sample

POISON = (
    *("clients=4", "rounds=3", "client.local_epochs=4"),
    *("attack=backdoor", "forget_samples={1:poisoned}"),
)
JUDGED = (
    *("verdict.retrainings=null", "verdict.relearn_cap=0"),
    *("cache=true", "report=false"),
)
Made = Callable[..., tuple[dict[str, Any], Path]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Return a function that runs, with a cache that all runs here share."""
    root = tmp_path_factory.mktemp("samples")

    def make(*overrides: str) -> tuple[dict[str, Any], Path]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FEDNEG_CACHE", str(root / "cache"))
            return results_of(small_config(*JUDGED, *overrides), root / "run")

    return make


def results_of(config: Config, out: Path) -> tuple[dict[str, Any], Path]:
    """Run and return results.json."""
    simulate(
        lambda grid, _: run(grid, config, out),
        clients=config.clients,
        engine=config.engine,
    )
    return json.loads((out / "results.json").read_text()), out


def poisoned_of(config: Config) -> int:
    """Return how many examples the attack of client 1 poisons."""
    return round(0.5 * len(data_of(1, config).train))


def test_doing_nothing_is_not_forgetting(made: Made):
    results, _ = made(*POISON, "strategy=do_nothing")
    verdict = results["verdict"]
    assert verdict["outcome"] == "not forgotten"
    assert verdict["influence"]["1"]["low"] > 0
    assert verdict["controls"]["original"] == "not forgotten"


def test_what_an_attacker_has_poisoned_goes_and_with_it_its_trick(made: Made):
    results, out = made(*POISON, "strategy=retrain", "report=true")
    models, verdict = results["models"], results["verdict"]
    assert models["original"]["attack_success_rate"] > 0.5
    assert models["unlearned"]["attack_success_rate"] < 0.05
    # One in ten that never saw them is not acquitted; none of twenty is accused.
    assert verdict["outcome"] in ("forgotten", "inconclusive")
    assert verdict["outcomes"]["original"] == "not forgotten"
    # All of the poisoned ones were to go: none of them is an ordinary example.
    assert verdict["influence"]["1"]["rest"] is None
    config = small_config(*POISON, "strategy=retrain")
    count = poisoned_of(config)
    assert results["forget"] == [1]
    assert results["forget_samples"] == {"1": {"chosen": "poisoned", "examples": count}}
    assert results["config"]["forget_samples"] == {"1": "poisoned"}
    assert (out / "model_unlearned.safetensors").read_bytes() == (
        out / "model_retrained.safetensors"
    ).read_bytes()
    table = pd.read_csv(out / "clients.csv")
    original = table[table["model"] == "original"]
    assert original["role"].tolist() == ["retain"] * 4 + ["forget"]
    mine = original[original["client_id"] == 1]
    whole = len(data_of(1, config).train)
    assert mine["num_train"].tolist() == [whole - count, count]
    # Accuracies of what goes, and of all that stays, the client's rest included.
    goes = models["original"]["forget_accuracy_as_trained"]
    assert goes == pytest.approx(mine["trained_accuracy"].tolist()[1])
    stays = original[original["role"] == "retain"]
    mean = (stays["train_accuracy"] * stays["num_train"]).sum()
    mean /= stays["num_train"].sum()
    assert models["original"]["retain_accuracy"] == pytest.approx(mean)
    page = (out / "report.html").read_text()
    assert f"Forget {count} poisoned examples of client 1 of 4" in page
    assert "models that never saw the chosen examples" in page
    assert "this client" not in page


def test_some_are_judged_by_models_without_them_in_as_many_rounds(
    made: Made, monkeypatch: pytest.MonkeyPatch
):
    asked_for: list[tuple[str, set[int]]] = []
    real = References.train

    def train(
        self: References, *given: Any, after: Any, part: str = "all"
    ) -> dict[int, Vector]:
        asked_for.append((part, set(after)))
        return real(self, *given, after=after, part=part)

    monkeypatch.setattr(References, "train", train)
    results, out = made(
        *("clients=3", "rounds=2", "forget_samples={0:[0,4,9],2:.5}"),
        *("strategy=puf", "strategy.learning_rate=1", "retrain=remaining"),
        "retrain_rounds=1",
    )
    influence = results["verdict"]["influence"]
    assert set(influence) == {"0", "2"}
    assert len(influence["2"]["out"]) == 3
    assert "the chosen examples of client" in results["verdict"]["said"]
    assert "is of all examples" in results["method"]["ledger"]
    # PUF's first round, on what goes alone, is no further round of the model: the
    # references have its second one, and that of repair.
    assert asked_for == [("rest", {0, 1, 2})] * 3 + [("all", {0, 1, 2})]
    phases = [
        (row["server_round"], row["phase"], row["clients"])
        for row in pd.read_csv(out / "history.csv").to_dict("records")
        if row["phase"] in ("unlearn", "recover")
    ]
    assert phases == [(3, "unlearn", 2), (4, "unlearn", 3), (5, "recover", 3)]


def test_canaries_that_are_to_go_are_tested_and_others_may_be_known(made: Made):
    words = (
        *("clients=3", "rounds=2", "client.local_epochs=8", "attack=canaries"),
        *("strategy=do_nothing", "verdict.retrainings=0"),
    )
    goes, _ = made(*words, "forget_samples={1:poisoned}")
    assert set(goes["verdict"]["canaries"]) == {"1"}
    assert goes["verdict"]["outcome"] == "not forgotten"
    assert goes["models"]["original"]["forget_accuracy"] is None  # none of its own
    other, _ = made(*words, "forget_samples={1:[0,1,2]}")
    assert other["models"]["original"]["forget_accuracy"] is not None
    assert other["verdict"]["canaries"] == {}


def test_clients_answer_of_what_goes_whatever_was_asked_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The trained model is the same, and what is kept of it must not be."""
    monkeypatch.setenv("FEDNEG_CACHE", str(tmp_path))
    counts = []

    def work(grid: Grid, config: Config) -> None:
        progress = Progress("", 0, Console(file=io.StringIO()))
        federation = Federation(grid, config, progress)
        answers = federation.question(federation.train(), None)
        counts.append({k: len(found.members) for k, found in answers.items()})
        assert federation.num_forgotten == counts[-1]

    for chosen in ("{1:[0,4,5]}", "{1:[3,7]}"):
        config = small_config(
            *("clients=3", "rounds=1", "strategy=retrain", "cache=true"),
            f"forget_samples={chosen}",
        )
        simulate(
            lambda grid, _, c=config: work(grid, c), clients=3, engine=config.engine
        )
    assert counts == [{1: 3}, {1: 2}]


def test_who_took_no_part_before_taught_nothing_with_them(made: Made):
    """Client 1 is not drawn for the one round of training, but for later ones."""
    words = ("clients=3", "rounds=1", "strategy.client_fraction=0.34")
    seed = next(
        seed
        for seed in range(100)
        if 1 not in drawn(seed, 1) and {1} == drawn(seed, 2) == drawn(seed, 3)
    )
    results, _ = made(
        *words, f"seed={seed}", "strategy=fine_tune", "forget_samples={1:[0]}"
    )
    assert results["verdict"]["finding"] == "took part in no round"


def drawn(seed: int, stream: int) -> set[int]:
    """Return who of three trains in a round, if one does."""
    config = small_config("clients=3", "forget=1", "strategy.client_fraction=0.34")
    return set(sample(replace(config, seed=seed), range(3), stream))


@pytest.mark.parametrize("index", [9999, 10**20])
def test_an_example_that_is_not_there_is_told_before_anything_is_trained(
    tmp_path: Path, index: int
):
    words = ("clients=3", "strategy=retrain", f"forget_samples={{1:[{index}]}}")
    config = small_config(*words)
    with pytest.raises(FedNegError, match=rf"indices from 0 to .*, got {index}"):
        results_of(config, tmp_path / "run")
    assert not (tmp_path / "run" / "results.json").exists()


# -- words ----------------------------------------------------------------------------


def asked(samples: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return results that say what was to go."""
    return {
        "forget": sorted(map(int, samples)),
        "forget_samples": samples,
        "clients": 5,
        "rounds": 10,
        "retrain": "remaining",
        "retrain_rounds": 2,
        "strategy": "fine_tune",
        "data": {"name": "digits"},
        **more,
    }


def test_people_are_told_how_many_examples_of_whom():
    two = {
        "1": {"chosen": 0.25, "examples": 36},
        "4": {"chosen": [7], "examples": 1},
    }
    told = "36 examples of client 1 and 1 example of client 4"
    assert name_forgotten(asked(two)) == told
    assert describe_request(asked(two)) == (
        f"Forget {told} of 5 after 10 rounds of training with 5 clients, by training "
        "on without them; then 2 rounds with the other examples."
    )
    assert "forget 36 examples of 1, 1 example of 4 (fine_tune)" in _asked(asked(two))
    unknown = {"4": {"chosen": "poisoned", "examples": None}}
    told = name_forgotten(asked(unknown))
    assert told == "some poisoned examples of client 4"
    assert name_forgotten({"forget": [1, 4]}) == "clients 1 and 4"


def test_a_verdict_speaks_of_examples():
    results = asked({"1": {"chosen": 0.5, "examples": 9}})
    results["verdict"] = {"outcome": "inconclusive", "finding": "is a retrained model"}
    assert describe_finding(results)[0].endswith("to these examples is chance.")


# -- a comparison ---------------------------------------------------------------------


def test_a_comparison_has_the_methods_that_can():
    words = compare_arguments(["forget_samples={1:.5}", "seed=0"])
    assert "forget_samples={1:.5}" in words
    assert not [word for word in words if word.startswith("forget=")]
    able = words[-1].removeprefix("strategy=").split(",")
    assert able == [
        *("do_nothing", "fine_tune", "gradient_ascent", "puf", "random_init"),
        *("retrain", "weight_negation"),
    ]
    said = compare_arguments(["forget_samples={1:.5}", "forget=1", "strategy=puf"])
    assert "forget=1" in said
    assert said[-1] == "strategy=puf"
