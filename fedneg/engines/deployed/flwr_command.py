"""The `flwr` command: keys registered, nodes listed, runs started and waited for.

Nothing of Flower is imported: what is used is its command line, which is public. Each
call takes about a second, for Python to import it.
"""

import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedneg.core.errors import FedNegError
from fedneg.engines.deployed.flower import BIN, PROFILE, environment

CALL_TIMEOUT_S = 60.0
POLL_S = 0.2
REGISTERED_ALREADY = "already in use"


@dataclass(frozen=True)
class RunResult:
    """What a run came to.

    Attributes
    ----------
    run_id : str
    status : str
        ``finished:completed``, ``finished:failed`` or ``finished:stopped``.
    details : str
        Of a failed run, the text of its exception.
    log : str
        What the ServerApp printed.
    """

    run_id: str
    status: str
    details: str
    log: str

    @property
    def completed(self) -> bool:
        """Whether it did all that was asked of it."""
        return self.status == "finished:completed"


class Flwr:
    """The `flwr` command with a profile.

    Parameters
    ----------
    home : Path
        $FLWR_HOME with the profile.
    app : Path
        The folder with the app's pyproject.toml.
    """

    def __init__(self, home: Path, app: Path) -> None:
        self.app = app
        self._environment = environment(home)

    def call(
        self, *arguments: str, timeout_s: float = CALL_TIMEOUT_S
    ) -> subprocess.CompletedProcess[str]:
        """Call `flwr`; on a timeout, what was said so far comes with exit code 124."""
        command = [str(BIN / "flwr"), *arguments]
        try:
            return subprocess.run(
                command,
                cwd=self.app,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            said = error.stdout or b""
            text = said.decode(errors="replace") if isinstance(said, bytes) else said
            return subprocess.CompletedProcess(command, 124, text, "timed out")

    def ask(self, *arguments: str) -> Mapping[str, Any]:
        """Call `flwr` and return its answer; raises FedNegError with what it said."""
        done = self.call(*arguments, "--format", "json")
        try:
            answer = json.loads(done.stdout)
        except ValueError:
            answer = {}
        if done.returncode == 0 and answer.get("success"):
            found: Mapping[str, Any] = answer
            return found
        said = answer.get("error-message") or done.stderr.strip() or done.stdout.strip()
        lines = [line.strip(" │") for line in str(said).splitlines() if line.strip()]
        raise FedNegError(f"flwr {' '.join(arguments[:2])}: {' '.join(lines[-4:])}")

    def register(self, public_key: Path, name: str) -> None:
        """Make a SuperNode's key known to the SuperLink; once is enough."""
        try:
            self.ask(
                *("supernode", "register", str(public_key), PROFILE, "--name", name)
            )
        except FedNegError as error:
            if REGISTERED_ALREADY not in str(error):
                raise

    def online(self) -> set[int]:
        """Return the node ids that the SuperLink takes to be online."""
        nodes = self.ask("supernode", "list", PROFILE)["nodes"]
        return {int(n["node-id"]) for n in nodes if n["status"] == "online"}

    def run_arguments(self, run_config: str) -> Sequence[str]:
        """Return what follows `flwr`, without options that say what to print."""
        arguments = ["run", str(self.app), PROFILE]
        return [*arguments, "--run-config", run_config] if run_config else arguments

    def submit(self, run_config: str) -> str:
        """Start a run and return its id."""
        return str(self.ask(*self.run_arguments(run_config))["run-id"])

    def status(self, run_id: str) -> tuple[str, str]:
        """Return a run's status and its details."""
        (run,) = self.ask("list", PROFILE, "--run-id", run_id)["runs"]
        return str(run["status"]), str(run["status-details"] or "")

    def wait(self, run_id: str, timeout_s: float) -> RunResult:
        """Return what a run came to, once it has ended.

        A SuperLink that is away meanwhile is waited for.

        Raises
        ------
        FedNegError
            If it has not ended after `timeout_s`; it goes on.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            # Returns when the run ends: cheaper than to ask again and again.
            left = max(deadline - time.monotonic(), 1.0)
            log = self.call("log", run_id, PROFILE, timeout_s=left).stdout
            try:
                status, details = self.status(run_id)
            except FedNegError as error:
                status, details = "unknown", str(error)
            if status.startswith("finished"):
                return RunResult(run_id, status, details, log)
            if time.monotonic() > deadline:
                raise FedNegError(
                    f"run {run_id} has not ended after {timeout_s:g} s: {status} "
                    f"{details}\n{log}"
                )
            time.sleep(POLL_S)
