"""What forgetting costs: one unlearn round, and retraining to the same accuracy."""

import statistics
import time
from collections.abc import Sequence

from benchmarks.epochs import configured, in_federation
from benchmarks.material import Material
from fedneg.core.parameters import Vector, unflatten
from fedneg.federation import Federation
from fedneg.strategies.phases import Phase

FORGOTTEN_ONE_BY_ONE = 3


def unlearn_seconds(material: Material, clients: int) -> float:
    """Return the seconds of an unlearn round of a federation of so many clients.

    After one real round of training with everybody, three clients are forgotten one
    after the other, each in an unlearn phase of its own; the median counts. The
    server's test of the model after it is left out.
    """
    config = configured(material, "engine=inline", f"clients={clients}", "rounds=1")
    found: list[float] = []

    def job(federation: Federation) -> None:
        strategy = federation.strategy
        everybody = Phase("train", tuple(range(clients)), 1)
        model = strategy.run_phase(federation.grid, everybody, federation.initial)
        for k in range(min(FORGOTTEN_ONE_BY_ONE, clients - 1)):
            model = federation.unlearn(model, (k,))
            found.append(float(str(federation.history[-1]["seconds"])))

    in_federation(config, job)
    return statistics.median(found)


def to_equal_accuracy(material: Material, seed: int) -> dict[str, float]:
    """Return what retraining takes to the accuracy of unlearning and two more rounds.

    Returns
    -------
    dict
        ``repaired`` and ``retrained`` (seconds, without the server's tests), ``rounds``
        of the retraining, ``accuracy`` of the repaired model, and ``reached``: 0 where
        the retraining was given up before it got there.
    """
    sizes = material.sizes
    config = configured(
        material,
        f"clients={sizes.few}",
        f"rounds={sizes.rounds}",
        f"forget={sizes.few - 1}",
        f"seed={seed}",
    )
    found: dict[str, float] = {}

    def job(federation: Federation) -> None:
        model = federation.train()
        started = time.perf_counter()
        model = federation.unlearn(model, config.forget)
        model = federation.recover(model, config.remaining, 2)
        rows = federation.history[-3:]
        assert [row["phase"] for row in rows] == ["unlearn", "recover", "recover"]
        seconds = sum(float(str(row["seconds"])) for row in rows)
        assert seconds <= time.perf_counter() - started
        aim = federation.test.measure(model).accuracy
        found.update(accuracy=aim, repaired=seconds)
        found.update(_retrain(federation, config.remaining, aim, sizes.most_rounds))

    in_federation(config, job)
    return found


def _retrain(
    federation: Federation, clients: Sequence[int], aim: float, most_rounds: int
) -> dict[str, float]:
    """Train from the initial parameters until the test accuracy is `aim`.

    Round by round, which gives the bytes of one phase: plain FedAvg carries nothing
    but the parameters from a round to the next.
    """
    strategy, model = federation.strategy, federation.initial
    strategy.reset(unflatten(model, federation.shapes))
    seconds, rounds, accuracy = 0.0, 0, 0.0
    while accuracy < aim and rounds < most_rounds:
        rounds += 1
        started = time.perf_counter()
        model = _one_round(federation, model, tuple(clients), rounds)
        seconds += time.perf_counter() - started
        accuracy = federation.test.measure(model).accuracy
    return {
        "retrained": seconds,
        "rounds": float(rounds),
        "reached": float(accuracy >= aim),
    }


def _one_round(
    federation: Federation, model: Vector, clients: tuple[int, ...], number: int
) -> Vector:
    """Return the model after one more round of a retraining."""
    phase = Phase("retrain", clients, 1, first_round=number, first_stream=number)
    return federation.strategy.run_phase(federation.grid, phase, model)
