"""The compensated negative gradient, by hand: units, signs, several clients."""

import json
from pathlib import Path

import numpy as np
import pytest

from builders.federations import Answer, Bench, RecordingGrid, small_config
from builders.networks import initial_parameters, prototype_of
from fedneg.client_app import ROLES
from fedneg.client_app import app as real_clients
from fedneg.clients.trainer import TrainingClient
from fedneg.core.assignment import Assignment
from fedneg.core.errors import FedNegError
from fedneg.core.parameters import NDArrays, flatten
from fedneg.evaluation.evidence import ServerTest
from fedneg.server_app import run
from fedneg.strategies import compensated
from fedneg.strategies.compensated import layers_of, shares_left, units_of

SHAPES = ((2, 2), (2,), (1, 2), (1,))
ZERO = ([[0, 0], [0, 0]], [0, 0], [[0, 0]], [0])


def bench(*updates: object, examples: tuple[int, ...], options: tuple[str, ...] = ()):
    """Return a federation after one round in which client k added updates[k]."""

    def adds(k: int):  # noqa: ANN202
        def train(arrays: NDArrays, server_round: int) -> Answer:
            step = [np.array(u, np.float32) for u in updates[k]]
            return [a + u for a, u in zip(arrays, step, strict=True)], examples[k]

        return train

    config = small_config(
        *(f"clients={len(updates)}", "forget=null", "strategy=compensated"),
        *("strategy.chance=0", *options),
    )
    initial = [np.full(np.shape(u), 3, np.float32) for u in updates[0]]
    made = Bench(config, initial, {k: adds(k) for k in range(len(updates))})
    made.train(1)
    return made


def vector(*numbers: float) -> tuple[list[float]]:
    """Return a model of one array."""
    return ([*numbers],)


@pytest.mark.parametrize(
    ("others", "expected", "scale"),
    [
        # C = 1/4 * [8, 0] = [2, 0]; O = 3/4 * others.
        ((-2, 4), (3 - 1.5 + 2 - 0.5, 6), 0.25),  # O = [-1.5, 3]: b = -3/4
        ((0, 4), (3, 6), 1),  # orthogonal: nothing was undone
        ((4, 4), (6, 6), 1),  # aligned: the same way on their own data
        ((-8, 4), (-1, 6), 0),  # O = [-6, 3]: b = -3, undone thrice
    ],
)
def test_only_what_the_others_have_not_undone_is_subtracted(
    others: tuple[float, float], expected: tuple[float, float], scale: float
):
    """From [3, 3] + C + O, clip(1 + b, 0, 1) times C is subtracted."""
    made = bench(vector(8, 0), vector(*others), examples=(1, 3))
    assert made.unlearn(0).tolist() == list(expected)
    report = made.strategy.method_report
    assert report["scales"] == [{"min": scale, "mean": scale, "max": scale}]
    assert report["subtracted_share"] == scale**2
    ledger = made.strategy.ledger
    np.testing.assert_allclose(ledger.rebuilt(), made.model)
    assert ledger.correction.tolist() == [2 * (1 - scale), 0]


LEAVES = ([[4, 0], [0, 4]], [0, 8], [[4, 4]], [0])
OTHERS = ([[-4, 2], [2, 4]], [9, -2], [[-1, -1]], [5])


@pytest.mark.parametrize(
    ("unit", "scales"),
    [
        # Equal weights. <O, C> and |C|^2, times 4:
        # neuron 0: -16, 16; neuron 1: 16 - 16 = 0, 80; neuron 2: -8, 32.
        ("neuron", [0, 0, 1, 1, 0, 1, 0.75, 0.75, 0.75]),
        # layer 0: -16, 96; layer 1: -8, 32.
        ("layer", [1 - 16 / 96] * 6 + [0.75] * 3),
        # -24, 128.
        ("model", [1 - 24 / 128] * 9),
    ],
)
def test_each_unit_has_a_scale_of_its_own(unit: str, scales: list[float]):
    made = bench(LEAVES, OTHERS, examples=(2, 2), options=(f"strategy.unit={unit}",))
    before = made.model.copy()
    half = flatten([np.array(u, np.float32) for u in LEAVES]) / 2
    np.testing.assert_allclose(
        made.unlearn(0), before - np.array(scales) * half, rtol=1e-6
    )
    report = made.strategy.method_report
    assert report["unit"] == unit
    for layer, part in zip(report["scales"], (slice(0, 6), slice(6, 9)), strict=True):
        assert layer["min"] == pytest.approx(min(scales[part]))
        assert layer["max"] == pytest.approx(max(scales[part]))
    first = {"neuron": 0.5, "layer": 5 / 6, "model": 1 - 24 / 128}[unit]
    assert report["scales"][0]["mean"] == pytest.approx(first)


