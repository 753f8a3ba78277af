"""From overrides to one checked configuration; every mistake is one line."""

import json
from pathlib import Path
from typing import Any

import pytest

from fedneg.config import check, check_sweep, load_config, overrides_of_run_config
from fedneg.core.assignment import Assignment
from fedneg.core.errors import FedNegError
from fedneg.core.settings import Config
from fedneg.data.datasets import load_dataset
from fedneg.data.partition import partition_by_writer
from fedneg.records.facts import Facts
from fedneg.records.state import State

MISTAKES = [
    ("forget=9", r"forget must name client ids from 0 to 4 \(clients=5\), got 9"),
    ("forget=5", r"forget must name client ids from 0 to 4 \(clients=5\), got 5"),
    ("forget=-1", r"forget must name client ids from 0 to 4 .* got -1"),
    ("forget=[1,9]", r"forget must name client ids from 0 to 4 .* got 9"),
    ("forget=[1,1]", r"forget must name each client once, got \[1, 1\]"),
    ("forget=[0,1,2,3,4]", "forget must leave at least one of the 5 clients"),
    (
        "forget=four",
        "forget must be one client id, a list of them, or null, got 'four'",
    ),
    ("forget=1.5", "forget must be one client id, .* got 1.5"),
    ("forget=true", "forget must be one client id, .* got True"),
    ("forget={a:1}", "forget must be one client id"),
    ("clients=0", "clients must be at least 1, got 0"),
    ("clients=1", r"forget must name client ids from 0 to 0 \(clients=1\), got 4"),
    ("clients=2.5", "clients must be a whole number, got 2.5"),
    ("rounds=0", "rounds must be at least 1, got 0"),
    ("rounds=ten", "rounds must be a whole number, got 'ten'"),
    ("rounds=true", "rounds must be a whole number, got True"),
    ("rounds=null", "rounds must be a whole number, got None"),
    ("seed=-1", "seed must be at least 0, got -1"),
    ("seed=null", "seed must be a whole number, got None"),
    ("retrain=some", "retrain must be one of none, remaining, forgotten, scratch"),
    ("retrain_rounds=0", "retrain_rounds must be at least 1, got 0"),
    ("reference=maybe", "reference must be true or false, got 'maybe'"),
    ("round=3", "unknown key round; did you mean rounds"),
    ("+round=3", "unknown key"),
    ("~rounds", "rounds"),
    ("client.lr=0.1", r"unknown key client\.lr; did you mean"),
    ("+client.lr=0.1", r"unknown key client\.lr"),
    ("client.learning_rate=0", "client.learning_rate must be greater than 0, got 0"),
    ("client.learning_rate=-0.1", "must be greater than 0, got -0.1"),
    ("client.learning_rate=nan", "client.learning_rate must be finite, got nan"),
    ("client.learning_rate=inf", "client.learning_rate must be finite, got inf"),
    ("client.learning_rate=fast", "client.learning_rate must be a number, got 'fast'"),
    ("client.momentum=1", "client.momentum must be less than 1, got 1"),
    ("client.momentum=-0.1", "client.momentum must be at least 0"),
    ("client.batch_size=0", "client.batch_size must be at least 1, got 0"),
    ("client.local_epochs=0", "client.local_epochs must be at least 1, got 0"),
    ("client.device=tpu", "client.device must be one of auto, cpu, cuda, got 'tpu'"),
    ("model.hidden=[0]", "model.hidden must be at least 1, got 0"),
    ("model.hidden=5", "model.hidden must be a list of widths, got 5"),
    ("attack.fraction=0", "attack.fraction must be greater than 0, got 0"),
    ("attack.fraction=1.5", "attack.fraction must be at most 1, got 1.5"),
    ("attack.target=10", "attack.target must be a class from 0 to 9, got 10"),
    (
        "attack.clients=1",
        "attack.clients needs attack to be one of label_flip, backdoor, "
        r"model_replacement, sybils, canaries, got \[1\] with attack=none",
    ),
    ("attack.boost=0", "attack.boost must be greater than 0, got 0"),
    ("attack.canaries=0", "attack.canaries must be at least 1, got 0"),
    (
        "attack.shared=canaries",
        "attack.shared must be one of label_flip, backdoor, got 'canaries'",
    ),
    ("attack=sybils forget=1", r"needs at least two attack.clients, got \[1\]"),
    ("attack=poison", "attack must be one of .*, got 'poison'"),
    ("attack=backdoor forget=null", "attack=backdoor needs attack.clients"),
    ("attack=backdoor attack.clients=7", "attack.clients must name client ids from 0"),
    ("retrain=remaining forget=null", "retrain=remaining needs forget"),
    ("strategy=magic", "strategy must be one of .*, got 'magic'"),
    ("strategy.form=foo", "form must be one of update, parameters, got 'foo'"),
    ("strategy.scale=-1", "strategy.scale must be at least 0, got -1"),
    ("strategy.scale=nan", "strategy.scale must be finite"),
    ("strategy.renormalise=maybe", "strategy.renormalise must be true or false"),
    ("strategy.renormalise=true strategy.scale=0.5", r"needs strategy\.scale=1"),
    ("+strategy.colour=red", r"unknown key strategy\.colour; known are .*\.form"),
    ("strategy.name=nothing", "strategy must name a method in strategies/"),
    ("strategy.name=../x", "strategy.name must name a method"),
    ("strategy.server_momentum=1", "strategy.server_momentum must be less than 1"),
    ("strategy.server_learning_rate=0", "must be greater than 0, got 0"),
    ("strategy.max_update_norm_ratio=1", "must be greater than 1, got 1"),
    ("strategy.round_timeout_s=0", "strategy.round_timeout_s must be greater than 0"),
    ("engine=warp", "engine must be one of .*, got 'warp'"),
    ("data.split_writers=7", "data.split_writers must be true or false, got 7"),
    ("data.partition=random", "must be one of writer, iid, dirichlet, shards, got"),
    ("data.alpha=0", "data.alpha must be at least 0.001, got 0"),
    ("data.alpha=1e9", r"data.alpha must be at most 1e\+06, got 1e\+09"),
    ("data.shards_per_client=0", "data.shards_per_client must be at least 1, got 0"),
    (
        "data.partition=iid data.split_writers=true",
        "data.split_writers=true needs data.partition=writer, got data.partition=iid",
    ),
    ("data.root=''", "data.root must be a folder or null, got ''"),
    ("data=7", "group override must be a string or a list. Got int"),
    ("experiment=poem", "experiment must be one of .*, got 'poem'"),
    ("forget", "forget cannot be read"),
    ("forget=[1", r"forget=\[1 cannot be read"),
]


