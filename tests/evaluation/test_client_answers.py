"""What leaving clients answer about a model, and what the server believes of it."""

import json
import math
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from builders.federations import Bench, data_of, small_config
from builders.networks import initial_parameters
from fedneg.clients.answering import AnsweringClient
from fedneg.core.assignment import Assignment
from fedneg.core.errors import FedNegError
from fedneg.core.parameters import NDArrays, flatten
from fedneg.data.attacks import flip_labels, stamp
from fedneg.data.kinds import DIGITS
from fedneg.engines.inline import FIRST_NODE_ID
from fedneg.engines.simulate import simulate
from fedneg.evaluation import client_answers as module
from fedneg.evaluation.client_answers import ClientAnswers
from fedneg.evaluation.relearn import RelearnTime
from fedneg.strategies import make_strategy
from fedneg.strategies.base import LedgerFedAvg
from fedneg.strategies.hooks import NO_HOOKS, Hooks
from fedneg.strategies.negative_gradient import NegativeGradient
from fedneg.tasks.model import build_mlp, set_parameters

SAID = ClientAnswers(
    members=np.array([0.1, -2.0, 1 / 3]),
    unseen=np.array([5e-324]),
    as_trained_accuracy=2 / 3,
    as_trained_loss=0.7,
    check_loss=0.6,
    relearn=RelearnTime(5, True),
)


def start(draw: int = 0) -> NDArrays:
    return initial_parameters(64, [16], 10, seed=0, draw=draw)


def answering(client_id: int, *overrides: str) -> AnsweringClient:
    """Return a client that may be asked."""
    return AnsweringClient(
        client_id, Assignment.of(small_config(*overrides), root=None)
    )


def said_by(
    client: AnsweringClient, model: NDArrays, target: float | None = None, cap: int = 60
) -> ClientAnswers:
    """Return what a client says of a model."""
    return client.answer(model, relearn_target=target, relearn_cap=cap, check_every=5)


def same(one: ClientAnswers, two: ClientAnswers) -> bool:
    """Return whether two answers are equal, to the last bit."""
    return one.to_json() == two.to_json()


@lru_cache
def trained(client_id: int, *overrides: str) -> tuple[np.ndarray, ...]:
    """Return what a client knows after some epochs alone."""
    options = ("client.local_epochs=20", *overrides)
    return tuple(answering(client_id, *options).fit(start(), {})[0])


# -- the values -----------------------------------------------------------------------


def test_json_holds_answers_to_the_last_bit():
    for said in (SAID, replace(SAID, relearn=None)):
        found = ClientAnswers.from_json(json.loads(json.dumps(said.to_json())))
        assert same(found, said)
        assert found.members.tobytes() == said.members.tobytes()
        assert found.unseen.tobytes() == said.unseen.tobytes()
        assert found.relearn == said.relearn


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"members": np.empty(0)}, r"members must be float64 .* shape \(0,\)"),
        ({"unseen": np.zeros((2, 2))}, r"unseen must be float64 .* shape \(2, 2\)"),
        ({"unseen": np.zeros(2, np.float32)}, "unseen must be float64 .* got float32"),
        ({"members": np.array([1, np.nan])}, "members must be finite, got nan"),
        ({"unseen": np.array([-np.inf])}, "unseen must be finite, got -inf"),
        ({"as_trained_accuracy": 1.1}, "must be a fraction in .0, 1., got 1.1"),
        ({"as_trained_accuracy": math.nan}, "must be a fraction in .0, 1., got nan"),
        ({"as_trained_loss": -1.0}, "as_trained_loss must be finite and at least 0"),
        ({"check_loss": math.inf}, "check_loss must be finite and at least 0, got inf"),
        ({"relearn": RelearnTime(-1, True)}, "relearn.batches must be at least 0"),
    ],
)
def test_what_cannot_be_is_no_answer(changed: dict[str, Any], match: str):
    with pytest.raises(ValueError, match=match):
        replace(SAID, **changed)


@pytest.mark.parametrize("values", [{}, SAID.to_json() | {"members": None}, None])
def test_other_json_is_no_answer(values: Any):
    with pytest.raises(ValueError, match=r"answers|members"):
        ClientAnswers.from_json(values)


# -- the client -----------------------------------------------------------------------


