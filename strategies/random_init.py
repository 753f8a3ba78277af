"""A control: the model is thrown away, and fresh random parameters take its place.

Every measure of forgetting must call this a success, and every measure of use a
failure: a method is worth what it keeps beyond this. The parameters are drawn as those
before round 1 were, from another stream of the same seed, so that not even the start is
shared with the model that contained the clients.

The ledger begins anew at them. Nobody has to be online, and the server stores nothing
for it.
"""

from fedneg.core.parameters import Vector
from fedneg.strategies.base import LedgerFedAvg
from fedneg.strategies.method import CONTROL, About


class RandomInit(LedgerFedAvg):
    """FedAvg whose unlearn round draws all parameters anew."""

    about = About(kind=CONTROL, place=9)

    forgets_samples = True

    starts_over = True

    draws_anew = True

    def rectify(self, before: Vector, client_ids: tuple[int, ...]) -> Vector:
        """Return fresh parameters, the first draw after that of round 1."""
        self.method_report = {
            "form": "fresh random parameters",
            "remains": "nothing: fresh random parameters",
        }
        return self.fresh_parameters(1)
