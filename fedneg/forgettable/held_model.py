"""The ledger of a strategy in somebody's own app, and the model that it stands for."""

from collections.abc import Mapping
from logging import INFO, WARNING
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from flwr.common import log
from flwr.serverapp.strategy import Strategy

from fedneg.core.errors import FedNegError
from fedneg.core.layout import Layout
from fedneg.core.parameters import Vector
from fedneg.forgettable.files import beyond
from fedneg.forgettable.method import Method
from fedneg.forgettable.moments import give_moments
from fedneg.forgettable.names import Names
from fedneg.forgettable.nodes import Nodes
from fedneg.forgettable.optimiser import (
    check_momentum,
    clear_moments,
    differing,
    digest_of_moments,
    has_moments,
    put_model,
    server_optimiser,
    settings_of,
)
from fedneg.forgettable.refusals import check_before
from fedneg.forgettable.views import Joined, digest_of, first_other, whole
from fedneg.ledger.ledger import Ledger
from fedneg.ledger.strategy import LedgerStrategy, empty_ledger


class HeldModel(LedgerStrategy):
    """A ledger, and the model that it stands for: what a strategy holds.

    Parameters
    ----------
    strategy : Strategy
        The inner one.
    nodes : Nodes
    method : Method or None
        None: a plain subtraction.
    module : torch module or None
        Says what of the arrays is trained.
    memory_mib : int
        Rows that are more than this lie on the disk.
    lasts : bool
        Whether it may be taken back from files at any time: then the strategy's moments
        are those of the ledger after every round, to the last bit.

    Attributes
    ----------
    names : Names or None
        What the arrays are, None before there is a model.
    places : dict of int to int
        The row of each client, in their order.
    model : ArrayRecord
        The global one, in the precision that it has; what is handed out shares it.
    rounds : int
        In which somebody took part.
    """

    def __init__(
        self,
        strategy: Strategy,
        nodes: Nodes,
        *,
        method: Method | None,
        module: Any,
        memory_mib: int,
        lasts: bool,
    ) -> None:
        self.strategy, self.nodes = strategy, nodes
        self.method, self.module = method, module
        self.memory_mib, self.lasts = memory_mib, lasts
        self.forgotten = set()
        self.clear()

    def clear(self) -> None:
        """Have no ledger."""
        self._ledger, self.layout = None, Layout(())
        self.names: Names | None = None
        self.places: dict[int, int] = {}
        self.model = ArrayRecord()
        # Of the arrays that files were written of, which may be finer than these are.
        self._digest: str | None = None
        self._depends: set[str] = set()
        self.says_rounded = False
        # As its owner has set the server's optimiser; and how the last start left it.
        self.settings = dict[str, float]()
        self._left: tuple[dict[str, float], str] | None = None
        self.rounds = 0
        if self.method is not None:
            self.method.rounds = 0  # of a forgetting that is over, too

    @property
    def depends(self) -> tuple[str, ...]:
        """As of `fedneg.forgettable.strategy.Forgettable`."""
        return tuple(sorted(self._depends))

    @property
    def unlearn_rounds(self) -> int:
        """How many of the next rounds are still a part of the last forgetting."""
        return 0 if self.method is None else self.method.rounds

    @property
    def known(self) -> Names:
        """The layout of the arrays, once there is a ledger."""
        assert self.names is not None, "start() comes first"
        return self.names

    def row_of(self, client_id: int) -> int | None:
        """Return a client's row, which it has from its first round on."""
        return self.places.get(client_id)

    @property
    def _starts_over(self) -> bool:
        """Whether forgetting trains anew, and needs to know nobody's part of a step."""
        return self.method is not None and self.method.starts_over

    def begin(self, arrays: ArrayRecord) -> None:
        """Make an empty ledger at these arrays; rows come as clients do.

        The strategy begins, too: moments of another training are no client's here, and
        a copy of its model is not this one.
        """
        check_before(self.strategy, arrays, starts_over=self._starts_over)
        names = Names.of(arrays, self.module)
        names.check_finite(arrays)
        ledger = empty_ledger(
            np.concatenate(names.read(arrays)),
            names.layout,
            clients=0,
            server=server_optimiser(self.strategy),
            keep_local=self.method is not None and self.method.keeps_local_models,
            keep_initial=True,
            **beyond(self.memory_mib),
        )
        self.take_on(ledger, names.layout, self.forgotten)
        self.names = names
        self.hold(arrays)
        if has_moments(self.strategy):
            log(
                WARNING,
                "fedneg: %s has trained before, elsewhere: this training begins anew, "
                "without the moments of those rounds, which are of none of its clients",
                type(self.strategy).__name__,
            )
        clear_moments(self.strategy)
        self.settings, self._left = settings_of(self.strategy), None

    def wake(self) -> None:
        """Go on with a ledger: the strategy's moments are those of it, whoever had it.

        Raises
        ------
        FedNegError
            If its owner has switched a momentum on or off meanwhile.
        """
        check_momentum(self.ledger, self.strategy)
        self.regain()

    def regain(self) -> None:
        """Have the strategy's moments again, whoever had them; and its settings."""
        settings, digest = self._left or (settings_of(self.strategy), "")
        self._left = None  # until this start ends, nothing can be told of it
        if changed := differing(settings, settings_of(self.strategy)):
            self.settings |= settings_of(self.strategy)
            log(INFO, "fedneg: %s; rounds before stay as they were", changed)
        if digest == digest_of_moments(self.strategy):
            put_model(self.strategy, self.arrays)
            return
        if digest:
            log(
                WARNING,
                "fedneg: the moments of %s are not as this training left them, and "
                "are so again; with others, begin anew by reset()",
                type(self.strategy).__name__,
            )
        self.settle()

    def settle(self) -> None:
        """Let the strategy's moments be those that the ledger tells of."""
        give_moments(self.strategy, self.known, self.arrays, self.ledger)

    def rest(self) -> None:
        """Note how the strategy is left, so that `wake` finds what was done with it."""
        self._left = settings_of(self.strategy), digest_of_moments(self.strategy)

    def check_ours(self, arrays: ArrayRecord) -> None:
        """Raise FedNegError unless these are the arrays that the ledger stands for."""
        other = self.other_in(arrays)
        if other is not None and digest_of(arrays) == self._digest:
            self.hold(arrays)
        elif other is not None:
            raise FedNegError(
                f"these arrays are not those that the ledger stands for: {other} is "
                "another; go on with the last ones, or reset() begins anew"
            )

    def other_in(self, arrays: ArrayRecord) -> str | None:
        """Return the name of an array that is not as the ledger stands for; or None.

        Raises
        ------
        FedNegError
            If there are other arrays than in the model, or other shapes.
        """
        self.known.views(arrays)
        return first_other(arrays, self.model)

    def hold(self, arrays: ArrayRecord) -> None:
        """Have these arrays for the model that the ledger stands for."""
        if self.lasts:
            arrays = self.known.kept(arrays)
        # Of one's own, since whoever handed them out may change what they have.
        self.model = ArrayRecord(dict(arrays))
        self._digest = None

    @property
    def parameters(self) -> Joined:
        """The global ones, as a vector that is read by blocks."""
        return self.known.joined(self.model)

    @property
    def vector(self) -> Vector:
        """The model as one vector, statistics after the parameters."""
        return self.ledger.whole(whole(self.parameters))

    @property
    def arrays(self) -> ArrayRecord:
        """The model that the ledger stands for; FedNegError before there is one."""
        _ = self.ledger
        return ArrayRecord(dict(self.model))

    # -- from files --------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """Return what belongs to the ledger, as JSON can hold it."""
        method = self.method
        return {
            "clients": {str(k): place for k, place in self.places.items()},
            "nodes": self.nodes.known,
            "forgotten": sorted(self.forgotten),
            "rounds": self.rounds,
            "strategy": type(self.strategy).__name__,
            "settings": self.settings,
            "method": None if method is None else [method.name, method.options],
            "depends": self.depends,
        }

    def take_back(
        self,
        ledger: Ledger,
        names: Names,
        facts: Mapping[str, Any],
        parameters: Vector,
    ) -> None:
        """Go on with a ledger, at parameters, and what `facts` gave."""
        self.take_on(ledger, names.layout, facts["forgotten"])
        self.names, self.rounds = names, facts["rounds"]
        self.places = {int(k): place for k, place in facts["clients"].items()}
        self.nodes.remember(facts.get("nodes", {}))
        self.nodes.stay(self.places)
        self._depends = set(facts.get("depends", ()))
        if self.method is not None:
            self.method.rounds = 0  # of a forgetting that these files do not know
        self.hold(names.record(parameters, ledger.statistics.current))
        self._digest = facts.get("model")
        self.settings = dict(facts.get("settings") or settings_of(self.strategy))
        self.settle()
        self.rest()
        self.nodes.leave_out(self.forgotten)

    def by_client(self, report: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a method says, its rows under the names of their clients."""
        name = {str(row): str(client) for client, row in self.places.items()}

        def renamed(value: Any) -> Any:
            if isinstance(value, Mapping) and value and set(value) <= set(name):
                return {name[row]: found for row, found in value.items()}
            return value

        return {key: renamed(value) for key, value in report.items()}
