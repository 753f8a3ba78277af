"""What the code digest counts: what a training imports, wherever it lies."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from builders.checkout import REPOSITORY
from builders.waiting import PATIENCE_S
from fedneg.core import named, source
from fedneg.core.source import code_digest, sources
from fedneg.ledger.training_cache import TRAINING

Put = Callable[[str, str], None]


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Put:
    """Return what writes a module of the package `theirs`; digests begin anew."""

    def write(name: str, text: str) -> None:
        path = tmp_path / "theirs" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        forget()

    def forget() -> None:
        for cached in (code_digest, source._spec, source._imports):
            cached.cache_clear()

    monkeypatch.syspath_prepend(tmp_path)
    write("__init__", "")
    yield write
    forget()


def test_what_lies_where_the_command_was_typed_counts_too(
    put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A task's helpers, wherever they are imported; else only its own package."""
    put("a", "import helper, numpy, __main__")
    helper = tmp_path / "helper.py"
    helper.write_text("from theirs import b")
    put("b", "")
    assert sources(("theirs.a",)) == ["theirs", "theirs.a"]
    monkeypatch.setattr(named, "_folders", [str(tmp_path)])
    put("b", "")
    assert sources(("theirs.a",)) == ["helper", "theirs", "theirs.a", "theirs.b"]
    before = code_digest(("theirs.a",))
    helper.write_text("from theirs import b  # edited")
    put("b", "")
    assert code_digest(("theirs.a",)) != before


def test_the_training_brings_both_sides_and_no_page():
    """By name only what the import graph must reach, however it is cut."""
    lasts = {name.rpartition(".")[2] for name in sources(TRAINING)}
    assert lasts >= {"client_app", "trainer", "base", "rows", "ledger", "training"}
    assert lasts >= {"partition", "seeding", "parameters", "cohort", "replies"}
    assert not lasts & {"report", "page", "compare", "__main__", "negative_gradient"}


@pytest.mark.parametrize(
    "text",
    [
        "import theirs.b",
        "from theirs import b",
        "from . import b",
        "from .b import anything",
        "from ..theirs import b",
        "from theirs.b import anything",
        "def f():\n    from theirs import b",
        "class A:\n    def f(self):\n        if 1:\n            import theirs.b as c",
        "try:\n    pass\nexcept OSError:\n    from theirs import b",
        "try:\n    pass\nfinally:\n    from theirs import b",
        "match 1:\n    case 1:\n        from theirs import b",
        "with f():\n    pass\nfor i in ():\n    pass\nelse:\n    from theirs import b",
        "async def f():\n    async with g():\n        from theirs import b",
    ],
)
def test_an_import_counts_wherever_it_stands(put: Put, text: str):
    put("a", "")
    put("b", "x = 1")
    assert sources(("theirs.a",)) == ["theirs", "theirs.a"]
    before = code_digest(("theirs.a",))
    put("a", text)
    with_import = code_digest(("theirs.a",))
    assert sources(("theirs.a",)) == ["theirs", "theirs.a", "theirs.b"]
    put("b", "x = 2")
    assert len({before, with_import, code_digest(("theirs.a",))}) == 3


@pytest.mark.parametrize("test", ["TYPE_CHECKING", "typing.TYPE_CHECKING"])
def test_what_only_a_type_checker_reads_does_not_count(put: Put, test: str):
    put("b", "")
    put("c", "")
    put("a", f"if {test}:\n    import theirs.b\nelse:\n    import theirs.c")
    assert sources(("theirs.a",)) == ["theirs", "theirs.a", "theirs.c"]


def test_circles_end_and_what_others_wrote_does_not_count(put: Put):
    put("a", "import theirs.b, numpy, json, theirs.nowhere")
    put("b", "from theirs.a import x\nfrom fedneg.core.errors import FedNegError")
    assert sources(("theirs.a",)) == [
        *("fedneg", "fedneg.core", "fedneg.core.errors"),
        *("theirs", "theirs.a", "theirs.b"),
    ]


def test_the_packages_that_run_before_a_module_count(put: Put):
    put("a", "")
    before = code_digest(("theirs.a",))
    put("__init__", "x = 1")
    assert code_digest(("theirs.a",)) != before


def test_a_module_that_is_not_there_is_named():
    with pytest.raises(ModuleNotFoundError, match=r"no module named 'fedneg\.nowhere'"):
        code_digest(("fedneg.core.errors", "fedneg.nowhere"))


def test_an_import_added_to_the_training_changes_its_key_and_a_move_does_not(
    tmp_path: Path,
):
    """In copies of fedneg elsewhere on the disk, each asked in its own process."""

    def digest(folder: Path) -> str:
        code = (
            "from fedneg.ledger.training_cache import TRAINING;"
            "from fedneg.core.source import code_digest; print(code_digest(TRAINING))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    one, two = tmp_path / "one", tmp_path / "elsewhere" / "two"
    for name in ("fedneg", "strategies", "clients"):
        shutil.copytree(
            REPOSITORY / name, one / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    first = digest(one)
    assert first == code_digest(TRAINING)
    (one / "fedneg" / "core" / "more.py").write_text("x = 1\n")
    assert digest(one) == first  # nothing imports it
    rows = one / "fedneg" / "ledger" / "rows.py"
    rows.write_text(
        rows.read_text() + "\n\ndef f():\n    from fedneg.core import more\n"
    )
    second = digest(one)
    (one / "fedneg" / "core" / "more.py").write_text("x = 2\n")
    third = digest(one)
    shutil.copytree(one, two)
    assert len({first, second, third}) == 3
    assert digest(two) == third
