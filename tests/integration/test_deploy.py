"""Certificates and keys, and a federation of real clients over gRPC, end to end."""

import ipaddress
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import verification

from builders.checkout import REPOSITORY
from builders.programs import processes_in
from builders.waiting import LONG_S, PATIENCE_S, until, until_it_says
from fedneg.cli.application import run as run_words
from fedneg.core.errors import FedNegError
from fedneg.engines.deployed.certificates import make_certificates
from fedneg.engines.deployed.federation import LocalFederation
from fedneg.engines.deployed.flower import SuperLink, environment
from fedneg.engines.deployed.hold import Hold
from fedneg.engines.deployed.processes import Process, end, free_ports, marked
from fedneg.engines.deployed.proxies import around_proxies, variables_around_proxies

PRIVATE = ("ca.key", "server.key", "node0", "node1")


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder by its name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def certificate(path: Path) -> x509.Certificate:
    """Return a certificate as cryptography reads it."""
    return x509.load_pem_x509_certificate(path.read_bytes())


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Return a folder with the certificates of two clients."""
    make_certificates(tmp_path, clients=2, hosts=["example.org", "10.0.0.7"])
    return tmp_path


@pytest.mark.parametrize("host", ["example.org", "10.0.0.7", "localhost", "127.0.0.1"])
def test_the_chain_verifies_for_every_host_and_for_this_machine(made: Path, host: str):
    subject: x509.GeneralName
    try:
        subject = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        subject = x509.DNSName(host)
    store = verification.Store([certificate(made / "ca.crt")])
    verifier = verification.PolicyBuilder().store(store).build_server_verifier(subject)
    chain = verifier.verify(certificate(made / "server.pem"), [])
    assert len(chain) == 2


def test_the_chain_does_not_verify_for_another_host(made: Path):
    store = verification.Store([certificate(made / "ca.crt")])
    other = x509.DNSName("example.com")
    verifier = verification.PolicyBuilder().store(store).build_server_verifier(other)
    with pytest.raises(verification.VerificationError):
        verifier.verify(certificate(made / "server.pem"), [])


def test_private_keys_are_for_this_user_only(made: Path):
    modes = {path.name: path.stat().st_mode & 0o777 for path in made.iterdir()}
    assert {name for name, mode in modes.items() if mode == 0o600} == set(PRIVATE)
    assert {mode for name, mode in modes.items() if name not in PRIVATE} == {0o644}


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


def test_a_client_has_a_key_pair_as_flower_wants_it(made: Path):
    private = serialization.load_ssh_private_key(
        (made / "node1").read_bytes(), password=None
    )
    public = serialization.load_ssh_public_key((made / "node1.pub").read_bytes())
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert isinstance(private.curve, ec.SECP384R1)
    assert private.public_key() == public


def test_a_second_call_keeps_everything(made: Path):
    before = contents(made)
    assert make_certificates(made, clients=2, hosts=["10.0.0.7", "example.org"]) == []
    assert make_certificates(made, clients=2) == []
    assert contents(made) == before


def test_more_clients_add_keys_and_nothing_else(made: Path):
    before = contents(made)
    (line,) = make_certificates(made, clients=3)
    assert "node2" in line
    assert before.items() < contents(made).items()
    assert set(contents(made)) - set(before) == {"node2", "node2.pub"}


def test_other_hosts_renew_the_server_and_keep_the_authority(made: Path):
    before = contents(made)
    (line,) = make_certificates(made, clients=2, hosts=["fed.example.org"])
    assert "fed.example.org" in line
    changed = {name for name, old in before.items() if contents(made)[name] != old}
    assert changed == {"server.pem", "server.key"}
    server = certificate(made / "server.pem")
    server.verify_directly_issued_by(certificate(made / "ca.crt"))


def test_a_server_certificate_near_its_end_is_renewed_for_the_same_hosts(
    made: Path, monkeypatch: pytest.MonkeyPatch
):
    class Later(datetime):
        """A clock that is eleven months ahead."""

        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return datetime.now(UTC) + timedelta(days=335)

    monkeypatch.setattr("fedneg.engines.deployed.certificates.datetime", Later)
    (line,) = make_certificates(made, clients=2)
    assert "example.org, 10.0.0.7, localhost, 127.0.0.1" in line


def test_the_server_certificate_ends_no_later_than_its_authority(tmp_path: Path):
    make_certificates(tmp_path, clients=1, server_days=365, authority_days=10)
    ends = [
        certificate(tmp_path / name).not_valid_after_utc
        for name in ("server.pem", "ca.crt")
    ]
    assert ends[0] == ends[1]


def test_keys_that_have_moved_away_are_not_made_again(made: Path):
    """The authority's to a safe place, a client's to the client."""
    (made / "ca.key").unlink()
    (made / "node0").unlink()
    assert make_certificates(made, clients=2) == []
    with pytest.raises(FedNegError, match=r"ca\.key is missing"):
        make_certificates(made, clients=2, hosts=["other.example.org"])


def test_a_public_key_comes_back_from_its_private_one(made: Path):
    before = contents(made)
    (made / "node0.pub").unlink()
    make_certificates(made, clients=2)
    assert contents(made) == before


@pytest.mark.parametrize("name", [*PRIVATE, "ca.crt", "server.pem", "node0.pub"])
def test_a_damaged_file_is_named_and_kept(made: Path, name: str):
    path = made / name
    path.write_bytes(path.read_bytes()[:40])
    before = contents(made)
    with pytest.raises(FedNegError, match=f"{name} is damaged") as raised:
        make_certificates(made, clients=2)
    assert "\n" not in str(raised.value)
    assert contents(made) == before


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["ca.key"], "ca.key does not belong to .*ca.crt"),
        (["ca.crt"], "ca.key does not belong to .*ca.crt"),
        (["server.key"], "server.key does not belong to .*server.pem"),
        (["server.pem", "server.key"], "server.pem does not belong to .*ca.crt"),
        (["node0.pub"], "node0.pub does not belong to .*node0"),
    ],
)
def test_files_of_another_federation_are_named(
    made: Path, tmp_path: Path, names: list[str], message: str
):
    other = tmp_path / "other"
    make_certificates(other, clients=1)
    for name in names:
        shutil.copy(other / name, made / name)
    with pytest.raises(FedNegError, match=message):
        make_certificates(made, clients=2)


def test_a_private_key_that_others_can_read_is_refused(made: Path):
    (made / "node0").chmod(0o644)
    with pytest.raises(FedNegError, match=r"node0 can be read by others.*chmod 600"):
        make_certificates(made, clients=2)


def test_an_authority_that_is_out_of_date_is_refused(
    made: Path, monkeypatch: pytest.MonkeyPatch
):
    class Later(datetime):
        """A clock that is eleven years ahead."""

        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return datetime.now(UTC) + timedelta(days=11 * 365)

    monkeypatch.setattr("fedneg.engines.deployed.certificates.datetime", Later)
    with pytest.raises(FedNegError, match=r"ca\.crt was valid until"):
        make_certificates(made, clients=2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--clients", "0"], "at least 1, got '0'"),
        (["--clients", "2", "--host", "a b"], "an IP address, got 'a b'"),
        (["--clients", "2", "--days", "x"], "whole number, at least 1, got 'x'"),
        ([], "--clients"),
    ],
)
def test_words_that_mean_nothing_make_no_files(
    tmp_path: Path, words: list[str], message: str
):
    with pytest.raises(FedNegError, match=message):
        run_words(["certificates", str(tmp_path / "new"), *words])
    assert not (tmp_path / "new").exists()


def test_the_command_says_what_it_made_and_that_it_made_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run_words(["certificates", str(tmp_path), "--clients", "1", "--days", "7"])
    said = capsys.readouterr().out
    assert "node0.pub to register" in said
    assert "SuperLink at localhost, 127.0.0.1, 7 days" in said
    run_words(["certificates", str(tmp_path), "--clients", "1"])
    assert "has all of it already" in capsys.readouterr().out


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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--clients", "0"], "at least 1, got '0'"),
        (["--data", "/nowhere"], "--data must be a folder, got /nowhere"),
        (["--secure"], "unknown option --secure; did you mean --insecure"),
    ],
)
def test_words_that_mean_nothing_start_nothing(
    tmp_path: Path, words: list[str], message: str
):
    with pytest.raises(FedNegError, match=message):
        run_words(["up", "--dir", str(tmp_path / "new"), *words])
    assert not (tmp_path / "new").exists()


def start_up(folder: Path, *words: str, **environment: str) -> subprocess.Popen[bytes]:
    """Start `fedneg up` with its output in a file beside the folder."""
    with folder.with_suffix(".out").open("wb") as output:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "fedneg", "up", "--dir", str(folder)),
                *("--timeout", f"{PATIENCE_S:.0f}", *words),
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
        )


@pytest.mark.grpc
@pytest.mark.slow
def test_up_reports_what_ends_and_ends_with_the_superlink(tmp_path: Path):
    """With --insecure, which says so; meanwhile the folder is taken.

    Behind proxies that nobody answers at, which are not for this machine.
    """
    folder, said = tmp_path / "fed", tmp_path / "fed.out"
    proxies = {"http_proxy": CLOSED, "HTTPS_PROXY": CLOSED, "ALL_PROXY": "socks5://x:9"}
    up = start_up(folder, "--insecure", "--clients", "1", **proxies)
    try:
        text = until_it_says(said, "Ctrl-C stops everything")
        assert "nobody is authenticated and nothing is encrypted" in text
        flwr = Path(sys.executable).parent / "flwr"
        before = f"  no_proxy={HERE} all_proxy='' FLWR_HOME={folder}/flwr"
        assert f"{before} {flwr} run" in text
        with pytest.raises(FedNegError, match=f"{folder} has a federation that runs"):
            LocalFederation(folder, 1).start()
        for name, reported in (("node0", "client 0 ended"), ("superlink", "error:")):
            for process in marked(f"{folder}:{name}"):
                os.kill(process, signal.SIGKILL)
            text = until_it_says(said, reported)
            assert f"{folder}/logs/{name}.log:" in text
        assert "fedneg: error: the SuperLink ended (exit code -9)" in text
        assert up.wait(PATIENCE_S) == 2
        assert processes_in(folder) == []
    finally:
        up.kill()
        up.wait()


@pytest.mark.grpc
@pytest.mark.slow
def test_sigterm_stops_up_while_it_waits(tmp_path: Path):
    folder = tmp_path / "fed"
    up = start_up(folder, "--insecure", "--clients", "1")
    try:
        until_it_says(tmp_path / "fed.out", "waiting for 1 clients to be online")
        up.terminate()
        assert up.wait(PATIENCE_S) == 0
        assert processes_in(folder) == []
        assert "stopped" in (tmp_path / "fed.out").read_text()
    finally:
        up.kill()
        up.wait()


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


CLOSED = "http://127.0.0.1:9"
HERE = "127.0.0.1,localhost,::1"


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
    monkeypatch.setenv("http_proxy", CLOSED)
    found = environment(tmp_path / "home")
    assert found["PYTHONPATH"] == f"{tmp_path}/one:{tmp_path}:/two"
    assert found["FEDNEG_CACHE"] == str(tmp_path / "cache")
    assert found["no_proxy"] == HERE


def flags(words: list[str]) -> set[str]:
    """Return the names of the options among the words of a command line."""
    return {word.partition("=")[0] for word in words if word.startswith("--")}


def test_compose_gives_the_options_that_up_gives():
    folder = REPOSITORY / "fedneg" / "engines" / "deployed"
    services = yaml.safe_load((folder / "compose.yaml").read_text())["services"]
    secure = SuperLink(1, 2, Path("db"), Path("certificates"))
    assert flags(services["superlink"]["command"]) == flags(secure.command())
    for client_id in range(3):
        node = services[f"node{client_id}"]
        mine = secure.node_command(client_id, port=3)
        assert flags(node["command"]) == flags(mine)
        assert f"--node-config={mine[-1]}" in node["command"]
        keys = [v for v in node["volumes"] if "/node" in v]
        assert keys == [
            f"../../federation/certificates/node{client_id}:"
            f"/app/certificates/node{client_id}:ro"
        ]
    assert "--insecure" not in str(services)


def test_compose_takes_the_images_of_the_flower_that_is_tested():
    services = yaml.safe_load(
        (REPOSITORY / "fedneg" / "engines" / "deployed" / "compose.yaml").read_text()
    )["services"]
    pins = (REPOSITORY / "constraints.txt").read_text().split()
    (version,) = (pin.removeprefix("flwr==") for pin in pins if "flwr==" in pin)
    for name, service in services.items():
        kind = "superlink" if name == "superlink" else "supernode"
        base = service["build"]["args"]["BASE"]
        assert base.startswith(f"flwr/{kind}:{version}-py3.11-ubuntu")


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
