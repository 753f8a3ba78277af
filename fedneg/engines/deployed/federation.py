"""A federation of real processes on this machine: one SuperLink, K SuperNodes.

What `fedneg up` starts, and what tests of faults kill and start again. Clients talk to
the SuperLink, over gRPC or HTTP as Flower's release wants it, with TLS unless they are
told otherwise; both run the app in processes of its own.

A little longer than most: what is started, killed, started again and closed is one list
of processes, and every method leaves it as the others expect it.
"""

import os
import re
import shlex
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from fedneg.core.errors import FedNegError
from fedneg.core.files import make_folder, tighten, write_bytes
from fedneg.core.machine import cores
from fedneg.core.version import PACKAGE
from fedneg.engines.deployed.certificates import make_certificates
from fedneg.engines.deployed.flower import BIN, SuperLink, environment
from fedneg.engines.deployed.flwr_command import Flwr, RunResult
from fedneg.engines.deployed.hold import Hold
from fedneg.engines.deployed.processes import (
    Process,
    end,
    free_ports,
    listens,
)
from fedneg.engines.deployed.proxies import variables_around_proxies
from fedneg.engines.releases import flower_release, speaks_grpc
from fedneg.records.pins import OPERATOR, key_digest_of
from fedneg.records.state import State

START_TIMEOUT_S = 120.0
GRACE_S = 5.0
POLL_S = 0.2
RETRY_S = 3.0
NODE_ID = re.compile(r"SuperNode ID: (\d+)")
# What a SuperNode says whose key is unknown, and one whose last process was killed: for
# two heartbeats, a minute, the SuperLink then takes the new one for a double.
NOT_ACTIVATED = "Failed to activate SuperNode"


def checkout() -> Path:
    """Return the folder with the app: this checkout, else the working folder."""
    found = PACKAGE.parent
    return found if (found / "pyproject.toml").is_file() else Path.cwd()


