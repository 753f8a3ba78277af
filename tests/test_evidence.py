"""What results.json says of a model, by hand."""

import math

from fedneg.evidence import ModelEvidence
from fedneg.training import Metrics


def evidence(loss: float = 0.5) -> ModelEvidence:
    """Return a model on three clients of 1, 3 and 4 examples; client 3 is silent."""
    clients = {
        k: {
            "num_train": n,
            "train_accuracy": accuracy,
            "trained_accuracy": 0.0,
            "train_loss": 1.0,
            "test_accuracy": 0.1 * k,
        }
        for k, n, accuracy in ((0, 1, 1.0), (1, 3, 0.0), (2, 4, 0.5))
    }
    return ModelEvidence("original", Metrics(0.9, loss, 100), None, clients)


def test_accuracy_over_clients_counts_examples_by_hand():
    """(1 * 1 + 3 * 0) / 4 = 1/4; (1 * 1 + 4 * 0.5) / 5 = 3/5."""
    assert evidence().pooled([0, 1], "train_accuracy") == 0.25
    assert evidence().pooled([0, 2], "train_accuracy") == 0.6


def test_silent_clients_have_no_value():
    assert evidence().pooled([3], "train_accuracy") is None
    assert evidence().pooled([], "train_accuracy") is None
    assert evidence().pooled([0, 1, 3], "train_accuracy") == 0.25
    summary = evidence().summary(forget=[3], clients=4)
    assert summary["forget_accuracy"] is None
    assert summary["client_test_accuracy"] == [0.0, 0.1, 0.2, None]


def test_summary_splits_forget_from_retain_by_hand():
    """Forget client 1: nothing right; retain 0 and 2: 3/5."""
    summary = evidence().summary(forget=[1], clients=3)
    assert (summary["forget_accuracy"], summary["retain_accuracy"]) == (0.0, 0.6)


def test_a_model_that_diverged_has_no_loss():
    assert evidence(math.nan).summary(forget=[1], clients=3)["test_loss"] is None
