"""What is published as an app, and whether Flower takes it, by its own rules.

The format of app bundles that 1.39 and 1.42 hold an app to is version 1: a licence that
is a file and in the bundle, a range for Flower, and the release that it is meant for.
"""

import importlib
import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from builders.checkout import REPOSITORY
from builders.waiting import PATIENCE_S

BASE = "https://host.example/us/fedneg/main"
APPS = {"fedneg": REPOSITORY, "quickstart-pytorch": REPOSITORY / "examples"}
LINKS = re.compile(r"\]\(([^)\s]+)\)")
_spec = importlib.util.spec_from_file_location(
    "flower_hub", REPOSITORY / "docs" / "flower_hub.py"
)
assert _spec is not None
assert _spec.loader is not None
flower_hub = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(flower_hub)


def build(app: Path, into: Path) -> subprocess.CompletedProcess[str]:
    """Call `flwr build`, whose bundle goes into a folder."""
    flwr = Path(sys.executable).parent / "flwr"
    return subprocess.run(
        [str(flwr), "build", "--app", str(app)],
        cwd=into,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


@pytest.fixture(scope="module", params=APPS)
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return the folder of an app as it would be published."""
    name, place = request.param, APPS[request.param]
    out = tmp_path_factory.mktemp("hub") / str(name)
    app = place if place == REPOSITORY else place / name
    words = [BASE, "--app", str(app), "--publisher", "us", "--out", str(out)]
    flower_hub.main(words)
    return out


@pytest.fixture(scope="module")
def bundle(made: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Return what `flwr build` makes of it."""
    into = tmp_path_factory.mktemp("built")
    done = build(made, into)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "recommended properties" not in done.stdout
    (found,) = into.glob("us.*.fab")
    return zipfile.ZipFile(found)


def settings_of(bundle: zipfile.ZipFile) -> dict[str, Any]:
    return tomllib.loads(bundle.read("pyproject.toml").decode())


def test_flwr_build_takes_it_in_the_strict_format(bundle: zipfile.ZipFile):
    """And what Flower reads of it is what the tests run on."""
    found = importlib.import_module("flwr.supercore.fab_format_version")
    metadata = found.normalize_and_validate_fab_format(settings_of(bundle))
    assert metadata.fab_format_version == 1
    assert metadata.flwr_version_min == "1.39"
    newest = (REPOSITORY / "constraints-newest.txt").read_text()
    assert f"flwr=={metadata.flwr_version_target}" in newest.splitlines()
    whole = (REPOSITORY / "LICENSE").read_bytes()
    assert bundle.read("LICENSE") == whole
    assert settings_of(bundle)["tool"]["flwr"]["app"]["publisher"] == "us"


def test_the_bundle_has_the_app(made: Path, bundle: zipfile.ZipFile):
    """Each of its files; and components that are among them."""
    names = set(bundle.namelist())
    files = {p.relative_to(made).as_posix() for p in made.rglob("*") if p.is_file()}
    assert names - {".info/CONTENT"} == files
    components = settings_of(bundle)["tool"]["flwr"]["app"]["components"]
    for reference in components.values():
        module = reference.partition(":")[0].replace(".", "/")
        assert f"{module}.py" in names


def test_the_readme_begins_with_what_the_hub_shows_and_names_no_file(made: Path):
    text = (made / "README.md").read_text()
    _, front, rest = text.split("---\n", 2)
    said = yaml.safe_load(front)
    assert said.keys() == {"tags", "dataset", "framework"}
    assert all(isinstance(one, list) and one for one in said.values())
    assert rest.lstrip().startswith("# ")
    links = LINKS.findall(rest)
    assert links
    below = 0
    for link in links:
        assert link.startswith(("https://", "#")), link
        if link.startswith(BASE):
            below += 1
            found = link.removeprefix(f"{BASE}/").partition("#")[0]
            assert (REPOSITORY / found).exists(), link
    assert below


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")
def test_flwr_app_publish_would_send_it_whole(
    made: Path, capsys: pytest.CaptureFixture[str]
):
    """Kinds, sizes and encodings of files, and the name: by its own rules."""
    rules = importlib.import_module("flwr.cli.app_cmd.publish")
    paths = rules._collect_file_paths(made)
    assert {*paths} == {p.resolve() for p in made.rglob("*") if p.is_file()}
    rules._validate_files(paths)
    project = tomllib.loads((made / "pyproject.toml").read_text())["project"]
    rules._validate_description(project["description"])
    for name in (made.name, project["name"]):
        rules._validate_app_name(name, "name")
    assert len(project["description"]) <= 200  # beyond that it asks
    assert "Skip" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('{ file = "LICENSE" }', '"Apache-2.0"', "requires [project].license to be"),
        ("flwr-version-target", "target", "Missing [tool.flwr.app].flwr-version-targ"),
        ("flwr[simulation]>=1.39", "flwr[simulation]==1.39", "an inclusive lower bou"),
        ('"1.42.0"', '"1.38.0"', "must be greater than or"),
    ],
)
def test_flwr_build_would_refuse_an_app_of_another_form(
    tmp_path: Path, old: str, new: str, why: str
):
    """So that what the tests above see is that it looked."""
    app = tmp_path / "quickstart-pytorch"
    shutil.copytree(REPOSITORY / "examples" / app.name, app)
    text = (app / "pyproject.toml").read_text()
    assert text.count(old) == 1
    (app / "pyproject.toml").write_text(text.replace(old, new))
    done = build(app, tmp_path)
    assert done.returncode != 0
    said = re.sub(r"[\s│]+", " ", done.stdout + done.stderr)
    assert why in said


def test_links_are_addresses_and_code_is_left_alone():
    text = (
        "![a](b/c.png) [`x](y)`](d.md#e) `[f](g)` [h](https://i) [j](#k)\n"
        "```\n[l](m)\n```\n[n](o/)"
    )
    assert flower_hub.with_addresses(text, f"{BASE}/", "examples/") == (
        f"![a]({BASE}/examples/b/c.png) [`x](y)`]({BASE}/examples/d.md#e) `[f](g)` "
        "[h](https://i) [j](#k)\n"
        f"```\n[l](m)\n```\n[n]({BASE}/examples/o/)"
    )


def test_an_address_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        flower_hub.main(["benchmarks/figures"])
    assert "the address must be https://HOST/PATH" in capsys.readouterr().err
