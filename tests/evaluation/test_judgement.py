"""A run's models measured alike, and judged: by hand, and on whole runs."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm
from torch import nn

from builders.federations import small_config
from builders.networks import initial_parameters, prototype_of
from fedneg.core.parameters import Vector, flatten
from fedneg.core.seeding import rng
from fedneg.core.settings import Config
from fedneg.data.datasets import load_dataset
from fedneg.data.kinds import DIGITS
from fedneg.engines.simulate import simulate
from fedneg.evaluation.client_answers import ClientAnswers
from fedneg.evaluation.evidence import KeptAnswers, ModelEvidence, ServerTest
from fedneg.evaluation.judgement import Judgement
from fedneg.evaluation.membership import MembershipInput, bootstrap
from fedneg.evaluation.relearn import RelearnTime
from fedneg.server_app import run
from fedneg.strategies.base import LedgerFedAvg
from fedneg.strategies.phases import Phase
from fedneg.tasks.images import Images
from fedneg.tasks.prototype import Prototype
from fedneg.tasks.training import Metrics

DATA = load_dataset("digits")


def said(
    members: list[float], unseen: list[float], *, accuracy: float = 0.5, **rest: Any
) -> ClientAnswers:
    """Return answers."""
    return ClientAnswers(
        members=np.array(members),
        unseen=np.array(unseen),
        as_trained_accuracy=accuracy,
        as_trained_loss=0.4,
        check_loss=rest.get("check_loss", 0.3),
        relearn=rest.get("relearn"),
    )


def parameters(draw: int) -> Vector:
    """Return untrained parameters."""
    return flatten(initial_parameters(64, (16,), 10, seed=0, draw=draw))


class AnsweringClients:
    """Answers by what was said of each model, and remembers what was asked."""

    def __init__(self) -> None:
        self.said: dict[bytes, Mapping[int, ClientAnswers]] = {}
        self.asked: list[Mapping[int, float] | None] = []

    def __call__(  # noqa: D102
        self, vector: Vector, targets: Mapping[int, float] | None
    ) -> Mapping[int, ClientAnswers]:
        self.asked.append(targets)
        return self.said.get(vector.tobytes(), {})


def judgement_of(
    asked_clients: AnsweringClients, *overrides: str, **fields: Any
) -> Judgement:
    """Return an empty judgement, of a task that is changed in some fields."""
    config = small_config("clients=3", "forget=[1,2]", *overrides)
    prototype = Prototype(replace(prototype_of(config).task, **fields))
    test = ServerTest(prototype, config.attack, seed=config.seed)
    return Judgement(config, test, asked_clients)


def evidence(name: str, accuracy: float = 0.9) -> ModelEvidence:
    """Return what a run measured of a model otherwise."""
    return ModelEvidence(name, Metrics(accuracy, 0.1, 10), None, {})


def full(asked_clients: AnsweringClients, *overrides: str) -> Judgement:
    """Return a judgement with an original, an unlearned and three retrained models."""
    made = judgement_of(asked_clients, *overrides)
    made.add("original", parameters(0), evidence("original"))
    made.add("unlearned", parameters(1), evidence("unlearned"))
    made.add("retrained", parameters(2), evidence("retrained"))
    made.add_trained_without({0: parameters(3)})
    made.add_trained_without({0: parameters(4)})
    return made


def test_membership_is_the_mean_over_clients_with_the_interval_of_a_mean():
    """Client 1: 1 above both of 0, .5, and -1 below: AUC 1/2. Client 2: AUC 1."""
    one, two = said([1.0, -1.0], [0.0, 0.5]), said([3.0, 4.0, 5.0], [1.0, 2.0])
    asked_clients = AnsweringClients()
    asked_clients.said[parameters(0).tobytes()] = {1: one, 2: two}
    found = full(asked_clients).to_json()["evidence"]["original"]
    assert found["membership_auc"]["value"] == pytest.approx(0.75)
    halves = []
    for k, t in ((1, one), (2, two)):
        interval = bootstrap(
            MembershipInput(t.members, t.unseen),
            lambda curve: curve.auc,
            rng(0, "bootstrap membership", 0, k),
        )
        halves.append((interval.value - interval.low, interval.high - interval.value))
    (below_1, above_1), (below_2, above_2) = halves
    low = 0.75 - (below_1**2 + below_2**2) ** 0.5 / 2
    high = min(1.0, 0.75 + (above_1**2 + above_2**2) ** 0.5 / 2)
    assert found["membership_auc"]["low"] == pytest.approx(low)
    assert found["membership_auc"]["high"] == pytest.approx(high)
    # Two or fewer unseen examples have no threshold at 1 % false positives.
    assert found["membership_tpr_at_fpr_1"] is None


def test_lira_takes_the_other_retrained_models_for_shadows():
    """Of retrained models each is left out of its own shadows, by digest."""
    values = {2: (1.0, 3.0), 3: (2.0, 1.0), 4: (6.0, 2.0)}
    asked_clients = AnsweringClients()
    for draw, (member, unseen) in values.items():
        asked_clients.said[parameters(draw).tobytes()] = {1: said([member], [unseen])}
    asked_clients.said[parameters(1).tobytes()] = {1: said([4.0], [2.5])}
    made = full(asked_clients)

    def score(observed: float, shadows: list[float], deviation: float) -> float:
        mean = float(np.mean(shadows))
        return float(-norm.logsf((observed - mean) / deviation))

    def auc(model: int, own: tuple[float, float]) -> float:
        others = [v for k, v in values.items() if k != model]
        scores = []
        for place in (0, 1):
            shadows = [v[place] for v in others]
            scores.append(score(own[place], shadows, float(np.std(shadows, ddof=1))))
        return float(scores[0] > scores[1])

    found = made.to_json()["evidence"]
    assert found["unlearned"]["lira_auc"]["value"] == auc(1, (4.0, 2.5))
    assert found["retrained"]["lira_auc"]["value"] == auc(2, values[2])


def test_lira_needs_two_other_retrained_models():
    asked_clients = AnsweringClients()
    for draw in range(4):
        asked_clients.said[parameters(draw).tobytes()] = {1: said([1.0, 2.0], [0.0])}
    made = judgement_of(asked_clients)
    made.add("original", parameters(0), evidence("original"))
    made.add("unlearned", parameters(1), evidence("unlearned"))
    made.add("retrained", parameters(2), evidence("retrained"))
    assert made.to_json()["evidence"]["unlearned"]["lira_auc"] is None
    made = judgement_of(asked_clients)
    made.add("original", parameters(0), evidence("original"))
    made.add("unlearned", parameters(1), evidence("unlearned"))
    made.add("retrained", parameters(2), evidence("retrained"))
    made.add_trained_without({0: parameters(3)})
    found = made.to_json()["evidence"]
    assert found["unlearned"]["lira_auc"] is not None
    assert found["retrained"]["lira_auc"] is None


def test_models_are_to_relearn_up_to_the_originals_loss():
    asked_clients = AnsweringClients()
    asked_clients.said[parameters(0).tobytes()] = {
        1: said([1.0], [0.0], check_loss=0.25),
        2: said([1.0], [0.0], check_loss=0.5),
    }
    times = {1: RelearnTime(20, True), 2: RelearnTime(35, False)}
    asked_clients.said[parameters(1).tobytes()] = {
        k: said([1.0], [0.0], relearn=time) for k, time in times.items()
    }
    made = full(asked_clients)
    assert asked_clients.asked[0] is None
    # References are compared with by their losses alone: they need not relearn.
    assert asked_clients.asked[1:] == [{1: 0.25, 2: 0.5}] * 2 + [None] * 2
    found = made.to_json()["evidence"]
    assert (found["original"]["relearn_batches"], found["unlearned"]) == (
        0,
        found["unlearned"] | {"relearn_batches": 55, "relearn_reached": False},
    )


def test_relearn_time_needs_every_client_that_answered():
    asked_clients = AnsweringClients()
    asked_clients.said[parameters(1).tobytes()] = {
        1: said([1.0], [0.0], relearn=RelearnTime(5, True)),
        2: said([1.0], [0.0]),
    }
    assert full(asked_clients).models["unlearned"].relearn is None


def test_without_a_cap_nobody_relearns():
    asked_clients = AnsweringClients()
    full(asked_clients, "verdict.relearn_cap=0")
    assert asked_clients.asked == [None] * 5


def test_without_a_reference_nobody_is_asked_and_nothing_is_decided():
    asked_clients = AnsweringClients()
    made = judgement_of(asked_clients, "reference=false")
    made.add("original", parameters(0), evidence("original"))
    made.add("unlearned", parameters(1), evidence("unlearned"))
    found = made.to_json()
    assert asked_clients.asked == []
    assert found["verdict"]["outcome"] == "inconclusive"
    assert found["verdict"]["controls"] == {"original": "inconclusive"}
    assert found["evidence"]["unlearned"]["js_to_retrained"] is None
    assert found["floor"] == {
        "models": 0,
        **dict.fromkeys(("test_accuracy", "attack_success_rate", "js", "disagreement")),
    }


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_model_that_diverged_is_no_evidence_and_no_error():
    asked_clients = AnsweringClients()
    made = full(asked_clients, "attack=canaries")
    lost = np.full_like(parameters(0), np.nan)
    made.add("recovered", lost, evidence("recovered", 0.1))
    assert len(asked_clients.asked) == 5  # nobody was asked about it
    found = made.to_json()
    entry = found["evidence"]["recovered"]
    assert (entry["canary_auc"], entry["js_to_retrained"]) == (None, None)
    assert entry["distance_to_original"] is None
    assert found["verdict"]["model"] == "recovered"
    json.dumps(found, allow_nan=False)


def test_canaries_are_those_of_clients_that_leave_and_attack():
    """Client 0 attacks and stays, client 2 leaves and did not attack."""
    asked_clients = AnsweringClients()
    made = full(asked_clients, "attack=canaries", "attack.clients=[0,1]")
    assert set(made.models["original"].canaries) == {1}
    entry = made.to_json()["evidence"]["original"]
    assert 0 <= entry["canary_auc"]["low"] <= entry["canary_auc"]["high"] <= 1
    assert entry["canary_exposure_chance"] == pytest.approx(1.44, abs=0.1)


def test_attack_base_is_measured_without_the_trigger():
    """The share of other classes' test images put into the target class."""
    asked_clients = AnsweringClients()
    made = full(asked_clients)
    answers = made.test.probabilities(parameters(0)).argmax(axis=1)
    target = int(np.bincount(answers).argmax())
    by_hand = np.mean([a == target for a in answers[DATA.test_labels != target]])
    # Counting the target's own images too would give another number.
    assert by_hand != np.mean(answers == target)
    made = full(asked_clients, "attack=backdoor", f"attack.target={target}")
    original = made.models["original"]
    assert original.attack_base == pytest.approx(by_hand)
    assert (
        full(asked_clients, "attack=label_flip").models["original"].attack_base is None
    )


