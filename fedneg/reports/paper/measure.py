"""The measurements of the paper, every table and figure, in one go.

Tahir, Tan and Babaagba, 'Can Federated Models be Rectified through Learning Negative
Gradients?', section 4. One honest federation serves five removals; a second one, in
which the last client plants a backdoor, answers what the paper asks but does not
measure: how much of a client's influence a subtraction takes away.

Differs from the paper: the test sets of Table 1 are the 1,000 images that its text
states (its figures are multiples of 1/1800); the hidden sizes and the scale of the
subtraction, which it does not state, are ours and a scan.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedneg.core.errors import FedNegError
from fedneg.core.parameters import Vector
from fedneg.core.progress import Progress
from fedneg.core.settings import Config
from fedneg.evaluation.evidence import ServerTest
from fedneg.reports.paper.central import train_centrally
from fedneg.reports.paper.published import (
    FORMS,
    PAPER_FEDERATED,
    PAPER_LOCAL,
    PAPER_REMOVED,
    RETRAINED_CLIENTS,
    SCALES,
)
from fedneg.reports.paper.state import PaperMeasurements, Snapshot, remove

if TYPE_CHECKING:
    from fedneg.federation import Federation


def planned_rounds(config: Config) -> int:
    """Return how many rounds and central epochs the experiment runs."""
    retrained = 2 * min(RETRAINED_CLIENTS, config.clients) * config.retrain_rounds
    reference = config.rounds if config.reference else 0
    return 3 * config.rounds + retrained + reference


def measure(
    config: Config,
    make_federation: Callable[[Config], "Federation"],
    progress: Progress,
) -> PaperMeasurements:
    """Run both federations and the central training, and measure all of it.

    Parameters
    ----------
    config : Config
        Of the experiment; attack and forget are the experiment's own business.
    make_federation : callable
        Returns a fresh federation of a configuration.
    progress : Progress
    """
    nobody = replace(config.attack, name="none", clients=())
    federation = make_federation(replace(config, attack=nobody))
    snapshots, local = _train(federation)
    history = pd.DataFrame(federation.history)
    federated = history[["server_round", "accuracy", "loss"]].rename(
        columns={"server_round": "epoch"}
    )
    last = snapshots[-1]
    progress.step("scanning the scale of the subtraction")
    scan, columns = _scan_parameters(federation, last)
    nearest = _nearest_scales(federation, last, columns)
    progress.step("measuring Table 1")
    scales = dict(zip(nearest["client_id"], nearest["scale"], strict=True))
    table1 = _table1(federation, last, local, scales)
    removal = _removal_per_epoch(federation, snapshots, scales)
    retraining = _retraining(federation, last, scales)
    seconds = {"federated": federation.seconds["train"]}
    central = train_centrally(federation)
    seconds["central"] = float(central.attrs["seconds"])
    attacked, retrained = _backdoor(config, make_federation, progress)
    return PaperMeasurements(
        central=central,
        federated=federated,
        local=local,
        table1=table1,
        nearest=nearest,
        scan=pd.concat([scan, attacked], ignore_index=True),
        removal=removal,
        retraining=retraining,
        retrained_attack_success=retrained,
        history=history,
        seconds=seconds,
    )


def _train(federation: "Federation") -> tuple[list[Snapshot], pd.DataFrame]:
    """Train with everybody; return the state and the local models' scores per round."""
    snapshots: list[Snapshot] = []
    rows: list[dict[str, Any]] = []

    def after_round(report: Any, parameters: Vector) -> None:
        ledger = federation.strategy.ledger
        ids = range(ledger.clients)
        for failure in report.failures:
            raise FedNegError(
                "experiment=paper needs every client's model in every round; in round "
                f"{failure.server_round} client {failure.client_id} was left out: "
                f"{failure.reason}"
            )
        snapshots.append(
            Snapshot(
                parameters,
                ledger.contributions.copy(),
                tuple(ledger.local[k].copy() for k in ids),
                tuple(ledger.last_weight(k) for k in ids),
            )
        )
        rows.extend(
            {"epoch": report.server_round, "client_id": k, **metrics}
            for k, metrics in report.metrics.items()
        )

    federation.train(after_round)
    return snapshots, pd.DataFrame(rows)


def _on_tests(federation: "Federation", parameters: Vector) -> list[float]:
    """Return the accuracy on each client's test part, and last on all of them."""
    answers = federation.on_client_tests(parameters)
    ids = range(federation.config.clients)
    scores = [answers[k]["test_accuracy"] for k in ids]
    counts = [answers[k]["num_test"] for k in ids]
    return [*scores, float(np.average(scores, weights=counts))]


def _scan_row(
    test: ServerTest, parameters: Vector, **keys: object
) -> dict[str, object]:
    return {
        **keys,
        "accuracy": test.measure(parameters).accuracy,
        "attack_success_rate": test.attack_success_rate(parameters),
    }


def _scan_parameters(
    federation: "Federation", last: Snapshot
) -> tuple[pd.DataFrame, dict[tuple[int, float], list[float]]]:
    """Scan the parameters form over `SCALES`, for every client of an honest federation.

    Returns the table, and each scale's column of Table 1 (without 'all').
    """
    rows, columns = [], {}
    for k in range(federation.config.clients):
        for scale in SCALES:
            model = last.without_parameters(k, scale)
            rows.append(
                _scan_row(
                    federation.test,
                    model,
                    federation="honest",
                    form="parameters",
                    client_id=k,
                    scale=scale,
                )
            )
            columns[k, scale] = _on_tests(federation, model)[:-1]
    return pd.DataFrame(rows), columns


