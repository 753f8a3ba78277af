"""Any Flower strategy made forgettable: a wrapper that keeps the ledger beside it.

    strategy = Forgettable(FedAvg(fraction_train=0.5))
    result = strategy.start(grid=grid, initial_arrays=arrays, num_rounds=10)
    arrays = strategy.forget([client], result.arrays)

`Forgettable` is a strategy itself, as Flower's differential privacy wrappers are:
`start()` is Flower's, and every hook is the inner strategy's. What the wrapper adds is
one row per client, the sum of its weighted updates, so that

    global = initial + sum of all contributions + correction

at every round, and forgetting is one subtraction. That holds where the server's step is
linear in the updates. There is no list of such strategies here: each step is compared
with the ledger's, and one that differs is refused before its model is handed out.

Nothing of fedneg's own configuration, tasks or messages is needed, nor torch.

A little longer than most: half of it says, for whoever has an app of their own, what
each public method takes, gives and refuses.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fedneg.core.errors import FedNegError
from fedneg.core.parameters import Vector, unflatten
from fedneg.forgettable.files import read_ledger, write_ledger
from fedneg.forgettable.inner import (
    give_momentum,
    lower_minima,
    minima_of,
    server_optimiser,
    take_momentum,
)
from fedneg.forgettable.life import Life
from fedneg.forgettable.method import SUBTRACT, Method, chosen
from fedneg.forgettable.names import Names, joined
from fedneg.forgettable.nodes import Nodes
from fedneg.forgettable.results import Evaluate
from fedneg.forgettable.step import Reply, check_step
from fedneg.ledger.ledger import Ledger
from fedneg.ledger.statistics import Statistics

# What else a strategy may weigh replies by.
EXAMPLES = "num-examples"


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

    def reset(self) -> None:
        """Begin anew: an empty ledger, at whatever arrays `start` is given next.

        Whom was forgotten stays so.

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
        self._clear()

    def _clear(self) -> None:
        """Have no ledger."""
        self.ledger: Ledger | None = None
        self._places: dict[int, int] = {}
        self._global = np.empty(0, np.float32)
        self._rounds = 0
        self._names: Names | None = None

    @property
    def clients(self) -> tuple[int, ...]:
        """The clients whose updates are, or were, in the model, as they came."""
        return tuple(self._places)

    @property
    def forgotten(self) -> tuple[int, ...]:
        """The clients that were forgotten, in order."""
        return tuple(sorted(self._forgotten))

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
            If the strategy's step is no weighted sum of updates.
        """
        if self._life is not None:
            return self._start_living(grid, initial_arrays, *arguments, **more)
        if self._names is None:
            self._begin(initial_arrays)
        else:
            self._check_ours(initial_arrays)
        return super().start(grid, initial_arrays, *arguments, **more)

    def _start_living(self, *arguments: Any, **more: Any) -> Result:
        """Run what is missing of so many rounds, where the state stands."""
        life = self._life
        assert life is not None
        bound = signature(Strategy.start).bind(self, *arguments, **more)
        bound.apply_defaults()
        given = bound.arguments

        def run(arrays: ArrayRecord, rounds: int, evaluate: Evaluate | None) -> Result:
            self._before = life.rounds
            own = {"initial_arrays": arrays, "num_rounds": rounds}
            return Strategy.start(**{**given, **own, "evaluate_fn": evaluate})

        return life.run(
            run, given["initial_arrays"], given["num_rounds"], given["evaluate_fn"]
        )

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Let the inner strategy choose among those that are not forgotten."""
        if self._life is not None:
            self._life.look()
        # Read before it is handed on: a strategy may empty the record.
        self._global, _ = self._known.read(arrays)
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
            If that is not what the ledger makes of them.
        """
        replies = list(replies)
        self._nodes.get_to_know(replies)
        if self._life is not None:
            self._life.look()
        believed = self._nodes.replies_of(replies, self._takes_part)
        updates = self._adjusted(believed, self._updates(believed))
        arrays, metrics = self.strategy.aggregate_train(
            self._before + server_round, believed
        )
        if arrays is not None:
            self._enter(updates, arrays)
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
        lower_minima(self.strategy, self._minima, by=len(self._out))

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
        if ledger.buffers is not None:
            give_momentum(self.strategy, names, found, ledger.buffers)
        else:
            take_momentum(self.strategy, names, found, None)
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
        }

    @classmethod
    def load(
        cls,
        folder: str | Path,
        strategy: Strategy,
        *,
        clients: Mapping[int, int] | str | None = None,
        model: Any = None,
    ) -> "Forgettable":
        """Return a strategy with the ledger that `save` wrote, as it was then.

        Parameters
        ----------
        strategy : Strategy
            Another inner one, of the same arguments; its momentum is put right too.
        clients, model
            As of `Forgettable`.

        Raises
        ------
        FedNegError
            If a file is missing or damaged, or the strategy is not of the kind, or has
            not the server optimiser, that the ledger was written with.
        """
        module = _module(model)
        ledger, names, facts = read_ledger(Path(folder), module)
        method, options = facts.get("method") or (SUBTRACT, None)
        found = cls(
            strategy, clients=clients, method=method, options=options, model=module
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
        self._global = parameters
        arrays = self.arrays
        self._global, _ = names.read(arrays)
        if ledger.buffers is not None:
            give_momentum(self.strategy, names, arrays, ledger.buffers)
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

    def _begin(self, arrays: ArrayRecord) -> None:
        """Make an empty ledger at these arrays; rows come as clients do."""
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
        )
        self._names, self._global = names, parameters

    def _check_ours(self, arrays: ArrayRecord) -> None:
        """Raise FedNegError unless these are the arrays that the ledger stands for."""
        parameters, _ = self._known.read(arrays)
        if not np.array_equal(parameters, self._global):
            raise FedNegError(
                "these arrays are not those that the ledger stands for; go on with the "
                "last ones, or reset() begins anew"
            )

    def _updates(self, replies: Iterable[Message]) -> dict[int, Reply]:
        """Return what each client sent, as one reply of however many nodes it has."""
        key = getattr(self.strategy, "weighted_by_key", EXAMPLES)
        names, found = self._known, dict[int, Reply]()
        means = names.layout.means
        for reply in replies:
            if reply.has_error():
                continue
            client_id = self._nodes.client(reply.metadata.src_node_id)
            arrays = next(iter(reply.content.array_records.values()), None)
            metrics = next(iter(reply.content.metric_records.values()), None)
            if arrays is None or metrics is None or key not in metrics:
                continue  # the inner strategy says what it thinks of that
            try:
                parameters, rest = names.read(arrays)
            except FedNegError as error:
                raise FedNegError(f"client {client_id}: {error}") from None
            one = Reply(parameters, rest, float(str(metrics[key])))
            known = found.get(client_id)
            found[client_id] = (
                one if known is None else known.with_another(one, means=means)
            )
        return found

    def _adjusted(
        self, replies: Sequence[Message], updates: dict[int, Reply]
    ) -> dict[int, Reply]:
        """Return the updates as the method has them; the messages say the same then."""
        method, names = self._method, self._known
        for client_id, reply in updates.items() if method is not None else ():
            assert method is not None
            row = self._places.get(client_id)
            local = None if row is None else method.adjusted(row, reply.parameters)
            if local is None:
                continue
            updates[client_id] = replace(reply, parameters=local)
            record = names.record(local, reply.rest)
            for message in replies:
                node = message.metadata.src_node_id
                if self._nodes.client(node) == client_id and not message.has_error():
                    key = next(iter(message.content.array_records))
                    message.content[key] = record.copy()
        return updates

    def _enter(self, updates: Mapping[int, Reply], arrays: ArrayRecord) -> None:
        """Enter a round; refuse a step that is not the ledger's, and change nothing."""
        ledger, before, number = self._held, self._global, self._rounds + 1
        after, _ = self._known.read(arrays)
        places = dict(self._places)
        for client_id in sorted(updates):
            places.setdefault(client_id, len(places))
        replies = {places[k]: found for k, found in updates.items()}
        check_step(
            type(self.strategy).__name__,
            ledger,
            replies,
            before=before,
            after=after,
            epsilon=self._known.epsilon,
            number=number,
        )
        ledger.grow(len(places))
        weights = {row: reply.weight for row, reply in replies.items()}
        local = {row: reply.parameters for row, reply in replies.items()}
        norms = {row: self._norms(found - before) for row, found in local.items()}
        expected = ledger.record(number, before, local, weights, norms)
        rest = {row: reply.rest for row, reply in replies.items()}
        ledger.statistics.record(rest, weights)
        # What rounding made different in the inner strategy's sum is nobody's.
        ledger.correction += after - expected
        self._places, self._global, self._rounds = places, after, number

    def _norms(self, update: Vector) -> tuple[float, ...]:
        """Return how long an update is in each of the parameters' arrays."""
        arrays = unflatten(update, self._known.layout.parameter_shapes)
        return tuple(float(np.linalg.norm(array)) for array in arrays)

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
