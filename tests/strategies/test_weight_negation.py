"""Negation of the first weights, by hand."""

import numpy as np

from builders.federations import Answer, Bench, small_config
from fedneg.core.parameters import NDArrays


def test_the_first_array_changes_sign_and_nothing_else():
    """Weights 2x2, bias, weights 1x2, bias; clients add 1 and 2 to everything."""

    def adds(step: float):  # noqa: ANN202
        def train(arrays: NDArrays, server_round: int) -> Answer:
            return [a + np.float32(step) for a in arrays], 1

        return train

    shapes = ((2, 2), (2,), (1, 2), (1,))
    config = small_config("clients=2", "forget=null", "strategy=weight_negation")
    made = Bench(
        config, [np.zeros(s, np.float32) for s in shapes], {0: adds(1), 1: adds(2)}
    )
    assert made.train(1).tolist() == [1.5] * 9
    assert made.unlearn(1).tolist() == [-1.5] * 4 + [1.5] * 5
    ledger = made.strategy.ledger
    # w' = 0 + 1/2 of client 0 + correction.
    assert ledger.correction.tolist() == [-2] * 4 + [1] * 5
    assert not ledger.contributions[1].any()
    assert ledger.rebuilt().tolist() == [-1.5] * 4 + [1.5] * 5
    # Twice is not once: who is forgotten later meets the model as it is then.
    assert made.unlearn(1).tolist() == [1.5] * 9