def test_a_model_of_biases_alone_by_hand():
    """Logits are 0 but 3 for class 7: log(p / (1 - p)) is 3 - log 9 for a seven.

    For any other class it is 0 - log(e^3 + 8).
    """
    model = [np.zeros_like(a) for a in start()]
    model[-1][7] = 3
    said, data = said_by(answering(4), model), data_of(4, small_config())
    seven, other = 3 - math.log(9), -math.log(math.exp(3) + 8)
    labels = data.labels[data.train]
    expected = np.where(labels == 7, seven, other)
    np.testing.assert_allclose(said.members, expected, rtol=1e-12)
    unseen = data.labels[np.concatenate([data.val, data.test])]
    np.testing.assert_allclose(said.unseen, np.where(unseen == 7, seven, other))
    assert said.as_trained_accuracy == np.mean(labels == 7)
    loss = np.mean(np.log1p(np.exp(-expected)))
    assert math.isclose(said.as_trained_loss, loss, rel_tol=1e-6)
    assert said.check_loss == said.as_trained_loss
    assert said.relearn is None


def slow_confidence(
    model: NDArrays, images: np.ndarray, labels: np.ndarray
) -> list[float]:
    """Return log p / (1 - p) in float64, with plain torch, one image after another."""
    network = build_mlp(64, [16], 10)
    set_parameters(network, model)
    network.double()
    found = []
    for image, label in zip(images, labels, strict=True):
        pixels = torch.tensor(image.ravel(), dtype=torch.float64)
        scaled = (pixels - DIGITS.scaling.mean) / DIGITS.scaling.std
        p = torch.softmax(network(scaled), 0)[int(label)].item()
        found.append(math.log(p) - math.log1p(-p))
    return found


def test_confidence_is_that_of_plain_torch():
    said, data = said_by(answering(4), start()), data_of(4, small_config())
    for found, part in (
        (said.members, data.train),
        (said.unseen, np.concatenate([data.val, data.test])),
    ):
        expected = slow_confidence(start(), data.images[part], data.labels[part])
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_members_are_what_is_trained_on(monkeypatch: pytest.MonkeyPatch):
    """The images and labels that `fit` hands to the training."""
    seen: list[tuple[np.ndarray, np.ndarray]] = []

    def train(
        model: Any, images: torch.Tensor, labels: torch.Tensor, **_: Any
    ) -> float:
        seen.append((images.cpu().numpy(), labels.cpu().numpy()))
        return 0.0

    monkeypatch.setattr("fedneg.tasks.training.train_epochs", train)
    for attack in ("label_flip", "backdoor", "model_replacement", "none"):
        client = answering(4, f"attack={attack}")
        client.fit(start(), {})
        expected = slow_confidence(start(), *seen[-1])
        np.testing.assert_allclose(
            said_by(client, start()).members, expected, atol=1e-5
        )


def test_unseen_images_are_flipped_like_members_and_by_another_stream():
    flipping, honest = answering(4, "attack=label_flip"), answering(4)
    images, labels = flipping.unseen().arrays()
    plain, true = honest.unseen().arrays()
    np.testing.assert_array_equal(images, plain)
    changed = labels != true
    assert changed.sum() == round(0.5 * len(true))
    np.testing.assert_array_equal(
        labels[changed], flip_labels(true[changed], classes=10)
    )
    members = flipping.members().arrays()[1] != honest.members().arrays()[1]
    assert changed.tolist() != members[: len(changed)].tolist()


def test_the_stream_of_unseen_images_is_not_that_of_members(
    monkeypatch: pytest.MonkeyPatch,
):
    purposes: list[str] = []
    real = np.random.default_rng(0)

    def rng(seed: int, purpose: str, *key: int) -> np.random.Generator:
        purposes.append(purpose)
        return real

    client = answering(4, "attack=label_flip")
    monkeypatch.setattr("fedneg.tasks.calls.rng", rng)
    client.unseen()
    client.members()
    assert purposes == ["poison unseen", "poison"]


@pytest.mark.parametrize("attack", ["backdoor", "model_replacement"])
def test_unseen_images_are_stamped_like_members(attack: str):
    images, labels = answering(4, f"attack={attack}").unseen().arrays()
    plain, _ = answering(4).unseen().arrays()
    target = small_config(f"attack={attack}").attack.target
    marked = stamp(
        plain,
        trigger_size=small_config(f"attack={attack}").attack.trigger_size,
        pixel_max=16,
    )
    changed = (images != plain).any(axis=(1, 2))
    assert 0 < changed.sum() <= round(0.5 * len(plain))
    np.testing.assert_array_equal(images[changed], marked[changed])
    assert (labels[changed] == target).all()


def test_an_honest_client_beside_an_attacker_answers_for_its_images_as_they_are():
    assert same(
        said_by(answering(2, "attack=label_flip"), start()),
        said_by(answering(2), start()),
    )


