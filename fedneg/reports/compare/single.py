"""Read of one run's folder what a comparison of methods needs."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from fedneg.core.formats import leaves, number
from fedneg.core.quality import ACCURACY, columns_told
from fedneg.evaluation.cost import Curve, Row, cost_of, curve_of, speed_up
from fedneg.reports.conclusions import attack_name
from fedneg.reports.run_folders import LeftOutError
from fedneg.reports.verdict_values import (
    Residual,
    is_earlier,
    later_of,
    margins_of,
    models_of,
    verdict_of,
    worst_of,
)
from fedneg.reports.whom import short

# What is measured by `rho`, as people read it.
INFLUENCE = "residual influence"
COSTS = ("rounds", "client_epochs", "bytes_up", "bytes_down", "seconds")
METRICS = (
    *("test_accuracy", "accuracy_lost", "forgetting_gap"),
    *("rho", "rho_low", "rho_high", "epsilon"),
    *("forget_accuracy_gap", "forget_accuracy_as_trained_gap", "retain_accuracy_gap"),
    *("attack_success_rate", "attack_success_gap"),
    *("membership_auc_gap", "lira_auc_gap", "canary_auc_gap"),
    *("js", "agreement", "relearn_ratio"),
    *(*COSTS, "server_bytes", "online", "speed_up_retrain", "speed_up_fine_tune"),
)
_GAPS = {
    "forget_accuracy_gap": "forget_accuracy",
    "forget_accuracy_as_trained_gap": "forget_accuracy_as_trained",
    "retain_accuracy_gap": "retain_accuracy",
    "attack_success_gap": "attack_success_rate",
}
_AUCS = ("membership_auc", "lira_auc", "canary_auc")
_PARTITION_OPTIONS = {"dirichlet": "alpha", "shards": "shards_per_client"}
# Of the configuration: what is a setting's own column, the method's, or changes nothing
# that is compared. `attack.boost` is null or follows from the number of clients.
_NOT_OTHER = (
    *("seed", "clients", "forget", "forget_samples", "retrain", "retrain_rounds"),
    *("reference", "cache"),
    *("checkpoint", "state", "keys", "encrypt", "experiment", "verdict", "engine"),
    *("data", "strategy", "attack.name", "attack.fraction", "attack.clients"),
    "client.device",
)
_NOT_OPTIONS = ("strategy.name", "strategy.ledger_memory_mib")


@dataclass(frozen=True)
class ModelRow:
    """One model of a run: its metrics, whether it was judged, and what came of it.

    `finding` is what an outcome of the present judge rests on; None of an earlier one.
    """

    name: str
    judged: bool
    outcome: str | None
    finding: str | None
    metrics: Mapping[str, float | None]
    digest: str | None = None


@dataclass(frozen=True)
class Run:
    """One run: its method with all options, its setting, its models.

    `others` is the rest of the configuration; `curve` is test accuracy over
    client-epochs of forgetting and repair, None without a readable ``history.csv``.
    `margins` are the verdict's, of residual influence; None of an earlier judge's.
    `later` is residual influence after so many further rounds, with its interval.
    """

    name: str
    method: str
    seed: int
    setting: Mapping[str, object]
    options: Mapping[str, str]
    others: Mapping[str, str]
    models: tuple[ModelRow, ...]
    references: tuple[ModelRow, ...]
    margins: tuple[float, float] | None
    later: tuple[tuple[int, Residual], ...]
    curve: Curve | None = field(repr=False)

    @property
    def identity(self) -> str:
        """A text that two runs share only if they are the same run."""
        parts = [self.method, self.seed, self.setting, self.options, self.others]
        return json.dumps(parts, sort_keys=True)

    @property
    def has_verdict(self) -> bool:
        """Whether any judge was asked."""
        return any(model.outcome for model in (*self.models, *self.references))

    def speed_up_against(self, reference: "Run") -> float | None:
        """Return how much cheaper this run is than another at equal test accuracy."""
        if self.curve is None or reference.curve is None:
            return None
        return speed_up(self.curve, reference.curve).ratio


def read_run(name: str, folder: Path, results: Mapping[str, Any]) -> Run:
    """Return what a comparison needs of a run.

    Raises
    ------
    LeftOutError
        If the run forgot nobody, or is of a version that gathered no evidence.
    """
    if not results["forget"]:
        raise LeftOutError("it forgets nobody")
    if not isinstance(results.get("evidence"), Mapping):
        raise LeftOutError(
            "its results.json has no evidence of forgetting, as those of older "
            "versions of fedneg"
        )
    config = {k: v for k, v in leaves(results.get("config") or {}) if v != {}}
    rows = _history(folder, str(results.get("quality_name", ACCURACY)))
    epochs = int(number(config.get("client.local_epochs")) or 1)
    verdict = results.get("verdict") or {}
    names = [n for n in ("unlearned", "recovered") if n in results["models"]]
    judged = verdict.get("model") or (names[-1] if names else None)
    outcomes = verdict.get("outcomes") or {}
    # What the evidence alone says of models whose answer is known.
    controls = outcomes | (verdict.get("controls") or {})
    costs = _costs(results, rows, epochs, judged=names[-1] if names else None)
    return Run(
        name=name,
        method=str(results["strategy"]),
        seed=int(results["seed"]),
        setting=_setting(results, config),
        options=_texts(config, ("strategy", "retrain", "retrain_rounds"), _NOT_OPTIONS),
        others=_texts(config, None, _not_other(attack_name(results))),
        models=tuple(
            _model(results, n, judged == n, outcomes.get(n), costs[n]) for n in names
        ),
        references=tuple(
            _model(results, n, True, controls.get(n), costs.get(n, {}))
            for n in ("original", "retrained")
            if n in results["models"]
        ),
        margins=None if not verdict or is_earlier(verdict) else margins_of(verdict),
        later=tuple(
            (after, worst)
            for after, found in later_of(verdict)
            if (worst := worst_of(found)) is not None
        ),
        curve=_curve(rows, epochs),
    )


def _setting(
    results: Mapping[str, Any], config: Mapping[str, Any]
) -> dict[str, object]:
    """Return the columns that say what was asked of every method alike."""
    rule = str(config.get("data.partition") or "unknown")
    option = _PARTITION_OPTIONS.get(rule)
    own = f"{option}={config.get(f'data.{option}')}"
    attack = attack_name(results)
    has_fraction = attack not in ("none", "canaries")
    fraction = number(results["attack"].get("fraction")) if has_fraction else None
    return {
        "data": results["data"]["name"],
        "clients": results["clients"],
        "partition": f"{rule} ({own})" if option else rule,
        "attack": attack,
        "fraction": fraction,
        "forget": short(results),
    }


def _not_other(attack: str) -> tuple[str, ...]:
    """Return what `other` leaves out: also what does not concern this attack."""
    if attack == "none":
        return (*_NOT_OTHER, "attack")
    return (
        _NOT_OTHER if attack == "model_replacement" else (*_NOT_OTHER, "attack.boost")
    )


def _texts(
    config: Mapping[str, Any], inside: tuple[str, ...] | None, outside: tuple[str, ...]
) -> dict[str, str]:
    """Return the configuration's values below some keys and not below others."""

    def below(key: str, places: tuple[str, ...]) -> bool:
        return any(key == place or key.startswith(f"{place}.") for place in places)

    return {
        key.removeprefix("strategy."): value
        if isinstance(value, str)
        else json.dumps(value)
        for key, value in config.items()
        if (inside is None or below(key, inside)) and not below(key, outside)
    }


