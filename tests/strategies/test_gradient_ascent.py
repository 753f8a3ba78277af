"""Projected gradient ascent: the client's steps, and what the server believes."""

from dataclasses import replace

import numpy as np
import pytest

from builders.federations import Answer, Behaviour, Bench, small_config
from builders.networks import initial_parameters
from fedneg.clients.ascent import AscentClient
from fedneg.clients.trainer import TrainingClient
from fedneg.core.assignment import Assignment
from fedneg.core.errors import FedNegError
from fedneg.core.parameters import NDArrays, flatten
from fedneg.data.kinds import DIGITS
from fedneg.strategies.hooks import NO_HOOKS, Hooks
from reference import gradient

SETTINGS = {
    "radius": 1e6,
    "epochs": 1,
    "learning-rate": 0.25,
    "momentum": 0.9,
    "batch-size": 10_000,
    "clip": 1e6,
    "stop-accuracy": 0.0,
}

# -- the client -----------------------------------------------------------------------


def ascended(
    *, good: bool = False, **changes: float
) -> tuple[list[np.ndarray], list[np.ndarray], dict]:
    """Return parameters before and after an ascent of client 1, and its metrics.

    From the initial parameters, or from what the client has made of them (`good`).
    """
    config = small_config("clients=4", "forget=1", "attack=backdoor")
    client = AscentClient(1, Assignment.of(config, root=None), 3)
    start = initial_parameters(64, config.model.hidden, 10, seed=0)
    if good:
        for _ in range(5):
            start = TrainingClient.fit(client, start, {})[0]
    settings = SETTINGS | {k.replace("_", "-"): v for k, v in changes.items()}
    after, count, metrics = client.fit(start, settings)
    assert count == len(client.split.train)
    return start, after, metrics


def slope() -> list[np.ndarray]:
    """Return the gradient of what client 1 trains on, poison included."""
    config = small_config("clients=4", "forget=1", "attack=backdoor")
    client = AscentClient(1, Assignment.of(config, root=None))
    images, labels = client.training_data().arrays()
    scaling = DIGITS.scaling
    rows = (images.reshape(len(images), -1) - scaling.mean) / scaling.std
    start = initial_parameters(64, config.model.hidden, 10, seed=0)
    return gradient(start, rows, labels)


def test_one_step_climbs_the_gradient():
    start, after, metrics = ascended()
    for w, a, g in zip(start, after, slope(), strict=True):
        np.testing.assert_allclose(a, w + 0.25 * g, atol=1e-6)
    assert metrics["steps"] == 1
    away = np.linalg.norm(flatten(after) - flatten(start))
    assert metrics["distance"] == pytest.approx(away, rel=1e-5)


def test_a_long_gradient_is_clipped():
    _, _, metrics = ascended(clip=0.5)
    assert metrics["distance"] == pytest.approx(0.25 * 0.5, rel=1e-4)


def test_the_ball_binds_by_distance_not_by_its_square():
    """Whichever side of 1 the radius lies on, the last step ends on the sphere."""
    _, _, free = ascended(epochs=4)
    radius = 0.9 * float(free["distance"])
    start, after, metrics = ascended(epochs=4, radius=radius)
    assert metrics["steps"] == 4
    assert metrics["distance"] == pytest.approx(radius, rel=1e-4)
    assert np.linalg.norm(flatten(after) - flatten(start)) <= radius * (1 + 1e-4)


def test_within_the_ball_nothing_is_projected():
    """Also where the square of the distance would be outside."""
    _, free, metrics = ascended(epochs=4)
    assert metrics["distance"] > 2
    _, after, _ = ascended(epochs=4, radius=1.01 * float(metrics["distance"]))
    assert flatten(after).tobytes() == flatten(free).tobytes()


