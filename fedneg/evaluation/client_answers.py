"""What a client says of a model, from its own data alone.

Only the client has the examples that are to be forgotten. It answers with how sure the
model is of each, and of as many that the model never saw; the examples stay with it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fedneg.evaluation.relearn import RelearnTime

# Of members, and of unseen examples: what an answer holds at most.
MAX_EXAMPLES = 5000
# What a check of relearning passes over at most.
MAX_CHECKED = 1000
# Batches at most, and between two checks, where a question does not say.
RELEARN_CAP, CHECK_EVERY = 300, 5


@dataclass(frozen=True, eq=False)
class ClientAnswers:
    """One client's answers about one model.

    The examples, their order, and the batches of relearning are the same for every
    model that a client is asked about.

    Attributes
    ----------
    members : float64 array, shape (M,), M at least 1
        Scaled confidence (`fedneg.tasks.confidence`) in the label of the client's
        training examples as it trained them; canaries are not among them.
    unseen : float64 array, shape (N,), N at least 1
        The same of examples that it did not train on, poisoned in the same manner: but
        for the training, members and unseen ones come from one distribution.
    as_trained_accuracy, as_trained_loss : float
        On all that the client trains on, as trained: poison and canaries included.
    check_loss : float
        Mean loss on those of these examples that relearning is checked on: the target
        for other models, if this one is the original.
    relearn : RelearnTime or None
        None if no target was given.

    Raises
    ------
    ValueError
        If an array has another type or shape or is empty, a number is not finite, the
        accuracy is no fraction, or a loss is negative.
    """

    __test__ = False  # pytest takes the name for that of a test

    members: NDArray[np.float64]
    unseen: NDArray[np.float64]
    as_trained_accuracy: float
    as_trained_loss: float
    check_loss: float
    relearn: RelearnTime | None

    def __post_init__(self) -> None:
        for name in ("members", "unseen"):
            _check_confidences(name, getattr(self, name))
        if not 0 <= self.as_trained_accuracy <= 1:
            raise ValueError(
                "as_trained_accuracy must be a fraction in [0, 1], "
                f"got {self.as_trained_accuracy:g}"
            )
        for name in ("as_trained_loss", "check_loss"):
            loss = getattr(self, name)
            if not 0 <= loss < math.inf:
                raise ValueError(f"{name} must be finite and at least 0, got {loss:g}")
        if self.relearn is not None and self.relearn.batches < 0:
            raise ValueError(
                f"relearn.batches must be at least 0, got {self.relearn.batches}"
            )

    def to_json(self) -> dict[str, Any]:
        """Return plain values, which JSON holds to the last bit."""
        relearn = self.relearn
        return {
            "members": self.members.tolist(),
            "unseen": self.unseen.tolist(),
            "as_trained_accuracy": self.as_trained_accuracy,
            "as_trained_loss": self.as_trained_loss,
            "check_loss": self.check_loss,
            "relearn": None
            if relearn is None
            else {
                "batches": relearn.batches,
                "reached": relearn.reached,
                "unit": relearn.unit,
            },
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return what `to_json` gave; raises ValueError on anything else."""
        try:
            relearn = values["relearn"]
            return cls(
                members=np.array(values["members"], dtype=np.float64),
                unseen=np.array(values["unseen"], dtype=np.float64),
                as_trained_accuracy=float(values["as_trained_accuracy"]),
                as_trained_loss=float(values["as_trained_loss"]),
                check_loss=float(values["check_loss"]),
                relearn=None
                if relearn is None
                else RelearnTime(
                    int(relearn["batches"]),
                    bool(relearn["reached"]),
                    str(relearn["unit"]),
                ),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"no answers: {error!r}") from None


def _check_confidences(name: str, values: NDArray[np.float64]) -> None:
    """Raise ValueError unless these are finite float64 numbers, at least one."""
    if values.dtype != np.float64 or values.ndim != 1 or not values.size:
        raise ValueError(
            f"{name} must be float64 of shape (n,), n at least 1, "
            f"got {values.dtype} of shape {values.shape}"
        )
    if not np.isfinite(values).all():
        bad = values[~np.isfinite(values)][0]
        raise ValueError(f"{name} must be finite, got {bad}")
