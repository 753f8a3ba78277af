"""The baseline: go on training without the clients that leave, and hope.

FedAvg (McMahan et al., arXiv:1602.05629, Algorithm 1) from the present model with the
remaining clients only, for `rounds` rounds. Nothing is taken out; what was learned from
the others' data may overwrite it, or not: a backdoor stays, since nothing in the
remaining data speaks against it. Every method has to be compared with this one at the
same number of rounds, since most of them end with such rounds.

The rounds are part of forgetting here, and draw from the streams that follow the
training's; `retrain=remaining` adds further ones.

The remaining clients must be online for `rounds` rounds. The server stores nothing for
it.
"""

from dataclasses import dataclass

from fedneg.core.checks import whole
from fedneg.core.parameters import Vector
from fedneg.core.settings import Config
from fedneg.strategies.base import LedgerFedAvg
from fedneg.strategies.method import BASELINE, About, Needs


class FineTune(LedgerFedAvg):
    """FedAvg whose unlearn rounds are rounds without the forgotten."""

    about = About(
        "training on without {whom}",
        kind=BASELINE,
        title="Plain fine-tuning",
        yardstick=True,
        place=6,
    )

    forgets_samples = True

    @dataclass(frozen=True)
    class Options:
        """`rounds` of the remaining clients, at least 1."""

        rounds: int = 2

        def __post_init__(self) -> None:
            whole("strategy.rounds", self.rounds, minimum=1)

    @classmethod
    def unlearn_rounds(cls, config: Config) -> int:
        """Return the option."""
        rounds: int = cls.parse_options(config).rounds
        return rounds

    def unlearn_clients(self, number: int) -> tuple[int, ...]:
        """Return the remaining clients, or the fraction of them that is drawn."""
        return self.sampled(number)

    def needs(self) -> Needs:
        """Return the rounds; the ledger is not looked at."""
        return Needs(remaining_rounds=self.options.rounds)

    def rectify(self, before: Vector, client_ids: tuple[int, ...]) -> Vector:
        """Return the parameters that the remaining clients go on from: as they were."""
        rounds: int = self.options.rounds
        self.method_report = {
            "form": "further rounds without them",
            "rounds": rounds,
            "remains": f"all of it, below {rounds} rounds "
            + ("without it" if self.config.forget_samples else "of the others"),
        }
        return before