def test_units_of_a_network_are_rows_with_their_bias():
    assert layers_of(SHAPES) == [[(2, 2), (2,)], [(1, 2), (1,)]]
    assert units_of(SHAPES, "neuron").tolist() == [0, 0, 1, 1, 0, 1, 2, 2, 2]
    assert units_of(SHAPES, "layer").tolist() == [0] * 6 + [1] * 3
    assert units_of(SHAPES, "model").tolist() == [0] * 9
    # A vector with another size, or after a bias, is nobody's bias.
    odd = ((2, 1), (3,), (2, 1), (2,), (2,))
    assert units_of(odd, "neuron").tolist() == [0, 1, 2, 2, 2, 3, 4, 3, 4, 5, 5]
    assert units_of(odd, "layer").tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 2, 3, 3]


def test_several_clients_are_one_contribution():
    """C = [2, 1] + [-2, 1] = [0, 2], O = [6, -1]: b = -1/2, and w' = w - [0, 1].

    One by one, client 0's first number would count as undone by client 1.
    """
    made = bench(vector(8, 4), vector(-8, 4), vector(12, -2), examples=(1, 1, 2))
    assert made.model.tolist() == [9, 4]
    assert made.unlearn(0, 1).tolist() == [9, 3]
    assert not made.strategy.ledger.contributions[:2].any()


def test_what_was_forgotten_before_is_nobodys_compensation():
    """As the first case above, with a correction that lies against C."""
    made = bench(vector(8, 0), vector(-2, 4), vector(-60, 0), examples=(1, 3, 4))
    ledger = made.strategy.ledger
    before = made.model
    # Client 2 goes, and by some method all that it did stays: a pure correction.
    ledger.forget((2,), before=before, after=before)
    assert ledger.correction.tolist() == [-30, 0]
    # C = [1, 0], O = [-0.75, 1.5]: 1/4 of C is subtracted.
    assert made.unlearn(0).tolist() == (before - [0.25, 0]).tolist()


def test_a_client_without_contribution_leaves_the_very_bytes():
    made = bench(vector(0.1, 0.7), vector(0, 0), examples=(1, 3))
    before = made.model.tobytes()
    assert made.unlearn(1).tobytes() == before
    assert made.strategy.method_report["subtracted_share"] == 1


def test_shares_agree_with_a_loop_over_units():
    rng = np.random.default_rng(0)
    shapes = ((5, 7), (5,), (3, 5), (3,))
    contribution, others = rng.normal(size=(2, 35 + 5 + 15 + 3))
    units = units_of(shapes, "neuron")
    found = shares_left(contribution, others, units, 0.0)
    assert len(found) == 8
    for unit in range(8):
        c, o = contribution[units == unit], others[units == unit]
        best = np.linalg.lstsq(c[:, None], o, rcond=None)[0][0]
        assert found[unit] == pytest.approx(min(1, max(0, 1 + min(0, best))))


@pytest.mark.parametrize(
    ("chance", "scale"), [(0, 0.25), (0.25, 0.45), (0.5, 0.65), (2, 1)]
)
def test_what_chance_gives_does_not_count(chance: float, scale: float):
    """By hand: b = -3/4, and |O| = 8, so |O| / (|C| sqrt(4)) = 0.8."""
    contribution = np.array([5.0, 0, 0, 0])
    others = np.array([-3.75, 3, 4.5, 20.6875**0.5])
    found = shares_left(contribution, others, np.zeros(4, int), chance)
    assert found == pytest.approx([scale])


