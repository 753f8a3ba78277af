"""The measurements of the paper, every table and figure, in one go.

Tahir, Tan and Babaagba, 'Can Federated Models be Rectified through Learning Negative
Gradients?', section 4. One honest federation serves five removals; a second one, in
which the last client plants a backdoor, answers what the paper asks but does not
measure: how much of a client's influence a subtraction takes away.

Differs from the paper: the test sets of Table 1 are the 1,000 images that its text
states (its figures are multiples of 1/1800); the hidden sizes and the scale of the
subtraction, which it does not state, are ours and a scan.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedneg.console import Progress
from fedneg.evidence import ServerTest
from fedneg.model import build_mlp, get_parameters, set_parameters
from fedneg.parameters import Vector, add, flatten, unflatten
from fedneg.partition import partition_by_writer
from fedneg.seeding import torch_generator
from fedneg.settings import AttackSettings, Config
from fedneg.training import evaluate, train_epochs

if TYPE_CHECKING:
    from fedneg.server_app import Federation

FORMS = ("update", "parameters", "parameters_nearest")
SCALES = tuple(round(0.05 * step, 2) for step in range(21))
RETRAINED_CLIENTS = 4  # Figs 6 and 7 show clients 1 to 4 of the paper, ids 0 to 3

# The paper's numbers. Table 1: one entry per partition 1 to 5, our clients 0 to 4.
PAPER_CENTRAL_TRAIN, PAPER_CENTRAL_TEST, PAPER_FEDERATED_TEST = 0.9954, 0.9804, 0.9801
PAPER_LOCAL = (0.9428, 0.9539, 0.9444, 0.9483, 0.9604)
PAPER_FEDERATED = (0.9567, 0.9617, 0.9572, 0.9589, 0.9665)
PAPER_REMOVED = (
    (0.9183, 0.9261, 0.9089, 0.9167, 0.9180),
    (0.9306, 0.9444, 0.9200, 0.9239, 0.9291),
    (0.9067, 0.9156, 0.8900, 0.9117, 0.9090),
    (0.8639, 0.8717, 0.8500, 0.8678, 0.8638),
    (0.7183, 0.7267, 0.7228, 0.7167, 0.7166),
)
PAPER_RETRAINED = (
    (0.9344, 0.9606),
    (0.9461, 0.9633),
    (0.9250, 0.9594),
    (0.9283, 0.9550),
)  # before and after ten epochs on the removed data


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What the server holds after a round: enough to remove any client.

    Attributes
    ----------
    parameters : Vector, shape (d,)
    contributions : float32 array, shape (K, d)
    local : tuple of K Vector
        Each client's model after this round's training.
    weights : tuple of K float
        Aggregation weights of the round.
    """

    parameters: Vector
    contributions: NDArray[np.float32]
    local: tuple[Vector, ...]
    weights: tuple[float, ...]

    def without_update(self, client_id: int, scale: float = 1.0) -> Vector:
        """Return the update form: parameters - scale * contribution."""
        return add(self.parameters, [(-scale, self.contributions[client_id])])

    def without_parameters(self, client_id: int, scale: float) -> Vector:
        """Return the parameters form: parameters - scale * local model."""
        return add(self.parameters, [(-scale, self.local[client_id])])


@dataclass(frozen=True, eq=False)
class PaperMeasurements:
    """Everything the report shows; rates are fractions, losses nats per example.

    Attributes
    ----------
    central, federated : DataFrame
        epoch, train_accuracy, train_loss (central), accuracy, loss (server test set).
    local : DataFrame
        epoch, client_id, and what each local model scores on its own data.
    table1 : DataFrame
        form, partition, local_model, federated_model, removed_0.. (accuracy).
    nearest : DataFrame
        client_id, scale, gap: the scale whose column comes nearest to the paper's.
    scan : DataFrame
        federation (honest or backdoor), form, client_id, scale, accuracy,
        attack_success_rate.
    removal : DataFrame
        form, epoch, client_id, accuracy: removal after each epoch (Fig 5).
    retraining : DataFrame
        form, client_id, epoch, accuracy, loss (Figs 6, 7); epoch 0 is the removal.
    retrained_attack_success : float or None
        Of a federation that never had the attacker, where a reference was asked for.
    history : DataFrame
        Rounds of the honest federation, as in history.csv.
    seconds : dict of str to float
    """

    central: pd.DataFrame
    federated: pd.DataFrame
    local: pd.DataFrame
    table1: pd.DataFrame
    nearest: pd.DataFrame
    scan: pd.DataFrame
    removal: pd.DataFrame
    retraining: pd.DataFrame
    retrained_attack_success: float | None
    history: pd.DataFrame
    seconds: dict[str, float]


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
    federation = make_federation(config)
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
    central = _central(federation)
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
        snapshots.append(
            Snapshot(
                parameters,
                ledger.contributions.copy(),
                tuple(ledger.local[k] for k in ids),
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


def remove(
    state: Snapshot, form: str, client_id: int, scales: dict[int, float]
) -> Vector:
    """Return the model without a client, in one of `FORMS`."""
    if form == "update":
        return state.without_update(client_id)
    if form == "parameters":
        return state.without_parameters(client_id, state.weights[client_id])
    return state.without_parameters(client_id, scales[client_id])


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


def _central(federation: "Federation") -> pd.DataFrame:
    """Train one model on all clients' training images together (Fig 2)."""
    config, data = federation.config, federation.dataset
    splits = partition_by_writer(
        data.writers,
        clients=config.clients,
        seed=config.seed,
        split_writers=config.data.split_writers,
    )
    index = np.concatenate([split.train for split in splits])
    images, labels = data.images[index], data.labels[index]
    model = build_mlp(data.input_size, config.model.hidden, data.num_classes)
    set_parameters(model, unflatten(federation.initial, federation.shapes))
    rows: list[dict[str, float]] = []
    epochs = config.rounds * config.client.local_epochs

    def after_epoch(epoch: int) -> None:
        # As many epochs as the federation trains; one row for each of its rounds.
        if epoch % config.client.local_epochs:
            return
        train = evaluate(model, images, labels, scaling=data.scaling)
        test = federation.test.measure(flatten(get_parameters(model)))
        number = epoch // config.client.local_epochs
        rows.append(
            {
                "epoch": number,
                "train_accuracy": train.accuracy,
                "train_loss": train.loss,
                "accuracy": test.accuracy,
                "loss": test.loss,
            }
        )
        federation.progress.round(
            "central", number, config.rounds, accuracy=test.accuracy, loss=test.loss
        )

    started = time.perf_counter()
    train_epochs(
        model,
        images,
        labels,
        scaling=data.scaling,
        settings=replace(config.client, local_epochs=epochs),
        generator=torch_generator(config.seed, "central"),
        after_epoch=after_epoch,
    )
    spent = time.perf_counter() - started
    table = pd.DataFrame(rows)
    table.attrs["seconds"] = spent
    return table


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
    attack = AttackSettings(
        "backdoor",
        (attacker,),
        config.attack.fraction,
        config.attack.target,
        config.attack.trigger_size,
    )
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
