"""Gather the runs of a sweep over methods into one row per run and model.

The one job: a folder of run folders in, a table of numbers out. What they mean over
seeds is `fedneg.reports.compare.statistics`, in words `fedneg.reports.compare.text`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from fedneg.reports.compare.apart import apart
from fedneg.reports.compare.single import INFLUENCE, METRICS, ModelRow, Run, read_run
from fedneg.reports.conclusions import count
from fedneg.reports.run_folders import scan_runs
from fedneg.strategies import method_named

SETTING = ("data", "clients", "partition", "attack", "fraction", "forget", "other")
# What one number per run says of forgetting, by attack: the first that was measured.
_MEMBERSHIP = ("lira_auc_gap", "membership_auc_gap")
_MEASURES = {
    "none": ("rho", *_MEMBERSHIP),
    # Hardly any model answers with the flipped labels: what they do it measures.
    "label_flip": ("rho", "attack_success_gap"),
    "canaries": ("canary_auc_gap",),
}
MEASURES = {
    "rho": INFLUENCE,
    "attack_success_gap": "attack success",
    "canary_auc_gap": "canary AUC",
    "lira_auc_gap": "LiRA AUC",
    "membership_auc_gap": "membership AUC",
}
COLUMNS = (
    *("run", "strategy", "method", *SETTING, "seed", "model", "judged", "outcome"),
    *("finding", "forgetting_measure", *METRICS),
)

LATER = (*SETTING, "strategy", "rounds_after", "rho")


@dataclass(frozen=True)
class Found:
    """The table, why runs were left out, and what the reader should be warned of.

    `margins` of residual influence are those of all runs; None where they differ.
    `later` has a row for each judgement after further rounds (`LATER`).
    """

    frame: pd.DataFrame
    skipped: Mapping[str, str]
    notices: Sequence[str]
    margins: tuple[float, float] | None = None
    later: pd.DataFrame = field(default_factory=pd.DataFrame)


def collect_comparison(sweep_dir: Path) -> pd.DataFrame:
    """Return one row per run and model that came after forgetting, and references.

    Parameters
    ----------
    sweep_dir : Path
        The folder of a multirun, searched in full depth for ``results.json``.

    Returns
    -------
    DataFrame
        ``run``; ``strategy``, with the options of it that differ in the sweep, and
        ``method``, its bare name; the setting (``data clients partition attack
        fraction forget other``, where `other` is what else differs); ``seed``;
        ``model``; ``judged``, whether it is the run's last model; ``outcome`` and
        ``finding`` of the verdict, where there is one (an earlier judge's has no
        finding); ``forgetting_measure``; then `METRICS`, among which ``rho`` is the
        residual influence of the client that decides, with its interval.

        Metrics are null where a run did not measure them. A gap is the model's value
        minus the retrained's, so 0 is the target; ``forgetting_gap`` is the size of one
        gap, of ``forgetting_measure``; ``accuracy_lost``, positive when lost, is
        against the mean of the models that the verdict retrained, where it has any.
        Costs are of forgetting and repair, up to the row's model.

        The original and the retrained model have one row per setting and seed, under
        the strategy names 'original' and 'retrained'; their outcome is the control's.
    """
    return find_comparison(sweep_dir).frame


def find_comparison(sweep_dir: Path) -> Found:
    """Return `collect_comparison`'s table, and what could not become part of it."""
    runs, skipped = scan_runs(sweep_dir, read_run)
    kept, twice = _without_doubles(runs)
    skipped |= twice
    labels, others = _method_labels(kept), _others(kept)
    rows: list[dict[str, object]] = []
    for run in kept:
        setting = {**run.setting, "other": others[run.name]}
        rows += [_row(run, model, setting, labels[run.name]) for model in run.models]
    notices: list[str] = []
    rows += _references(kept, others, notices)
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    for name in METRICS:
        frame[name] = pd.to_numeric(frame[name])
    _add_fine_tune(frame, kept, others)
    _add_forgetting(frame)
    margins = {run.margins for run in kept} - {None}
    earlier = sum(run.margins is None and run.has_verdict for run in kept)
    if earlier:
        notices.append(
            f"The verdicts of {count(earlier, 'run')} are of the earlier judge, which "
            "held gaps against thresholds and had no interval."
        )
    return Found(
        frame,
        skipped,
        notices,
        margins.pop() if len(margins) == 1 else None,
        _later(kept, others, labels),
    )


def _row(
    run: Run, model: ModelRow, setting: Mapping[str, object], strategy: str
) -> dict[str, object]:
    """Return one row; what is null here is filled in once all rows are known."""
    return {
        "run": run.name,
        "strategy": strategy,
        "method": run.method if model.name in ("unlearned", "recovered") else strategy,
        **setting,
        "seed": run.seed,
        "model": model.name,
        "judged": model.judged,
        "outcome": model.outcome,
        "finding": model.finding,
        **model.metrics,
    }


def _later(
    runs: Sequence[Run], others: Mapping[str, str], labels: Mapping[str, str]
) -> pd.DataFrame:
    """Return a row for each run and each number of further rounds."""
    rows = [
        {
            **run.setting,
            "other": others[run.name],
            "strategy": labels[run.name],
            "rounds_after": after,
            "rho": one.rho,
        }
        for run in runs
        for after, one in run.later
    ]
    return pd.DataFrame(rows, columns=list(LATER))