def _model(
    results: Mapping[str, Any],
    name: str,
    judged: bool,
    outcome: object,
    cost: Mapping[str, float | None],
) -> ModelRow:
    models, evidence = results["models"], results["evidence"]
    found_of = _finding_of(results, name)
    own, reference = models[name], models.get("retrained") or {}
    seen, seen_reference = evidence.get(name) or {}, evidence.get("retrained") or {}
    found: dict[str, float | None] = dict.fromkeys(METRICS)
    found["test_accuracy"] = number(own.get("test_accuracy"))
    found["attack_success_rate"] = number(own.get("attack_success_rate"))
    for gap, metric in _GAPS.items():
        found[gap] = _minus(own.get(metric), reference.get(metric))
    # The verdict has several retrained models to compare with, the run one.
    lost = number(found_of.get("quality_lost"))
    if lost is None:
        lost = _minus(reference.get("test_accuracy"), own.get("test_accuracy"))
    found["accuracy_lost"] = None if lost is None else 0.0 + lost  # never -0.0
    for auc in _AUCS:
        found[f"{auc}_gap"] = _minus(_value(seen, auc), _value(seen_reference, auc))
    found["js"] = number(seen.get("js_to_retrained"))
    found["agreement"] = number(seen.get("agreement_with_retrained"))
    found["relearn_ratio"] = _relearn_ratio(seen, seen_reference)
    # Of several clients the one that decides.
    worst = worst_of(found_of)
    if worst is not None:
        found |= {"rho": worst.rho, "rho_low": worst.low, "rho_high": worst.high}
    found["epsilon"] = number(found_of.get("epsilon"))
    finding = found_of.get("finding")
    digest = seen.get("fingerprint")
    return ModelRow(
        name,
        judged,
        str(outcome) if outcome else None,
        str(finding) if finding and outcome else None,
        {**found, **cost},
        None if digest is None else str(digest),
    )


