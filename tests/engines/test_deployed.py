"""What runs a deployed federation: processes and their ends, proxies, compose.yaml."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from builders.checkout import REPOSITORY
from builders.programs import processes_in
from builders.waiting import LONG_S, PATIENCE_S, until, until_it_says
from fedneg.core.errors import FedNegError
from fedneg.engines.deployed.federation import LocalFederation
from fedneg.engines.deployed.flower import SuperLink, environment
from fedneg.engines.deployed.hold import Hold
from fedneg.engines.deployed.processes import Process, end, free_ports, marked
from fedneg.engines.deployed.proxies import around_proxies, variables_around_proxies
from fedneg.engines.releases import (
    NEWEST,
    OLDEST,
    Release,
    flower_release,
    speaks_grpc,
)


def test_what_flowers_programs_make_is_for_this_user_only(tmp_path: Path):
    """A SuperLink's database holds updates; SQLite gives it the umask's mode."""
    words = [sys.executable, "-c", "import os; open('db', 'w'); os.mkdir('in')"]
    before = os.umask(0o000)
    try:
        made = Process(
            "superlink",
            words,
            folder=tmp_path,
            log=tmp_path / "logs" / "superlink.log",
            environment=os.environ,
        )
        end_of(made)
    finally:
        os.umask(before)
    found = {p.name: p.stat().st_mode & 0o777 for p in tmp_path.rglob("*")}
    assert found == {"db": 0o600, "in": 0o700, "logs": 0o700, "superlink.log": 0o600}


def test_an_older_databases_mode_is_tightened(tmp_path: Path):
    federation = LocalFederation(tmp_path / "federation", 1)
    for name in ("superlink.db", "superlink.db-wal", "logs/node0.log"):
        path = tmp_path / "federation" / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
        path.chmod(0o644)
    federation._take_folder()
    federation.stop()
    found = {
        p.name: p.stat().st_mode & 0o077 for p in (tmp_path / "federation").rglob("*")
    }
    assert found["superlink.db"] == found["superlink.db-wal"] == found["node0.log"] == 0


def end_of(process: Process) -> None:
    """Wait until a process has ended."""
    until("its end", lambda: process.exit_code is not None)
    assert process.exit_code == 0


CLOSED = "http://127.0.0.1:9"
HERE = "127.0.0.1,localhost,::1"
# Ended long before, by the test.
SLEEP = f"sleep {LONG_S}"


def words_of(pids: Iterable[int]) -> list[str]:
    """Return the command lines of processes."""
    said = (Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids)
    return [words.replace(b"\0", b" ").decode().strip() for words in said]


def start_shell(folder: Path, script: str, name: str = "one") -> Process:
    """Start a shell script as a process of a federation."""
    return Process(
        name,
        ["sh", "-c", script],
        folder=folder,
        log=folder / "logs" / f"{name}.log",
        environment=os.environ,
    )


def test_ending_a_process_ends_children_that_left_its_session(tmp_path: Path):
    """Flower's SuperLink detaches its helper; the mark in the environment finds it."""
    one = start_shell(tmp_path, f"setsid {SLEEP} & echo started; {SLEEP}")
    until_it_says(one.log, "started")
    # A process that is about to become another program cannot be seen for a moment.
    until("two to sleep", lambda: words_of(one.family()).count(SLEEP) == 2)
    end([one], grace_s=PATIENCE_S)
    assert one.exit_code == -signal.SIGTERM
    assert one.family() == processes_in(tmp_path) == []


def test_a_process_that_ignores_sigterm_is_ended_after_the_grace(tmp_path: Path):
    one = start_shell(tmp_path, f"trap '' TERM; echo started; {SLEEP}")
    until_it_says(one.log, "started")
    end([one], grace_s=0.5)
    assert one.exit_code == -signal.SIGKILL
    assert one.family() == []


def test_a_process_gets_sigterm_once(tmp_path: Path):
    """A second one breaks off the goodbye of Flower's SuperNode."""
    script = "trap 'echo goodbye; sleep 0.3; exit 0' TERM; echo started; "
    one = start_shell(tmp_path, script + "while :; do sleep 0.1; done")
    until_it_says(one.log, "started")
    end([one], grace_s=PATIENCE_S)
    assert one.output().count("goodbye") == 1
    assert one.exit_code == 0


