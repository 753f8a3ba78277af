"""A mistake of a user's, as a client answers it: one line."""

from logging import WARNING

from flwr.app import Error, Message
from flwr.common import log

from fedneg.core.errors import FedNegError
from fedneg.core.texts import MAX_REASON, one_line
from fedneg.flower_internals import CLIENT_APP_RAISED


def reply_with(error: FedNegError, message: Message) -> Message:
    """Return the reply that names a mistake; Flower would send a repr of it."""
    # A file's name may have anything in it; a message only what is UTF-8.
    reason = one_line(str(error), MAX_REASON)
    log(WARNING, "%s", reason)  # for whoever looks after this node
    return Message(Error(CLIENT_APP_RAISED, reason), reply_to=message)