def _finding_of(results: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return what the present judge found of a model; {} where it was not asked."""
    verdict = verdict_of(results)
    if verdict is None or is_earlier(verdict):
        return {}
    return verdict if verdict.get("model") == name else models_of(verdict).get(name, {})


def _value(evidence: Mapping[str, Any], name: str) -> object:
    """Return the middle of an interval; None where it was not measured."""
    return (evidence.get(name) or {}).get("value")


def _minus(value: object, reference: object) -> float | None:
    """Return a difference, None where either is missing."""
    a, b = number(value), number(reference)
    return None if a is None or b is None else a - b


def _relearn_ratio(
    own: Mapping[str, Any], reference: Mapping[str, Any]
) -> float | None:
    """Return relearn time over the retrained's; None where either is only a bound."""
    if own.get("relearn_reached") is False or reference.get("relearn_reached") is False:
        return None
    a, b = number(own.get("relearn_batches")), number(reference.get("relearn_batches"))
    return None if a is None or not b else a / b


def _costs(
    results: Mapping[str, Any], rows: list[Row], epochs: int, *, judged: str | None
) -> dict[str, dict[str, float | None]]:
    """Return what each model cost; that of a run's last model is the whole.

    The unlearned model of a run that was repaired costs the whole less the repair,
    which consists of ordinary rounds; who was online for it alone is not recorded.
    """
    cost = results.get("cost") or {}
    whole = cost.get("forgetting") or {}
    total = {name: number(whole.get(name)) for name in (*COSTS, "server_bytes")}
    online = whole.get("online")
    ratio = number((cost.get("speed_up") or {}).get("ratio"))
    last = total | {"online": None if online is None else float(len(online))}
    last |= {"speed_up_retrain": ratio}
    found = {} if judged is None else {judged: last}
    if judged == "recovered":
        first = dict.fromkeys(total, None) | {"server_bytes": total["server_bytes"]}
        repair = [row for row in rows if row["phase"] == "recover"]
        if repair:
            spent = cost_of(repair, local_epochs=epochs)
            for name in COSTS:
                left = _minus(total[name], getattr(spent, name))
                first[name] = None if left is None else max(left, 0.0)
        found["unlearned"] = first
    again = cost.get("retraining") or {}
    return found | {
        "retrained": {name: number(again.get(name)) for name in COSTS}
        | {"online": float(len(again["online"])) if "online" in again else None}
    }


def _history(folder: Path, quality: str) -> list[Row]:
    """Return the rows of history.csv, [] where it is missing or no such table."""
    try:
        table = pd.read_csv(folder / "history.csv")
        told = columns_told(["accuracy"], quality)
        table = table.rename(columns={name: key for key, name in told.items()})
        wanted = ["phase", "accuracy", "seconds", "bytes_up", "bytes_down", "clients"]
        rows: list[Row] = table[wanted].to_dict("records")
        for row in rows:
            for name in wanted[2:]:
                float(row[name])
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [dict(row) | {"accuracy": number(row["accuracy"])} for row in rows]


def _curve(rows: list[Row], epochs: int) -> Curve | None:
    """Return test accuracy over the client-epochs of forgetting and repair.

    Its first point is after the first round, for fine-tuning too: the model before it
    is the original, of which nothing has been forgotten.
    """
    spent = [row for row in rows if row["phase"] in ("unlearn", "recover")]
    try:
        return curve_of(spent, local_epochs=epochs)
    except ValueError:
        return None
