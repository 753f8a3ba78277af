"""The seam to Flower, client side: messages in, `TrainingClient` calls, messages out.

The same app runs inline, on Ray and in a SuperNode. A client is known by its client id:
`client-id` of the node config if given, else `partition-id`. The task finds the node's
data by its config: the built-in one takes `data`, else its part of the data set.
"""

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from logging import DEBUG

from flwr.app import (
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.common import log

from fedneg.arrays import arrays_of, record_like
from fedneg.clients.answering import AnsweringClient
from fedneg.clients.ascent import AscentClient
from fedneg.clients.trainer import TrainingClient, trained_together
from fedneg.core.assignment import Assignment
from fedneg.core.errors import FedNegError
from fedneg.core.parameters import NDArrays
from fedneg.evaluation.client_answers import CHECK_EVERY, RELEARN_CAP
from fedneg.forgettable.identity import client_id_in
from fedneg.serving.answers import as_records
from fedneg.serving.mistakes import reply_with

# What a client does when the server asks it; the message names the role.
ROLES: dict[str, type[TrainingClient]] = {
    "train": TrainingClient,
    "ascent": AscentClient,
    "answering": AnsweringClient,
}


def name_mistakes(
    message: Message, context: Context, call_next: Callable[[Message, Context], Message]
) -> Message:
    """Answer a user's mistake with its one line."""
    try:
        return call_next(message, context)
    except FedNegError as error:
        return reply_with(error, message)


app = ClientApp(mods=[name_mistakes])


def client_id_of(context: Context) -> int:
    """Return this node's client id; raises FedNegError if the node has none."""
    found = client_id_in(context.node_config)
    if found is None:
        raise FedNegError(
            "the node config needs client-id=N (or partition-id=N), a whole number, "
            "got None"
        )
    return found


def _client(message: Message, context: Context) -> TrainingClient:
    config = message.content["config"]
    assert isinstance(config, ConfigRecord)
    if "assignment" not in config:
        raise FedNegError("the message has no assignment; is it of another version?")
    assignment = Assignment.from_json(str(config["assignment"]))
    role = str(config.get("role", "train"))
    if role not in ROLES:
        raise FedNegError(
            f"the server asks for {role!r}, and this client knows "
            f"{', '.join(ROLES)}; is it of another version?"
        )
    return ROLES[role](
        client_id_of(context),
        assignment,
        int(str(config.get("server-round", 0))),
        dict(context.node_config),
    )


def _arrays(message: Message) -> NDArrays:
    """Return the model in a message, as views where it is as expected."""
    return arrays_of(message.content.array_records["arrays"])


@contextmanager
def together(cohort: Sequence[tuple[Message, Context]]) -> Iterator[None]:
    """Train a cohort at once; when `app` is asked here, each only has to answer.

    The messages hold the same parameters. If that cannot be, each client trains when
    it is asked, and one that fails does so there, alone.
    """
    with ExitStack() as stack:
        try:
            clients = [_client(message, context) for message, context in cohort]
            if all(type(client) is TrainingClient for client in clients):
                parameters = _arrays(cohort[0][0])
                stack.enter_context(trained_together(clients, parameters))
        except Exception:
            log(DEBUG, traceback.format_exc())
        yield


@app.query()
def identify(message: Message, context: Context) -> Message:
    """Answer which client this is, and how many nodes a simulation has (else 0)."""
    nodes = context.node_config.get("num-partitions", 0)
    identity = ConfigRecord(
        {"client-id": client_id_of(context), "num-partitions": int(str(nodes))}
    )
    return Message(RecordDict({"identity": identity}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train on the message's parameters; answer with the local ones."""
    client = _client(message, context)
    config = message.content["config"]
    assert isinstance(config, ConfigRecord)
    numbers = {k: v for k, v in config.items() if isinstance(v, int | float)}
    sent = message.content.array_records["arrays"]
    parameters, num_examples, metrics = client.fit(arrays_of(sent), dict(numbers))
    record = MetricRecord({k: float(str(v)) for k, v in metrics.items()})
    record["num-examples"], record["client-id"] = num_examples, client.client_id
    return Message(
        RecordDict({"arrays": record_like(sent, parameters), "metrics": record}),
        reply_to=message,
    )


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Measure the message's parameters on this client's own data, or answer of them."""
    client = _client(message, context)
    config = message.content["config"]
    assert isinstance(config, ConfigRecord)
    if isinstance(client, AnsweringClient):
        found = _answers(client, _arrays(message), config)
        return Message(found, reply_to=message)
    _, num_examples, metrics = client.evaluate(
        _arrays(message), {"parts": str(config["parts"])}
    )
    record = MetricRecord({k: float(str(v)) for k, v in metrics.items()})
    record["num-examples"], record["client-id"] = num_examples, client.client_id
    return Message(RecordDict({"metrics": record}), reply_to=message)


def _answers(
    client: AnsweringClient, parameters: NDArrays, config: ConfigRecord
) -> RecordDict:
    """Return a client's answers as they travel."""
    target = config.get("relearn-target")
    found = client.answer(
        parameters,
        relearn_target=None if target is None else float(str(target)),
        relearn_cap=int(str(config.get("relearn-cap", RELEARN_CAP))),
        check_every=int(str(config.get("check-every", CHECK_EVERY))),
    )
    return as_records(found, client.client_id, client.num_examples)
