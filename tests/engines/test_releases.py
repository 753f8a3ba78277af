"""Which releases of Flower are taken, and that each of them is tested."""

import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from builders.checkout import REPOSITORY
from builders.federations import QUICK
from builders.programs import Said
from fedneg.core.errors import FedNegError
from fedneg.engines import releases
from fedneg.engines.deployed.federation import LocalFederation
from fedneg.engines.deployed.flower import SuperLink
from fedneg.engines.releases import NEWEST, OLDEST, flower_release, speaks_grpc


def pins(name: str) -> dict[str, str]:
    """Return the versions in a file of constraints by package."""
    lines = (REPOSITORY / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def flower(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """Let another Flower seem to be installed."""
    monkeypatch.setattr(releases, "version", lambda name: version)


def test_the_tests_run_on_the_oldest_and_on_the_newest_release():
    """Each with pins of its own; they differ where the two cannot agree."""
    oldest, newest = pins("constraints.txt"), pins("constraints-newest.txt")
    for found, release in ((oldest, OLDEST), (newest, NEWEST)):
        assert found["flwr"].startswith("{}.{}.".format(*release))
    assert oldest.keys() == newest.keys()
    different = {name for name in oldest if oldest[name] != newest[name]}
    assert different == {"flwr", "cryptography"}
    assert flower_release() in (OLDEST, NEWEST)


def test_pip_is_asked_for_the_releases_that_are_taken():
    text = (REPOSITORY / "pyproject.toml").read_text()
    (needed,) = (
        name
        for name in tomllib.loads(text)["project"]["dependencies"]
        if name.startswith("flwr")
    )
    first_not = (NEWEST[0], NEWEST[1] + 1)
    expected = ">={}.{},<{}.{}".format(*OLDEST, *first_not)
    assert needed == f"flwr[simulation]{expected}"


@pytest.mark.parametrize(
    ("version", "release", "grpc"),
    [
        ("1.39.0", (1, 39), True),
        ("1.40.2", (1, 40), False),
        ("1.42.0rc1", (1, 42), False),
    ],
)
def test_a_release_that_is_known(
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    release: tuple[int, int],
    grpc: bool,
):
    """1.40 is above 1.4; SuperNodes of 1.40 and later speak HTTP."""
    flower(monkeypatch, version)
    assert flower_release() == release
    assert speaks_grpc(release) is grpc


@pytest.mark.parametrize("version", ["1.38.0", "1.43.0", "1.4.0", "2.40.0", "next"])
def test_another_release_is_refused_before_anything_is_done(
    monkeypatch: pytest.MonkeyPatch,
    fedneg: Callable[..., Said],
    tmp_path: Path,
    version: str,
):
    flower(monkeypatch, version)
    message = f"flwr must be 1.39 to 1.42, and {version} is installed: pip install"
    with pytest.raises(FedNegError, match=re.escape(message)):
        flower_release()
    for words in (QUICK, ("up", "--dir", "new", "--clients", "1")):
        found = fedneg(*words)
        assert found.code == 2
        assert found.err.startswith(f"fedneg: error: {message}")
        assert len(found.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("version", "secure", "transport"),
    [
        ("1.39.0", True, "gRPC"),
        ("1.39.0", False, "gRPC"),
        ("1.42.0", True, "HTTPS"),
        ("1.42.0", False, "HTTP"),
    ],
)
def test_a_federation_speaks_what_its_release_speaks(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    version: str,
    secure: bool,
    transport: str,
):
    flower(monkeypatch, version)
    federation = LocalFederation(tmp_path / "new", 1, secure=secure)
    assert federation.transport == transport
    federation._prepare()
    settings = federation._settings
    assert settings is not None
    assert (settings.fleet_port is not None) is (transport == "gRPC")


@pytest.mark.parametrize("fleet_port", [92, None])
def test_without_grpc_there_is_one_port_for_all(tmp_path: Path, fleet_port: int | None):
    one = SuperLink(80, fleet_port, tmp_path / "db", tmp_path)
    words = one.command()
    assert words[words.index("--port") + 1] == "80"
    assert ("--fleet-api-address" in words) is (fleet_port is not None)
    node = one.node_command(0, port=3)
    where = 80 if fleet_port is None else fleet_port
    assert node[node.index("--superlink") + 1] == f"127.0.0.1:{where}"
    assert "--root-certificates" in node
