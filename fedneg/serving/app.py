"""`serve`: a ClientApp of somebody else's whose nodes say which client they are.

The owner's handlers, mods and lifespan are the owner's, and so are the messages that
they get. What is added stands around them: Flower calls an app as a function, and the
class of a served one says in its replies who sends them.
"""

from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedneg.core.errors import FedNegError
from fedneg.flower_internals import lifespan_of
from fedneg.forgettable.identity import RECORD, client_id_in, say
from fedneg.serving.mistakes import reply_with

QUERY, EVALUATE = "query.fedneg", "evaluate.fedneg"
TASK = "fedneg_task"
SAYS_WHO = ("train", "evaluate")
App = TypeVar("App", bound=ClientApp)

if TYPE_CHECKING:  # torch, which an app without a task need not have
    from fedneg.tasks.task import Task


def serve(app: App, task: "Task | None" = None) -> App:
    """Let an app's nodes say which clients they are, and answer for the verdict.

    Parameters
    ----------
    app : ClientApp
        Changed in place, before or after its handlers are registered. They stay as they
        are.
    task : Task, optional
        What the nodes answer by. Without it they only say who they are.

    Returns
    -------
    ClientApp
        The same one.

    Raises
    ------
    FedNegError
        If `app` is no ClientApp, or served already, or `task` is no Task.
    """
    if not isinstance(app, ClientApp):
        raise FedNegError(
            f"serve takes a flwr.clientapp.ClientApp, got {type(app).__name__}"
        )
    if isinstance(app, Served):
        raise FedNegError("this ClientApp is served already: call serve() once")
    app.__dict__[TASK] = _checked(task)
    app.__class__ = _served(type(app))  # type: ignore[arg-type, assignment]
    return app


def _checked(task: Any) -> "Task | None":
    """Return a task; FedNegError of what is none."""
    if task is None:
        return None
    from fedneg.tasks.task import Task

    if not isinstance(task, Task):
        raise FedNegError(f"serve takes a fedneg.Task, got {type(task).__name__}")
    return task


class Served:
    """What a served app does beyond its owner's; stands before the owner's class."""

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer a message that is for us, or say who sends the owner's answer."""
        kind = message.metadata.message_type
        try:
            client_id = client_id_in(context.node_config)
        except FedNegError as error:
            return reply_with(error, message)
        if kind == QUERY:
            return _identity(message, client_id)
        if kind == EVALUATE:
            return self._answer(message, context, client_id)
        reply: Message = super().__call__(message, context)  # type: ignore[misc]
        if (
            client_id is not None
            and kind.partition(".")[0] in SAYS_WHO
            and not reply.has_error()
        ):
            say(reply.content, client_id)
        return reply

    def _answer(
        self, message: Message, context: Context, client_id: int | None
    ) -> Message:
        """Answer about a model, within the owner's lifespan."""
        task = self.__dict__[TASK]
        try:
            if task is None:
                raise FedNegError(
                    "this ClientApp has no task to answer by: serve(app, task) gives it"
                )
            # Torch, where it is needed and there is a task of its.
            from fedneg.serving.answers import answer

            assert isinstance(self, ClientApp)
            with lifespan_of(self, context):
                return answer(task, message, context, client_id)
        except FedNegError as error:
            return reply_with(error, message)


class ServedClientApp(Served, ClientApp):
    """Flower's own class, served: under a name, by which Ray's workers find it."""


@lru_cache
def _served(owner: type[ClientApp]) -> type[ClientApp]:
    """Return a class of an owner's apps that are served."""
    if owner is ClientApp:
        return ServedClientApp
    return type(f"Served{owner.__name__}", (Served, owner), {})


def _identity(message: Message, client_id: int | None) -> Message:
    """Answer which client this is; nothing where the node's config does not say."""
    found = RecordDict({RECORD: ConfigRecord()})
    if client_id is not None:
        say(found, client_id)
    return Message(found, reply_to=message)
