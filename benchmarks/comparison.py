"""Put a comparison into docs/methods.md.

`python -m benchmarks.comparison DIR [DIR ..]`; each DIR is the folder of a `fedneg
compare`, or the benchmarks/comparison.csv of earlier ones: of a run that is there twice
the one that is named later counts. Writes benchmarks/comparison.csv, the figures, and
what stands between that page's markers: the tables, and who wins where. Prints the
other numbers that its words have.
"""

import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from benchmarks.markers import fill
from fedneg.reports.compare.figures import draw_pareto
from fedneg.reports.compare.influence import draw_influences
from fedneg.reports.compare.rows import (
    SETTING,
    collect_comparison,
    find_comparison,
)
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
    judged = frame[frame["judged"].astype(bool)]
    for (attack, method), rows in judged.groupby(["attack", "strategy"], sort=False):
        off, lost = rows["rho"].abs(), rows["accuracy_lost"]
        yield (
            f"{attack}, {method}: |rho| {off.mean():.2f} on average, "
            f"{off.median():.2f} in the middle, from {rows['rho'].min():.2f} to "
            f"{rows['rho'].max():.2f}; loses {lost.mean():.3f} on average, "
            f"{lost.max():.3f} at most; {told(rows)}"
        )
    for attack, rows in frame[frame["model"] == "unlearned"].groupby("attack"):
        accuracy = rows.groupby("strategy")["test_accuracy"]
        for method, low in accuracy.min().items():
            high = accuracy.max()[method]
            yield f"{attack}, {method}, before repair: accuracy {low:.2f} to {high:.2f}"
    for method, rows in judged[judged["attack"] == "backdoor"].groupby("strategy"):
        rates = sorted(rows["attack_success_rate"].round(3))
        yield f"{method}, backdoor, repaired: works on {rates}"
    for method in ("original", "retrained", "retrain", "random_init", "do_nothing"):
        rows = frame[frame["strategy"] == method]
        last = rows[rows["judged"].astype(bool)]
        lost = last["accuracy_lost"]
        yield (
            f"{method}, all of it: {told(rows)}; its last models: {told(last)}, lose "
            f"{lost.mean():.3f} on average, {lost.max():.3f} at most"
        )


def told(rows: pd.DataFrame) -> str:
    """Return how many of some models are what, by the verdict."""
    counts = rows["finding"].value_counts()
    return ", ".join(f"{count} {finding}" for finding, count in counts.items())


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


def merged(places: Sequence[Path]) -> pd.DataFrame:
    """Return the rows of folders and tables; of one that is twice there the later.

    It keeps the earlier one's place: settings are shown in the order of rows.
    """
    frame = pd.concat(
        [
            _as_from_file(place) if place.is_file() else collect_comparison(place)
            for place in places
        ],
        ignore_index=True,
    )
    same = [*SETTING, "seed", "strategy", "model"]
    keys = [tuple(map(str, row)) for row in frame[same].itertuples(index=False)]
    last = dict(zip(keys, frame.index, strict=True))
    # A dict keeps the place of a key's first row.
    frame = frame.loc[list(last.values())]
    # Read as a file, since a folder says '4' and 0.5 where a file says 4 and '0.5'.
    return _as_from_file(io.StringIO(frame.to_csv(index=False)))


def _as_from_file(file: Path | io.StringIO) -> pd.DataFrame:
    found = pd.read_csv(file)
    # A file has nothing where a table of runs has an empty text, and both are one.
    other = found["other"].astype(object)
    return found.assign(other=other.where(other.notna(), ""))


def main(places: Sequence[Path]) -> None:
    """Rewrite all that depends on the comparisons in some folders."""
    frame = merged(places)
    folders = [place for place in places if place.is_dir()]
    summary = summarise(frame)
    frame.to_csv(HERE / "comparison.csv", index=False)
    runs = frame.loc[frame["judged"].astype(bool), "run"]
    federations = frame[[*SETTING, "seed"]].astype(str).drop_duplicates()
    print(f"{runs.nunique()} runs in {len(federations)} federations")
    picture = draw_pareto(summary)
    assert picture is not None, f"no run below {places} can be compared"
    margins = find_comparison(folders[-1]).margins if folders else None
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
