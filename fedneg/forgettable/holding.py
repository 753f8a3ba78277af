"""What a strategy in somebody's own app holds: a ledger, and the model it stands for.

Rounds go in, each with what the inner strategy made of it, and clients come out. Which
messages go to whom is Flower's hooks' affair (strategy.py); what lasts in a folder is
told in life.py.
"""

from collections.abc import Mapping, Sequence
from operator import index
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message
from flwr.serverapp.strategy import Strategy

from fedneg.core.errors import FedNegError
from fedneg.core.parameters import Vector
from fedneg.forgettable.files import beyond
from fedneg.forgettable.method import Method
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
from fedneg.forgettable.views import blocks
from fedneg.forgettable.views import whole as whole_of
from fedneg.forgettable.weighing import Replies, copies
from fedneg.ledger.ledger import Ledger
from fedneg.ledger.statistics import Statistics


class Holding:
    """The ledger of a strategy, and the model that it stands for.

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
    ledger : Ledger or None
    names : Names or None
        The layout of the arrays; both None before there is a model.
    places : dict of int to int
        The row of each client, in their order.
    parameters : Vector, shape (d,)
        The global ones.
    handed_out : ArrayRecord
        What the nodes of the present round start from.
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
        self.clear()

    def clear(self) -> None:
        """Have no ledger."""
        self.ledger: Ledger | None = None
        self.names: Names | None = None
        self.places: dict[int, int] = {}
        self.parameters, self.handed_out = np.empty(0, np.float32), ArrayRecord()
        self._depends: set[str] = set()
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

    @property
    def held(self) -> Ledger:
        """The ledger; FedNegError before there is one."""
        if self.ledger is None:
            raise FedNegError("nobody has trained yet: there is nothing to forget")
        return self.ledger

    @property
    def _starts_over(self) -> bool:
        """Whether forgetting trains anew, and needs to know nobody's part of a step."""
        return self.method is not None and self.method.starts_over

    def begin(self, arrays: ArrayRecord) -> None:
        """Make an empty ledger at these arrays; rows come as clients do."""
        check_before(self.strategy, arrays, starts_over=self._starts_over)
        names = Names.of(arrays, self.module)
        parameters, rest = names.read(arrays)
        means = names.layout.means
        rate, momentum = server_optimiser(self.strategy)
        self.ledger = Ledger(
            parameters,
            clients=0,
            learning_rate=rate,
            momentum=momentum,
            keep_local=self.method is not None and self.method.keeps_local_models,
            statistics=Statistics(rest, clients=0, means=means, keep_initial=True),
            **beyond(self.memory_mib),
        )
        self.names, self.parameters = names, parameters
        begin_moments(self.strategy, names, self.ledger)

    def check_ours(self, arrays: ArrayRecord) -> None:
        """Raise FedNegError unless these are the arrays that the ledger stands for."""
        parameters, _ = self.known.read(arrays)
        if not np.array_equal(parameters, self.parameters):
            raise FedNegError(
                "these arrays are not those that the ledger stands for; go on with the "
                "last ones, or reset() begins anew"
            )

    @property
    def vector(self) -> Vector:
        """The model as one vector, statistics after the parameters."""
        return self.held.whole(self.parameters)

    @property
    def arrays(self) -> ArrayRecord:
        """The model that the ledger stands for; FedNegError before there is one."""
        return self.known.record(self.parameters, self.held.statistics.current)

    # -- rounds ------------------------------------------------------------------------

    def hand_out(self, arrays: ArrayRecord) -> None:
        """Remember what a round begins with: a strategy may empty the record."""
        self.parameters, _ = self.known.read(arrays)
        self.handed_out = ArrayRecord(dict(arrays))
        if self.method is not None:
            self.method.next_round(self.parameters)

    def takes_part(self, client_id: int) -> bool:
        """Return whether a client may be asked to train in this round."""
        asked = None if self.method is None else self.method.asked
        if asked is not None and self.places.get(client_id) not in asked:
            return False
        return self.nodes.is_in(client_id)

    def read(self, believed: Sequence[Message]) -> tuple[list[Reply], Replies]:
        """Return a round's replies, before the inner strategy has them, as parts of it.

        They are as the method has them; the messages say the same then.

        Raises
        ------
        FedNegError
            If arrays are not those that were sent out; it names the client.
        """
        method, names = self.method, self.known
        read = read_replies(
            believed,
            self.strategy,
            names,
            before=self.handed_out,
            client_of=self.nodes.client,
            rows=self.places,
        )
        sent = [reply for reply, _ in read]
        whole = {} if method is None else by_client(sent, names.layout.means)
        for row, one in whole.items():
            assert method is not None
            if one.client_id not in self.places:
                continue
            local = method.adjusted(row, self.parameters + whole_of(one.update))
            if local is None:
                continue
            record = names.record(local, one.rest)
            for reply, message in read:
                if reply.row == row:
                    reply.update = local - self.parameters
                    key = next(iter(message.content.array_records))
                    message.content[key] = record.copy()
        contents = copies(self.strategy, [message for _, message in read])
        return sent, Replies([reply.weight for reply in sent], contents)

    def enter(
        self, replies: Sequence[Reply], kept: Replies, arrays: ArrayRecord
    ) -> ArrayRecord:
        """Enter a round; return the arrays, with what is not trained as it is.

        Parameters
        ----------
        replies, kept
            What `read` gave.
        arrays : ArrayRecord
            What the inner strategy made of the round.

        Raises
        ------
        NotLinearError
            If the step is nobody's; nothing has been changed.
        """
        ledger, names = self.held, self.known
        before, number = self.parameters, self.rounds + 1
        after, _ = names.read(arrays)
        clients = by_client(replies, names.layout.means)
        local = (
            {row: before + whole_of(one.update) for row, one in clients.items()}
            if ledger.keep_local
            else {}
        )
        shapes = names.layout.parameter_shapes
        norms = {row: one.norms(shapes) for row, one in clients.items()}
        step = names.difference(arrays, self.handed_out)
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
        places = self.places | {one.client_id: row for row, one in clients.items()}
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
        self.places = dict(sorted(places.items(), key=lambda item: item[1]))
        self.parameters, self.rounds = after, number
        if self.lasts:  # as after a kill, to the last bit
            give_moments(self.strategy, names, self.arrays, ledger)
        return self._counted(arrays)

    def _counted(self, arrays: ArrayRecord) -> ArrayRecord:
        """Return the arrays with what is not trained as it is: no means of it."""
        names = self.known
        if not (names.counters or names.frozen):
            return arrays
        nothing = np.zeros(names.layout.size, np.float32)
        whole = names.record(nothing, self.held.statistics.current)
        ours = {*names.counters, *names.frozen}
        return ArrayRecord(
            {n: whole[n] if n in ours else array for n, array in arrays.items()}
        )

    # -- forgetting --------------------------------------------------------------------

    def check(self, client_ids: Sequence[int], arrays: ArrayRecord | None) -> list[int]:
        """Return the clients, each once; raise FedNegError if one cannot go."""
        _ = self.held
        if arrays is not None:
            self.check_ours(arrays)
        if self.unlearn_rounds:
            raise FedNegError(
                f"{self.unlearn_rounds} rounds of the last forgetting are still to "
                "come: run them first, or name all clients in one forget()"
            )
        ids = _ids(client_ids)
        for client_id in ids:
            if client_id in self.nodes.forgotten:
                raise FedNegError(f"client {client_id} was forgotten before")
            if client_id not in self.places:
                known = ", ".join(map(str, self.places)) or "nobody"
                raise FedNegError(
                    f"client {client_id} took part in no round; {known} did"
                )
        return ids

    def take_out(
        self, ids: Sequence[int], arrays: ArrayRecord | None, scale: float
    ) -> ArrayRecord:
        """Forget clients that took part; return the model without them.

        Parameters
        ----------
        ids : sequence of int
            As `check` returned them.
        arrays : ArrayRecord, optional
            The model as it is, for its precision; by default the ledger's.
        scale : float
            Of a plain subtraction.
        """
        rows = [self.places[k] for k in ids]
        if self.method is not None:
            found = self._forget_by(self.method, tuple(rows))
        else:
            found = self._subtract(rows, scale, arrays)
        self.nodes.forgotten |= set(ids)
        self.nodes.leave_out(ids)
        return found

    def _subtract(
        self, rows: Sequence[int], scale: float, arrays: ArrayRecord | None
    ) -> ArrayRecord:
        """Return the model without some rows, in the precision of its arrays."""
        ledger, names = self.held, self.known
        after = self.parameters.astype(np.float64)
        if arrays is not None:
            views = names.views(arrays)
            after = joined([views[name] for name in names.parameters], np.float64)
        before = after.astype(np.float32)
        for block in blocks(after.size):
            after[block] -= scale * ledger.contribution(rows, block)
        momentum = None if ledger.buffers is None else ledger.buffers[rows].sum(axis=0)
        ledger.statistics.forget(rows)  # before the model that has what is left of them
        found = names.record(after, ledger.statistics.current)
        del after  # twice the bytes of a row
        # What a coarse type rounds away is the correction's.
        self.parameters, _ = names.read(found)
        ledger.forget(rows, before=before, after=self.parameters)
        take_momentum(self.strategy, names, found, momentum)
        remember_moments(self.strategy, names, ledger)
        return found

    def _forget_by(self, method: Method, rows: tuple[int, ...]) -> ArrayRecord:
        """Return the model as one of the app's methods leaves it."""
        ledger, names = self.held, self.known
        gone = {self.places[k] for k in self.nodes.forgotten if k in self.places}
        after = method.take_out(
            ledger, names.layout, self.parameters, rows, forgotten=gone
        )
        found = names.record(after, ledger.statistics.current)
        self.parameters, _ = names.read(found)
        ledger.correction += self.parameters - after
        if not ledger.participation:  # from scratch
            clear_moments(self.strategy)
            self._depends.clear()
            return found
        take_momentum(self.strategy, names, found, None)
        give_moments(self.strategy, names, found, ledger)
        remember_moments(self.strategy, names, ledger)
        return found

    # -- from files --------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """Return what belongs to the ledger, as JSON can hold it."""
        method = self.method
        return {
            "clients": {str(k): place for k, place in self.places.items()},
            "nodes": self.nodes.known,
            "forgotten": sorted(self.nodes.forgotten),
            "rounds": self.rounds,
            "strategy": type(self.strategy).__name__,
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
        self.ledger, self.names, self.rounds = ledger, names, facts["rounds"]
        self.places = {int(k): place for k, place in facts["clients"].items()}
        self.nodes.remember(facts.get("nodes", {}))
        self.nodes.stay(self.places)
        self.nodes.forgotten = set(facts["forgotten"])
        self._depends = set(facts.get("depends", ()))
        self.parameters = parameters
        arrays = self.arrays
        self.parameters, _ = names.read(arrays)
        give_moments(self.strategy, names, arrays, ledger)
        self.nodes.leave_out(self.nodes.forgotten)

    def by_client(self, report: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a method says, its rows under the names of their clients."""
        name = {str(row): str(client) for client, row in self.places.items()}

        def renamed(value: Any) -> Any:
            if isinstance(value, Mapping) and value and set(value) <= set(name):
                return {name[row]: found for row, found in value.items()}
            return value

        return {key: renamed(value) for key, value in report.items()}


def _ids(client_ids: Sequence[int]) -> list[int]:
    """Return client ids, each once and in order, whatever type of whole number."""
    try:
        given = list(client_ids)
        if any(isinstance(one, bool) for one in given):
            raise TypeError
        ids = sorted({index(one) for one in given})
    except TypeError:
        raise FedNegError(
            f"forget takes a list of client ids, whole numbers, got {client_ids!r}"
        ) from None
    if not ids:
        raise FedNegError("forget needs at least one client id, got none")
    return ids
