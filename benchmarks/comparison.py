"""Put a comparison into the README: `python -m benchmarks.comparison DIR [DIR ..]`.

Each DIR is the folder of a `fedneg compare`. Writes benchmarks/comparison.csv, the
figure, and what stands between the README's markers: the tables, and who wins where.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from benchmarks.markers import fill
from fedneg.comparison import collect_comparison
from fedneg.comparison_figures import draw_pareto
from fedneg.comparison_numbers import summarise
from fedneg.comparison_tables import markdown_table
from fedneg.comparison_text import describe_winners

HERE = Path(__file__).parent


def main(folders: Sequence[Path]) -> None:
    """Rewrite all that depends on the comparisons in some folders."""
    frame = pd.concat([collect_comparison(folder) for folder in folders])
    summary = summarise(frame)
    frame.to_csv(HERE / "comparison.csv", index=False)
    picture = draw_pareto(summary)
    assert picture is not None, f"no run below {folders} can be compared"
    for name, content in picture.files().items():
        if name.endswith(".png"):
            (HERE / "figures" / name).write_bytes(content)
    winners = "\n".join(f"* {sentence}" for sentence in describe_winners(summary))
    body = f"{markdown_table(summary)}\n{winners}"
    fill(HERE.parent / "README.md", "comparison", body)


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]])
