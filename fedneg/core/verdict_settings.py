"""The verdict's thresholds, frozen before measuring; conf/verdict feeds them.

A margin is what a gap may have *beyond* the floor of retrained models: the floor of a
few retrainings is itself uncertain, and is 0 where they happen to agree.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from fedneg.core.checks import build, number, whole


@dataclass(frozen=True)
class VerdictSettings:
    """When a number says that a model has not forgotten.

    Rates and AUCs are fractions, `js_margin` is in nats, `relearn_margin` a share of
    the retrained models' time. `power`: a line counts only if the original model's gap
    is more than so many times what is allowed. `min_relearn_batches`: retrained models
    that relearn faster leave nothing to tell apart. `min_retrainings`: fewer give no
    floor.

    What is done for it: `retrainings` trainings of the reference with other seeds,
    beside the one with the run's own; and relearning for at most `relearn_cap` batches
    (0: no relearning), looked at after every `relearn_every`.
    """

    attack_margin: float
    as_trained_margin: float
    membership_margin: float
    lira_margin: float
    canary_margin: float
    js_margin: float
    disagreement_margin: float
    relearn_margin: float
    utility_margin: float
    power: float
    min_relearn_batches: int
    min_retrainings: int
    retrainings: int
    relearn_cap: int
    relearn_every: int

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name.endswith("_margin"):
                value = getattr(self, field.name)
                number(f"verdict.{field.name}", value, minimum=0, below=1)
        number("verdict.power", self.power, minimum=1)
        whole("verdict.min_relearn_batches", self.min_relearn_batches, minimum=1)
        whole("verdict.min_retrainings", self.min_retrainings, minimum=2)
        whole("verdict.retrainings", self.retrainings, minimum=0)
        whole("verdict.relearn_cap", self.relearn_cap, minimum=0)
        whole("verdict.relearn_every", self.relearn_every, minimum=1)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Check and freeze a plain mapping (what YAML gives)."""
        return build(cls, "verdict", values)