class LocalFederation:
    """A SuperLink and its SuperNodes on 127.0.0.1, a context manager.

    Parameters
    ----------
    folder : Path
        Gets certificates/, logs/, flwr/ (the $FLWR_HOME with the profile
        ``federation``), a database, and a folder for each process. One federation at a
        time uses it.
    clients : int
        SuperNodes, of client ids 0 to clients - 1.
    secure : bool
        TLS, and SuperNodes that prove who they are with keys that were registered.
    data : Path, optional
        $FEDNEG_DATA of all processes, if not what it is now.
    node_config : str
        Added to each SuperNode's node config; ``{id}`` stands for the client id.
    modules : Path, optional
        Where all processes look for ``module:name``, beside what is installed.
    app : Path, optional
        The folder with the app's pyproject.toml, if not this checkout.
    say : callable
        Told what is being waited for.

    Raises
    ------
    FedNegError
        If the installed Flower is of a release that fedneg does not know.

    Attributes
    ----------
    state : Path
        A state folder for runs, its roster filled with the clients' keys.
    superlink : Process or None
    nodes : dict of int to Process
        By client id; those that died are still in it.
    """

    def __init__(
        self,
        folder: Path,
        clients: int = 3,
        secure: bool = True,
        *,
        data: Path | None = None,
        node_config: str = "",
        modules: Path | None = None,
        app: Path | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.folder, self.clients, self.secure = folder.resolve(), clients, secure
        self.data, self.node_config, self.say = data, node_config, say
        self.modules = modules and modules.resolve()
        self._grpc = speaks_grpc(flower_release())
        self.state = self.folder / "state"
        self.superlink: Process | None = None
        self.nodes: dict[int, Process] = {}
        self.flwr = Flwr(self.folder / "flwr", (app or checkout()).resolve())
        self._certificates = self.folder / "certificates" if secure else None
        self._hold: Hold | None = None
        self._registered: set[int] = set()
        self._refused: set[int] = set()
        self._settings: SuperLink | None = None

    @property
    def transport(self) -> str:
        """What clients speak with the SuperLink: gRPC, HTTPS or HTTP."""
        return "gRPC" if self._grpc else "HTTPS" if self.secure else "HTTP"

    def start(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Start everything and return when all clients are online.

        Parameters
        ----------
        timeout_s : float
            For the SuperLink, and again for the clients.

        Raises
        ------
        FedNegError
            If a process ends, or clients are not online in time; everything is then
            stopped, and the error has the end of the logs.
        """
        self._take_folder()
        try:
            self._prepare()
            self.say("waiting for the SuperLink")
            self.start_superlink(timeout_s)
            if self._certificates:
                self.say(f"registering the keys of {self.clients} clients")
                self.register(*range(self.clients))
            for client_id in range(self.clients):
                self.start_node(client_id)
            self.say(f"waiting for {self.clients} clients to be online")
            self.wait_online(timeout_s)
        except BaseException:
            self.stop()
            raise

    def stop(self, grace_s: float = GRACE_S) -> None:
        """Stop the SuperNodes, then the SuperLink; for good after `grace_s` each."""
        end(self.nodes.values(), grace_s=grace_s)
        if self.superlink:
            end([self.superlink], grace_s=grace_s)
        self.nodes.clear()
        self.superlink = None
        if self._hold is not None:
            # One that an interrupt kept from being entered above goes here.
            self._hold.release()
            self._hold = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start_superlink(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Start the SuperLink, where it was before, and wait until it answers."""
        assert self._settings is not None, "start() first"
        self.superlink = self._process("superlink", self._settings.command())
        deadline = time.monotonic() + timeout_s
        while not listens(self._settings.port):
            self.check_superlink()
            if time.monotonic() > deadline:
                raise FedNegError(
                    f"waited {timeout_s:g} s for the SuperLink\n"
                    f"{self.superlink.last_lines()}"
                )
            time.sleep(POLL_S)

    def kill_superlink(self) -> None:
        """End the SuperLink and what it started, as a loss of power would."""
        assert self.superlink is not None, "start() first"
        self.superlink.kill()

    def start_node(self, client_id: int) -> None:
        """Start a client's SuperNode; `wait_online` waits for it."""
        assert self._settings is not None, "start() first"
        (port,) = free_ports(1)
        command = self._settings.node_command(
            client_id, port=port, more=self.node_config
        )
        self.nodes[client_id] = self._process(f"node{client_id}", command)

    def stop_node(self, client_id: int, grace_s: float = GRACE_S) -> None:
        """Stop a client's SuperNode, which says goodbye and may come back at once."""
        end([self.nodes[client_id]], grace_s=grace_s)

    def kill_node(self, client_id: int) -> None:
        """End a client's SuperNode and what it started, as a loss of power would.

        With authentication the SuperLink lets it come back only after two heartbeats,
        a minute, for which `wait_online` tries again.
        """
        self.nodes[client_id].kill()

    def register(self, *client_ids: int) -> None:
        """Make the keys of clients known to the SuperLink."""
        assert self._certificates is not None, "insecure federations know no keys"
        folder = self._certificates
        with ThreadPoolExecutor(cores()) as pool:
            keys = {k: folder / f"node{k}.pub" for k in client_ids}
            list(pool.map(lambda k: self.flwr.register(keys[k], f"client{k}"), keys))
        self._registered |= keys.keys()

    def node_ids(self) -> dict[int, int]:
        """Return node ids by client id, of clients that run and have joined."""
        found = {}
        for client_id, node in self.nodes.items():
            said = NODE_ID.findall(node.output()) if node.exit_code is None else []
            if said:
                found[client_id] = int(said[-1])
        return found

    def online(self) -> set[int]:
        """Return the client ids that run, have joined, and the SuperLink counts on."""
        joined = self.node_ids()
        known = self.flwr.online() if joined else set()
        return {client_id for client_id, node in joined.items() if node in known}

    def wait_online(self, timeout_s: float = START_TIMEOUT_S, *client_ids: int) -> None:
        """Wait until clients (all, if none are named) are online.

        Raises
        ------
        FedNegError
            If one's process ends, or after `timeout_s`: who is missing, and the end of
            their logs.
        """
        wanted = set(client_ids or range(self.clients))
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self.check_superlink()
            ended = {k for k in wanted if self.nodes[k].exit_code is not None}
            doubles = {k for k in ended if self._is_double(k)}
            if ended - doubles:
                raise self._missing("ended", ended - doubles)
            for client_id in doubles:
                self.start_node(client_id)
            # The SuperLink is asked (a second's work) only when all have joined.
            if wanted <= set(self.node_ids()) and wanted <= self.online():
                return
            time.sleep(RETRY_S if doubles else POLL_S)
        raise self._missing(
            f"not online after {timeout_s:g} s", wanted - set(self.online())
        )

    def _is_double(self, client_id: int) -> bool:
        """Return whether a SuperNode was refused for the sake of its last process."""
        node = self.nodes[client_id]
        found = client_id in self._registered and NOT_ACTIVATED in node.output()
        if found and client_id not in self._refused:
            self._refused.add(client_id)
            self.say(
                f"client {client_id} was killed; the SuperLink lets it come back after "
                "two heartbeats, a minute"
            )
        return found

    def _missing(self, what: str, client_ids: set[int]) -> FedNegError:
        """Return the error that names clients and shows the end of their logs."""
        names = ", ".join(map(str, sorted(client_ids)))
        logs = [self.nodes[k].last_lines() for k in sorted(client_ids)]
        return FedNegError("\n".join([f"{what}: client {names}", *logs]))

    def check_superlink(self) -> None:
        """Raise FedNegError if the SuperLink has ended."""
        assert self.superlink is not None, "start() first"
        if self.superlink.exit_code is not None:
            raise FedNegError(
                f"the SuperLink ended (exit code {self.superlink.exit_code})\n"
                f"{self.superlink.last_lines()}"
            )

    def command(self, run_config: str) -> str:
        """Return the line that starts a run from any shell."""
        command = [str(BIN / "flwr"), *self.flwr.run_arguments(run_config), "--stream"]
        variables = variables_around_proxies(os.environ)
        variables["FLWR_HOME"] = str(self.folder / "flwr")
        before = [f"{name}={shlex.quote(v)}" for name, v in variables.items()]
        return f"{' '.join(before)} {shlex.join(command)}"

    def run(self, run_config: str, timeout_s: float = 600.0) -> RunResult:
        """Do a run and return what it came to; see `Flwr.submit` and `Flwr.wait`."""
        return self.flwr.wait(self.flwr.submit(run_config), timeout_s)

    def _take_folder(self) -> None:
        """Keep the folder for this federation, and for this user."""
        make_folder(self.folder)
        # What was made when files were everybody's to read.
        for name in ("state", "logs", "homes", "flwr"):
            tighten(self.folder / name)
        for database in self.folder.glob("superlink*.db*"):
            tighten(database)
        self._hold = Hold(self.folder)

    def _prepare(self) -> None:
        """Write keys, certificates and the profile; choose the ports."""
        # Git and `flwr build` leave the folder alone, should it lie in a checkout.
        write_bytes(self.folder / ".gitignore", b"*\n")
        if self._certificates:
            make_certificates(self._certificates, clients=self.clients)
            self._list_keys(self._certificates)
        port, other = free_ports(2)
        fleet_port = other if self._grpc else None
        # Nodes that nobody authenticated do not belong beside those that were.
        name = "superlink.db" if self.secure else "superlink-insecure.db"
        self._settings = SuperLink(
            port, fleet_port, self.folder / name, self._certificates
        )
        self._settings.write_profile(self.folder / "flwr")

    def _list_keys(self, certificates: Path) -> None:
        """Say in the roster whose key is whose: whoever made them knows."""
        state = State(self.state)
        state.ready()
        pins = state.pins()
        for client_id in range(self.clients):
            key = key_digest_of((certificates / f"node{client_id}.pub").read_bytes())
            if pins.key_of(client_id) != key:
                pins.add(client_id, key, OPERATOR)

    def _process(self, name: str, command: list[str]) -> Process:
        # Each has a home of its own, as on a machine of its own.
        home = self.folder / "homes" / name
        make_folder(home)
        return Process(
            name,
            command,
            folder=self.folder,
            log=self.folder / "logs" / f"{name}.log",
            environment=environment(home, self.data, self.modules),
        )