def test_the_last_lines_are_those_since_the_last_start(tmp_path: Path):
    for text in ("old", "new"):
        one = start_shell(tmp_path, f"echo {text}")
        until_it_says(one.log, text)
        end([one], grace_s=PATIENCE_S)
    assert one.last_lines() == f"  {one.log}:\n    new"


def test_another_process_of_the_same_folder_is_let_alone(tmp_path: Path):
    one, other = (
        start_shell(tmp_path, f"exec {SLEEP}", name) for name in ("n1", "n10")
    )
    until("both to sleep", lambda: words_of(marked(f"{tmp_path}:")) == [SLEEP] * 2)
    one.kill()
    left = marked(f"{tmp_path}:")
    other.kill()
    assert len(left) == 1
    assert other.exit_code == -signal.SIGKILL


def test_free_ports_are_different():
    assert len(set(free_ports(20))) == 20


def test_what_is_left_in_a_folder_is_ended_at_the_start_and_at_the_end(tmp_path: Path):
    """A killed federation's processes; and one that an interrupt kept from the list."""
    federation = LocalFederation(tmp_path, 0, secure=False)
    for act in (federation._take_folder, federation.stop):
        log = tmp_path / "node7.log"
        words = SLEEP.split()
        left = Process("node7", words, folder=tmp_path, log=log, environment=os.environ)
        # Until the program has taken over, its environment cannot be read.
        until("its mark", lambda: len(marked(f"{tmp_path}:")) == 1)
        act()
        until("its end", lambda one=left: one.exit_code is not None)
        assert left.exit_code == -signal.SIGKILL


HOLDER = """
import os, subprocess, sys
from pathlib import Path
from fedneg.engines.deployed.hold import Hold
from fedneg.engines.deployed.processes import Process
folder = Path(sys.argv[1])
hold = Hold(folder)
words = ["sh", "-c", "setsid sleep 600 & echo started; sleep 600"]
Process("n", words, folder=folder, log=folder / "log", environment=os.environ)
sys.stdin.read()
"""


def test_when_the_holder_of_a_folder_is_killed_its_processes_end(tmp_path: Path):
    """Also those that left its session; and the folder is free again."""
    words = [sys.executable, "-c", HOLDER, str(tmp_path)]
    holder = subprocess.Popen(words, stdin=subprocess.PIPE)
    try:
        until("all of them", lambda: len(marked(f"{tmp_path}:")) == 3)
        holder.kill()
        until("their end", lambda: not marked(f"{tmp_path}:"))
        assert marked(f"{tmp_path}:") == []
        Hold(tmp_path).release()
    finally:
        holder.kill()
        holder.communicate()
        for left in marked(f"{tmp_path}:"):
            os.kill(left, signal.SIGKILL)


@pytest.mark.parametrize(
    ("given", "changed", "words"),
    [
        ({"no_proxy": "a.org"}, {}, {}),
        ({"HTTP_PROXY": ""}, {}, {}),
        *(
            (
                {name: CLOSED},
                {"no_proxy": HERE, "NO_PROXY": HERE, "no_grpc_proxy": HERE},
                {"no_proxy": HERE},
            )
            for kind in ("http", "https", "grpc", "all")
            for name in (f"{kind}_proxy", f"{kind}_proxy".upper())
        ),
        (
            {"http_proxy": CLOSED, "NO_PROXY": "a.org, ::1", "no_grpc_proxy": "b.org"},
            {
                "no_proxy": "a.org,::1,127.0.0.1,localhost",
                "NO_PROXY": "a.org,::1,127.0.0.1,localhost",
                "no_grpc_proxy": f"b.org,{HERE}",
            },
            {
                "no_proxy": "a.org,::1,127.0.0.1,localhost",
                "no_grpc_proxy": f"b.org,{HERE}",
            },
        ),
        (
            {"https_proxy": CLOSED, "no_proxy": "*"},
            {"NO_PROXY": "*", "no_grpc_proxy": f"*,{HERE}"},
            {},
        ),
        (
            {"ALL_PROXY": "socks5h://127.0.0.1:9"},
            {"ALL_PROXY": None},
            {"all_proxy": ""},
        ),
    ],
)
def test_proxies_leave_this_machines_own_addresses_alone(
    given: dict[str, str], changed: dict[str, str | None], words: dict[str, str]
):
    expected = {"LANG": "C", **given, **changed}
    expected = {name: value for name, value in expected.items() if value is not None}
    assert around_proxies({"LANG": "C", **given}) == expected
    assert variables_around_proxies({"LANG": "C", **given}) == words


