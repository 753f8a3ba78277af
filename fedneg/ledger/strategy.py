"""What every strategy with a ledger does, whoever makes its steps and asks its clients.

It begins with an empty ledger, rounds go in, clients come out, it begins anew or goes
on with a ledger that was kept. The app's own strategies do so (`LedgerFedAvg`), whose
steps the ledger makes of local models; and so does what `Forgettable` holds, where
somebody else's strategy makes the steps and the ledger is told of their parts.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Protocol

from fedneg.core.errors import FedNegError
from fedneg.core.layout import Layout
from fedneg.core.parameters import Vector
from fedneg.ledger.bank import Bank
from fedneg.ledger.ledger import Ledger, TakeBlock
from fedneg.ledger.rows import KeptUpdates
from fedneg.ledger.statistics import Statistics
from fedneg.ledger.steps import Blocks, Step

Norms = Mapping[int, tuple[float, ...]]


class Entered(Protocol):
    """What a client sent in a round, as far as it is entered as it came."""

    @property
    def statistics(self) -> Vector:
        """What of its model is not trained."""

    @property
    def weight(self) -> float:
        """What it is to be weighed by: its examples."""


def empty_ledger(
    model: Vector,
    layout: Layout,
    *,
    clients: int,
    server: tuple[float, float],
    keep_local: bool,
    updates: KeptUpdates | None = None,
    bank: Bank | None = None,
    folder: Path | None = None,
    limit: int = -1,
    keep_initial: bool = False,
) -> Ledger:
    """Return a ledger of a model, with rows of zeros.

    Parameters
    ----------
    model : Vector, shape (layout.width,)
        The initial one, statistics after the parameters.
    layout : Layout
    clients : int
        How many rows there are.
    server : tuple of float
        Its learning rate and momentum.
    keep_local, updates, bank, folder, limit
        As of `Ledger`.
    keep_initial : bool
        As of `Statistics`.
    """
    return Ledger(
        model[: layout.size],
        clients=clients,
        learning_rate=server[0],
        momentum=server[1],
        keep_local=keep_local,
        updates=updates,
        bank=bank,
        folder=folder,
        limit=limit,
        statistics=Statistics(
            model[layout.size :],
            clients=clients,
            means=layout.means,
            folder=folder if limit < 0 else None,  # they are few
            keep_initial=keep_initial,
        ),
    )


class LedgerStrategy:
    """A ledger, the layout of its models, and who was taken out of them.

    Attributes
    ----------
    layout : Layout
        Of the models: a whole one's vector has statistics after the d parameters.
    forgotten : set of int
        The clients that were.
    """

    layout: Layout = Layout(())
    forgotten: set[int]
    _ledger: Ledger | None = None

    @property
    def ledger(self) -> Ledger:
        """The ledger of the present model; FedNegError before there is one."""
        if self._ledger is None:
            raise FedNegError("nobody has trained yet: there is nothing to forget")
        return self._ledger

    @property
    def has_ledger(self) -> bool:
        """Whether there is one."""
        return self._ledger is not None

    def take_on(
        self, ledger: Ledger | None, layout: Layout, forgotten: Collection[int] = ()
    ) -> None:
        """Go on with a ledger, of whose models this is the layout; None: with none.

        Parameters
        ----------
        forgotten : collection of int
            Who was taken out of it before.
        """
        self._ledger, self.layout = ledger, layout
        self.forgotten = set(forgotten)

    def row_of(self, client_id: int) -> int | None:
        """Return a client's row, None before it has one; by default its own id."""
        return client_id

    @property
    def took_part(self) -> set[int]:
        """The rows whose updates are in the present model."""
        return {row for entry in self.ledger.participation for row in entry.weights}

    # -- a round -----------------------------------------------------------------------

    def enter_models(
        self,
        server_round: int,
        before: Vector,
        local: Mapping[int, Vector],
        replies: Mapping[int, Entered],
        norms: Norms,
        *,
        weights: Mapping[int, float] | None = None,
    ) -> Vector:
        """Enter a round by its local models; return the parameters after FedAvg's step.

        Parameters
        ----------
        server_round, before, local, norms
            As of `Ledger.record`.
        replies : mapping of int to Entered
            By row.
        weights : mapping of int to float, optional
            By row, where the models are not weighed as the replies are.
        """
        self._enter_statistics(replies)
        if weights is None:
            weights = {row: reply.weight for row, reply in replies.items()}
        return self.ledger.record(server_round, before, local, weights, norms)

    def enter_step(
        self,
        server_round: int,
        before: Blocks,
        step: Step,
        replies: Mapping[int, Entered],
        *,
        take: TakeBlock | None = None,
    ) -> Vector:
        """Enter a round by the parts of its step; return the parameters after it.

        Parameters
        ----------
        server_round, before, step, take
            As of `Ledger.enter`.
        replies : mapping of int to Entered
            By row.
        """
        self._enter_statistics(replies)
        return self.ledger.enter(server_round, before, step, take=take)

    def _enter_statistics(self, replies: Mapping[int, Entered]) -> None:
        """Enter what of the clients' models is not trained."""
        self.ledger.statistics.record(
            {row: reply.statistics for row, reply in replies.items()},
            {row: reply.weight for row, reply in replies.items()},
        )

    # -- forgetting --------------------------------------------------------------------

    def drop(
        self,
        client_ids: Collection[int],
        *,
        before: Blocks,
        after: Blocks,
        spread: float = 1.0,
        starts_over: bool = False,
    ) -> None:
        """Take clients out of the ledger, which stands for `after` then.

        Parameters
        ----------
        client_ids : collection of int
            Nobody, where only the model is another: that is the correction's.
        before, after, spread
            As of `Ledger.forget`.
        starts_over : bool
            Whether `after` is where another lineage begins, with an empty ledger.
        """
        if starts_over:
            self.ledger.start_over(after[:])
        else:
            rows = [row for k in client_ids if (row := self.row_of(k)) is not None]
            self.ledger.forget(rows, before=before, after=after, spread=spread)
        self.forgotten |= set(client_ids)
