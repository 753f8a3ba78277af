"""Forgetting some of a client's examples: each method by hand, and by the bytes."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from rich.console import Console

from builders.federations import Bench, RecordingGrid, answer, data_of, small_config
from fedneg.core.assignment import Assignment
from fedneg.core.parameters import Vector
from fedneg.core.progress import Progress
from fedneg.engines.simulate import simulate
from fedneg.federation import Federation
from fedneg.strategies.hooks import NO_HOOKS, Hooks
from fedneg.strategies.phases import Phase
from fedneg.tasks import images

# Of each client and part: how many examples, and what it adds to the model.
Steps = Mapping[str, tuple[int, Sequence[float]]]
STEPS: dict[int, Steps] = {
    0: {"all": (1, [4, 0]), "rest": (1, [4, 0])},
    1: {"all": (4, [8, 8]), "rest": (3, [0, 8]), "gone": (1, [16, 4])},
    2: {"all": (3, [0, 8]), "rest": (3, [0, 8])},
}
ETA = 4.0


def clients(seen: list[tuple[int, str]], fails: str | None) -> ClientApp:
    """Return clients that add what `STEPS` says of the part that they are told."""
    app = ClientApp()

    @app.query()
    def identify(message: Message, context: Context) -> Message:
        found = {
            "client-id": context.node_config["partition-id"],
            "num-partitions": context.node_config["num-partitions"],
        }
        content = type(message.content)({"identity": ConfigRecord(found)})
        return Message(content, reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        client_id = int(str(context.node_config["partition-id"]))
        told = str(message.content.config_records["config"]["assignment"])
        part = Assignment.from_json(told).part
        seen.append((client_id, part))
        if part == fails:
            raise RuntimeError("it cannot")
        arrays = message.content.array_records["arrays"].to_numpy_ndarrays()
        count, step = STEPS[client_id][part]
        local = [arrays[0] + np.array(step, np.float32)]
        return Message(answer(local, count, client_id), reply_to=message)

    return app


class Told(Bench):
    """A bench whose clients know which part they are asked for."""

    def __init__(
        self, *overrides: str, hooks: Hooks = NO_HOOKS, fails: str | None = None
    ) -> None:
        config = small_config("clients=3", "forget_samples={1:.25}", *overrides)
        assignment = Assignment.of(config, root=None).to_json()
        start = [np.zeros(2, np.float32)]
        super().__init__(config, start, {}, assignment, hooks)
        self.seen: list[tuple[int, str]] = []
        self.grid = RecordingGrid(clients(self.seen, fails), config.clients)
        self.train(1)
        assert self.seen == [(0, "all"), (1, "all"), (2, "all")]
        self.seen.clear()


def mean(parts: Mapping[int, str]) -> Vector:
    """Return FedAvg's step, written as it is printed."""
    total = sum(STEPS[k][part][0] for k, part in parts.items())
    found = np.zeros(2)
    for k, part in parts.items():
        count, step = STEPS[k][part]
        found += count / total * np.array(step)
    return found


FIRST = mean({0: "all", 1: "all", 2: "all"})
REST = {0: "rest", 1: "rest", 2: "rest"}


def test_fine_tuning_goes_on_with_all_clients_and_the_rest_of_the_examples():
    made = Told("strategy=fine_tune")
    rows = made.strategy.ledger.contributions.copy()
    after = made.unlearn(1)
    np.testing.assert_allclose(after, FIRST + 2 * mean(REST), rtol=1e-6)
    assert made.seen == [(0, "rest"), (1, "rest"), (2, "rest")] * 2
    ledger = made.strategy.ledger
    np.testing.assert_allclose(ledger.rebuilt(), after, rtol=1e-6)
    # Its row stays, and grows by what the rest taught: 2 * 3 / 7 * [0, 8].
    gained = ledger.contributions[1] - rows[1]
    np.testing.assert_allclose(gained, [0, 48 / 7], rtol=1e-6)
    assert made.strategy.forgotten == set()
    assert "client 1 is of all examples" in made.strategy.method_report["ledger"]


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_pufs_round_is_as_if_what_goes_were_a_client_of_its_own(momentum: float):
    """N is 1 + 3 + 3 of those who stay and 1 that goes; all from the same model."""
    made = Told(
        *("strategy=puf", f"strategy.learning_rate={ETA}"),
        f"strategy.server_momentum={momentum}",
    )
    row, start = made.strategy.ledger.contributions[1].copy(), made.model.copy()
    after = made.unlearn(1)
    expected = start.astype(np.float64)
    if momentum:  # of the round before, whose step was the first
        expected += momentum * FIRST
    for k, part in REST.items():
        count, step = STEPS[k][part]
        expected += count / 8 * np.array(step)
    expected -= ETA * 1 / 8 * np.array(STEPS[1]["gone"][1])
    np.testing.assert_allclose(after, expected, rtol=1e-5)
    assert made.seen == [(1, "gone"), (0, "rest"), (1, "rest"), (2, "rest")]
    assert [report.part for report in made.strategy.reports[1:]] == ["gone", "rest"]
    ledger = made.strategy.ledger
    np.testing.assert_allclose(ledger.rebuilt(), after, rtol=1e-5, atol=1e-5)
    if not momentum:  # what was subtracted is nobody's
        np.testing.assert_allclose(ledger.contributions[1] - row, [0, 3], rtol=1e-6)
    length = ETA / 8 * np.hypot(16, 4)
    assert made.strategy.method_report["subtracted"]["1"] == pytest.approx(length)
    assert "notice" not in made.strategy.method_report


