"""Put a comparison into docs/methods.md.

`python -m benchmarks.comparison DIR [DIR ..]`; each DIR is the folder of a `fedneg
compare`. Writes benchmarks/comparison.csv, the figure, and what stands between that
page's markers: the tables, and who wins where. Prints the other numbers that its words
have.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from benchmarks.markers import fill
from fedneg.reports.compare.figures import draw_pareto
from fedneg.reports.compare.influence import draw_influences
from fedneg.reports.compare.rows import collect_comparison, find_comparison
from fedneg.reports.compare.statistics import summarise
from fedneg.reports.compare.tables import markdown_table
from fedneg.reports.compare.text import describe_winners

HERE = Path(__file__).parent


def facts(frame: pd.DataFrame) -> Iterator[str]:
    """Yield the numbers in its words that its tables do not have."""
    keys = ["data", "clients", "partition", "attack", "other", "seed"]
    main_runs = frame[frame["attack"] != "canaries"]
    for model in ("unlearned", "recovered"):
        by = main_runs[main_runs["model"] == model].pivot_table(
            index=keys, columns="strategy", values="test_accuracy"
        )
        ahead = by["compensated"] - by["negative_gradient"]
        yield (
            f"{model}: compensated is more accurate than negative_gradient in "
            f"{(ahead > 0).sum()} of {len(ahead)}, by {ahead.mean():.3f} on average, "
            f"{ahead.max():.3f} within one run at most"
        )
    judged = frame[frame["judged"] & frame["rho"].notna()]
    for method, rows in judged.groupby("strategy", sort=False):
        off, lost = rows["rho"].abs(), rows["accuracy_lost"]
        yield (
            f"{method}: |rho| {off.mean():.2f} on average, {off.median():.2f} in the "
            f"middle, up to .2 in {(off <= 0.2).sum()} of {len(off)}; loses "
            f"{lost.mean():.3f} on average, {lost.max():.3f} at most; "
            f"forgotten in {(rows['outcome'] == 'forgotten').sum()}"
        )
    ascent = judged[
        (judged["strategy"] == "gradient_ascent") & (judged["attack"] == "backdoor")
    ]
    rates = sorted(ascent["attack_success_rate"].round(3))
    yield f"gradient_ascent, backdoor, repaired: {rates}"


def canary_aucs(folder: Path) -> Iterator[str]:
    """Yield each method's range of canary AUCs below a folder, if it has any."""
    found: dict[str, list[float]] = {}
    for path in sorted(folder.rglob("results.json")):
        results = json.loads(path.read_text())
        evidence = results["evidence"]
        for name, model in (
            ("original", "original"),
            (results["strategy"], "recovered"),
        ):
            auc = evidence[model]["canary_auc"]
            if auc is not None:
                found.setdefault(name, []).append(auc["value"])
    for name, values in found.items():
        yield f"canary AUC, {name}: {min(values):.2f} to {max(values):.2f}"


def main(folders: Sequence[Path]) -> None:
    """Rewrite all that depends on the comparisons in some folders."""
    frame = pd.concat([collect_comparison(folder) for folder in folders])
    summary = summarise(frame)
    frame.to_csv(HERE / "comparison.csv", index=False)
    picture = draw_pareto(summary)
    assert picture is not None, f"no run below {folders} can be compared"
    margins = find_comparison(folders[0]).margins
    for drawn in filter(None, (picture, draw_influences(frame, margins))):
        for name, content in drawn.files().items():
            if name.endswith(".png"):
                (HERE / "figures" / name).write_bytes(content)
    winners = "\n".join(f"* {sentence}" for sentence in describe_winners(summary))
    body = f"{markdown_table(summary)}\n{winners}"
    fill(HERE.parent / "docs" / "methods.md", "comparison", body)
    for line in (*facts(frame), *(f for d in folders for f in canary_aucs(d))):
        print(line)


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]])