@pytest.mark.parametrize(
    ("overrides", "message"), MISTAKES, ids=[m[0] for m in MISTAKES]
)
def test_a_mistake_is_one_line_that_names_it(overrides: str, message: str):
    with pytest.raises(FedNegError, match=message) as caught:
        load_config(["data=digits", *overrides.split()])
    assert "\n" not in str(caught.value)


def test_more_clients_than_writers_is_refused_with_the_remedy():
    """The digits' training set has 11 writers."""
    writers = load_dataset("digits").writers
    with pytest.raises(FedNegError, match=r"11, got 12; data\.split_writers=true"):
        partition_by_writer(writers, clients=12, seed=0)
    assert len(partition_by_writer(writers, clients=11, seed=0)) == 11


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("forget=null", ()),
        ("forget=4", (4,)),
        ("forget=0", (0,)),
        ("forget=[1,4]", (1, 4)),
        ("forget=[4,1]", (1, 4)),
        ("forget=[]", ()),
    ],
)
def test_forget_takes_an_id_a_list_or_null(override: str, expected: tuple[int, ...]):
    config, _ = load_config(["data=digits", override])
    assert config.forget == expected
    assert set(config.remaining) == set(range(5)) - set(expected)


def test_defaults_are_those_of_the_design():
    config, notices = load_config(["data=digits"])
    assert (config.seed, config.clients, config.rounds, config.forget) == (
        0,
        5,
        10,
        (4,),
    )
    assert (config.retrain, config.retrain_rounds, config.reference) == (
        "none",
        2,
        True,
    )
    assert (config.attack.name, config.attack.fraction) == ("none", 0.5)
    assert config.strategy.name == "negative_gradient"
    assert notices == ()


def test_seed_zero_is_a_seed():
    assert load_config(["data=digits", "seed=0"])[0].seed == 0


def test_attackers_are_the_clients_to_forget_unless_named():
    config, _ = load_config(["data=digits", "attack=backdoor", "forget=[0,2]"])
    assert config.attack.clients == (0, 2)
    config, _ = load_config(
        ["data=digits", "attack=label_flip", "attack.clients=[3,1]"]
    )
    assert config.attack.clients == (1, 3)
    config, _ = load_config(["data=digits"])
    assert config.attack.clients == ()


def test_digits_bring_their_own_defaults_and_the_command_line_wins():
    digits = load_config(["data=digits"])[0]
    mnist = load_config(["data=mnist"])[0]
    assert digits.client.local_epochs != mnist.client.local_epochs
    assert digits.model.hidden != mnist.model.hidden
    for overrides in (
        ["data=digits", "client.local_epochs=7", "model.hidden=[3]"],
        ["client.local_epochs=7", "model.hidden=[3]", "data=digits"],
    ):
        config = load_config(overrides)[0]
        assert (config.client.local_epochs, config.model.hidden) == (7, (3,))
        assert config.client.learning_rate == digits.client.learning_rate


