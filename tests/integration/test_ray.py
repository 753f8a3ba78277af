"""Ray as users start it: the bytes of inline, and mistakes that come out of it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from builders.federations import SMALL
from builders.programs import Said, command
from builders.waiting import ALL_TESTS

MODELS = ("original", "unlearned", "recovered", "retrained")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("forget=1",),
        pytest.param(
            ("forget_samples={1: 0.3}", "strategy=puf"),
            marks=pytest.mark.skipif(
                not ALL_TESTS, reason="make test-all forgets examples on Ray, too"
            ),
        ),
    ],
)
def test_ray_gives_the_bytes_of_inline(
    fedneg: Callable[..., Said], tmp_path: Path, words: tuple[str, ...]
):
    """All four models, in separate processes and caches: neither reuses the other.

    A file of the user's that is called as a package of ours is stands in nobody's way.
    """
    (tmp_path / "clients.py").write_text("raise SystemExit('not what was meant')")
    arguments = (*SMALL, "clients=2", *words)
    arguments += ("rounds=2", "retrain=remaining", "attack=backdoor")
    assert fedneg(*arguments, "hydra.run.dir=inline").code == 0
    ray = command(*arguments, "engine=ray", "hydra.run.dir=ray", cwd=tmp_path)
    assert ray.returncode == 0, ray.stderr
    for name in MODELS:
        one, two = (
            (tmp_path / engine / f"model_{name}.safetensors").read_bytes()
            for engine in ("inline", "ray")
        )
        assert one == two, name
    results = json.loads((tmp_path / "ray" / "results.json").read_text())
    assert results["cost"]["reused_training"] is False
    assert results["failures"] == []


@pytest.mark.ray
@pytest.mark.slow
def test_a_mistake_found_by_the_server_comes_out_of_ray(tmp_path: Path):
    found = command(*SMALL, "clients=12", "engine=ray", cwd=tmp_path)
    assert found.returncode == 2
    assert found.stderr.splitlines()[-1].startswith("fedneg: error: clients must be")
    assert "Traceback" not in found.stderr
