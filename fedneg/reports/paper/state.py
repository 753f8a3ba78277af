"""What the experiment keeps: the server's state after a round, and all it measured."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedneg.core.parameters import Vector, add


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What the server holds after a round: enough to remove any client.

    Attributes
    ----------
    parameters : Vector, shape (d,)
    contributions : float32 array, shape (K, d)
    local : tuple of K Vector
        Each client's model after this round's training.
    weights : tuple of K float
        Aggregation weights of the round.
    """

    parameters: Vector
    contributions: NDArray[np.float32]
    local: tuple[Vector, ...]
    weights: tuple[float, ...]

    def without_update(self, client_id: int, scale: float = 1.0) -> Vector:
        """Return the update form: parameters - scale * contribution."""
        return add(self.parameters, [(-scale, self.contributions[client_id])])

    def without_parameters(self, client_id: int, scale: float) -> Vector:
        """Return the parameters form: parameters - scale * local model."""
        return add(self.parameters, [(-scale, self.local[client_id])])


@dataclass(frozen=True, eq=False)
class PaperMeasurements:
    """Everything the report shows; rates are fractions, losses nats per example.

    Attributes
    ----------
    central, federated : DataFrame
        epoch, train_accuracy, train_loss (central), accuracy, loss (server test set).
    local : DataFrame
        epoch, client_id, and what each local model scores on its own data.
    table1 : DataFrame
        form, partition, local_model, federated_model, removed_0.. (accuracy).
    nearest : DataFrame
        client_id, scale, gap: the scale whose column comes nearest to the paper's.
    scan : DataFrame
        federation (honest or backdoor), form, client_id, scale, accuracy,
        attack_success_rate.
    removal : DataFrame
        form, epoch, client_id, accuracy: removal after each epoch (Fig 5).
    retraining : DataFrame
        form, client_id, epoch, accuracy, loss (Figs 6, 7); epoch 0 is the removal.
    retrained_attack_success : float or None
        Of a federation that never had the attacker, where a reference was asked for.
    history : DataFrame
        Rounds of the honest federation, as in history.csv.
    seconds : dict of str to float
    """

    central: pd.DataFrame
    federated: pd.DataFrame
    local: pd.DataFrame
    table1: pd.DataFrame
    nearest: pd.DataFrame
    scan: pd.DataFrame
    removal: pd.DataFrame
    retraining: pd.DataFrame
    retrained_attack_success: float | None
    history: pd.DataFrame
    seconds: dict[str, float]


def remove(
    state: Snapshot, form: str, client_id: int, scales: dict[int, float]
) -> Vector:
    """Return the model without a client, in one of `FORMS`."""
    if form == "update":
        return state.without_update(client_id)
    if form == "parameters":
        return state.without_parameters(client_id, state.weights[client_id])
    return state.without_parameters(client_id, scales[client_id])
