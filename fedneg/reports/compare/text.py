"""What a comparison says, in sentences and tables chosen by the numbers.

A method *keeps its accuracy* if it loses no more than `NEAR` on average over seeds; two
forgetting gaps are *level* if their means differ by no more than that, or, of residual
influence, which chance moves more, by a tenth. Intervals are shown and decide nothing:
with three seeds they are so wide that all would be equal. Where the original is
level with the retrained model already there is nothing to rank.
Nothing is said of what was not measured.

A little longer than most: most of it is the sentences.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from fedneg.core.formats import MISSING, number, rate, whole_percent
from fedneg.reports.compare.single import INFLUENCE
from fedneg.reports.compare.statistics import (
    HOW,
    OUTCOMES,
    REFERENCES,
    about_of,
    of_kind,
    setting_labels,
    settings_of,
    strategies_of,
)
from fedneg.reports.conclusions import count
from fedneg.strategies.method import BASELINE, CONTROL, METHOD

NEAR = 0.01
# Of gaps of a measure, where it is another.
LEVEL = {INFLUENCE: 0.1}
RULE = (
    "The forgetting gap is one number per run, of the last model that it made: under "
    "an attack the size of the gap between its attack success rate and the retrained "
    "model's; with canaries that between the AUCs at telling planted canaries from "
    "others; without an attack, and with flipped labels, the size of the residual "
    "influence, 0 being as if the client had never been there (where it was not "
    "measured, the gap between the AUCs of a membership attack). The accuracy lost is "
    "that of retrained models minus the model's. Gaps rank the methods; what is "
    "forgotten the verdict decides, by its interval and all of its tests."
)


@dataclass(frozen=True)
class _Entry:
    """A strategy's judged model in one setting; `half` as in `summarise`."""

    strategy: str
    method: str
    near: float
    lost: float | None
    gap: float | None
    half: float
    epochs: float | None

    @property
    def kind(self) -> str:
        """What its method is to a comparison; only those up for it are ranked."""
        return about_of(self.method).kind

    @property
    def keeps_accuracy(self) -> bool:
        """Whether test accuracy is near the retrained model's, or above."""
        return self.lost is not None and self.lost <= NEAR

    def level_with(self, other: "_Entry") -> bool:
        """Return whether the forgetting gap is not told apart from another's."""
        if self.gap is None or other.gap is None:
            return False
        return abs(self.gap - other.gap) <= self.near


def _entries(rows: pd.DataFrame) -> list[_Entry]:
    """Return the judged models of the methods; the references are none."""
    return [
        _Entry(
            strategy=str(row["strategy"]),
            method=str(row["method"]),
            near=level(row["forgetting_measure"]),
            lost=number(row["accuracy_lost"]),
            gap=number(row["forgetting_gap"]),
            half=number(row["forgetting_gap_half"]) or 0.0,
            epochs=number(row["client_epochs"]),
        )
        for row in rows.to_dict("records")
        if row["judged"] and row["strategy"] not in REFERENCES
    ]


def level(measure: object) -> float:
    """Return by how much two forgetting gaps of a measure may differ and be level."""
    return LEVEL.get(str(measure), NEAR)


def nearest(rows: pd.DataFrame) -> list[str]:
    """Return who is nearest to the retrained model in forgetting, in one setting.

    Among methods, not controls or baselines, that keep their accuracy; several if
    their gaps are equal as printed, none where nothing was measured or the original is
    level with the retrained model.
    """
    if _nothing_to_forget(rows) is not None:
        return []
    return [entry.strategy for entry in _nearest(_entries(rows))]


def _nothing_to_forget(rows: pd.DataFrame) -> float | None:
    """Return the original's forgetting gap if it is too small to rank by, else None."""
    originals = rows[rows["strategy"] == "original"]
    gaps = [
        (number(row["forgetting_gap"]), level(row["forgetting_measure"]))
        for row in originals.to_dict("records")
    ]
    small = [gap for gap, near in gaps if gap is not None and abs(gap) <= near]
    return small[0] if small else None


def _nearest(entries: Sequence[_Entry]) -> list[_Entry]:
    """Return the contestants with the smallest gap."""
    able = [entry for entry in entries if entry.kind == METHOD and entry.keeps_accuracy]
    gaps = [entry.gap for entry in able if entry.gap is not None]
    return [e for e in able if e.gap is not None and rate(e.gap) == rate(min(gaps))]


