"""ConDa: dampen the parameters that a client has moved more than the others have.

Chundawat, Niroula, Dhungana, Schoepf, Mandal and Brintrup, 'ConDa: Fast Federated
Unlearning with Contribution Dampening', arXiv:2410.04144. For every parameter i the
server compares how far those who leave (F) and those who stay (S) have moved it,

    r_i = mean over j in S of A_ji  /  mean over k in F of A_ki,

and shrinks it towards zero where the others moved it little:

    w'_i = min(constant r_i, bound) w_i    where r_i < cutoff,    else w_i.

Options and their values are those of the authors' code. What lies in parameters that
all have moved alike stays, all of it, and arithmetic finds it there: receipts say so.

Differs from their code: A_ki is the length |C_ki| of what client k put into the model,
the ledger's row, where theirs sums over rounds how far a client's local model was from
the initial parameters, which is mostly the way of all. It is called with the two means
exchanged, against its own comments, and counts all but the first of those who leave
among the others: here the ratio is as the comments say, and who leaves, has left, or
never took part is nobody's other. What nobody who leaves has moved stays as it is.

On the digits (5 clients, 10 rounds, client 4 plants a backdoor, seed 0) test accuracy
right after it is 0.86 by writer and 0.87 with dirichlet(0.3), of 0.90 and 0.91 before;
the negative gradient leaves 0.76 and 0.47. Attack success falls from 0.98 and 1.00 to
0.00 (`fedneg data=digits strategy=dampening attack=backdoor
data.partition=writer`). One seed is no comparison.

Nobody has to be online; one round on the server, O(K d). The server stores the ledger:
one row of d numbers per client.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedneg.core.checks import number
from fedneg.core.parameters import Vector
from fedneg.strategies.base import LedgerFedAvg
from fedneg.strategies.method import About, Needs


class Dampening(LedgerFedAvg):
    """FedAvg whose unlearn round shrinks what the leaving have moved most."""

    about = About("dampening what {whom} moved more than the others did", place=10)

    @dataclass(frozen=True)
    class Options:
        """`constant` and `bound` of the factor, and the `cutoff` of the ratio."""

        constant: float = 0.5
        bound: float = 0.5
        cutoff: float = 0.5

        def __post_init__(self) -> None:
            number("strategy.constant", self.constant, minimum=0)
            number("strategy.bound", self.bound, minimum=0, maximum=1)
            number("strategy.cutoff", self.cutoff, minimum=0)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._dampened: NDArray[np.bool_] = np.zeros(0, dtype=bool)

    def needs(self) -> Needs:
        """Return all contributions."""
        return Needs(server_bytes=self.ledger.contributions.nbytes)

    def parts(self) -> NDArray[np.intp]:
        """Return the parameters that stayed as they were, and those that shrank.

        Of the first arithmetic finds the whole contribution; of the second hardly any.
        """
        return self._dampened.astype(np.intp)

    def rectify(self, before: Vector, client_ids: tuple[int, ...]) -> Vector:
        """Return w' as in the module docstring."""
        options: Dampening.Options = self.options
        leave = self._mean_moved(client_ids)
        # Where nobody who leaves has moved it the ratio has no bound.
        ratio = np.full(before.size, np.inf)
        np.divide(self._mean_moved(self.remaining), leave, out=ratio, where=leave > 0)
        self._dampened = ratio < options.cutoff
        factor = np.minimum(options.constant * ratio, options.bound)
        after = before.copy()
        after[self._dampened] *= factor[self._dampened].astype(np.float32)
        share = float(self._dampened.mean())
        self.method_report = {
            "form": "dampened",
            "dampened_share": share,
            "remains": f"all of it in the parameters that were not dampened, "
            f"{1 - share:.3f} of them",
        }
        return after

    def _mean_moved(self, client_ids: tuple[int, ...]) -> NDArray[np.float64]:
        """Return how far clients have moved each parameter; who never took part, not.

        Row by row: all at once would be another ledger in memory.
        """
        total, count = np.zeros(self.initial.size, dtype=np.float64), 0
        for client_id in client_ids:
            row = self.ledger.contributions[client_id]
            if row.any():
                total += np.abs(row)
                count += 1
        self.ledger.release()
        return total / max(count, 1)
