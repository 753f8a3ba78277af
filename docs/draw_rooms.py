"""Draw docs/rooms.svg and the table in docs/architecture.md from the imports.

`python docs/draw_rooms.py` writes both; the tests say when they are out of date. The
order of the rooms is that of `ROOMS`; an arrow is any import, lazy or for types only.
"""

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
# From the ground up: a room imports those before it in this list, and none after it.
# What stands at the top of fedneg/ is a room of one module each.
ROOMS = {
    "core": "errors, files, settings, randomness: what everything stands on",
    "data": "data sets, their parts for clients, attacks on them",
    "tasks": "what is trained, and how",
    "ledger": "what the server keeps so that it can forget",
    "evaluation": "what a model knows of a client, and the verdict",
    "records": "a lasting federation's folder: log, requests, receipts, keys",
    "flower_internals": "what Flower does not document, each with its test",
    "arrays": "a model's arrays as Flower carries them",
    "lasting": "what makes a federation last: kept, restored, purged, proved",
    "clients": "the roles of a client, one file each",
    "strategies": "FedAvg with a ledger, and the methods, one file each",
    "overrides": "Hydra overrides, by Hydra's own parser",
    "config": "the only door to the configuration",
    "forgettable": "any Flower strategy, made to forget",
    "serving": "somebody else's ClientApp: who its nodes are, what they answer",
    "client_app": "what a client does with a message",
    "history": "the rounds of a run as rows",
    "federation": "train, unlearn, recover, retrain, evaluate",
    "reports": "pages, tables, figures, the summary in the terminal",
    "live": "a federation that lives on: requests carried out",
    "job": "one run, told from top to bottom",
    "server_app": "what `flwr run` starts, and what `fedneg` calls",
    "engines": "what runs the clients: this process, workers, Ray, real nodes",
    "cli": "the sub-commands, one module each",
    "__main__": "`fedneg`",
}
OWN = ("fedneg", "strategies", "clients")
BEGIN, END = "<!-- rooms -->", "<!-- end of rooms -->"


def modules() -> dict[str, Path]:
    """Return every module of ours by its import name."""
    found = {}
    for top in OWN:
        for path in sorted((REPOSITORY / top).rglob("*.py")):
            parts = path.relative_to(REPOSITORY).with_suffix("").parts
            name = ".".join(parts if top == "fedneg" else ("fedneg", *parts))
            found[name.removesuffix(".__init__")] = path
    return found


def imported_by(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Yield every module that a file imports anywhere, lazily or for types only.

    Raises
    ------
    ValueError
        If an import is relative.
    """
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"relative import in {path}")
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in known else str(node.module)


def room_of(module: str) -> str:
    """Return the room of a module: the first name below `fedneg`; empty: the house."""
    return module.split(".")[1] if "." in module else ""


def arrows(known: dict[str, Path]) -> Iterator[tuple[str, str]]:
    """Yield who imports whom among our modules.

    Raises
    ------
    ValueError
        If one is imported that there is not.
    """
    for module, path in known.items():
        for name in imported_by(path, known):
            if name.split(".")[0] == "fedneg":
                if name not in known:
                    raise ValueError(f"{module} imports {name}, which is no module")
                yield module, name


def methods() -> set[str]:
    """Return the modules of methods: one more of them changes no picture."""
    pages = (REPOSITORY / "conf" / "strategy").glob("*.yaml")
    return {
        f"fedneg.strategies.{page.stem}"
        for page in pages
        if re.search("^name:", page.read_text(), re.M)
    }


def between_rooms(known: dict[str, Path]) -> Counter[tuple[str, str]]:
    """Return how many imports there are from one room to another.

    All methods together count as one module with one import from each room.
    """
    of_methods = methods()
    found: set[tuple[str, str]] = set()
    pairs = []
    for a, b in arrows(known):
        pair = (room_of(a), room_of(b))
        if a in of_methods:
            found.add(pair)
        else:
            pairs.append(pair)
    return Counter((a, b) for a, b in [*pairs, *found] if a and b and a != b)


def table(known: dict[str, Path], counts: Counter[tuple[str, str]]) -> str:
    """Return the rooms as a Markdown table, the ground at the bottom."""
    sizes = Counter(room_of(module) for module in known.keys() - methods())
    lines = [
        "| room | modules | what is in it | imports |",
        "| --- | ---: | --- | --- |",
    ]
    for room, text in reversed(ROOMS.items()):
        below = [name for name in ROOMS if (room, name) in counts]
        named = ", ".join(below) or "nothing of ours"
        lines.append(f"| `{room}` | {sizes[room]} | {text} | {named} |")
    back = sum(list(ROOMS).index(a) < list(ROOMS).index(b) for a, b in counts)
    said = f"{len(ROOMS)} rooms, {len(counts)} arrows between them, {back} upwards. "
    said += "Methods are not counted among the modules."
    return "\n".join([*lines, "", said])


def picture(counts: Counter[tuple[str, str]]) -> str:
    """Return an arc diagram: rooms in their order, an arc for whoever imports whom."""
    names = list(reversed(ROOMS))
    step, left, top, width = 30, 150, 24, 640
    y = {name: top + step * i for i, name in enumerate(names)}
    height = top + step * len(names)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="system-ui, sans-serif" font-size="14" role="img">',
        "<title>The rooms of fedneg, and which imports which</title>",
        "<style>text{fill:#1f2328}.room{fill:#eef3fb;stroke:#5b7db1}"
        ".arc{fill:none;stroke:#5b7db1}.back{stroke:#c0392b}"
        "@media(prefers-color-scheme:dark){text{fill:#e6edf3}"
        ".room{fill:#1c2b41}}</style>",
    ]
    for (upper, lower), count in sorted(counts.items()):
        a, b = y[upper], y[lower]
        reach = left + 8 + abs(b - a) * 0.8
        kind = "arc" if a < b else "arc back"
        parts.append(
            f'<path class="{kind}" stroke-width="{0.6 + min(count, 40) / 12:.2f}" '
            f'stroke-opacity="0.55" d="M{left} {a} C{reach:.0f} {a} {reach:.0f} {b} '
            f'{left} {b}"><title>{upper} imports {lower}: {count}</title></path>'
        )
    for name in names:
        parts.append(
            f'<rect class="room" x="14" y="{y[name] - 11}" width="{left - 14}" '
            f'height="22" rx="5"/><text x="24" y="{y[name] + 5}">{name}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def filled(text: str, content: str) -> str:
    """Return a page with what stands between the marks replaced."""
    pattern = re.compile(f"(?<={re.escape(BEGIN)}\n).*?(?={re.escape(END)})", re.S)
    return pattern.sub(lambda _: content + "\n", text)


def drawn() -> dict[Path, str]:
    """Return both files as they should be."""
    known = modules()
    counts = between_rooms(known)
    page = HERE / "architecture.md"
    return {
        HERE / "rooms.svg": picture(counts),
        page: filled(page.read_text(), table(known, counts)),
    }


if __name__ == "__main__":
    for path, content in drawn().items():
        path.write_text(content)
        sys.stdout.write(f"{path}\n")
