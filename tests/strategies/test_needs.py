"""What each method needs, as it says itself, against what it is seen to ask and read.

Three clients, three rounds, and a model of d = 64 * 4 + 4 + 4 * 10 + 10 = 310 numbers
in four arrays: a row of the ledger has 1240 bytes.
"""

import pytest

from builders.federations import Bench, small_config
from builders.methods import METHODS
from builders.networks import initial_parameters
from fedneg.core.assignment import Assignment
from fedneg.ledger.bank import DECAYS
from fedneg.strategies import make_strategy
from fedneg.strategies.method import Needs

ROW = 310 * 4
# Rounds 1 and 3 are retained: one number of 8 bytes per array and client in each.
NORMS = 2 * 3 * 4 * 8
CASES = [
    ("compensated", "", Needs(server_bytes=(3 + 1 + 1) * ROW)),
    (
        *("counterfactual", ""),
        Needs(remaining_rounds=2, server_bytes=3 * (1 + 4 + 1) * ROW),
    ),
    ("distillation", "", Needs(proxy="noise", server_bytes=3 * ROW)),
    ("distillation", "proxy=test", Needs(proxy="test", server_bytes=3 * ROW)),
    ("do_nothing", "", Needs()),
    ("federaser", "", Needs(remaining_rounds=2, server_bytes=ROW + NORMS)),
    (
        *("federaser", "storage=updates"),
        Needs(remaining_rounds=1, server_bytes=ROW + 2 * 3 * ROW),
    ),
    ("fine_tune", "rounds=2", Needs(remaining_rounds=2)),
    ("gradient_ascent", "", Needs(leaving_client=True, server_bytes=3 * ROW)),
    ("negative_gradient", "", Needs(server_bytes=3 * ROW)),
    ("negative_gradient", "renormalise=true", Needs(server_bytes=(3 + 1) * ROW)),
    ("negative_gradient", "form=parameters", Needs(server_bytes=3 * ROW)),
    ("puf", "", Needs(leaving_client=True, remaining_rounds=1)),
    ("puf", "form=special", Needs(leaving_client=True)),
    ("random_init", "", Needs()),
    ("retrain", "", Needs(remaining_rounds=3, server_bytes=ROW)),
    ("weight_negation", "", Needs()),
]
# Sums of every round: these do not share a training with the others.
KEEP_SUMS = {"counterfactual"}
BASE = ("clients=3", "rounds=3", "model.hidden=[4]", "forget=1", "strategy.gate=0")


def trained(*options: str) -> Bench:
    """Return a federation of real clients on the digits after its training."""
    config = small_config(*BASE, *options)
    initial = initial_parameters(64, config.model.hidden, 10, seed=0)
    made = Bench(config, initial, assignment=Assignment.of(config, root=None).to_json())
    made.train(3)
    return made


def test_twelve_methods_are_looked_at():
    """A new method brings a test of its own."""
    looked_at = {name for name, _, _ in CASES}
    assert len(looked_at) == 12
    assert looked_at <= set(METHODS)


@pytest.mark.parametrize(
    ("name", "option", "needs"), CASES, ids=[f"{n} {o}".strip() for n, o, _ in CASES]
)
def test_a_method_needs_what_it_says(name: str, option: str, needs: Needs):
    """Whom it asks in its unlearn rounds is seen; what it reads is counted by hand."""
    made = trained(f"strategy={name}", *([f"strategy.{option}"] if option else []))
    strategy = made.strategy
    assert strategy.needs() == needs
    assert strategy.server_bytes == needs.server_bytes
    made.unlearn(1)
    asked = [set(r.metrics) for r in strategy.reports if r.phase == "unlearn"]
    assert sum(bool(ids - {1}) for ids in asked) == needs.remaining_rounds
    assert any(1 in ids for ids in asked) == needs.leaving_client
    assert strategy.needs_leaving_client == needs.leaving_client
    # It was measured before rows went, and outlasts the ledger.
    strategy.reset(initial_parameters(64, (4,), 10, seed=0))
    assert strategy.server_bytes == needs.server_bytes


def test_momentum_rows_and_what_another_method_wants_are_nobodys_need():
    """They are in the ledger, of which the method reads three rows."""
    made = trained("strategy.server_momentum=0.5", "strategy.keep_local_models=true")
    assert made.strategy.ledger.num_bytes == (3 + 1 + 3 + 3) * ROW
    assert made.strategy.server_bytes == 3 * ROW


@pytest.mark.parametrize("name", METHODS)
def test_saying_so_is_no_other_training(name: str):
    """A method brings what the ledger is to keep: no code and no options."""
    found = identity(f"strategy={name}")
    kept = {"recent": [1, *DECAYS]} if name in KEEP_SUMS else {}
    assert found == {"local_models": name == "gradient_ascent"} | kept


def identity(*options: str) -> dict[str, object]:
    """Return what a method adds to that which determines a training."""
    return make_strategy(small_config(*BASE, *options), "").training_identity()


def test_with_local_models_kept_all_methods_share_a_training():
    keep = "strategy.keep_local_models=true"
    assert identity("strategy=gradient_ascent") != identity("strategy=fine_tune")
    assert identity("strategy=negative_gradient") == identity("strategy=fine_tune")
    share = sorted(set(METHODS) - KEEP_SUMS)
    found = [identity(f"strategy={name}", keep) for name in share]
    assert found == [identity("strategy=gradient_ascent")] * len(share)