def test_a_test_set_of_the_target_class_alone_has_no_attack_base():
    labels = np.full_like(DATA.test_labels, 3)
    made = judgement_of(
        *(AnsweringClients(), "attack=backdoor", "attack.target=3"),
        test=lambda: Images(DATA.test_images, labels, DIGITS),
    )
    made.add("original", parameters(0), evidence("original"))
    assert made.models["original"].attack_base is None


def test_who_answers_of_other_examples_each_time_is_no_shadow():
    """A client's own answers may change its size; no sum fails over it."""
    asked_clients = AnsweringClients()
    for draw in range(5):
        asked_clients.said[parameters(draw).tobytes()] = {
            1: said([1.0] * (draw + 1), [0.0])
        }
    found = full(asked_clients).to_json()["evidence"]
    assert found["unlearned"]["lira_auc"] is None


def test_canaries_that_a_model_has_no_finite_answer_to_are_not_measured():
    """Finite on the test images, infinite on dots: the rest is measured."""
    losses = prototype_of(small_config()).task.losses

    def odd(model: nn.Module, images: Images) -> np.ndarray:
        found = losses(model, images)
        return found if len(images) == len(DATA.test_labels) else found + np.inf

    made = judgement_of(AnsweringClients(), "attack=canaries", losses=odd)
    made.add("original", parameters(0), evidence("original"))
    assert made.models["original"].canaries == {}
    assert made.models["original"].probabilities is not None


