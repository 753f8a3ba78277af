"""Findings of the judge on made-up models, as results.json holds them."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from builders.run_results import Run, make_run
from fedneg.evaluation.judge import Finding, judge
from fedneg.evaluation.seen import Seen

MODELS = ("original", "unlearned", "recovered", "retrained")
# How often the planted trick works, of a thousand images, by model and in references.
HITS = {"original": 981, "unlearned": 2, "recovered": 2, "retrained": 3}
N = 120

# What the earlier judge left in results.json.
EARLIER: dict[str, Any] = {
    "outcome": "not forgotten",
    "finding": None,
    "model": "recovered",
    "evidence": [
        {"name": "attack_success_gap", "model": "recovered", "value": 0.97}
        | {"threshold": 0.02, "decision": "not forgotten", "why": "above"}
    ],
    "utility": {"value": 0.9, "gap": -0.1, "threshold": -0.01, "kept": False},
    "controls": {"original": "not forgotten", "retrained": "forgotten"},
    "outcomes": {"original": "not forgotten", "recovered": "not forgotten"},
}


class World:
    """Models that have a share of what clients taught; `chance` sets them apart."""

    def __init__(
        self, clients: Sequence[int] = (4,), *, chance: float = 1.2, seed: int = 0
    ) -> None:
        self.clients, self._chance = clients, chance
        self._draw = np.random.default_rng(seed)
        self._middle = {k: self._draw.normal(size=N) for k in clients}

    def model(
        self,
        shares: float | Mapping[int, float] = 0.0,
        *,
        marker: int | None = None,
        quality: float | None = 0.94,
        pairs: tuple[int, int] | None = None,
    ) -> Seen:
        """Return what is seen of a model that has these shares, by client.

        `marker` hits of a thousand; of `pairs` of canaries so many are won.
        """
        losses = {}
        for k in self.clients:
            share = shares if isinstance(shares, float) else shares[k]
            noise = self._draw.normal(size=N) * self._chance
            losses[k] = np.log1p(np.exp(-(self._middle[k] + 1.5 * share + noise)))
        canaries = {}
        if pairs is not None:
            won, count = pairs
            planted = np.where(np.arange(count) < won, 1.0, 3.0)
            canaries = {k: (planted, np.full(count, 2.0)) for k in self.clients}
        hits = None if marker is None else (marker, 1000)
        return Seen(losses, quality=quality, marker=hits, canaries=canaries)


def finding_json(found: Finding) -> dict[str, Any]:
    """Return a finding as an entry of ``verdict.models``."""
    more = {"models_needed": found.models_needed, "said": str(found)}
    return found.to_json() | more


def _without_dots(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry of ``verdict.models``: where references lie stands once."""
    influence = {
        k: one and {name: v for name, v in one.items() if name not in ("out", "in")}
        for k, one in entry["influence"].items()
    }
    return {**entry, "influence": influence}


def verdict(
    share: float | Mapping[int, float] = 0.0,
    *,
    clients: Sequence[int] = (4,),
    outs: int = 7,
    ins: int = 2,
    marker: int | None = None,
    marked: bool = True,
    pairs: tuple[int, int] | None = None,
    quality: float = 0.93,
    chance: float = 1.2,
    absent: Sequence[int] = (),
    alpha: float = 0.05,
    seed: int = 0,
    model: str = "recovered",
    models: Sequence[str] = MODELS,
) -> dict[str, Any]:
    """Return the entry ``verdict`` of a run, from a real judge on made-up models.

    Parameters
    ----------
    share : float or mapping
        What the judged model still has of each client.
    outs, ins : int
        Retrained models, and models trained with the clients.
    marker : int, optional
        How often the trick works in the judged model, of 1000; as `HITS` by default.
    marked : bool
        Whether there is a trick.
    pairs : tuple of int, optional
        Of canaries: how many the judged model wins, of how many.
    chance : float
        How far models of one kind are apart.
    """
    world = World(clients, chance=chance, seed=seed)
    hits = HITS | ({} if marker is None else {model: marker})

    def trick(name: str) -> int | None:
        return hits[name] if marked else None

    shares = {"original": 1.0, "unlearned": -0.4, "recovered": 0.0, "retrained": 0.0}
    shares_of: dict[str, Any] = shares | {model: share}
    chance_of_pairs = None if pairs is None else (pairs[1] // 2, pairs[1])
    with_client = [world.model(1.0, marker=trick("original")) for _ in range(ins)]
    without = [
        world.model(0.0, marker=trick("retrained"), pairs=chance_of_pairs)
        for _ in range(outs)
    ]
    seen = {
        name: world.model(
            shares_of[name],
            marker=trick(name),
            quality=quality if name == model else 0.94,
            pairs=pairs if name == model else chance_of_pairs,
        )
        for name in models
    }
    found = {
        name: judge(
            one,
            trained_with=with_client,
            trained_without=without,
            absent=absent,
            alpha=alpha,
        )
        for name, one in seen.items()
    }
    entries = {name: finding_json(one) for name, one in found.items()}
    outcomes = {name: one.outcome for name, one in found.items()}
    return entries[model] | {
        "model": model,
        "looks": 1,
        "retrainings": outs + ins,
        "absent": list(absent),
        "controls": {k: outcomes[k] for k in ("original", "retrained") if k in models},
        "outcomes": outcomes,
        "models": {name: _without_dots(one) for name, one in entries.items()},
        "later": [],
    }


def judged_run(found: Mapping[str, Any] | None, **keys: Any) -> Run:
    """Return a made-up run with a verdict and further keys of results.json."""
    forget = tuple(int(k) for k in (found or {}).get("influence") or {}) or (4,)
    run = make_run(forget=forget)
    run[0].update({"verdict": None if found is None else dict(found)} | keys)
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
