"""References of a verdict: which are trained, how often, and who shares them."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from flwr.app import Context
from flwr.serverapp import Grid
from rich.console import Console

from builders.federations import small_config
from fedneg.core.parameters import Vector, flatten
from fedneg.core.progress import Progress
from fedneg.core.settings import Config
from fedneg.engines.simulate import simulate
from fedneg.federation import Federation
from fedneg.federation.looking import halves
from fedneg.federation.references import rounds_beyond
from fedneg.ledger.training_cache import Store
from fedneg.server_app import run
from fedneg.strategies.base import LedgerFedAvg
from fedneg.strategies.phases import Phase

REPAIRED = ("retrain=remaining", "retrain_rounds=1")
FEDERASER = ("strategy=federaser", "strategy.interval=1")
WORDS = ("clients=3", "forget=1", "rounds=2", "cache=true")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep trainings of each test by themselves."""
    monkeypatch.setenv("FEDNEG_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Phase]]:
    """Return the phases that were trained, not taken from what is kept."""
    found: list[Phase] = []
    real = LedgerFedAvg.run_phase

    def run_phase(self: Any, grid: Any, phase: Phase, *rest: Any, **more: Any) -> Any:
        found.append(phase)
        return real(self, grid, phase, *rest, **more)

    monkeypatch.setattr(LedgerFedAvg, "run_phase", run_phase)
    return iter([found])


def trained(begun: list[Phase], name: str = "reference") -> list[tuple[int, int]]:
    """Return the draw and the number of rounds of every phase of a name."""
    return [(p.first_stream // 10**6, p.rounds) for p in begun if p.name == name]


def in_federation(config: Config, work: Callable[[Federation], Any]) -> Any:
    """Return what `work` returns of a federation in this process."""
    found: list[Any] = []

    def main(grid: Grid, _: Context) -> None:
        progress = Progress("", 0, Console(file=io.StringIO()))
        found.append(work(Federation(grid, config, progress)))

    simulate(main, clients=config.clients, engine=config.engine)
    return found[0]


def results_of(out: Path, *overrides: str) -> dict[str, Any]:
    """Return results.json of a small run with references."""
    config = small_config(
        *WORDS,
        *("verdict.retrainings=null", "verdict.relearn_cap=0", "report=false"),
        *overrides,
    )
    simulate(
        lambda grid, context: run(grid, config, out),
        clients=config.clients,
        engine=config.engine,
    )
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


# -- one reference ---------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0, 0.5])
def test_what_goes_on_is_one_training_with_more_rounds(momentum: float):
    """Bit for bit: the server's momentum, and the clients' streams, go on too."""
    words = (*WORDS, f"strategy.server_momentum={momentum}")

    def after(*more: int) -> Callable[[Federation], dict[int, Vector]]:
        return lambda f: f.reference((0, 2), 1, after=more)

    pieces = in_federation(small_config(*words), after(0, 2, 3))
    assert list(pieces) == [0, 2, 3]
    whole = in_federation(
        small_config(*words, "rounds=5", "cache=false"), after(0, -3, -5)
    )
    assert pieces[3].tobytes() == whole[0].tobytes()
    assert pieces[0].tobytes() == whole[-3].tobytes()
    assert len({model.tobytes() for model in pieces.values()}) == 3
    # Minus as many rounds as the training has: what it begins with.
    first = in_federation(
        small_config(*words), lambda f: flatten(f.prototype.initial(seed=0, draw=1001))
    )
    assert whole[-5].tobytes() == first.tobytes()


def test_a_reference_leaves_the_run_as_it_was():
    def work(federation: Federation) -> None:
        original = federation.train()
        rows, ledger = len(federation.history), federation.strategy.ledger
        reports, seconds = len(federation.strategy.reports), dict(federation.seconds)
        federation.reference((0, 2), 1, after=(0, 1))
        assert federation.strategy.ledger is ledger
        assert len(federation.history) == rows
        assert len(federation.strategy.reports) == reports
        assert federation.seconds == seconds
        assert len(federation.reference_reports) == 3
        # The identity of the ledger still stands for the model.
        assert ledger.deviation(original) < 1e-5

    in_federation(small_config(*WORDS), work)


def test_every_draw_begins_and_goes_on_otherwise():
    def work(federation: Federation) -> list[Vector]:
        starts = [federation.reference((0, 2), k, after=(-2, 0)) for k in (1, 2)]
        again = federation.reference((0, 2), 1)
        assert again[0].tobytes() == starts[0][0].tobytes()
        return [model for one in starts for model in one.values()]

    found = in_federation(small_config(*WORDS), work)
    found.append(in_federation(small_config(*WORDS), lambda f: f.train()))
    assert len({model.tobytes() for model in found}) == 5


@pytest.mark.parametrize(
    ("after", "expected"), [((0,), 0), ((0, 2), 2), ((0, 2, 4), 4), ((0, -8), 2)]
)
def test_rounds_beside_the_training_are_counted(after: tuple[int, ...], expected: int):
    assert rounds_beyond(after, 10) == expected


# -- who shares them -------------------------------------------------------------------


def test_methods_share_references_whatever_they_keep(
    tmp_path: Path, begun: Iterator[list[Phase]]
):
    """Also with repair, which goes on from what is there; measured once each."""
    (phases,) = begun
    results_of(tmp_path / "a", "strategy=negative_gradient", *REPAIRED)
    assert trained(phases) == [
        *((draw, rounds) for draw in (1, 2, 3, 501) for rounds in (2, 1)),
    ]
    entries = len(Store().entries())
    phases.clear()
    for folder, words in (
        ("b", ("strategy=gradient_ascent",)),
        (
            "c",
            ("strategy=federaser", "strategy.interval=1", "strategy.storage=updates"),
        ),
        ("d", ("strategy=do_nothing", "strategy.keep_local_models=true")),
    ):
        results_of(tmp_path / folder, *words, *REPAIRED)
    assert trained(phases) == []
    # Their own trainings, where they keep more of one.
    assert len(Store().entries()) > entries


def test_a_method_that_trains_otherwise_has_its_own(tmp_path: Path):
    """See `LedgerFedAvg.training_identity`."""
    config = small_config(*WORDS, "strategy=builders.halved:Halved")
    plain = in_federation(small_config(*WORDS), lambda f: f.reference((0, 2), 1)[0])
    other = in_federation(config, lambda f: f.reference((0, 2), 1)[0])
    assert plain.tobytes() != other.tobytes()


# -- how many --------------------------------------------------------------------------


def test_a_run_trains_five_references_and_the_retrained_one_at_most(
    tmp_path: Path, begun: Iterator[list[Phase]]
):
    (phases,) = begun
    found = results_of(tmp_path)
    assert [draw for draw, _ in trained(phases)] == [1, 2, 3, 501]
    assert len(trained(phases, "retrain")) == 1
    verdict = found["verdict"]
    assert (verdict["retrainings"], verdict["looks"]) == (4, 1)
    assert verdict["spent"] == [verdict["alpha"]] == [pytest.approx(0.01)]
    (one,) = verdict["influence"].values()
    if one is not None:
        assert (one["n_in"], one["n_out"]) == (1, 3)


def test_the_second_look_is_trained_only_where_the_first_cannot_tell(
    tmp_path: Path, begun: Iterator[list[Phase]]
):
    (phases,) = begun
    # Two rounds with an honest client tell nothing.
    found = results_of(tmp_path / "a", "verdict.looks=2")["verdict"]
    assert [draw for draw, _ in trained(phases)] == [*(1, 2, 3, 501), *range(4, 8), 502]
    assert (found["looks"], found["retrainings"]) == (2, 9)
    assert found["spent"] == pytest.approx([0.01, 0.04])
    phases.clear()
    # A trick that is left in whole is found at once.
    clear = ("attack=backdoor", "client.local_epochs=5", "strategy=do_nothing")
    clear = (*clear, "attack.fraction=0.5", "rounds=6")
    found = results_of(tmp_path / "b", "verdict.looks=2", *clear)["verdict"]
    assert (found["looks"], found["retrainings"]) == (1, 4)
    assert (found["finding"], found["marker"]["references"]["count"]) == (
        "traces left",
        3 * found["marker"]["judged"]["count"],
    )
    assert len(trained(phases)) == 4


@pytest.mark.parametrize(("count", "with_it"), [(0, 0), (2, 0), (5, 1)])
def test_as_many_are_trained_as_are_asked_for(
    tmp_path: Path, begun: Iterator[list[Phase]], count: int, with_it: int
):
    (phases,) = begun
    found = results_of(tmp_path, f"verdict.retrainings={count}")["verdict"]
    draws = [draw for draw, _ in trained(phases)]
    assert (len(draws), sum(draw > 500 for draw in draws)) == (count, with_it)
    assert found["retrainings"] == count
    if count < 4:
        assert found["finding"] == "cannot tell"
        assert found["influence"] == {"1": None}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("strategy=do_nothing",), {0}),
        (("strategy=fine_tune", "strategy.rounds=3"), {0, 3}),
        (("strategy=fine_tune", "strategy.rounds=3", "retrain=remaining"), {0, 3, 5}),
        (("strategy=negative_gradient", "retrain=forgotten"), {0}),
        (("strategy=negative_gradient", "retrain=scratch"), {0}),
        (("strategy=retrain",), {0}),
        (
            ("strategy=random_init", "retrain=remaining", "retrain_rounds=1"),
            {0, -2, -1},
        ),
        # Two rounds kept, and rebuilt: as the training had.
        (FEDERASER, {0}),
        (("strategy=gradient_ascent",), {0}),
    ],
)
def test_references_have_as_many_rounds_as_each_model_had(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    expected: set[int],
):
    asked: list[set[int]] = []
    real = Federation.reference

    def reference(self: Any, *rest: Any, after: Any = (0,), **more: Any) -> Any:
        asked.append(set(after))
        return real(self, *rest, after=after, **more)

    monkeypatch.setattr(Federation, "reference", reference)
    results_of(tmp_path, *words)
    *without, with_them = asked
    assert without == [expected] * 3
    # Also the one with the client: else it would show who trained for longer.
    assert with_them == expected | {0}


