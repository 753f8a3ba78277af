"""What fedneg uses of Flower that Flower does not document, and why.

Everything else comes from `flwr.app`, `flwr.clientapp`, `flwr.serverapp` and
`flwr.simulation`. What stands here may change with any release; each item has its test
in tests/test_flower_internals.py, which fails when it does. Beside this file only
`engines/deployed/flwr_command.py` reads what Flower says: a sentence of its command
line, which is in the same test.
"""

from contextlib import AbstractContextManager

from flwr.app import Context, Message, RecordDict

# Public in what it does, not in where it lies: the copy of a message with another
# content, for a reply's arrays travel beside it.
from flwr.app.message.message import make_message
from flwr.clientapp import ClientApp

# How `flower-supernode` reads its --node-config.
from flwr.common.config import parse_config_args

# The code of an error that the ClientApp itself raised; `flwr.app.Error` takes any
# integer, and the server should find the one that Flower's own clients send.
from flwr.common.constant import ErrorCode

# Messages, contexts and records as bytes, for the worker processes of this machine.
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
from flwr.serverapp import Grid

# A Grid has a run, and no public name for its type.
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

__all__ = [
    "CLIENT_APP_RAISED",
    "Run",
    "be_somebody",
    "context_from_bytes",
    "context_to_bytes",
    "is_deployed",
    "lifespan_of",
    "message_from_bytes",
    "message_of",
    "message_to_bytes",
    "message_with",
    "metadata_to_bytes",
    "node_config_of",
    "nodes_with_keys",
    "record_from_bytes",
    "record_to_bytes",
    "stamp",
]

CLIENT_APP_RAISED: int = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
# Flower's Grids to nodes of its own; nothing in a Grid says of which kind it is. The
# second is what earlier releases called the first.
DEPLOYED_GRIDS = ("HttpGrid", "GrpcGrid")


def be_somebody(*, task_id: int, run_id: int, node_id: int) -> None:
    """Give this process the identity without which it can make no Message.

    `run_simulation` and SuperLink set it before they call an app.
    """
    TaskIdentity.task_id, TaskIdentity.run_id = task_id, run_id
    TaskIdentity.node_id = node_id


def stamp(message: Message, *, message_id: str, run_id: int, src_node_id: int) -> None:
    """Fill in what a SuperLink fills in when a message is pushed to it.

    The properties of the metadata have no setters for these.
    """
    meta = message.metadata.__dict__
    meta["_message_id"], meta["_run_id"] = message_id, run_id
    meta["_src_node_id"] = src_node_id


def lifespan_of(app: ClientApp, context: Context) -> AbstractContextManager[None]:
    """Return what an app's owner wants before and after each of its handlers."""
    found: AbstractContextManager[None] = app._lifespan(context)
    return found


def is_deployed(grid: Grid) -> bool:
    """Return whether the nodes are real ones, with files of their own."""
    return type(grid).__name__ in DEPLOYED_GRIDS


def nodes_with_keys(grid: Grid) -> dict[int, bytes]:
    """Return the nodes that are online, each with its public key; b"" if it has none.

    `get_nodes` is documented, what it returns (a protobuf message) is not.
    """
    return {int(node.node_id): bytes(node.public_key) for node in grid.get_nodes()}


def node_config_of(text: str) -> dict[str, bool | int | float | str]:
    """Return what a node is started with by ``--node-config``, from its text.

    Raises
    ------
    click.ClickException
        If a value is of no type that a node config has.
    """
    return dict(parse_config_args([text] if text else None))


def message_with(message: Message, content: RecordDict) -> Message:
    """Return the same message with another content."""
    return make_message(message.metadata, content)


def metadata_to_bytes(message: Message) -> bytes:
    """Return all of a message but its content."""
    content: bytes = metadata_to_proto(message.metadata).SerializeToString()
    return content


def message_of(metadata: bytes, content: RecordDict) -> Message:
    """Return the message of these `metadata_to_bytes` with this content."""
    found = metadata_from_proto(ProtoMetadata.FromString(metadata))
    return make_message(found, content)


def message_to_bytes(message: Message) -> bytes:
    """Return a message as bytes."""
    content: bytes = message_to_proto(message).SerializeToString()
    return content


def message_from_bytes(content: bytes) -> Message:
    """Return the message of `message_to_bytes`."""
    return message_from_proto(ProtoMessage.FromString(content))


def context_to_bytes(context: Context) -> bytes:
    """Return a node's context as bytes."""
    content: bytes = context_to_proto(context).SerializeToString()
    return content


def context_from_bytes(content: bytes) -> Context:
    """Return the context of `context_to_bytes`."""
    return context_from_proto(ProtoContext.FromString(content))


def record_to_bytes(record: RecordDict) -> bytes:
    """Return records as bytes; they keep their order, and that of their arrays."""
    content: bytes = recorddict_to_proto(record).SerializeToString()
    return content


def record_from_bytes(content: bytes) -> RecordDict:
    """Return the records of `record_to_bytes`."""
    return recorddict_from_proto(ProtoRecordDict.FromString(content))