def test_what_means_the_working_folder_means_it_to_other_programs_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """They run in folders of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"one{os.pathsep}{os.pathsep}/two")
    monkeypatch.setenv("FEDNEG_CACHE", "cache")
    monkeypatch.delenv("FEDNEG_PATH", raising=False)
    monkeypatch.setenv("http_proxy", CLOSED)
    found = environment(tmp_path / "home")
    assert found["PYTHONPATH"] == f"{tmp_path}/one:{tmp_path}:/two"
    assert found["FEDNEG_CACHE"] == str(tmp_path / "cache")
    assert found["no_proxy"] == HERE
    assert "FEDNEG_PATH" not in found
    monkeypatch.setenv("FEDNEG_PATH", "tasks")
    found = environment(tmp_path / "home", modules=tmp_path / "mine")
    assert found["FEDNEG_PATH"] == f"{tmp_path}/mine:{tmp_path}/tasks"


def flags(words: list[str]) -> set[str]:
    """Return the names of the options among the words of a command line."""
    return {word.partition("=")[0] for word in words if word.startswith("--")}


DEPLOYED = REPOSITORY / "fedneg" / "engines" / "deployed"


def services(release: Release) -> dict[str, Any]:
    """Return what Compose starts for a release, of its one file or its two.

    Merged as Compose does: mappings by key, of lists a command is another one's, and
    volumes and ports are added.
    """
    found = yaml.safe_load((DEPLOYED / "compose.yaml").read_text())["services"]
    if not speaks_grpc(release):
        more = yaml.safe_load((DEPLOYED / "compose.https.yaml").read_text())
        for name, service in more["services"].items():
            mine = found.setdefault(name, {})
            args = service.get("build", {}).get("args", {})
            known = mine.get("build", {})
            mine.update(service)
            if args:
                mine["build"] = known | {"args": known["args"] | args}
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("release", [OLDEST, NEWEST])
def test_compose_gives_the_options_that_up_gives(release: Release):
    found = services(release)
    grpc = speaks_grpc(release)
    secure = SuperLink(1, 2 if grpc else None, Path("db"), Path("certificates"))
    assert flags(found["superlink"]["command"]) == flags(secure.command())
    for client_id in range(3):
        node = found[f"node{client_id}"]
        mine = secure.node_command(client_id, port=3)
        assert flags(node["command"]) == flags(mine)
        assert f"--node-config={mine[-1]}" in node["command"]
        assert "--superlink=superlink:9092" in node["command"]
        keys = [Path(v.split(":")[0]) for v in node["volumes"] if "/node" in v]
        assert [(DEPLOYED / key).resolve() for key in keys] == [
            REPOSITORY / "federation" / "certificates" / f"node{client_id}"
        ]
        assert f"/app/certificates/node{client_id}:ro" in str(node["volumes"])
    assert "--insecure" not in str(found)
    assert found["superlink"]["ports"] == ["127.0.0.1:8000:8000", "9092:9092"]


@pytest.mark.parametrize(
    ("release", "constraints"),
    [(OLDEST, "constraints.txt"), (NEWEST, "constraints-newest.txt")],
)
def test_compose_takes_the_images_of_the_flower_that_is_tested(
    release: Release, constraints: str
):
    """And its constraints, by a name that the Dockerfile copies."""
    pins = (REPOSITORY / constraints).read_text().split()
    (version,) = (pin.removeprefix("flwr==") for pin in pins if "flwr==" in pin)
    found = services(release)
    assert ("gate" in found) is not speaks_grpc(release)
    for name, service in found.items():
        if name == "gate":
            continue
        kind = "superlink" if name == "superlink" else "supernode"
        args = service["build"]["args"]
        assert args["BASE"].startswith(f"flwr/{kind}:{version}-py3.11-ubuntu")
        assert service["image"] == f"fedneg/{kind}:{version}"
        assert args.get("PINS", "constraints.txt") == constraints
    dockerfile = (DEPLOYED / "Dockerfile").read_text()
    assert "ARG PINS=constraints.txt\n" in dockerfile
    assert "constraints*.txt" in dockerfile


def test_the_gate_in_compose_has_the_files_that_it_reads():
    """It listens where clients call, in the SuperLink's place."""
    gate = services(NEWEST)["gate"]
    assert gate["network_mode"] == "service:superlink"
    text = (DEPLOYED / "gate.conf").read_text()
    assert "listen 9092 ssl;" in text
    read = set(re.findall(r"^ *\w*_certificate\w* ([\w.]+);$", text, re.M))
    assert read == {"server.pem", "server.key", "ca.crt"}
    given = {}
    for volume in gate["volumes"]:
        here, there, mode = volume.split(":")
        given[Path(there)] = (DEPLOYED / here).resolve()
        assert mode == "ro"
    assert given.pop(Path("/etc/nginx/nginx.conf")) == DEPLOYED / "gate.conf"
    certificates = REPOSITORY / "federation" / "certificates"
    assert given == {Path("/etc/nginx") / n: certificates / n for n in read}


