"""FedAvg with a ledger: who is asked, and who is believed."""

from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import (
    Array,
    ArrayRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.federations import (
    INITIAL,
    Answer,
    Behaviour,
    Bench,
    answer,
    honest,
    small_config,
)
from fedneg.core.errors import FedNegError
from fedneg.core.parameters import NDArrays, flatten
from fedneg.core.settings import conf_dir
from fedneg.engines.inline import FIRST_NODE_ID
from fedneg.strategies import make_strategy, strategy_class
from fedneg.strategies.base import LedgerFedAvg
from fedneg.strategies.phases import Phase
from reference import fedavg


def bench(changed: dict[int, Behaviour] | None = None, *overrides: str) -> Bench:
    """Return a federation of four made-up clients."""
    behaviours = {k: honest(k) for k in range(4)} | (changed or {})
    config = small_config(f"clients={len(behaviours)}", "forget=null", *overrides)
    return Bench(config, INITIAL, behaviours)


def test_everybody_takes_part_from_round_one():
    made = bench()
    made.train(2)
    assert made.grid.asked("train") == [0, 1, 2, 3] * 2
    assert [r.clients for r in made.strategy.reports] == [4, 4]
    assert [r.server_round for r in made.strategy.reports] == [1, 2]


def test_bytes_count_the_parameters_that_travelled():
    """8 numbers of 4 bytes to four clients, and back from the three that are there."""
    made = bench()
    made.grid.silent = {2}
    made.train(1)
    report = made.strategy.reports[0]
    assert (report.bytes_down, report.bytes_up) == (8 * 4 * 4, 8 * 4 * 3)


@given(
    st.lists(st.integers(1, 10**6), min_size=1, max_size=4),
    st.integers(1, 3),
)
@settings(max_examples=10)
def test_global_model_is_fedavg_of_the_reference(counts: list[int], rounds: int):
    behaviours = {k: honest(k, n) for k, n in enumerate(counts)}
    config = small_config(f"clients={len(counts)}", "forget=null")
    made = Bench(config, INITIAL, behaviours)
    found = made.train(rounds)
    model: list[np.ndarray] = [a.copy() for a in INITIAL]
    for number in range(1, rounds + 1):
        local = {k: behaviours[k]([*model], number)[0] for k in behaviours}
        model = [a.astype(np.float32) for a in fedavg(local, dict(enumerate(counts)))]
    np.testing.assert_allclose(found, flatten(model), rtol=0, atol=1e-5)


def test_order_of_replies_changes_no_bit():
    forwards, backwards = bench(), bench()
    backwards.grid.backwards = True
    assert forwards.train(3).tobytes() == backwards.train(3).tobytes()


def bad_reply(
    *,
    metrics: dict[str, float] | None = None,
    arrays: Callable[[NDArrays], list[np.ndarray]] | None = None,
) -> Behaviour:
    """Return client 1 with a reply that differs in one thing from an honest one."""

    def train(given_arrays: NDArrays, server_round: int) -> Answer:
        found, count = honest(1)(given_arrays, server_round)
        reply = answer(arrays(list(found)) if arrays else found, count, 1)
        for key, value in (metrics or {}).items():
            reply.metric_records["metrics"][key] = value
        return reply

    return train


def without(part: str, key: str | None = None) -> Behaviour:
    """Return client 1 with a reply in which something is missing."""

    def train(arrays: NDArrays, server_round: int) -> Answer:
        reply = answer(*honest(1)(arrays, server_round), 1)
        if key is None:
            del reply[part]
        else:
            del reply.metric_records[part][key]
        return reply

    return train


def raises(arrays: NDArrays, server_round: int) -> Answer:
    raise RuntimeError("disk on fire")


def unreadable(data: bytes) -> Behaviour:
    """Return client 1 with an array that NumPy cannot read."""

    def train(arrays: NDArrays, server_round: int) -> Answer:
        reply = answer(arrays, 1, 1)
        array = Array("float32", (2, 3), "numpy.ndarray", data)
        reply["arrays"] = ArrayRecord({"0": array, "1": Array(arrays[1])})
        return reply

    return train


def poke(value: float) -> Callable[[NDArrays], list[np.ndarray]]:
    """Return a change of one number."""

    def change(arrays: NDArrays) -> list[np.ndarray]:
        arrays[0][1, 2] = value
        return list(arrays)

    return change


def claims(*shape: int) -> bytes:
    """Return a short file that says it is an array of this shape."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}"
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(24)


EMPTY_ZIP = b"PK\x05\x06" + bytes(18)  # NumPy reads it as a set of no arrays
COUNT = "num-examples must be a whole number from 1 to 10000000, got {}"
BAD = {
    "raises": (raises, "error: RuntimeError: disk on fire"),
    "nan": (bad_reply(arrays=poke(np.nan)), "parameters are not finite"),
    "inf": (bad_reply(arrays=poke(-np.inf)), "parameters are not finite"),
    "one array short": (bad_reply(arrays=lambda a: a[:1]), "2 arrays expected, got 1"),
    "other shape": (bad_reply(arrays=lambda a: [a[0].T, a[1]]), "got ((3, 2), (2,))"),
    "integers": (
        bad_reply(arrays=lambda a: [x.astype(np.int64) for x in a]),
        "0 must be floating point, got int64",
    ),
    "overflow": (
        bad_reply(arrays=lambda a: [x + np.float64(1e300) for x in a]),
        "parameters are not finite",
    ),
    "nothing to read": (unreadable(b""), "arrays cannot be read"),
    "garbage": (unreadable(b"\x93NUMPY garbage"), "arrays cannot be read"),
    "a zip file": (unreadable(EMPTY_ZIP), "arrays cannot be read"),
    "claims terabytes": (unreadable(claims(10**12, 3)), "arrays cannot be read"),
    "enormous": (
        bad_reply(arrays=lambda a: [np.zeros(10**6, np.float32), a[1]]),
        "arrays of at most 8256 bytes expected, got 4000",
    ),
    "another's id": (bad_reply(metrics={"client-id": 3}), "claims to be client 3"),
    "nobody's id": (bad_reply(metrics={"client-id": 99}), "claims to be client 99"),
    "an id that is no number": (bad_reply(metrics={"client-id": np.nan}), ""),
    "a part of an id": (bad_reply(metrics={"client-id": 1.5}), "claims to be"),
    "no examples": (bad_reply(metrics={"num-examples": 0}), COUNT.format(0)),
    "negative": (bad_reply(metrics={"num-examples": -7}), COUNT.format(-7)),
    "fractional": (bad_reply(metrics={"num-examples": 2.5}), COUNT.format(2.5)),
    "absurd count": (bad_reply(metrics={"num-examples": 10**8}), COUNT.format("1e+08")),
    "infinite count": (bad_reply(metrics={"num-examples": np.inf}), ""),
    "nan count": (bad_reply(metrics={"num-examples": np.nan}), ""),
    "no count": (without("metrics", "num-examples"), "num-examples"),
    "no id": (without("metrics", "client-id"), "client-id"),
    "no metrics": (without("metrics"), "metrics"),
    "no arrays": (without("arrays"), "arrays"),
    "absurd norm": (
        bad_reply(arrays=lambda a: [x * np.float32(1e6) for x in a]),
        "exceeds max_update_norm_ratio=100 times the others' median",
    ),
}


@pytest.mark.parametrize(("behaviour", "reason"), BAD.values(), ids=BAD.keys())
def test_a_bad_reply_is_left_out_and_named(
    behaviour: Behaviour, reason: str, flower_log: pytest.LogCaptureFixture
):
    """The round goes on with the rest, bit for bit as if client 1 had not been there.

    In round 2 the client is asked again.
    """
    made, rest = bench({1: behaviour}), bench()
    after = made.train(2)
    assert after.tobytes() == rest.train(2, clients=[0, 2, 3]).tobytes()
    assert [(n, k) for n, k, _ in made.failures()] == [(1, 1), (2, 1)]
    for _, _, text in made.failures():
        assert text
        assert reason in text
        assert "\n" not in text
    assert [r.clients for r in made.strategy.reports] == [3, 3]
    assert made.grid.asked("train") == [0, 1, 2, 3] * 2
    assert "round 2 (train): client 1 left out: " in flower_log.text
    ledger = made.strategy.ledger
    assert not ledger.contributions[1].any()
    assert 1 not in ledger.local


def test_a_reply_without_content_and_one_twice_are_left_out_and_named():
    made, rest = bench(), bench()
    made.grid.silent, made.grid.doubled = {0}, {2}
    after = made.train(1)
    assert after.tobytes() == rest.train(1, clients=[1, 3]).tobytes()
    assert made.failures() == [(1, 2, "answered more than once"), (1, 0, "no reply")]


def test_several_bad_replies_are_all_named():
    made = bench({0: raises, 1: BAD["nan"][0], 3: honest(3, -1)})
    made.train(1)
    assert [k for _, k, _ in made.failures()] == [0, 1, 3]
    assert made.strategy.reports[0].clients == 1


def test_without_a_usable_reply_the_bytes_stay_and_it_is_said(
    flower_log: pytest.LogCaptureFixture,
):
    made = bench(dict.fromkeys(range(4), raises))
    before = flatten(INITIAL).tobytes()
    assert made.train(2).tobytes() == before
    assert len(made.failures()) == 8
    assert "round 1 (train): no usable reply; the model stays" in flower_log.text
    assert made.strategy.ledger.participation == []


def test_an_empty_round_between_others_leaves_momentum_as_it_was():
    """Round 2 is lost: rounds 1 and 3 give what they give without it."""

    def only_in_odd_rounds(client_id: int) -> Behaviour:
        def train(arrays: NDArrays, server_round: int) -> Answer:
            if server_round == 2:
                raise RuntimeError("gone")
            return [a + np.float32(client_id + server_round) for a in arrays], 1

        return train

    changed = {k: only_in_odd_rounds(k) for k in range(4)}
    made = bench(changed, "strategy.server_momentum=0.5")
    made.train(3)
    assert made.after[0].tobytes() == made.after[1].tobytes()
    # Mean steps 2.5 and 4.5: 2.5, then 0.5 * 2.5 + 4.5 = 5.75.
    np.testing.assert_allclose(made.after[2] - flatten(INITIAL), 2.5 + 5.75)


@pytest.mark.parametrize("norm", [1e6, 1e30])
def test_of_two_replies_the_far_longer_is_left_out(norm: float):
    def far(arrays: NDArrays, server_round: int) -> Answer:
        return [a + np.float32(norm) for a in arrays], 1

    made = bench({0: far, 1: honest(1), 2: raises, 3: raises})
    made.train(1)
    assert {k for _, k, _ in made.failures()} == {0, 2, 3}


def test_identical_updates_of_nothing_are_no_reason_to_refuse_the_rest():
    """With a median of 0 there is no scale to judge by."""
    made = bench({k: (lambda a, n: (a, 1)) for k in (0, 1, 2)})
    made.train(1)
    assert made.failures() == []


def test_limits_are_configurable():
    """Client 3 has 35 examples; some update is longer than the others' median."""
    for limit, left_out in ((34, [3]), (35, [])):
        made = bench({}, f"strategy.max_num_examples={limit}")
        made.train(1)
        assert [k for _, k, _ in made.failures()] == left_out
    made = bench({}, "strategy.max_update_norm_ratio=1.01")
    made.train(1)
    assert made.failures()


def test_the_forgotten_are_not_asked_to_recover():
    made = bench()
    made.train(1)
    made.unlearn(1, 3)
    made.grid.sent.clear()
    assert made.strategy.forgotten == {1, 3}
    made.train(2, clients=[0, 2])
    assert made.grid.asked("train") == [0, 2, 0, 2]
    assert not made.strategy.ledger.contributions[[1, 3]].any()


def test_rounds_of_a_phase_continue_the_streams_that_it_names():
    seen: list[int] = []

    def watch(arrays: NDArrays, server_round: int) -> Answer:
        seen.append(server_round)
        return arrays, 1

    made = bench({0: watch})
    made.strategy.run_phase(
        made.grid, Phase("recover", (0,), 2, first_round=4, first_stream=7), made.model
    )
    assert seen == [7, 8]
    assert [r.server_round for r in made.strategy.reports] == [4, 5]
    assert {r.phase for r in made.strategy.reports} == {"recover"}


def test_another_number_of_nodes_is_refused_with_the_remedy():
    made = bench()
    for context in made.grid.contexts.values():
        context.node_config["num-partitions"] = 2
    with pytest.raises(
        FedNegError,
        match=r"clients=4 but the federation has 2 nodes;.*"
        r"--federation-config 'num-supernodes=4'",
    ):
        made.train(1)


@pytest.mark.parametrize(
    ("claimed", "message"),
    [
        (2, "two nodes call themselves client 2"),
        (4, r"calls itself client 4; client ids are 0 to 3 \(clients=4\)"),
        (-1, "calls itself client -1"),
    ],
)
def test_a_node_with_an_impossible_client_id_stops_the_run(claimed: int, message: str):
    made = bench()
    made.grid.contexts[FIRST_NODE_ID].node_config["partition-id"] = claimed
    with pytest.raises(FedNegError, match=message):
        made.train(1)


def test_a_client_that_never_comes_online_is_named():
    made = bench()
    del made.grid.contexts[FIRST_NODE_ID + 2]
    with pytest.raises(FedNegError, match=r"all 4 clients; client 2 is not online"):
        made.strategy.roster.discover(made.grid, timeout_s=0)


def test_a_node_without_a_client_id_is_named_in_the_end():
    made = bench()
    del made.grid.contexts[FIRST_NODE_ID].node_config["partition-id"]
    with pytest.raises(FedNegError, match=r"client 0 is not online; a node answered: "):
        made.strategy.roster.discover(made.grid, timeout_s=0)


def test_a_restarted_node_is_found_under_its_new_number():
    made = bench()
    made.train(1)
    context = made.grid.contexts.pop(FIRST_NODE_ID + 3)
    context.node_id = FIRST_NODE_ID + 103
    made.grid.contexts[context.node_id] = context
    made.strategy.roster.discover(made.grid, timeout_s=0)
    assert made.strategy.roster.node_of[3] == FIRST_NODE_ID + 103
    assert made.strategy.roster.node_of[0] == FIRST_NODE_ID


def test_clients_that_do_not_evaluate_are_missing_from_the_result(
    flower_log: pytest.LogCaptureFixture,
):
    """A made-up client has no evaluation at all: an error reply for each."""
    made = bench()
    assert made.strategy.evaluate_clients(made.grid, made.model) == {}
    assert "client 3 did not evaluate the model" in flower_log.text


MEASURED = {"num_writers": 3.0, "trained_accuracy": 0.5} | {
    name.format(part): 1.0
    for part in ("train", "val", "test")
    for name in ("{}_accuracy", "{}_loss", "num_{}")
}


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (None, "metrics"),
        ({}, "the reply has no client-id"),
        ({"client-id": 2}, "claims to be client 2"),
        ({"client-id": 1, "num_writers": 3}, "the reply has no train_accuracy"),
        ({**MEASURED, "client-id": 1, "num_val": np.nan}, "num_val must be a whole"),
        ({**MEASURED, "client-id": 1, "test_accuracy": [0.5]}, "no test_accuracy"),
    ],
)
def test_a_garbled_evaluation_is_left_out_and_named(
    found: dict[str, float] | None, reason: str, flower_log: pytest.LogCaptureFixture
):
    made = bench()

    @made.grid.client_app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        client_id = int(str(context.node_config["partition-id"]))
        metrics = found if client_id == 1 else {**MEASURED, "client-id": client_id}
        content = RecordDict()
        if metrics is not None:
            content["metrics"] = MetricRecord(metrics)
        return Message(content, reply_to=message)

    answers = made.strategy.evaluate_clients(made.grid, made.model)
    assert answers == dict.fromkeys((0, 2, 3), MEASURED)
    (line,) = [m for m in flower_log.messages if m.startswith("client 1: no eval")]
    assert reason in line


def test_base_strategy_cannot_forget():
    made = bench()
    base = LedgerFedAvg.__new__(LedgerFedAvg)
    base.settings = made.config.strategy
    with pytest.raises(FedNegError, match="strategy=negative_gradient cannot forget"):
        base.rectify(made.model, (1,))


@pytest.mark.parametrize("name", ["base", "roster", "no_such_method"])
def test_unknown_strategy_is_refused_by_name(name: str):
    with pytest.raises(FedNegError, match=f"a method in strategies/, .*got '{name}'"):
        strategy_class(name)


def test_every_method_of_the_configuration_is_a_file_in_strategies():
    names = {p.stem for p in (conf_dir() / "strategy").glob("*.yaml")} - {"base"}
    assert "negative_gradient" in names
    for name in names:
        made = make_strategy(small_config(f"strategy={name}"), "{}")
        assert type(made) is strategy_class(name)