def test_models_too_far_apart_for_a_number_have_none():
    made = full(AnsweringClients())
    far = np.full_like(parameters(0), 1e30)
    made.add("recovered", far, evidence("recovered"))
    found = made.to_json()["evidence"]["recovered"]
    assert found["distance_to_original"] is None


def test_without_outputs_all_else_is_measured():
    """Whether a model diverged is then seen by its loss."""
    asked_clients = AnsweringClients()
    for draw in range(2):
        said_of_it = {1: said([1.0, -1.0], [0.0, 0.5])}
        asked_clients.said[parameters(draw).tobytes()] = said_of_it
    made = judgement_of(asked_clients, outputs=None)
    made.add("original", parameters(0), evidence("original"))
    made.add("unlearned", parameters(1), evidence("unlearned"))
    made.add_trained_without({0: parameters(3)})
    made.add_trained_without({0: parameters(4)})
    found = made.to_json()["evidence"]["unlearned"]
    assert found["membership_auc"]["value"] == 0.5
    assert found["distance_to_original"] > 0
    assert made.models["unlearned"].probabilities is None
    assert made.to_json()["floor"]["js"] is None
    assert made.to_json()["floor"]["test_accuracy"] is not None
    asked_clients.asked.clear()
    far = np.full_like(parameters(0), 1e38)  # finite, and its answers are not
    made.add("recovered", far, evidence("recovered"))
    assert asked_clients.asked == []


