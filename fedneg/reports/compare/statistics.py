"""What a comparison's rows come to over seeds, and over settings.

The one job: `fedneg.reports.compare.rows`'s table in, means, intervals and counts out.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from fedneg.core.formats import number
from fedneg.evaluation.judge import OVERSHOT, TRACES
from fedneg.reports.compare.rows import SETTING
from fedneg.reports.compare.single import METRICS
from fedneg.strategies import method_named
from fedneg.strategies.method import KINDS, About

OUTCOMES = ("forgotten", "not forgotten", "inconclusive")
# Of what is not forgotten, how.
HOW = (TRACES, OVERSHOT)
REFERENCES = ("original", "retrained")
POOLED = (
    *("test_accuracy", "accuracy_lost", "forgetting_gap", "client_epochs"),
    "rho",
)
_MODELS = ("original", "unlearned", "recovered", "retrained")
_GROUP = [*SETTING, "strategy", "model"]


@dataclass(frozen=True)
class Mean:
    """A mean over `count` values; `half` of its 95 % interval, None for one value."""

    value: float | None
    half: float | None
    count: int


def mean_of(values: Iterable[object]) -> Mean:
    """Return the mean of the known values and the half width of its 95 % t-interval.

    With n values and their standard deviation s (over n - 1) the half width is
    t(0.975, n - 1) s / sqrt(n). One value has no interval, none has no mean.
    """
    known = [v for v in map(number, values) if v is not None]
    count = len(known)
    if not count:
        return Mean(None, None, 0)
    # One value, or equal ones, must come out as they are, not rounded by a sum.
    value = known[0] if len(set(known)) == 1 else math.fsum(known) / count
    if count == 1:
        return Mean(value, None, 1)
    spread = float(np.std(known, ddof=1)) if len(set(known)) > 1 else 0.0
    half = float(stats.t.ppf(0.975, count - 1)) * spread / math.sqrt(count)
    return Mean(value, half, count)


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per setting, strategy and model, over the seeds.

    Parameters
    ----------
    frame : DataFrame
        `fedneg.reports.compare.rows.collect_comparison`'s.

    Returns
    -------
    DataFrame
        The setting, ``strategy``, ``method``, ``model``, ``judged``,
        ``forgetting_measure``; ``seeds``, how many; ``outcomes`` in words ('2
        forgotten, 1 traces left') and a count for each of `OUTCOMES` and `HOW`; then
        each metric's mean and, as ``<metric>_half``, the half width of its 95 %
        t-interval, over the seeds that measured it. Settings in the order of the runs,
        methods in that of `strategies_of`.
    """
    rows: list[dict[str, object]] = []
    for _, group in frame.groupby(_GROUP, dropna=False, sort=False):
        first = group.iloc[0]
        row: dict[str, object] = {name: first[name] for name in (*_GROUP, "method")}
        row |= {"judged": bool(group["judged"].any()), "seeds": group["seed"].nunique()}
        row["forgetting_measure"] = first["forgetting_measure"]
        counts = verdicts_of(group)
        row |= {"outcomes": count_outcomes(counts), **counts}
        for metric in METRICS:
            found = mean_of(group[metric])
            row |= {metric: found.value, f"{metric}_half": found.half}
        rows.append(row)
    names = [*_GROUP, "method", "judged", "seeds", "forgetting_measure", "outcomes"]
    columns = [name for m in METRICS for name in (m, f"{m}_half")]
    summary = pd.DataFrame(rows, columns=[*names, *OUTCOMES, *HOW, *columns])
    summary[columns] = summary[columns].apply(pd.to_numeric)
    return _sorted(summary)


def verdicts_of(rows: pd.DataFrame) -> dict[str, int]:
    """Return how many rows have each of `OUTCOMES`, and each of `HOW`."""
    outcomes = rows["outcome"]
    counts = {outcome: int((outcomes == outcome).sum()) for outcome in OUTCOMES}
    failed = rows[outcomes == "not forgotten"]
    return counts | {how: int((failed["finding"] == how).sum()) for how in HOW}


def count_outcomes(counts: Mapping[str, Any]) -> str:
    """Return '2 forgotten, 1 traces left' of counts of `OUTCOMES` and `HOW`.

    What is not forgotten is told by how, where that is known.
    """
    told = {name: int(counts[name]) for name in ("forgotten", *HOW)}
    told["not forgotten"] = int(counts["not forgotten"]) - sum(told[h] for h in HOW)
    told["inconclusive"] = int(counts["inconclusive"])
    return ", ".join(f"{count} {name}" for name, count in told.items() if count > 0)


def strategies_of(names: Iterable[str]) -> list[str]:
    """Return strategy names, each once: references, methods, baselines, controls.

    Those of a kind in the order of the places that they give themselves (`About`).
    """

    def place(name: str) -> tuple[float, float, str]:
        if name in REFERENCES:
            return -1, REFERENCES.index(name), name
        # Without the options that set runs of one method apart.
        about = about_of(name.split(" (")[0])
        own = math.inf if about.place is None else about.place
        return KINDS.index(about.kind), own, name

    return sorted(set(names), key=place)


