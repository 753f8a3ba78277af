"""Ways to run the same ServerApp and ClientApp on this machine.

`inline` calls every client in this process, one after the other; `ray` is Flower's own
simulation runtime. Real clients need no engine: `flwr run` brings its Grid.
"""

import logging
import os
import traceback
from collections.abc import Callable, Iterable
from logging import DEBUG
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common import log
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedneg.settings import EngineSettings

SERVER_NODE_ID = 1
FIRST_NODE_ID = 1000
RUN_ID = 1


class InlineGrid(Grid):
    """A Grid that calls the ClientApp in this process.

    A client that raises becomes an error reply, as in Flower's runtimes.
    """

    def __init__(self, client_app: ClientApp, clients: int) -> None:
        self.client_app = client_app
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
        ids = []
        for message in messages:
            # What a SuperLink fills in; Flower has no public way to set it.
            meta = message.metadata.__dict__
            meta["_message_id"], meta["_run_id"] = str(uuid4()), RUN_ID
            meta["_src_node_id"] = SERVER_NODE_ID
            self._replies[message.metadata.message_id] = self._call(message)
            ids.append(message.metadata.message_id)
        return ids

    def _call(self, message: Message) -> Message:
        try:
            return self.client_app(message, self.contexts[message.metadata.dst_node_id])
        except Exception as error:
            log(DEBUG, traceback.format_exc())
            reason = f"{type(error).__name__}: {error}"
            return Message(Error(code=0, reason=reason), reply_to=message)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to these messages, each once."""
        return [self._replies.pop(i) for i in list(message_ids) if i in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push and pull; there is nothing to wait for."""
        return self.pull_messages(self.push_messages(messages))


def simulate(
    main: Callable[[Grid, Context], None], *, clients: int, engine: EngineSettings
) -> None:
    """Run a ServerApp's main function against `clients` simulated nodes.

    Whatever `main` raises comes out of here unchanged.
    """
    from fedneg.client_app import app as client_app

    # fedneg shows failures in its own progress; Flower's lines go to the log file.
    flower = logging.getLogger("flwr")
    flower.setLevel(logging.WARNING)
    for handler in flower.handlers:
        handler.setLevel(logging.ERROR)
    if engine.name == "ray":
        _simulate_on_ray(main, client_app, clients, engine)
        return
    # The three that flwr's own run_simulation sets; a Message cannot be made without.
    TaskIdentity.task_id, TaskIdentity.run_id = 1, RUN_ID
    TaskIdentity.node_id = SERVER_NODE_ID
    context = Context(RUN_ID, 0, {}, RecordDict(), {})
    main(InlineGrid(client_app, clients), context)


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
