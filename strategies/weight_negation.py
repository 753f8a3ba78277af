"""NoT: negate the first layer's weights, and let the remaining clients repair it.

Khalil, Brunswic, Lamghari, Li, Beitollahi and Chen, 'NoT: Federated Unlearning via
Weight Negation', CVPR 2025, arXiv:2503.05657: the parameters of a layer are multiplied
by -1, which breaks how layers have adapted to each other, and fine-tuning with the
clients that stay restores what is useful. The layer of their experiments is the first
one. Here that is its weight matrix; the bias stays.

The model is of no use right after it: what makes it a method is `retrain=remaining`,
and how many rounds of that are needed is its cost. It does not depend on who leaves.

Differs from the paper: the rounds of repair are the run's recovery rounds, not part of
the method.

Nobody has to be online for the negation, and the remaining clients for the repair. The
server stores nothing for it.
"""

from math import prod

import numpy as np
from numpy.typing import NDArray

from fedneg.core.parameters import Vector
from fedneg.strategies.base import LedgerFedAvg
from fedneg.strategies.method import About


class WeightNegation(LedgerFedAvg):
    """FedAvg whose unlearn round changes the sign of the first array."""

    about = About(place=4)

    forgets_samples = True

    def parts(self) -> NDArray[np.intp]:
        """Return the first array, and the rest."""
        size = sum(map(prod, self._shapes))
        return (np.arange(size) >= prod(self._shapes[0])).astype(np.intp)

    def rectify(self, before: Vector, client_ids: tuple[int, ...]) -> Vector:
        """Return the parameters with the first array times -1."""
        size = prod(self._shapes[0])
        after = before.copy()
        after[:size] *= -1
        self.method_report = {
            "form": "first weights negated",
            "negated": size,
            "remains": "all of it, with the signs of the first weights changed",
        }
        return after
