"""FedEraser: by hand, both storages alike, and what the ledger keeps for it."""

import json

import numpy as np
import pytest

from builders.federations import Answer, Behaviour, Bench, small_config
from builders.networks import initial_parameters
from fedneg.core.assignment import Assignment
from fedneg.core.errors import FedNegError
from fedneg.core.parameters import NDArrays
from fedneg.ledger.ledger import Ledger
from fedneg.ledger.rows import KeptUpdates
from fedneg.strategies import make_strategy
from fedneg.strategies.federaser import rescaled

FOUR = ("clients=4", "rounds=3", "client.local_epochs=3", "strategy=federaser")


def real(*overrides: str) -> Bench:
    """Return real clients on the digits that have trained three rounds."""
    config = small_config(*FOUR, "forget=null", *overrides)
    assignment = Assignment.of(config, root=None).to_json()
    arrays = initial_parameters(64, config.model.hidden, 10, seed=config.seed)
    made = Bench(config, arrays, assignment=assignment)
    made.train(3)
    return made


def by_hand() -> tuple[Bench, list[tuple[int, int]]]:
    """Return three clients and who was told which round; rounds 1 and 3 are retained.

    Steps of client 0 (one example) and 2 (three examples), training then rebuilding:

    =====  ===========  ===========  ==========  =========  ==========
    call   1            2            3           4          5
    =====  ===========  ===========  ==========  =========  ==========
    0      [4, 0], [1]  [9, 9], [9]  [0, 6] [2]  as call 1  [3, 0] [-5]
    2      [0, 4], [1]  [9, 9], [9]  [8, 0] [0]  as call 1  [0, 2] [7]
    =====  ===========  ===========  ==========  =========  ==========
    """
    told: list[tuple[int, int]] = []

    def steps(client_id: int, count: int, *given: list[list[float]]) -> Behaviour:
        calls = iter(given)

        def train(arrays: NDArrays, server_round: int) -> Answer:
            told.append((client_id, server_round))
            step = [np.array(s, np.float32) for s in next(calls)]
            return [a + s for a, s in zip(arrays, step, strict=True)], count

        return train

    nine: list[list[float]] = [[9, 9], [9]]
    behaviours = {
        0: steps(
            0, 1, [[4, 0], [1]], nine, [[0, 6], [2]], [[4, 0], [1]], [[3, 0], [-5]]
        ),
        1: steps(1, 5, nine, nine, nine),
        2: steps(
            2, 3, [[0, 4], [1]], nine, [[8, 0], [0]], [[0, 4], [1]], [[0, 2], [7]]
        ),
    }
    config = small_config("clients=3", "rounds=3", "strategy=federaser", "forget=null")
    assignment = Assignment.of(config, root=None).to_json()
    initial = [np.zeros(2, np.float32), np.zeros(1, np.float32)]
    made = Bench(config, initial, behaviours, assignment)
    made.train(3)
    return made, told


def test_two_retained_rounds_are_rebuilt_by_hand():
    """Weights 1/4 and 3/4. First ([4, 0] + 3 [0, 4]) / 4 = [1, 3] and [1].

    Then directions [3, 0], [-5] get lengths 6, 2, and [0, 2], [7] get 8, 0:
    ([6, 0] + 3 [0, 8]) / 4 = [1.5, 6] and [-2] / 4 = [-0.5] are added.
    """
    made, told = by_hand()
    del told[:]
    assert made.unlearn(1).tolist() == [2.5, 9, 0.5]
    assert made.after[3].tolist() == [1, 3, 1]
    assert told == [(0, 1), (2, 1), (0, 3), (2, 3)]
    ledger = made.strategy.ledger
    assert ledger.rebuilt().tolist() == [2.5, 9, 0.5]
    assert ledger.contributions.tolist() == [[2.5, 0, -0.25], [0] * 3, [0, 9, 0.75]]
    assert not ledger.correction.any()
    assert made.strategy.method_report["retained_rounds"] == [1, 3]
    # What is forgotten next is rebuilt from the lengths that count now.
    assert ledger.participation[1].norms == {0: (6, 2), 2: (8, 0)}


@pytest.mark.parametrize("forget", [(1,), (0, 3)])
@pytest.mark.parametrize("options", [(), ("strategy.client_fraction=0.75",)])
def test_norms_and_whole_updates_give_the_same_model(
    forget: tuple[int, ...], options: tuple[str, ...]
):
    """Three numbers for each client and retained round in place of 1,210."""
    few, all_of_it = real(*options), real("strategy.storage=updates", *options)
    assert few.model.tobytes() == all_of_it.model.tobytes()
    before = few.model
    few.grid.sent.clear()
    all_of_it.grid.sent.clear()
    np.testing.assert_allclose(
        few.unlearn(*forget), all_of_it.unlearn(*forget), rtol=0, atol=1e-5
    )
    assert np.abs(few.model - before).max() > 0.01
    asked = few.grid.asked("train")
    # The first rebuilt round needs nobody if its updates are there.
    later = all_of_it.grid.asked("train")
    assert 0 < len(later) < len(asked)
    assert later == asked[-len(later) :]
    assert not set(asked) & set(forget)
    for made in (few, all_of_it):
        np.testing.assert_allclose(
            made.strategy.ledger.rebuilt(), made.model, atol=1e-6
        )
        assert made.strategy.reports[-1].phase == "unlearn"
        assert len(made.strategy.reports) == 5
    assert few.strategy.ledger.num_bytes * 2 < all_of_it.strategy.ledger.num_bytes