def _key(run: Run, others: Mapping[str, str]) -> tuple[object, ...]:
    """Return what makes runs comparable one by one: the setting and the seed."""
    return (*run.setting.values(), others[run.name], run.seed)


def _references(
    runs: Sequence[Run], others: Mapping[str, str], notices: list[str]
) -> list[dict[str, object]]:
    """Return the original and retrained models, from the first run that has each.

    Runs of one setting and seed share both, bit for bit; where they do not, a number
    is compared with what is not its reference, which must be said.
    """
    rows: dict[tuple[object, ...], dict[str, object]] = {}
    digests: dict[tuple[object, ...], tuple[str, str]] = {}
    for run in runs:
        setting = {**run.setting, "other": others[run.name]}
        for model in run.references:
            key = (*_key(run, others), model.name)
            rows.setdefault(key, _row(run, model, setting, model.name))
            if model.digest is None:
                continue
            first, seen = digests.setdefault(key, (run.name, model.digest))
            if seen != model.digest:
                notices.append(
                    f"The {model.name} models of runs {first} and {run.name} differ, "
                    "though their setting and seed are the same: their gaps have "
                    "different references."
                )
    return list(rows.values())


def _without_doubles(runs: Sequence[Run]) -> tuple[list[Run], dict[str, str]]:
    """Return the runs less those that repeat an earlier one, which are no new seed."""
    first: dict[str, str] = {}
    kept, twice = [], {}
    for run in runs:
        same = first.setdefault(run.identity, run.name)
        if same == run.name:
            kept.append(run)
        else:
            twice[run.name] = f"it repeats run {same}, and would count twice"
    return kept, twice


def _method_labels(runs: Sequence[Run]) -> dict[str, str]:
    """Return each run's method, with the options that differ among runs of it."""
    labels = {}
    for method in {run.method for run in runs}:
        same = [run for run in runs if run.method == method]
        for run, own in zip(same, apart([run.options for run in same]), strict=True):
            options = ", ".join(f"{key}={value}" for key, value in own.items())
            labels[run.name] = f"{method} ({options})" if options else method
    return labels


def _others(runs: Sequence[Run]) -> dict[str, str]:
    """Return what else differs among runs of one setting, '' where nothing does.

    Without it a sweep over, say, learning rates would pass for one over seeds.
    """
    groups: dict[tuple[object, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(run.setting.values()), []).append(run)
    others = {}
    for group in groups.values():
        for run, own in zip(group, apart([r.others for r in group]), strict=True):
            # A network has layers of one kind or the other: an empty list says nothing.
            told = {k: v for k, v in own.items() if v != "[]"} or own
            # Names first: what is too long for a figure's title is cut off there.
            keys = sorted(told, key=lambda key: not key.endswith(".name"))
            others[run.name] = ", ".join(f"{key}={told[key]}" for key in keys)
    return others


def _add_fine_tune(
    frame: pd.DataFrame, runs: Sequence[Run], others: Mapping[str, str]
) -> None:
    """Fill in how much cheaper each run is than fine-tuning at equal accuracy.

    With several fine-tunings per setting and seed, the one with the most rounds has
    the longest curve and is taken.
    """
    tuned: dict[tuple[object, ...], Run] = {}
    for run in runs:
        if _is_yardstick(run) and run.curve is not None:
            key = _key(run, others)
            if key not in tuned or len(run.curve.points) > len(
                tuned[key].curve.points  # type: ignore[union-attr]
            ):
                tuned[key] = run
    ratios = {}
    for run in runs:
        reference = tuned.get(_key(run, others))
        if reference is not None and not _is_yardstick(run):
            ratios[run.name] = run.speed_up_against(reference)
    judged = frame["judged"].astype(bool) & ~frame["strategy"].isin(
        ["original", "retrained"]
    )
    found = frame.loc[judged, "run"].map(ratios)
    frame.loc[judged, "speed_up_fine_tune"] = pd.to_numeric(found)


def _is_yardstick(run: Run) -> bool:
    """Return whether others are said to be cheaper than this run, by so much."""
    return method_named(run.method).about.yardstick


def _add_forgetting(frame: pd.DataFrame) -> None:
    """Fill in the one number of forgetting, of the same measure in a whole setting.

    Under an attack that has a success rate: that of the attack; for canaries: their
    AUC; else, and for flipped labels, residual influence; where it was not measured
    LiRA's AUC, or the loss threshold's where more runs have that one.
    """
    frame["forgetting_measure"] = frame["forgetting_measure"].astype(object)
    for _, rows in frame.groupby(list(SETTING), dropna=False, sort=False):
        attack = str(rows["attack"].iloc[0])
        wanted = _MEASURES.get(attack, ("attack_success_gap",))
        models = rows[~rows["strategy"].isin(["original", "retrained"])]
        known = {n: int(models[n].notna().sum()) for n in (*wanted, *_MEMBERSHIP)}
        most = max(known[n] for n in wanted)
        # The first that is no exception: of a model that diverged nothing is known.
        best = next(n for n in wanted if 2 * known[n] >= most)
        if not known[best]:
            best = max(_MEMBERSHIP, key=lambda n: known[n])
        if known[best]:
            frame.loc[rows.index, "forgetting_measure"] = MEASURES[best]
            frame.loc[rows.index, "forgetting_gap"] = rows[best].abs()