def test_floor_is_the_widest_gap_of_retrained_models():
    made = full(AnsweringClients())
    accuracies = [m.test_accuracy for m in made.retrained]
    widest = max(accuracies) - min(accuracies)
    assert made.to_json()["floor"]["test_accuracy"] == pytest.approx(widest)
    assert made.to_json()["floor"]["models"] == 3


def test_answers_are_kept_to_the_last_bit_and_named_by_all_it_depends_on(
    tmp_path: Path,
):
    first = {2: said([0.1, 1 / 3], [2.0], relearn=RelearnTime(5, False))}
    kept = KeptAnswers(tmp_path, parameters(0), {"cap": 5})
    assert kept.read() is None
    kept.write(first)
    found = kept.read()
    assert found is not None
    assert found[2].members.tobytes() == first[2].members.tobytes()
    assert found[2].relearn == RelearnTime(5, False)
    assert KeptAnswers(tmp_path, parameters(0), {"cap": 6}).read() is None
    assert KeptAnswers(tmp_path, parameters(1), {"cap": 5}).read() is None
    (path,) = tmp_path.iterdir()
    path.write_text(path.read_text().replace("2.0", "2.5"))
    assert kept.read() is None


# -- the judge is shown ----------------------------------------------------------------

TAUGHT = {
    k: np.abs(rng(0, "taught", k).normal(size=count)) for k, count in ((1, 40), (2, 9))
}


def shares(draw: int, **of: float) -> dict[int, ClientAnswers]:
    """Return answers of a model with shares of what each client taught, and chance."""
    noise = rng(1, "noise", draw)
    found = {}
    for name, share in of.items():
        taught = TAUGHT[int(name[1:])]
        scores = share * taught + 0.05 * noise.normal(size=len(taught))
        found[int(name[1:])] = said(scores.tolist(), [0.0])
    return found


