"""What results.json, history.csv and clients.csv hold; their keys are a contract."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from fedneg import __version__
from fedneg.core.settings import Config
from fedneg.core.unanswered import Unanswered
from fedneg.data.datasets import Dataset
from fedneg.evaluation.cost import cost_of, curve_of, speed_up
from fedneg.evaluation.evidence import ModelEvidence
from fedneg.evaluation.judgement import Judgement
from fedneg.strategies.base import LedgerFedAvg
from fedneg.strategies.phases import RoundReport

SCHEMA = 1
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


def clients_table(
    models: Mapping[str, ModelEvidence], forget: Sequence[int], *, clients: int
) -> pd.DataFrame:
    """Return clients.csv: one row per model and client; empty where it did not answer.

    Why it did not is among the failures.
    """
    rows = [
        {
            "model": name,
            "client_id": client_id,
            "role": "forget" if client_id in forget else "retain",
            **{
                column: model.per_client.get(client_id, {}).get(column)
                for column in CLIENT_COLUMNS
            },
        }
        for name, model in models.items()
        for client_id in range(clients)
    ]
    columns = ["model", "client_id", "role", *CLIENT_COLUMNS]
    table = pd.DataFrame(rows, columns=columns)
    # A type of whole numbers that knows of missing ones.
    return table.astype(
        {c: "Int64" if c.startswith("num_") else "float64" for c in CLIENT_COLUMNS}
    )


def results_of(
    config: Config,
    *,
    dataset: Dataset,
    models: Mapping[str, ModelEvidence],
    judgement: Judgement | None,
    strategy: LedgerFedAvg,
    history: Sequence[Mapping[str, Any]],
    seconds: Mapping[str, float],
    ledger_bytes: int,
    server_bytes: int,
    reused: Collection[str],
    resumed: Mapping[str, int],
    notices: Sequence[str],
    unanswered: Sequence[Unanswered] = (),
) -> dict[str, Any]:
    """Return results.json. Rates are fractions in [0, 1], times seconds.

    `cost` counts what the run itself needed (train, unlearn, recover); training the
    reference is `retrain_seconds` and no part of the bytes. `server_bytes` is what the
    method reads of the ledger, `ledger_bytes` all of it. `judgement` is None where
    nobody is forgotten.
    """
    answers = models["original"].per_client
    own = [row for row in history if row["phase"] != "retrain"]
    found = {
        "schema": SCHEMA,
        "fedneg_version": __version__,
        "seed": config.seed,
        "clients": config.clients,
        "rounds": config.rounds,
        "strategy": config.strategy.name,
        "method": strategy.method_report,
        "forget": list(config.forget),
        "retrain": config.retrain,
        "retrain_rounds": config.retrain_rounds,
        "attack": {
            "name": config.attack.name,
            "clients": list(config.attack.clients or ()),
            "fraction": config.attack.fraction,
            "target": config.attack.target,
            **{
                key: value
                for key, value in config.attack.settings.items()
                if key in ("boost", "shared", "canaries")
            },
        },
        "data": {
            "name": dataset.name,
            "requested": config.data.requested,
            "writers": dataset.num_writers,
            "test_examples": len(dataset.test_labels),
            "clients": [
                {"client_id": k}
                | {
                    c: int(answers[k][c])
                    for c in ("num_writers", "num_train", "num_val", "num_test")
                }
                for k in answers
            ],
        },
        "models": {
            name: model.summary(forget=config.forget, clients=config.clients)
            for name, model in models.items()
        },
        **(
            {"verdict": None, "evidence": {}, "floor": None}
            if judgement is None
            else judgement.to_json()
        ),
        "cost": {
            "train_seconds": seconds.get("train", 0.0),
            "unlearn_seconds": seconds.get("unlearn", 0.0),
            "recover_seconds": seconds.get("recover", 0.0),
            "retrain_seconds": seconds.get("retrain", 0.0),
            "bytes_up": sum(int(row["bytes_up"]) for row in own),
            "bytes_down": sum(int(row["bytes_down"]) for row in own),
            "ledger_bytes": ledger_bytes,
            "checkpoint_seconds": seconds.get("checkpoint", 0.0),
            # The times of what was reused are those of the run that trained it.
            "reused_training": "train" in reused,
            "reused_retraining": "retrain" in reused,
            "resumed_from_round": resumed.get("train", 0),
            "retrain_resumed_from_round": resumed.get("retrain", 0),
            **_forgetting_cost(config, history, strategy.reports, server_bytes),
        },
        "failures": [
            {
                "server_round": f.server_round,
                "phase": f.phase,
                "client_id": f.client_id,
                "reason": f.reason,
            }
            for report in strategy.reports
            for f in report.failures
        ]
        + [one.to_json() for one in unanswered],
        "notices": list(notices),
        "config": config.to_mapping(),
    }
    return {key: _json_ready(value) for key, value in found.items()}


def _json_ready(value: Any) -> Any:
    """Return a value with null for every NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _json_ready(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_json_ready(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _forgetting_cost(
    config: Config,
    history: Sequence[Mapping[str, Any]],
    reports: Sequence[RoundReport],
    server_bytes: int,
) -> dict[str, Any]:
    """Return what forgetting and repair took, beside retraining; {} without forgetting.

    The speed-up is in client-epochs, to the highest test accuracy that both reach.
    """
    if not config.forget:
        return {}
    epochs = config.client.local_epochs
    asked: dict[str, set[int]] = {"unlearn": set()}
    for report in reports:
        if report.phase == "unlearn":
            asked["unlearn"] |= set(report.metrics)
            asked["unlearn"] |= {f.client_id for f in report.failures}
    forgotten = config.retrain == "forgotten"
    asked["recover"] = set(config.forget if forgotten else config.remaining)
    asked["retrain"] = set(config.remaining)
    participants = {phase: sorted(ids) for phase, ids in asked.items()}
    own = [row for row in history if row["phase"] in ("unlearn", "recover")]
    forgetting = cost_of(own, local_epochs=epochs, participants=participants).to_json()
    again = [row for row in history if row["phase"] == "retrain"]
    cost: dict[str, Any] = {
        "forgetting": forgetting | {"server_bytes": server_bytes},
        "retraining": None,
        "speed_up": None,
    }
    if again:
        found = cost_of(again, local_epochs=epochs, participants=participants)
        cost["retraining"] = found.to_json()
        curves = (curve_of(rows, local_epochs=epochs) for rows in (own, again))
        cost["speed_up"] = asdict(speed_up(*curves))
    return cost