@pytest.mark.slow
def test_flowers_programs_know_the_options_that_up_gives(tmp_path: Path):
    """And call none of them deprecated, in the release that is installed."""
    fleet_port = 2 if speaks_grpc(flower_release()) else None
    one = SuperLink(1, fleet_port, Path("db"), Path("certificates"))
    for words in (one.command(), one.node_command(0, port=3)):
        program, *given = words
        said = subprocess.run(
            [program, "--help"],
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=True,
        ).stdout
        # What follows an option's line, up to the next option.
        texts = dict(re.findall(r"^  (--[\w-]+)(.*?)(?=^  -|\Z)", said, re.M | re.S))
        for option in flags(given):
            assert "deprecated" not in texts[option].lower(), option


@pytest.mark.parametrize("secure", [True, False])
def test_insecure_is_never_given_beside_certificates(tmp_path: Path, secure: bool):
    one = SuperLink(1, 2, tmp_path / "db", tmp_path if secure else None)
    node = one.node_command(4, port=3, more='data="/clients/{id}"')
    for words in (one.command(), node):
        assert ("--insecure" in words) is not secure
    assert node[-1] == 'client-id=4 data="/clients/4"'
    assert ("--enable-supernode-auth" in one.command()) is secure


class Scripted(LocalFederation):
    """A federation whose processes are shell scripts and whose clients are known."""

    def __init__(self, folder: Path, *scripts: str) -> None:
        super().__init__(folder, clients=1)
        self.scripts = list(scripts)
        self.superlink = start_shell(folder, f"exec {SLEEP}", "superlink")
        self._registered = {0}
        self.start_node(0)

    def start_node(self, client_id: int) -> None:
        """Start the next script."""
        self.nodes[client_id] = start_shell(
            self.folder, self.scripts.pop(0), f"node{client_id}"
        )

    def online(self) -> set[int]:
        """Believe what the scripts say."""
        return set(self.node_ids())


REFUSED = "echo '[code: 2004] Failed to activate SuperNode.'; exit 1"
JOINED = f"echo 'SuperNode ID: 5'; exec {SLEEP}"


def test_a_client_that_was_killed_tries_until_the_superlink_forgets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """For a minute after a kill, Flower refuses the new process as a double."""
    monkeypatch.setattr("fedneg.engines.deployed.federation.RETRY_S", 0.05)
    federation = Scripted(tmp_path, REFUSED, REFUSED, JOINED)
    said: list[str] = []
    federation.say = said.append
    federation.wait_online(PATIENCE_S)
    assert federation.node_ids() == {0: 5}
    federation.stop(1)
    (line,) = said
    assert "client 0 was killed" in line


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo boom; exit 3", r"^ended: client 0\n .*node0.log:\n +boom$"),
        (f"echo slow; exec {SLEEP}", r"^not online after 0.5 s: client 0\n.*\n +slow$"),
    ],
)
def test_who_is_missing_is_named_with_the_end_of_its_log(
    tmp_path: Path, script: str, message: str
):
    federation = Scripted(tmp_path, script)
    until_it_says(federation.nodes[0].log, script.split(";")[0].removeprefix("echo "))
    until("its end", lambda: federation.nodes[0].exit_code == 3 or "exit" not in script)
    with pytest.raises(FedNegError, match=message):
        federation.wait_online(0.5)
    federation.stop(1)