def shown(*overrides: str, **unlearned: float) -> tuple[Judgement, AnsweringClients]:
    """Return a judgement of 1 model with the clients and 3 without, one handed over."""
    clients = AnsweringClients()
    made = judgement_of(clients, "verdict.retrainings=null", *overrides)
    for draw in range(7):
        share = {"_1": 0.0, "_2": 0.0}
        if draw in (0, 3):  # the original, and the reference with them
            share = {"_1": 1.0, "_2": 1.0}
        elif draw == 1:
            share = unlearned
        clients.said[parameters(draw).tobytes()] = shares(draw, **share)
    made.add("original", parameters(0), evidence("original"))
    made.add("unlearned", parameters(1), evidence("unlearned"))
    made.add("retrained", parameters(2), evidence("retrained"))
    made.add_trained_with({0: parameters(3)})
    for draw in (4, 5, 6):
        made.add_trained_without({0: parameters(draw)})
    return made, clients


def test_each_client_is_judged_and_the_worst_decides():
    """One of 40 examples is forgotten, one of 9 is there: nothing is averaged."""
    made, _ = shown(_1=0.0, _2=1.0)
    found = made.judge("unlearned")
    assert (found.outcome, found.finding) == ("not forgotten", "traces left")
    one, two = found.influence[1], found.influence[2]
    assert one is not None
    assert two is not None
    assert one.rho == pytest.approx(0, abs=0.1)
    assert two.rho == pytest.approx(1, abs=0.1)
    assert (one.n_in, one.n_out, one.alpha) == (1, 3, pytest.approx(0.01))
    clean, _ = shown(_1=0.0, _2=0.0)
    assert clean.judge("unlearned").finding == "forgotten"
    assert clean.tells
    over, _ = shown(_1=-2.0, _2=0.0)
    assert over.judge("unlearned").finding == "overshot"
    assert clean.to_json()["verdict"]["controls"] == {
        "original": "not forgotten",
        "retrained": "forgotten",
    }


def test_of_a_client_that_did_not_answer_nothing_can_be_told():
    made, _ = shown(_1=0.0)
    found = made.judge("unlearned")
    assert (found.outcome, found.finding) == ("inconclusive", "cannot tell")
    assert found.influence[2] is None
    assert not made.tells


def test_nor_of_one_that_never_answered():
    _, clients = shown(_1=0.0)
    for model, answers in clients.said.items():
        clients.said[model] = {1: answers[1]}
    again = judgement_of(clients, "verdict.retrainings=null")
    again.add("original", parameters(0), evidence("original"))
    again.add("unlearned", parameters(1), evidence("unlearned"))
    again.add_trained_with({0: parameters(3)})
    for draw in (4, 5, 6):
        again.add_trained_without({0: parameters(draw)})
    assert again.judge("unlearned").finding == "cannot tell"


def test_nor_of_one_that_answers_of_other_examples_each_time():
    made, clients = shown(_1=0.0, _2=0.0)
    clients.said[parameters(7).tobytes()] = {
        1: shares(7, _1=0.0)[1],
        2: said([0.1] * 4, [0.0]),
    }
    made.add("recovered", parameters(7), evidence("recovered"))
    found = made.judge("recovered")
    assert found.influence[1] is not None
    assert found.influence[2] is None
    assert found.finding == "cannot tell"


def test_a_model_is_compared_with_those_of_as_many_rounds():
    """Of 2 further rounds there are none here, and of the training's there are."""
    made, clients = shown(_1=0.0, _2=0.0)
    clients.said[parameters(8).tobytes()] = shares(8, _1=0.0, _2=0.0)
    made.add("recovered", parameters(8), evidence("recovered"), rounds_after=2)
    assert made.rounds_after == {0, 2}
    assert made.judge("unlearned").finding == "forgotten"
    assert made.judge("recovered").finding == "cannot tell"
    for draw in (4, 5, 6):
        made.add_trained_without({2: parameters(draw)})
    assert made.judge("recovered").finding == "cannot tell"
    made.add_trained_with({2: parameters(3)})
    assert made.judge("recovered").finding == "forgotten"