def about_of(method: object) -> About:
    """Return what a method says of itself to people."""
    return method_named(method).about


def of_kind(kind: str, methods: Iterable[str]) -> list[str]:
    """Return the methods of a kind (`About`), each once, in the order of tables."""
    names = set(methods) - set(REFERENCES)
    return [name for name in strategies_of(names) if about_of(name).kind == kind]


def _sorted(summary: pd.DataFrame) -> pd.DataFrame:
    """Return the rows by setting as first seen, then strategy, then model."""
    seen: dict[tuple[object, ...], int] = {}
    keys = [setting_key(row) for row in summary.to_dict("records")]
    settings = [seen.setdefault(key, len(seen)) for key in keys]
    order = {name: n for n, name in enumerate(strategies_of(summary["strategy"]))}
    places = pd.DataFrame(
        {
            "setting": settings,
            "strategy": summary["strategy"].map(order),
            "model": summary["model"].map({n: i for i, n in enumerate(_MODELS)}),
        }
    ).sort_values(["setting", "strategy", "model"], kind="stable")
    return summary.loc[places.index].reset_index(drop=True)


def setting_key(row: "pd.Series[object] | dict[str, object]") -> tuple[object, ...]:
    """Return a row's setting as a key; a missing fraction is None, equal to itself."""
    values = [row[name] for name in SETTING]
    return tuple(None if isinstance(v, float) and math.isnan(v) else v for v in values)


def settings_of(frame: pd.DataFrame) -> list[tuple[tuple[object, ...], pd.DataFrame]]:
    """Return each setting with its rows, in the order in which they are first seen."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for place, row in enumerate(frame.to_dict("records")):
        groups.setdefault(setting_key(row), []).append(place)
    return [(key, frame.iloc[places]) for key, places in groups.items()]


def setting_labels(keys: Sequence[tuple[object, ...]]) -> list[str]:
    """Return a short text for each setting: what sets it apart from the others.

    With a single setting, or where nothing differs, data and attack.
    """
    differing = [n for n in range(len(SETTING)) if len({key[n] for key in keys}) > 1]
    shown = differing or [SETTING.index("data"), SETTING.index("attack")]
    return [
        " · ".join(part for n in shown if (part := _part(SETTING[n], key[n])))
        for key in keys
    ]


def _part(name: str, value: object) -> str:
    """Return one value of a setting in words, '' where there is nothing to say."""
    if value is None or value == "":
        return ""
    if name == "clients":
        return f"{value} client{'' if value == 1 else 's'}"
    if name == "forget":
        whole = str(value).replace(" ", "").isdecimal()
        return f"forget {str(value).replace(' ', '+') if whole else value}"
    if name == "attack":
        return "no attack" if value == "none" else str(value).replace("_", " ")
    return f"fraction {value:g}" if name == "fraction" else str(value)


def pool(summary: pd.DataFrame) -> pd.DataFrame:
    """Return one row per attack and strategy: the judged models over all settings.

    Parameters
    ----------
    summary : DataFrame
        `summarise`'s.

    Returns
    -------
    DataFrame
        ``attack strategy method settings runs``, ``forgetting_measure`` (several are
        joined by ' / '), ``test_accuracy accuracy_lost forgetting_gap
        client_epochs rho`` as means of the settings' means, so that each setting counts
        alike, ``accuracy_at_once`` of the models before repair likewise, and `OUTCOMES`
        and `HOW` as sums. No interval: settings are no sample of anything.
    """
    rows: list[dict[str, object]] = []
    judged = summary[summary["judged"].astype(bool)]
    for (attack, strategy), group in judged.groupby(["attack", "strategy"], sort=False):
        measures = [
            m for m in group["forgetting_measure"].unique() if isinstance(m, str)
        ]
        row: dict[str, object] = {"attack": attack, "strategy": strategy}
        row |= {"method": group["method"].iloc[0], "settings": len(group)}
        row |= {"runs": int(group["seeds"].sum())}
        row["forgetting_measure"] = " / ".join(sorted(map(str, measures)))
        for metric in POOLED:
            row[metric] = mean_of(group[metric]).value
        row["accuracy_at_once"] = mean_of(
            summary["test_accuracy"][
                (summary["attack"] == attack)
                & (summary["strategy"] == strategy)
                & (summary["model"] == "unlearned")
            ]
        ).value
        rows.append(row | {n: int(group[n].sum()) for n in (*OUTCOMES, *HOW)})
    names = ["attack", "strategy", "method", "settings", "runs", "forgetting_measure"]
    columns = [*names, *POOLED, "accuracy_at_once", *OUTCOMES, *HOW]
    pooled = pd.DataFrame(rows, columns=columns)
    attacks = {name: n for n, name in enumerate(pooled["attack"].unique())}
    order = {name: n for n, name in enumerate(strategies_of(pooled["strategy"]))}
    keys = zip(
        pooled["attack"].map(attacks), pooled["strategy"].map(order), strict=True
    )
    places = sorted(range(len(pooled)), key=list(keys).__getitem__)
    return pooled.iloc[places].reset_index(drop=True)
