"""The rooms lie above one another, and mathematics has no Flower in it."""

import ast
import importlib.util
from pathlib import Path

import pytest

from builders.checkout import REPOSITORY, TESTS

FRONT_PAGE = 12  # modules at the top of fedneg/, at most
SEAM = {"server_app", "federation", "client_app", "config", "overrides"}
SEAM |= {
    "arrays",
    "forgettable",
    "flower_internals",
    "engines",
    "strategies",
    "clients",
    "serving",
}
OUTSIDE = {"flwr", "ray", "hydra", "omegaconf"}

_spec = importlib.util.spec_from_file_location(
    "draw_rooms", REPOSITORY / "docs" / "draw_rooms.py"
)
assert _spec is not None
assert _spec.loader is not None
rooms = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(rooms)
ROOMS, MODULES = list(rooms.ROOMS), rooms.modules()
ARROWS = list(rooms.arrows(MODULES))


def tops(module: str) -> set[str]:
    """Return the packages that a module imports from."""
    found = rooms.imported_by(MODULES[module], MODULES)
    return {name.split(".")[0] for name in found}


def test_every_module_has_a_room():
    assert len(MODULES) > 100
    assert {rooms.room_of(module) for module in MODULES} - {""} == set(ROOMS)
    top = [p for p in (REPOSITORY / "fedneg").iterdir() if p.suffix == ".py"]
    assert len(top) <= FRONT_PAGE, sorted(p.name for p in top)


def test_no_import_runs_upwards():
    """Nor into the house itself, whose `__init__` tells type checkers of them all."""
    assert [module for module, name in ARROWS if name == "fedneg"] == []
    back = [
        (module, name)
        for module, name in ARROWS
        if rooms.room_of(module)
        and rooms.room_of(name)
        and ROOMS.index(rooms.room_of(name)) > ROOMS.index(rooms.room_of(module))
    ]
    assert back == []


def test_no_modules_import_each_other_in_a_circle():
    below: dict[str, set[str]] = {module: set() for module in MODULES}
    for module, name in ARROWS:
        if module != name:
            below[module].add(name)
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, f"a circle: {(*way[way.index(module) :], module)}"
        if module not in done:
            for name in sorted(below[module]):
                visit(name, (*way, module))
            done.add(module)

    for module in sorted(below):
        visit(module, ())


def test_nothing_is_imported_by_the_names_of_the_top_folders():
    """An installed fedneg adds one name; a user's own `strategies` is the user's."""
    for module in MODULES:
        assert not tops(module) & {"strategies", "clients"}, module


@pytest.mark.parametrize("module", sorted(MODULES))
def test_only_the_seam_imports_flower_ray_or_hydra(module: str):
    is_seam = rooms.room_of(module) in SEAM or module == "fedneg.cli.run"
    assert is_seam or not tops(module) & OUTSIDE


@pytest.mark.parametrize(
    ("room", "other"), [("strategies", "clients"), ("clients", "strategies")]
)
def test_strategies_and_clients_do_not_know_each_other(room: str, other: str):
    for module, name in ARROWS:
        if rooms.room_of(module) == room:
            assert rooms.room_of(name) != other, module
            assert not tops(module) & (OUTSIDE - {"flwr"}), module


def test_the_picture_of_the_rooms_is_that_of_today():
    """`python docs/draw_rooms.py` draws it anew."""
    for path, content in rooms.drawn().items():
        assert path.read_text() == content, path.name


# -- the tests -------------------------------------------------------------------------


def test_tests_lie_in_rooms():
    """Beside these: what needs a browser, Ray or programs of Flower; and builders."""
    others = {"integration", "builders", "processes"}
    folders = {p.parent.relative_to(TESTS).as_posix() for p in TESTS.rglob("*.py")}
    assert folders - {"."} - others <= set(ROOMS)
    for path in TESTS.rglob("test_*.py"):
        assert path.parent.name not in {"builders", "processes"}, path.name


@pytest.mark.parametrize(
    "path", sorted(TESTS.rglob("*.py")), ids=lambda p: p.relative_to(TESTS).as_posix()
)
def test_no_file_imports_tests(path: Path):
    """What several of them share is in `builders`."""
    tests = {p.stem for p in TESTS.rglob("test_*.py")} | {"conftest", "tests"}
    for node in ast.walk(ast.parse(path.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(a.name for a in node.names)]
        for name in names:
            assert not set(name.split(".")) & tests, f"{path}:{node.lineno}: {name}"
