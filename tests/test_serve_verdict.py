"""The verdict on models of a stranger's app: it tells what remembers from what not."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import FedAvg

from builders.federations import FIRST_NODE_ID, RecordingGrid
from builders.own_tasks import ODD
from builders.served import ORDER, TASK, federation, first
from builders.waiting import PATIENCE_S
from fedneg import ClientRef, Forgettable, judge
from fedneg.core.errors import FedNegError
from fedneg.evaluation.verdict import Verdict
from fedneg.serving.asking import Asking
from fedneg.serving.verdict import verdicts
from fedneg.tasks import calls

ROUNDS = 6


@dataclass(frozen=True)
class Forgot:
    """A federation that forgot, and what it takes to judge it."""

    strategy: Forgettable
    grid: RecordingGrid
    original: ArrayRecord
    models: Mapping[str, ArrayRecord]
    retrained: list[ArrayRecord]


@pytest.fixture(scope="module")
def forgot() -> Forgot:
    """Return one whose odd client taught all others a wrong thing."""
    held, grid = federation(TASK, ROUNDS)
    original = held.arrays
    models = {"unlearned": held.forget([ODD])}
    again = copy.deepcopy(held)
    models["recovered"] = held.start(
        grid, models["unlearned"], 1, timeout=PATIENCE_S
    ).arrays
    retrained = []
    for seed in range(1, 5):
        again.reset()
        result = again.start(grid, first(TASK, seed), ROUNDS, timeout=PATIENCE_S)
        retrained.append(result.arrays)
    assert ODD not in again.clients
    return Forgot(held, grid, original, models, retrained)


def judged(forgot: Forgot, **more: object) -> dict[str, Verdict]:
    options: dict[str, object] = {
        "original": forgot.original,
        "models": forgot.models,
        "retrained": forgot.retrained,
        **more,
    }
    return verdicts(forgot.strategy, forgot.grid, TASK, **options)  # type: ignore[arg-type]


def test_it_tells_the_original_from_retrained_models(forgot: Forgot):
    found = judged(forgot, order=ORDER)
    assert {name: one.outcome for name, one in found.items()} == {
        "original": "not forgotten",
        "unlearned": "forgotten",
        "recovered": "forgotten",
        "retrained": "forgotten",
    }
    by_name = {piece.name: piece for piece in found["original"].evidence}
    assert by_name["as_trained_accuracy_gap"].decision == "not forgotten"
    assert by_name["relearn_ratio"].decision == "not forgotten"
    assert found["original"].utility.value == pytest.approx(0.7, abs=0.2)


def test_the_judge_of_losses_has_what_it_takes(forgot: Forgot):
    """The same nodes' answers, and models that were trained with and without them."""
    asking, net = Asking(forgot.strategy, forgot.grid), TASK.model()
    net.load_state_dict(forgot.original.to_torch_state_dict())
    seen = asking.seen([ODD], forgot.original, quality=0.7)
    split = TASK.data(ClientRef(ODD, 4))
    by_hand = calls.losses(TASK, net, split.train)
    np.testing.assert_allclose(seen.losses[ODD], by_hand, rtol=1e-4, atol=1e-6)
    assert seen.quality == 0.7
    with_it = [
        Forgettable(FedAvg(fraction_evaluate=0.0))
        .start(forgot.grid, first(TASK, seed), ROUNDS, timeout=PATIENCE_S)
        .arrays
        for seed in (11, 12)
    ]
    without = [asking.seen([ODD], arrays) for arrays in forgot.retrained]
    found = judge(
        seen,
        trained_with=[asking.seen([ODD], arrays) for arrays in with_it],
        trained_without=without,
    )
    assert found.finding == "traces left"
    found = judge(
        without[0],
        trained_with=[asking.seen([ODD], arrays) for arrays in with_it],
        trained_without=without[1:],
    )
    assert found.outcome != "not forgotten"


def test_without_an_order_nothing_is_relearned(forgot: Forgot):
    found = judged(forgot, models={"nothing": forgot.original})
    assert found["nothing"].outcome == "not forgotten"
    (relearn,) = [p for p in found["nothing"].evidence if p.name == "relearn_ratio"]
    assert relearn.why == "not measured"


def test_a_server_without_data_measures_by_the_clients_that_stay(forgot: Forgot):
    forgot.grid.sent.clear()
    found = verdicts(
        forgot.strategy,
        forgot.grid,
        replace(TASK, test=None),
        original=forgot.original,
        models=forgot.models,
        retrained=forgot.retrained,
    )
    assert found["original"].outcome == "not forgotten"
    assert found["recovered"].outcome == "forgotten"
    assert found["recovered"].utility.value > 0.8
    asked = [k for kind, k in forgot.grid.sent if kind == "evaluate.fedneg"]
    models = 3 + len(forgot.retrained)
    assert {k: asked.count(k) for k in range(4)} == dict.fromkeys(range(4), models)


def test_with_too_few_retrained_models_nothing_is_said(forgot: Forgot):
    found = judged(forgot, retrained=forgot.retrained[:1])
    assert {one.outcome for one in found.values()} == {"inconclusive"}
    assert sorted(judged(forgot, retrained=[])) == [
        "original",
        "recovered",
        "unlearned",
    ]


def test_with_nobody_to_ask_the_rest_still_speaks_and_proves_nothing(forgot: Forgot):
    contexts = dict(forgot.grid.contexts)
    del forgot.grid.contexts[FIRST_NODE_ID + ODD]
    try:
        found = judged(forgot)
    finally:
        forgot.grid.contexts.update(contexts)
    assert found["unlearned"].outcome == "inconclusive"
    assert all(
        piece.why == "not measured"
        for piece in found["unlearned"].evidence
        if piece.name in ("as_trained_accuracy_gap", "membership_auc", "lira_auc")
    )


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