def test_a_bank_serves_every_request(tmp_path: Path, begun: Iterator[list[Phase]]):
    """Four trainings with half of the clients each, two of them with each client."""
    (phases,) = begun
    words = ("clients=4", "verdict.bank=4", "client.local_epochs=5", "rounds=4")
    found = results_of(tmp_path / "a", *words)["verdict"]
    assert [draw for draw, _ in trained(phases)] == [1, 2, 3, 601, 602, 603, 604]
    have = [p.clients for p in phases if p.first_stream > 6 * 10**8]
    assert have == halves(4, 4, seed=0)
    assert [sum(k in some for some in have) for k in range(4)] == [2] * 4
    assert found["retrainings"] == 7
    (one,) = found["influence"].values()
    assert one is None or (one["n_in"], one["n_out"]) == (2, 3)
    phases.clear()
    results_of(tmp_path / "b", *words, "forget=2")
    assert [draw for draw, _ in trained(phases)] == [1, 2, 3]


# -- results.json ----------------------------------------------------------------------


def test_results_hold_the_whole_finding_of_every_model(tmp_path: Path):
    found = results_of(
        tmp_path,
        *("retrain=remaining", "attack=canaries", "attack.canaries=12", "forget=[0,1]"),
        *("client.local_epochs=5", "rounds=4", "verdict.looks=2"),
    )
    verdict = found["verdict"]
    every = {
        *("outcome", "finding", "said", "influence", "marker", "canaries", "epsilon"),
        *("p_values", "alpha", "next_alpha", "margins", "models_needed"),
        *("quality_lost", "objections"),
    }
    own = {"model", "looks", "spent", "retrainings", "absent", "controls", "outcomes"}
    assert set(verdict) == every | own | {"models", "later"}
    assert verdict["model"] == "recovered"
    assert verdict["margins"] == [-1, 0.5]
    assert set(verdict["models"]) == {"original", "unlearned", "recovered", "retrained"}
    for name, one in verdict["models"].items():
        assert set(one) == every
        assert one["outcome"] == verdict["outcomes"][name]
        assert set(one["influence"]) == {"0", "1"}
        for influence in filter(None, one["influence"].values()):
            assert "out" not in influence
    original = verdict["models"]["original"]
    assert set(original["canaries"]) == {"0", "1"}
    assert original["epsilon"] == max(
        o["epsilon"] for o in original["canaries"].values()
    )
    assert set(verdict["controls"]) == {"original", "retrained"}
    places = [one for one in verdict["influence"].values() if one]
    assert places
    for one in places:
        assert (len(one["out"]), len(one["in"])) == (one["n_out"], one["n_in"])
        assert np.mean(one["out"]) == pytest.approx(0, abs=1e-9)
        assert one["low"] <= one["rho"] <= one["high"]


