"""A method that trains otherwise: every round goes half as far."""

from collections.abc import Mapping

from fedneg.core.parameters import Vector
from fedneg.strategies.base import LedgerFedAvg
from fedneg.strategies.replies import Reply


class Halved(LedgerFedAvg):
    """Forgets nothing, and learns slowly."""

    def _record(self, local: Mapping[int, Vector], good: Mapping[int, Reply]) -> Vector:
        halves = {k: (self._global + model) / 2 for k, model in local.items()}
        return super()._record(halves, good)

    def rectify(self, before: Vector, client_ids: tuple[int, ...]) -> Vector:
        """Return the very parameters that were there."""
        return before
