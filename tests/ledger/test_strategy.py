"""What the app's strategies and Forgettable's are both built on, by hand."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from builders.checkout import REPOSITORY
from fedneg.core.errors import FedNegError
from fedneg.core.layout import Kind, Layout, Part
from fedneg.core.parameters import Vector
from fedneg.forgettable.held_model import HeldModel
from fedneg.ledger.steps import Step
from fedneg.ledger.strategy import LedgerStrategy, empty_ledger
from fedneg.strategies.base import LedgerFedAvg

LAYOUT = Layout(
    (
        Part("weight", (2,), Kind.PARAMETER, "float32"),
        Part("mean", (1,), Kind.STATISTIC, "float32"),
        Part("count", (), Kind.COUNTER, "int64"),
    )
)


def vector(*values: float) -> Vector:
    return np.array(values, np.float32)


@dataclass(frozen=True)
class Sent:
    """What a client sent beside its parameters."""

    statistics: Vector
    weight: float


class Named(LedgerStrategy):
    """A strategy whose clients are called otherwise than their rows."""

    def __init__(self, clients: int = 2) -> None:
        model = vector(1, 2, 0.5, 7)
        server = (1.0, 0.0)
        ledger = empty_ledger(
            model, LAYOUT, clients=clients, server=server, keep_local=False
        )
        self.take_on(ledger, LAYOUT)

    def row_of(self, client_id: int) -> int | None:
        """Return the row of client 100 + row."""
        return client_id - 100 if client_id < 102 else None


SENT = {0: Sent(vector(0, 3), 1), 1: Sent(vector(4, 9), 3)}


def test_a_round_of_models_and_one_of_parts_are_entered_alike_by_hand():
    """Models (5, 2) and (1, 6) from (1, 2), weighed 1 to 3: parts (1, 0) and (0, 3)."""
    models, parts = Named(), Named()
    local, norms = {0: vector(5, 2), 1: vector(1, 6)}, {0: (4.0,), 1: (4.0,)}
    one = models.enter_models(1, vector(1, 2), local, SENT, norms)
    step = Step({0: vector(1, 0), 1: vector(0, 3)}, {0: 0.25, 1: 0.75}, norms=norms)
    other = parts.enter_step(1, vector(1, 2), step, SENT)
    assert one.tolist() == other.tolist() == [2, 5]
    for found in (models, parts):
        assert found.ledger.contributions.tolist() == [[1, 0], [0, 3]]
        assert found.ledger.whole(one).tolist() == [2, 5, 3, 9]
        assert found.took_part == {0, 1}
    assert models.ledger.participation == parts.ledger.participation


def test_models_may_be_weighed_otherwise_than_the_replies():
    found, local = Named(), {0: vector(5, 2), 1: vector(1, 6)}
    after = found.enter_models(
        1, vector(1, 2), local, SENT, {}, weights={0: 1.0, 1: 1.0}
    )
    assert after.tolist() == [3, 4]
    assert found.ledger.whole(after).tolist() == [3, 4, 3, 9]


def test_who_is_dropped_goes_by_name_and_the_rest_is_the_corrections():
    found = Named()
    step = Step({0: vector(1, 0), 1: vector(0, 3)}, {0: 0.25, 1: 0.75})
    after = found.enter_step(1, vector(1, 2), step, SENT)
    found.drop([101, 102], before=after, after=vector(2, 3))
    assert found.ledger.contributions.tolist() == [[1, 0], [0, 0]]
    assert found.ledger.correction.tolist() == [0, 1]
    assert found.forgotten == {101, 102}
    assert found.took_part == {0}
    found.drop([], before=vector(2, 3), after=vector(2, 4))
    assert found.ledger.correction.tolist() == [0, 2]


def test_beginning_anew_keeps_in_mind_who_was_forgotten():
    found = Named()
    step = Step({0: vector(1, 0)}, {0: 1.0})
    after = found.enter_step(1, vector(1, 2), step, {0: SENT[0]})
    found.drop([100], before=after, after=vector(8, 8), starts_over=True)
    assert found.ledger.initial.tolist() == [8, 8]
    assert not found.ledger.contributions.any()
    assert found.took_part == set()
    assert found.forgotten == {100}


def test_without_a_ledger_there_is_nothing_to_forget():
    found = Named()
    found.take_on(None, LAYOUT)
    assert not found.has_ledger
    with pytest.raises(FedNegError, match="nobody has trained yet"):
        found.drop([100], before=vector(1, 2), after=vector(1, 2))


def test_both_strategies_are_one():
    assert issubclass(LedgerFedAvg, LedgerStrategy)
    assert issubclass(HeldModel, LedgerStrategy)


CHANGES = {"record", "enter", "forget", "start_over"}
# What fills a ledger from a file empties it where the file turns out to be damaged.
ROOM = {"ledger.py", "strategy.py", "checkpoint.py"}


def changed_in(path: Path) -> Iterator[str]:
    """Yield what a module does with ledgers that is the strategy's to do."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Name) and called.id in ("Ledger", "Statistics"):
            yield f"{path.name} makes a {called.id}"
        elif isinstance(called, ast.Attribute) and called.attr in CHANGES:
            of = ast.unparse(called.value)
            if of.rpartition(".")[2] in ("ledger", "_ledger"):
                yield f"{path.name} calls {of}.{called.attr}"


def test_ledgers_are_made_entered_and_emptied_in_one_place():
    paths = [
        *(REPOSITORY / "fedneg").rglob("*.py"),
        *(REPOSITORY / "strategies").rglob("*.py"),
    ]
    found = [
        line
        for path in paths
        if path.parent.name != "ledger" or path.name not in ROOM
        for line in changed_in(path)
    ]
    assert len(paths) > 200
    assert found == []