def _nearest_scales(
    federation: "Federation",
    last: Snapshot,
    columns: dict[tuple[int, float], list[float]],
) -> pd.DataFrame:
    """Find, per removed client, the scale nearest to the paper's column of Table 1.

    The scan's best scale is refined in steps of 0.01. `gap` is the mean absolute
    difference. With other than five clients there is no column to come near to: the
    client's own weight stands in, and the gap is empty.
    """
    rows: list[dict[str, object]] = []
    for k in range(federation.config.clients):
        if federation.config.clients != len(PAPER_REMOVED):
            rows.append({"client_id": k, "scale": last.weights[k], "gap": None})
            continue
        paper = np.array(PAPER_REMOVED[k])

        def gap(column: Sequence[float], paper: NDArray[np.float64] = paper) -> float:
            return float(np.abs(np.array(column) - paper).mean())

        gaps = {s: gap(columns[k, s]) for s in SCALES}
        coarse = min(gaps, key=gaps.__getitem__)
        for step in (-4, -3, -2, -1, 1, 2, 3, 4):
            scale = round(coarse + step / 100, 2)
            if 0 < scale <= 1:
                model = last.without_parameters(k, scale)
                gaps[scale] = gap(_on_tests(federation, model)[:-1])
        best = min(gaps, key=gaps.__getitem__)
        rows.append({"client_id": k, "scale": best, "gap": gaps[best]})
    return pd.DataFrame(rows)


def _table1(
    federation: "Federation",
    last: Snapshot,
    local: pd.DataFrame,
    scales: dict[int, float],
) -> pd.DataFrame:
    """Return Table 1 in every form, and the paper's where it can be compared."""
    clients = federation.config.clients
    partitions = [*map(str, range(clients)), "all"]
    end = local[local["epoch"] == local["epoch"].max()].sort_values("client_id")
    own = end["test_accuracy"].tolist()
    own.append(float(np.average(own, weights=end["num_test"])))
    base = {
        "partition": partitions,
        "local_model": own,
        "federated_model": _on_tests(federation, last.parameters),
    }
    tables = []
    for form in FORMS:
        removed = {
            f"removed_{k}": _on_tests(federation, remove(last, form, k, scales))
            for k in range(clients)
        }
        tables.append(pd.DataFrame({"form": form, **base, **removed}))
    if clients == len(PAPER_LOCAL):
        columns = {f"removed_{k}": PAPER_REMOVED[k] for k in range(clients)}
        tables.append(
            pd.DataFrame(
                {
                    "form": "paper",
                    "partition": partitions[:-1],
                    "local_model": PAPER_LOCAL,
                    "federated_model": PAPER_FEDERATED,
                    **columns,
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def _removal_per_epoch(
    federation: "Federation", snapshots: Sequence[Snapshot], scales: dict[int, float]
) -> pd.DataFrame:
    """Return the accuracy of every removal after every epoch (Fig 5)."""
    rows = [
        {
            "form": form,
            "epoch": epoch,
            "client_id": k,
            "accuracy": federation.test.measure(
                remove(state, form, k, scales)
            ).accuracy,
        }
        for form in FORMS
        for epoch, state in enumerate(snapshots, start=1)
        for k in range(federation.config.clients)
    ]
    return pd.DataFrame(rows)


def _retraining(
    federation: "Federation", last: Snapshot, scales: dict[int, float]
) -> pd.DataFrame:
    """Retrain on the removed client's own data, without FedAvg (Figs 6, 7)."""
    rows: list[dict[str, object]] = []
    for form in ("update", "parameters_nearest"):
        for k in range(min(RETRAINED_CLIENTS, federation.config.clients)):
            start = remove(last, form, k, scales)
            first = federation.test.measure(start)
            rows.append(
                {"form": form, "client_id": k, "epoch": 0, **_scores(asdict(first))}
            )
            before = len(federation.history)
            federation.recover(start, [k], federation.config.retrain_rounds)
            rows.extend(
                {"form": form, "client_id": k, "epoch": epoch, **_scores(row)}
                for epoch, row in enumerate(federation.history[before:], start=1)
            )
            # These rounds are the figure's, not the federation's.
            del federation.history[before:]
    return pd.DataFrame(rows)


def _scores(row: dict[str, Any]) -> dict[str, float]:
    return {"accuracy": row["accuracy"], "loss": row["loss"]}


def _backdoor(
    config: Config,
    make_federation: Callable[[Config], "Federation"],
    progress: Progress,
) -> tuple[pd.DataFrame, float | None]:
    """Train with a backdoor in the last client and scan both forms.

    Returns the scan, and the attack success of a federation that never had the
    attacker (None unless config.reference).
    """
    attacker = config.clients - 1
    attack = replace(config.attack, name="backdoor", clients=(attacker,))
    plain = replace(config.client, evaluate_after_fit=False)
    federation = make_federation(replace(config, attack=attack, client=plain))
    last = _train(federation)[0][-1]
    progress.step("scanning the subtraction of the attacker")
    rows = []
    for form, remover in (
        ("update", last.without_update),
        ("parameters", last.without_parameters),
    ):
        for scale in SCALES:
            rows.append(
                _scan_row(
                    federation.test,
                    remover(attacker, scale),
                    federation="backdoor",
                    form=form,
                    client_id=attacker,
                    scale=scale,
                )
            )
    if not config.reference:
        return pd.DataFrame(rows), None
    others = [k for k in range(config.clients) if k != attacker]
    retrained = federation.retrain(others)
    return pd.DataFrame(rows), federation.test.attack_success_rate(retrained)
