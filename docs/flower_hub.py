"""Make a folder that `flwr app publish` takes: this app, or one of the examples.

    python docs/flower_hub.py https://HOST/OWNER/fedneg/main --publisher YOU

Flower Hub shows the README, and takes no pictures: what the README names in this
checkout becomes an address below the one that is given, where the same files can be
read. Before it stands what Flower's own apps say of themselves. `flwr build` in the
folder checks the rest of the format.
"""

import argparse
import json
import re
import shutil
import sys
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
FRONT = """\
---
tags: [unlearning, privacy, right-to-be-forgotten, vision]
dataset: [MNIST, QMNIST, Digits]
framework: [torch, scikit-learn]
---

"""
# What an app without `fab-include` sends: `flwr build` takes these kinds of text.
KINDS = ("**/*.py", "**/*.md", "**/*.yaml", "LICENSE")
LINK = re.compile(r"(\]\()([^)\s]+)(\))")


def with_addresses(text: str, base: str, folder: str = "") -> str:
    """Return a README whose links to files are addresses; code is left as it is."""
    parts = re.split(r"(^```.*?^```|`[^`\n]+`)", text, flags=re.M | re.S)

    def address(found: re.Match[str]) -> str:
        place = found[2]
        if re.match(r"[a-z]+:|#", place):
            return found[0]
        return f"{found[1]}{base.rstrip('/')}/{folder}{place}{found[3]}"

    # A link's text may be code: links are looked for with all code taken out.
    text, codes = "", []
    for number, part in enumerate(parts):
        text += f"\0{len(codes)}\0" if number % 2 else part
        codes += [part] if number % 2 else []
    text = LINK.sub(address, text)
    return re.sub(r"\0(\d+)\0", lambda found: codes[int(found[1])], text)


def with_publisher(text: str, publisher: str) -> str:
    """Return a pyproject.toml with another publisher: the account that publishes."""
    found, count = re.subn(
        r'^publisher = ".*"$', f"publisher = {json.dumps(publisher)}", text, flags=re.M
    )
    if count != 1:
        raise SystemExit("pyproject.toml must have one publisher")
    return found


def files_of(app: Path) -> Iterable[Path]:
    """Return what an app sends to its clients, and its licence."""
    settings = tomllib.loads((app / "pyproject.toml").read_text())
    patterns = settings["tool"]["flwr"]["app"].get("fab-include", KINDS)
    found = {path for pattern in patterns for path in app.glob(pattern)}
    return sorted(path for path in found if path.is_file())


def main(words: Sequence[str] | None = None) -> None:
    """Make the folder, anew."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("base", help="where this checkout can be read: https://...")
    parser.add_argument("--app", type=Path, default=REPOSITORY)
    parser.add_argument("--publisher", help="your account's name; as it is")
    parser.add_argument("--out", type=Path, help="the folder; dist/hub/NAME")
    given = parser.parse_args(words)
    if not re.match(r"https://[^/]+/", given.base):
        parser.error(f"the address must be https://HOST/PATH, got {given.base!r}")
    app = given.app.resolve()
    settings = (app / "pyproject.toml").read_text()
    name = tomllib.loads(settings)["project"]["name"]
    out = (given.out or REPOSITORY / "dist" / "hub" / name).resolve()
    shutil.rmtree(out, ignore_errors=True)
    for path in files_of(app):
        target = out / path.relative_to(app)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    if given.publisher:
        settings = with_publisher(settings, given.publisher)
    (out / "pyproject.toml").write_text(settings)
    below = "" if app == REPOSITORY else f"{app.relative_to(REPOSITORY).as_posix()}/"
    text = (app / "README.md").read_text()
    front = "" if text.startswith("---\n") else FRONT
    (out / "README.md").write_text(front + with_addresses(text, given.base, below))
    print(out)


if __name__ == "__main__":
    main(sys.argv[1:])
