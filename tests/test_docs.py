"""The pages: links lead somewhere, tables have their places, the first one is short."""

import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from builders.checkout import REPOSITORY

PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
    *sorted((REPOSITORY / "examples").rglob("*.md")),
]
# What scripts of benchmarks/ put into which page.
FILLED = {
    "README.md": ["table"],
    "docs/architecture.md": ["rooms"],
    "docs/benchmarks.md": ["bench", "gpu", "capacity"],
    "docs/judge.md": ["judge", "power"],
    "docs/methods.md": ["comparison", "residual", "later", "samples"],
    "docs/paper.md": ["paper"],
}


REPAIRED = "subtracted, repaired"


def anchors(page: Path) -> set[str]:
    """Return what a link to a place in a page may say."""
    found = set()
    for line in page.read_text().splitlines():
        if line.startswith("#"):
            title = re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower())
            found.add(title.replace(" ", "-"))
    return found


def links(page: Path) -> Iterator[str]:
    """Yield the links of a page to others of ours."""
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" not in target:
            yield target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_every_link_leads_somewhere(page: Path):
    for target in links(page):
        path, _, place = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), f"{page.name} links to {target}"
        if place:
            assert place in anchors(there), f"{page.name} links to {target}"


def test_every_page_is_reached_from_the_first():
    todo, seen = [REPOSITORY / "README.md"], set[Path]()
    while todo:
        page = todo.pop().resolve()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        todo += [page.parent / target.partition("#")[0] for target in links(page)]
    assert {p.resolve() for p in (REPOSITORY / "docs").glob("*.md")} <= seen


def test_the_first_page_is_short():
    """What a newcomer reads before anything else."""
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= 180


@pytest.mark.parametrize("name", FILLED)
def test_what_scripts_fill_has_its_place(name: str):
    text = (REPOSITORY / name).read_text()
    for what in FILLED[name]:
        assert text.count(f"<!-- {what} -->") == 1, what


def test_what_the_pages_say_of_the_judge_is_what_was_measured():
    """Numbers of docs/verdict.md and the README, from benchmarks/judge.csv."""
    table = pd.read_csv(REPOSITORY / "benchmarks" / "judge.csv")
    findings = table.groupby("kind")["finding"].value_counts().unstack(fill_value=0)
    rho = table.groupby("kind")["rho"].quantile([0.25, 0.5, 0.75]).unstack()
    subtracted, repaired = findings.loc["subtracted"], findings.loc[REPAIRED]
    accused = findings[["traces left", "overshot"]].sum(axis=1)
    flipped = table[(table["kind"] == REPAIRED) & table["setting"].str.contains("flip")]
    middle = 100 * rho.loc[REPAIRED]
    over = f"{subtracted['overshot']} of {subtracted.sum()} models"
    beyond = f"{-100 * rho.loc['subtracted', 0.5]:.0f} %"
    for page in ("README.md", "docs/verdict.md"):
        text = " ".join((REPOSITORY / page).read_text().split())
        for part in (
            over,
            beyond,
            f"{repaired['overshot']} still overshot"
            if page == "README.md"
            else f"{repaired['overshot']} overshot",
            f"{repaired['traces left']} have traces",
        ):
            assert part in text, (page, part)
    for part in (
        f"{repaired['forgotten']} of {repaired.sum()} are `forgotten`",
        f"between \N{MINUS SIGN}{-middle[0.25]:.0f} and {middle[0.75]:.0f} %",
        f"{(flipped['finding'] == 'traces left').sum()} of these of flipped labels",
        f"Of {findings.loc['retrained'].sum()} models that were retrained without the "
        f"client {accused['retrained']} were called",
        f"and {accused['retrained, repaired']} of as many others that had repair",
        f"{100 * rho.loc['fine_tune', 0.5]:.0f} % of it can be seen after it",
    ):
        assert part in text, part


def test_what_the_pages_say_of_ordinary_clients_is_what_was_measured():
    """Numbers of docs/judge.md and docs/verdict.md, from benchmarks/judge_power.csv."""
    table = pd.read_csv(REPOSITORY / "benchmarks" / "judge_power.csv")
    images = "mnist, 20 clients of 200 images"
    nine, sixteen = "9 retrainings", "16 retrainings"

    def share(by: str, kinds: tuple[str, ...], *findings: str, where: str = "") -> str:
        rows = table[(table["by"] == by) & table["kind"].isin(kinds)]
        rows = rows[rows["setting"] == where] if where else rows
        return f"{rows['finding'].isin(findings).sum()} of {len(rows)}"

    def of(setting: str, by: str) -> str:
        return share(by, ("original",), "traces left", where=setting)

    digits = [f"digits, {count} clients" for count in (5, 10, 20, 100)]
    known, retrained = "a known direction", ("retrained", "retrained, repaired")
    missed = share(nine, ("original", "fine_tune"), "forgotten")
    accused = share(nine, retrained, "traces left", "overshot")
    # Nine in ten are found, where a client teaches more than a seed changes.
    for setting in (*digits[:2], images):
        hits, count = map(int, of(setting, nine).split(" of "))
        assert hits >= 0.9 * count
    away = table[(table["by"] == known) & (table["kind"] == "original")]
    by_client = away.groupby(["setting", "seed", "client"])["away"].mean()
    middle = by_client.groupby("setting").median()
    for page, parts in {
        "docs/judge.md": [
            *(of(setting, nine) for setting in (*digits[:3], images)),
            *(of(setting, known) for setting in digits[2:]),
            *(f"{middle[setting]:.1f}" for setting in digits),
            f"accused in {accused} cases by nine retrainings",
            f"By nine retrainings {missed} originals and fine-tuned models",
        ],
        "docs/verdict.md": [
            *(of(setting, nine) for setting in (*digits, images)),
            f"{of(digits[1], sixteen).split()[0]} by sixteen",
            f"nine references acquitted {missed}",
        ],
    }.items():
        text = " ".join((REPOSITORY / page).read_text().split())
        for part in parts:
            assert part in text, (page, part)
