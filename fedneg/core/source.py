"""What of fedneg's own source a module brings with it, and a digest of that.

Found in the text, not by importing: what a function imports only when it is called
counts too. What stands under ``if TYPE_CHECKING`` runs nowhere and does not count.
"""

import ast
import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path

from fedneg.core.named import folders

# Where statements have statements in them: functions, branches, except and case.
BLOCKS: tuple[str, ...] = ("body", "orelse", "finalbody", "handlers", "cases")
OWN = __name__.partition(".")[0]


@cache
def code_digest(modules: Sequence[str]) -> str:
    """Return a digest of the source of modules and of all that they import of fedneg.

    Any change of it counts, a comment too: to compute again is cheaper than numbers
    that the code in front of the reader would not give. Where it lies does not count.

    Parameters
    ----------
    modules : tuple of str
        Full names. Of somebody else's what it imports of its own package counts too,
        and of what lies in the folder where the command was typed.

    Raises
    ------
    ModuleNotFoundError
        If there is no such module.
    """
    digest = hashlib.sha256()
    for name in sources(modules):
        content = hashlib.sha256(_content(name)).hexdigest()
        digest.update(f"{name} {content}\n".encode())
    return digest.hexdigest()


def sources(modules: Sequence[str]) -> list[str]:
    """Return the names of `modules` and of all that they import of fedneg, sorted.

    Raises
    ------
    ModuleNotFoundError
        If one of `modules` is not there.
    """
    for name in modules:
        if _spec(name) is None:
            raise ModuleNotFoundError(f"no module named {name!r}", name=name)
    tops = {OWN, *(name.partition(".")[0] for name in modules)}
    found: set[str] = set()
    todo = list(modules)
    while todo:
        name = todo.pop()
        # Of `from a import b` nobody knows yet whether b is a module.
        if name in found or not _counts(name.partition(".")[0], tops):
            continue
        if _spec(name) is None:
            continue
        found.add(name)
        # A module's packages run before it.
        todo += [*_imports(name), *filter(None, [name.rpartition(".")[0]])]
    return sorted(found)


def _counts(top: str, tops: set[str]) -> bool:
    """Return whether a package is one of these, or lies where the command was typed."""
    if top in tops or not folders():
        return top in tops
    try:
        spec = _spec(top)
    except ValueError:  # __main__ has none
        return False
    if spec is None:
        return False
    places = spec.submodule_search_locations or [spec.origin or ""]
    return any(os.path.dirname(place) in folders() for place in places)


@cache
def _spec(name: str) -> ModuleSpec | None:
    """Return where a module lies, without running its package; None if nowhere."""
    above, _, last = name.rpartition(".")
    if not above:
        return find_spec(last)
    package = _spec(above)
    if package is None or package.submodule_search_locations is None:
        return None
    return PathFinder.find_spec(name, package.submodule_search_locations)


def _content(name: str) -> bytes:
    """Return a module's source; nothing for a folder that is a package by itself."""
    spec = _spec(name)
    assert spec is not None, name
    return Path(spec.origin).read_bytes() if spec.has_location and spec.origin else b""


@cache
def _imports(name: str) -> tuple[str, ...]:
    """Return what a module imports, or may: each name, and each with what it is of."""
    spec = _spec(name)
    assert spec is not None, name
    return tuple(_imported(ast.parse(_content(name)).body, spec.parent or ""))


def _imported(block: Sequence[ast.AST], package: str) -> Iterator[str]:
    """Yield the names that statements of a module in `package` import when they run."""
    todo = list(block)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            of = node.module or ""
            if node.level:  # none of ours: the linter forbids them
                above = package.split(".")[: 1 - node.level or None]
                of = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{of}.{alias.name}" for alias in node.names)
            yield of
        # Only into statements: expressions, most of a file, import nothing.
        inner = BLOCKS
        if isinstance(node, ast.If) and _names_type_checking(node.test):
            inner = ("orelse",)
        for field in inner:
            todo += getattr(node, field, ())


def _names_type_checking(test: ast.expr) -> bool:
    """Return whether a condition is typing's TYPE_CHECKING."""
    name = getattr(test, "attr", getattr(test, "id", None))
    return name == "TYPE_CHECKING"