def test_auto_without_mnist_is_digits_with_a_notice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """And it is the digits' own configuration, but for what the user said."""
    monkeypatch.setenv("FEDNEG_DATA", str(tmp_path))
    config, notices = load_config(["data.download=false", "client.local_epochs=3"])
    expected = load_config(["data=digits"])[0]
    assert (config.data.name, config.data.requested) == ("digits", "auto")
    assert config.model == expected.model
    assert config.client.local_epochs == 3
    assert config.client.learning_rate == expected.client.learning_rate
    (notice,) = notices
    assert "MNIST could not be had" in notice
    assert "data.download=false" in notice


def test_auto_with_mnist_is_mnist(mnist_root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FEDNEG_DATA", str(mnist_root))
    config, notices = load_config(["data.download=false"])
    assert (config.data.name, config.data.requested, notices) == ("mnist", "auto", ())


def test_configuration_survives_being_written_down():
    overrides = ["data=digits", "forget=[1,4]", "attack=backdoor", "strategy.scale=0.5"]
    config, _ = load_config(overrides)
    plain = json.loads(json.dumps(config.to_mapping()))
    assert Config.from_mapping(plain) == config
    assert config.strategy.options["scale"] == 0.5


@pytest.mark.parametrize(
    ("overrides", "boost"),
    [
        ("attack=model_replacement", 5.0),
        ("attack=model_replacement clients=8 attack.clients=[1,2]", 4.0),
        ("attack=model_replacement strategy.server_learning_rate=0.5", 10.0),
        ("attack=model_replacement attack.boost=3", 3),
        ("attack=backdoor", None),
    ],
)
def test_boost_is_what_replaces_the_model_unless_given(
    overrides: str, boost: float | None
):
    config, _ = load_config(["data=digits", *overrides.split()])
    assert config.attack.boost == boost
    assert (
        Assignment.from_json(Assignment.of(config, root=None).to_json()).attack.boost
        == boost
    )


def test_task_survives_the_message():
    config, _ = load_config(["data=digits", "attack=backdoor"])
    assignment = Assignment.of(config, root="/somewhere")
    assert Assignment.from_json(assignment.to_json()) == assignment
    assert assignment.data.root == "/somewhere"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: "not json", "the assignment in the message is not JSON"),
        (
            lambda v: json.dumps({**v, "client": None}),
            "assignment.client must be a group",
        ),
        (lambda v: json.dumps({**v, "evil": 1}), "unknown key"),
        (lambda v: json.dumps({k: v[k] for k in v if k != "seed"}), "seed"),
        (lambda v: "[]", "the assignment in the message is no mapping"),
    ],
)
def test_a_garbled_task_is_refused(change: Any, message: str):
    values = json.loads(
        Assignment.of(load_config(["data=digits"])[0], root=None).to_json()
    )
    with pytest.raises(FedNegError, match=message):
        Assignment.from_json(change(values))


def test_run_config_becomes_overrides():
    found = overrides_of_run_config(
        {
            "forget": 3,
            "retrain": "",
            "rounds": 2,
            "reference": False,
            "out": "/abs/dir",
            "overrides": "data=digits 'attack.clients=[1, 2]' seed=1",
        }
    )
    assert found == [
        *("forget=3", "rounds=2", "reference=false"),
        *("data=digits", "attack.clients=[1, 2]", "seed=1"),
    ]


def test_empty_run_config_keeps_the_configuration():
    assert (
        overrides_of_run_config(dict.fromkeys(("forget", "out", "overrides"), "")) == []
    )
    assert overrides_of_run_config({"seed": 0}) == ["seed=0"]


def test_unbalanced_quotes_in_a_run_config_are_named():
    with pytest.raises(
        FedNegError, match="overrides must be Hydra overrides separated"
    ):
        overrides_of_run_config({"overrides": "forget='[1"})


def test_a_sweep_is_checked_job_by_job():
    check(["forget=1"])
    check_sweep(["forget=0,1", "seed=range(0,2)", "data=digits"])
    with pytest.raises(FedNegError, match="got 9"):
        check_sweep(["forget=0,9"])
    with pytest.raises(FedNegError, match="rounds must be at least 1, got 0"):
        check_sweep(["rounds=1,0"])
    with pytest.raises(FedNegError):
        check_sweep(["forget=0,[1"])


def test_a_federation_goes_on_without_settings_of_earlier_releases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Which its folder holds still; the others stand, and a new mistake is one."""
    begun = ["verdict.power=3", "++verdict.lira_margin=0.1", "verdict.retrainings=2"]
    facts = Facts("id", "then", {"clients": 3}, [*begun, "rounds=3"], False, False)
    monkeypatch.setattr(State, "facts", lambda _: facts)
    words = ["data=digits", f"state={tmp_path / 'state'}"]
    config, _ = load_config(words)
    assert (config.rounds, config.verdict.retrainings) == (3, 2)
    with pytest.raises(FedNegError, match="power"):
        load_config([*words, "verdict.power=3"])
