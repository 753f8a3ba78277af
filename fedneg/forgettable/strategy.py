"""Any Flower strategy made forgettable: a wrapper that keeps the ledger beside it.

    strategy = Forgettable(FedAvg(fraction_train=0.5))
    result = strategy.start(grid=grid, initial_arrays=arrays, num_rounds=10)
    arrays = strategy.forget([client], result.arrays)

`Forgettable` is a strategy itself, as Flower's differential privacy wrappers are:
`start()` is Flower's, and every hook is the inner strategy's. What the wrapper adds is
one row per client, the sum of its weighted updates, so that

    global = initial + sum of all contributions + correction

at every round, and forgetting is one subtraction. That holds where the server's step is
a sum of parts, each of one client's updates. There is no list of such strategies here:
each step is compared with what is known to make steps (`fedneg.forgettable.step`), and
one that nothing made is refused before its model is handed out.

Nothing of fedneg's own configuration, tasks or messages is needed, nor torch.

A little longer than most: half of it says, for whoever has an app of their own, what
each public method takes, gives and refuses.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from inspect import signature
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fedneg.core import checks
from fedneg.core.errors import FedNegError
from fedneg.forgettable import arguments as given
from fedneg.forgettable.files import read_ledger, write_ledger
from fedneg.forgettable.holding import Holding
from fedneg.forgettable.life import Life
from fedneg.forgettable.method import SUBTRACT, chosen
from fedneg.forgettable.nodes import Nodes
from fedneg.forgettable.optimiser import (
    AsSet,
    clear_moments,
    differing,
    settings_of,
)
from fedneg.forgettable.views import digest_of, whole
from fedneg.ledger.ledger import Ledger

# With more of rows they lie on the disk, as those of the app do.
MEMORY_MIB = 2048


class Forgettable(Strategy):
    """A Flower strategy that can forget clients.

    Parameters
    ----------
    strategy : Strategy
        The inner one, whose arguments keep their meaning.
    clients : mapping of int to int, or str, optional
        Which client a node is, by Flower's node id. Or the name of a metric, a whole
        number, by which a node says in its first reply who it is. Where neither tells,
        the nodes of an app that is served (`fedneg.serve`) say it. All of this is for
        whoever believes its clients. Else each node is a client of its own, under its
        node id.
        Node ids stay where SuperNodes authenticate; a client that comes back under
        another one is another client, unless told here. A client may have several
        nodes.
    method : str
        How to forget: ``negative_gradient`` subtracts what was stored of a client.
        Others of the app's methods go by their names there, as ``compensated`` or
        ``retrain``, and so does ``module:Class``.
    options : mapping, optional
        The method's own.
    model : torch module, or a callable that makes one, optional
        Says what of the arrays is trained: what it has frozen is in no row, its float
        buffers are statistics and its others counters. By default floats are trained,
        but for those that are called as BatchNorm's running statistics are.
    memory_mib : int
        Rows that are more than this lie in a nameless file on the disk of the cache
        ($FEDNEG_CACHE), and are read as they are needed.
    state : str or Path, optional
        A folder in which all of it lasts: checkpoints, requests that are made by
        `fedneg request forget`, receipts, an audit log, the model in service. `start`
        goes on from there, and carries requests out.
    keys : str or Path, optional
        Of the keys that sign for it; by default beside it (DIR-keys).
    repair_rounds : int
        With `state`: how many rounds follow a forgetting before it is purged.
    checkpoint : int
        With `state`: write a checkpoint after every so many rounds.

    Raises
    ------
    FedNegError
        If `strategy` is none, or has a `start()` of its own, which could not be
        watched; or if there is no such method or option, or it needs what only
        fedneg's own app has.
    """

    def __init__(
        self,
        strategy: Strategy,
        *,
        clients: Mapping[int, int] | str | None = None,
        method: str = SUBTRACT,
        options: Mapping[str, Any] | None = None,
        model: Any = None,
        memory_mib: int = MEMORY_MIB,
        state: str | Path | None = None,
        keys: str | Path | None = None,
        repair_rounds: int = 2,
        checkpoint: int = 1,
    ) -> None:
        if not isinstance(strategy, Strategy):
            raise FedNegError(
                "Forgettable wraps a flwr.serverapp.strategy.Strategy, got "
                f"{type(strategy).__name__}"
            )
        if isinstance(strategy, Forgettable):
            raise FedNegError("this strategy is a Forgettable: it needs no other")
        if type(strategy).start is not Strategy.start:
            raise FedNegError(
                f"{type(strategy).__name__} has a start() of its own, and Forgettable "
                "must see every step: let its hooks do what start() does"
            )
        self.strategy = strategy
        self._nodes = Nodes(strategy, clients)
        self._holding = Holding(
            strategy,
            self._nodes,
            method=chosen(given.method(method), given.options(options)),
            module=given.module(model),
            memory_mib=checks.whole("memory_mib", memory_mib, minimum=0),
            lasts=state is not None,
        )
        self._is_going = False
        self._life: Life | None = None
        beside = None if keys is None else given.path("keys", keys)
        checks.whole("repair_rounds", repair_rounds, minimum=0)
        checks.whole("checkpoint", checkpoint, minimum=1)
        if state is not None:
            self._life = Life(
                self._holding,
                given.path("state", state),
                beside,
                repair_rounds=repair_rounds,
                every=checkpoint,
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> "Forgettable":
        """Return a copy without `state`, of which there is one: to try things with."""
        found = memo[id(self)] = type(self).__new__(type(self))
        for name, value in vars(self).items():
            setattr(found, name, None if name == "_life" else deepcopy(value, memo))
        found._is_going = False
        return found

    def reset(self) -> None:
        """Begin anew: an empty ledger, at whatever arrays `start` is given next.

        The moments of the inner strategy are gone, too. Whom was forgotten stays so.

        Raises
        ------
        FedNegError
            If there is a `state`: what its log says stays so.
        """
        if self._life is not None:
            raise FedNegError(
                f"the federation in {self._life.state.folder} goes on; begin anew with "
                "another state folder"
            )
        self._check_idle("reset() after it")
        clear_moments(self.strategy)
        self._holding.clear()

    def fresh(self, *, with_forgotten: bool = False) -> "Forgettable":
        """Return another one that has trained nothing: for models to compare with.

        This one stays as it is. The other has no `state`, and leaves out whom was
        forgotten, unless `with_forgotten`.
        """
        checks.flag("with_forgotten", with_forgotten)
        # Without the rows, which may be large, and would be cleared.
        found = deepcopy(self, {id(self.ledger): None})
        found.reset()
        if with_forgotten:
            found._nodes.take_back()
            found._holding.forgotten = set()
        return found

    @property
    def ledger(self) -> Ledger | None:
        """Rows in the order of `clients`; None before `start`."""
        return self._holding.ledger if self._holding.has_ledger else None

    @property
    def clients(self) -> tuple[int, ...]:
        """The clients whose updates are, or were, in the model, as they came."""
        return tuple(self._holding.places)

    @property
    def nodes(self) -> dict[int, int]:
        """The client of each of Flower's nodes that is known."""
        return {int(node): client for node, client in self._nodes.known.items()}

    @property
    def forgotten(self) -> tuple[int, ...]:
        """The clients that were forgotten, in order."""
        return tuple(sorted(self._holding.forgotten))

    @property
    def depends(self) -> tuple[str, ...]:
        """What forgetting leaves of a client beside its contribution, for people.

        Nothing where the server's step is a plain weighted sum. Else what the step
        took from all clients together, which cannot be undone for one of them: second
        moments, or whose updates were chosen.
        """
        return self._holding.depends

    @property
    def unlearn_rounds(self) -> int:
        """How many of the next rounds are still a part of the last forgetting.

        0 where nobody takes part, as in a subtraction; rounds of repair come after.
        """
        return self._holding.unlearn_rounds

    @property
    def report(self) -> Mapping[str, Any]:
        """What the method says of the last forgetting; a subtraction says nothing."""
        method = self._holding.method
        return {} if method is None else self._holding.by_client(method.report)

    # -- what Flower calls -------------------------------------------------------------

    def summary(self) -> None:
        """Log the inner strategy's summary."""
        self.strategy.summary()

    def start(
        self, grid: Grid, initial_arrays: ArrayRecord, *arguments: Any, **more: Any
    ) -> Result:
        """Run rounds, as Flower's own `start()` does, with a ledger.

        Raises
        ------
        FedNegError
            If a ledger is there already, and stands for other arrays; `reset()` begins
            anew. With `state`, if the folder is of another strategy or model, or is not
            as its log says. If an argument is none that Flower's `start()` takes.
        NotLinearError
            If the strategy's step is no sum of its clients' parts.
        """
        bound = signature(Strategy.start).bind(
            self, grid, initial_arrays, *arguments, **more
        )
        bound.apply_defaults()
        given.check_start(bound.arguments)
        if self._life is not None:
            return self._life.start(self, grid, initial_arrays, *arguments, **more)
        self._check_idle("a second one must wait for its end")
        if not (self.ledger and self.ledger.clients):
            self._holding.begin(initial_arrays)
        else:
            self._holding.check_ours(initial_arrays)
            self._holding.wake()
        self._is_going = True
        try:
            return super().start(grid, initial_arrays, *arguments, **more)
        except BaseException:
            # A hook of the inner strategy may have been left in the middle.
            self._holding.settle()
            raise
        finally:
            self._holding.rest()
            self._is_going = False

    def _check_idle(self, what: str) -> None:
        """Raise FedNegError while `start` runs: its next round has its own arrays."""
        if self._is_going:
            raise FedNegError(f"start() is going on: {what}")

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Let the inner strategy choose among those that are not forgotten."""
        if self._life is not None:
            self._life.look()
        self._holding.hand_out(arrays)
        takes_part = self._holding.takes_part
        others = self._nodes.grid_of(grid, takes_part)
        with self._nodes.minima.in_force():
            messages = self.strategy.configure_train(
                self._number(server_round), arrays, config, others
            )
            return self._nodes.to_be_sent(messages, takes_part)

    def _number(self, server_round: int) -> int:
        """Return a round's number for the inner strategy, those before it counted."""
        return server_round + (0 if self._life is None else self._life.before)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return what the inner strategy makes of the replies, entered in the ledger.

        Raises
        ------
        NotLinearError
            If nothing that is known makes that of them.
        """
        replies = list(replies)
        self._nodes.get_to_know(replies)
        if self._life is not None:
            self._life.look()
        holding = self._holding
        believed = self._nodes.replies_of(replies, holding.takes_part)
        believed, sent, kept = holding.read(believed)
        settings = AsSet.of(self.strategy)
        with self._nodes.minima.in_force():
            arrays, metrics = self.strategy.aggregate_train(
                self._number(server_round), believed
            )
        if arrays is not None:
            arrays = holding.enter(sent, kept, arrays, settings)
        holding.end_round()
        if self._life is not None:
            arrays = self._life.after_round(arrays, believed)
        return arrays, metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Let the inner strategy choose among those that are not forgotten."""
        others = self._nodes.grid_of(grid, self._nodes.is_in)
        with self._nodes.minima.in_force():
            messages = self.strategy.configure_evaluate(
                self._number(server_round), arrays, config, others
            )
            return self._nodes.to_be_sent(messages, self._nodes.is_in)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return what the inner strategy makes of what the others measured.

        Raises
        ------
        FedNegError
            If nobody says what the strategy weighs by.
        """
        replies = list(replies)
        self._nodes.get_to_know(replies, trained=False)
        believed = self._holding.measured(
            self._nodes.replies_of(replies, self._nodes.is_in)
        )
        with self._nodes.minima.in_force():
            return self.strategy.aggregate_evaluate(
                self._number(server_round), believed
            )

    # -- forgetting --------------------------------------------------------------------

    def forget(
        self,
        client_ids: Sequence[int],
        arrays: ArrayRecord | None = None,
        *,
        scale: float = 1.0,
    ) -> ArrayRecord:
        """Return the model without these clients' contributions.

        From now on the inner strategy sees a grid without their nodes, its minima are
        lowered by their number, and what they send never enters an aggregate again.
        Running statistics and whole numbers are made anew of the last of the clients
        that stay, as the inner strategy weighs. Go on with `start(grid, arrays)` from
        what is returned.

        Parameters
        ----------
        client_ids : sequence of int
        arrays : ArrayRecord, optional
            The model as it is, to be held to the ledger's.
        scale : float
            The share of the contributions to subtract, in (0, 1]; of another method
            than subtracting, 1.

        Returns
        -------
        ArrayRecord
            Of the names and types that the arrays have that `start` was given.

        Raises
        ------
        FedNegError
            If a client took part in no round or was forgotten before, or `arrays` are
            not what the ledger stands for.
        """
        scale = given.share("scale", scale)
        if arrays is not None:
            given.record("arrays", arrays)
        method, holding = self._holding.method, self._holding
        if scale != 1 and method is not None:
            raise FedNegError(
                f"scale is of a plain subtraction, and this is {method.name}: "
                f"say it in its options, got {scale!r}"
            )
        if self._life is not None:
            return self._life.forget(client_ids, arrays, scale)
        self._check_idle(
            "forget after it; with state=DIR `fedneg request forget` is heard meanwhile"
        )
        ids = holding.check(client_ids, arrays)
        holding.regain()  # the strategy may have had another training meanwhile
        return holding.take_out(ids, scale)

    # -- files -------------------------------------------------------------------------

    def save(self, folder: str | Path) -> Path:
        """Write the ledger into a folder; return the file that names the others.

        A kill at any moment leaves the one that was there before. Whoever reads the
        folder can compute each client's summed updates: keep it as the model itself.

        Raises
        ------
        FedNegError
            If nobody has trained yet, or the folder cannot be written.
        """
        if self.unlearn_rounds:
            raise FedNegError(
                f"{self.unlearn_rounds} rounds of the last forgetting are still to "
                "come, and cannot be saved in between: run them first"
            )
        holding, folder = self._holding, given.path("folder", folder)
        return write_ledger(
            folder,
            holding.ledger,
            holding.known,
            whole(holding.parameters),
            {**holding.facts(), "model": digest_of(holding.model)},
        )

    @classmethod
    def load(
        cls,
        folder: str | Path,
        strategy: Strategy,
        *,
        clients: Mapping[int, int] | str | None = None,
        model: Any = None,
        memory_mib: int = MEMORY_MIB,
    ) -> "Forgettable":
        """Return a strategy with the ledger that `save` wrote, as it was then.

        Parameters
        ----------
        strategy : Strategy
            Another inner one, of the same arguments; its moments are put right too.
        clients, model, memory_mib
            As of `Forgettable`.

        Raises
        ------
        FedNegError
            If a file is missing or damaged, or the strategy is not of the kind, or has
            not the server optimiser, that the ledger was written with.
        """
        module, folder = given.module(model), given.path("folder", folder)
        checks.whole("memory_mib", memory_mib, minimum=0)
        ledger, names, parameters, facts = read_ledger(folder, module, memory_mib)
        method, options = facts.get("method") or (SUBTRACT, None)
        found = cls(
            strategy,
            clients=clients,
            method=method,
            options=options,
            model=module,
            memory_mib=memory_mib,
        )
        name, settings = type(strategy).__name__, settings_of(strategy)
        if name != facts["strategy"]:
            raise FedNegError(
                f"the ledger in {folder} is of {facts['strategy']}, got {name}"
            )
        if changed := differing(facts.get("settings", settings), settings):
            raise FedNegError(
                f"the ledger in {folder} is of another {name}: {changed}; load it with "
                "what it was, and change it then"
            )
        found._holding.take_back(ledger, names, facts, parameters)
        return found

    @property
    def arrays(self) -> ArrayRecord:
        """The model that the ledger stands for; FedNegError before there is one."""
        return self._holding.arrays