def test_it_stops_as_soon_as_its_validation_accuracy_is_low():
    start, after, metrics = ascended(stop_accuracy=1.0, epochs=3)
    assert metrics["steps"] == 0
    assert flatten(start).tobytes() == flatten(after).tobytes()
    _, _, some = ascended(stop_accuracy=0.5, epochs=200, learning_rate=0.01, good=True)
    assert 0 < some["steps"] < 200
    assert some["val_accuracy"] < 0.5


# -- the server -----------------------------------------------------------------------


def moves(num_examples: int, *steps: list[float]) -> Behaviour:
    """Return a client that adds its next step at each call."""
    calls = iter(steps)

    def train(arrays: NDArrays, server_round: int) -> Answer:
        return [arrays[0] + np.array(next(calls), np.float32)], num_examples

    return train


def by_hand(
    forget: str,
    one: list[float],
    three: list[float],
    *options: str,
    hooks: Hooks = NO_HOOKS,
) -> Bench:
    """Return four clients after a round, of whom 1 and 3 will answer so.

    Local models from [0, 0]: [4, 0], [9, 9], [0, 8] and [5, 5]; examples 1, 2, 3 and 2.
    """
    config = small_config(
        *("clients=4", f"forget={forget}", "strategy=gradient_ascent"),
        *("strategy.radius=5", *options),
    )
    behaviours = {
        0: moves(1, [4, 0]),
        1: moves(2, [9, 9], one),
        2: moves(3, [0, 8]),
        3: moves(2, [5, 5], three),
    }
    made = Bench(config, [np.zeros(2, np.float32)], behaviours, hooks=hooks)
    made.train(1)
    made.grid.sent.clear()
    return made


def test_it_starts_from_the_average_of_the_others_by_hand():
    """Without 1 and 3: (1 * [4, 0] + 3 * [0, 8]) / 4 = [1, 6]; then [3, 4], [0, -1]."""
    made = by_hand("[1,3]", [3, 4], [0, -1])
    made.unlearn(1, 3)
    assert [m.tolist() for m in made.after[1:]] == [[4, 10], [4, 9]]
    assert made.grid.asked("train") == [1, 3]
    ledger = made.strategy.ledger
    assert not ledger.contributions[[1, 3]].any()
    assert ledger.rebuilt().tolist() == [4, 9]
    assert set(ledger.local) == {0, 2}
    assert len(ledger.participation) == 1
    report = made.strategy.method_report["ascents"]
    assert {k: found["kept"] for k, found in report.items()} == {"1": True, "3": True}


def test_alone_it_starts_from_the_average_of_all_others():
    """([4, 0] + 3 * [0, 8] + 2 * [5, 5]) / 6 = [14, 34] / 6."""
    made = by_hand("1", [0, 0], [0, 0])
    np.testing.assert_allclose(made.unlearn(1), [14 / 6, 34 / 6], rtol=1e-6)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ([3, 4.1], "left the ball of radius 5"),
        ([float("nan"), 0], "not finite"),
        ([float("inf"), 0], "not finite"),
    ],
)
def test_what_is_outside_of_the_ball_is_refused_and_the_next_goes_on(
    step: list[float], said: str
):
    made = by_hand("[1,3]", step, [0, -1])
    made.unlearn(1, 3)
    assert [m.tolist() for m in made.after[1:]] == [[1, 6], [1, 5]]
    assert made.strategy.ledger.rebuilt().tolist() == [1, 5]
    assert [(k, said in why) for _, k, why in made.failures()] == [(1, True)]
    assert made.strategy.method_report["ascents"]["1"]["kept"] is False


def test_what_fails_the_gate_is_refused():
    """The gate is asked about the very models before and after."""
    seen = []

    def accept(before: np.ndarray, after: np.ndarray) -> bool:
        seen.append((after - before).tolist())
        return False

    made = by_hand("1", [3, 4], [0, 0], hooks=Hooks(accept=accept))
    np.testing.assert_allclose(made.unlearn(1), [14 / 6, 34 / 6], rtol=1e-6)
    np.testing.assert_allclose(seen, [[3, 4]], rtol=1e-6)
    assert "failed the gate" in made.failures()[0][2]
    assert made.strategy.method_report["ascents"] == {"1": {"kept": False}}