def test_pufs_special_round_has_only_what_goes():
    made = Told("strategy=puf", "strategy.form=special", "strategy.learning_rate=0.5")
    after = made.unlearn(1)
    expected = FIRST - 0.5 * np.array(STEPS[1]["gone"][1])
    np.testing.assert_allclose(after, expected, rtol=1e-6)
    assert made.seen == [(1, "gone")]


@pytest.mark.parametrize("form", ["regular", "special"])
def test_without_what_goes_puf_subtracts_nothing_and_says_so(form: str):
    made = Told("strategy=puf", f"strategy.form={form}", fails="gone")
    after = made.unlearn(1)
    more = mean(REST) if form == "regular" else 0
    np.testing.assert_allclose(after, FIRST + more, rtol=1e-6)
    assert "nothing of client 1" in made.strategy.method_report["notice"]


def test_puf_without_the_rest_leaves_the_model_and_says_so():
    made = Told("strategy=puf", fails="rest")
    np.testing.assert_allclose(made.unlearn(1), FIRST, rtol=1e-6)
    assert "nothing of client 1" in made.strategy.method_report["notice"]


def test_the_gate_looks_at_a_round_of_what_goes():
    """Who sends it may have a grudge, though it stays."""
    for strategy, first in (("puf", FIRST + mean(REST)), ("gradient_ascent", None)):
        made = Told(
            *(f"strategy={strategy}", "strategy.gate=0.5"),
            *(("strategy.radius=100",) if strategy == "gradient_ascent" else ()),
            hooks=Hooks(accept=lambda before, after: False),
        )
        after = made.unlearn(1)
        if first is not None:
            np.testing.assert_allclose(after, first, rtol=1e-6)
        else:
            assert after.tolist() == [1, 6]  # the others' average
        assert "failed the gate" in made.failures()[-1][2]


def test_ascent_climbs_on_what_goes_around_the_others_average():
    """Without 1, whose model was trained on it: (1 [4, 0] + 3 [0, 8]) / 4."""
    made = Told("strategy=gradient_ascent", "strategy.radius=100")
    rows = made.strategy.ledger.contributions.copy()
    after = made.unlearn(1)
    assert after.tolist() == [1 + 16, 6 + 4]
    assert made.seen == [(1, "gone")]
    ledger = made.strategy.ledger
    np.testing.assert_array_equal(ledger.contributions, rows)
    np.testing.assert_allclose(ledger.rebuilt(), after, rtol=1e-6)


def test_the_control_leaves_the_row_and_asks_nobody():
    made = Told("strategy=do_nothing")
    row = made.strategy.ledger.contributions[1].copy()
    assert made.unlearn(1).tolist() == pytest.approx(FIRST)
    np.testing.assert_array_equal(made.strategy.ledger.contributions[1], row)
    assert made.seen == []


def test_repair_has_all_clients_with_the_rest():
    made = Told("strategy=do_nothing")
    before = made.unlearn(1).copy()
    after = made._run(Phase("recover", (0, 1, 2), 1, 9, 9, part="rest"))
    np.testing.assert_allclose(after, before + mean(REST), rtol=1e-6)
    assert made.seen == [(0, "rest"), (1, "rest"), (2, "rest")]


# -- by the bytes ---------------------------------------------------------------------


def federated(*overrides: str) -> dict[str, bytes]:
    """Return the models of a small federation: trained, unlearned, retrained."""
    config = small_config("clients=3", *overrides)
    found: dict[str, bytes] = {}

    def main(grid: Grid, _: Context) -> None:
        progress = Progress("", 0, Console(file=io.StringIO()))
        federation = Federation(grid, config, progress)
        original = federation.train()
        found["original"] = original.tobytes()
        if config.forget:
            found["unlearned"] = federation.unlearn(original, config.forget).tobytes()
            found["retrained"] = federation.retrain(config.remaining).tobytes()

    simulate(main, clients=config.clients, engine=config.engine)
    return found


@pytest.mark.parametrize(
    "options", [(), ("strategy.client_fraction=0.7",), ("engine.cohort=3",)]
)
def test_retraining_is_a_training_of_who_never_had_the_examples(
    options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
):
    words = ("strategy=retrain", "rounds=3", *options)
    found = federated("forget_samples={1:[0,2,3,30],2:[7]}", *words)
    config = small_config("clients=3", "forget=null")
    real = images.partition_data

    def without(client_id: int, data: object, **more: object) -> object:
        whole = real(client_id, data, **more)
        gone = {1: [0, 2, 3, 30], 2: [7]}.get(client_id, [])
        return replace(whole, train=np.delete(whole.train, gone))

    assert len(data_of(1, config).train) > 30
    monkeypatch.setattr(images, "partition_data", without)
    never = federated("forget=null", *words)
    assert found["retrained"] == found["unlearned"] == never["original"]
    assert found["original"] != never["original"]


@pytest.mark.parametrize("strategy", ["fine_tune", "puf", "gradient_ascent"])
def test_every_engine_gives_the_same_bytes(strategy: str):
    words = ("forget_samples={1:.5}", f"strategy={strategy}", "strategy.gate=0")
    here = federated(*words)
    there = federated(*words, "engine=local", "engine.workers=2")
    assert here == there
    assert here["unlearned"] != here["original"]