def test_canaries_are_no_members_but_are_relearned_and_measured_as_trained():
    client, plain = answering(4, "attack=canaries", "attack.canaries=30"), answering(4)
    said, expected = said_by(client, start()), said_by(plain, start())
    np.testing.assert_array_equal(said.members, expected.members)
    np.testing.assert_array_equal(said.unseen, expected.unseen)
    assert client.num_examples == plain.num_examples + 30
    assert said.as_trained_loss != expected.as_trained_loss
    assert said.check_loss == said.as_trained_loss


def test_a_sybil_answers_for_the_images_that_it_trained_on():
    attack = ("attack=sybils", "attack.clients=[1,3]", "attack.shared=label_flip")
    sybil, first = answering(3, *attack), answering(1, *attack)
    assert same(said_by(sybil, start()), said_by(first, start()))
    images, labels = sybil.unseen().arrays()
    plain, true = answering(1).unseen().arrays()
    np.testing.assert_array_equal(images, plain)
    assert (labels != true).any()


def test_large_clients_are_sampled_without_replacement_alike_for_every_model(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("fedneg.clients.answering.MAX_EXAMPLES", 20)
    monkeypatch.setattr("fedneg.clients.answering.MAX_CHECKED", 30)
    client = answering(4)
    everything = ClientAnswers.from_json(said_by(client, start()).to_json())
    assert (len(everything.members), len(everything.unseen)) == (20, 20)
    assert everything.check_loss != everything.as_trained_loss
    count = len(client.members())
    drawn = client.about(start()).drawn("witness members", count, 20)
    again = client.about(start(1)).drawn("witness members", count, 20)
    np.testing.assert_array_equal(drawn, again)
    assert len(set(drawn.tolist())) == 20
    other = client.about(start()).drawn("witness unseen", count, 20)
    assert not np.array_equal(drawn, other)
    images, labels = client.members().arrays()
    expected = slow_confidence(start(1), images[drawn], labels[drawn])
    found = said_by(client, start(1)).members
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("attack", ["none", "backdoor", "canaries"])
def test_the_original_relearns_in_no_time_and_equal_models_alike(attack: str):
    """A client that never trained needs batches, the same ones whenever it is asked."""
    option = f"attack={attack}"
    client, original = answering(4, option), [*trained(4, option)]
    target = said_by(client, original).check_loss
    assert said_by(client, original, target).relearn == RelearnTime(0, True)
    late = AnsweringClient(4, client.assignment, server_round=9)
    one, two = said_by(client, start(), target), said_by(late, start(), target)
    assert same(one, two)
    assert one.relearn is not None
    assert one.relearn.batches > 0
    assert said_by(client, start(), 0.0, cap=7).relearn == RelearnTime(7, False)


def test_relearning_leaves_the_confidence_as_it_was():
    one, two = said_by(answering(4), start()), said_by(answering(4), start(), 0.1)
    assert one.members.tobytes() == two.members.tobytes()
    assert one.check_loss == two.check_loss


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_a_model_that_diverged_is_refused_in_one_line(value: float):
    model = [np.full_like(a, value) for a in start()]
    with pytest.raises(FedNegError, match=r"client 4 cannot answer .* must be finite"):
        said_by(answering(4), model, 0.1)


def test_a_client_without_unseen_images_says_so():
    client = answering(4)
    nothing = client.split.unseen.take(np.empty(0, np.int64))
    client.whole = replace(client.whole, unseen=nothing)
    with pytest.raises(FedNegError, match=r"answer .* there are no unseen examples"):
        said_by(client, start())


# -- the server -----------------------------------------------------------------------


def real_bench(*overrides: str, hooks: Hooks = NO_HOOKS) -> Bench:
    """Return a federation of the real clients."""
    config = small_config("strategy.wait_for_clients_s=0.1", *overrides)
    assignment = Assignment.of(config, root=None).to_json()
    return Bench(config, start(), assignment=assignment, hooks=hooks)


def test_those_who_are_out_are_asked_and_only_they():
    made = real_bench("attack=backdoor", hooks=Hooks(excluded=lambda: {4}))
    made.strategy.forgotten = {4, 1}
    found = made.strategy.question_clients(
        made.grid, made.model, [4, 1], relearn_target=0.5, relearn_cap=20
    )
    assert list(found) == [1, 4]
    assert made.grid.asked("evaluate") == [1, 4]
    for k in found:
        client = answering(k, "attack=backdoor")
        assert same(found[k], said_by(client, start(), 0.5, cap=20))


def test_who_is_gone_is_missing_and_waited_for_once(
    flower_log: pytest.LogCaptureFixture,
):
    made = real_bench("strategy.min_clients=1")
    del made.grid.contexts[FIRST_NODE_ID + 4]
    for expected in (2, 1):
        made.grid.looks = 0
        found = made.strategy.question_clients(
            made.grid, made.model, [4, 2], relearn_target=None
        )
        assert list(found) == [2]
        assert made.grid.looks >= expected
    assert made.grid.looks == 1
    assert "client 4 did not answer questions about the model" in flower_log.text
    assert made.strategy.roster.absent == set()  # a round waits for whom it waits


def test_a_model_that_diverged_has_no_answers(flower_log: pytest.LogCaptureFixture):
    made = real_bench()
    broken = np.full_like(made.model, np.nan)
    assert not made.strategy.question_clients(
        made.grid, broken, [4], relearn_target=0.5
    )
    (line,) = [m for m in flower_log.messages if m.startswith("client 4: no answers")]
    assert "error: client 4 cannot answer about this model" in line


def test_every_engine_gives_the_same_answers():
    said: dict[str, Any] = {}
    for engine in ("inline", "local"):
        config = small_config(
            f"engine={engine}", "attack=backdoor", "clients=3", "forget=2"
        )

        def main(
            grid: Grid, _: Context, config: Any = config, name: Any = engine
        ) -> None:
            made = make_strategy(config, Assignment.of(config, root=None).to_json())
            made.reset(start())
            found = made.question_clients(
                grid, flatten(start()), [2, 0], relearn_target=1.0, relearn_cap=40
            )
            said[name] = {k: v.to_json() for k, v in found.items()}

        simulate(main, clients=3, engine=config.engine)
    assert list(said["inline"]) == [0, 2]
    assert said["inline"] == said["local"]


METRICS = {
    "client-id": 1,
    "num-examples": 9,
    "accuracy": 0.5,
    "loss": 0.7,
    "check-loss": 0.6,
    "relearn-batches": 10,
    "relearn-reached": 1,
}
NUMBERS = {"members": np.array([1.0, 2.0]), "unseen": np.array([3.0])}


def reply(
    metrics: dict[str, Any] | None = None,
    numbers: dict[str, Any] | None = None,
    *,
    without: tuple[str, ...] = (),
) -> RecordDict:
    """Return client 1's answer, changed in one thing."""
    said = {k: v for k, v in (METRICS | (metrics or {})).items() if k not in without}
    arrays = {k: v for k, v in (NUMBERS | (numbers or {})).items() if k not in without}
    found = RecordDict(
        {
            "metrics": MetricRecord(said),
            "confidence": ArrayRecord(
                {k: v if isinstance(v, Array) else Array(v) for k, v in arrays.items()}
            ),
        }
    )
    for name in set(without) & set(found):
        del found[name]
    return found


def garbled(data: bytes) -> dict[str, Any]:
    """Return members that NumPy cannot read."""
    return {"members": Array("float64", (2,), "numpy.ndarray", data)}


COUNT = "num-examples must be a whole number from 1 to 10000000, got"
RELEARN = "relearn-batches must be a whole number from 0 to 300, got"
BAD = {
    "another's id": (reply({"client-id": 2}), "claims to be client 2"),
    "no id": (reply(without=("client-id",)), "the reply has no client-id"),
    "no count": (reply(without=("num-examples",)), "the reply has no num-examples"),
    "no examples": (reply({"num-examples": 0}), f"{COUNT} 0"),
    "nan count": (reply({"num-examples": np.nan}), f"{COUNT} nan"),
    "nan member": (reply({}, {"members": np.array([np.nan])}), "members must be fini"),
    "inf unseen": (
        reply({}, {"unseen": np.array([np.inf])}),
        "unseen must hold numbers from -1e+09 to 1e+09, got inf",
    ),
    "2-D": (reply({}, {"members": np.zeros((2, 2))}), "members must be float64"),
    "0-D": (reply({}, {"members": np.array(1.0)}), "members must be float64"),
    "empty": (reply({}, {"unseen": np.empty(0)}), "unseen must be float64"),
    "float32": (reply({}, {"unseen": np.ones(3, np.float32)}), "got float32"),
    "too many": (reply({}, {"unseen": np.ones(5001)}), "at most 5000 numbers"),
    "enormous": (reply({}, {"unseen": np.ones(9999)}), "at most 44096 bytes expected"),
    "nothing": (reply({}, garbled(b"")), "members cannot be read"),
    "a zip file": (reply({}, garbled(b"PK\x05\x06" + bytes(18))), "cannot be read"),
    "no unseen": (reply(without=("unseen",)), "members and unseen expected, got"),
    "a third": (reply({}, {"more": np.ones(1)}), "members and unseen expected, got"),
    "no arrays": (reply(without=("confidence",)), "confidence"),
    "no metrics": (reply(without=("metrics",)), "metrics"),
    "no loss": (reply(without=("check-loss",)), "check-loss"),
    "nan loss": (reply({"check-loss": np.nan}), "check-loss must be a number from 0"),
    "nan accuracy": (reply({"accuracy": np.nan}), "accuracy must be a fraction"),
    "lists": (reply({"loss": [0.5]}), "loss"),
    "no relearn": (reply(without=("relearn-batches",)), "relearn-batches"),
    "beyond the cap": (reply({"relearn-batches": 301}), f"{RELEARN} 301"),
    "half a batch": (reply({"relearn-batches": 2.5}), f"{RELEARN} 2.5"),
    "nan batches": (reply({"relearn-batches": np.nan}), f"{RELEARN} nan"),
    "gave up early": (reply({"relearn-reached": 0}), "or 0 after 300 batches, got 0"),
    "half reached": (reply({"relearn-reached": 0.5}), "relearn-reached must be a"),
}


def made_up(content: RecordDict) -> Bench:
    """Return a federation of two whose client 1 answers so."""
    config = small_config("clients=2", "forget=null")
    made = Bench(config, [np.zeros(3, np.float32)], {})
    app: ClientApp = made.grid.client_app

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        client_id = int(str(context.node_config["partition-id"]))
        found = content if client_id == 1 else reply({"client-id": client_id})
        return Message(found, reply_to=message)

    return made


@pytest.mark.parametrize(("content", "reason"), BAD.values(), ids=BAD.keys())
def test_a_bad_answer_is_left_out_and_named(
    content: RecordDict, reason: str, flower_log: pytest.LogCaptureFixture
):
    made = made_up(content)
    found = made.strategy.question_clients(
        made.grid, made.model, [0, 1], relearn_target=0.5
    )
    assert list(found) == [0]
    assert found[0].relearn == RelearnTime(10, True)
    (line,) = [m for m in flower_log.messages if m.startswith("client 1: no answers")]
    assert reason in line


def test_who_relearns_unasked_is_left_out(flower_log: pytest.LogCaptureFixture):
    made = made_up(reply(without=("relearn-batches", "relearn-reached")))
    found = made.strategy.question_clients(
        made.grid, made.model, [0, 1], relearn_target=None
    )
    assert list(found) == [1]
    assert "client 0: no answers: relearned without" in flower_log.text


def test_who_answers_twice_is_left_out(flower_log: pytest.LogCaptureFixture):
    made = made_up(reply())
    once = made.grid.send_and_receive

    def twice(messages: Any, *, timeout: float | None = None) -> Any:
        found = list(once(messages, timeout=timeout))
        return found + [m for m in found if m.metadata.src_node_id == FIRST_NODE_ID + 1]

    made.grid.send_and_receive = twice
    found = made.strategy.question_clients(
        made.grid, made.model, [0, 1], relearn_target=0.5
    )
    assert list(found) == [0]
    assert "client 1: no answers: answered more than once" in flower_log.text


def test_the_defaults_are_those_that_an_unsaid_question_has():
    """A message with the role alone relearns nothing, and names no relearn time."""
    made = real_bench()
    made.strategy.roster.discover(made.grid)
    record = RecordDict(
        {
            "arrays": ArrayRecord(start()),
            "config": ConfigRecord(
                {"assignment": made.strategy.assignment, "role": "answering"}
            ),
        }
    )
    (answer,) = made.grid.send_and_receive(
        [Message(record, made.strategy.roster.node_of[4], "evaluate")]
    )
    metrics = answer.content.metric_records["metrics"]
    assert set(metrics) == set(METRICS) - {"relearn-batches", "relearn-reached"}
    assert metrics["num-examples"] == answering(4).num_examples
    assert (module.RELEARN_CAP, module.CHECK_EVERY) == (300, 5)


def test_questions_are_no_part_of_a_training(tmp_path: Path):
    class Asking(NegativeGradient):
        def question_clients(self, *args: Any, **settings: Any) -> Any:
            return {}

        def evaluate_clients(self, *args: Any, **settings: Any) -> Any:
            return {}

    config = small_config()
    assert Asking(config, "").training_identity() == (
        NegativeGradient(config, "").training_identity()
    )
    assert issubclass(Asking, LedgerFedAvg)
