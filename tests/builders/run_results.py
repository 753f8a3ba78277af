"""Results of runs that never took place, and the report on them."""

import html
import re
from pathlib import Path
from typing import Any

import pandas as pd

from fedneg.reports.run.report import write_report

Run = tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]
TEST = {"original": 0.9412, "unlearned": 0.9021, "recovered": 0.9297}
TEST |= {"retrained": 0.9380}
SUCCESS = {"original": 0.8731, "unlearned": 0.0612, "recovered": 0.0634}
SUCCESS |= {"retrained": 0.0101}
NOTICE = "MNIST was not found: this run used the embedded digits."


def make_run(
    *,
    total: int = 5,
    forget: tuple[int, ...] = (4,),
    models: tuple[str, ...] = ("original", "unlearned", "recovered", "retrained"),
    attack: str = "backdoor",
) -> Run:
    """Return results, history and clients of a run that never took place."""
    metrics: dict[str, dict[str, Any]] = {}
    clients = []
    for model in models:
        by_client = [TEST[model] - 0.001 * k for k in range(total)]
        metrics[model] = {
            "test_accuracy": TEST[model],
            "test_loss": 0.31,
            "forget_accuracy": TEST[model] - 0.02,
            "forget_accuracy_as_trained": 0.5,
            "retain_accuracy": TEST[model] + 0.01,
            "retain_loss": 0.3,
            "forget_loss": 0.4,
            "client_test_accuracy": by_client,
            "attack_success_rate": None if attack == "none" else SUCCESS[model],
        }
        for k, accuracy in enumerate(by_client):
            row = {"model": model, "client_id": k, "num_writers": 8, "num_train": 100}
            row |= {"role": "forget" if k in forget else "retain", "num_val": 10}
            row |= {"num_test": 10, "train_accuracy": accuracy, "train_loss": 0.2}
            row |= {"val_accuracy": accuracy, "test_accuracy": accuracy}
            clients.append(row | {"test_loss": 0.2})
    rounds = [("train", 0, 0.1), ("train", 1, 0.8), ("train", 2, TEST["original"])]
    for phase, at, model in (
        ("unlearn", 3, "unlearned"),
        ("recover", 4, "recovered"),
        ("retrain", 2, "retrained"),
    ):
        if model in models:
            rounds.append((phase, at, TEST[model]))
    history = pd.DataFrame(
        [
            {"server_round": at, "phase": phase, "accuracy": accuracy, "loss": 0.3}
            | {"seconds": 1.5, "bytes_up": 2048, "bytes_down": 2048}
            | {"clients": total, "failures": 0}
            for phase, at, accuracy in rounds
        ]
    )
    results: dict[str, Any] = {
        "schema": 1,
        "seed": 7,
        "strategy": "negative_gradient",
        "forget": list(forget),
        "retrain": "remaining" if "recovered" in models else "none",
        "retrain_rounds": 2,
        "rounds": 10,
        "clients": total,
        "fedneg_version": "0.1.0",
        "notices": [NOTICE],
        "method": {"form": "update", "scale": [1.0], "renormalise": False},
        "attack": {"name": attack, "clients": [4], "fraction": 0.5, "target": 3},
        "config": {"seed": 7, "client": {"learning_rate": 0.05}},
        "failures": [],
        "data": {"name": "digits", "requested": "auto", "writers": 43}
        | {"test_examples": 360, "clients": []},
        "models": metrics,
        "cost": {"train_seconds": 75.0, "unlearn_seconds": 0.25}
        | {"recover_seconds": 4.0, "retrain_seconds": 17.9, "bytes_up": 3 * 1024**2}
        | {"bytes_down": 5 * 1024**2, "ledger_bytes": 4096}
        | {"reused_training": False, "resumed_from_round": 0},
    }
    return results, history, pd.DataFrame(clients)


def render(out: Path, run: Run) -> str:
    """Return the text of the run's page."""
    return write_report(out, *run).read_text()


def said(out: Path, run: Run) -> str:
    """Return what a reader sees of the page without markup and, for speed, figures."""
    results, history, clients = run
    bare = render(out, (results, history.iloc[:0], clients.iloc[:0]))
    text = re.sub(r"<(style|svg)\b.*?</\1>", "", bare, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())
