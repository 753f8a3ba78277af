"""What happens to the model that a strategy holds: rounds go in, clients come out.

Which messages go to whom is Flower's hooks' affair (strategy.py); what lasts in a
folder is told in life.py.
"""

from collections.abc import Sequence
from dataclasses import replace
from logging import WARNING
from operator import index

from flwr.app import ArrayRecord, Message
from flwr.common import log

from fedneg.core.errors import FedNegError
from fedneg.core.parameters import Vector
from fedneg.forgettable.held_model import HeldModel
from fedneg.forgettable.method import Method
from fedneg.forgettable.moments import (
    CLIPPING,
    REST,
    advance_moments,
    give_moments,
    inherit_moments,
    remember_moments,
    take_momentum,
)
from fedneg.forgettable.optimiser import AsSet, clear_moments, settings_for
from fedneg.forgettable.parts import Attributed, Round, nobodys
from fedneg.forgettable.refusals import NotLinearError
from fedneg.forgettable.replies import Reply, by_client, read_measured, read_replies
from fedneg.forgettable.step import attribute
from fedneg.forgettable.untrained import counted, remade
from fedneg.forgettable.views import whole as whole_of
from fedneg.forgettable.weighing import Replies, copies


class Holding(HeldModel):
    """A held model, its rounds and its forgetting."""

    # -- rounds ------------------------------------------------------------------------

    def hand_out(self, arrays: ArrayRecord) -> None:
        """Begin a round at these arrays; FedNegError if they are not the model's."""
        other = self.other_in(arrays)
        if other is not None:
            raise FedNegError(
                f"the arrays of this round are not those that the ledger stands for: "
                f"{other} is another; what runs between rounds, as evaluate_fn does, "
                "must leave them as they are"
            )
        if self.method is not None:
            self.method.begin_round(whole_of(self.parameters))

    def takes_part(self, client_id: int) -> bool:
        """Return whether a client may be asked to train in this round."""
        asked = None if self.method is None else self.method.asked
        if asked is not None and self.places.get(client_id) not in asked:
            return False
        return self.nodes.is_in(client_id)

    def read(
        self, messages: Sequence[Message]
    ) -> tuple[list[Message], list[Reply], Replies]:
        """Return a round for the inner strategy, and its replies as parts of it.

        They are as the method has them; the messages say the same then, and those that
        cannot be believed are failures.

        Raises
        ------
        FedNegError
            If nobody's arrays are like those that were sent out; it names a client.
        """
        method, names = self.method, self.known
        found = read_replies(
            messages,
            self.strategy,
            names,
            before=self.model,
            client_of=self.nodes.client,
            rows=self.places,
        )
        if found.rounded and not self.says_rounded:
            self.says_rounded = True  # once: it will be so in every round
            log(WARNING, "fedneg: %s, as the model has it", found.rounded[0])
        read = found.replies
        sent = [reply for reply, _ in read]
        whole = {} if method is None else by_client(sent)
        for row, one in whole.items():
            assert method is not None
            if one.client_id not in self.places:
                continue
            before = whole_of(self.parameters)
            local = method.adjusted(row, before + whole_of(one.update))
            if local is None:
                continue
            record = names.record(local, one.statistics)
            for reply, message in read:
                if reply.row == row:
                    reply.update = local - before
                    key = next(iter(message.content.array_records))
                    message.content[key] = record.copy()
        contents = copies(self.strategy, [message for _, message in read])
        kept = Replies([reply.weight for reply in sent], contents)
        return found.messages, sent, kept

    def measured(self, messages: Sequence[Message]) -> list[Message]:
        """Return replies of measuring for the inner strategy, as `read` does.

        Raises
        ------
        FedNegError
            If nobody says what the strategy weighs by; it names a client.
        """
        return read_measured(messages, self.strategy, client_of=self.nodes.client)

    def enter(
        self,
        replies: Sequence[Reply],
        kept: Replies,
        arrays: ArrayRecord,
        settings: AsSet,
    ) -> ArrayRecord:
        """Enter a round; return the arrays, with what is frozen or whole as it was.

        Parameters
        ----------
        replies, kept
            What `read` gave.
        arrays : ArrayRecord
            What the inner strategy made of the round.
        settings : AsSet
            What its optimiser was set to when it was asked to.

        Raises
        ------
        NotLinearError
            If the step is nobody's; nothing has been changed.
        """
        ledger, names = self.ledger, self.known
        before, number = self.parameters, self.rounds + 1
        clients = by_client(replies)
        local, norms = dict[int, Vector](), dict[int, tuple[float, ...]]()
        for row, one in clients.items() if self.method is not None else ():
            norms[row] = one.norms(names.layout.parameter_shapes)
            if ledger.keep_local:
                local[row] = whole_of(before) + whole_of(one.update)
        places = self.places | {one.client_id: row for row, one in clients.items()}
        try:
            names.rest(names.views(arrays))
            step = names.difference(arrays, self.model)
            either = settings_for(ledger, self.strategy, settings)
            found, is_somebodys = self._attributed(
                Round(number, replies, kept, before, step, either)
            )
            ledger.grow(len(places))
            ledger.momentum = found.momentum
        except FedNegError:
            # The round never was, for the strategy's moments neither.
            give_moments(self.strategy, names, self.arrays, ledger)
            raise
        after = names.joined(arrays)
        self.enter_step(
            number,
            before,
            replace(found.step, local=local, norms=norms),
            counted(clients, found.step.weights, found.depends, ledger.statistics),
            # What rounding made different in the inner strategy's sum is nobody's.
            take=lambda block, made: ledger.correct(block, after[block], made),
        )
        note = advance_moments if is_somebodys else inherit_moments
        note(self.strategy, names, ledger)
        self._depends |= found.depends
        # In the order of their rows.
        self.places = dict(sorted(places.items(), key=lambda item: item[1]))
        self.hold(names.with_whole(arrays))
        self._have_made(names.rest(names.views(self.model)))
        self.rounds = number
        if self.lasts:  # as after a kill, to the last bit
            give_moments(self.strategy, names, self.arrays, ledger)
        return self.arrays

    def _attributed(self, found: Round) -> tuple[Attributed, bool]:
        """Return a step in parts, and whether these are anybody's."""
        names, starts_over = self.known, self._starts_over
        try:
            return attribute(self.strategy, self.ledger, names, found), True
        except NotLinearError:
            if not starts_over:
                raise
        return nobodys(self.strategy, found), False

    def _have_made(self, rest: Vector) -> None:
        """Have this for what of the model is not trained."""
        if rest.size:
            self.ledger.statistics.made = rest

    def _remake(self) -> None:
        """Make what is not trained anew, of those whose rows are left."""
        statistics = self.ledger.statistics
        self._have_made(remade(statistics, self.strategy, self._depends))

    def end_round(self) -> None:
        """Say that a round is over, whatever came of it."""
        if self.method is not None:
            self.method.end_round()

    # -- forgetting --------------------------------------------------------------------

    def check(self, client_ids: Sequence[int], arrays: ArrayRecord | None) -> list[int]:
        """Return the clients, each once; raise FedNegError if one cannot go."""
        _ = self.ledger
        if arrays is not None:
            self.check_ours(arrays)
        if self.unlearn_rounds:
            raise FedNegError(
                f"{self.unlearn_rounds} rounds of the last forgetting are still to "
                "come: run them first, or name all clients in one forget()"
            )
        ids = _ids(client_ids)
        for client_id in ids:
            if client_id in self.forgotten:
                raise FedNegError(f"client {client_id} was forgotten before")
            if client_id not in self.places:
                known = ", ".join(map(str, self.places)) or "nobody"
                raise FedNegError(
                    f"client {client_id} took part in no round; {known} did"
                )
        return ids

    def take_out(self, ids: Sequence[int], scale: float) -> ArrayRecord:
        """Forget clients that took part; return the model without them.

        Parameters
        ----------
        ids : sequence of int
            As `check` returned them.
        scale : float
            Of a plain subtraction.
        """
        if self.method is not None:
            self._forget_by(self.method, ids)
        else:
            self._subtract(ids, scale)
        self.nodes.leave_out(ids)
        self.rest()
        return self.arrays

    def _subtract(self, ids: Sequence[int], scale: float) -> None:
        """Have the model without some clients, in the precision of its arrays."""
        ledger, names, before = self.ledger, self.known, self.parameters
        rows = [self.places[k] for k in ids]
        momentum = None if ledger.buffers is None else ledger.buffers[rows].sum(axis=0)
        ledger.statistics.forget(rows)  # before the model that has what is left of them
        self._remake()
        self.hold(
            names.moved(
                self.model,
                lambda block: -scale * ledger.contribution(rows, block),
                ledger.statistics.current,
            )
        )
        # What a coarse type rounds away is the correction's.
        self.drop(ids, before=before, after=self.parameters)
        take_momentum(self.strategy, names, self.arrays, momentum)
        remember_moments(self.strategy, names, ledger)
        if self.lasts:  # as after a kill, to the last bit
            give_moments(self.strategy, names, self.arrays, ledger)

    def _forget_by(self, method: Method, ids: Sequence[int]) -> None:
        """Have the model as one of the app's methods leaves it."""
        ledger, names = self.ledger, self.known
        rows = tuple(self.places[k] for k in ids)
        gone = {self.places[k] for k in self.forgotten if k in self.places}
        after = method.take_out(
            ledger, names.layout, whole_of(self.parameters), rows, forgotten=gone
        )
        if ledger.participation:
            self._remake()
        self.hold(names.record(after, ledger.statistics.current))
        ledger.correction += whole_of(self.parameters) - after
        if not ledger.participation:  # from scratch
            clear_moments(self.strategy)
            self._depends &= {CLIPPING}  # which is not a moment, and stays
        else:
            ledger.shared.pop(REST, None)  # of which nobody knows whose it is
            take_momentum(self.strategy, names, self.arrays, None)
            give_moments(self.strategy, names, self.arrays, ledger)
            remember_moments(self.strategy, names, ledger)
        self.forgotten |= set(ids)


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
