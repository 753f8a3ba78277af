"""Which client a node is, as the node itself says it, and how that travels.

A served app (`fedneg.serve`) says it in a record of its own beside each reply, so that
no message more is sent, and none to apps that are not served.
"""

from collections.abc import Mapping

from flwr.app import ConfigRecord, RecordDict

from fedneg.core.errors import FedNegError

# The record in a reply, and what it holds.
RECORD, CLIENT_ID = "fedneg", "client-id"
# By the name that a node's operator gives, or by the one that a simulation does.
NODE_CONFIG = ("client-id", "partition-id")
# What a record's whole numbers can hold.
MAX_ID = 2**63 - 1


def client_id_in(node_config: Mapping[str, object]) -> int | None:
    """Return the client id in a node's config; None if it has none.

    Raises
    ------
    FedNegError
        If it is no whole number of at least 0.
    """
    for name in NODE_CONFIG:
        if name in node_config:
            value = node_config[name]
            if not is_client_id(value):
                raise FedNegError(
                    f"{name} in the node config must be a whole number of at least 0, "
                    f"got {value!r}"
                )
            assert isinstance(value, int)
            return value
    return None


def is_client_id(value: object) -> bool:
    """Return whether a client can be called that."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return is_whole and 0 <= value <= MAX_ID  # type: ignore[operator]


def say(content: RecordDict, client_id: int) -> None:
    """Write into a reply who sends it."""
    content[RECORD] = ConfigRecord({CLIENT_ID: client_id})


def take(content: RecordDict) -> int | None:
    """Take out of a reply who says to have sent it; None if it does not say."""
    if not isinstance(content.get(RECORD), ConfigRecord):
        return None
    record = content.pop(RECORD)
    assert isinstance(record, ConfigRecord)
    value = record.get(CLIENT_ID)
    return value if isinstance(value, int) and is_client_id(value) else None
