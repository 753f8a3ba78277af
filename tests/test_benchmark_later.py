"""The benchmark of what comes back: its table by hand."""

import pandas as pd

from benchmarks.later import table


def test_the_table_has_means_over_seeds_in_the_order_of_rounds() -> None:
    later = pd.DataFrame(
        [
            ("puf", "none", 10, 0.2),
            ("puf", "none", 0, 0.1),
            ("puf", "none", 10, 0.4),
            ("puf", "none", 0, -0.3),
            ("puf", "backdoor", 0, 1.0),
            ("puf", "backdoor", 10, -1.0),
            ("retrain", "none", 0, 0.0),
            ("retrain", "none", 10, 0.05),
        ],
        columns=["strategy", "attack", "rounds_after", "rho"],
    )
    assert table(later).splitlines() == [
        "| rho after 0 / 10 further rounds | ordinary client | backdoor |",
        "| --- | ---: | ---: |",
        "| puf | -0.10 / +0.30 | +1.00 / -1.00 |",
        "| retrain | +0.00 / +0.05 | - |",
    ]
