"""A forgetting method of one's own: a class in a file, and no fork of fedneg.

Typed in the folder of this file, where `strategy/largest.yaml` lies too:

    fedneg strategy=own_method:Largest strategy.share=0.25
    fedneg strategy=largest --config-dir .
    fedneg compare strategy=negative_gradient,own_method:Largest

The first takes its settings from `Options` below, the second from the YAML. From any
folder, if the file is installed as a package; and by a name, if that package says so:

    [project.entry-points."fedneg.methods"]
    largest = "own_method:Largest"

What else a method may say and do is in the docstrings of `fedneg.strategies.method`;
the built-in ones in `strategies/` are classes like this one.
"""

from dataclasses import dataclass

import numpy as np

from fedneg.core.checks import number
from fedneg.core.parameters import Vector
from fedneg.strategies.base import LedgerFedAvg
from fedneg.strategies.method import NOTHING, About, Needs


class Largest(LedgerFedAvg):
    """Subtract what a client put into the model, but only where that is largest."""

    about = About("subtracting the largest part of what the server stored of {whom}")

    @dataclass(frozen=True)
    class Options:
        """`share` of the parameters, those that change: ``strategy.share=0.25``."""

        share: float = 0.5

        def __post_init__(self) -> None:
            number("strategy.share", self.share, above=0, maximum=1)

    def needs(self) -> Needs:
        """Return that it reads the ledger: a row of d numbers for each client."""
        return Needs(server_bytes=self.ledger.contributions.nbytes)

    def rectify(self, before: Vector, client_ids: tuple[int, ...]) -> Vector:
        """Return the model after forgetting; both have shape (d,) and are float32."""
        share = self.options.share
        whole = self.ledger.contribution(client_ids)
        bound = np.quantile(np.abs(whole), 1 - share)
        taken = np.where(np.abs(whole) >= bound, whole, 0)
        left = NOTHING if share == 1 else f"the smallest {1 - share:.0%}"
        self.method_report = {
            "form": "largest changes",
            "share": share,
            # What the receipt says.
            "remains": f"{left} of the client's summed updates",
        }
        after: Vector = (before - taken).astype(np.float32)
        return after