def test_a_retrained_model_bit_for_bit_is_never_not_forgotten():
    """Whatever chance makes of the numbers; the control says what they are."""
    made, clients = shown(_1=0.0, _2=0.0)
    clients.said[parameters(2).tobytes()] = shares(2, _1=1.0, _2=1.0)
    for name in ("retrained", "recovered"):
        made.add(name, parameters(2), evidence(name))
    found = made.judge("recovered")
    assert (found.outcome, found.finding) == ("inconclusive", "is a retrained model")
    assert str(found).startswith("inconclusive: is a retrained model; quality ")
    verdict = made.to_json()["verdict"]
    assert verdict["controls"]["retrained"] == "not forgotten"
    assert verdict["outcomes"]["retrained"] == "inconclusive"


def test_a_bank_says_of_each_client_what_those_trainings_say_that_had_it():
    made, clients = shown("verdict.bank=3", _1=0.0, _2=0.0)
    for draw, half in ((8, (1,)), (9, (2,))):
        clients.said[parameters(draw).tobytes()] = shares(draw, _1=1.0, _2=1.0)
        made.add_trained_with({0: parameters(draw)}, half)
    found = made.judge("unlearned")
    assert {k: one and one.n_in for k, one in found.influence.items()} == {1: 2, 2: 2}


def test_with_a_bank_single_examples_are_attacked_too():
    """By the models of the bank that had the client, of as many rounds."""
    made, clients = shown("verdict.bank=8", _1=1.0, _2=0.0)
    assert made.to_json()["evidence"]["original"]["bank_attack"] == {}
    for draw in range(8, 16):
        half = (1,) if draw % 2 else (1, 2)
        clients.said[parameters(draw).tobytes()] = shares(draw, _1=1.0, _2=1.0)
        made.add_trained_with({0: parameters(draw)}, half)
    found = made.to_json()["evidence"]["unlearned"]["bank_attack"]
    assert found["1"]["auc"] > 0.9
    assert 0.3 < found["2"]["auc"] < 0.7
    assert (
        "bank_attack" not in shown(_1=0.0, _2=0.0)[0].to_json()["evidence"]["original"]
    )


# -- whole runs ------------------------------------------------------------------------


def results_of(out: Path, *overrides: str) -> dict[str, Any]:
    """Return results.json of a run with reference models."""
    config: Config = small_config(
        "clients=4", "forget=1", "rounds=10", "client.local_epochs=5",
        "model.hidden=[64]", "verdict.retrainings=null", "report=false", "cache=true",
        *overrides,
    )  # fmt: skip
    simulate(
        lambda grid, context: run(grid, config, out),
        clients=config.clients,
        engine=config.engine,
    )
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


