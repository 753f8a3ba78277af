"""Installed in whatever way, fedneg adds one name, and a user's names stay the user's.

Built and installed without a network, beside the packages of this environment.
"""

import email
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from builders.checkout import REPOSITORY
from builders.federations import SMALL
from builders.waiting import PATIENCE_S

pytestmark = pytest.mark.slow

FORMS = ("wheel", "sdist", "editable", "bundle")
# Those that the wheel says it is for.
PYTHONS = ("3.11", "3.12", "3.13")
# What stands in the project's folder and goes into what is built.
PARTS = ("fedneg", "strategies", "clients", "conf", "tests", "benchmarks", "examples")
FILES = ("pyproject.toml", "README.md", "LICENSE")
# The user's own, under the names that our folders have.
MINE = "MINE = True\n"


def ran(*words: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command that must succeed; return what it printed."""
    found = subprocess.run(
        list(words),
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the project: building writes into it."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in PARTS:
        shutil.copytree(
            REPOSITORY / name,
            folder / name,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    for name in FILES:
        shutil.copy(REPOSITORY / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def built(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a wheel, a source archive, and the app's bundle."""
    folder = tmp_path_factory.mktemp("built")
    build = (sys.executable, "-m", "build", "--no-isolation", "--outdir", folder)
    ran(*build, "--wheel", "--sdist", cwd=checkout)
    # The scripts of an environment, not of the interpreter that it was made from.
    flwr = Path(sys.executable).parent / "flwr"
    ran(flwr, "build", cwd=checkout)
    (bundle,) = checkout.glob("*.fab")
    shutil.move(bundle, folder)
    return folder


class Installed:
    """An environment with fedneg in it, and a user's packages.

    Parameters
    ----------
    folder : Path
    """

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=False)
        self.python = folder / "bin" / "python"
        (self.site,) = (folder / "lib").glob("python*/site-packages")
        # Everything else, without the links to our own checkout that lie there.
        (self.site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
        self.environment = {"PYTHONPATH": ""}

    def install(self, what: Path, *options: str) -> None:
        """Install with the pip of this environment, and nothing that is needed."""
        ran(
            *(sys.executable, "-m", "pip", "--python", self.python, "install"),
            *("--no-deps", "--no-index", "--no-build-isolation", "--quiet"),
            *("--force-reinstall", *options, what),
            cwd=what.parent,
        )

    def names(self) -> set[str]:
        """Return the names that can be imported from where packages are installed."""
        return {
            path.name.removesuffix(".py")
            for path in self.site.iterdir()
            if path.suffix not in (".dist-info", ".pth") and path.name != "__pycache__"
        }


def test_the_source_archive_has_the_examples(built: Path):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as found:
        names = {name.partition("/")[2] for name in found.getnames()}
    assert {"examples/own_method.py", "examples/strategy/largest.yaml"} <= names


@pytest.fixture(scope="module", params=FORMS)
def installed(
    request: pytest.FixtureRequest,
    built: Path,
    checkout: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Installed:
    found = Installed(tmp_path_factory.mktemp(request.param))
    if request.param == "wheel":
        (wheel,) = built.glob("*.whl")
        found.install(wheel)
    elif request.param == "sdist":
        (archive,) = built.glob("*.tar.gz")
        found.install(archive)
    elif request.param == "editable":
        found.install(checkout, "--editable")
    else:
        # As Flower does it: unpacked, and put on the path of who runs the app.
        app = tmp_path_factory.mktemp("app")
        (bundle,) = built.glob("*.fab")
        zipfile.ZipFile(bundle).extractall(app)
        found.environment["PYTHONPATH"] = str(app)
    return found


def test_one_name_is_added(installed: Installed):
    assert installed.names() <= {"fedneg"}


def test_a_users_own_strategies_and_clients_stay_the_users(
    installed: Installed, tmp_path: Path
):
    """Both in the folder of the command, and installed; ours run all the same."""
    for folder in (installed.site, tmp_path):
        for name in ("strategies", "clients"):
            (folder / name).mkdir(exist_ok=True)
            (folder / name / "__init__.py").write_text(MINE)
    try:
        out = tmp_path / "out"
        ran(
            *(installed.python, "-m", "fedneg", *SMALL, "clients=3", "forget=1"),
            *("rounds=1", "report=false", "engine=local", "engine.workers=1"),
            f"hydra.run.dir={out}",
            cwd=tmp_path,
            **installed.environment,
        )
        assert (out / "results.json").is_file()
        said = ran(
            *(installed.python, "-c"),
            "import strategies, clients, fedneg.strategies, fedneg.clients; "
            "print(strategies.MINE, clients.MINE, fedneg.__file__); "
            "print(*fedneg.strategies.__path__, *fedneg.clients.__path__)",
            cwd=tmp_path,
            **installed.environment,
        )
        assert said.startswith("True True ")
        assert str(REPOSITORY) + os.sep not in said  # it is the one that was installed
    finally:
        for name in ("strategies", "clients"):
            shutil.rmtree(installed.site / name)


def test_the_configuration_comes_along(installed: Installed, tmp_path: Path):
    """And `fedneg` is a command where there is an installation."""
    said = ran(
        *(installed.python, "-m", "fedneg", "--cfg", "job", "data=digits"),
        cwd=tmp_path,
        **installed.environment,
    )
    assert "name: digits" in said
    if not installed.environment["PYTHONPATH"]:
        command = installed.python.parent / "fedneg"
        assert ran(command, "--version", cwd=tmp_path).startswith("fedneg ")


# -- the wheel -------------------------------------------------------------------------


def interpreter(release: str) -> str:
    """Return a Python of a release, or skip the test by name.

    This one, one on the path, or one of pyenv's: what is on the path may be a shim that
    starts nothing.
    """
    kept = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    places = [sys.executable, shutil.which(f"python{release}") or ""]
    places += map(str, sorted(kept.glob(f"{release}.*/bin/python{release}")))
    for place in filter(None, places):
        said = subprocess.run(
            [place, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        if said.stdout.strip() == release:
            return place
    pytest.skip(f"no Python {release}")


LOOK = """
import json, fedneg
from importlib.metadata import metadata
found = metadata("fedneg")
assert found["Version"] == fedneg.__version__
print(json.dumps({**found.json, "file": fedneg.__file__}))
"""


@pytest.mark.parametrize("release", PYTHONS)
def test_the_wheel_is_for_every_python_that_it_names(
    release: str, built: Path, tmp_path: Path
):
    """Installed alone: all of it compiles there, without a warning."""
    python = tmp_path / "bin" / "python"
    start = interpreter(release)
    ran(start, "-m", "venv", "--without-pip", tmp_path, cwd=tmp_path)
    (wheel,) = built.glob("*.whl")
    # pip looks at the other Python's release before it installs.
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet")
    ran(*pip, "--no-deps", "--no-index", wheel, cwd=tmp_path)
    alone = {"PYTHONPATH": ""}
    found = json.loads(ran(python, "-c", LOOK, cwd=tmp_path, **alone))
    package = Path(found["file"]).parent
    assert package.parent.parent.name == f"python{release}"
    assert len([*package.rglob("*.py")]) > 100
    again = ("-W", "error", "-m", "compileall", "-q", "-f")
    ran(python, *again, package, cwd=tmp_path, **alone)
    assert f"Programming Language :: Python :: {release}" in found["classifier"]


def test_the_wheel_says_whose_it_is_and_what_it_is_for(built: Path):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        found = email.message_from_bytes(archive.read(name))
    assert found["Requires-Python"] == f">={PYTHONS[0]}"
    named = {text.rpartition(" :: ")[2] for text in found.get_all("Classifier")}
    assert {n for n in named if n.startswith("3.")} == set(PYTHONS)
    assert found["Author"]
    assert found["License-File"] == "LICENSE"
    assert "Apache Software License" in named
    urls = dict(text.split(", ") for text in found.get_all("Project-URL"))
    assert urls
    for url in urls.values():
        assert url.startswith("https://")
    assert found.get_payload().startswith("# fedneg")