# -- later -----------------------------------------------------------------------------


def test_the_model_is_judged_again_after_further_rounds(
    tmp_path: Path, begun: Iterator[list[Phase]]
):
    """One continued training, references continued alike; no part of the history."""
    (phases,) = begun
    plain = results_of(tmp_path / "plain", *REPAIRED, "verdict.retrainings=4")
    phases.clear()
    found = results_of(
        tmp_path / "later",
        *(*REPAIRED, "verdict.later=[0,3,1]", "verdict.retrainings=4"),
    )
    later = found["verdict"]["later"]
    assert [entry["rounds_after"] for entry in later] == [0, 1, 3]
    recovered = found["verdict"]["models"]["recovered"]
    assert later[0] == {"rounds_after": 0} | recovered
    assert recovered == plain["verdict"]["models"]["recovered"]
    assert later[0]["influence"] != later[2]["influence"]
    assert [p.rounds for p in phases if p.name == "later"] == [1, 2]
    assert len({p.clients for p in phases if p.name == "later"}) == 1
    # All four went on after the repair's round for 1, and for 2 more.
    assert trained(phases) == [(k, n) for k in (1, 2, 3, 501) for n in (1, 2)]
    history = (tmp_path / "later" / "history.csv").read_text()
    assert "later" not in history
    assert len(history.splitlines()) == len(
        (tmp_path / "plain" / "history.csv").read_text().splitlines()
    )
    assert found["cost"]["bytes_up"] == plain["cost"]["bytes_up"]
    table = pd.read_csv(tmp_path / "later" / "later.csv")
    assert sorted(set(table["rounds_after"])) == [0, 1, 3]
    whole = table[table["examples"] == "all"]
    assert whole["client_id"].tolist() == [1, 1, 1]
    # Where the ordinary examples are measured by themselves they have a row of theirs.
    rest = [one["rounds_after"] for one in later if one["influence"]["1"]["rest"]]
    ordinary = table[table["examples"] == "ordinary"]
    assert ordinary["rounds_after"].tolist() == rest
    for row, entry in zip(whole.to_dict("records"), later, strict=True):
        assert row["rho"] == pytest.approx(entry["influence"]["1"]["rho"])
        assert row["finding"] == entry["finding"]
    assert not (tmp_path / "plain" / "later.csv").exists()


def test_what_goes_on_draws_as_no_round_before_and_has_a_state(
    begun: Iterator[list[Phase]],
):
    """With server momentum one round and then two are not three anew."""
    (phases,) = begun
    config = small_config(*WORDS, "strategy.server_momentum=0.5")

    def work(federation: Federation) -> dict[int, Vector]:
        model = federation.unlearn(federation.train(), (1,))
        model = federation.recover(model, (0, 2), 1)
        return federation.go_on(model, (0, 2), ends)

    ends: tuple[int, ...] = (0, 1, 3)
    pieces = in_federation(config, work)
    ends = (3,)
    whole = in_federation(config, work)
    assert pieces[3].tobytes() == whole[3].tobytes()
    streams = [p.first_stream + k for p in phases[:5] for k in range(p.rounds)]
    assert [p.name for p in phases[:5]] == [
        *("train", "unlearn", "recover"),
        *("later", "later"),
    ]
    assert len(set(streams)) == len(streams)
