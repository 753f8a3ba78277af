"""A control: the clients are taken off the list, and the model stays as it is.

Every measure of forgetting must call this a failure; one that does not is of no use.

Nobody has to be online, and the server stores nothing for it.
"""

from fedneg.core.parameters import Vector
from fedneg.strategies.base import LedgerFedAvg
from fedneg.strategies.method import CONTROL, About


class DoNothing(LedgerFedAvg):
    """FedAvg whose unlearn round changes no parameter."""

    about = About(
        "changing nothing (a control)", kind=CONTROL, never="forgotten", place=8
    )

    forgets_samples = True

    def rectify(self, before: Vector, client_ids: tuple[int, ...]) -> Vector:
        """Return the very parameters that were there."""
        self.method_report = {"form": "none", "remains": "all of it: a control"}
        return before
