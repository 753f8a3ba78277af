"""The exact way: train again from the initial parameters, without the clients.

The gold standard of the field (Bourtoule et al., arXiv:1912.03817, section 3: the model
that would have been, had the data never been there), at the price of all rounds again.
With the same initial parameters, the same number of rounds and the same random streams
its result is, bit for bit, the model that fedneg trains as `retrained` for comparison.

Differs from the paper: nothing is sharded; what is deleted is whole clients.

The remaining clients must be online for `config.rounds` rounds. The server stores the
initial parameters only, which the seed gives.
"""

from fedneg.core.parameters import Vector
from fedneg.core.settings import Config
from fedneg.strategies.base import LedgerFedAvg
from fedneg.strategies.method import BASELINE, About, Needs


class Retrain(LedgerFedAvg):
    """FedAvg whose unlearn rounds are a training from the start."""

    about = About(
        "retraining without {whom}",
        kind=BASELINE,
        title="Retraining",
        never="not forgotten",
        place=7,
    )

    forgets_samples = True

    starts_over = True

    @classmethod
    def unlearn_rounds(cls, config: Config) -> int:
        """Return the number of rounds of the training."""
        return config.rounds

    def unlearn_clients(self, number: int) -> tuple[int, ...]:
        """Return the remaining clients that would have trained in this round."""
        return self.sampled(number)

    def unlearn_stream(self, number: int) -> int:
        """Return the round of the training that is done again."""
        return number

    def needs(self) -> Needs:
        """Return all rounds, and the initial parameters."""
        return Needs(
            remaining_rounds=self.unlearn_rounds(self.config),
            server_bytes=self.initial.nbytes,
        )

    def rectify(self, before: Vector, client_ids: tuple[int, ...]) -> Vector:
        """Return the initial parameters; the ledger begins anew at them."""
        self.method_report = {
            "form": "from the initial parameters",
            "rounds": self.config.rounds,
            "remains": "nothing: trained from the initial parameters without it",
        }
        return self.initial
