"""The verdict on models of a stranger's app: it tells what remembers from what not."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pytest
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import FedAvg

from builders.federations import FIRST_NODE_ID, RecordingGrid
from builders.own_tasks import ODD
from builders.served import TASK, app_of, federation, first
from builders.waiting import PATIENCE_S
from fedneg import ClientRef, Forgettable, judge, serve
from fedneg.core.errors import FedNegError
from fedneg.evaluation.judge import Finding
from fedneg.ledger.ledger import Ledger
from fedneg.serving.asking import Asking
from fedneg.serving.references import References, references
from fedneg.serving.verdict import verdicts
from fedneg.tasks import calls

ROUNDS, REPAIR = 6, 1


@dataclass(frozen=True)
class Forgot:
    """A federation that forgot, and what it takes to judge it."""

    strategy: Forgettable
    grid: RecordingGrid
    original: ArrayRecord
    models: Mapping[str, ArrayRecord]
    compared: References


def initial(seed: int) -> ArrayRecord:
    return first(TASK, seed)


@pytest.fixture(scope="module")
def forgot() -> Forgot:
    """Return one whose odd client taught all others a wrong thing."""
    held, grid = federation(TASK, ROUNDS)
    original = held.arrays
    models = {"unlearned": held.forget([ODD])}
    models["repaired"] = held.start(
        grid, models["unlearned"], REPAIR, timeout=PATIENCE_S
    ).arrays
    before = held.ledger
    compared = references(
        held, grid, initial, ROUNDS + REPAIR, n_out=5, timeout=PATIENCE_S
    )
    # The lineage goes on where it was.
    assert held.ledger is before
    assert held.forgotten == (ODD,)
    held.start(grid, models["repaired"], 0, timeout=PATIENCE_S)
    return Forgot(held, grid, original, models, compared)


def judged(forgot: Forgot, **more: object) -> dict[str, Finding]:
    options: dict[str, object] = {
        "original": forgot.original,
        "models": forgot.models,
        "retrained": forgot.compared.retrained,
        "trained_with": forgot.compared.trained_with,
        **more,
    }
    task = options.pop("task", TASK)
    return verdicts(forgot.strategy, forgot.grid, task, **options)  # type: ignore[arg-type]


@contextmanager
def offline(forgot: Forgot, client_id: int) -> Iterator[None]:
    """Have a client's node away for a while."""
    contexts = dict(forgot.grid.contexts)
    del forgot.grid.contexts[FIRST_NODE_ID + client_id]
    try:
        yield
    finally:
        forgot.grid.contexts.update(contexts)


# -- verdicts --------------------------------------------------------------------------


def test_it_tells_the_original_from_retrained_models(forgot: Forgot):
    found = judged(forgot)
    assert list(found) == ["original", "unlearned", "repaired", "retrained"]
    assert found["original"].finding == "traces left"
    assert found["repaired"].outcome == "forgotten"
    assert found["retrained"].outcome != "not forgotten"
    influence = found["original"].influence[ODD]
    assert influence is not None
    assert influence.rho == pytest.approx(1, abs=0.4)
    assert (influence.n_in, influence.n_out) == (1, 5)
    retrained = found["retrained"].influence[ODD]
    assert retrained is not None
    assert retrained.n_out == 4
    assert found["original"].quality_lost == pytest.approx(0.2, abs=0.2)


def test_the_judge_is_shown_the_losses_that_the_task_says(forgot: Forgot):
    asking, net = Asking(forgot.strategy, forgot.grid), TASK.model()
    net.load_state_dict(forgot.original.to_torch_state_dict())
    seen = asking.seen([ODD], forgot.original, quality=0.7)
    split = TASK.data(ClientRef(ODD, 4))
    by_hand = calls.losses(TASK, net, split.train)
    np.testing.assert_allclose(seen.losses[ODD], by_hand, rtol=1e-4, atol=1e-6)
    assert seen.quality == 0.7
    ins, outs = (
        [asking.seen([ODD], arrays) for arrays in models]
        for models in (forgot.compared.trained_with, forgot.compared.retrained)
    )
    by_itself = judge(seen, trained_with=ins, trained_without=outs)
    assert by_itself.influence == judged(forgot)["original"].influence


def test_a_server_without_data_measures_by_the_clients_that_stay(forgot: Forgot):
    forgot.grid.sent.clear()
    found = judged(forgot, task=replace(TASK, test=None))
    assert found["original"].outcome == "not forgotten"
    assert found["original"].quality_lost is not None
    assert found["original"].quality_lost > 0.05
    assert found["repaired"].quality_lost == pytest.approx(0, abs=0.1)
    asked = [k for kind, k in forgot.grid.sent if kind == "evaluate.fedneg"]
    models = 3 + 5 + 1
    assert {k: asked.count(k) for k in range(4)} == dict.fromkeys(range(4), models)


def test_a_model_that_diverged_has_no_quality_and_nothing_is_said_of_it(forgot: Forgot):
    arrays = {k: one.numpy() * np.nan for k, one in forgot.original.items()}
    lost = ArrayRecord({k: forgot.original[k].__class__(a) for k, a in arrays.items()})
    found = judged(forgot, models={"lost": lost})["lost"]
    assert found.outcome == "inconclusive"
    assert found.quality_lost is not None
    assert found.quality_lost > 0.5