def describe_setting(rows: pd.DataFrame) -> list[str]:
    """Return sentences on one setting: nearest, cheapest, baselines, failures.

    Parameters
    ----------
    rows : DataFrame
        `summarise`'s rows of a single setting.

    Returns
    -------
    list of str
        At least one.
    """
    entries = _entries(rows)
    best = _nearest(entries)
    said: list[str] = []
    measures = [m for m in rows["forgetting_measure"].unique() if isinstance(m, str)]
    contestants = [e for e in entries if e.kind == METHOD]
    nothing = _nothing_to_forget(rows)
    if not measures:
        said.append("How well anything was forgotten was not measured.")
    elif nothing is not None:
        said.append(
            f"The original model's {measures[0]} is level with the retrained model's "
            f"already (gap {rate(nothing)}): by it no method can be told from another."
        )
    elif best:
        names = _join([entry.strategy for entry in best])
        verb = "is" if len(best) == 1 else "are equally"
        said.append(
            f"Nearest to the retrained model in {measures[0]}, of the methods that "
            f"keep their accuracy, {verb} {names} (gap {_with_half(best[0])})."
        )
        said += _describe_cheapest(contestants, best)
    elif contestants:
        said.append(_why_none(contestants))
    if nothing is None and (best or not contestants):
        said += _describe_baselines(entries, best)
    said += _describe_losses(contestants)
    said += _describe_influence(rows)
    said += _describe_outcomes(rows)
    return said


def _with_half(entry: _Entry) -> str:
    """Return a gap and, if there are several seeds, its interval."""
    return f"{rate(entry.gap)} ± {rate(entry.half)}" if entry.half else rate(entry.gap)


def _why_none(contestants: Sequence[_Entry]) -> str:
    """Return why no method can be called the nearest."""
    if any(entry.keeps_accuracy for entry in contestants):
        return "No method that keeps its accuracy has a measured forgetting gap."
    if all(entry.lost is None for entry in contestants):
        return "Without test accuracies beside a retrained model's none can be ranked."
    return "No method keeps its test accuracy near the retrained model's."


def _describe_cheapest(
    contestants: Sequence[_Entry], best: Sequence[_Entry]
) -> Iterator[str]:
    """Yield who is cheapest of those that are level with the nearest."""
    level = [
        entry
        for entry in contestants
        if entry.keeps_accuracy and entry.level_with(best[0])
    ]
    costs = {e.strategy: e.epochs for e in level if e.epochs is not None}
    if not costs:
        return
    low = min(costs.values())
    cheapest = [name for name, epochs in costs.items() if epochs == low]
    spent = _epochs(low)
    if len(level) == 1:
        yield f"No other method is level with it; it took {spent}."
    elif cheapest == [entry.strategy for entry in best]:
        also = "It is" if len(best) == 1 else "They are"
        yield f"{also} also the cheapest of those level with that, at {spent}."
    else:
        verb = "is" if len(cheapest) == 1 else "are equally"
        yield f"Cheapest of those level with that {verb} {_join(cheapest)}, at {spent}."


def _describe_baselines(
    entries: Sequence[_Entry], best: Sequence[_Entry]
) -> Iterator[str]:
    """Yield whether a baseline is as good as the best method."""
    for entry in entries:
        if entry.kind != BASELINE:
            continue
        name = _title(entry.method) + entry.strategy.removeprefix(entry.method)
        if entry.gap is None or entry.lost is None:
            yield f"{name} was not measured on both axes."
            continue
        spent = "" if entry.epochs is None else f", at {_epochs(entry.epochs)}"
        values = f"gap {_with_half(entry)}{spent}"
        if not entry.keeps_accuracy:
            yield f"{name} does not keep its accuracy ({_lost(entry)})."
        elif not best:
            yield f"{name} has a {values}."
        elif entry.level_with(best[0]):
            yield f"{name} is as good ({values})."
        elif entry.gap < (best[0].gap or 0.0):
            yield f"{name} is better ({values})."
        else:
            yield f"{name} is not as good ({values})."


def _title(method: str) -> str:
    """Return what a baseline is called at the beginning of a sentence."""
    return about_of(method).title or method


def _lost(entry: _Entry) -> str:
    return f"loses {rate(entry.lost)} of test accuracy"


