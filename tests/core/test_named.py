"""What a user names as module:name is found where they are told, or said not to be."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from builders.programs import Put
from builders.waiting import PATIENCE_S
from fedneg.core.children import python_command
from fedneg.core.errors import FedNegError
from fedneg.core.named import (
    add_folder,
    folders,
    is_named,
    load_named,
    load_offered,
    offered,
)


def refused(name: str, folder: Path | None = None) -> str:
    """Return the one line that says why nothing is found."""
    with pytest.raises(FedNegError) as caught:
        load_named(name, what="strategy", folder=folder)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_module_of_the_folder_is_found_and_others_are_not_looked_for(
    put: Put, tmp_path: Path
):
    put("zzmine.py", "class Mine: pass\nclass A:\n    B = 7\n")
    assert "there is no module zzmine" in refused("zzmine:Mine")
    assert str(tmp_path) not in sys.path
    found = load_named("zzmine:Mine", what="strategy", folder=tmp_path)
    assert found.__module__ == "zzmine"
    assert load_named("zzmine:A.B", what="strategy") == 7


def test_the_folder_is_last_on_the_path_and_once(put: Put, tmp_path: Path):
    put("json.py", "HERE = 1\n")
    text = refused("json:HERE", tmp_path)
    assert text.startswith("strategy=json:HERE: json (")
    assert text.endswith("json/__init__.py) has no HERE")
    add_folder(tmp_path)
    assert sys.path.count(str(tmp_path)) == 1
    assert sys.path[-1] == str(tmp_path)
    assert folders() == (str(tmp_path),)


def test_a_relative_folder_stays_where_it_is(
    put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    put("zzmine.py", "X = 1\n")
    monkeypatch.chdir(tmp_path)
    add_folder(".")
    monkeypatch.chdir("/")
    assert load_named("zzmine:X", what="task") == 1


def test_a_child_process_has_the_folder_too(put: Put, tmp_path: Path):
    put("zzchild.py", "def main():\n    print('here')\n")
    add_folder(tmp_path)
    found = subprocess.run(
        python_command("zzchild"),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert found.stdout == "here\n", found.stderr


@pytest.mark.parametrize(
    "text", ["mine", "mine:", ":Mine", "a b:C", "a:b:c", "../a:B", "a.:B", "a:B.", ""]
)
def test_other_forms_are_refused(text: str):
    assert not is_named(text)
    assert refused(text) == f"strategy must be of the form module:name, got {text!r}"


def test_nothing_but_text_is_a_name():
    assert not is_named(None)
    assert not is_named(3)
    assert is_named("a.b:C.d")


def test_what_is_not_there_is_said_with_the_folders(put: Put, tmp_path: Path):
    put("zzmine.py", "")
    assert refused("zzno.such:Mine", tmp_path) == (
        "strategy=zzno.such:Mine: there is no module zzno.such among what is "
        f"installed, nor in {tmp_path}"
    )
    assert "there is no module zzmine.sub" in refused("zzmine.sub:Mine")


def test_a_name_that_is_not_in_the_module_is_said_with_one_like_it(
    put: Put, tmp_path: Path
):
    path = put("zzmine.py", "class Mine: pass\n")
    assert refused("zzmine:Mime", tmp_path) == (
        f"strategy=zzmine:Mime: zzmine ({path}) has no Mime; did you mean Mine?"
    )
    assert refused("zzmine:Mine.x").endswith(": Mine has no x")


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("x = 1\n\n1 / 0\n", 3, "ZeroDivisionError: division by zero"),
        ("import zzno_such\n", 1, "ModuleNotFoundError: No module named 'zzno_such'"),
        ("def f(:\n", 1, "SyntaxError: invalid syntax"),
        ("import sys\nsys.exit('two\\nlines')\n", 2, "SystemExit: two lines"),
        ("raise KeyError\n", 1, "KeyError"),
        ("\nimport numpy\nnumpy.zeros(-1)\n", 3, "ValueError: negative dimensions"),
        (
            "from fedneg.core.checks import whole\nwhole('x', 0, minimum=1)\n",
            2,
            "x must be at least 1, got 0",
        ),
    ],
)
def test_an_error_of_the_module_is_said_with_its_line(
    put: Put, tmp_path: Path, text: str, line: int, why: str
):
    path = put("zzmine.py", text)
    said = refused("zzmine:Mine", tmp_path)
    assert said.startswith(f"strategy=zzmine:Mine: {path}, line {line}: {why}")


def test_an_error_in_a_file_beside_it_is_said_with_the_line_of_that(
    put: Put, tmp_path: Path
):
    put("zzpack/__init__.py", "")
    put("zzpack/mine.py", "import zzbeside\n")
    path = put("zzbeside.py", "\n\n\nraise OSError(2, 'gone')\n")
    said = refused("zzpack.mine:Mine", tmp_path)
    assert f"{path}, line 4: FileNotFoundError: [Errno 2] gone" in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_module_that_cannot_be_read_is_said(put: Put, tmp_path: Path):
    put("zzmine.py", "").chmod(0)
    said = refused("zzmine:Mine", tmp_path)
    assert "zzmine cannot be imported: PermissionError" in said


def offer(put: Put, package: str, entries: str) -> None:
    """Install a package, as far as its metadata go, that offers entry points."""
    folder = f"site/{package}-1.dist-info"
    put(f"{folder}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
    put(f"{folder}/entry_points.txt", f"[fedneg.zz]\n{entries}\n")


def test_an_entry_point_is_found_by_its_name(put: Put, tmp_path: Path):
    put("site/zzoffer.py", "X = 1\n")
    assert offered("fedneg.zz") == ()
    offer(put, "zzone", "near = zzoffer:X\nfar = zzno:X\nold = zzoffer:Y")
    sys.path.append(str(tmp_path / "site"))
    assert offered("fedneg.zz") == ("far", "near", "old")
    assert "zzoffer" not in sys.modules

    def load(name: str) -> object:
        return load_offered(name, group="fedneg.zz", what="strategy")

    assert load("near") == 1
    with pytest.raises(FedNegError, match=r"^strategy=far \(zzno:X\): there is no mod"):
        load("far")
    with pytest.raises(FedNegError, match=r"^strategy=old \(zzoffer:Y\): .* has no Y$"):
        load("old")


def test_two_packages_that_offer_one_name_are_refused(put: Put, tmp_path: Path):
    offer(put, "zzone", "near = zzone:X")
    offer(put, "zztwo", "near = zztwo:X")
    sys.path.append(str(tmp_path / "site"))
    assert offered("fedneg.zz") == ("near",)
    with pytest.raises(FedNegError, match=r"=near must .* got zz(one|two):X and zz"):
        load_offered("near", group="fedneg.zz", what="strategy")


def test_folders_of_the_environment_are_looked_in_too_and_last(
    put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As programs of Flower's need it, which start in folders of their own."""
    put("one/zzone.py", "X = 1\n")
    put("two/zztwo.py", "X = 2\n")
    put("two/json.py", "X = 3\n")
    monkeypatch.delenv("FEDNEG_PATH", raising=False)
    assert "there is no module zzone" in refused("zzone:X")
    both = os.pathsep.join([str(tmp_path / "one"), str(tmp_path / "two")])
    monkeypatch.setenv("FEDNEG_PATH", both)
    assert load_named("zzone:X", what="task") == 1
    assert load_named("zztwo:X", what="task") == 2
    assert "json/__init__.py) has no X" in refused("json:X")
    assert "zzthree among what is installed, nor in" in refused("zzthree:X")
