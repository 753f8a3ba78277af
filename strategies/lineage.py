"""The ledger of the models that descend from the same initial parameters."""

from collections.abc import Collection
from typing import Any

import numpy as np

from fedneg.core.errors import FedNegError
from fedneg.core.formats import name_clients
from fedneg.core.layout import Layout
from fedneg.core.machine import cache_root
from fedneg.core.parameters import NDArrays, Shapes, Vector, flatten
from fedneg.core.settings import Config
from fedneg.ledger.bank import DECAYS, Bank
from fedneg.ledger.ledger import Ledger
from fedneg.ledger.rows import KeptUpdates, Rows, make_rows
from fedneg.ledger.strategy import LedgerStrategy, empty_ledger
from fedneg.strategies.method import ForgettingMethod
from fedneg.strategies.sampling import sample_size
from fedneg.tasks.prototype import Prototype


def ledger_of(
    model: Vector,
    layout: Layout,
    config: Config,
    *,
    keep_local: bool,
    keep_updates: int,
    keep_recent: int = 0,
) -> tuple[Ledger, Rows]:
    """Return an empty ledger, and rows where a round's replies can wait.

    Both lie on the disk if the ledger is larger than `strategy.ledger_memory_mib`.

    Parameters
    ----------
    model : Vector, shape (layout.width,)
        The initial one.
    layout : Layout
    config : Config
    keep_local : bool
        Whether it keeps each client's last local model.
    keep_updates : int
        Every how many rounds it keeps all clients' updates; 0: never.
    keep_recent : int
        How many of the last rounds' it keeps, with a bank of the older ones.
    """
    settings, clients = config.strategy, config.clients
    kept = -(-config.rounds // keep_updates) if keep_updates else 0
    banked = keep_recent + len(DECAYS) if keep_recent else 0
    rows = clients * (1 + kept + banked)
    large = rows * 4 * layout.size > settings.ledger_memory_mib * 2**20
    folder = cache_root() / "scratch" if large else None
    ledger = empty_ledger(
        model,
        layout,
        clients=clients,
        server=(settings.server_learning_rate, settings.server_momentum),
        keep_local=keep_local,
        updates=KeptUpdates(
            keep_updates, make_rows(clients * kept, layout.size, folder)
        ),
        bank=Bank(keep_recent, clients=clients, size=layout.size, folder=folder),
        folder=folder,
    )
    return ledger, make_rows(sample_size(config, clients), model.size, folder)


class Lineage(LedgerStrategy, ForgettingMethod):
    """The part of a strategy that keeps a ledger of the current model.

    Attributes
    ----------
    initial : Vector, shape (d,)
        Parameters that the current lineage began with.
    prototype : Prototype
        Makes models of the task; `use_task` sets it.
    """

    initial: Vector
    prototype: Prototype
    # Of the parameters alone: what the ledger's rows are made of.
    _shapes: Shapes = ()
    _server_bytes: int | None = None
    method_report: dict[str, Any]
    # Replies of a round wait here until all are in.
    _waiting: Rows

    @property
    def server_bytes(self) -> int:
        """What the method reads of that which the server keeps (`Needs`), bytes.

        Measured when forgetting began, the last time; before that, of the ledger now.
        """
        if self._server_bytes is None:
            return self.needs().server_bytes
        return self._server_bytes

    @property
    def _keep_local(self) -> bool:
        """Whether the ledger keeps last local models: needed, or asked for."""
        return self.keeps_local_models or self.settings.keep_local_models

    def use_task(self, prototype: Prototype) -> None:
        """Take what is trained; a reset comes next.

        Raises
        ------
        FedNegError
            If the method needs what the task does not have, naming both.
        """
        for what in self.task_needs():
            prototype.task.require(what, of=f"strategy={self.settings.name}")
        self.prototype, self.layout = prototype, prototype.layout

    def _make_room(self, count: int) -> None:
        """Let so many replies wait: in a round that forgets there may be more.

        More than in one of training, where those who leave answer beside a sample.
        """
        if count > len(self._waiting):
            on_disk = isinstance(self._waiting, np.memmap)
            folder = cache_root() / "scratch" if on_disk else None
            size, self._waiting = self._waiting.shape[1], make_rows(0, 0)
            self._waiting = make_rows(count, size, folder)

    def reset(self, initial: NDArrays) -> None:
        """Start a new lineage: an empty ledger at this initial model.

        A ledger beyond `strategy.ledger_memory_mib` lies on the disk.

        Parameters
        ----------
        initial : NDArrays
            In the order of the layout; without a task they have no names.
        """
        if not self.layout.parts:
            self.layout = Layout.of_arrays(initial)
        self._shapes = self.layout.parameter_shapes
        # Before the new ones are made: there may be room for one ledger only.
        self._ledger, self._waiting = None, make_rows(0, 0)
        start = flatten(initial)
        # The ledger's own may come to hold what forgetting left (`fold_correction`).
        self.initial = start[: self.layout.size]
        self._ledger, self._waiting = ledger_of(
            start,
            self.layout,
            self.config,
            keep_local=self._keep_local,
            keep_updates=self.keeps_updates,
            keep_recent=self.keeps_recent,
        )

    def take_on(
        self, ledger: Ledger | None, layout: Layout, forgotten: Collection[int] = ()
    ) -> None:
        """Go on with a ledger that another strategy keeps; `reset` makes one's own.

        For methods that need no task.
        """
        super().take_on(ledger, layout, forgotten)
        self._shapes, self.initial = layout.parameter_shapes, self.ledger.initial

    def take_out(self, before: Vector, client_ids: tuple[int, ...]) -> Vector:
        """Return the parameters after forgetting; the ledger stands for them then.

        Of whom some examples go, its row stays, which cannot be divided, and the
        method's report says so.

        Parameters
        ----------
        before : Vector, shape (d,)
            The global parameters.
        client_ids : tuple of int
            Those of `begin`.
        """
        self._server_bytes = self.needs().server_bytes  # while all rows are there
        after = self.rectify(before, client_ids)
        some = bool(self.config.forget_samples)
        if some and not self.starts_over:
            self.method_report["ledger"] = (
                f"what is kept of {name_clients(client_ids)} is of all examples, those "
                "that went included"
            )
        self.drop(
            () if some else client_ids,
            before=before,
            after=after,
            spread=self.spread,
            starts_over=self.starts_over,
        )
        return after

    def fresh_parameters(self, draw: int) -> Vector:
        """Return other initial parameters, which no training ever saw; `draw` >= 1.

        Raises
        ------
        FedNegError
            If there is no task, whose model says how they are drawn.
        """
        if not hasattr(self, "prototype"):
            raise FedNegError(
                f"strategy={self.settings.name} needs a task, whose model it draws anew"
            )
        arrays = self.prototype.initial(seed=self.config.seed, draw=draw)
        return flatten(arrays)[: self.layout.size]