def _describe_losses(contestants: Sequence[_Entry]) -> Iterator[str]:
    losers = [e for e in contestants if e.lost is not None and not e.keeps_accuracy]
    if losers:
        each = ", ".join(f"{e.strategy} ({rate(e.lost)})" for e in losers)
        yield f"Lost in test accuracy against the retrained model: {each}."


def _describe_outcomes(rows: pd.DataFrame) -> Iterator[str]:
    """Yield who fails the verdict, and of whom it says nothing."""
    known = [*REFERENCES, *of_kind(CONTROL, rows["method"])]
    methods = rows[~rows["method"].isin(known) & rows["judged"].astype(bool)]
    for outcome, text in (
        ("not forgotten", "Not forgotten, by the verdict"),
        ("inconclusive", "Inconclusive"),
    ):
        failed = [
            f"{row['strategy']} ({row[outcome]} of {sum(row[o] for o in OUTCOMES)}"
            f"{_how(row) if outcome == 'not forgotten' else ''})"
            for row in methods.to_dict("records")
            if row[outcome]
        ]
        if failed:
            yield f"{text}: {', '.join(failed)}."


def _how(row: Mapping[str, Any]) -> str:
    """Return ': 2 traces left, 1 overshot', '' where nothing says how."""
    found = [f"{row[how]} {how}" for how in HOW if row.get(how)]
    return f": {', '.join(found)}" if found else ""


def _describe_influence(rows: pd.DataFrame) -> Iterator[str]:
    """Yield how much of what was taught each judged model still shows."""
    shown = [
        f"{row['strategy']} {whole_percent(rho)} %"
        for row in rows.to_dict("records")
        if row["judged"] and (rho := number(row.get("rho"))) is not None
    ]
    if shown:
        yield f"Of what was taught can still be seen: {', '.join(shown)}."


def describe_winners(summary: pd.DataFrame) -> list[str]:
    """Return sentences over all settings: who is nearest how often, and baselines."""
    groups = [rows for _, rows in settings_of(summary)]
    wins: dict[str, int] = {}
    as_good = dict.fromkeys(of_kind(BASELINE, summary["method"]), 0)
    compared = 0
    for rows in groups:
        if _nothing_to_forget(rows) is not None:
            continue
        entries = _entries(rows)
        best = _nearest(entries)
        for entry in best:
            wins[entry.strategy] = wins.get(entry.strategy, 0) + 1
        if best:
            compared += 1
            for method in as_good:
                as_good[method] += _as_good(entries, best[0], method)
    if not compared:
        return ["In no setting can a method be called the nearest."]
    # Most often first; names of equal counts in the usual order.
    ordered = sorted(strategies_of(wins), key=lambda name: -wins[name])
    each = ", ".join(f"{name} in {wins[name]}" for name in ordered)
    said = [
        "Nearest to the retrained model in forgetting, of the methods that keep their "
        f"accuracy: {each} of the {count(compared, 'setting')} in which the original "
        "can be told from it (ties count for each)."
    ]
    said += [
        f"{_title(method)} is as good as the nearest method, or better, in "
        f"{times} of {compared}."
        for method, times in as_good.items()
    ]
    return said


def _as_good(entries: Sequence[_Entry], best: _Entry, method: str) -> bool:
    """Return whether a baseline keeps its accuracy and forgets as well as the best."""
    return any(
        e.keeps_accuracy
        and e.gap is not None
        and (e.level_with(best) or e.gap < (best.gap or 0.0))
        for e in entries
        if e.method == method
    )


def describe_settings(summary: pd.DataFrame) -> list[tuple[str, list[str]]]:
    """Return each setting's label and sentences."""
    groups = settings_of(summary)
    labels = setting_labels([key for key, _ in groups])
    found = [describe_setting(rows) for _, rows in groups]
    return list(zip(labels, found, strict=True))


def short_number(value: object) -> str:
    """Return a count of epochs, without the digits that a mean may have."""
    found = number(value)
    return MISSING if found is None else f"{found:.1f}".removesuffix(".0")


def _epochs(value: float) -> str:
    """Return a count of client-epochs with its unit."""
    return f"{short_number(value)} client-epoch{'' if value == 1 else 's'}"


def _join(names: Sequence[str]) -> str:
    """Return 'a', 'a and b' or 'a, b and c'."""
    *rest, last = names
    return f"{', '.join(rest)} and {last}" if rest else last
