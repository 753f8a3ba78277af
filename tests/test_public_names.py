"""What `fedneg` offers to whoever imports it is a list, and costs nothing to import."""

import ast
import importlib
import subprocess
import sys
from importlib.metadata import version

import pytest

import fedneg
from builders.checkout import REPOSITORY
from builders.waiting import PATIENCE_S
from fedneg.core.settings import methods
from fedneg.strategies import strategy_class

INIT = REPOSITORY / "fedneg" / "__init__.py"
TASK = {"ClientRef", "Order", "Split", "Task"}
JUDGE = {"Seen", "judge"}
WRAPPER = {"Forgettable", "NotLinearError", "serve"}
SLOW = ("torch", "flwr", "ray", "hydra", "numpy", "pandas", "matplotlib")


def told_to_type_checkers() -> dict[str, str]:
    """Return from each name that editors and mypy see the module that has it."""
    tree = ast.parse(INIT.read_text())
    (block,) = [
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    found = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert alias.asname == alias.name, "else it is not exported"
            found[alias.name] = str(node.module)
    return found


def test_the_list_is_the_task_the_judge_the_wrapper_and_every_method():
    classes = {strategy_class(name).__name__ for name in methods()}
    assert len(classes) == len(methods())
    assert sorted(fedneg.__all__) == sorted({*TASK, *JUDGE, *WRAPPER, *classes})


@pytest.mark.parametrize("name", [*fedneg.__all__, "__version__"])
def test_every_name_is_there_and_type_checkers_are_told_the_same(name: str):
    home = told_to_type_checkers()[name]
    found = getattr(fedneg, name)
    assert found is getattr(importlib.import_module(home), name)
    assert getattr(found, "__module__", home) == home
    assert name in dir(fedneg)


def test_type_checkers_are_told_of_nothing_else():
    assert set(told_to_type_checkers()) == {*fedneg.__all__, "__version__"}
    # To a module with a function __getattr__ any name would be good.
    seen = ast.parse(INIT.read_text()).body
    assert "__getattr__" not in {getattr(node, "name", None) for node in seen}
    assert (REPOSITORY / "fedneg" / "py.typed").is_file()


def test_a_name_that_is_not_there_is_an_attribute_error():
    assert not hasattr(fedneg, "Nobody")
    with pytest.raises(AttributeError, match=r"^module 'fedneg' has no attribute 'No"):
        fedneg.Nobody  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'Nobody'"):
        exec("from fedneg import Nobody")


def said_of(code: str) -> str:
    """Return what a new process prints that runs this."""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def test_importing_it_imports_nothing_that_takes_time():
    """Not even when it is asked what there is."""
    code = (
        "import sys; import fedneg; dir(fedneg); "
        f"print([name for name in {SLOW} if name in sys.modules], "
        "[name for name in sys.modules if name.startswith('fedneg.')])"
    )
    assert said_of(code) == "[] []"


def test_a_task_can_be_written_without_waiting_for_flower():
    code = "import sys; from fedneg import Task; print(Task, 'flwr' in sys.modules)"
    assert said_of(code) == "<class 'fedneg.tasks.task.Task'> False"


def test_all_of_it_can_be_imported_at_once():
    code = "from fedneg import *; print(Task.__name__, NegativeGradient.__name__)"
    assert said_of(code) == "Task NegativeGradient"


def test_its_version_is_that_of_the_installation():
    assert fedneg.__version__ == version("fedneg")