def test_with_as_few_as_the_judge_takes_no_retrained_one_is_judged(forgot: Forgot):
    found = judged(forgot, retrained=forgot.compared.retrained[:3])
    assert list(found) == ["original", "unlearned", "repaired"]


@pytest.mark.parametrize(
    "few", [{"trained_with": ()}, {"retrained": ()}], ids=["with", "without"]
)
def test_with_too_few_models_it_says_how_many_are_wanted(
    forgot: Forgot, few: dict[str, object]
):
    with pytest.raises(FedNegError, match="at least 3 retrained models and 1 that was"):
        judged(forgot, **few)


def test_in_the_name_of_who_does_not_answer_nothing_is_said(forgot: Forgot):
    with (
        offline(forgot, ODD),
        pytest.raises(FedNegError, match=rf"client {ODD} answered .* \(not online\)"),
    ):
        judged(forgot)


def test_of_some_of_the_forgotten_it_can_be_asked_alone(forgot: Forgot):
    assert list(judged(forgot, clients=[ODD])["repaired"].influence) == [ODD]
    for wrong in ([], [ODD + 1]):
        with pytest.raises(FedNegError, match="clients must be some of those that"):
            judged(forgot, clients=wrong)


def test_alpha_and_margins_are_the_judge_s(forgot: Forgot):
    found = judged(forgot, alpha=0.5, margins=(-9.0, 0.9))["repaired"]
    assert (found.alpha, found.margins) == (0.5, (-9.0, 0.9))
    with pytest.raises(FedNegError, match="alpha must be in"):
        judged(forgot, alpha=1.5)
    for wrong in ((0.5, 0.9), (-1.0, 1.0)):
        with pytest.raises(FedNegError, match="below 0, and above 0 but below 1"):
            judged(forgot, margins=wrong)


def test_what_cannot_be_judged_is_one_line(forgot: Forgot):
    with pytest.raises(FedNegError, match="may not be called original"):
        judged(forgot, models={"original": forgot.original})
    with pytest.raises(FedNegError, match="task marked, model: has no w"):
        judged(forgot, models={"other": ArrayRecord({"w": forgot.original["0.bias"]})})
    with pytest.raises(FedNegError, match="nobody was forgotten"):
        verdicts(
            Forgettable(forgot.strategy.strategy),
            forgot.grid,
            TASK,
            original=forgot.original,
            models={},
            retrained=[],
        )


# -- models to compare with ------------------------------------------------------------


def test_models_to_compare_with_are_trained_without_and_with_the_forgotten():
    """By hand: those without are of the three others alone, from their own arrays."""
    held, grid = federation()
    held.forget([2])
    grid.sent.clear()
    found = references(held, grid, initial, 1, n_out=3, n_in=2, timeout=PATIENCE_S)
    assert (len(found.retrained), len(found.trained_with)) == (3, 2)
    trained = [k for kind, k in grid.sent if kind == "train"]
    assert {k: trained.count(k) for k in range(4)} == {0: 5, 1: 5, 2: 2, 3: 5}
    other, other_grid = federation()
    other.forget([2])
    other.reset()
    by_hand = other.start(other_grid, initial(1), 1, timeout=PATIENCE_S).arrays
    got = found.retrained[0]
    for name, array in by_hand.items():
        np.testing.assert_allclose(got[name].numpy(), array.numpy(), atol=1e-6)


def test_a_strategy_that_waits_for_all_waits_for_all_again_where_all_take_part():
    grid = RecordingGrid(serve(app_of(TASK), TASK), 4)
    inner = FedAvg(
        fraction_train=0.1,
        fraction_evaluate=0.0,
        min_train_nodes=4,
        min_available_nodes=4,
    )
    held = Forgettable(inner)
    held.start(grid, initial(0), 1, timeout=PATIENCE_S)
    held.forget([2])
    fresh = held.fresh(with_forgotten=True)
    fresh.start(grid, initial(1), 1, timeout=PATIENCE_S)
    assert sorted(fresh.clients) == [0, 1, 2, 3]
    assert fresh.forgotten == ()
    assert held.forgotten == held.fresh().forgotten == (2,)
    assert held.fresh().ledger is None
    assert held.ledger is not None


def test_a_fresh_one_copies_no_rows(monkeypatch: pytest.MonkeyPatch):
    """Which may be as large as the memory."""
    held, _ = federation()

    def copied(self: Ledger, memo: object) -> Ledger:
        raise AssertionError("rows were copied")

    monkeypatch.setattr(Ledger, "__deepcopy__", copied, raising=False)
    assert held.fresh().ledger is None


def test_what_cannot_be_compared_with_is_one_line(forgot: Forgot):
    strategy, grid = forgot.strategy, forgot.grid
    with pytest.raises(FedNegError, match="those of 1 and 2 are the same"):
        references(strategy, grid, lambda seed: initial(0), ROUNDS)
    with pytest.raises(FedNegError, match="n_out must be at least 3, got 2"):
        references(strategy, grid, initial, ROUNDS, n_out=2)
    with pytest.raises(FedNegError, match="nobody was forgotten"):
        references(Forgettable(FedAvg()), grid, initial, ROUNDS)
    with (
        offline(forgot, ODD),
        pytest.raises(FedNegError, match=f"client {ODD} took no part"),
    ):
        references(strategy, grid, initial, 1, timeout=PATIENCE_S)
