"""A Grid over worker processes of this machine, and what a worker does for it.

Messages go there and back as parts: Flower's own bytes, and then the data of each array
as it is.
"""

import json
import time
from collections.abc import Iterable, Iterator
from itertools import islice

from flwr.app import Array, ArrayRecord, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from fedneg.client_app import app as client_app
from fedneg.core.named import add_folder, folders
from fedneg.engines.channel import Parts
from fedneg.engines.inline import InlineGrid, be_a_server, call, of_one_content
from fedneg.engines.workers import WorkerPool
from fedneg.flower_internals import (
    context_from_bytes,
    context_to_bytes,
    message_from_bytes,
    message_of,
    message_to_bytes,
    message_with,
    metadata_to_bytes,
    record_from_bytes,
    record_to_bytes,
)


class LocalGrid(InlineGrid):
    """A Grid that spreads the messages over worker processes of this machine.

    A record that several messages share, as the global parameters of a round are, is
    handed to each worker once. Nodes that took longest the last time begin first.
    Replies are yielded as they come in. A worker that dies takes its cohort with it.
    """

    def __init__(
        self, client_app: ClientApp, clients: int, pool: WorkerPool, cohort: int = 1
    ) -> None:
        super().__init__(client_app, clients, cohort)
        self.pool = pool
        self._timeout_s: float | None = None
        self._work: dict[int, float] = {}

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push and pull; a client not done after `timeout` seconds is given up."""
        self._timeout_s = timeout
        return super().send_and_receive(messages)

    def _answers(self, messages: list[Message]) -> Iterator[Message]:
        for group in of_one_content(messages):
            # Stable: cohorts of which nothing is known keep their order.
            cohorts = sorted(self._cohorts(group), key=self._work_of, reverse=True)
            shared = _parts_of(group[0].content)
            requests = [self._request(cohort) for cohort in cohorts]
            for place, answer in self.pool.run(shared, requests, self._timeout_s):
                yield from self._replies_of(cohorts[place], answer)

    def _work_of(self, cohort: list[Message]) -> float:
        """Return the seconds that these nodes took the last time."""
        return sum(self._work.get(m.metadata.dst_node_id, 0.0) for m in cohort)

    def _request(self, cohort: list[Message]) -> Parts:
        # This process may have come to look in another folder than its workers did.
        parts: list[bytes] = [json.dumps(folders()).encode()]
        for message in cohort:
            context = self.contexts[message.metadata.dst_node_id]
            parts.append(metadata_to_bytes(message))
            parts.append(context_to_bytes(context))
        return parts

    def _replies_of(
        self, cohort: list[Message], answer: list[bytes] | str
    ) -> Iterator[Message]:
        """Yield the replies in a worker's answer, or what became of the worker."""
        if isinstance(answer, str):
            for message in cohort:
                yield Message(Error(code=0, reason=answer), reply_to=message)
            return
        seconds, parts = float(answer[0]), iter(answer[1:])
        for message in cohort:
            node = message.metadata.dst_node_id
            self._work[node] = seconds / len(cohort)
            count, state, head = islice(parts, 3)
            self.contexts[node].state = record_from_bytes(state)
            reply = message_from_bytes(head)
            content = list(islice(parts, int(count)))
            yield message_with(reply, _record_of(content)) if content else reply


def serve(shared: Parts, request: Parts) -> Parts:
    """Answer one request in a worker process: the ClientApp's replies, in bytes.

    A request has the folders that modules are looked for in too, and a message's
    metadata and its context for each client of a cohort. The
    answer has the seconds that it took; and for each client how many parts its content
    has, its state, its reply without the content, and that.
    """
    started = time.perf_counter()
    be_a_server()
    for folder in json.loads(request[0]):
        add_folder(folder)
    asked = [
        (
            message_of(
                head,
                # A dictionary of its own: what a client puts into it, no other finds.
                RecordDict(dict(_shared_record(shared))),
            ),
            context_from_bytes(context),
        )
        for head, context in zip(request[1::2], request[2::2], strict=True)
    ]
    answer = []
    for (_, context), reply in zip(asked, call(client_app, asked), strict=True):
        content: Parts = ()
        if reply.has_content():
            content = _parts_of(reply.content)
            reply = message_with(reply, RecordDict())
        answer += [
            str(len(content)).encode(),
            record_to_bytes(context.state),
            message_to_bytes(reply),
            *content,
        ]
    return [str(time.perf_counter() - started).encode(), *answer]


_latest: tuple[Parts, RecordDict] = ((), RecordDict())


def _shared_record(shared: Parts) -> RecordDict:
    """Return the record in these parts; the latest one is read once."""
    global _latest
    if _latest[0] is not shared:
        _latest = shared, _record_of(shared)
    return _latest[1]


def _parts_of(record: RecordDict) -> list[bytes]:
    """Return a record as bytes: Flower's own, and then the data of each array.

    The arrays are nearly all of it, and protobuf would copy them several times.
    """
    light, data = RecordDict(), []
    for name, part in record.items():
        if isinstance(part, ArrayRecord):
            data += [array.data for array in part.values()]
            part = ArrayRecord(
                {
                    key: Array(array.dtype, array.shape, array.stype, b"")
                    for key, array in part.items()
                }
            )
        light[name] = part
    return [record_to_bytes(light), *data]


def _record_of(parts: Parts) -> RecordDict:
    record = record_from_bytes(parts[0])
    data = iter(parts[1:])
    # Both walk records and arrays in the order in which they were put in.
    for part in record.values():
        if isinstance(part, ArrayRecord):
            for array in part.values():
                array.data = next(data)
    return record