def test_chance_reaches_the_unlearn_round():
    """As [8, 0] and [-2, 4] above: b = -3/4, |O| / (|C| sqrt(2)) = sqrt(11.25 / 8)."""
    made = bench(
        vector(8, 0),
        vector(-2, 4),
        examples=(1, 3),
        options=("strategy.chance=0.2",),
    )
    scale = 1 - (0.75 - 0.2 * (11.25 / 8) ** 0.5)
    np.testing.assert_allclose(made.unlearn(0), [3.5 - 2 * scale, 6], rtol=1e-6)
    assert made.strategy.method_report["chance"] == 0.2


def test_chance_must_not_be_negative():
    with pytest.raises(
        FedNegError, match=r"strategy\.chance must be at least 0, got -1"
    ):
        small_config("strategy=compensated", "strategy.chance=-1")


def test_the_unit_must_be_known():
    with pytest.raises(
        FedNegError, match=r"strategy\.unit must be one of model, layer"
    ):
        small_config("strategy=compensated", "strategy.unit=row")


@pytest.mark.parametrize(
    ("attacker", "after", "told"), [(-8, 3, False), (-4, 3, True), (-2, 4, True)]
)
def test_who_sends_the_opposite_of_the_others_stays_and_is_seen_to(
    attacker: float, after: float, told: bool
):
    """From 3, equal weights, O = 2. C = -4: b = -1/2, w = 1 and half of C goes.

    C = -2: b = -1, w = 3; C = -1: b = -2, w = 4; nothing goes. Rightly it is 5.
    """
    made = bench(vector(attacker), vector(4), examples=(1, 1))
    assert made.unlearn(0).tolist() == [after]
    report = made.strategy.method_report
    scale = 0.5 if attacker == -8 else 0
    assert report["scales"] == [{"min": scale, "mean": scale, "max": scale}]
    assert ("notice" in report) == told
    if told:
        assert "little of client 0 (0.00 of its contribution's" in report["notice"]


def attack_success_after(pull: float, *options: str) -> tuple[float, Bench]:
    """Return the attack success that is left of a backdoor, and who forgot it.

    Client 4 plants it, and takes `pull` times (global - initial) off what it sends: of
    the others it knows no more than the models that the server sent.
    """
    config = small_config(
        *("attack=backdoor", "model.hidden=[32]", "rounds=10", "seed=1", *options)
    )
    initial = initial_parameters(64, config.model.hidden, 10, seed=config.seed)

    class Pulls(TrainingClient):
        def fit(self, parameters, config):  # noqa: ANN001, ANN202
            local, count, metrics = super().fit(parameters, config)
            if self.client_id == 4:
                parts = zip(local, parameters, initial, strict=True)
                local = [a - np.float32(pull) * (w - w0) for a, w, w0 in parts]
            return local, count, metrics

    made = Bench(config, initial, assignment=Assignment.of(config, root=None).to_json())
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ROLES, "train", Pulls)
        made.train(config.rounds)
    assert not made.failures(), "it was caught"
    test = ServerTest(prototype_of(config), config.attack)
    success = test.attack_success_rate(made.unlearn(4))
    assert success is not None
    return success, made


@pytest.mark.parametrize(
    ("pull", "least", "most", "told"),
    [(0, 0, 0.1, False), (0.5, 0.15, 0.5, True), (1, 0.6, 1, True)],
)
def test_who_pulls_against_the_others_keeps_its_backdoor_in(
    pull: float, least: float, most: float, told: bool
):
    """Measured: 0.00, 0.27 and 0.78 stay of 0.99, 0.97 and 0.89; else always 0.00."""
    success, made = attack_success_after(pull, "strategy=compensated")
    assert least <= success <= most
    assert ("notice" in made.strategy.method_report) == told
    success, _ = attack_success_after(pull, "strategy=negative_gradient")
    assert success < 0.1


def test_the_main_job_shows_the_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With a limit that every forgetting is below."""
    monkeypatch.setattr(compensated, "LITTLE", 2)
    config = small_config(
        "clients=3", "forget=1", "strategy=compensated", "reference=false"
    )
    run(RecordingGrid(real_clients, 3), config, tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["notices"] == [results["method"]["notice"]]
    assert results["notices"][0].startswith("compensated subtracted little of")