SETTINGS = {
    "backdoor": ("attack=backdoor",),
    # With half of the labels flipped these clients leave too little to be found.
    "label flip": ("attack=label_flip", "attack.fraction=1.0"),
    "canaries": ("attack=canaries",),
    "model replacement": ("attack=model_replacement", "attack.clients=[1]"),
    "sybils": ("attack=sybils", "forget=[1,2]"),
    "dirichlet, backdoor": (
        *("attack=backdoor", "data.partition=dirichlet", "data.alpha=0.3"),
    ),
    "nobody attacks": ("attack=none",),
}


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory):
    """Keep trainings of this file, which its runs share, away from the user's."""
    patch = pytest.MonkeyPatch()
    patch.setenv("FEDNEG_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("method", ["do_nothing", "retrain"])
def test_the_judge_knows_its_controls_in_every_setting(
    tmp_path: Path, method: str, setting: str
):
    """What did nothing is never 'forgotten', what was retrained never 'not forgotten'.

    And of the original and what did nothing, bit for bit the same, the same is said.
    """
    found = results_of(tmp_path, *SETTINGS[setting], f"strategy={method}")
    verdict, controls = found["verdict"], found["verdict"]["controls"]
    assert verdict["model"] == "unlearned"
    assert controls["original"] in ("not forgotten", "inconclusive")
    assert controls["retrained"] in ("forgotten", "inconclusive")
    if method == "do_nothing":
        assert verdict["outcome"] == controls["original"]
    else:
        assert verdict["outcome"] == controls["retrained"]
    if setting not in ("nobody attacks", "dirichlet, backdoor"):
        assert controls["original"] == "not forgotten"


def test_fine_tuning_leaves_the_backdoor_and_the_verdict_says_so(tmp_path: Path):
    found = results_of(tmp_path, *SETTINGS["backdoor"], "strategy=fine_tune")
    assert found["models"]["unlearned"]["attack_success_rate"] > 0.5
    assert found["verdict"]["outcome"] == "not forgotten"


def test_references_are_trainings_of_their_own_and_no_part_of_the_history(
    tmp_path: Path,
):
    found = results_of(tmp_path, *SETTINGS["backdoor"])
    history = (tmp_path / "history.csv").read_text()
    assert "reference" not in history
    assert history.count("\nretrain,") + history.count(",retrain,") == 10
    assert found["floor"]["models"] == 1 + 3
    assert found["floor"]["js"] > 0
    cost = found["cost"]
    assert cost["forgetting"] | {"seconds": 0, "server_bytes": 0} == {
        **{"rounds": 0, "client_epochs": 0, "bytes_up": 0, "bytes_down": 0},
        **{"seconds": 0, "server_bytes": 0, "online": []},
    }
    assert cost["forgetting"]["server_bytes"] > 0
    assert (cost["retraining"]["rounds"], cost["retraining"]["online"]) == (
        10,
        [0, 2, 3],
    )
    # 10 rounds of 3 clients with 5 epochs each.
    assert cost["retraining"]["client_epochs"] == 150


def test_references_differ_in_all_that_a_seed_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Other initial parameters, and other rounds told to the clients."""
    begun = []
    real = LedgerFedAvg.run_phase

    def run_phase(
        self: Any, grid: Any, phase: Phase, vector: Vector, **more: Any
    ) -> Vector:
        begun.append((phase.name, phase.first_stream, vector.tobytes()))
        return real(self, grid, phase, vector, **more)

    monkeypatch.setattr(LedgerFedAvg, "run_phase", run_phase)
    results_of(tmp_path, "attack=backdoor", "seed=11", "rounds=2")
    trained = [entry for entry in begun if entry[0] != "unlearn"]
    assert [(name, stream) for name, stream, _ in trained] == [
        *(("train", 1), ("retrain", 1)),
        *(("reference", 1 + draw * 10**6) for draw in (1, 2, 3, 501)),
    ]
    first, retrained, *others = [start for _, _, start in trained]
    assert first == retrained
    assert len({first, *others}) == 5


def test_a_second_run_asks_nobody_about_models_that_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The same numbers, from what was trained and said the first time."""
    first = results_of(tmp_path / "one", *SETTINGS["backdoor"])
    asked: list[bytes] = []
    begun: list[str] = []
    question, run_phase = LedgerFedAvg.question_clients, LedgerFedAvg.run_phase

    def count_question(
        self: Any, grid: Any, vector: Vector, *rest: Any, **more: Any
    ) -> Any:
        asked.append(vector.tobytes())
        return question(self, grid, vector, *rest, **more)

    def count_phase(self: Any, grid: Any, phase: Phase, *rest: Any, **more: Any) -> Any:
        begun.append(phase.name)
        return run_phase(self, grid, phase, *rest, **more)

    monkeypatch.setattr(LedgerFedAvg, "question_clients", count_question)
    monkeypatch.setattr(LedgerFedAvg, "run_phase", count_phase)
    again = results_of(tmp_path / "two", *SETTINGS["backdoor"])
    for key in ("verdict", "evidence", "floor"):
        assert again[key] == first[key]
    assert len(asked) == 1  # the unlearned model
    assert begun == ["unlearn"]
