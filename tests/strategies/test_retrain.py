"""Exact retraining: the very bytes of the model that was never taught by them."""

import io

import pytest
from flwr.app import Context
from flwr.serverapp import Grid
from rich.console import Console

from builders.federations import small_config
from fedneg.core.progress import Progress
from fedneg.engines.simulate import simulate
from fedneg.federation import Federation

CASES = (
    ("forget=1",),
    ("forget=[0,2]",),
    ("forget=1", "strategy.client_fraction=0.5"),
    ("forget=1", "strategy.server_momentum=0.5", "strategy.server_learning_rate=0.7"),
)


@pytest.mark.parametrize("overrides", CASES, ids=lambda o: " ".join(o))
def test_its_result_is_bit_equal_to_the_retrained_model(overrides: tuple[str, ...]):
    config = small_config("clients=4", "strategy=retrain", "rounds=3", *overrides)

    def main(grid: Grid, _: Context) -> None:
        progress = Progress("", 0, Console(file=io.StringIO()))
        federation = Federation(grid, config, progress)
        strategy = federation.strategy
        original = federation.train()
        # As if a client had been forgotten before, by a method that leaves something.
        strategy.ledger.correction[:] = 1
        strategy.ledger.fold_correction()
        unlearned = federation.unlearn(original, config.forget).copy()
        ledger = {k: v.copy() for k, v in strategy.ledger.arrays().items()}
        facts = strategy.ledger.facts()
        retrained = federation.retrain(config.remaining)
        assert unlearned.tobytes() == retrained.tobytes() != original.tobytes()
        for name, rows in strategy.ledger.arrays().items():
            assert ledger[name].tobytes() == rows.tobytes(), name
        numbers = [entry[0] for entry in facts["participation"]]
        assert numbers == [4, 5, 6]
        assert [entry[1:] for entry in facts["participation"]] == [
            entry[1:] for entry in strategy.ledger.facts()["participation"]
        ]
        phases = [row["phase"] for row in federation.history]
        assert phases == ["train"] * 4 + ["unlearn"] * 3 + ["retrain"] * 3

    simulate(main, clients=config.clients, engine=config.engine)
