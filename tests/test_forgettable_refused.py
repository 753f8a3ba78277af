"""What no row can be kept of is refused in a line, and says what to do instead."""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAvg,
    FedXgbBagging,
    FedXgbCyclic,
    Krum,
    Strategy,
)

from builders.checkout import REPOSITORY
from builders.flower_strategies import ATTRIBUTED, HELD
from builders.strangers import INITIAL, TRAINED, Watched, flat, read, trained, written
from builders.waiting import PATIENCE_S
from fedneg import Forgettable, NotLinearError
from fedneg.core.errors import FedNegError

FLOATS = {n: np.atleast_1d(a) for n, a in INITIAL.items() if a.dtype.kind == "f"}
TREES = ArrayRecord({"0": Array(np.frombuffer(b"{}", np.uint8))})
NOISY = {
    "DifferentialPrivacyServerSideFixedClipping": (
        DifferentialPrivacyServerSideFixedClipping(FedAvg(), 0.5, 0.4, 4)
    ),
    "DifferentialPrivacyClientSideFixedClipping": (
        DifferentialPrivacyClientSideFixedClipping(FedAvg(), 0.5, 0.4, 4)
    ),
    "DifferentialPrivacyServerSideAdaptiveClipping": (
        DifferentialPrivacyServerSideAdaptiveClipping(FedAvg(), 0.3, 4)
    ),
    "DifferentialPrivacyClientSideAdaptiveClipping": (
        DifferentialPrivacyClientSideAdaptiveClipping(FedAvg(), 0.3, 4)
    ),
}
BOOSTED = {"FedXgbBagging": FedXgbBagging(), "FedXgbCyclic": FedXgbCyclic()}
pytestmark = pytest.mark.usefixtures("small_heap")


def started(strategy: Strategy, arrays: ArrayRecord) -> tuple[str, Forgettable]:
    """Return the line that refuses a strategy before anybody was asked."""
    grid, held = Watched(), Forgettable(strategy)
    with pytest.raises(NotLinearError) as caught:
        held.start(grid, arrays, num_rounds=2)
    assert grid.sent == []
    assert "\n" not in str(caught.value)
    return str(caught.value), held


# -- the table -------------------------------------------------------------------------


def test_every_strategy_of_flowers_is_in_the_table():
    """What is tested here, and what people read."""
    all_of_them = {
        name
        for name in flower.__all__
        if name not in ("Result", "Strategy")  # these are none
    }
    assert HELD.keys() | ATTRIBUTED.keys() | BOOSTED.keys() == all_of_them
    assert NOISY.keys() <= all_of_them
    page = (REPOSITORY / "docs" / "your-flower-app.md").read_text()
    table = page[page.index("## Which strategies") :]
    table = table[: table.index("\n## ", 3)]
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    said = {"held": HELD, "attributed": ATTRIBUTED, "refused": BOOSTED}
    for verdict, strategies in said.items():
        for name in strategies:
            (row,) = [
                line
                for line in rows
                if re.search(rf"\b{name}\b", line.split("|")[1])
                and "noise above 0" not in line
            ]
            assert row.split("|")[2].strip().startswith(verdict), name


@pytest.mark.parametrize("name", [*HELD, *ATTRIBUTED])
def test_what_still_depends_on_a_client_is_told(name: str):
    case = (HELD | ATTRIBUTED)[name]
    held, _ = trained(
        case.strategy(), Watched(case.clients, mods=case.mods), 2, case.initial
    )
    assert len(held.depends) == len(case.depends)
    for word in case.depends:
        assert any(word in line for line in held.depends)


# -- before anybody has trained --------------------------------------------------------


@pytest.mark.parametrize("name", NOISY)
def test_noise_is_refused_before_anybody_trains(name: str):
    said, _ = started(NOISY[name], written(FLOATS))
    assert said.startswith(
        f"{name} cannot be made forgettable: it adds noise to the aggregate "
        "(noise_multiplier 0."
    )
    assert said.endswith("or retrain without the client: method='retrain'")


@pytest.mark.parametrize("name", BOOSTED)
def test_trees_are_refused_before_anybody_trains(name: str):
    said, _ = started(BOOSTED[name], TREES)
    assert said.startswith(f"{name} cannot be made forgettable: its model is one")
    assert "Retrain without the client" in said


def test_what_is_refused_can_be_trained_again():
    """With noise nobody's part need be known, if forgetting trains anew."""
    inner = DifferentialPrivacyServerSideFixedClipping(
        FedAvg(fraction_evaluate=0.0), 0.5, 0.4, 4
    )
    grid = Watched()
    held, arrays = trained(inner, grid, 3, FLOATS, method="retrain")
    gone = held.clients[2]
    after = read(held.forget([gone], arrays))
    for name, array in FLOATS.items():
        if name in TRAINED:
            np.testing.assert_array_equal(after[name], array)
    grid.rounds.clear()
    held.start(grid, held.arrays, num_rounds=2, timeout=PATIENCE_S)
    assert [gone in replies for _, replies in grid.rounds] == [False, False]
    assert held.ledger is not None
    assert held.ledger.deviation(flat(held.arrays)) < 1e-6


# -- by their step ---------------------------------------------------------------------


class Decayed(FedAvg):
    """A strategy that makes the model a little smaller each time."""

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        """Do as FedAvg does, times a number."""
        arrays, metrics = super().aggregate_train(server_round, replies)
        return written({n: a * 0.9 for n, a in read(arrays).items()}), metrics


class Masked(FedAvg):
    """A strategy as secure aggregation is: what one client sends is not its model."""

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        """Unmask a sum of all, which the replies hold as bytes."""
        return written({n: a + 0.1 for n, a in INITIAL.items()}), None


def test_what_is_no_weighted_sum_is_refused_by_its_step():
    grid, held = Watched(), Forgettable(Decayed())
    with pytest.raises(
        NotLinearError, match=r"its step in round 1 is off by \d\.\d+ of"
    ):
        held.start(grid, written(INITIAL), num_rounds=2)
    assert held.clients == ()
    assert len(grid.rounds) == 1


class Hidden(Watched):
    """A grid to clients that send bytes in the place of models."""

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Replace what they sent."""
        found = super().send_and_receive(messages, timeout=timeout)
        for reply in found:
            reply.content = RecordDict({"masked": ConfigRecord({"bytes": b"?"})})
        return found


def test_sums_of_what_nobody_can_read_are_refused():
    held = Forgettable(Masked())
    with pytest.raises(NotLinearError, match="its replies hold no client's model"):
        held.start(Hidden(), written(INITIAL), num_rounds=2)


def test_weights_are_not_looked_for_in_fewer_parameters_than_would_tell():
    """Some would always be found: four unknown numbers in four equations."""
    few = {"weight": np.linspace(-1, 1, 4, dtype=np.float32)}
    held = Forgettable(Krum(num_malicious_nodes=1))
    with pytest.raises(NotLinearError, match="is off by"):
        held.start(Watched(), written(few), num_rounds=2)
    held, _ = trained(FedAvg(fraction_evaluate=0.0), Watched(), 2, few)
    assert len(held.clients) == 4


def test_a_workflow_of_flowers_before_is_no_strategy():
    from flwr.server.workflow import SecAggPlusWorkflow

    with pytest.raises(FedNegError, match=r"Strategy, got SecAggPlusWorkflow"):
        Forgettable(SecAggPlusWorkflow(3, 2))
