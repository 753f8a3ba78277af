"""Verdicts on made-up numbers, and runs that hold them."""

import copy
from typing import Any

from builders.run_results import make_run
from fedneg.core.verdict_settings import VerdictSettings
from fedneg.evaluation.measurements import Measurements
from fedneg.evaluation.membership import Interval
from fedneg.evaluation.verdict import judge

SETTINGS = VerdictSettings(
    **dict.fromkeys(("attack_margin", "as_trained_margin"), 0.02),
    **dict.fromkeys(("membership_margin", "lira_margin", "canary_margin"), 0.02),
    **dict.fromkeys(("js_margin", "disagreement_margin"), 0.005),
    relearn_margin=0.1,
    utility_margin=0.01,
    power=2,
    min_relearn_batches=10,
    min_retrainings=2,
    retrainings=2,
    relearn_cap=300,
    relearn_every=5,
)
GOOD = {"original": "not forgotten", "retrained": "forgotten"}


def numbers(name: str, attack: float, auc: float | None = None) -> Measurements:
    """Return a model's numbers: attack success and, if given, a membership AUC."""
    interval = None if auc is None else Interval(auc, auc - 0.01, auc + 0.01)
    return Measurements(name, name, 0.9, attack_success=attack, membership_auc=interval)


def verdict(
    attack: float, *, original: float = 0.98, retrainings: int = 2
) -> dict[str, Any]:
    """Return a real verdict on a model of this attack success, as results hold it."""
    found = judge(
        numbers("recovered", attack),
        original=numbers("original", original),
        retrained=[numbers(f"retrained-{k}", 0.01) for k in range(retrainings)],
        settings=SETTINGS,
    )
    given = {"model": "recovered", "retrainings": retrainings}
    return found.to_json() | given | {"controls": dict(GOOD)}


def judged_run(found: dict[str, Any] | None, **keys: Any) -> Any:
    """Return a made-up run with a verdict and further keys of results.json."""
    run = make_run()
    run[0]["models"]["recovered"]["attack_success_rate"] = 0.98
    run[0].update({"verdict": found} | keys)
    return run


def measured() -> dict[str, Any]:
    """Return evidence, floor and costs as a full run has them."""
    interval = {"value": 0.7, "low": 0.65, "high": 0.75}
    one = {
        "fingerprint": "ab",
        "membership_auc": interval,
        "membership_advantage": 0.3,
        "membership_tpr_at_fpr_1": 0.0625,
        "lira_auc": None,
        "lira_tpr_at_fpr_1": None,
        "canary_auc": {"value": 0.99, "low": 0.97, "high": 1.0},
        "canary_exposure": 4.25,
        "canary_exposure_chance": 1.375,
        "relearn_batches": 200,
        "relearn_reached": False,
        "js_to_retrained": 0.0123,
        "agreement_with_retrained": 0.96,
        "distance_to_retrained": 8.5,
        "distance_to_original": 2.25,
    }
    work = {"rounds": 2, "client_epochs": 6, "bytes_up": 1024, "bytes_down": 2048}
    work |= {"seconds": 0.5, "online": [0, 2, 3]}
    cost = make_run()[0]["cost"] | {
        "forgetting": work | {"server_bytes": 5 * 1024},
        "retraining": work | {"rounds": 10, "client_epochs": 24},
        "speed_up": {"accuracy": 0.9, "method": 6.0, "reference": 24.0, "ratio": 4.0},
    }
    floor = {"models": 3, "test_accuracy": 0.0083, "attack_success_rate": 0.0021}
    floor |= {"js": 0.0107, "disagreement": 0.041}
    models = ("original", "unlearned", "recovered", "retrained")
    evidence = {model: copy.deepcopy(one) for model in models}
    return {"evidence": evidence, "floor": floor, "cost": cost}
