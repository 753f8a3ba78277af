"""The paper's method: subtract from the global model what a client put into it.

Tahir, Tan and Babaagba, 'Can Federated Models be Rectified through Learning Negative
Gradients?', section 3. Two forms, with w the global parameters, C_k the ledger's
contribution of client k, w_k its last local model and p_k its weight there:

* ``update``:      w' = w - scale * sum of C_k                    (scale 1)
* ``parameters``:  w' = w - sum of scale_k * w_k                  (scale_k = p_k)

`update` reads the paper's 'the gradients obtained from the model trained on the
client's data locally are used to subtract from the main global model'; it is the first
step of Wu, Zhu and Mitra (arXiv:2201.09441, section 3). `parameters` reads its
'subtraction of the parameters of the local client model from the federated main model'.

``renormalise`` spreads the remaining clients' weights over the whole again, p being the
joint weight of the forgotten clients:

* ``update``:      w' = w_0 + (w - w_0 - sum of C_k) / (1 - p)
* ``parameters``:  w' = (w - sum of scale_k * w_k) / (1 - sum of scale_k)

With updates, the ledger's rows of those who stay are divided by 1 - p too: from then on
it is that of a training with the renormalised weights, from which others may be
forgotten in the same way.

Differs from the paper: it states no scale and names no case of several clients; the
default scales are ours. One round on the server; its cost is O(clients to forget * d)
(with the division, O(clients * d)) and does not depend on the amount of data
('efficiently deletable', section 2.3).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedneg.core.checks import choice, flag, number
from fedneg.core.errors import FedNegError
from fedneg.core.parameters import Vector, add
from fedneg.records.receipts import NOTHING
from fedneg.strategies.base import LedgerFedAvg
from fedneg.strategies.method import About, Needs


class NegativeGradient(LedgerFedAvg):
    """FedAvg whose unlearn round subtracts stored updates or parameters."""

    about = About("subtracting what the server had stored of {whom}", place=0)

    @dataclass(frozen=True)
    class Options:
        """`form`, `scale` (None: the form's default) and `renormalise`."""

        form: str = "update"
        scale: float | None = None
        renormalise: bool = False

        def __post_init__(self) -> None:
            choice("strategy.form", self.form, ("update", "parameters"))
            flag("strategy.renormalise", self.renormalise)
            if self.scale is not None:
                number("strategy.scale", self.scale, minimum=0)
            if (
                self.renormalise
                and self.form == "update"
                and self.scale
                not in (
                    None,
                    1,
                )
            ):
                raise FedNegError(
                    "strategy.renormalise needs strategy.scale=1 with "
                    f"strategy.form=update, got {self.scale:g}"
                )

    @property
    def keeps_local_models(self) -> bool:
        """The parameters form subtracts them; so does the paper's experiment."""
        form: str = self.options.form
        return form == "parameters" or self.config.experiment == "paper"

    def needs(self) -> Needs:
        """Return all contributions or last local models, and what renormalising takes.

        For updates that is the initial parameters.
        """
        ledger = self.ledger
        if self.options.form == "parameters":
            return Needs(server_bytes=ledger.local.rows.nbytes)
        initial = ledger.initial.nbytes if self.options.renormalise else 0
        return Needs(server_bytes=ledger.contributions.nbytes + initial)

    @classmethod
    def remains(cls, report: Mapping[str, Any], client_id: int) -> str:
        """Return that nothing does, where what was summed was subtracted, once."""
        form, scale = report.get("form"), report.get("scale", {}).get(str(client_id))
        if form == "update" and scale == 1:
            return f"{NOTHING} of the client's summed updates"
        said = "" if scale is None else f" ({form} form, scale {scale:g})"
        return f"a part of the client's summed updates{said}"

    def check_kept(self, client_ids: tuple[int, ...]) -> None:
        """Raise FedNegError if the parameters form has nothing to subtract.

        But for clients that never took part: they have put nothing into the model.
        """
        ledger = self.ledger
        if self.options.form != "parameters":
            return
        for client_id in client_ids:
            if client_id not in ledger.local and ledger.last_round(client_id):
                raise FedNegError(
                    f"strategy.form=parameters needs the last local model of client "
                    f"{client_id}, which trained in round "
                    f"{ledger.last_round(client_id)}, and there is none: it went with "
                    "an earlier forgetting, or a run kept none; forget it with "
                    "strategy.form=update or retrain=scratch, and next time train a "
                    "round with this form before a request"
                )

    def rectify(self, before: Vector, client_ids: tuple[int, ...]) -> Vector:
        """Return w' as in the module docstring."""
        self.check_kept(client_ids)
        options: NegativeGradient.Options = self.options
        self.spread = 1.0
        if options.form == "update":
            after, scales = self._subtract_updates(before, client_ids, options)
        else:
            after, scales = self._subtract_parameters(before, client_ids, options)
        self.method_report = {
            "form": options.form,
            "scale": {str(k): s for k, s in zip(client_ids, scales, strict=True)},
            "renormalise": options.renormalise,
        }
        return after

    def _subtract_updates(
        self, before: Vector, client_ids: tuple[int, ...], options: Options
    ) -> tuple[Vector, list[float]]:
        scale = 1.0 if options.scale is None else float(options.scale)
        scales = [scale] * len(client_ids)
        if not options.renormalise:
            rows = self.ledger.contributions
            terms = [(-scale, rows[k]) for k in client_ids if rows[k].any()]
            # No row, no change: a client that never took part leaves the very bytes.
            return (add(before, terms) if terms else before), scales
        share = self._constant_share(client_ids)
        self.spread = 1 / (1 - share)
        initial = self.ledger.initial.astype(np.float64)
        kept = before - initial - self.ledger.contribution(client_ids)
        return (initial + kept / (1 - share)).astype(np.float32), scales

    def _subtract_parameters(
        self, before: Vector, client_ids: tuple[int, ...], options: Options
    ) -> tuple[Vector, list[float]]:
        ledger = self.ledger
        scales = [
            0.0
            if k not in ledger.local
            else ledger.last_weight(k)
            if options.scale is None
            else float(options.scale)
            for k in client_ids
        ]
        terms = [
            (-s, ledger.local[k]) for k, s in zip(client_ids, scales, strict=True) if s
        ]
        if not terms:
            return before, scales
        after = add(before, terms)
        if not options.renormalise:
            return after, scales
        rest = 1 - sum(scales)
        if rest <= 0:
            raise FedNegError(
                "strategy.renormalise needs scales that sum to less than 1, "
                f"got {sum(scales):g}"
            )
        return (after.astype(np.float64) / rest).astype(np.float32), scales

    def _constant_share(self, client_ids: tuple[int, ...]) -> float:
        """Return the forgotten clients' joint weight; it must not have varied.

        One division can undo the weights only if they were the same in every round.
        """
        shares = self.ledger.weight_per_round(client_ids)
        if not shares:
            return 0.0
        if not all(math.isclose(s, shares[0], rel_tol=1e-9) for s in shares):
            raise FedNegError(
                "strategy.renormalise needs constant aggregation weights, but the "
                f"joint weight of clients {list(client_ids)} varied from "
                f"{min(shares):.4g} to {max(shares):.4g}; use renormalise=false"
            )
        if math.isclose(shares[0], 1, rel_tol=1e-9):
            raise FedNegError(
                "strategy.renormalise needs somebody who stays and took part, and "
                f"clients {list(client_ids)} are all; use renormalise=false"
            )
        return shares[0]
