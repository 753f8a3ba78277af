"""What is said of a word, a key or a value that there is not: what may be meant."""

import pytest

from fedneg.config import load_config
from fedneg.core.errors import FedNegError
from fedneg.core.settings import methods
from fedneg.core.texts import did_you_mean
from fedneg.overrides import known_keys

METHODS = ", ".join(methods())  # a new one changes nothing here

KEYS = ("rounds", "strategy.rounds", "strategy.scale", "data.alpha", "client.device")
KEYS += ("client.learning_rate", "strategy.learning_rate")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("round", "rounds"),
        ("stratgy.scale", "strategy.scale"),
        ("strategy.scal", "strategy.scale"),
        ("scale", "strategy.scale"),
        ("client.lr", "client.learning_rate"),
        ("strategy.lr", "strategy.learning_rate"),
        ("rounds", "strategy.rounds"),  # it is none itself, whoever asks
        ("client.depth", None),  # like client.device, only by what all clients' have
        ("xyz", None),
        ("", None),
    ],
)
def test_the_likest_word_is_named(word: str, meant: str | None):
    found = did_you_mean(word, KEYS)
    assert found == ("" if meant is None else f"; did you mean {meant}?")


MISTAKES = [
    ("stratgy.scale=1", "unknown key stratgy.scale; did you mean strategy.scale?"),
    ("scale=1", "unknown key scale; did you mean strategy.scale?"),
    ("stratgy=fine_tune", "unknown key stratgy; did you mean strategy?"),
    ("strategy@x=fine_tune", "unknown key strategy@x; did you mean strategy?"),
    ("~strategy.scal", "unknown key strategy.scal; did you mean strategy.scale?"),
    ("hydra.rn.dir=x", "unknown key hydra.rn.dir; did you mean hydra.run.dir?"),
    ("xyz=1", "unknown key xyz; fedneg --cfg job shows all keys"),
    ("strategy.clip=1", "strategy.clip is no key here; it belongs to "
     "strategy=gradient_ascent"),
    ("strategy=negativ_gradient", f"strategy must be one of {METHODS}, or module:Class "
     "of your own, got 'negativ_gradient'; did you mean negative_gradient?"),
    ("data=mnits", "data must be one of auto, digits, mnist, got 'mnits'; did you mean "
     "mnist?"),
    ("retrain=remainig", "retrain must be one of none, remaining, forgotten, scratch, "
     "got 'remainig'; did you mean remaining?"),
    ("client.device=cud", "client.device must be one of auto, cpu, cuda, got 'cud'; "
     "did you mean cuda?"),
    ("+client.lr=1", "unknown key client.lr; known are client.local_epochs, "
     "client.learning_rate, client.momentum, client.batch_size, client.device, "
     "client.evaluate_after_fit; did you mean client.learning_rate?"),
    ("+seed=1", "seed is there already: seed=value, without +, sets it"),
    ("+attack=backdoor", "attack is there already: attack=value, without +, sets it"),
    ("rounds", "rounds cannot be read: it must be key=value"),
    ("forget=[1", "forget=[1 cannot be read; no viable alternative at input '[1'"),
]  # fmt: skip


@pytest.mark.parametrize(("override", "line"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_what_is_said_of_an_override_that_means_nothing(override: str, line: str):
    """Nobody is told to add a key, as Hydra would tell."""
    with pytest.raises(FedNegError) as caught:
        load_config(["data=digits", override])
    assert str(caught.value) == line


def test_every_key_of_a_configuration_is_known():
    config = load_config(["data=digits"])[0]
    known = known_keys()
    for group, value in config.to_mapping().items():
        keys = [f"{group}.{k}" for k in value] if isinstance(value, dict) else [group]
        for key in keys:
            assert key in known
