"""Ways to run the same ServerApp and ClientApp on this machine.

`inline` calls every client in this process, one after the other; `local` spreads them
over worker processes; `ray` is Flower's own simulation runtime. Real clients need no
engine: `flwr run` brings its Grid. All give the same bytes.
"""

import logging
import os
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import islice
from logging import DEBUG
from uuid import uuid4

from flwr.app import (
    Array,
    ArrayRecord,
    Context,
    Error,
    Message,
    MessageType,
    RecordDict,
)
from flwr.app.message.message import make_message
from flwr.clientapp import ClientApp
from flwr.common import log
from flwr.common.serde import (
    context_from_proto,
    context_to_proto,
    message_from_proto,
    message_to_proto,
    recorddict_from_proto,
    recorddict_to_proto,
)
from flwr.common.serde_utils import metadata_from_proto, metadata_to_proto
from flwr.proto.message_pb2 import Context as ProtoContext
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import Metadata as ProtoMetadata
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedneg.client_app import app as client_app
from fedneg.client_app import together
from fedneg.machine import cores
from fedneg.settings import EngineSettings
from fedneg.workers import SERVE, Parts, WorkerPool, warmed_up

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
        """Fill in what a SuperLink fills in; Flower has no public way to."""
        stamped = list(messages)
        for message in stamped:
            meta = message.metadata.__dict__
            meta["_message_id"], meta["_run_id"] = str(uuid4()), RUN_ID
            meta["_src_node_id"] = SERVER_NODE_ID
        return stamped

    def _answers(self, messages: list[Message]) -> Iterator[Message]:
        """Yield the reply to each message."""
        for group in _of_one_content(messages):
            for cohort in self._cohorts(group):
                asked = [(m, self.contexts[m.metadata.dst_node_id]) for m in cohort]
                yield from _call(self.client_app, asked)

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
        for group in _of_one_content(messages):
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
        parts = []
        for message in cohort:
            context = self.contexts[message.metadata.dst_node_id]
            parts.append(metadata_to_proto(message.metadata).SerializeToString())
            parts.append(context_to_proto(context).SerializeToString())
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
            self.contexts[node].state = recorddict_from_proto(
                ProtoRecordDict.FromString(state)
            )
            reply = message_from_proto(ProtoMessage.FromString(head))
            content = list(islice(parts, int(count)))
            yield (
                make_message(reply.metadata, _record_of(content)) if content else reply
            )


def serve(shared: Parts, request: Parts) -> Parts:
    """Answer one request in a worker process: the ClientApp's replies, in bytes.

    A request has a message's metadata and its context for each client of a cohort. The
    answer has the seconds that it took; and for each client how many parts its content
    has, its state, its reply without the content, and that.
    """
    started = time.perf_counter()
    _be_somebody()
    asked = [
        (
            make_message(
                metadata_from_proto(ProtoMetadata.FromString(head)),
                # A dictionary of its own: what a client puts into it, no other finds.
                RecordDict(dict(_shared_record(shared))),
            ),
            context_from_proto(ProtoContext.FromString(context)),
        )
        for head, context in zip(request[::2], request[1::2], strict=True)
    ]
    answer = []
    for (_, context), reply in zip(asked, _call(client_app, asked), strict=True):
        content: Parts = ()
        if reply.has_content():
            content = _parts_of(reply.content)
            reply = make_message(reply.metadata, RecordDict())
        answer += [
            str(len(content)).encode(),
            recorddict_to_proto(context.state).SerializeToString(),
            message_to_proto(reply).SerializeToString(),
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
    return [recorddict_to_proto(light).SerializeToString(), *data]


def _record_of(parts: Parts) -> RecordDict:
    """Return what `_parts_of` was given."""
    record = recorddict_from_proto(ProtoRecordDict.FromString(parts[0]))
    data = iter(parts[1:])
    # Both walk records and arrays in the order in which they were put in.
    for part in record.values():
        if isinstance(part, ArrayRecord):
            for array in part.values():
                array.data = next(data)
    return record


def _of_one_content(messages: list[Message]) -> list[list[Message]]:
    """Return the messages in groups that share a record, as a round's do."""
    groups: dict[int, list[Message]] = {}
    for message in messages:
        groups.setdefault(id(message.content), []).append(message)
    return list(groups.values())


def _call(client_app: ClientApp, asked: list[Asked]) -> list[Message]:
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
        reason = f"{type(error).__name__}: {error}"
        return Message(Error(code=0, reason=reason), reply_to=message)


def _be_somebody() -> None:
    """Set the three that flwr's run_simulation sets; no Message without them."""
    TaskIdentity.task_id, TaskIdentity.run_id = 1, RUN_ID
    TaskIdentity.node_id = SERVER_NODE_ID


@cache
def shared_pool(size: int) -> WorkerPool:
    """Return this process's pool; every run of a sweep uses the same workers."""
    return warmed_up(size) or WorkerPool(size, SERVE)


def _pool(engine: EngineSettings, clients: int) -> WorkerPool:
    """Return workers for so many clients."""
    size = engine.workers or cores()
    # More workers than clients have nothing to do; but what runs already may stay.
    return warmed_up(size) or shared_pool(min(size, clients))


def simulate(
    main: Callable[[Grid, Context], None], *, clients: int, engine: EngineSettings
) -> None:
    """Run a ServerApp's main function against `clients` simulated nodes.

    Whatever `main` raises comes out of here unchanged.
    """
    # fedneg shows failures in its own progress; Flower's lines go to the log file.
    flower = logging.getLogger("flwr")
    flower.setLevel(logging.WARNING)
    for handler in flower.handlers:
        handler.setLevel(logging.ERROR)
    if engine.name == "ray":
        _simulate_on_ray(main, client_app, clients, engine)
        return
    _be_somebody()
    grid = InlineGrid(client_app, clients, engine.cohort)
    if engine.name == "local":
        pool = _pool(engine, clients)
        grid = LocalGrid(client_app, clients, pool, engine.cohort)
    main(grid, Context(RUN_ID, 0, {}, RecordDict(), {}))


def _simulate_on_ray(
    main: Callable[[Grid, Context], None],
    client_app: ClientApp,
    clients: int,
    engine: EngineSettings,
) -> None:
    # Ray's own defaults would call home and wrap the interpreter.
    for name, value in (
        ("RAY_USAGE_STATS_ENABLED", "0"),
        ("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0"),
        ("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"),
        ("FLWR_TELEMETRY_ENABLED", "0"),
    ):
        os.environ.setdefault(name, value)
    from flwr.simulation import run_simulation

    caught: list[BaseException] = []
    server_app = ServerApp()

    @server_app.main()
    def _main(grid: Grid, context: Context) -> None:
        try:
            main(grid, context)
        except BaseException as error:  # carried out of Flower's server thread
            caught.append(error)

    run_simulation(
        server_app=server_app,
        client_app=client_app,
        num_supernodes=clients,
        backend_config={
            "client_resources": {
                "num_cpus": engine.cpus_per_client,
                "num_gpus": engine.gpus_per_client,
            },
            "init_args": {"log_to_driver": False, "logging_level": logging.ERROR},
        },
    )
    if caught:
        raise caught[0]
