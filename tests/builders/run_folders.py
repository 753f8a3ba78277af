"""Run folders with unequal numbers, for comparisons of methods."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from builders.run_results import make_run

ACCURACY = {"original": 0.95, "unlearned": 0.90, "recovered": 0.93, "retrained": 0.94}
SUCCESS = {"original": 0.90, "unlearned": 0.30, "recovered": 0.05, "retrained": 0.01}
AUC = {"original": 0.60, "unlearned": 0.54, "recovered": 0.53, "retrained": 0.51}


def add_run(
    folder: Path,
    *,
    method: str = "compensated",
    seed: int = 0,
    attack: str = "backdoor",
    outcome: str | None = "forgotten",
    shift: float = 0.0,
    epochs: int = 8,
    recovered: bool = True,
    rounds: tuple[float, ...] = (0.90, 0.93),
    config: dict[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """Leave a run behind; `shift` moves the judged model's attack success and AUCs."""
    judged = "recovered" if recovered else "unlearned"
    names = [n for n in ACCURACY if recovered or n != "recovered"]
    results = make_run(attack=attack)[0]
    moved = {n: shift if n == judged else 0.0 for n in names}
    results["models"] = {
        n: {"test_accuracy": ACCURACY[n], "forget_accuracy": ACCURACY[n] - 0.1}
        | {"retain_accuracy": None, "forget_accuracy_as_trained": 0.5}
        | {
            "attack_success_rate": SUCCESS[n] + moved[n]
            if attack == "backdoor"
            else None
        }
        for n in names
    }
    results["evidence"] = {
        n: {"fingerprint": n, "membership_auc": {"value": AUC[n] + moved[n]}}
        | {"lira_auc": None, "canary_auc": None, "js_to_retrained": 0.002}
        | {"relearn_batches": 30 if n == "retrained" else 12, "relearn_reached": True}
        for n in names
    }
    results["verdict"] = {
        "outcome": outcome,
        "model": judged,
        "outcomes": {judged: outcome},
    }
    results["cost"]["forgetting"] = {
        "rounds": 2,
        "client_epochs": epochs,
        "bytes_up": 100,
        "bytes_down": 300,
        "seconds": 5.0,
        "online": [0, 1, 2],
        "server_bytes": 77,
    }
    results |= {"seed": seed, "strategy": method}
    base = {"data": {"partition": "dirichlet", "alpha": 0.1}, "rounds": 10}
    results["config"] = base | {"client": {"local_epochs": 1}} | (config or {})
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(results | changes))
    phases = ["unlearn"] + ["recover"] * (len(rounds) - 1)
    pd.DataFrame(
        {"server_round": range(len(rounds)), "phase": phases, "accuracy": rounds}
        | {"seconds": 1.0, "bytes_up": 40, "bytes_down": 60, "clients": 4}
    ).to_csv(folder / "history.csv", index=False)
    return folder
