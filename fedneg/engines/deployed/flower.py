"""Flower's programs as this project calls them: command lines, environment, profile."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from fedneg.core.files import write_bytes
from fedneg.core.named import FEDNEG_PATH
from fedneg.engines.deployed.proxies import around_proxies

PROFILE = "federation"
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class SuperLink:
    """Where a SuperLink of this machine listens, and what it keeps.

    Attributes
    ----------
    port : int
        Where `flwr` finds it, and the programs that it starts.
    fleet_port : int or None
        Where SuperNodes find it, which then speak gRPC. None: on `port` too, over HTTP.
    database : Path
    certificates : Path or None
        The folder of ca.crt, server.pem, server.key and nodes' keys; None: insecure.
    """

    port: int
    fleet_port: int | None
    database: Path
    certificates: Path | None

    def command(self) -> list[str]:
        """Return the command line of flower-superlink."""
        command = [str(BIN / "flower-superlink")]
        if self.certificates is None:
            command += ["--insecure"]
        else:
            command += ["--ssl-ca-certfile", str(self.certificates / "ca.crt")]
            command += ["--ssl-certfile", str(self.certificates / "server.pem")]
            command += ["--ssl-keyfile", str(self.certificates / "server.key")]
            command += ["--enable-supernode-auth"]
        command += ["--database", str(self.database)]
        # The programs of this environment run the app; nothing is installed for it.
        command += ["--disable-runtime-dependency-installation"]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        if self.fleet_port is not None:
            command += ["--fleet-api-address", f"127.0.0.1:{self.fleet_port}"]
        return command

    def node_command(self, client_id: int, *, port: int, more: str = "") -> list[str]:
        """Return the command line of a client's flower-supernode.

        Parameters
        ----------
        client_id : int
        port : int
            Where the SuperNode's own helper reaches it.
        more : str
            Added to the node config; ``{id}`` stands for the client id.
        """
        command = [str(BIN / "flower-supernode")]
        if self.certificates is None:
            command += ["--insecure"]
        else:
            key = self.certificates / f"node{client_id}"
            command += ["--root-certificates", str(self.certificates / "ca.crt")]
            command += ["--auth-supernode-private-key", str(key)]
        command += ["--superlink", f"127.0.0.1:{self.fleet_port or self.port}"]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        config = f"client-id={client_id} {more.replace('{id}', str(client_id))}"
        return [*command, "--node-config", config.strip()]

    def write_profile(self, home: Path) -> None:
        """Write the profile that `flwr` finds in $FLWR_HOME."""
        trust = (
            "insecure = true"
            if self.certificates is None
            else f"root-certificates = {json.dumps(str(self.certificates / 'ca.crt'))}"
        )
        text = (
            f'[superlink]\ndefault = "{PROFILE}"\n\n[superlink.{PROFILE}]\n'
            f'address = "127.0.0.1:{self.port}"\n{trust}\n'
        )
        write_bytes(home / "config.toml", text.encode())


def environment(
    home: Path, data: Path | None = None, modules: Path | None = None
) -> dict[str, str]:
    """Return the environment of Flower's programs, which call each other by name.

    What means the working folder here means it there, in folders of their own.

    Parameters
    ----------
    home : Path
        $FLWR_HOME: profile, and apps that were received.
    data : Path, optional
        $FEDNEG_DATA, if not what it is now.
    modules : Path, optional
        Where ``module:name`` is looked for, before what $FEDNEG_PATH has now.
    """
    found = around_proxies(os.environ)
    found["PATH"] = f"{BIN}{os.pathsep}{found.get('PATH', os.defpath)}"
    found["FLWR_HOME"] = str(home)
    found["FLWR_DISABLE_UPDATE_CHECK"] = "1"
    found.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    if data is not None:
        found["FEDNEG_DATA"] = str(data)
    for name in ("FEDNEG_DATA", "FEDNEG_CACHE"):
        if found.get(name):
            found[name] = str(Path(found[name]).expanduser().resolve())
    if modules is not None:
        own = [str(modules), *filter(None, [found.get(FEDNEG_PATH)])]
        found[FEDNEG_PATH] = os.pathsep.join(own)
    for name in ("PYTHONPATH", FEDNEG_PATH):
        if path := found.get(name):
            entries = [os.path.abspath(part) for part in path.split(os.pathsep)]
            found[name] = os.pathsep.join(entries)
    return found
