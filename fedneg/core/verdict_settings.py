"""How a run's models are judged, set before anything is measured; conf/verdict."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from fedneg.core.checks import build, number, whole
from fedneg.core.errors import FedNegError

# Of earlier releases, whose judge asked for them: a federation that was begun with one
# goes on without it.
DROPPED = frozenset(
    f"verdict.{name}"
    for name in (
        *("attack_margin", "as_trained_margin", "membership_margin", "lira_margin"),
        *("canary_margin", "js_margin", "disagreement_margin", "relearn_margin"),
        *("utility_margin", "power", "min_relearn_batches", "min_retrainings"),
    )
)
# Trainings of the reference with other seeds, by `looks`.
RETRAININGS = {1: 4, 2: 9}


@dataclass(frozen=True)
class VerdictSettings:
    """How much may be in a model that is called forgotten, and what is done for it.

    Attributes
    ----------
    alpha : float
        In so many cases at most a model that never saw the clients is said to have
        traces, or to have overshot; both looks together.
    margins : tuple of float
        Within which the whole interval of every client's residual influence must lie,
        below 0, and above 0 but below 1, where models with the client lie.
    looks : int
        1 or 2. The second is had only where the first cannot tell of the model that is
        handed over.
    retrainings : int, optional
        Trainings of the reference with other seeds; by default 4, of two looks 9.
    bank : int
        Trainings with half of the clients each, kept for every later request; 0: none.
    later : tuple of int
        Rounds of the clients that stay after which the model that is handed over is
        judged again.
    relearn_cap, relearn_every : int
        Relearning for at most so many batches (0: none), looked at after every so many.
    """

    alpha: float
    margins: tuple[float, float]
    looks: int
    retrainings: int | None
    bank: int
    later: tuple[int, ...]
    relearn_cap: int
    relearn_every: int

    def __post_init__(self) -> None:
        number("verdict.alpha", self.alpha, above=0, below=1)
        given: object = self.margins
        if not isinstance(given, list | tuple) or len(given) != 2:
            raise FedNegError(
                f"verdict.margins must be two numbers, below and above 0, got {given!r}"
            )
        low = number("verdict.margins[0]", given[0], below=0)
        # At 1 lie the models with the client.
        high = number("verdict.margins[1]", given[1], above=0, below=1)
        object.__setattr__(self, "margins", (low, high))
        if type(self.looks) is not int or self.looks not in RETRAININGS:
            raise FedNegError(f"verdict.looks must be 1 or 2, got {self.looks!r}")
        if self.retrainings is not None:
            whole("verdict.retrainings", self.retrainings, minimum=0)
        whole("verdict.bank", self.bank, minimum=0)
        later: object = self.later
        if not isinstance(later, list | tuple):
            raise FedNegError(f"verdict.later must be a list of rounds, got {later!r}")
        rounds = {whole("verdict.later", one, minimum=0) for one in later}
        object.__setattr__(self, "later", tuple(sorted(rounds)))
        whole("verdict.relearn_cap", self.relearn_cap, minimum=0)
        whole("verdict.relearn_every", self.relearn_every, minimum=1)

    @property
    def references(self) -> int:
        """How many references there may be, at the last look."""
        if self.retrainings is None:
            return RETRAININGS[self.looks]
        return self.retrainings

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Check and freeze a plain mapping (what YAML gives)."""
        return build(cls, "verdict", values)
