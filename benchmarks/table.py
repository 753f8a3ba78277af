"""results.json of the benchmark as a Markdown table, with every miss named as one."""

from collections.abc import Mapping
from typing import Any

Results = Mapping[str, Any]


def verdict(line: Mapping[str, Any]) -> str:
    """Return what became of a line's target."""
    if line["value"] is None:
        return "not measured"
    if line["reached"] is None:
        return "reported"
    return "reached" if line["reached"] else "**missed**"


def value(line: Mapping[str, Any]) -> str:
    """Return a line's value with its unit and the numbers behind it."""
    if line["value"] is None:
        return str(line["note"])
    unit = f" {line['unit']}" if line["unit"] else ""
    behind = f" ({line['note']})" if line["note"] else ""
    return f"{line['value']:.3g}{unit}{behind}"


def table(results: Results) -> str:
    """Return the table, and under it what was measured on what."""
    rows = ["| what | measured | target | |", "| --- | --- | --- | --- |"]
    rows += [
        f"| {line['what']} | {value(line)} | {line['target'] or '-'} "
        f"| {verdict(line)} |"
        for line in results["lines"]
    ]
    return "\n".join([*rows, "", *_notes(results)])


def peers(results: Results) -> str:
    """Return the versions and the settings of each peer, one line for each."""
    lines = []
    for name, report in results["settings"].items():
        parts = {**report["versions"], **report["settings"]}
        said = ", ".join(f"{key} {part}" for key, part in parts.items())
        loss = report["final_loss"]
        lines.append(f"  {name}: {said}; loss at the end {loss}")
    return "\n".join(lines)


def _notes(results: Results) -> list[str]:
    """Return sentences on machine, versions and method."""
    machine, versions = results["machine"], results["versions"]
    packages = ", ".join(
        f"{name} {number}" for name, number in versions.items() if name != "fedneg"
    )
    pfl = {
        report["versions"]["pfl"]
        for report in results["settings"].values()
        if "pfl" in report["versions"]
    }
    packages += "".join(f", pfl {number}" for number in sorted(pfl))
    notes = []
    if results["data"] == "digits":
        notes.append("A quick run: these numbers say only that everything works.")
    notes += [
        f"{machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory_gib']:g} GiB; {packages}. Data: {results['data']}. "
        f"Contestants took turns; each number is the median of {results['repeat']}; "
        "of several ways to run a peer in one process, or a plain loop on two cores, "
        "the best counts. "
        "Seconds a round are the mean of the rounds after the first and leave out "
        "fedneg's server-side test, which the peers do not do. Memory is the sum of "
        "PSS over all processes, looked at every 0.1 s."
    ]
    return [" ".join(notes)]


def profile(results: Results) -> str:
    """Return where a whole run of fedneg goes, one line a part."""
    parts = results["profile"]
    return "\n".join(f"  {name:34} {seconds:6.2f} s" for name, seconds in parts.items())
