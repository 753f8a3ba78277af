"""The server's side of a served app: clients are asked about a model.

Nothing here trains, and whoever was forgotten is asked too: it is their data.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedneg.core.errors import FedNegError
from fedneg.evaluation.client_answers import CHECK_EVERY, RELEARN_CAP, ClientAnswers
from fedneg.evaluation.seen import Seen
from fedneg.forgettable.identity import take
from fedneg.forgettable.strategy import Forgettable
from fedneg.serving.app import EVALUATE, QUERY
from fedneg.serving.question import ANSWERS, CONFIG, MEASURE, Question
from fedneg.strategies.questions import read_answers, usable
from fedneg.strategies.replies import read_evaluation
from fedneg.tasks.task import Order

# Where nobody says how to train: only what needs no training is answered.
ORDER = Order(epochs=1, learning_rate=0.1, batch_size=32, seed=0, device="auto")
# As Flower's own rounds wait, seconds.
TIMEOUT_S = 3600.0
# What a client may claim to train on.
MAX_NUM_EXAMPLES = 10**9
Answer = TypeVar("Answer")


class Asking:
    """Asks the clients of a served app about models.

    Parameters
    ----------
    strategy : Forgettable
        Which client a node is it knows; nodes that it does not know are asked.
    grid : Grid
    order : Order
        Its seed keys which examples answers are about, the same for every model; the
        rest is how a client trains, where relearning is asked for.
    timeout : float
        Seconds.

    Attributes
    ----------
    unanswered : dict of int to str
        Why there is no answer to the last question, by client id.
    """

    def __init__(
        self,
        strategy: Forgettable,
        grid: Grid,
        *,
        order: Order = ORDER,
        timeout: float = TIMEOUT_S,
    ) -> None:
        self._strategy, self._grid, self._timeout = strategy, grid, timeout
        self._order = order
        self._told: dict[int, int] = {}
        self._clients: int | None = None
        self.unanswered: dict[int, str] = {}

    def answers(
        self,
        client_ids: Collection[int],
        arrays: ArrayRecord,
        *,
        targets: Mapping[int, float] | None = None,
        relearn_cap: int = RELEARN_CAP,
        check_every: int = CHECK_EVERY,
    ) -> dict[int, ClientAnswers]:
        """Return what clients answer about a model, by client id, in order.

        Parameters
        ----------
        targets : mapping of int to float, optional
            How good each is to become by relearning: the original's `check_loss`, nats.
            Who has none relearns nothing.
        relearn_cap, check_every : int
            As `fedneg.evaluation.relearn.relearn_time`.

        Returns
        -------
        dict of int to ClientAnswers
            Without those that are not online, or whose answer is not usable; each is in
            `unanswered`.
        """
        goals = targets or {}

        def question(asked: Question) -> Question:
            return replace(
                asked,
                relearn_target=goals.get(asked.client_id),
                relearn_cap=relearn_cap,
                check_every=check_every,
            )

        def read(reply: Message, client_id: int) -> ClientAnswers:
            return read_answers(
                reply,
                client_id,
                max_num_examples=MAX_NUM_EXAMPLES,
                relearn_cap=relearn_cap if client_id in goals else None,
            )

        return self._ask(ANSWERS, client_ids, arrays, question, read)

    def seen(
        self,
        client_ids: Collection[int],
        arrays: ArrayRecord,
        *,
        quality: float | None = None,
    ) -> Seen:
        """Return what `fedneg.judge` takes: the losses of clients' training examples.

        Of at most 5000 a client, the same for every model. Who does not answer is not
        among them, and in `unanswered`.

        Parameters
        ----------
        quality : float, optional
            Of the model, in [0, 1]; it is handed on.
        """
        found = self.answers(client_ids, arrays)
        # How sure a model is travels, -log(expm1(loss)): this takes it back.
        losses = {k: np.logaddexp(0.0, -said.members) for k, said in found.items()}
        return Seen(losses, quality=quality)

    def measured(
        self,
        client_ids: Collection[int],
        arrays: ArrayRecord,
        parts: Sequence[str] = ("test",),
    ) -> dict[int, dict[str, float]]:
        """Return quality and loss of a model on parts of clients' data.

        By client id, under the names ``test_accuracy``, ``test_loss``, ``num_test``, of
        the other parts likewise. Who does not answer is in `unanswered`.
        """
        return self._ask(
            MEASURE,
            client_ids,
            arrays,
            lambda asked: replace(asked, parts=tuple(parts)),
            lambda reply, client_id: read_evaluation(
                reply,
                client_id,
                parts,
                max_num_examples=MAX_NUM_EXAMPLES,
                own_task=True,
            ),
        )

    def online(self) -> dict[int, int]:
        """Return the node of each client that is online, by client id.

        Of several, the one with the lowest number.
        """
        there = sorted(self._grid.get_node_ids())
        known = self._known(there)
        return {known[node]: node for node in reversed(there)}

    def _known(self, nodes: Iterable[int]) -> dict[int, int]:
        """Return the client of each node; whoever is not known is asked."""
        known = self._strategy.nodes
        new = [n for n in nodes if n not in known and n not in self._told]
        messages = [
            Message(RecordDict(), dst_node_id=node, message_type=QUERY) for node in new
        ]
        for reply in self._grid.send_and_receive(messages, timeout=self._timeout):
            node = reply.metadata.src_node_id
            # Who failed is asked again the next time.
            if not reply.has_error():
                said = take(reply.content)
                self._told[node] = node if said is None else said
        return {n: known.get(n, self._told.get(n, n)) for n in nodes}

    def _ask(
        self,
        asks: str,
        client_ids: Collection[int],
        arrays: ArrayRecord,
        question: Callable[[Question], Question],
        read: Callable[[Message, int], Answer],
    ) -> dict[int, Answer]:
        """Return the usable answers by client id."""
        if not client_ids:
            raise FedNegError("at least one client is asked about a model, got none")
        online = self.online()
        ids = sorted(set(client_ids) & set(online))
        # The same for every model: data may be split among so many.
        if self._clients is None:
            self._clients = len({*self._strategy.clients, *online})
        clients = self._clients
        messages = []
        for client_id in ids:
            asked = question(Question(asks, client_id, clients, self._order))
            content = RecordDict({"arrays": arrays, CONFIG: asked.to_record()})
            messages.append(
                Message(
                    content,
                    dst_node_id=online[client_id],
                    message_type=EVALUATE,
                )
            )
        found, self.unanswered = usable(
            self._grid.send_and_receive(messages, timeout=self._timeout),
            {online[k]: k for k in ids},
            client_ids,
            read=read,
            said=("answer", "answer about the model"),
        )
        return found