def test_calibration_takes_a_share_of_the_epochs_rounded_up():
    """Half of three epochs is two; the first rebuilt round has all three."""
    made = real()
    made.strategy.begin(made.strategy.phase, [1])
    made.strategy.rectify(made.model, (1,))
    found = [made.strategy.unlearn_settings(n)["assignment"] for n in (1, 2)]
    epochs = [Assignment.from_json(str(text)).client.local_epochs for text in found]
    assert epochs == [3, 2]
    assert made.strategy.method_report["calibration_epochs"] == 2


def test_rescaling_keeps_directions_and_leaves_nothing_as_nothing():
    vector = np.array([3, 4, 0, 0, 2], np.float32)
    found = rescaled(vector, (10, 7, 0), ((2,), (2,), (1,)))
    assert found.tolist() == [6, 8, 0, 0, 0]


def test_a_training_serves_norms_and_every_other_method_but_not_updates():
    def identity(*overrides: str) -> object:
        return make_strategy(small_config(*overrides), "").training_identity()

    plain = identity("strategy=negative_gradient")
    assert identity("strategy=federaser") == plain
    assert identity("strategy=federaser", "strategy.interval=3") == plain
    whole = identity("strategy=federaser", "strategy.storage=updates")
    assert whole != plain
    other = ("strategy.storage=updates", "strategy.interval=3")
    assert identity("strategy=federaser", *other) != whole


def kept_ledger() -> Ledger:
    """Return a ledger of two clients that keeps the updates of rounds 1 and 3."""
    rows = np.zeros((4, 2), np.float32)
    return Ledger(np.zeros(2, np.float32), clients=2, updates=KeptUpdates(2, rows))


def test_kept_updates_and_norms_survive_a_checkpoint_and_go_with_their_client():
    ledger, model = kept_ledger(), np.zeros(2, np.float32)
    for number, step in enumerate(([1, 2], [3, 4], [5, 6], [7, 8], [9, 9]), start=1):
        # Rounds after the third retained one find no room, and are not kept.
        move = np.array(step, np.float32)
        local = {0: model + move, 1: model - 2 * move}
        norms = {0: (float(number),), 1: (2.0 * number,)}
        model = ledger.record(number, model, local, {0: 1, 1: 3}, norms)
    kept = [[1, 2], [-2, -4], [5, 6], [-10, -12]]
    assert ledger.arrays()["updates"].tolist() == kept
    other = kept_ledger()
    for name, rows in other.arrays().items():
        rows[...] = ledger.arrays()[name]
    other.restore_facts(json.loads(json.dumps(ledger.facts())))
    assert other.participation == ledger.participation
    assert other.participation[2].norms == {0: (3,), 1: (6,)}
    other.forget((1,), before=model, after=model)
    assert other.arrays()["updates"].tolist() == [[1, 2], [0, 0], [5, 6], [0, 0]]
    assert [list(entry.norms) for entry in other.participation] == [[0]] * 5
    other.start_over(model)
    assert not other.updates.rows.any()
    assert other.rebuilt().tobytes() == model.tobytes()


def test_a_ledger_from_before_norms_is_refused_by_name():
    made = real()
    facts = made.strategy.ledger.facts()
    facts["participation"] = [entry[:2] for entry in facts["participation"]]
    made.strategy.ledger.restore_facts(facts)
    with pytest.raises(FedNegError, match=r"norms of the updates of round 1.*client 0"):
        made.unlearn(1)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("strategy.interval=0", r"strategy\.interval must be at least 1"),
        ("strategy.calibration=0", r"strategy\.calibration must be greater than 0"),
        ("strategy.storage=all", r"strategy\.storage must be one of norms, updates"),
    ],
)
def test_options_are_checked(override: str, said: str):
    with pytest.raises(FedNegError, match=said):
        small_config("strategy=federaser", override)


def test_a_state_folder_takes_no_whole_updates(tmp_path):  # noqa: ANN001
    with pytest.raises(FedNegError, match=r"storage=updates cannot have state=DIR"):
        small_config(
            "strategy=federaser", "strategy.storage=updates", f"state={tmp_path / 's'}"
        )
