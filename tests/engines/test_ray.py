"""What Ray must be given to start: short paths, and room for a client."""

import sys
from collections.abc import Callable
from typing import Any

import pytest

from builders.federations import QUICK
from builders.programs import Said
from fedneg.core.errors import FedNegError
from fedneg.core.settings import EngineSettings
from fedneg.engines import ray as ray_engine


@pytest.mark.parametrize(
    ("variables", "part"),
    [
        (
            {"TMPDIR": "/tmp/" + "a" * 120},
            "a socket's path may have 107 bytes, and Ray",
        ),
        ({"RAY_TMPDIR": "/proc/nowhere"}, "Ray cannot start: [Errno 2] No such file"),
    ],
)
def test_a_ray_that_cannot_start_is_one_line(
    fedneg: Callable[..., Said],
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    part: str,
):
    if sys.platform != "linux":
        pytest.skip("the limit is another one, and so is what Ray reads")
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ray_engine, "QUIET", {})  # which the tests would inherit
    found = fedneg(*QUICK, "engine=ray")
    assert found.code == 2
    (line,) = found.err.splitlines()
    assert line.startswith(f"fedneg: error: {part}")
    assert next(iter(variables.values())) in line


def test_a_socket_path_is_measured_in_bytes():
    ray_engine.check_socket("/" + "a" * 102)
    with pytest.raises(FedNegError, match="would have 205: set RAY_TMPDIR"):
        ray_engine.check_socket("/" + "\u00e9" * 102)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cpus_per_client": 5}, "engine.cpus_per_client must be at most 4.* got 5"),
        (
            {"gpus_per_client": 1.0},
            "engine.gpus_per_client must be at most 0.5.* got 1",
        ),
    ],
)
def test_a_client_needs_room_on_one_machine_of_rays(
    options: dict[str, Any], message: str
):
    """Not on all of them together; a machine that has left has nothing."""

    class Cluster:
        """Three machines, one of which has left."""

        @staticmethod
        def nodes() -> list[dict[str, dict[str, float]]]:
            resources = ({"CPU": 4.0}, {"CPU": 3.0, "GPU": 0.5}, {})
            return [{"Resources": found} for found in resources]

    fits = EngineSettings("ray", cpus_per_client=4, gpus_per_client=0.5)
    ray_engine.check_room(fits, Cluster)
    with pytest.raises(FedNegError, match=message):
        ray_engine.check_room(EngineSettings("ray", **options), Cluster)
