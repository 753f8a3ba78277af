"""What was compared, and whether those whose outcome is known came out as they must."""

import pandas as pd

from fedneg.reports.compare.statistics import REFERENCES, settings_of
from fedneg.reports.conclusions import count


def control_warnings(frame: pd.DataFrame) -> list[str]:
    """Return a warning for each control that came out wrong.

    Parameters
    ----------
    frame : DataFrame
        `collect_comparison`'s. The original model and do_nothing must never be
        'forgotten', the retrained model and retrain never 'not forgotten'. Repair
        rounds after do_nothing are fine-tuning by another name, and no control.
    """
    repaired = (frame["method"] == "do_nothing") & (frame["model"] == "recovered")
    frame = frame[~repaired]
    warnings = []
    for method, wrong in (
        ("original", "forgotten"),
        ("do_nothing", "forgotten"),
        ("retrained", "not forgotten"),
        ("retrain", "not forgotten"),
    ):
        bad = frame[(frame["method"] == method) & (frame["outcome"] == wrong)]
        if bad.empty:
            continue
        runs = list(dict.fromkeys(map(str, bad["run"])))
        shown = ", ".join(runs[:8]) + (" and more" if len(runs) > 8 else "")
        judged = frame[(frame["method"] == method) & frame["outcome"].notna()]
        warnings.append(
            f"A control came out wrong: {method} is '{wrong}' in {len(bad)} of "
            f"{count(len(judged), 'verdict')} (run{'s' if len(runs) > 1 else ''} "
            f"{shown}). The verdicts of those settings cannot be trusted."
        )
    return warnings


def describe_all(frame: pd.DataFrame, summary: pd.DataFrame) -> str:
    """Return what was compared, in one or two sentences."""
    methods = frame[~frame["strategy"].isin(REFERENCES)]
    if methods.empty:
        return "No run left results that can be compared."
    seeds = count(methods["seed"].nunique(), "seed")
    settings = count(len(settings_of(summary)), "setting")
    runs = count(methods["run"].nunique(), "run")
    return (
        f"{count(methods['strategy'].nunique(), 'method')} in {settings} with {seeds}: "
        f"{runs}. Values are means over seeds, ± the half width of a 95 % t-interval."
    )
