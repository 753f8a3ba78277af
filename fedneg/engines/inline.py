"""A Grid that calls clients in this process, and what the engines share.

Here too are the cohorts: which clients are trained at once.
"""

import traceback
from collections.abc import Iterable, Iterator
from logging import DEBUG
from uuid import uuid4

from flwr.app import Context, Error, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.common import log
from flwr.serverapp import Grid

from fedneg.client_app import together
from fedneg.core.texts import one_line
from fedneg.flower_internals import Run, be_somebody, stamp

SERVER_NODE_ID = 1
FIRST_NODE_ID = 1000
RUN_ID = 1
# A message, and the context of the node that it is for.
Asked = tuple[Message, Context]


class InlineGrid(Grid):
    """A Grid that calls the ClientApp in this process.

    A client that raises becomes an error reply, as in Flower's runtimes.

    Clients are trained `cohort` at once, in the order of their nodes. The app is then
    fedneg's own: which clients go together, and so every byte, is the same in each of
    the engines that have cohorts.
    """

    def __init__(self, client_app: ClientApp, clients: int, cohort: int = 1) -> None:
        self.client_app, self.cohort = client_app, cohort
        self.contexts = {
            FIRST_NODE_ID + k: Context(
                run_id=RUN_ID,
                node_id=FIRST_NODE_ID + k,
                node_config={"partition-id": k, "num-partitions": clients},
                state=RecordDict(),
                run_config={},
            )
            for k in range(clients)
        }
        self._replies: dict[str, Message] = {}
        self._run: Run | None = None

    def set_run(self, run: Run) -> None:
        """Remember the run; an inline run has no SuperLink to know it."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run given to `set_run`."""
        assert self._run is not None, "set_run() comes first"
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a message; part of Flower's Grid interface."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes' ids; all are online from the start."""
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Run each message to its end, now."""
        stamped = self._stamped(messages)
        for reply in self._answers(stamped):
            self._replies[reply.metadata.reply_to_message_id] = reply
        return [message.metadata.message_id for message in stamped]

    def _stamped(self, messages: Iterable[Message]) -> list[Message]:
        """Return the messages, as a SuperLink would have them."""
        stamped = list(messages)
        for message in stamped:
            stamp(
                message,
                message_id=str(uuid4()),
                run_id=RUN_ID,
                src_node_id=SERVER_NODE_ID,
            )
        return stamped

    def _answers(self, messages: list[Message]) -> Iterator[Message]:
        for group in of_one_content(messages):
            for cohort in self._cohorts(group):
                asked = [(m, self.contexts[m.metadata.dst_node_id]) for m in cohort]
                yield from call(self.client_app, asked)

    def _cohorts(self, messages: list[Message]) -> list[list[Message]]:
        """Return who is asked at once: to train a cohort, else one by one."""
        if messages[0].metadata.message_type != MessageType.TRAIN or self.cohort == 1:
            return [[message] for message in messages]
        messages = sorted(messages, key=lambda m: m.metadata.dst_node_id)
        starts = range(0, len(messages), self.cohort)
        return [messages[start : start + self.cohort] for start in starts]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to these messages, each once."""
        return [self._replies.pop(i) for i in list(message_ids) if i in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Yield each reply when it is there: whoever takes them need not hold all."""
        return self._answers(self._stamped(messages))


def of_one_content(messages: list[Message]) -> list[list[Message]]:
    """Return the messages in groups that share a record, as a round's do."""
    groups: dict[int, list[Message]] = {}
    for message in messages:
        groups.setdefault(id(message.content), []).append(message)
    return list(groups.values())


def call(client_app: ClientApp, asked: list[Asked]) -> list[Message]:
    """Return the ClientApp's replies to a cohort."""
    if len(asked) == 1:
        return [_call_one(client_app, *asked[0])]
    with together(asked):
        return [_call_one(client_app, message, context) for message, context in asked]


def _call_one(client_app: ClientApp, message: Message, context: Context) -> Message:
    """Return the ClientApp's reply; an exception becomes an error reply."""
    try:
        return client_app(message, context)
    except Exception as error:
        log(DEBUG, traceback.format_exc())
        reason = one_line(f"{type(error).__name__}: {error}")
        return Message(Error(code=0, reason=reason), reply_to=message)


def be_a_server() -> None:
    """Let this process make messages as the server of the run."""
    be_somebody(task_id=1, run_id=RUN_ID, node_id=SERVER_NODE_ID)