def test_what_two_ascents_cost_is_measured_from_where_the_first_began():
    seen = []

    def accept(before: np.ndarray, after: np.ndarray) -> bool:
        seen.append((before.tolist(), after.tolist()))
        return True

    made = by_hand("[1,3]", [3, 4], [0, -1], hooks=Hooks(accept=accept))
    made.unlearn(1, 3)
    assert seen == [([1, 6], [4, 10]), ([1, 6], [4, 9])]


def test_more_clients_than_rounds_are_refused():
    made = by_hand("1", [0, 0], [0, 0])
    with pytest.raises(FedNegError, match="one client a round"):
        made.unlearn(1, 3)


def real(forget: str, *options: str) -> Bench:
    """Return real clients on the digits, trained for two rounds."""
    config = small_config(
        *("clients=4", f"forget={forget}", "strategy=gradient_ascent", *options)
    )
    assignment = Assignment.of(config, root=None).to_json()
    arrays = initial_parameters(64, config.model.hidden, 10, seed=config.seed)
    made = Bench(config, arrays, assignment=assignment)
    made.train(2)
    return made


def test_the_papers_radius_is_a_third_of_a_mean_distance():
    made = real("1")
    made.unlearn(1)
    reference = flatten(
        [
            sum(w * m for w, m in zip(made_weights(made), models, strict=True))
            for models in [[made.strategy.ledger.local[k] for k in (0, 2, 3)]]
        ]
    )
    distances = [
        np.linalg.norm(
            reference - flatten(initial_parameters(64, (16,), 10, seed=0, draw=draw))
        )
        for draw in range(1, 11)
    ]
    radius = made.strategy.method_report["radius"]
    assert radius == pytest.approx(np.mean(distances) / 3, rel=1e-5)


def made_weights(made: Bench) -> list[float]:
    """Return the remaining clients' weights in the last round, to sum to 1."""
    weights = made.strategy.ledger.participation[-1].weights
    total = sum(weights[k] for k in (0, 2, 3))
    return [weights[k] / total for k in (0, 2, 3)]


def test_real_clients_climb_through_flowers_messages():
    made = real("[1,3]", "strategy.epochs=1")
    made.grid.sent.clear()
    made.unlearn(1, 3)
    assert made.failures() == []
    assert made.grid.asked("train") == [1, 3]
    ascents = made.strategy.method_report["ascents"]
    assert all(found["kept"] and found["steps"] > 0 for found in ascents.values())
    np.testing.assert_allclose(made.strategy.ledger.rebuilt(), made.model, atol=1e-6)


def test_a_client_names_a_role_that_it_does_not_know():
    made = real("1")
    settings = made.strategy.unlearn_settings
    made.strategy.unlearn_settings = lambda number: settings(number) | {"role": "fly"}
    made.unlearn(1)
    assert (
        "asks for 'fly', and this client knows train, ascent" in made.failures()[0][2]
    )


def test_options_are_checked():
    for option, said in (
        ("radius=0", "greater than 0"),
        ("epochs=0", "at least 1"),
        ("stop_accuracy=2", "at most 1"),
        ("clip=0", "greater than 0"),
    ):
        with pytest.raises(FedNegError, match=said):
            small_config("strategy=gradient_ascent", f"strategy.{option}")


def test_there_is_a_round_for_each_client_that_leaves():
    config = small_config("strategy=gradient_ascent", "clients=4", "forget=[1,3]")
    made = Bench(config, [np.zeros(2, np.float32)], {})
    assert made.strategy.unlearn_rounds(config) == 2
    assert made.strategy.unlearn_rounds(replace(config, forget=())) == 1
