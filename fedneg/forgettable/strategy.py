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
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fedneg.core.checks import whole
from fedneg.core.errors import FedNegError
from fedneg.core.parameters import Vector
from fedneg.forgettable.files import beyond, read_ledger, write_ledger
from fedneg.forgettable.inner import lower_minima, minima_of
from fedneg.forgettable.life import Life
from fedneg.forgettable.method import SUBTRACT, Method, chosen
from fedneg.forgettable.moments import (
    advance_moments,
    begin_moments,
    clear_moments,
    give_moments,
    remember_moments,
    server_optimiser,
    take_momentum,
)
from fedneg.forgettable.names import Names, joined
from fedneg.forgettable.nodes import Nodes
from fedneg.forgettable.refusals import NotLinearError, check_before
from fedneg.forgettable.replies import Reply, by_client, read_replies
from fedneg.forgettable.step import Round, attribute, nobodys
from fedneg.forgettable.views import Blocks
from fedneg.forgettable.views import whole as whole_of
from fedneg.forgettable.weighing import Replies, copies
from fedneg.ledger.ledger import Ledger
from fedneg.ledger.statistics import Statistics

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

    Attributes
    ----------
    ledger : Ledger or None
        Rows in the order of `clients`; None before `start`.

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
        if type(strategy).start is not Strategy.start:
            raise FedNegError(
                f"{type(strategy).__name__} has a start() of its own, and Forgettable "
                "must see every step: let its hooks do what start() does"
            )
        self.strategy = strategy
        self.memory_mib = whole("memory_mib", memory_mib, minimum=0)
        self._nodes, self._minima = Nodes(clients), minima_of(strategy)
        self._method, self._model = chosen(method, options), _module(model)
        # Who was forgotten, and who has asked to be: they are asked for nothing.
        self._forgotten: set[int] = set()
        self._out: set[int] = set()
        self._before = 0  # rounds of earlier starts, in how a state counts them
        self._clear()
        self._life: Life | None = None
        if state is not None:
            self._life = Life(
                self,
                Path(state),
                None if keys is None else Path(keys),
                repair_rounds=repair_rounds,
                every=checkpoint,
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> "Forgettable":
        """Return a copy without `state`, of which there is one: to try things with."""
        found = memo[id(self)] = type(self).__new__(type(self))
        for name, value in vars(self).items():
            setattr(found, name, None if name == "_life" else deepcopy(value, memo))
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
        clear_moments(self.strategy)
        self._clear()

    def _clear(self) -> None:
        """Have no ledger."""
        self.ledger: Ledger | None = None
        self._places: dict[int, int] = {}
        self._global, self._handed_out = np.empty(0, np.float32), ArrayRecord()
        self._depends: set[str] = set()
        self._rounds = 0
        self._names: Names | None = None

    @property
    def clients(self) -> tuple[int, ...]:
        """The clients whose updates are, or were, in the model, as they came."""
        return tuple(self._places)

    @property
    def nodes(self) -> dict[int, int]:
        """The client of each of Flower's nodes that is known."""
        return {int(node): client for node, client in self._nodes.known.items()}

    @property
    def forgotten(self) -> tuple[int, ...]:
        """The clients that were forgotten, in order."""
        return tuple(sorted(self._forgotten))

    @property
    def depends(self) -> tuple[str, ...]:
        """What forgetting leaves of a client beside its contribution, for people.

        Nothing where the server's step is a plain weighted sum. Else what the step
        took from all clients together, which cannot be undone for one of them: second
        moments, or whose updates were chosen.
        """
        return tuple(sorted(self._depends))

    @property
    def unlearn_rounds(self) -> int:
        """How many of the next rounds are still a part of the last forgetting.

        0 where nobody takes part, as in a subtraction; rounds of repair come after.
        """
        return 0 if self._method is None else self._method.rounds

    @property
    def report(self) -> Mapping[str, Any]:
        """What the method says of the last forgetting; a subtraction says nothing."""
        return {} if self._method is None else self._method.report

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
            as its log says.
        NotLinearError
            If the strategy's step is no sum of its clients' parts.
        """
        if self._life is not None:
            return self._life.start(grid, initial_arrays, *arguments, **more)
        if self._names is None:
            self._begin(initial_arrays)
        else:
            self._check_ours(initial_arrays)
        return super().start(grid, initial_arrays, *arguments, **more)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Let the inner strategy choose among those that are not forgotten."""
        if self._life is not None:
            self._life.look()
        # Read before it is handed on: a strategy may empty the record.
        self._global, _ = self._known.read(arrays)
        self._handed_out = ArrayRecord(dict(arrays))
        if self._method is not None:
            self._method.next_round(self._global)
        return self.strategy.configure_train(
            self._before + server_round,
            arrays,
            config,
            self._nodes.grid_of(grid, self._takes_part),
        )

    def _takes_part(self, client_id: int) -> bool:
        """Return whether a client may be asked to train in this round."""
        asked = None if self._method is None else self._method.asked
        if asked is not None and self._places.get(client_id) not in asked:
            return False
        return client_id not in self._out

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
        believed = self._nodes.replies_of(replies, self._takes_part)
        # Before the strategy has them: it may empty them.
        read = read_replies(
            believed,
            self.strategy,
            self._known,
            before=self._handed_out,
            client_of=self._nodes.client,
            rows=self._places,
        )
        sent, kept = self._adjusted(read)
        arrays, metrics = self.strategy.aggregate_train(
            self._before + server_round, believed
        )
        if arrays is not None:
            self._enter(sent, kept, arrays)
            arrays = self._counted(arrays)
        if self._life is not None:
            arrays = self._life.after_round(arrays, believed)
        return arrays, metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Let the inner strategy choose among those that are not forgotten."""
        return self.strategy.configure_evaluate(
            self._before + server_round,
            arrays,
            config,
            self._nodes.grid_of(grid, lambda k: k not in self._out),
        )

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return what the inner strategy makes of what the others measured."""
        replies = list(replies)
        self._nodes.get_to_know(replies, trained=False)
        return self.strategy.aggregate_evaluate(
            self._before + server_round,
            self._nodes.replies_of(replies, lambda k: k not in self._out),
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
        Running statistics are the mean of those of the clients that stay, weighted by
        their examples. Go on with `start(grid, arrays)` from what is returned.

        Parameters
        ----------
        client_ids : sequence of int
        arrays : ArrayRecord, optional
            The model as it is, for its precision; by default the ledger's.
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
        if not 0 < scale <= 1:
            raise FedNegError(f"scale must be in (0, 1], got {scale!r}")
        if scale != 1 and self._method is not None:
            raise FedNegError(
                f"scale is of a plain subtraction, and this is {self._method.name}: "
                f"say it in its options, got {scale!r}"
            )
        if self._life is not None:
            return self._life.forget(client_ids, arrays, scale)
        return self._take_out(self._check(client_ids, arrays), arrays, scale)

    def _take_out(
        self, ids: Sequence[int], arrays: ArrayRecord | None, scale: float
    ) -> ArrayRecord:
        """Forget clients that took part."""
        rows = [self._places[k] for k in ids]
        if self._method is not None:
            found = self._forget_by(self._method, tuple(rows))
        else:
            found = self._subtract(rows, scale, arrays)
        self._forgotten |= set(ids)
        self._leave_out(ids)
        return found

    def _leave_out(self, client_ids: Iterable[int]) -> None:
        """Ask clients for nothing any more, and believe nothing that they send."""
        self._out |= set(client_ids)
        lower_minima(self._minima, by=len(self._out))

    def _subtract(
        self, rows: Sequence[int], scale: float, arrays: ArrayRecord | None
    ) -> ArrayRecord:
        """Return the model without some rows, in the precision of its arrays."""
        ledger, names = self._held, self._known
        exact = self._global.astype(np.float64)
        if arrays is not None:
            exact = joined(
                [arrays[name].numpy() for name in names.parameters], np.float64
            )
        after = exact - scale * ledger.contribution(rows)
        momentum = None if ledger.buffers is None else ledger.buffers[rows].sum(axis=0)
        ledger.statistics.forget(rows)  # before the model that has what is left of them
        found = names.record(after, ledger.statistics.current)
        # What a coarse type rounds away is the correction's.
        self._global, _ = names.read(found)
        ledger.forget(rows, before=exact.astype(np.float32), after=self._global)
        take_momentum(self.strategy, names, found, momentum)
        remember_moments(self.strategy, names, ledger)
        return found

    def _forget_by(self, method: Method, rows: tuple[int, ...]) -> ArrayRecord:
        """Return the model as one of the app's methods leaves it."""
        ledger, names = self._held, self._known
        gone = {self._places[k] for k in self._forgotten if k in self._places}
        after = method.take_out(
            ledger, names.layout, self._global, rows, forgotten=gone
        )
        found = names.record(after, ledger.statistics.current)
        self._global, _ = names.read(found)
        ledger.correction += self._global - after
        if not ledger.participation:  # from scratch
            clear_moments(self.strategy)
            self._depends.clear()
            return found
        take_momentum(self.strategy, names, found, None)
        give_moments(self.strategy, names, found, ledger)
        remember_moments(self.strategy, names, ledger)
        return found

    def _check(
        self, client_ids: Sequence[int], arrays: ArrayRecord | None
    ) -> list[int]:
        """Return the clients, each once; raise FedNegError if one cannot go."""
        _ = self._held
        if arrays is not None:
            self._check_ours(arrays)
        ids = sorted(set(client_ids))
        if not ids:
            raise FedNegError("forget needs at least one client id, got none")
        for client_id in ids:
            if client_id in self._forgotten:
                raise FedNegError(f"client {client_id} was forgotten before")
            if client_id not in self._places:
                known = ", ".join(map(str, self._places)) or "nobody"
                raise FedNegError(
                    f"client {client_id} took part in no round; {known} did"
                )
        return ids

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
        return write_ledger(Path(folder), self._held, self._known, self._facts())

    def _facts(self) -> dict[str, Any]:
        """Return what belongs to the ledger, as JSON can hold it."""
        method = self._method
        return {
            "clients": {str(k): place for k, place in self._places.items()},
            "nodes": self._nodes.known,
            "forgotten": self.forgotten,
            "rounds": self._rounds,
            "strategy": type(self.strategy).__name__,
            "method": None if method is None else [method.name, method.options],
            "depends": self.depends,
        }

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
        module = _module(model)
        whole("memory_mib", memory_mib, minimum=0)
        ledger, names, facts = read_ledger(Path(folder), module, memory_mib)
        method, options = facts.get("method") or (SUBTRACT, None)
        found = cls(
            strategy,
            clients=clients,
            method=method,
            options=options,
            model=module,
            memory_mib=memory_mib,
        )
        name = type(strategy).__name__
        server = (*server_optimiser(strategy), name)
        kept = (ledger.learning_rate, ledger.momentum, facts["strategy"])
        if server != kept:
            raise FedNegError(
                f"the ledger in {folder} is of {kept[2]} with server learning rate "
                f"{kept[0]:g} and momentum {kept[1]:g}, got {name} with {server[0]:g} "
                f"and {server[1]:g}"
            )
        rebuilt = ledger.rebuilt()
        found._take_back(ledger, names, facts, rebuilt)
        # What a coarse type rounds away is the correction's.
        ledger.correction += found._global - rebuilt
        return found

    def _take_back(
        self,
        ledger: Ledger,
        names: Names,
        facts: Mapping[str, Any],
        parameters: Vector,
    ) -> None:
        """Go on with a ledger, at parameters, and what `_facts` gave."""
        self.ledger, self._names, self._rounds = ledger, names, facts["rounds"]
        self._places = {int(k): place for k, place in facts["clients"].items()}
        self._nodes.remember(facts.get("nodes", {}))
        self._nodes.stay(self._places)
        self._forgotten = set(facts["forgotten"])
        self._depends = set(facts.get("depends", ()))
        self._global = parameters
        arrays = self.arrays
        self._global, _ = names.read(arrays)
        give_moments(self.strategy, names, arrays, ledger)
        self._leave_out(self._forgotten)

    @property
    def _vector(self) -> Vector:
        """The model as one vector, statistics after the parameters."""
        return self._held.whole(self._global)

    @property
    def arrays(self) -> ArrayRecord:
        """The model that the ledger stands for; FedNegError before there is one."""
        return self._known.record(self._global, self._held.statistics.current)

    # -- the ledger --------------------------------------------------------------------

    @property
    def _known(self) -> Names:
        assert self._names is not None, "start() comes first"
        return self._names

    @property
    def _held(self) -> Ledger:
        if self.ledger is None:
            raise FedNegError("nobody has trained yet: there is nothing to forget")
        return self.ledger

    @property
    def _starts_over(self) -> bool:
        """Whether forgetting trains anew, and needs to know nobody's part of a step."""
        return self._method is not None and self._method.starts_over

    def _begin(self, arrays: ArrayRecord) -> None:
        """Make an empty ledger at these arrays; rows come as clients do."""
        check_before(self.strategy, arrays, starts_over=self._starts_over)
        names = Names.of(arrays, self._model)
        parameters, rest = names.read(arrays)
        means = names.layout.means
        rate, momentum = server_optimiser(self.strategy)
        self.ledger = Ledger(
            parameters,
            clients=0,
            learning_rate=rate,
            momentum=momentum,
            keep_local=self._method is not None and self._method.keeps_local_models,
            statistics=Statistics(rest, clients=0, means=means, keep_initial=True),
            **beyond(self.memory_mib),
        )
        self._names, self._global = names, parameters
        begin_moments(self.strategy, names, self.ledger)

    def _check_ours(self, arrays: ArrayRecord) -> None:
        """Raise FedNegError unless these are the arrays that the ledger stands for."""
        parameters, _ = self._known.read(arrays)
        if not np.array_equal(parameters, self._global):
            raise FedNegError(
                "these arrays are not those that the ledger stands for; go on with the "
                "last ones, or reset() begins anew"
            )

    def _adjusted(
        self, read: Sequence[tuple[Reply, Message]]
    ) -> tuple[list[Reply], Replies]:
        """Return replies as the method has them; the messages say the same then."""
        method, names = self._method, self._known
        sent = [reply for reply, _ in read]
        whole = {} if method is None else by_client(sent, names.layout.means)
        for row, one in whole.items():
            assert method is not None
            if one.client_id not in self._places:
                continue
            local = method.adjusted(row, self._global + whole_of(one.update))
            if local is None:
                continue
            record = names.record(local, one.rest)
            for reply, message in read:
                if reply.row == row:
                    reply.update = local - self._global
                    key = next(iter(message.content.array_records))
                    message.content[key] = record.copy()
        contents = copies(self.strategy, [message for _, message in read])
        return sent, Replies([reply.weight for reply in sent], contents)

    def _enter(
        self, replies: Sequence[Reply], kept: Replies, arrays: ArrayRecord
    ) -> None:
        """Enter a round; refuse a step that is nobody's, and change nothing."""
        ledger, names = self._held, self._known
        before, number = self._global, self._rounds + 1
        after, _ = names.read(arrays)
        clients = by_client(replies, names.layout.means)
        local = (
            {row: before + whole_of(one.update) for row, one in clients.items()}
            if ledger.keep_local
            else {}
        )
        norms = {row: self._norms(one.update) for row, one in clients.items()}
        step = names.difference(arrays, self._handed_out)
        try:
            found = attribute(
                self.strategy, ledger, names, Round(number, replies, kept, before, step)
            )
        except FedNegError as error:
            if not (isinstance(error, NotLinearError) and self._starts_over):
                # The round never was, for the strategy's moments neither.
                give_moments(self.strategy, names, self.arrays, ledger)
                raise
            found = nobodys(replies)
        places = self._places | {one.client_id: row for row, one in clients.items()}
        ledger.grow(len(places))
        expected = ledger.enter(
            number,
            before,
            found.parts,
            found.weights,
            gain=found.gain,
            local=local,
            norms=norms,
        )
        ledger.statistics.record(
            {row: one.rest for row, one in clients.items()},
            {row: one.weight for row, one in clients.items()},
        )
        # What rounding made different in the inner strategy's sum is nobody's.
        ledger.correction += np.subtract(after, expected, out=expected)
        advance_moments(self.strategy, names, ledger)
        self._depends |= found.depends
        # In the order of their rows.
        self._places = dict(sorted(places.items(), key=lambda item: item[1]))
        self._global, self._rounds = after, number
        if self._life is not None:  # as after a kill, to the last bit
            give_moments(self.strategy, names, self.arrays, ledger)

    def _norms(self, update: Blocks) -> tuple[float, ...]:
        """Return how long an update is in each of the parameters' arrays."""
        found, start = [], 0
        for shape in self._known.layout.parameter_shapes:
            stop = start + prod(shape)
            found.append(float(np.linalg.norm(update[start:stop])))
            start = stop
        return tuple(found)

    def _counted(self, arrays: ArrayRecord) -> ArrayRecord:
        """Return the arrays with what is not trained as it is: no means of it."""
        names = self._known
        if not (names.counters or names.frozen):
            return arrays
        nothing = np.zeros(names.layout.size, np.float32)
        whole = names.record(nothing, self._held.statistics.current)
        ours = {*names.counters, *names.frozen}
        return ArrayRecord(
            {n: whole[n] if n in ours else array for n, array in arrays.items()}
        )


def _module(model: Any) -> Any:
    """Return a model that was given as such, or as a function that makes one."""
    found = model() if callable(model) and not hasattr(model, "state_dict") else model
    if found is not None and not hasattr(found, "named_parameters"):
        raise FedNegError(
            f"model must be a torch module, or make one, got {type(found).__name__}"
        )
    return found
