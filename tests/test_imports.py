"""The import rule: mathematics has no Flower in it, Flower files no mathematics."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY

SEAM = {"server_app", "federation", "client_app", "config", "overrides", "__main__"}
SEAM |= {"engine", "inline_grid", "local_grid", "ray_engine"}
OUTSIDE = {"flwr", "ray", "hydra", "omegaconf"}


def modules_of(package: str) -> list[Path]:
    """Return every file of a package, sub-packages included."""
    found = sorted((REPOSITORY / package).rglob("*.py"))
    assert found
    return found


def imported_by(path: Path) -> Iterator[str]:
    """Yield every module that a file imports anywhere, lazily or not."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path}"
            yield str(node.module)


def tops(path: Path) -> set[str]:
    """Return the packages that a file imports from."""
    return {name.split(".")[0] for name in imported_by(path)}


@pytest.mark.parametrize(
    "path", modules_of("fedneg"), ids=lambda p: str(p.relative_to(REPOSITORY))
)
def test_only_the_seam_imports_flower_ray_or_hydra(path: Path):
    is_seam = path.parent.name == "fedneg" and path.stem in SEAM
    assert is_seam or not tops(path) & OUTSIDE


def test_below_the_seam_nothing_knows_strategies_or_clients():
    for path in modules_of("fedneg"):
        if path.stem not in SEAM:
            assert not tops(path) & {"strategies", "clients"}, path


@pytest.mark.parametrize(
    ("package", "other"), [("strategies", "clients"), ("clients", "strategies")]
)
def test_strategies_and_clients_do_not_know_each_other(package: str, other: str):
    for path in modules_of(package):
        assert other not in tops(path), path
        assert not tops(path) & (OUTSIDE - {"flwr"}), path
