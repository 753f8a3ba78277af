"""What results.json and the tables of a run hold; their keys are a contract."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd

from fedneg.core.settings import AttackSettings, Config
from fedneg.core.unanswered import Unanswered
from fedneg.core.version import __version__
from fedneg.evaluation.cost import cost_of, curve_of, speed_up
from fedneg.evaluation.evidence import ModelEvidence
from fedneg.evaluation.judgement import Judgement
from fedneg.reports.verdict_values import OPEN, later_of, residuals_of
from fedneg.strategies.phases import RoundReport
from fedneg.tasks.task import Task

SCHEMA = 1
LATER_COLUMNS = (
    *("rounds_after", "client_id", "examples", "rho", "low", "high", "influence"),
    "finding",
)
CLIENT_COLUMNS = (
    "num_writers",
    "num_train",
    "num_val",
    "num_test",
    "train_accuracy",
    "train_loss",
    "trained_accuracy",
    "val_accuracy",
    "val_loss",
    "test_accuracy",
    "test_loss",
)
_UNJUDGED: Mapping[str, Any] = {"verdict": None, "evidence": {}, "floor": None}


@dataclass(frozen=True)
class RunRecord:
    """What a run has found once its models are trained and measured.

    Attributes
    ----------
    config : Config
    task : Task
        What was trained.
    test_examples : int
        How many the server measured models on.
    models : mapping of str to ModelEvidence
        By name, in the order in which they were made.
    history : sequence of mapping
        One row per round, the columns of history.csv.
    reports : sequence of RoundReport
        Of the same rounds.
    method_report : mapping
        What the method says of what it did.
    seconds : mapping of str to float
        Wall time of each phase, and of writing checkpoints.
    ledger_bytes, server_bytes : int
        Size of the ledger after training; of what the method reads of it.
    reused : collection of str
        Phases that an earlier run had trained to their end.
    resumed : mapping of str to int
        Phases that were trained, and after which round they went on (0: new).
    unanswered : sequence of Unanswered
        Questions about models that clients did not answer.
    num_forgotten : mapping of int to int
        Of whom only some examples were to go: how many, where that is known.
    """

    config: Config
    task: Task
    test_examples: int
    models: Mapping[str, ModelEvidence]
    history: Sequence[Mapping[str, Any]]
    reports: Sequence[RoundReport]
    method_report: Mapping[str, Any]
    seconds: Mapping[str, float]
    ledger_bytes: int
    server_bytes: int
    reused: Collection[str]
    resumed: Mapping[str, int]
    unanswered: Sequence[Unanswered]
    num_forgotten: Mapping[int, int] = field(default_factory=dict)


def clients_table(run: RunRecord) -> pd.DataFrame:
    """Return clients.csv: one row per model and client; empty where it did not answer.

    Why it did not is among the failures. Of whom only some examples were to go, there
    is a row for these beside that of the rest.
    """
    config, rows = run.config, []
    leaving = () if config.forget_samples else config.forget
    for name, model in run.models.items():
        told = [
            (k, "forget" if k in leaving else "retain", model.per_client.get(k, {}))
            for k in range(config.clients)
        ]
        told += [(k, "forget", found) for k, found in (model.gone or {}).items()]
        rows += [
            {"model": name, "client_id": client_id, "role": role}
            | {column: found.get(column) for column in CLIENT_COLUMNS}
            for client_id, role, found in told
        ]
    columns = ["model", "client_id", "role", *CLIENT_COLUMNS]
    table = pd.DataFrame(rows, columns=columns)
    # A type of whole numbers that knows of missing ones.
    return table.astype(
        {c: "Int64" if c.startswith("num_") else "float64" for c in CLIENT_COLUMNS}
    )


def later_table(results: Mapping[str, Any]) -> pd.DataFrame:
    """Return later.csv: a row for each later round, leaving client, and its examples.

    ``examples``: all, or the ordinary ones by themselves. ``influence`` is what this
    row's comes to alone, ``finding`` that of the whole model.
    """
    rows = []
    for rounds, entry in later_of(results["verdict"]):
        for (client_id, ordinary), found in residuals_of(entry).items():
            row = {"rounds_after": rounds, "finding": entry["finding"]}
            row |= {"client_id": client_id}
            row |= {"examples": "ordinary" if ordinary else "all"}
            row["influence"] = found.status if found else OPEN
            row |= {name: getattr(found, name, None) for name in ("rho", "low", "high")}
            rows.append(row)
    return pd.DataFrame(rows, columns=list(LATER_COLUMNS))


def results_of(
    run: RunRecord, judgement: Judgement | None, notices: Sequence[str]
) -> dict[str, Any]:
    """Return results.json. Rates are fractions in [0, 1], times seconds.

    `cost` counts what the run itself needed (train, unlearn, recover); training the
    reference is `retrain_seconds` and no part of the bytes. `server_bytes` is what the
    method reads of the ledger, `ledger_bytes` all of it.

    Parameters
    ----------
    run : RunRecord
    judgement : Judgement or None
        None where nobody is forgotten, or before anybody has judged.
    notices : sequence of str
        What a user must not miss.
    """
    config = run.config
    judged = _UNJUDGED if judgement is None else judgement.to_json()
    found = {
        "schema": SCHEMA,
        "fedneg_version": __version__,
        "seed": config.seed,
        "clients": config.clients,
        "rounds": config.rounds,
        "strategy": config.strategy.name,
        "method": run.method_report,
        "forget": list(config.forget),
        **_samples(run),
        "retrain": config.retrain,
        "retrain_rounds": config.retrain_rounds,
        "task": config.task,
        "quality_name": run.task.shown_quality,
        "attack": _attack(config.attack),
        "data": _data(run),
        "models": {
            name: model.summary(forget=config.forget, clients=config.clients)
            for name, model in run.models.items()
        },
        **judged,
        "cost": _cost(run),
        "failures": _failures(run),
        "notices": list(notices),
        "config": config.to_mapping(),
    }
    return {key: _json_ready(value) for key, value in found.items()}


def _samples(run: RunRecord) -> dict[str, Any]:
    """Return which examples were to go, and how many; {} of whole clients."""
    samples = run.config.forget_samples
    if not samples:
        return {}
    return {
        "forget_samples": {
            str(k): {
                "chosen": list(one) if isinstance(one, tuple) else one,
                "examples": run.num_forgotten.get(k),
            }
            for k, one in samples.items()
        }
    }


def _attack(attack: AttackSettings) -> dict[str, Any]:
    """Return what is told of the attack."""
    told = ("boost", "shared", "canaries")
    return {
        "name": attack.name,
        "clients": list(attack.clients or ()),
        "fraction": attack.fraction,
        "target": attack.target,
        **{key: value for key, value in attack.settings.items() if key in told},
    }


def _data(run: RunRecord) -> dict[str, Any]:
    """Return which data it was, and how much of it each client that answered has."""
    answers = run.models["original"].per_client
    counts = ("num_writers", "num_train", "num_val", "num_test")
    facts = run.task.extras.facts
    return {
        "name": run.task.name,
        "requested": run.config.task or run.config.data.requested,
        **(facts() if facts else {}),
        "test_examples": run.test_examples,
        "clients": [
            {"client_id": k} | {c: int(found[c]) for c in counts if c in found}
            for k, found in answers.items()
        ],
    }


def _cost(run: RunRecord) -> dict[str, Any]:
    """Return times and bytes of what the run needed, and what forgetting cost."""
    own = [row for row in run.history if row["phase"] != "retrain"]
    return {
        "train_seconds": run.seconds.get("train", 0.0),
        "unlearn_seconds": run.seconds.get("unlearn", 0.0),
        "recover_seconds": run.seconds.get("recover", 0.0),
        "retrain_seconds": run.seconds.get("retrain", 0.0),
        "bytes_up": sum(int(row["bytes_up"]) for row in own),
        "bytes_down": sum(int(row["bytes_down"]) for row in own),
        "ledger_bytes": run.ledger_bytes,
        "checkpoint_seconds": run.seconds.get("checkpoint", 0.0),
        # The times of what was reused are those of the run that trained it.
        "reused_training": "train" in run.reused,
        "reused_retraining": "retrain" in run.reused,
        "resumed_from_round": run.resumed.get("train", 0),
        "retrain_resumed_from_round": run.resumed.get("retrain", 0),
        **_forgetting_cost(run),
    }


def _failures(run: RunRecord) -> list[dict[str, Any]]:
    """Return who was left out of which round, and who left which question open."""
    return [
        {
            "server_round": f.server_round,
            "phase": f.phase,
            "client_id": f.client_id,
            "reason": f.reason,
        }
        for report in run.reports
        for f in report.failures
    ] + [one.to_json() for one in run.unanswered]


def _json_ready(value: Any) -> Any:
    """Return a value with null for every NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _json_ready(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_json_ready(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _forgetting_cost(run: RunRecord) -> dict[str, Any]:
    """Return what forgetting and repair took, beside retraining; {} without forgetting.

    The speed-up is in client-epochs, to the highest test accuracy that both reach.
    """
    config = run.config
    if not config.forget:
        return {}
    epochs = config.client.local_epochs
    asked: dict[str, set[int]] = {"unlearn": set()}
    for report in run.reports:
        if report.phase == "unlearn":
            asked["unlearn"] |= set(report.metrics)
            asked["unlearn"] |= {f.client_id for f in report.failures}
    forgotten = config.retrain == "forgotten"
    asked["recover"] = set(config.forget if forgotten else config.remaining)
    asked["retrain"] = set(config.remaining)
    participants = {phase: sorted(ids) for phase, ids in asked.items()}
    own = [row for row in run.history if row["phase"] in ("unlearn", "recover")]
    forgetting = cost_of(own, local_epochs=epochs, participants=participants).to_json()
    again = [row for row in run.history if row["phase"] == "retrain"]
    cost: dict[str, Any] = {
        "forgetting": forgetting | {"server_bytes": run.server_bytes},
        "retraining": None,
        "speed_up": None,
    }
    if again:
        found = cost_of(again, local_epochs=epochs, participants=participants)
        cost["retraining"] = found.to_json()
        curves = (curve_of(rows, local_epochs=epochs) for rows in (own, again))
        cost["speed_up"] = asdict(speed_up(*curves))
    return cost
