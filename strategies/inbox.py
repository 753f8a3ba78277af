"""The replies of one round: which are believed, and who is left out of it and why."""

from collections.abc import Callable, Collection, Iterable, Mapping
from logging import WARNING

from flwr.app import Message
from flwr.common import log

from fedneg.core.layout import Layout
from fedneg.core.parameters import Vector, add, weights_of
from fedneg.core.settings import StrategySettings
from fedneg.ledger.rows import Rows, release
from fedneg.strategies.claims import reason_of
from fedneg.strategies.hooks import Hooks
from fedneg.strategies.phases import Failure, RoundReport
from fedneg.strategies.replies import Reply, absurd, read_reply


def leave_out(report: RoundReport, client_id: int, reason: str) -> None:
    """Enter a failure in a round's report and log it by client id."""
    report.failures.append(
        Failure(report.server_round, report.phase, client_id, reason)
    )
    log(
        WARNING,
        "round %d (%s): client %d left out: %s",
        report.server_round,
        report.phase,
        client_id,
        reason,
    )


class Inbox:
    """Takes in the replies of one round.

    Parameters
    ----------
    report : RoundReport
        Of the round; failures are entered there.
    asked : mapping of int to int
        The client ids that were asked, by their node.
    before : Vector, shape (d,)
        The global parameters that they were sent.
    layout : Layout
        Of the model.
    waiting : Rows, at least len(asked) rows of layout.width
        Replies wait there until all are in.
    settings : StrategySettings
    hooks : Hooks
    """

    def __init__(
        self,
        report: RoundReport,
        asked: Mapping[int, int],
        before: Vector,
        layout: Layout,
        waiting: Rows,
        settings: StrategySettings,
        hooks: Hooks,
    ) -> None:
        self.report, self.asked, self.before = report, asked, before
        self.layout, self.waiting = layout, waiting
        self.settings, self.hooks = settings, hooks

    def take_in(
        self, messages: Iterable[Message], out: Callable[[], Collection[int]]
    ) -> dict[int, Reply]:
        """Return the usable replies by client id, in order; the rest are failures.

        Parameters
        ----------
        messages : iterable of Message
        out : callable
            () -> who is out; asked once all are in.
        """
        good: dict[int, Reply] = {}
        answered: set[int] = set()
        for message in messages:
            client_id = self.asked.get(message.metadata.src_node_id)
            if client_id is None:
                # An error may come from the SuperLink and name no client: whoever is
                # missing below is found by difference.
                log(WARNING, "a reply from a node that was not asked is dropped")
            elif client_id in answered:
                if good.pop(client_id, None) is not None:
                    self._fail(client_id, "answered more than once")
            else:
                answered.add(client_id)
                self.hooks.on_reply(len(answered), len(self.asked))
                try:
                    good[client_id] = self._read(message, client_id, len(answered) - 1)
                except Exception as error:
                    # Whatever the bytes of somebody's choice lead to is that client's
                    # failure, and not the server's.
                    self._fail(client_id, reason_of(error))
        for client_id in sorted(set(self.asked.values()) - answered):
            self._fail(client_id, "no reply")
        for client_id in sorted(set(out()) & set(good)):
            del good[client_id]
            self._fail(client_id, "asked to be forgotten meanwhile")
        good = dict(sorted(good.items()))
        limit = self.settings.max_update_norm_ratio
        for client_id, reason in absurd(good, limit).items():
            del good[client_id]
            self._fail(client_id, reason)
        return good

    def gated(
        self,
        good: dict[int, Reply],
        *,
        forgotten: Collection[int],
        since: Vector,
        whole: Callable[[Vector], Vector] = lambda parameters: parameters,
    ) -> dict[int, Reply]:
        """Return the replies, or none if the round that they make may not stand.

        Only a round that forgotten clients train is looked at: they may wish the model
        no good, and whoever trains alone is compared with nobody (`absurd`).

        Parameters
        ----------
        good : dict of int to Reply
        forgotten : collection of int
            Client ids that were forgotten, now or before.
        since : Vector, shape (d,)
            The parameters where the phase, or the method, began. What its rounds may
            cost all together is measured from there: it does not add up.
        whole : callable
            Makes a model of parameters: `Ledger.whole`.
        """
        if not good or not set(good) & set(forgotten):
            return good
        weights = weights_of([r.num_examples for r in good.values()])
        terms = [
            (w, r.local - self.before)
            for w, r in zip(weights, good.values(), strict=True)
        ]
        if self.hooks.accept(whole(since), whole(add(self.before, terms))):
            return good
        for client_id in good:
            self._fail(
                client_id, "its round failed the gate; the model before it is kept"
            )
        return {}

    def _read(self, message: Message, client_id: int, place: int) -> Reply:
        """Return a checked reply, its parameters in a row where they can wait."""
        reply = read_reply(
            message,
            client_id,
            layout=self.layout,
            before=self.before,
            settings=self.settings,
            out=self.waiting[place],
        )
        release(self.waiting)
        return reply

    def _fail(self, client_id: int, reason: str) -> None:
        leave_out(self.report, client_id, reason)
