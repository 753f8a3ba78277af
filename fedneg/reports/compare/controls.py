"""What was compared, and whether those whose outcome is known came out as they must."""

import pandas as pd

from fedneg.reports.compare.statistics import (
    REFERENCES,
    about_of,
    count_outcomes,
    of_kind,
    settings_of,
    strategies_of,
    verdicts_of,
)
from fedneg.reports.conclusions import count
from fedneg.strategies.method import CONTROL


def control_warnings(frame: pd.DataFrame) -> list[str]:
    """Return a warning for each control that came out wrong.

    Parameters
    ----------
    frame : DataFrame
        `collect_comparison`'s. The original model must never be 'forgotten', the
        retrained one never 'not forgotten', and no method what it says that it never
        is (`About.never`). Repair rounds after a control are fine-tuning by another
        name, and no control.
    """
    never, frame = _known(frame), _controls(frame)
    warnings = []
    for method in sorted(strategies_of(never), key=never.__getitem__):
        wrong = never[method]
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


def controls_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return how models whose answer is known came out, over all runs.

    Parameters
    ----------
    frame : DataFrame
        `collect_comparison`'s. A method's models are its unrepaired ones, where it is a
        control: repair rounds are fine-tuning by another name.

    Returns
    -------
    DataFrame
        ``control``, what it ``must never be``, ``verdicts`` and ``as it must``; a row
        for each that was judged.
    """
    rows = []
    for method, wrong in _known(frame).items():
        judged = _controls(frame)
        judged = judged[(judged["method"] == method) & judged["outcome"].notna()]
        if judged.empty:
            continue
        counts = verdicts_of(judged)
        rows.append(
            {
                "control": method,
                "must never be": wrong,
                "verdicts": count_outcomes(counts),
                "as it must": "NO" if counts[wrong] else "yes",
            }
        )
    return pd.DataFrame(rows, dtype=object)


def _known(frame: pd.DataFrame) -> dict[str, str]:
    """Return what models whose answer is known must never be, the references first."""
    never = dict(zip(REFERENCES, ("forgotten", "not forgotten"), strict=True))
    methods = set(frame["method"]) - set(REFERENCES)
    never |= {m: wrong for m in methods if (wrong := about_of(m).never) is not None}
    return {name: never[name] for name in strategies_of(never)}


def _controls(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows without the repaired models of controls."""
    methods = set(frame["method"]) - set(REFERENCES)
    controls = frame["method"].isin(of_kind(CONTROL, methods))
    return frame[~(controls & (frame["model"] == "recovered"))]


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
